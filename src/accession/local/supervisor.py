"""Runs servers, worker, beat and web as one: starts them, keeps them running, stops them in good order."""

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Literal

import structlog
from pydantic import SecretStr

from accession.core.errors import UserError
from accession.core.settings import Settings
from accession.local.embedded import answers
from accession.local.home import home_owner, owned_home, prepare_home
from accession.local.processes import (
    HOME_VARIABLE,
    OwnedProcess,
    end_leftovers,
    last_line,
    log_file,
    processes_on_record,
    text_from,
    wait_until,
)
from accession.local.servers import Announcement, EmbeddedServers, ServerUrls, announce, announcement

log = structlog.get_logger(__name__)

_LOOK_SECONDS = 0.1
_FIRST_WAIT_SECONDS = 1.0
_LONGEST_WAIT_SECONDS = 30.0
_HURRY_SECONDS = 5.0
# One that cannot be used by then is seen to by starting it again when it ends, and told by its log.
_READY_SECONDS = 30.0
_DETACH_SECONDS = 300.0


@dataclass(frozen=True)
class ChildSpec:
    """A program that runs beside the servers."""

    name: str
    command: tuple[str, ...]
    grace_seconds: float
    """How long it may take to end after `stop_signal`."""
    stop_signal: signal.Signals = signal.SIGTERM
    hurry_signal: signal.Signals = signal.SIGQUIT
    """Ends it without finishing the work at hand. It is also sent when the supervisor is killed:
    the embedded servers end then, too, and nobody is left to bound a longer stop."""
    is_ready: Callable[[], bool] = lambda: True
    """Whether it can be used, once it runs."""


def programs(settings: Settings) -> tuple[ChildSpec, ...]:
    """What `accession up` runs beside the servers. The worker finishes the pages at hand; the others have
    nothing to finish."""
    accession = (sys.executable, "-m", "accession")
    worker = ChildSpec("worker", (*accession, "worker"), settings.shutdown_grace_seconds)
    beat = ChildSpec("beat", (*accession, "beat"), 5, hurry_signal=signal.SIGTERM)
    web = ChildSpec(
        "web",
        (*accession, "web"),
        5,
        hurry_signal=signal.SIGTERM,
        is_ready=lambda: answers(settings.web_host, settings.web_port),
    )
    return (worker, beat, web) if settings.web_port else (worker, beat)


class Supervisor:
    """One home's servers and children, from start to stop. Run it in the main thread."""

    def __init__(
        self,
        settings: Settings,
        children: Sequence[ChildSpec],
        *,
        prepare: Callable[[ServerUrls], None] = lambda urls: None,
        on_ready: Callable[[ServerUrls], None] = lambda urls: None,
        durable: bool = True,
    ) -> None:
        """`prepare` is called when the servers answer and before any child starts, `on_ready` when all run.

        An exception of either stops everything and rises. A URL in the settings is used as it is; a
        missing one gets an embedded server, `durable` as `EmbeddedServers` has it.
        """
        self._home = settings.home
        self._specs = tuple(children)
        self._prepare = prepare
        self._on_ready = on_ready
        self._servers = EmbeddedServers(
            settings.home,
            database_url=_plain(settings.database_url),
            redis_url=_plain(settings.redis_url),
            durable=durable,
        )
        self._stop_requests = 0

    def run(self) -> None:
        """Run everything until SIGTERM, SIGINT or SIGHUP; a second one hurries the stop.

        Afterwards every process that it started has ended, children before servers. Raises `UserError`
        when the home cannot be used or is in use, or a server does not start.
        """
        prepare_home(self._home)
        with owned_home(self._home), self._counted_signals():
            for spec in self._specs:
                # At once: what they had at hand belongs to the runs that `prepare` may recover.
                end_leftovers(self._home, spec.name, 0)
            with self._servers as urls:
                self._prepare(urls)
                if not self._stop_requests:
                    self._run_children(urls)

    def _run_children(self, urls: ServerUrls) -> None:
        environment = {
            **os.environ,
            "ACCESSION_DATABASE_URL": urls.database_url,
            "ACCESSION_REDIS_URL": urls.redis_url,
        }
        children: list[_Child] = []
        try:
            for spec in self._specs:
                children.append(_Child(self._home, spec, environment))
            wait_until(
                lambda: bool(self._stop_requests) or all(spec.is_ready() for spec in self._specs),
                _READY_SECONDS,
            )
            announce(self._home, urls, ready=True)
            self._on_ready(urls)
            self._keep_running(children)
        finally:
            self._stop(children)

    def _keep_running(self, children: "Sequence[_Child]") -> None:
        """Until a stop is asked for. Children stay when a server is started again: they reconnect."""
        servers = _Patience()
        while not self._stop_requests:
            time.sleep(_LOOK_SECONDS)
            for child in children:
                child.start_again_if_ended()
            if servers.is_over():
                self._ensure_servers(servers)

    def _ensure_servers(self, patience: "_Patience") -> None:
        try:
            for name in self._servers.ensure_running():
                log.warning("a server had ended and was started again", part=name)
        except UserError as error:
            log.error("a server cannot be started again", error=str(error), wait=patience.begin())

    def _stop(self, children: "Sequence[_Child]") -> None:
        """Ask all at once, then see each to its end."""
        for child in children:
            child.ask_to_stop()
        stopping = list(children)
        while stopping:
            time.sleep(_LOOK_SECONDS)
            hurry = self._stop_requests > 1
            stopping = [child for child in stopping if child.still_stopping(hurry=hurry)]

    @contextmanager
    def _counted_signals(self) -> Iterator[None]:
        def count(number: int, frame: FrameType | None) -> None:
            self._stop_requests += 1

        numbers = [signal.SIGTERM, signal.SIGINT]
        if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # ignored by nohup, on purpose
            numbers.append(signal.SIGHUP)
        before = {number: signal.signal(number, count) for number in numbers}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


class _Patience:
    """Waits of 1, 2, 4 ... 30 seconds between attempts that keep failing."""

    def __init__(self) -> None:
        self._wait = _FIRST_WAIT_SECONDS / 2
        self._until = 0.0

    def begin(self) -> float:
        """Begin a wait; its seconds. It is the first again when the last one is long over."""
        now = time.monotonic()
        calm = now > self._until + _LONGEST_WAIT_SECONDS
        self._wait = _FIRST_WAIT_SECONDS if calm else min(2 * self._wait, _LONGEST_WAIT_SECONDS)
        self._until = now + self._wait
        return self._wait

    def is_over(self) -> bool:
        return time.monotonic() >= self._until


class _Child:
    """A child under supervision, started when made."""

    def __init__(self, home: Path, spec: ChildSpec, environment: dict[str, str]) -> None:
        self._home = home
        self._spec = spec
        self._environment = environment
        self._patience = _Patience()
        self._to_be_started = False
        self._hurried = False
        self._stop_deadline = 0.0
        self._process = self._start()

    def start_again_if_ended(self) -> None:
        """Once its wait is over; the first look that finds it ended begins the wait."""
        if self._process.alive():
            return
        if not self._to_be_started:
            self._to_be_started = True
            log.warning(
                "a child ended and will be started again",
                part=self._spec.name,
                exit_code=self._process.exit_code,
                wait=self._patience.begin(),
                log=str(self._process.log),
            )
        elif self._patience.is_over():
            self._to_be_started = False
            self._process = self._start()

    def ask_to_stop(self) -> None:
        self._stop_deadline = time.monotonic() + self._spec.grace_seconds
        self._process.send(self._spec.stop_signal)

    def still_stopping(self, *, hurry: bool) -> bool:
        """Whether it still runs; when that takes too long it is sent on with harder means."""
        late = time.monotonic() > self._stop_deadline
        if self._process.alive() and not self._hurried and (hurry or late):
            self._hurried = True
            self._stop_deadline = time.monotonic() + _HURRY_SECONDS
            self._process.send(self._spec.hurry_signal)
        elif not self._process.alive() or (self._hurried and late):
            self._process.kill()
            return False
        return True

    def _start(self) -> OwnedProcess:
        return OwnedProcess(
            self._home,
            self._spec.name,
            self._spec.command,
            death_signal=self._spec.hurry_signal,
            environment=self._environment,
        )


def detach(command: Sequence[str], home: Path) -> ServerUrls:
    """Run `command`, an `accession up` for this home, in the background; returns once all its parts run.

    Its output goes to `logs/accession.log`. Raises `UserError` with its last words when it ends before.
    """
    prepare_home(home)
    output = log_file(home, "accession")
    start = output.stat().st_size
    pid = os.posix_spawn(
        command[0],
        list(command),
        {**os.environ, HOME_VARIABLE: str(home)},
        file_actions=[
            (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
            (os.POSIX_SPAWN_OPEN, 1, str(output), os.O_WRONLY | os.O_APPEND, 0),
            (os.POSIX_SPAWN_DUP2, 1, 2),
        ],
        setsid=True,
    )

    def said() -> Announcement | None:
        found = announcement(home)
        return found if found and found.ready and found.owner.pid == pid else None

    def ended() -> bool:
        return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None

    try:
        wait_until(lambda: ended() or said() is not None, _DETACH_SECONDS)
    except KeyboardInterrupt:
        # Nobody would know of it, and so nobody would stop it.
        os.kill(pid, signal.SIGTERM)
        os.waitpid(pid, 0)
        raise
    if ready := said():
        return ready.urls
    if not ended():
        os.kill(pid, signal.SIGTERM)
    os.waitpid(pid, 0)
    raise UserError(f"Accession did not start: {last_line(text_from(output, start))}")


def stop_running(home: Path, timeout: float) -> bool:
    """Stop what runs in this home and wait until it has ended; False when nothing was running.

    Raises `UserError` when it has not ended within `timeout` seconds; it goes on stopping then.
    """
    owner = home_owner(home)
    if owner is None:
        return False
    with suppress(ProcessLookupError):
        os.kill(owner.pid, signal.SIGTERM)
    if not wait_until(lambda: not owner.alive, timeout):
        raise UserError(
            f"Accession in {home} (process {owner.pid}) is still finishing the pages at hand after "
            f"{timeout:g} seconds: wait for its end, or call `accession down` again to hurry it."
        )
    return True


@dataclass(frozen=True)
class Part:
    """A process of an installation, as `accession doctor` shows it."""

    name: str
    pid: int | None
    state: Literal["running", "ended"]


def parts(home: Path) -> tuple[Part, ...]:
    """The supervisor, named accession, and then each server and child that it should be running."""
    owner = home_owner(home)
    supervisor = Part("accession", owner.pid if owner else None, "running" if owner else "ended")
    others = [
        Part(name, process.pid, "running") if process.alive else Part(name, None, "ended")
        for name, process in processes_on_record(home).items()
    ]
    return supervisor, *others


def _plain(url: SecretStr | None) -> str | None:
    return url.get_secret_value() if url else None
