"""Engine and sessions: driver, time zone, errors, forks."""

from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import psycopg
import pytest
from psycopg.pq import TransactionStatus
from pydantic import SecretStr
from sqlalchemy import event, func, make_url, select, text
from sqlalchemy.exc import DataError, OperationalError
from sqlalchemy.orm import Session

from accession.core.errors import UserError
from accession.core.settings import Settings, get_settings, use_settings
from accession.db import engine as database
from accession.db.engine import (
    begin_writing,
    dispose_engine,
    late_transaction,
    make_engine,
    snapshot,
    transaction,
)
from accession.db.models import Collection, Identifier
from accession.local.servers import ServerUrls
from tests.fixtures.servers import close_connections


@pytest.fixture
def no_engine() -> Iterator[None]:
    """A process without an engine; restores engine and settings."""
    before, cached = get_settings(), database.engine
    database.engine = database.cache(cached.__wrapped__)  # type: ignore[attr-defined]
    yield
    if database.engine.cache_info().currsize:
        close_connections(database.engine())
    database.engine = cached
    use_settings(before)


@pytest.mark.parametrize("scheme", ["postgresql", "postgres", "postgresql+psycopg"])
def test_engine_uses_psycopg_3_for_any_scheme_of_url(servers: ServerUrls, scheme: str) -> None:
    url = scheme + "://" + servers.database_url.partition("://")[2]

    engine = make_engine(url)
    with engine.connect() as connection:
        assert connection.dialect.driver == "psycopg"
        assert connection.scalar(text("SELECT 1")) == 1
    engine.dispose()


def test_parameters_of_url_take_precedence(servers: ServerUrls) -> None:
    parameters = "application_name=library&options=-c%20work_mem%3D8MB"

    engine = make_engine(f"{servers.database_url}&{parameters}")
    with engine.connect() as connection:
        assert connection.scalar(text("SHOW application_name")) == "library"
        assert connection.scalar(text("SHOW work_mem")) == "8MB"
        assert connection.scalar(text("SHOW lock_timeout")) == "20s"
    engine.dispose()


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("postgresql://u:s3cret@h/db?sslmod=require", "contains the unknown parameter sslmod: remove it"),
        ("postgresql://u:s3cret@h/db?connect_timeout=x", "invalid: bad value for connect_timeout: 'x'."),
        ("postgresql://u:s3cret@h:port/db", "invalid: enter it as postgresql://user:password@host:port/"),
    ],
)
def test_invalid_url_is_refused_without_password(url: str, reason: str) -> None:
    with pytest.raises(UserError) as error:
        make_engine(url)

    assert reason in str(error.value)
    assert "s3cret" not in str(error.value)


def test_session_is_in_utc(session: Session) -> None:
    assert session.scalar(text("SHOW timezone")) == "UTC"
    assert session.scalar(text("SHOW application_name")) == "accession"


def test_waiting_sessions_have_time_limits(session: Session) -> None:
    assert session.scalar(text("SHOW lock_timeout")) == "20s"
    assert session.scalar(text("SHOW idle_in_transaction_session_timeout")) == "5min"


def test_snapshot_may_be_idle_for_long(servers: ServerUrls) -> None:
    with snapshot() as reading:
        assert reading.scalar(text("SHOW idle_in_transaction_session_timeout")) == "0"


def transaction_status(session: Session) -> TransactionStatus:
    connection = session.connection().connection.driver_connection
    assert isinstance(connection, psycopg.Connection)
    return connection.info.transaction_status


def test_late_transaction_begins_before_the_first_write(collection: Collection) -> None:
    collection_id = collection.id
    with late_transaction() as session:
        collection_read = session.get_one(Collection, collection_id)
        assert transaction_status(session) == TransactionStatus.IDLE
        session.on_begin = lambda: session.execute(select(Collection).with_for_update())

        begin_writing(session)
        assert transaction_status(session) == TransactionStatus.INTRANS
        collection_read.name = "Birch Library"
        begin_writing(session)
    with transaction() as session_afterwards:
        assert session_afterwards.get_one(Collection, collection_id).name == "Birch Library"


def test_late_transaction_is_rolled_back_by_an_error(collection: Collection) -> None:
    collection_id = collection.id
    with suppress(ZeroDivisionError), late_transaction() as session:
        begin_writing(session)
        session.get_one(Collection, collection_id).name = "Birch Library"
        session.flush()
        raise ZeroDivisionError
    with transaction() as session_afterwards:
        assert session_afterwards.get_one(Collection, collection_id).name == "Alder Library"
        assert transaction_status(session_afterwards) == TransactionStatus.INTRANS


def test_error_message_has_no_statement_parameters(session: Session) -> None:
    with pytest.raises(DataError) as error:
        session.execute(text("SELECT 1 / 0 WHERE 'x' <> :value"), {"value": "the-parameter"})

    assert "division by zero" in str(error.value)
    assert "the-parameter" not in str(error.value)


def test_error_message_has_no_password(servers: ServerUrls) -> None:
    url = make_url(servers.database_url).set(database="nowhere", password="s3cret")

    with pytest.raises(OperationalError) as error:
        make_engine(url.render_as_string(hide_password=False)).connect()

    assert "s3cret" not in str(error.value)


def test_transaction_is_committed_at_its_end(session: Session) -> None:
    with transaction() as other:
        other.add(Identifier(type="x", identifier="y"))

    assert session.scalar(select(func.count()).select_from(Identifier)) == 1


def test_exception_rolls_transaction_back(session: Session) -> None:
    def fail() -> None:
        with transaction() as other:
            other.add(Identifier(type="x", identifier="y"))
            other.flush()
            raise RuntimeError("crash")

    with pytest.raises(RuntimeError, match="crash"):
        fail()

    assert session.scalar(select(func.count()).select_from(Identifier)) == 0


def test_missing_database_url_is_reported_with_advice(no_engine: None) -> None:
    use_settings(Settings(database_url=None))

    with pytest.raises(UserError, match="No database is running: start one with `accession up`, or set"):
        database.engine()


def test_process_has_one_engine(no_engine: None, servers: ServerUrls) -> None:
    use_settings(Settings(database_url=SecretStr(servers.database_url)))

    first = database.engine()

    assert database.engine() is first


def test_disposed_engine_keeps_parent_connections_open(no_engine: None, servers: ServerUrls) -> None:
    use_settings(Settings(database_url=SecretStr(servers.database_url)))
    connections: list[Any] = []
    event.listen(database.engine(), "connect", lambda connection, _: connections.append(connection))
    with database.engine().connect() as connection:
        parent_pid = connection.scalar(text("SELECT pg_backend_pid()"))

    dispose_engine()

    with database.engine().connect() as connection:
        assert connection.scalar(text("SELECT pg_backend_pid()")) != parent_pid
    with connections[0] as connection:
        assert connection.execute("SELECT pg_backend_pid()").fetchone() == (parent_pid,)


def test_dispose_without_engine_creates_none(no_engine: None) -> None:
    dispose_engine()

    assert database.engine.cache_info().currsize == 0
