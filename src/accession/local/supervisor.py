"""Supervisor of one machine: starts servers, worker, scheduler and web, restarts and stops them."""

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
from accession.local.embedded import is_listening
from accession.local.home import home_owner, lock_home, prepare_home
from accession.local.processes import (
    HOME_VARIABLE,
    OwnedProcess,
    last_line,
    log_file,
    read_log_from,
    reap_orphans,
    recorded_processes,
    wait_until,
)
from accession.local.servers import EmbeddedServers, ServerInfo, ServerUrls, publish_servers, read_server_info

log = structlog.get_logger(__name__)

_POLL_SECONDS = 0.1
_MIN_BACKOFF_SECONDS = 1.0
_MAX_BACKOFF_SECONDS = 30.0
_FORCE_STOP_SECONDS = 5.0
# After this time, a child that is not ready yet no longer delays the start.
_READY_SECONDS = 30.0
_BACKGROUND_START_SECONDS = 300.0


@dataclass(frozen=True)
class ChildSpec:
    """Program that the supervisor runs.

    Attributes:
        grace_seconds: Time to end after `stop_signal`.
        force_stop_signal: Signal to end without finishing current work. It is also the parent-death signal,
            because the embedded servers end together with a killed supervisor.
        is_ready: Returns whether the running program can be used.
    """

    name: str
    command: tuple[str, ...]
    grace_seconds: float
    stop_signal: signal.Signals = signal.SIGTERM
    force_stop_signal: signal.Signals = signal.SIGQUIT
    is_ready: Callable[[], bool] = lambda: True


def child_specs(settings: Settings) -> tuple[ChildSpec, ...]:
    """Return the programs that `accession up` runs.

    The worker finishes its current pages when it is stopped; the others have nothing to finish.
    """
    accession = (sys.executable, "-m", "accession")
    worker = ChildSpec("worker", (*accession, "worker"), settings.shutdown_grace_seconds)
    beat = ChildSpec("beat", (*accession, "beat"), 5, force_stop_signal=signal.SIGTERM)
    web = ChildSpec(
        "web",
        (*accession, "web"),
        5,
        force_stop_signal=signal.SIGTERM,
        is_ready=lambda: is_listening(settings.web_host, settings.web_port),
    )
    return (worker, beat, web) if settings.web_port else (worker, beat)


class Supervisor:
    """Runs the servers and children of a home from start to stop; use it in the main thread."""

    def __init__(
        self,
        settings: Settings,
        children: Sequence[ChildSpec],
        *,
        prepare: Callable[[ServerUrls], None] = lambda urls: None,
        on_ready: Callable[[ServerUrls], None] = lambda urls: None,
        durable: bool = True,
    ) -> None:
        """Configure the supervisor.

        Args:
            settings: Settings of the home; without a database or Redis URL, an embedded server is used.
            children: Programs to run.
            prepare: Called when the servers accept connections, before any child starts. An exception stops
                everything and is raised by `run`.
            on_ready: Called when everything is running. An exception is treated in the same way.
            durable: As for `EmbeddedServers`.
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
        """Run everything until SIGTERM, SIGINT or SIGHUP, then stop children before servers.

        A second signal forces the stop without finishing current work.

        Raises:
            UserError: the home cannot be used or is in use, or a server does not start.
        """
        prepare_home(self._home)
        with lock_home(self._home), self._counted_signals():
            for spec in self._specs:
                # Without waiting: `prepare` resumes the runs that they were working on.
                reap_orphans(self._home, spec.name, 0)
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
        children: list[SupervisedProcess] = []
        try:
            for spec in self._specs:
                children.append(SupervisedProcess(self._home, spec, environment))
            wait_until(
                lambda: bool(self._stop_requests) or all(spec.is_ready() for spec in self._specs),
                _READY_SECONDS,
            )
            publish_servers(self._home, urls, ready=True)
            self._on_ready(urls)
            self._keep_running(children)
        finally:
            self._stop(children)

    def _keep_running(self, children: "Sequence[SupervisedProcess]") -> None:
        """Restart what ends until a stop is requested; children reconnect to restarted servers."""
        server_backoff = Backoff()
        while not self._stop_requests:
            time.sleep(_POLL_SECONDS)
            for child in children:
                child.restart_if_ended()
            if server_backoff.is_over():
                self._ensure_servers(server_backoff)

    def _ensure_servers(self, backoff: "Backoff") -> None:
        try:
            for name in self._servers.ensure_running():
                log.warning("server ended and was restarted", process=name)
        except UserError as error:
            log.error("server cannot be restarted", error=str(error), wait=backoff.begin())

    def _stop(self, children: "Sequence[SupervisedProcess]") -> None:
        """Request all children to stop, then wait for each."""
        for child in children:
            child.request_stop()
        stopping = list(children)
        while stopping:
            time.sleep(_POLL_SECONDS)
            force = self._stop_requests > 1
            stopping = [child for child in stopping if child.poll_stop(force=force)]

    @contextmanager
    def _counted_signals(self) -> Iterator[None]:
        def count(number: int, frame: FrameType | None) -> None:
            self._stop_requests += 1

        numbers = [signal.SIGTERM, signal.SIGINT]
        if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # nohup ignores SIGHUP
            numbers.append(signal.SIGHUP)
        before = {number: signal.signal(number, count) for number in numbers}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


class Backoff:
    """Delays of 1, 2, 4 ... 30 seconds between attempts that keep failing."""

    def __init__(self) -> None:
        self._delay = _MIN_BACKOFF_SECONDS / 2
        self._until = 0.0

    def begin(self) -> float:
        """Start a delay and return its seconds; it is the minimum again if the last one ended long ago."""
        now = time.monotonic()
        is_stable = now > self._until + _MAX_BACKOFF_SECONDS
        self._delay = _MIN_BACKOFF_SECONDS if is_stable else min(2 * self._delay, _MAX_BACKOFF_SECONDS)
        self._until = now + self._delay
        return self._delay

    def is_over(self) -> bool:
        """Return whether the current delay has ended."""
        return time.monotonic() >= self._until


class SupervisedProcess:
    """A supervised child; it is started on creation."""

    def __init__(self, home: Path, spec: ChildSpec, environment: dict[str, str]) -> None:
        self._home = home
        self._spec = spec
        self._environment = environment
        self._backoff = Backoff()
        self._restart_pending = False
        self._is_forced = False
        self._stop_deadline = 0.0
        self._process = self._start()

    def restart_if_ended(self) -> None:
        """Start the child again after a delay if it has ended."""
        if self._process.is_alive():
            return
        if not self._restart_pending:
            self._restart_pending = True
            log.warning(
                "child ended and will be restarted",
                process=self._spec.name,
                exit_code=self._process.exit_code,
                wait=self._backoff.begin(),
                log=str(self._process.log),
            )
        elif self._backoff.is_over():
            self._restart_pending = False
            self._process = self._start()

    def request_stop(self) -> None:
        """Send the stop signal."""
        self._stop_deadline = time.monotonic() + self._spec.grace_seconds
        self._process.send(self._spec.stop_signal)

    def poll_stop(self, *, force: bool) -> bool:
        """Force the stop if requested or if the grace period is over; return whether the child still runs."""
        is_late = time.monotonic() > self._stop_deadline
        if self._process.is_alive() and not self._is_forced and (force or is_late):
            self._is_forced = True
            self._stop_deadline = time.monotonic() + _FORCE_STOP_SECONDS
            self._process.send(self._spec.force_stop_signal)
        elif not self._process.is_alive() or (self._is_forced and is_late):
            self._process.kill()
            return False
        return True

    def _start(self) -> OwnedProcess:
        return OwnedProcess(
            self._home,
            self._spec.name,
            self._spec.command,
            death_signal=self._spec.force_stop_signal,
            environment=self._environment,
        )


def start_in_background(command: Sequence[str], home: Path) -> ServerUrls:
    """Run `command`, an `accession up` for this home, in the background until all its processes run.

    Its output goes to `logs/accession.log`.

    Returns:
        The URLs of its servers.

    Raises:
        UserError: it ended early; the message contains the last line of its log.
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

    def ready_servers() -> ServerInfo | None:
        info = read_server_info(home)
        return info if info and info.is_ready and info.owner.pid == pid else None

    def has_ended() -> bool:
        return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None

    try:
        wait_until(lambda: has_ended() or ready_servers() is not None, _BACKGROUND_START_SECONDS)
    except KeyboardInterrupt:
        # Otherwise it would keep running without the user knowing.
        os.kill(pid, signal.SIGTERM)
        os.waitpid(pid, 0)
        raise
    if info := ready_servers():
        return info.urls
    if not has_ended():
        os.kill(pid, signal.SIGTERM)
    os.waitpid(pid, 0)
    raise UserError(f"Accession did not start: {last_line(read_log_from(output, start))}")


def stop_running(home: Path, timeout: float) -> bool:
    """Stop the Accession that runs in this home and wait for its end; return False if none was running.

    Raises:
        UserError: it has not ended within `timeout` seconds; it continues to stop.
    """
    owner = home_owner(home)
    if owner is None:
        return False
    with suppress(ProcessLookupError):
        os.kill(owner.pid, signal.SIGTERM)
    if not wait_until(lambda: not owner.is_alive, timeout):
        raise UserError(
            f"Accession in {home} (process {owner.pid}) is still finishing its current pages "
            f"after {timeout:g} seconds: wait for its end, or run `accession down` again to force the stop."
        )
    return True


@dataclass(frozen=True)
class ProcessStatus:
    """State of a process of an installation, as `accession doctor` shows it."""

    name: str
    pid: int | None
    state: Literal["running", "ended"]


def process_statuses(home: Path) -> tuple[ProcessStatus, ...]:
    """Return the states of the supervisor, named accession, and of its servers and children."""
    processes = {"accession": home_owner(home), **recorded_processes(home)}
    return tuple(
        ProcessStatus(name, process.pid, "running")
        if process is not None and process.is_alive
        else ProcessStatus(name, None, "ended")
        for name, process in processes.items()
    )


def _plain(url: SecretStr | None) -> str | None:
    return url.get_secret_value() if url else None
