"""What the two embedded servers have in common: a port, a password, a start that is tried again."""

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
from accession.local.files import write_private
from accession.local.processes import OwnedProcess, end_leftovers, wait_until

LOOPBACK = "127.0.0.1"
# Below the range from which Linux gives out the ports of outgoing connections.
_PORTS = range(20_000, 32_768)
# A killed PostgreSQL leaves a stale lock for up to a second; other causes of a failed start are final.
_RETRY_SECONDS = 5.0
# Recovery after a crash reads the write-ahead log since the last checkpoint.
_RECOVERY_SECONDS = 120.0
_LEFTOVER_SECONDS = 20.0


class EmbeddedServer(ABC):
    """A server program in the foreground, owned by this process, answering on 127.0.0.1."""

    name: ClassVar[str]
    """Names its folder, log and records in the home."""
    title: ClassVar[str]
    stop_steps: ClassVar[tuple[tuple[signal.Signals, float], ...]]

    def __init__(self, home: Path, *, durable: bool = True) -> None:
        """`durable=False` leaves out the waits for the disk: for tests, which lose nothing to a power cut."""
        self.home = home
        self.durable = durable
        self.port = 0
        self._process: OwnedProcess | None = None

    @property
    @abstractmethod
    def url(self) -> str:
        """Where and as whom to connect; valid while the server runs."""

    @abstractmethod
    def _prepare(self) -> None:
        """Make ready what lasts: folders, passwords, an empty database."""

    @abstractmethod
    def _spawn(self) -> OwnedProcess:
        """Start the program on `self.port`."""

    @abstractmethod
    def _answers(self) -> bool:
        """Whether it takes commands."""

    def start(self) -> None:
        """Afterwards the server answers at `url`, on the port of last time unless that is taken.

        Raises `UserError` with the server's own last words when it does not start.
        """
        self.stop()
        end_leftovers(self.home, self.name, _LEFTOVER_SECONDS)
        self._prepare()
        self._launch(same_port=False)

    def ensure_running(self) -> bool:
        """Start the server again on the same port if it has died; whether that was so.

        Raises `UserError` as `start` does.
        """
        if self.alive():
            return False
        self._launch(same_port=True)
        return True

    def alive(self) -> bool:
        return self._process is not None and self._process.alive()

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process is not None and self._process.alive() else None

    def stop(self) -> None:
        """Afterwards the server has ended, with everything written; nothing happens if it had."""
        if self._process is not None:
            self._process.stop(*self.stop_steps)

    def _launch(self, *, same_port: bool) -> None:
        deadline = time.monotonic() + _RETRY_SECONDS
        while True:
            if not same_port:
                self.port = self._pick_port()
            process = self._process = self._spawn()
            settled = wait_until(self._ended_or_answers, _RECOVERY_SECONDS)
            if settled and process.alive():
                return
            words = process.last_words()
            process.kill()
            if not settled or time.monotonic() > deadline:
                raise UserError(
                    f"The embedded {self.title} did not start ({words}): see {process.log} for the cause."
                )
            time.sleep(0.2)

    def _ended_or_answers(self) -> bool:
        # In this order: another server may be answering on the port that ours did not get.
        return not self.alive() or self._answers()

    def _pick_port(self) -> int:
        memory = self.home / "run" / f"{self.name}.port"
        if memory.exists() and port_is_free(port := int(memory.read_text())):
            return port
        port = free_port()
        write_private(memory, str(port))
        return port


def server_environment() -> dict[str, str]:
    """All that a server needs of our environment, which may hold keys, and another user may read theirs."""
    return {"PATH": os.environ.get("PATH", os.defpath)}


def free_port() -> int:
    """A port that nobody listens on at this moment, and that no outgoing connection is given."""
    return next(filter(port_is_free, (secrets.choice(_PORTS) for _ in count())))


def answers(host: str, port: int) -> bool:
    """Whether somebody listens there."""
    try:
        socket.create_connection((host, port), timeout=1).close()
    except OSError:
        return False
    return True


def port_is_free(port: int) -> bool:
    """Whether nobody listens on the port at this moment."""
    with socket.socket() as probe:
        # As the servers do: connections that only wait for their end do not count.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
        return True
