"""One engine per process, and sessions on it."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

from psycopg import Connection
from psycopg.types.array import ListBinaryDumper
from sqlalchemy import Engine, create_engine, event, make_url
from sqlalchemy.orm import Session

from accession.core.errors import UserError
from accession.core.settings import get_settings

OLDEST_POSTGRESQL = 15


@cache
def engine() -> Engine:
    """The process's engine for the configured database.

    Raises `UserError` when no database is configured, which is the case when embedded servers are
    meant and `accession up` has not started them.
    """
    url = get_settings().database_url
    if url is None:
        raise UserError(
            "No database is running: start one with `accession up`, or set ACCESSION_DATABASE_URL."
        )
    return make_engine(url.get_secret_value())


def make_engine(url: str) -> Engine:
    """An engine on `url`, with the psycopg 3 driver whichever driver the URL names, in UTC."""
    made = create_engine(
        make_url(url).set(drivername="postgresql+psycopg"),
        pool_pre_ping=True,
        pool_size=2,
        # An error's text goes into logs and the ledger: what was to be stored stays out of it.
        hide_parameters=True,
        connect_args={"options": "-c timezone=UTC", "application_name": "accession", "connect_timeout": 10},
    )
    event.listen(made, "connect", _send_arrays_in_binary)
    return made


def _send_arrays_in_binary(connection: Connection[Any], _: object) -> None:
    # Psycopg would rather send them as text, in which it has to escape every quotation mark of each element.
    connection.adapters.register_dumper(list, ListBinaryDumper)


@contextmanager
def transaction() -> Iterator[Session]:
    """A session in a transaction of its own, committed at the end, rolled back by an exception."""
    with Session(engine()) as session, session.begin():
        yield session


@contextmanager
def snapshot() -> Iterator[Session]:
    """A session that sees the database as it is at one moment, however long it reads, and writes nothing."""
    with Session(engine()) as session:
        options = {"isolation_level": "REPEATABLE READ", "postgresql_readonly": True}
        session.connection(execution_options=options)
        yield session


def forget_connections() -> None:
    """Leave the parent's connections to the parent: called in each child after a fork."""
    if engine.cache_info().currsize:
        engine().dispose(close=False)
