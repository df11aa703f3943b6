"""Backup and restore: the same rows on the other side, or the old ones as they were."""

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
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
from tests.fixtures.factories import (
    SCHEMA_REVISION,
    BackgroundThread,
    make_collection,
    populate_all_tables,
    table_rows,
    scratch_database,
)
from tests.fixtures.waiting import wait_until

Contents = dict[str, list[dict[str, Any]]]


@pytest.fixture(scope="module")
def filled(servers: ServerUrls) -> Iterator[str]:
    """The name of a database with a row in every table."""
    with scratch_database() as filled:
        schema.upgrade(filled)
        populate_all_tables(filled)
        filled.dispose()
        yield str(filled.url.database)


@pytest.fixture
def live(filled: str) -> Iterator[Engine]:
    """A copy of it."""
    with scratch_database(filled) as live:
        yield live


@pytest.fixture
def file(tmp_path: Path, live: Engine) -> Path:
    """A backup of it."""
    file = tmp_path / "accession.backup"
    create_backup(url_of(live), file)
    return file


def url_of(database: Engine) -> str:
    return database.url.set(drivername="postgresql").render_as_string(hide_password=False)


def contents(database: Engine) -> Contents:
    """Every row, and the next number of every sequence; nobody is connected afterwards."""
    with database.connect() as connection:
        tables = connection.scalars(text("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")).all()
        sequences = connection.execute(text("SELECT sequencename, last_value FROM pg_sequences ORDER BY 1"))
        found = {"sequences": [dict(row) for row in sequences.mappings()]}
    with_keys = sorted(set(tables) - {"alembic_version"})
    found |= {table: table_rows(database, table) for table in with_keys}
    database.dispose()
    return found


def damage(database: Engine) -> None:
    """Rows go, rows come, a table goes, a table comes."""
    with Session(database) as session:
        make_collection(session, "Birch Library")
    with database.begin() as connection:
        connection.execute(text("DELETE FROM license_pools"))
        connection.execute(text("DROP TABLE links"))
        connection.execute(text("CREATE TABLE notes (id int PRIMARY KEY)"))
    database.dispose()


def databases() -> set[str]:
    with engine().connect() as connection:
        return set(connection.scalars(text("SELECT datname FROM pg_database")))


def nothing() -> None:
    """Nothing has to be done before the swap."""


def live_again(database: Engine) -> bool:
    try:
        with database.connect():
            return True
    except OperationalError:
        return False
    finally:
        database.dispose()


def restored(
    database: Engine, file: Path, before_swap: Callable[[], None] = nothing
) -> schema.SchemaState:
    return restore(url_of(database), read_backup(file), before_swap=before_swap)


@contextmanager
def left_as_it_was(database: Engine, sentence: str) -> Iterator[None]:
    """What is done meanwhile is refused with these words, changes nothing and leaves nothing behind."""
    before, there = contents(database), databases()
    with pytest.raises(UserError, match=sentence):
        yield
    assert contents(database) == before
    assert databases() == there


# Backup


def test_a_backup_is_one_private_file_and_nothing_beside_it(live: Engine, tmp_path: Path) -> None:
    file = tmp_path / "accession.backup"
    file.write_text("an older one")
    file.chmod(0o644)

    size = create_backup(url_of(live), file)

    assert [path.name for path in tmp_path.iterdir()] == ["accession.backup"]
    assert (file.stat().st_size, file.stat().st_mode & 0o777) == (size, 0o600)
    assert read_backup(file).created_at


def test_a_backup_that_fails_leaves_the_older_one(tmp_path: Path) -> None:
    file = tmp_path / "accession.backup"
    file.write_text("an older one")

    with pytest.raises(
        UserError, match=r"^The database cannot be backed up \(.*refused.*no backup was changed"
    ):
        create_backup("postgresql://u:hidden@127.0.0.1:9/d", file)

    assert [path.read_text() for path in tmp_path.iterdir()] == ["an older one"]


@pytest.mark.parametrize(
    ("place", "reason"),
    [
        ("missing/accession.backup", "No such file or directory"),
        ("file/accession.backup", "Not a directory"),
        (".", "it is there, and no file"),
        ("/dev/null", "it is there, and no file"),
    ],
)
def test_a_place_for_no_backup_is_refused(live: Engine, tmp_path: Path, place: str, reason: str) -> None:
    (tmp_path / "file").touch()

    with pytest.raises(UserError, match=rf"cannot be written \({reason}\): name a file in a folder"):
        create_backup(url_of(live), tmp_path / place)

    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert Path("/dev/null").is_char_device()


def processes() -> list[psutil.Process]:
    """Every process, with its arguments."""
    return [process for process in psutil.process_iter(["cmdline"]) if process.info["cmdline"]]


def test_a_backup_under_way_shows_nobody_the_password_and_is_ended_by_a_kill(
    live: Engine, tmp_path: Path
) -> None:
    password = make_url(url_of(live)).password
    assert password
    file = tmp_path / "accession.backup"
    with live.begin() as connection:
        # The backup waits for the table.
        connection.execute(text("LOCK TABLE license_pools IN ACCESS EXCLUSIVE MODE"))
        failed = threading.Event()

        def give_up() -> None:
            with pytest.raises(UserError, match="cannot be backed up"):
                create_backup(url_of(live), file)
            failed.set()

        job = BackgroundThread(give_up)
        dump = wait_until(lambda: [p for p in processes() if str(tmp_path) in " ".join(p.info["cmdline"])])
        drafts = list(tmp_path.iterdir())
        assert [draft.stat().st_mode & 0o777 for draft in drafts] == [0o600]
        assert not any(password in word for process in processes() for word in process.info["cmdline"])
        dump[-1].kill()
        job.finish()
    assert failed.is_set()
    assert list(tmp_path.iterdir()) == []


# Restore


def test_every_row_and_every_sequence_comes_back(live: Engine, file: Path) -> None:
    before, there = contents(live), databases()
    assert all(before[table] for table in Base.metadata.tables)
    damage(live)
    assert contents(live) != before

    state = restored(live, file)

    assert state.is_current
    assert contents(live) == before
    assert databases() == there
    with Session(live) as session:
        assert make_collection(session, "Cedar Library").id == 2
        assert session.get_one(Collection, 1).name == "Alder Library"


def test_conditions_and_constraints_come_back_too(live: Engine, file: Path) -> None:
    restored(live, file)

    assert schema.schema_state(live).is_current
    with live.connect() as connection, pytest.raises(IntegrityError, match="ck_runs_records_accounted_for"):
        connection.execute(text("UPDATE runs SET records_stored = 5"))


def test_an_empty_database_is_filled(file: Path, live: Engine) -> None:
    with scratch_database() as other:
        restored(other, file)
        assert contents(other) == contents(live)


def test_older_backup_is_migrated(live: Engine, file: Path, next_revision: str) -> None:
    schema.upgrade(live)
    before = contents(live)
    damage(live)

    state = restored(live, file)

    assert (state.revision, state.head) == (SCHEMA_REVISION, next_revision)
    assert schema.schema_state(live).is_current
    assert "added_by_next_revision" in before
    assert contents(live) == before


def test_a_backup_of_a_newer_accession_is_refused(live: Engine, tmp_path: Path) -> None:
    with scratch_database(str(live.url.database)) as newer:
        with newer.begin() as connection:
            connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
        create_backup(url_of(newer), tmp_path / "newer")

    with left_as_it_was(live, r"has schema 9999, which this version .* does not know: install the newer"):
        restored(live, tmp_path / "newer")


def test_a_backup_that_breaks_off_is_refused(live: Engine, file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-200])

    with left_as_it_was(live, r"cannot be restored \(.+\): take another backup; nothing was changed\.$"):
        restored(live, file)


def test_a_backup_that_the_database_refuses_is_refused(live: Engine, tmp_path: Path) -> None:
    with scratch_database(str(live.url.database)) as odd:
        with odd.begin() as connection:
            # The key was there first, and is checked again where it is restored.
            connection.execute(text("SET session_replication_role = replica"))
            connection.execute(text("DELETE FROM collections"))
        odd.dispose()
        create_backup(url_of(odd), tmp_path / "odd")

    with left_as_it_was(live, r"cannot be restored \(.*violates foreign key.*\): take another backup"):
        restored(live, tmp_path / "odd")


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (None, r"cannot be read \(No such file or directory\): name a file that `accession backup` made\.$"),
        (b"", r"is no backup of Accession \(.+\): name one"),
        (b"PGDMP nonsense", r"is no backup of Accession \(.+\): name one"),
        (b"SELECT 1;\n" * 1000, r"is no backup of Accession \(.+\): name one"),
    ],
)
def test_what_is_no_backup_is_refused(tmp_path: Path, content: bytes | None, sentence: str) -> None:
    if content is not None:
        (tmp_path / "file").write_bytes(content)

    with pytest.raises(UserError, match=sentence):
        read_backup(tmp_path / "file")


def test_a_folder_and_a_backup_of_something_else_are_refused(servers: ServerUrls, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"cannot be read \(Is a directory\)"):
        read_backup(tmp_path)
    with scratch_database() as other:
        with other.begin() as connection:
            connection.execute(
                text(f"CREATE TABLE alembic_version AS SELECT '{SCHEMA_REVISION}' AS version_num")
            )
        create_backup(url_of(other), tmp_path / "other")
    with pytest.raises(UserError, match=r"no backup of Accession \(it holds something else\): name one"):
        read_backup(tmp_path / "other")


def test_while_others_are_connected_nothing_is_replaced(live: Engine, file: Path) -> None:
    with left_as_it_was(live, r'connected to the database "scratch_\w+" \(accession\): stop every worker'):
        other = make_engine(url_of(live))
        with other.connect():
            restored(live, file)
    other.dispose()


def test_what_is_done_before_the_swap_finds_the_database_closed_and_its_failure_undoes_all(
    live: Engine, file: Path
) -> None:
    damage(live)
    closed: list[bool] = []

    def fail() -> None:
        with pytest.raises(psycopg.OperationalError, match="timeout"):
            psycopg.connect(url_of(live), connect_timeout=2)
        closed.append(True)
        raise UserError("A worker is running.")

    with left_as_it_was(live, "A worker is running"):
        restored(live, file, fail)
    assert closed == [True]


def test_one_restore_at_a_time(live: Engine, file: Path) -> None:
    sentences: list[str] = []

    def restore_too() -> None:
        with pytest.raises(UserError) as refused:
            restored(live, file)
        sentences.append(str(refused.value))

    restored(live, file, restore_too)

    assert sentences == ["Another restore of this database is under way: wait for its end."]


def test_what_a_killed_restore_left_is_removed(live: Engine, file: Path) -> None:
    program = (
        "import os, sys\nfrom pathlib import Path\n"
        "from accession.local.backup import find_backup, restore\n"
        "url, file = os.environ['URL'], Path(sys.argv[1])\n"
        "restore(url, find_backup(file), before_the_swap=lambda: os.kill(os.getpid(), 9))"
    )
    before, there = contents(live), databases()
    damage(live)
    damaged = contents(live)
    done = subprocess.run(
        [sys.executable, "-c", program, str(file)],
        env=os.environ | {"URL": url_of(live)},
        check=False,
    )
    assert done.returncode == -9
    assert len(databases() - there) == 1
    # A server sees only after a moment that a client has been killed, and takes its transaction back.
    wait_until(lambda: live_again(live))
    assert contents(live) == damaged

    restored(live, file)

    assert contents(live) == before
    assert databases() == there


# Servers of the operator's


@contextmanager
def role(*rights: str) -> Iterator[str]:
    """A user of the server with no more than these rights, and their password as their name."""
    name = f"librarian_{uuid4().hex}"
    with psycopg.connect(url_of(engine()), autocommit=True) as admin:
        statement = f"CREATE ROLE {{}} LOGIN PASSWORD {{}} {' '.join(rights)}"
        admin.execute(sql.SQL(statement).format(sql.Identifier(name), name))
        try:
            yield name
        finally:
            admin.execute(sql.SQL("DROP ROLE {}").format(sql.Identifier(name)))


@contextmanager
def owned_by(name: str) -> Iterator[Engine]:
    """A database that belongs to a user, as they reach it."""
    with scratch_database() as made:
        with psycopg.connect(url_of(engine()), autocommit=True) as admin:
            statement = sql.SQL("ALTER DATABASE {} OWNER TO {}")
            admin.execute(statement.format(*map(sql.Identifier, (str(made.url.database), name))))
        theirs = make_engine(made.url.set(username=name, password=name).render_as_string(hide_password=False))
        schema.upgrade(theirs)
        populate_all_tables(theirs)
        theirs.dispose()
        yield theirs


def test_a_user_who_may_create_databases_backs_up_and_restores(tmp_path: Path, servers: ServerUrls) -> None:
    with role("CREATEDB") as name, owned_by(name) as live:
        create_backup(url_of(live), tmp_path / "file")
        before = contents(live)
        damage(live)
        restored(live, tmp_path / "file")
        assert contents(live) == before


def test_a_user_who_may_not_create_databases_is_told(tmp_path: Path, servers: ServerUrls) -> None:
    with role() as name, owned_by(name) as live:
        create_backup(url_of(live), tmp_path / "file")
        with left_as_it_was(live, r"permission denied to create database\): make its user .*\(CREATEDB\)"):
            restored(live, tmp_path / "file")


def test_a_database_that_is_not_there_or_does_not_answer_is_told(live: Engine, file: Path) -> None:
    elsewhere = live.url.set(drivername="postgresql", database="nowhere")
    with pytest.raises(UserError, match=r'^There is no database "nowhere" to restore into: create an empty'):
        restore(elsewhere.render_as_string(hide_password=False), read_backup(file), before_swap=nothing)
    with pytest.raises(UserError, match=r"refused.*see `accession doctor`; nothing was changed\.$"):
        restore("postgresql://u:hidden@127.0.0.1:9/d", read_backup(file), before_swap=nothing)
