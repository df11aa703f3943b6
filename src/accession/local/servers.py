"""Both servers of one installation, embedded or the operator's own, and how others learn where they are."""

import json
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType

from accession.local.embedded import EmbeddedServer
from accession.local.files import write_private
from accession.local.postgres import EmbeddedPostgres
from accession.local.processes import ProcessId
from accession.local.valkey import EmbeddedValkey


@dataclass(frozen=True)
class ServerUrls:
    """Where the servers are, passwords included."""

    database_url: str = field(repr=False)
    redis_url: str = field(repr=False)


class EmbeddedServers:
    """The servers of one home: those that have no URL given are embedded and owned by this process.

    They end with this process, or rather with the thread that called `start`, however it ends. One
    process at a time may own the servers of a home: hold its lock (`accession.local.home`).

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
        """`durable=False` leaves out the waits for the disk: for tests."""
        self._home = home
        self._database = database_url or EmbeddedPostgres(home, durable=durable)
        self._broker = redis_url or EmbeddedValkey(home, durable=durable)
        self._embedded = [
            server for server in (self._database, self._broker) if isinstance(server, EmbeddedServer)
        ]

    def start(self) -> ServerUrls:
        """Afterwards both servers can be used, and `running_servers` tells other processes where.

        The URLs stay the same until `stop`. Raises `UserError` when an embedded server does not start;
        none is left running then.
        """
        with ExitStack() as undo:
            for server in self._embedded:
                undo.callback(server.stop)
                server.start()
            urls = ServerUrls(_url(self._database), _url(self._broker))
            announce(self._home, urls)
            undo.pop_all()
        return urls

    def ensure_running(self) -> tuple[str, ...]:
        """Start an embedded server that has died again, at the same URL; the names of those started.

        Raises `UserError` when one cannot be started; try again later.
        """
        return tuple(server.name for server in self._embedded if server.ensure_running())

    def stop(self) -> None:
        """Afterwards the embedded servers have ended and nobody is told of any."""
        _announcement(self._home).unlink(missing_ok=True)
        for server in reversed(self._embedded):
            server.stop()

    def __enter__(self) -> ServerUrls:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


@dataclass(frozen=True)
class Announcement:
    """What a running owner says of itself in `servers.json`."""

    urls: ServerUrls
    owner: ProcessId
    ready: bool


def announce(home: Path, urls: ServerUrls, *, ready: bool = False) -> None:
    """Tell other processes of the servers that this process owns, and whether all its parts run."""
    said = {"owner": asdict(ProcessId.own()), "ready": ready, **asdict(urls)}
    write_private(_announcement(home), json.dumps(said))


def announcement(home: Path) -> Announcement | None:
    """What the owner of this home's servers says; None when no owner is alive."""
    try:
        said = json.loads(_announcement(home).read_text())
    except FileNotFoundError:
        return None
    owner = ProcessId(**said["owner"])
    urls = ServerUrls(said["database_url"], said["redis_url"])
    return Announcement(urls, owner, said["ready"]) if owner.alive else None


def running_servers(home: Path) -> ServerUrls | None:
    """Where the servers are that another process runs, or uses, for this home; None when none does."""
    said = announcement(home)
    return said.urls if said else None


def _url(server: EmbeddedServer | str) -> str:
    return server if isinstance(server, str) else server.url


def _announcement(home: Path) -> Path:
    return home / "servers.json"
