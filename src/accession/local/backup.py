"""The database in one file, and back, through PostgreSQL's own programs as the wheel brings them.

They serve a PostgreSQL of the operator's, too, of their own version or older.
"""

import os
import re
import shutil
import signal
import stat
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import psycopg
from psycopg import pq, sql
from sqlalchemy import URL, make_url

from accession.core.errors import UserError
from accession.core.fs import atomic_write
from accession.core.settings import ENV_PREFIX, Settings
from accession.db import schema
from accession.db.engine import make_engine
from accession.db.schema import SchemaState
from accession.local.home import owned_home, prepare_home
from accession.local.postgres import wheel_installation
from accession.local.processes import end_leftovers, leashed, wait_until
from accession.local.servers import EmbeddedServers, ServerUrls
from accession.local.supervisor import programs

# A server sees only after a moment that a client has left.
_LEAVING_SECONDS = 1.0

_OUR_TABLES = ("alembic_version", "license_pools", "apply_outbox")

# pg_restore writes it into every script, and a server older than PostgreSQL 17 does not know it.
_NOT_FOR_OLDER_SERVERS = b"SET transaction_timeout = 0;\n"


@dataclass(frozen=True)
class Backup:
    """A file that `back_up` has made; `made_at` is when, in words."""

    path: Path
    made_at: str


def back_up(database_url: str, file: Path) -> int:
    """Afterwards `file` holds the database as it was at one moment, and no other user may read it; returns
    its size in bytes.

    Everything may go on meanwhile. The file comes into its place whole and safe on disk; until then, and
    whatever goes wrong, the one that was there stays. Raises `UserError` when it cannot be made.
    """
    file = file.resolve()
    try:
        if file.exists() and not stat.S_ISREG(file.stat().st_mode):
            raise FileExistsError(0, "it is there, and no file")
        with atomic_write(file) as draft:
            _dump(make_url(database_url), Path(draft.name))
    except OSError as error:
        raise UserError(
            f"The backup {file} cannot be written ({error.strerror}): "
            "name a file in a folder that is there and that you may write into."
        ) from None
    return file.stat().st_size


def _dump(database: URL, draft: Path) -> None:
    done = subprocess.run(  # noqa: S603
        # Not to its standard output: there it cannot go back to note where in the file each table is.
        _program("pg_dump", "--format=custom", f"--file={draft}"),
        env=_environment(database),
        stdin=subprocess.DEVNULL,
        capture_output=True,
    )
    if done.returncode:
        raise UserError(
            f"The database cannot be backed up ({_first_words(done.stderr)}): "
            "see `accession doctor`, and that the disk has room; no backup was changed."
        )


def find_backup(file: Path) -> Backup:
    """The backup in this file; raises `UserError` when it cannot be read, or is no backup of Accession."""
    try:
        with file.open("rb"):
            pass
    except OSError as error:
        raise UserError(
            f"The backup {file} cannot be read ({error.strerror}): name a file that `accession backup` made."
        ) from None
    done = subprocess.run(  # noqa: S603
        _program("pg_restore", "--list", str(file.absolute())),
        stdin=subprocess.DEVNULL,
        capture_output=True,
    )
    contents = done.stdout.decode(errors="replace")
    ours = all(re.search(rf" TABLE DATA public {name} ", contents) for name in _OUR_TABLES)
    if done.returncode or not ours:
        reason = _first_words(done.stderr) if done.returncode else "it holds something else"
        raise UserError(
            f"The file {file} is no backup of Accession ({reason}): name one that `accession backup` made."
        )
    made_at = re.search(r"Archive created at (.+)", contents)
    return Backup(file, made_at.group(1) if made_at else "an unknown time")


@contextmanager
def servers_at_rest(settings: Settings) -> Iterator[ServerUrls]:
    """The home's servers, embedded ones started and in the end stopped, while nothing else of Accession runs
    in it: nothing that an earlier run has left, and no other may begin.

    Raises `UserError` when Accession runs in the home, or a server does not start.
    """
    home = settings.home
    prepare_home(home)
    with owned_home(home):
        for child in programs(settings):
            end_leftovers(home, child.name, 0)
        urls = (settings.database_url, settings.redis_url)
        database_url, redis_url = (url.get_secret_value() if url else None for url in urls)
        with EmbeddedServers(home, database_url=database_url, redis_url=redis_url) as servers:
            yield servers


def restore(database_url: str, backup: Backup, *, before_the_swap: Callable[[], None]) -> SchemaState:
    """Afterwards the database is as it was when the backup was made, in this program's schema; returns the
    state of the backup's schema.

    The backup becomes a database of its own beside the one in use, and takes its place, and its name, in
    one transaction. `before_the_swap` is called in that transaction, when nobody is connected to the
    database and nobody can connect. Whatever goes wrong before its end, also a kill, leaves the database as
    it was, and is raised.

    Raises `UserError` for a backup that is broken, or newer than this program, and for a database that
    others are connected to or that its user may not replace.
    """
    database = make_url(database_url)
    swap = _Swap.of(database)
    try:
        with psycopg.connect(_dsn(database.set(database="postgres")), autocommit=True) as admin:
            swap.begin(admin)
            try:
                _fill(database.set(database=swap.ready), backup)
                state = _brought_up_to_date(database.set(database=swap.ready), backup)
                swap.make(admin, before_the_swap)
            finally:
                # One of the two is left: the unfinished, or the replaced. The next restore would remove it.
                with suppress(psycopg.Error):
                    swap.clean(admin)
    except psycopg.Error as error:
        advice = "see `accession doctor`"
        if isinstance(error, psycopg.errors.InsufficientPrivilege):
            advice = "make its user the owner of the database, with the right to create others (CREATEDB)"
        raise UserError(
            f"The backup {backup.path} cannot be restored (the database says: {str(error).splitlines()[0]}): "
            f"{advice}; nothing was changed."
        ) from error
    return state


@dataclass(frozen=True)
class _Swap:
    """The names of three databases: the one in use, the one that is made ready, and the one replaced."""

    live: str
    ready: str
    replaced: str

    @classmethod
    def of(cls, database: URL) -> "_Swap":
        live = database.database or database.username or ""
        # PostgreSQL cuts long names: one that only began with the live one's could become the live one's.
        digest = sha256(live.encode()).hexdigest()[:12]
        return cls(live, f"accession_ready_{digest}", f"accession_replaced_{digest}")

    def begin(self, admin: psycopg.Connection) -> None:
        """Make the database to fill, sorted as the live one is; one restore at a time."""
        lock = "SELECT pg_try_advisory_lock(hashtextextended(%s, 0))"
        if not wait_until(lambda: admin.execute(lock, [self.ready]).fetchone() == (True,), _LEAVING_SECONDS):
            raise UserError("Another restore of this database is under way: wait for its end.")
        self._refuse_others(admin)
        self.clean(admin)
        locale = admin.execute(
            "SELECT datcollate, datctype FROM pg_database WHERE datname = %s", [self.live]
        ).fetchone()
        if locale is None:
            raise UserError(f'There is no database "{self.live}" to restore into: create an empty one.')
        statement = "CREATE DATABASE {} TEMPLATE template0 ENCODING 'UTF8' LC_COLLATE {} LC_CTYPE {}"
        admin.execute(sql.SQL(statement).format(sql.Identifier(self.ready), *locale))

    def make(self, admin: psycopg.Connection, before: Callable[[], None]) -> None:
        rename = sql.SQL("ALTER DATABASE {} RENAME TO {}")
        with admin.transaction():
            admin.execute(rename.format(sql.Identifier(self.live), sql.Identifier(self.replaced)))
            admin.execute(rename.format(sql.Identifier(self.ready), sql.Identifier(self.live)))
            before()

    def clean(self, admin: psycopg.Connection) -> None:
        for name in (self.ready, self.replaced):
            admin.execute(sql.SQL("DROP DATABASE IF EXISTS {}").format(sql.Identifier(name)))

    def _refuse_others(self, admin: psycopg.Connection) -> None:
        """Whoever is connected may be a worker that writes, and could not see the swap."""
        query = (
            "SELECT DISTINCT coalesce(nullif(application_name, ''), 'unnamed') FROM pg_stat_activity"
            " WHERE datname = %s AND backend_type IS DISTINCT FROM 'autovacuum worker' ORDER BY 1"
        )
        others: list[str] = []

        def alone() -> bool:
            others[:] = [name for (name,) in admin.execute(query, [self.live])]
            return not others

        if not wait_until(alone, _LEAVING_SECONDS):
            raise UserError(
                f'Others are connected to the database "{self.live}" ({", ".join(others)}): '
                "stop every worker and whatever else uses it, and restore again; nothing was changed."
            )


def _fill(database: URL, backup: Backup) -> None:
    """Write the backup's tables into an empty database; raises `UserError` when not all of it went well."""
    archive = str(backup.path.absolute())
    with (
        tempfile.TemporaryFile() as complaints,
        subprocess.Popen(  # noqa: S603
            _program("pg_restore", "--no-owner", "--no-privileges", "--file=-", archive),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=complaints,
        ) as reader,
        subprocess.Popen(  # noqa: S603
            _program("psql", "--no-psqlrc", "--quiet", "--set=ON_ERROR_STOP=1", "--file=-"),
            env=_environment(database),
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=complaints,
        ) as writer,
    ):
        assert reader.stdout is not None  # noqa: S101 - it is a pipe
        assert writer.stdin is not None  # noqa: S101 - it is a pipe
        # A writer that has ended says why.
        with suppress(BrokenPipeError), writer.stdin, reader.stdout:
            for line in reader.stdout:
                if line == _NOT_FOR_OLDER_SERVERS:
                    break
                writer.stdin.write(line)
            shutil.copyfileobj(reader.stdout, writer.stdin)
        failed = writer.wait() or reader.wait()
        complaints.seek(0)
        said = complaints.read()
    if failed:
        raise UserError(
            f"The backup {backup.path} cannot be restored ({_first_words(said)}): "
            "take another backup; nothing was changed."
        )


def _brought_up_to_date(database: URL, backup: Backup) -> SchemaState:
    engine = make_engine(database.render_as_string(hide_password=False))
    try:
        state = schema.schema_state(engine)
        if not state.is_known:
            raise UserError(
                f"The backup {backup.path} has schema {state.revision}, which this version of Accession does "
                "not know: install the newer Accession that made it; nothing was changed."
            )
        return schema.upgrade(engine)
    finally:
        engine.dispose()


def _program(name: str, *arguments: str) -> list[str]:
    return leashed([str(wheel_installation().programs / name), *arguments], signal.SIGTERM)


def _environment(database: URL) -> dict[str, str]:
    """Ours, without settings that may hold keys, and where and as whom to connect: arguments can be seen by
    every user of the machine."""
    told = {
        option.envvar.decode(): option.val.decode()
        for option in pq.Conninfo.parse(_dsn(database).encode())
        if option.envvar and option.val
    }
    ours = {name: value for name, value in os.environ.items() if not name.startswith(ENV_PREFIX)}
    return {"PGCONNECT_TIMEOUT": "10", **ours, **told}


def _dsn(database: URL) -> str:
    return database.set(drivername="postgresql").render_as_string(hide_password=False)


def _first_words(said: bytes) -> str:
    """The first line of what a program said, without its name."""
    lines = said.decode(errors="replace").strip().splitlines()
    return re.sub(r"^\w+: (error: )?", "", lines[0]) if lines else "it gave no reason"
