"""Sessions that keep rows locked are named, without the values of their statements."""

from collections.abc import Iterator

import psycopg
import pytest
from sqlalchemy import Connection, text
from sqlalchemy.orm import Session

from accession.db import engine as engine_module
from accession.db.blocking import describe_lock_timeout, find_blocking_sessions
from accession.db.engine import engine
from accession.db.models import Collection
from tests.fixtures.commands import Cli
from tests.fixtures.factories import BackgroundThread
from tests.fixtures.servers import close_connections
from tests.fixtures.waiting import wait_until
from tests.fixtures.web_client import Browser

UPDATE = "UPDATE collections SET name = 'Elm ''Library'' ' WHERE id = 1 AND 4711 = 4711"
SHOWN = "UPDATE collections SET name = ? WHERE id = ? AND ? = ?"


@pytest.fixture
def holder(session: Session, collection: Collection) -> Iterator[Connection]:
    """A connection with an open transaction that has locked the row of the collection."""
    with engine().connect() as connection:
        connection.execute(text("SET application_name = 'psql'"))
        connection.execute(text(UPDATE))
        yield connection
        connection.rollback()


@pytest.fixture
def waiting(holder: Connection) -> Iterator[None]:
    """A session that waits for the holder."""

    def wait() -> None:
        with engine().begin() as connection:
            connection.execute(text("SET LOCAL lock_timeout = 0"))
            connection.execute(text("SELECT FROM collections FOR UPDATE"))

    thread = BackgroundThread(wait)
    with Session(engine()) as observer:
        wait_until(lambda: _is_waiting(observer), "a session waits")
    yield
    holder.rollback()
    thread.finish()


def _is_waiting(observer: Session) -> bool:
    is_waiting = bool(find_blocking_sessions(observer))
    observer.rollback()
    return is_waiting


def pid_of(connection: Connection) -> int:
    """Return the process of a connection on the server, without a statement."""
    driver_connection = connection.connection.driver_connection
    assert isinstance(driver_connection, psycopg.Connection)
    return driver_connection.info.backend_pid


def test_session_that_others_wait_for_is_described(
    session: Session, holder: Connection, waiting: None
) -> None:
    (blocking,) = find_blocking_sessions(session)

    assert blocking.pid == pid_of(holder)
    assert (blocking.application, blocking.waiting) == ("psql", 1)
    assert blocking.user
    assert blocking.since is not None


def test_values_of_statements_are_left_out(session: Session, holder: Connection, waiting: None) -> None:
    (blocking,) = find_blocking_sessions(session)

    assert blocking.is_idle
    assert blocking.query == SHOWN
    assert blocking.description.endswith(f"UTC, idle after: {SHOWN})")


def test_no_session_is_blocking_without_waits(session: Session, holder: Connection) -> None:
    assert find_blocking_sessions(session) == []


@pytest.mark.usefixtures("waiting")
def test_doctor_and_about_name_the_session(holder: Connection, cli: Cli, browser: Browser) -> None:
    pid = pid_of(holder)

    doctor = cli("doctor").stdout
    assert f"1 wait for process {pid} (user" in doctor
    assert f"pg_terminate_backend({pid})" in doctor
    assert f"Keeps rows locked: process {pid} (user" in cli("about").stdout
    assert f"process {pid} (user" in browser.get("/about").text
    (blocking,) = browser.get("/api/v1/about").json()["blocking_sessions"]
    assert (blocking["pid"], blocking["query"]) == (pid, SHOWN)


def test_command_that_waited_too_long_names_the_session(
    holder: Connection, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    pid = pid_of(holder)
    monkeypatch.setitem(engine_module._SESSION_OPTIONS, "lock_timeout", "20ms")
    close_connections(engine())

    error = cli("collections", "remove", "Alder Library", "--yes").error

    assert error.startswith(f"Another session of the database keeps rows locked: process {pid} (user ")
    assert error.endswith(
        f"idle after: {SHOWN}); let it end, or end it with SELECT pg_terminate_backend({pid}), and repeat "
        "the command."
    )
    close_connections(engine())


def test_lock_timeout_names_no_vacuum_while_rows_are_locked(session: Session, collection: Collection) -> None:
    """A vacuum lets others write, however long it takes."""
    with engine().connect() as vacuum, engine().connect() as writer:
        vacuum.execute(text("LOCK TABLE collections IN SHARE UPDATE EXCLUSIVE MODE"))
        writer.execute(text(UPDATE))

        assert f"process {pid_of(writer)} (" in describe_lock_timeout()


def test_lock_timeout_without_a_holder_asks_to_repeat(session: Session) -> None:
    assert describe_lock_timeout() == "The database kept rows locked for too long: repeat the command."
