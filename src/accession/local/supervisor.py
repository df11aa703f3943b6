"""Supervisor of one machine: starts servers, worker, scheduler and web, restarts and stops them."""

import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType

import structlog
from pydantic import SecretStr

from accession.core.errors import UserError
from accession.core.settings import Settings
from accession.local.home import lock_home, prepare_home
from accession.local.logs import LogRotator
from accession.local.ports import responds
from accession.local.processes import reap_orphans, wait_until
from accession.local.servers import EmbeddedServers, ServerUrls, publish_servers
from accession.local.supervised_process import Backoff, ChildSpec, SupervisedProcess
from accession.local.worker_watch import WorkerWatch

log = structlog.get_logger(__name__)

_POLL_SECONDS = 0.1
# After this time, a child that is not ready yet no longer delays the start.
_READY_SECONDS = 30.0
_MEGABYTE = 1_000_000


def child_specs(settings: Settings) -> tuple[ChildSpec, ...]:
    """Return the programs that `accession up` runs.

    The worker finishes its current pages when it is stopped; the others have nothing to finish.
    """
    accession = (sys.executable, "-m", "accession")
    worker = ChildSpec(
        "worker",
        (*accession, "worker"),
        settings.shutdown_grace_seconds,
        is_stuck=WorkerWatch().is_stuck,
    )
    beat = ChildSpec("beat", (*accession, "beat"), 5, force_stop_signal=signal.SIGTERM)
    web = ChildSpec(
        "web",
        (*accession, "web"),
        5,
        force_stop_signal=signal.SIGTERM,
        is_ready=lambda: responds(settings.web_host, settings.web_port),
        serves_listener=True,
    )
    return (worker, beat, web) if settings.web_port else (worker, beat)


@contextmanager
def exclusive_home(home: Path, children: Sequence[ChildSpec]) -> Iterator[None]:
    """Hold the lock of a home, created if missing, in which no program of an earlier run is left.

    Raises:
        UserError: the home cannot be used or is in use, or a program cannot be ended.
    """
    prepare_home(home)
    with lock_home(home):
        for child in children:
            # Without waiting: the runs that they were working on are resumed.
            reap_orphans(home, child.name, 0)
        yield


class Supervisor:
    """Runs the servers and children of a home from start to stop; use it in the main thread."""

    def __init__(
        self,
        settings: Settings,
        children: Sequence[ChildSpec],
        *,
        listen: Callable[[], socket.socket] | None = None,
        prepare: Callable[[ServerUrls], None] = lambda urls: None,
        on_ready: Callable[[ServerUrls], None] = lambda urls: None,
        durable: bool = True,
    ) -> None:
        """Configure the supervisor.

        Args:
            settings: Settings of the home; without a database or Redis URL, an embedded server is used.
            children: Programs to run.
            listen: Opens the socket of the children that serve it. It stays open until the stop begins, so
                that nobody else can take its port, and with it passwords, while a child restarts.
            prepare: Called when the servers accept connections, before any child starts. An exception stops
                everything and is raised by `run`.
            on_ready: Called when everything is running. An exception is treated in the same way.
            durable: As for `EmbeddedServers`.
        """
        self._home = settings.home
        self._specs = tuple(children)
        self._listen = listen
        self._listener: socket.socket | None = None
        self._prepare = prepare
        self._on_ready = on_ready
        self._servers = EmbeddedServers(
            settings.home,
            database_url=_plain(settings.database_url),
            redis_url=_plain(settings.redis_url),
            durable=durable,
        )
        self._logs = LogRotator(
            settings.home, max_bytes=settings.log_max_megabytes * _MEGABYTE, max_files=settings.log_files
        )
        self._stop_requests = 0

    def run(self) -> None:
        """Run everything until SIGTERM, SIGINT or SIGHUP, then stop children before servers.

        A second signal forces the stop without finishing current work.

        Raises:
            UserError: the home cannot be used or is in use, or a server does not start.
        """
        with (
            exclusive_home(self._home, self._specs),
            self._counted_signals(),
            self._servers as urls,
            ExitStack() as listening,
        ):
            self._listener = listening.enter_context(self._listen()) if self._listen else None
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
                children.append(SupervisedProcess(self._home, spec, environment, self._listener))
            wait_until(
                lambda: bool(self._stop_requests) or all(spec.is_ready() for spec in self._specs),
                _READY_SECONDS,
            )
            publish_servers(self._home, urls, ready=True)
            self._on_ready(urls)
            self._keep_running(children)
        finally:
            self._stop(children)

    def _keep_running(self, children: Sequence[SupervisedProcess]) -> None:
        """Restart what ends, and rotate logs, until a stop is requested.

        Children reconnect to restarted servers.
        """
        server_backoff = Backoff()
        while not self._stop_requests:
            time.sleep(_POLL_SECONDS)
            for child in children:
                child.restart_if_ended()
            self._logs.poll()
            if server_backoff.is_over():
                self._ensure_servers(server_backoff)

    def _ensure_servers(self, backoff: Backoff) -> None:
        try:
            for name in self._servers.ensure_running():
                log.warning("server ended and was restarted", process=name)
        except UserError as error:
            log.error("server cannot be restarted", error=str(error), wait=backoff.begin())

    def _stop(self, children: Sequence[SupervisedProcess]) -> None:
        """Request all children to stop, then wait for each."""
        if self._listener:
            # Refuse new connections, which nobody would serve.
            self._listener.close()
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


def _plain(url: SecretStr | None) -> str | None:
    return url.get_secret_value() if url else None
