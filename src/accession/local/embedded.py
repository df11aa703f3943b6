"""Base class of the embedded servers: port, start with retries, restart and stop."""

import os
import secrets
import signal
import socket
import time
from abc import ABC, abstractmethod
from itertools import count
from pathlib import Path
from typing import ClassVar

from accession.core.errors import UserError
from accession.local.files import write_private_file
from accession.local.processes import OwnedProcess, reap_orphans, wait_until

LOOPBACK = "127.0.0.1"
# Below the ephemeral port range of Linux.
_PORTS = range(20_000, 32_768)
# A killed PostgreSQL leaves a stale lock file for up to a second.
_RETRY_SECONDS = 5.0
# Crash recovery replays the write-ahead log since the last checkpoint.
_RECOVERY_SECONDS = 120.0
_ORPHAN_SECONDS = 20.0


class EmbeddedServer(ABC):
    """Server program in the foreground, owned by this process, listening on 127.0.0.1."""

    name: ClassVar[str]
    """Name of its folder, log and process record in the home."""
    title: ClassVar[str]
    stop_steps: ClassVar[tuple[tuple[signal.Signals, float], ...]]

    def __init__(self, home: Path, *, durable: bool = True) -> None:
        """Configure the server; `durable=False` disables fsync, for tests."""
        self.home = home
        self.durable = durable
        self.port = 0
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
        """Start the program on `self.port`."""

    @abstractmethod
    def _accepts_commands(self) -> bool:
        """Return whether the server accepts commands."""

    def start(self) -> None:
        """Start the server and wait until it accepts commands, on its previous port if that is free.

        Raises:
            UserError: the server did not start; the message contains the last line of its log.
        """
        self.stop()
        reap_orphans(self.home, self.name, _ORPHAN_SECONDS)
        self._prepare()
        self._launch(same_port=False)

    def ensure_running(self) -> bool:
        """Restart the server on the same port if it has ended; return whether it was restarted.

        Raises:
            UserError: as for `start`.
        """
        if self.is_alive():
            return False
        self._launch(same_port=True)
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

    def _launch(self, *, same_port: bool) -> None:
        deadline = time.monotonic() + _RETRY_SECONDS
        while True:
            if not same_port:
                self.port = self._pick_port()
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
        # In this order: if our server could not get the port, another one answers on it.
        return not self.is_alive() or self._accepts_commands()

    def _pick_port(self) -> int:
        port_file = self.home / "run" / f"{self.name}.port"
        if port_file.exists() and port_is_free(port := int(port_file.read_text())):
            return port
        port = free_port()
        write_private_file(port_file, str(port))
        return port


def server_environment() -> dict[str, str]:
    """Return the environment of a server.

    Only PATH is passed on: our environment may contain keys, and another user may be able to read that of the
    server.
    """
    return {"PATH": os.environ.get("PATH", os.defpath)}


def free_port() -> int:
    """Return a free port outside the ephemeral port range."""
    return next(filter(port_is_free, (secrets.choice(_PORTS) for _ in count())))


def is_listening(host: str, port: int) -> bool:
    """Return whether a server accepts connections at this address."""
    try:
        socket.create_connection((host, port), timeout=1).close()
    except OSError:
        return False
    return True


def port_is_free(port: int) -> bool:
    """Return whether the port is free at this moment."""
    with socket.socket() as probe:
        # As the servers do, so that connections in TIME_WAIT do not count.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
        return True
