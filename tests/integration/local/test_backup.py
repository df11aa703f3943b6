"""Backup and restore: a restored database is identical, and a failed restore changes nothing."""

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

import psutil
import psycopg
import pytest
from psycopg import sql
from sqlalchemy import Engine, make_url, text
from sqlalchemy.exc import IntegrityError, OperationalError
from sqlalchemy.orm import Session

from accession.core.errors import UserError
from accession.db import schema
from accession.db.engine import engine, make_engine
from accession.db.models import Base, Collection
from accession.local.backup import create_backup, read_backup, restore
from accession.local.servers import ServerUrls
from tests.fixtures.databases import contents, populated_database, url_of
from tests.fixtures.factories import (
    SCHEMA_REVISION,
    BackgroundThread,
    make_collection,
    populate_all_tables,
    scratch_database,
)
from tests.fixtures.waiting import DEADLINE_SECONDS, wait_until

DISCONNECT_SECONDS = "accession.local.backup._DISCONNECT_SECONDS"


@pytest.fixture(scope="module")
def template(servers: ServerUrls) -> Iterator[Engine]:
    """A database with a row in every table, to which nobody is connected."""
    with populated_database() as template:
        yield template


@pytest.fixture(scope="module")
def backup_file(template: Engine, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A backup of the template, which tests only read."""
    file = tmp_path_factory.mktemp("backup") / "accession.backup"
    create_backup(url_of(template), file)
    return file


@pytest.fixture
def live(template: Engine) -> Iterator[Engine]:
    """A copy of the template."""
    with scratch_database(str(template.url.database)) as live:
        yield live


@pytest.fixture(autouse=True)
def _patient_restore(monkeypatch: pytest.MonkeyPatch) -> None:
    # On a busy machine the server may notice late that a client of the test has disconnected.
    monkeypatch.setattr(DISCONNECT_SECONDS, DEADLINE_SECONDS)


def damage(database: Engine) -> None:
    """Add and delete rows, drop a table and create another."""
    with Session(database) as session:
        make_collection(session, "Birch Library")
    with database.begin() as connection:
        connection.execute(text("DELETE FROM license_pools"))
        connection.execute(text("DROP TABLE links"))
        connection.execute(text("CREATE TABLE notes (id int PRIMARY KEY)"))
    database.dispose()


def database_names() -> set[str]:
    with engine().connect() as connection:
        return set(connection.scalars(text("SELECT datname FROM pg_database")))


def do_nothing() -> None:
    pass


def can_connect(database: Engine) -> bool:
    try:
        with database.connect():
            return True
    except OperationalError:
        return False
    finally:
        database.dispose()


def restore_file(
    database: Engine, file: Path, before_swap: Callable[[], None] = do_nothing
) -> schema.SchemaState:
    return restore(url_of(database), read_backup(file), before_swap=before_swap)


@contextmanager
def fails_without_changes(database: Engine, message: str) -> Iterator[None]:
    """Assert that the block raises this error and leaves all databases unchanged."""
    contents_before, names_before = contents(database), database_names()
    with pytest.raises(UserError, match=message):
        yield
    assert contents(database) == contents_before
    assert database_names() == names_before


def running_processes() -> list[psutil.Process]:
    """Return all processes with their arguments in `info["cmdline"]`."""
    return [process for process in psutil.process_iter(["cmdline"]) if process.info["cmdline"]]


# Backup


def test_backup_replaces_a_file_with_one_private_file(template: Engine, tmp_path: Path) -> None:
    file = tmp_path / "accession.backup"
    file.write_text("older backup")
    file.chmod(0o644)

    size = create_backup(url_of(template), file)

    assert [path.name for path in tmp_path.iterdir()] == ["accession.backup"]
    assert (file.stat().st_size, file.stat().st_mode & 0o777) == (size, 0o600)
    assert read_backup(file).created_at


def test_failed_backup_keeps_the_older_file(tmp_path: Path) -> None:
    file = tmp_path / "accession.backup"
    file.write_text("older backup")

    with pytest.raises(
        UserError, match=r"^The database cannot be backed up \(.*refused.*no backup was changed"
    ):
        create_backup("postgresql://u:hidden@127.0.0.1:9/d", file)

    assert [path.read_text() for path in tmp_path.iterdir()] == ["older backup"]


@pytest.mark.parametrize(
    ("target", "reason"),
    [
        pytest.param("missing/accession.backup", "No such file or directory", id="missing folder"),
        pytest.param("file/accession.backup", "Not a directory", id="below a file"),
        pytest.param(".", "it exists and is not a regular file", id="folder"),
        pytest.param("/dev/null", "it exists and is not a regular file", id="device"),
    ],
)
def test_backup_to_an_unsuitable_path_is_refused(
    template: Engine, tmp_path: Path, target: str, reason: str
) -> None:
    (tmp_path / "file").touch()

    with pytest.raises(
        UserError, match=rf"cannot be written \({reason}\): name a file in an existing, writable folder"
    ):
        create_backup(url_of(template), tmp_path / target)

    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert Path("/dev/null").is_char_device()


def test_killed_backup_leaves_no_file_and_no_password_is_shown(live: Engine, tmp_path: Path) -> None:
    password = make_url(url_of(live)).password
    assert password
    file = tmp_path / "accession.backup"
    has_failed = threading.Event()

    def run_backup() -> None:
        with pytest.raises(UserError, match="cannot be backed up"):
            create_backup(url_of(live), file)
        has_failed.set()

    with live.begin() as connection:
        # The backup waits for the table.
        connection.execute(text("LOCK TABLE license_pools IN ACCESS EXCLUSIVE MODE"))
        thread = BackgroundThread(run_backup)
        dumps = wait_until(lambda: [p for p in psutil.Process().children() if p.name() == "pg_dump"])
        drafts = list(tmp_path.iterdir())
        assert [draft.stat().st_mode & 0o777 for draft in drafts] == [0o600]
        arguments = [argument for process in running_processes() for argument in process.info["cmdline"]]
        assert not any(password in argument for argument in arguments)
        dumps[-1].kill()
        thread.finish()
    assert has_failed.is_set()
    assert list(tmp_path.iterdir()) == []


# Restore


def test_restore_brings_back_all_rows_and_sequences(live: Engine, backup_file: Path) -> None:
    contents_before, names_before = contents(live), database_names()
    assert all(contents_before[table] for table in Base.metadata.tables)
    damage(live)
    assert contents(live) != contents_before

    state = restore_file(live, backup_file)

    assert state.is_current
    assert contents(live) == contents_before
    assert database_names() == names_before
    with Session(live) as session:
        assert make_collection(session, "Cedar Library").id == 2
        assert session.get_one(Collection, 1).name == "Alder Library"


def test_restore_to_an_empty_database_creates_the_schema(template: Engine, backup_file: Path) -> None:
    with scratch_database() as empty:
        restore_file(empty, backup_file)

        assert contents(empty) == contents(template)
        assert schema.schema_state(empty).is_current
        violation = pytest.raises(IntegrityError, match="ck_runs_records_accounted_for")
        with empty.connect() as connection, violation:
            connection.execute(text("UPDATE runs SET records_stored = 5"))


def test_older_backup_is_migrated(live: Engine, backup_file: Path, next_revision: str) -> None:
    schema.upgrade(live)
    contents_before = contents(live)
    damage(live)

    state = restore_file(live, backup_file)

    assert (state.revision, state.head) == (SCHEMA_REVISION, next_revision)
    assert schema.schema_state(live).is_current
    assert "added_by_next_revision" in contents_before
    assert contents(live) == contents_before


def test_backup_with_a_newer_schema_is_refused(template: Engine, live: Engine, tmp_path: Path) -> None:
    with scratch_database(str(template.url.database)) as newer:
        with newer.begin() as connection:
            connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
        create_backup(url_of(newer), tmp_path / "newer")

    with fails_without_changes(live, r"has schema 9999, which this version .* not know: install the newer"):
        restore_file(live, tmp_path / "newer")


def test_truncated_backup_is_refused(live: Engine, backup_file: Path, tmp_path: Path) -> None:
    (tmp_path / "truncated").write_bytes(backup_file.read_bytes()[:-200])

    with fails_without_changes(
        live, r"cannot be restored \(.+\): use another backup; nothing was changed\.$"
    ):
        restore_file(live, tmp_path / "truncated")


def test_backup_that_violates_a_foreign_key_is_refused(
    template: Engine, live: Engine, tmp_path: Path
) -> None:
    with scratch_database(str(template.url.database)) as invalid:
        with invalid.begin() as connection:
            # In this role, rows can be deleted to which others refer.
            connection.execute(text("SET LOCAL session_replication_role = replica"))
            connection.execute(text("DELETE FROM collections"))
        create_backup(url_of(invalid), tmp_path / "invalid")

    with fails_without_changes(live, r"cannot be restored \(.*violates foreign key.*\): use another backup"):
        restore_file(live, tmp_path / "invalid")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        pytest.param(
            None,
            r"cannot be read \(No such file or directory\): name a file created by `accession backup`\.$",
            id="missing",
        ),
        pytest.param(b"", r"is not a backup of Accession \(.+\): use one from", id="empty"),
        pytest.param(b"PGDMP text", r"is not a backup of Accession \(.+\): use one from", id="header only"),
        pytest.param(b"SELECT 1;\n" * 1000, r"is not a backup of Accession \(.+\): use one from", id="SQL"),
    ],
)
def test_file_that_is_no_backup_is_refused(tmp_path: Path, content: bytes | None, message: str) -> None:
    if content is not None:
        (tmp_path / "file").write_bytes(content)

    with pytest.raises(UserError, match=message):
        read_backup(tmp_path / "file")


def test_folder_as_backup_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"cannot be read \(Is a directory\)"):
        read_backup(tmp_path)


def test_backup_of_another_application_is_refused(servers: ServerUrls, tmp_path: Path) -> None:
    with scratch_database() as other:
        with other.begin() as connection:
            connection.execute(
                text(f"CREATE TABLE alembic_version AS SELECT '{SCHEMA_REVISION}' AS version_num")
            )
        create_backup(url_of(other), tmp_path / "other")

    with pytest.raises(UserError, match=r"not a backup of Accession \(it contains other tables\): use one"):
        read_backup(tmp_path / "other")


def test_restore_is_refused_while_clients_are_connected(
    live: Engine, backup_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(DISCONNECT_SECONDS, 0.1)
    message = r'connected to the database "scratch_\w+" \(accession\): stop all workers and other clients'
    with fails_without_changes(live, message), live.connect():
        restore_file(live, backup_file)


def test_error_before_the_swap_undoes_the_restore(live: Engine, backup_file: Path) -> None:
    damage(live)

    def fail() -> None:
        raise UserError("A worker is running.")

    with fails_without_changes(live, "A worker is running"):
        restore_file(live, backup_file, fail)


def test_clients_cannot_connect_during_the_swap(live: Engine, backup_file: Path) -> None:
    """A client that connects then waits for the end of the swap and is refused."""
    waiting = text("SELECT count(*) FROM pg_locks WHERE classid = 'pg_database'::regclass AND NOT granted")
    clients: list[BackgroundThread] = []

    def connect() -> None:
        with pytest.raises(psycopg.OperationalError, match="just been dropped or renamed"):
            psycopg.connect(url_of(live))

    def start_client() -> None:
        clients.append(BackgroundThread(connect))
        with engine().connect() as connection:
            wait_until(lambda: connection.scalar(waiting) == 1)

    restore_file(live, backup_file, start_client)
    assert len(clients) == 1
    clients[0].finish()


def test_second_restore_at_the_same_time_is_refused(
    live: Engine, backup_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    messages: list[str] = []

    def restore_again() -> None:
        monkeypatch.setattr(DISCONNECT_SECONDS, 0.1)
        with pytest.raises(UserError) as error:
            restore_file(live, backup_file)
        messages.append(str(error.value))

    restore_file(live, backup_file, restore_again)

    assert messages == ["Another restore of this database is running: wait for its end."]


def test_killed_restore_changes_nothing_and_is_cleaned_up(live: Engine, backup_file: Path) -> None:
    program = (
        "import os, sys\nfrom pathlib import Path\n"
        "from accession.local.backup import read_backup, restore\n"
        "backup = read_backup(Path(sys.argv[1]))\n"
        "restore(os.environ['URL'], backup, before_swap=lambda: os.kill(os.getpid(), 9))"
    )
    contents_before, names_before = contents(live), database_names()
    damage(live)
    damaged_contents = contents(live)
    completed = subprocess.run(
        [sys.executable, "-c", program, str(backup_file)],
        env=os.environ | {"URL": url_of(live)},
        check=False,
    )
    assert completed.returncode == -9
    assert len(database_names() - names_before) == 1
    # The server rolls the swap back only when it notices that its client has ended.
    wait_until(lambda: can_connect(live))
    assert contents(live) == damaged_contents

    restore_file(live, backup_file)

    assert contents(live) == contents_before
    assert database_names() == names_before


# External servers


@contextmanager
def server_role(*privileges: str) -> Iterator[str]:
    """Create a role of the server with these privileges; its password is its name."""
    name = f"librarian_{uuid4().hex}"
    with psycopg.connect(url_of(engine()), autocommit=True) as admin:
        statement = f"CREATE ROLE {{}} LOGIN PASSWORD {{}} {' '.join(privileges)}"
        admin.execute(sql.SQL(statement).format(sql.Identifier(name), name))
        try:
            yield name
        finally:
            admin.execute(sql.SQL("DROP ROLE {}").format(sql.Identifier(name)))


@contextmanager
def database_owned_by(role: str) -> Iterator[Engine]:
    """Create a database that a role owns, and yield its engine for that role."""
    with scratch_database() as database:
        with psycopg.connect(url_of(engine()), autocommit=True) as admin:
            statement = sql.SQL("ALTER DATABASE {} OWNER TO {}")
            admin.execute(statement.format(*map(sql.Identifier, (str(database.url.database), role))))
        url = database.url.set(username=role, password=role)
        yield make_engine(url.render_as_string(hide_password=False))


def test_role_that_can_create_databases_can_restore(tmp_path: Path, servers: ServerUrls) -> None:
    with server_role("CREATEDB") as role, database_owned_by(role) as live:
        schema.upgrade(live)
        populate_all_tables(live)
        create_backup(url_of(live), tmp_path / "file")
        contents_before = contents(live)
        damage(live)
        restore_file(live, tmp_path / "file")
        assert contents(live) == contents_before


def test_role_that_cannot_create_databases_is_refused(backup_file: Path) -> None:
    message = r"permission denied to create database\): make its user .* with the privilege CREATEDB"
    with (
        server_role() as role,
        database_owned_by(role) as live,
        fails_without_changes(live, message),
    ):
        restore_file(live, backup_file)


def test_restore_to_a_missing_database_is_refused(template: Engine, backup_file: Path) -> None:
    missing = template.url.set(drivername="postgresql", database="missing")
    with pytest.raises(UserError, match=r'^There is no database "missing" to restore into: create an empty'):
        restore(
            missing.render_as_string(hide_password=False), read_backup(backup_file), before_swap=do_nothing
        )


def test_restore_without_a_server_is_refused(backup_file: Path) -> None:
    with pytest.raises(UserError, match=r"refused.*run `accession doctor`; nothing was changed\.$"):
        restore("postgresql://u:hidden@127.0.0.1:9/d", read_backup(backup_file), before_swap=do_nothing)
