"""Database and broker of a home, embedded or external, and the file that publishes their URLs."""

import json
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType

from accession.core.database_url import without_password_protection
from accession.core.redis_url import without_peer
from accession.local.embedded import EmbeddedServer
from accession.local.files import write_private_file
from accession.local.postgres import EmbeddedPostgres
from accession.local.processes import ProcessId
from accession.local.valkey import EmbeddedValkey


@dataclass(frozen=True)
class ServerUrls:
    """URLs of the servers, including passwords."""

    database_url: str = field(repr=False)
    redis_url: str = field(repr=False)

    def for_other_programs(self) -> "ServerUrls":
        """Return the URLs in the form that psql, redis-py and other programs understand."""
        return ServerUrls(without_password_protection(self.database_url), without_peer(self.redis_url))


class EmbeddedServers:
    """Servers of a home; those without a configured URL are embedded and owned by this process.

    Embedded servers end with the thread that called `start`, however it ends. Only one process may own the
    servers of a home: hold its lock (`accession.local.home`). Usage:

        with EmbeddedServers(home) as urls: ...
    """

    def __init__(
        self,
        home: Path,
        *,
        database_url: str | None = None,
        redis_url: str | None = None,
        durable: bool = True,
    ) -> None:
        """Configure the servers; `durable=False` disables fsync, for tests."""
        self._home = home
        self._database = database_url or EmbeddedPostgres(home, durable=durable)
        self._broker = redis_url or EmbeddedValkey(home, durable=durable)
        self._embedded = [
            server for server in (self._database, self._broker) if isinstance(server, EmbeddedServer)
        ]

    def start(self) -> ServerUrls:
        """Start the embedded servers and publish the URLs of both; the URLs stay valid until `stop`.

        Raises:
            UserError: an embedded server did not start; none is left running.
        """
        with ExitStack() as undo:
            for server in self._embedded:
                undo.callback(server.stop)
                server.start()
            urls = ServerUrls(_url(self._database), _url(self._broker))
            publish_servers(self._home, urls)
            undo.pop_all()
        return urls

    def ensure_running(self) -> tuple[str, ...]:
        """Restart embedded servers that have ended, at the same URL, and return their names.

        Raises:
            UserError: a server cannot be started; try again later.
        """
        return tuple(server.name for server in self._embedded if server.ensure_running())

    def stop(self) -> None:
        """Stop the embedded servers and withdraw the published URLs."""
        _info_file(self._home).unlink(missing_ok=True)
        for server in reversed(self._embedded):
            server.stop()

    def __enter__(self) -> ServerUrls:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


@dataclass(frozen=True)
class ServerInfo:
    """Content of `servers.json`: URLs, owner, and whether all its processes are ready."""

    urls: ServerUrls
    owner: ProcessId
    is_ready: bool


def publish_servers(home: Path, urls: ServerUrls, *, ready: bool = False) -> None:
    """Publish the URLs of the servers that this process owns."""
    info = {"owner": asdict(ProcessId.own()), "ready": ready, **asdict(urls)}
    write_private_file(_info_file(home), json.dumps(info))


def read_server_info(home: Path) -> ServerInfo | None:
    """Return what the owner of the home has published, or None if no owner is running."""
    try:
        info = json.loads(_info_file(home).read_text())
    except FileNotFoundError:
        return None
    owner = ProcessId(**info["owner"])
    urls = ServerUrls(info["database_url"], info["redis_url"])
    return ServerInfo(urls, owner, info["ready"]) if owner.is_alive else None


def running_servers(home: Path) -> ServerUrls | None:
    """Return the URLs of the servers that another process uses for this home, or None."""
    info = read_server_info(home)
    return info.urls if info else None


def _url(server: EmbeddedServer | str) -> str:
    return server if isinstance(server, str) else server.url


def _info_file(home: Path) -> Path:
    return home / "servers.json"
