"""A child process of the supervisor: started again when it ends, and stopped within a grace period."""

import signal
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import structlog

from accession.local.processes import OwnedProcess

log = structlog.get_logger(__name__)

_MIN_BACKOFF_SECONDS = 1.0
_MAX_BACKOFF_SECONDS = 30.0
_FORCE_STOP_SECONDS = 5.0


@dataclass(frozen=True)
class ChildSpec:
    """Program that the supervisor runs.

    Attributes:
        grace_seconds: Time to end after `stop_signal`.
        force_stop_signal: Signal to end without finishing current work. It is also the parent-death signal,
            because the embedded servers end together with a killed supervisor.
        is_ready: Returns whether the running program can be used.
        is_stuck: Returns whether the running process, given its pid, has to be replaced.
        serves_listener: Whether it gets the supervisor's listening socket, as the option `--fd`.
    """

    name: str
    command: tuple[str, ...]
    grace_seconds: float
    stop_signal: signal.Signals = signal.SIGTERM
    force_stop_signal: signal.Signals = signal.SIGQUIT
    is_ready: Callable[[], bool] = lambda: True
    is_stuck: Callable[[int], bool] = lambda pid: False
    serves_listener: bool = False


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

    def __init__(
        self, home: Path, spec: ChildSpec, environment: dict[str, str], listener: socket.socket | None = None
    ) -> None:
        self._home = home
        self._spec = spec
        self._environment = environment
        self._descriptors = [listener.fileno()] if listener and spec.serves_listener else []
        self._backoff = Backoff()
        self._restart_pending = False
        self._is_forced = False
        self._stop_deadline = 0.0
        self._process = self._start()

    def restart_if_ended(self) -> None:
        """Start the child again after a delay if it has ended; end it if it is stuck."""
        if self._process.is_alive():
            if self._spec.is_stuck(self._process.pid):
                log.error("child is stuck and will be replaced", process=self._spec.name)
                self._process.kill()
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
            [*self._spec.command, *(f"--fd={number}" for number in self._descriptors)],
            death_signal=self._spec.force_stop_signal,
            environment=self._environment,
            descriptors=self._descriptors,
        )
