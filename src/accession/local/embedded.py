"""Base class of the embedded servers: Unix socket, start with retries, restart and stop."""

import os
import signal
import time
from abc import ABC, abstractmethod
from pathlib import Path
from typing import ClassVar

from accession.core.errors import UserError
from accession.local.processes import OwnedProcess, reap_orphans, wait_until
from accession.local.sockets import find_socket_folder, renew_socket_folder
from accession.local.users import User

# A killed PostgreSQL leaves a stale lock file for up to a second.
_RETRY_SECONDS = 5.0
# Crash recovery replays the write-ahead log since the last checkpoint.
_RECOVERY_SECONDS = 120.0
ORPHAN_SECONDS = 20.0
"""Time in which a server whose owner has ended may finish its shutdown."""


class EmbeddedServer(ABC):
    """Server program in the foreground, owned by this process, listening on a private Unix socket only."""

    name: ClassVar[str]
    """Name of its folders, log and process record in the home."""
    title: ClassVar[str]
    stop_steps: ClassVar[tuple[tuple[signal.Signals, float], ...]]

    def __init__(self, home: Path, *, user: User | None = None, durable: bool = True) -> None:
        """Configure the server.

        Args:
            home: Home folder.
            user: User that the server runs as, None for our own.
            durable: False to disable fsync, for tests.
        """
        self.home = home
        self.durable = durable
        self._user = user
        self._sockets = Path()
        self._process: OwnedProcess | None = None

    @property
    @abstractmethod
    def url(self) -> str:
        """Connection URL, valid while the server runs."""

    @abstractmethod
    def _prepare(self) -> None:
        """Create folders, passwords and the initial data."""

    @abstractmethod
    def _spawn(self) -> OwnedProcess:
        """Start the program with its socket in `self._sockets`."""

    @abstractmethod
    def _accepts_commands(self) -> bool:
        """Return whether the server accepts commands."""

    def start(self) -> None:
        """Start the server and wait until it accepts commands.

        Raises:
            UserError: the server did not start; the message contains the last line of its log.
        """
        self.stop()
        reap_orphans(self.home, self.name, ORPHAN_SECONDS)
        self._prepare()
        self._sockets = find_socket_folder(self.home, self.name, self._user)
        self._launch()

    def ensure_running(self) -> bool:
        """Restart the server on the same socket if it has ended; return whether it was restarted.

        Raises:
            UserError: as for `start`.
        """
        if self.is_alive():
            return False
        self._launch()
        return True

    def is_alive(self) -> bool:
        """Return whether the server process is running."""
        return self._process is not None and self._process.is_alive()

    @property
    def pid(self) -> int | None:
        """Process id, None if the server is not running."""
        return self._process.pid if self._process is not None and self._process.is_alive() else None

    def stop(self) -> None:
        """Stop the server cleanly; do nothing if it is not running."""
        if self._process is not None:
            self._process.stop(*self.stop_steps)

    def _launch(self) -> None:
        deadline = time.monotonic() + _RETRY_SECONDS
        while True:
            # Without the socket and the lock file of a killed server.
            renew_socket_folder(self._sockets, self._user)
            process = self._process = self._spawn()
            has_result = wait_until(self._has_ended_or_accepts_commands, _RECOVERY_SECONDS)
            if has_result and process.is_alive():
                return
            reason = process.last_log_line()
            process.kill()
            if not has_result or time.monotonic() > deadline:
                raise UserError(
                    f"The embedded {self.title} did not start ({reason}): see {process.log} for the cause."
                )
            time.sleep(0.2)

    def _has_ended_or_accepts_commands(self) -> bool:
        return not self.is_alive() or self._accepts_commands()


def server_environment() -> dict[str, str]:
    """Return the environment of a server.

    Only PATH is passed on: our environment may contain keys, and another user may be able to read that of the
    server.
    """
    return {"PATH": os.environ.get("PATH", os.defpath)}
