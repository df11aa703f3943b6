"""The engine: the one driver, in UTC, and nothing of what is stored in an error's text."""

from collections.abc import Iterator
from typing import Any

import pytest
from pydantic import SecretStr
from sqlalchemy import event, func, make_url, select, text
from sqlalchemy.exc import DataError, OperationalError
from sqlalchemy.orm import Session

from accession.core.errors import UserError
from accession.core.settings import Settings, get_settings, use_settings
from accession.db import engine as database
from accession.db.engine import dispose_engine, make_engine, transaction
from accession.db.models import Identifier
from accession.local.servers import ServerUrls


@pytest.fixture
def engine_anew() -> Iterator[None]:
    """No engine yet; afterwards settings and engine are as they were."""
    before, cached = get_settings(), database.engine
    database.engine = database.cache(cached.__wrapped__)  # type: ignore[attr-defined]
    yield
    database.engine = cached
    use_settings(before)


@pytest.mark.parametrize("scheme", ["postgresql", "postgres", "postgresql+psycopg2", "postgresql+asyncpg"])
def test_whichever_driver_a_url_names_it_is_psycopg_3(servers: ServerUrls, scheme: str) -> None:
    url = scheme + "://" + servers.database_url.partition("://")[2]

    other = make_engine(url)
    with other.connect() as connection:
        assert connection.dialect.driver == "psycopg"
        assert connection.scalar(text("SELECT 1")) == 1
    other.dispose()


def test_a_session_is_in_utc_whatever_the_server_thinks(session: Session) -> None:
    assert session.scalar(text("SHOW timezone")) == "UTC"
    assert session.scalar(text("SHOW application_name")) == "accession"


def test_an_errors_text_holds_nothing_of_what_a_statement_was_given(session: Session) -> None:
    with pytest.raises(DataError) as error:
        session.execute(text("SELECT 1 / 0 WHERE 'x' <> :given"), {"given": "what-was-given"})

    assert "division by zero" in str(error.value)
    assert "what-was-given" not in str(error.value)


def test_an_errors_text_does_not_hold_the_password(servers: ServerUrls) -> None:
    url = make_url(servers.database_url).set(database="nowhere", password="s3cret")

    with pytest.raises(OperationalError) as error:
        make_engine(url.render_as_string(hide_password=False)).connect()

    assert "s3cret" not in str(error.value)


def test_a_transaction_is_committed_at_its_end(session: Session) -> None:
    with transaction() as mine:
        mine.add(Identifier(type="x", identifier="y"))

    assert session.scalar(select(func.count()).select_from(Identifier)) == 1


def test_an_exception_rolls_a_transaction_back(session: Session) -> None:
    def fail() -> None:
        with transaction() as mine:
            mine.add(Identifier(type="x", identifier="y"))
            mine.flush()
            raise RuntimeError("crash")

    with pytest.raises(RuntimeError, match="crash"):
        fail()

    assert session.scalar(select(func.count()).select_from(Identifier)) == 0


def test_without_a_database_a_person_is_told_how_to_get_one(engine_anew: None) -> None:
    use_settings(Settings(database_url=None))

    with pytest.raises(UserError, match="No database is running: start one with `accession up`, or set"):
        database.engine()


def test_a_process_has_one_engine(engine_anew: None, servers: ServerUrls) -> None:
    use_settings(Settings(database_url=SecretStr(servers.database_url)))

    first = database.engine()

    assert database.engine() is first
    first.dispose()


def test_a_child_leaves_its_parents_connections_open(engine_anew: None, servers: ServerUrls) -> None:
    use_settings(Settings(database_url=SecretStr(servers.database_url)))
    made: list[Any] = []
    event.listen(database.engine(), "connect", lambda connection, _: made.append(connection))
    with database.engine().connect() as connection:
        parents = connection.scalar(text("SELECT pg_backend_pid()"))

    dispose_engine()

    with database.engine().connect() as connection:
        assert connection.scalar(text("SELECT pg_backend_pid()")) != parents
    with made[0] as connection:
        assert connection.execute("SELECT pg_backend_pid()").fetchone() == (parents,)
    database.engine().dispose()


def test_a_child_of_a_process_without_an_engine_makes_none(engine_anew: None) -> None:
    dispose_engine()

    assert database.engine.cache_info().currsize == 0
