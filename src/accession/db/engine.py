"""Database engine of this process, and sessions on it."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

from psycopg import Connection
from psycopg.types.array import ListBinaryDumper
from sqlalchemy import Connection as DatabaseConnection
from sqlalchemy import Engine, create_engine, event, func, make_url, select, text
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from accession.core.errors import UserError
from accession.core.settings import get_settings

MIN_POSTGRESQL_VERSION = 15

# Each end notices within 25 seconds that the other has disappeared, for example by a loss of power. Otherwise
# a client would wait for its response for minutes, and the server would keep a dead client's locks for hours.
_KEEPALIVES = {"keepalives_idle": 10, "keepalives_interval": 5, "keepalives_count": 3}
_TCP_USER_TIMEOUT_MS = 25_000
_SERVER_OPTIONS = {
    "timezone": "UTC",
    **{f"tcp_{name}": value for name, value in _KEEPALIVES.items()},
    "tcp_user_timeout": _TCP_USER_TIMEOUT_MS,
    # Transactions last milliseconds, so these times pass only if something is wrong.
    "lock_timeout": "60s",
    "idle_in_transaction_session_timeout": "5min",
}


@cache
def engine() -> Engine:
    """Return this process's engine for the configured database.

    Raises:
        UserError: no database is configured: `accession up` has not started the embedded one.
    """
    url = get_settings().database_url
    if url is None:
        raise UserError(
            "No database is running: start one with `accession up`, or set ACCESSION_DATABASE_URL."
        )
    return make_engine(url.get_secret_value())


def make_engine(url: str) -> Engine:
    """Create an engine for `url`, in UTC, with the psycopg 3 driver whichever driver the URL names."""
    new_engine = create_engine(
        make_url(url).set(drivername="postgresql+psycopg"),
        pool_pre_ping=True,
        # Error messages go into logs and the run ledger; the values of a statement must not.
        hide_parameters=True,
        connect_args={
            "application_name": "accession",
            "connect_timeout": 10,
            "tcp_user_timeout": _TCP_USER_TIMEOUT_MS,
            "options": " ".join(f"-c {name}={value}" for name, value in _SERVER_OPTIONS.items()),
            **_KEEPALIVES,
        },
    )
    event.listen(new_engine, "connect", _send_arrays_in_binary)
    return new_engine


def _send_arrays_in_binary(connection: Connection[Any], _: object) -> None:
    # psycopg's default is text, in which it has to escape every quotation mark of each element.
    connection.adapters.register_dumper(list, ListBinaryDumper)


@contextmanager
def transaction(statement_timeout_ms: int | None = None) -> Iterator[Session]:
    """Open a session with a transaction: committed at the end, rolled back by an exception.

    The database cancels a statement that takes longer than the timeout; None means no limit.
    """
    with Session(engine()) as session, session.begin():
        if statement_timeout_ms is not None:
            session.execute(select(func.set_config("statement_timeout", str(statement_timeout_ms), True)))
        yield session


class LateTransaction(Session):
    """A session that reads without a transaction until `begin_writing` opens its only one.

    So no transaction is open and no row is locked while the caller waits for the vendor between its reads.
    Objects that were loaded before the transaction keep the values that they had then.
    """

    def __init__(self, connection: DatabaseConnection) -> None:
        connection.execution_options(isolation_level="AUTOCOMMIT")
        super().__init__(connection, expire_on_commit=False)
        self._connection = connection
        self._has_begun = False
        self.on_begin: Callable[[], object] = lambda: None
        """Called first in the transaction, to lock what was read and check that it is unchanged."""

    def begin_writing(self) -> None:
        """Begin the transaction, unless it has begun already."""
        if not self._has_begun:
            self._has_begun = True
            self.commit()
            self._connection.execution_options(isolation_level="READ COMMITTED")
            self.on_begin()


@contextmanager
def late_transaction() -> Iterator[LateTransaction]:
    """Open a session whose transaction begins late; committed at the end, rolled back by an exception."""
    with engine().connect() as connection, LateTransaction(connection) as session:
        yield session
        session.commit()


def begin_writing(session: Session) -> None:
    """Begin the transaction of a `LateTransaction`; that of another session has begun already."""
    if isinstance(session, LateTransaction):
        session.begin_writing()


@contextmanager
def snapshot() -> Iterator[Session]:
    """Open a read-only session that sees the database as of one moment, however long it reads.

    It may be idle for long, while a client reads what it has exported.
    """
    with Session(engine()) as session:
        options = {"isolation_level": "REPEATABLE READ", "postgresql_readonly": True}
        session.connection(execution_options=options)
        session.execute(text("SET LOCAL idle_in_transaction_session_timeout = 0"))
        yield session


def server_version(database: Engine) -> str:
    """Return the version of the PostgreSQL server, such as "18.1"."""
    with database.connect() as connection:
        version: str = connection.scalar(text("SHOW server_version"))
    return version


def database_unavailable(error: OperationalError | None = None) -> str:
    """Return the message for a user when the database cannot be reached.

    The first line of the driver's message is quoted; leave `error` out where its host must not be shown.
    """
    cause = "" if error is None else f" ({str(error.orig).strip().splitlines()[0]})"
    return (
        f"The database is unavailable{cause}: "
        "check that it is running and that ACCESSION_DATABASE_URL is correct."
    )


def dispose_engine() -> None:
    """Drop the connections inherited from the parent process without closing them; call it after a fork."""
    if engine.cache_info().currsize:
        engine().dispose(close=False)
