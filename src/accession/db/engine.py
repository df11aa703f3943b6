"""Database engine of this process, and sessions on it."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import psycopg
from psycopg import Connection, pq, sql
from psycopg.conninfo import timeout_from_conninfo
from psycopg.types.array import ListBinaryDumper
from sqlalchemy import URL, Engine, create_engine, event, func, select, text
from sqlalchemy import Connection as DatabaseConnection
from sqlalchemy.exc import DBAPIError, OperationalError
from sqlalchemy.orm import Session, SessionTransaction
from sqlalchemy.pool import ConnectionPoolEntry

from accession.core.database_url import parse_database_url
from accession.core.errors import UserError
from accession.core.settings import get_settings
from accession.db.responsive_connection import use_responsive_connections

MIN_POSTGRESQL_VERSION = 15

# Each end notices within 25 seconds that the other has disappeared, for example by a loss of power. Otherwise
# a client would wait for its response for minutes, and the server would keep a dead client's locks for hours.
_KEEPALIVES = {"keepalives_idle": "10", "keepalives_interval": "5", "keepalives_count": "3"}
_TCP_USER_TIMEOUT = {"tcp_user_timeout": "25000"}
SOCKET_PARAMETERS = {**_KEEPALIVES, **_TCP_USER_TIMEOUT}
"""Connection parameters of libpq; every connection has them unless the URL of the database names others."""
# Transactions last milliseconds, so these times pass only if something is wrong.
_TRANSACTION_OPTIONS = {"lock_timeout": "20s", "idle_in_transaction_session_timeout": "5min"}
_SESSION_OPTIONS = {
    **{f"tcp_{name}": value for name, value in _KEEPALIVES.items()},
    **_TCP_USER_TIMEOUT,
    **_TRANSACTION_OPTIONS,
}

_IS_POOLED = "is_pooled"


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


def make_engine(url: str, *, database: str | None = None) -> Engine:
    """Create an engine for `url`, in UTC; `database` replaces the name of the database in it.

    Raises:
        UserError: the URL is malformed or contains an unknown parameter.
    """
    parameters = connection_parameters(url)
    if database is not None:
        parameters["dbname"] = database
    host, port = parameters.get("host", ""), parameters.get("port", "")
    is_socket = host.startswith("/")
    # For display: the parameters below take precedence, and also have the ports of several hosts.
    displayed_url = URL.create(
        "postgresql+psycopg",
        parameters.get("user"),
        parameters.get("password"),
        None if is_socket else host,
        int(port) if port.isdecimal() else None,
        parameters.get("dbname"),
        {"host": host} if is_socket else {},
    )
    new_engine = create_engine(
        displayed_url,
        pool_pre_ping=True,
        # Error messages go into logs and the run ledger; the values of a statement must not.
        hide_parameters=True,
        connect_args={
            "application_name": "accession",
            "connect_timeout": 10,
            **SOCKET_PARAMETERS,
            **parameters,
        },
    )
    use_responsive_connections(new_engine)
    event.listen(new_engine, "connect", _configure_connection)
    return new_engine


def connection_parameters(url: str) -> dict[str, str]:
    """Return the connection parameters of libpq that a URL contains.

    Raises:
        UserError: the URL is malformed or contains an unknown parameter.
    """
    try:
        parameters = parse_database_url(url)
        timeout_from_conninfo({**parameters})
    except (ValueError, psycopg.ProgrammingError) as error:
        raise UserError(f"The URL of the database is invalid: {error}.") from None
    known = {option.keyword.decode() for option in pq.Conninfo.get_defaults()}
    for name in parameters:
        if name not in known:
            raise UserError(
                f"The URL of the database contains the unknown parameter {name}: remove it, or enter one of "
                "PostgreSQL's connection parameters, such as sslmode."
            )
    return parameters


def is_pooled(connection: Connection[Any]) -> bool:
    """Return whether a connection pooler such as PgBouncer is between this process and PostgreSQL.

    A pooler announces a process id of its own, and may use another session for each transaction.
    """
    pid = connection.execute("SELECT pg_backend_pid()").fetchone()
    return pid != (connection.info.backend_pid,)


def _configure_connection(connection: Connection[Any], record: ConnectionPoolEntry) -> None:
    # psycopg's default is text, in which it has to escape every quotation mark of each element.
    connection.adapters.register_dumper(list, ListBinaryDumper)
    connection.autocommit = True
    options = {"timezone": "UTC"}
    record.info[_IS_POOLED] = is_pooled(connection)
    if record.info[_IS_POOLED]:
        # Sessions are shared by clients: a pooler restores the time zone of each, but nothing else.
        connection.prepare_threshold = None
    else:
        options |= _SESSION_OPTIONS
    calls = sql.SQL(", ").join(
        sql.SQL("set_config({}, {}, false)").format(name, value) for name, value in options.items()
    )
    connection.execute(sql.SQL("SELECT {}").format(calls))
    connection.autocommit = False


@event.listens_for(Session, "after_begin")
def _limit_pooled_transaction(_: Session, __: SessionTransaction, connection: DatabaseConnection) -> None:
    """Set the time limits that a session without a pooler has from its beginning."""
    isolation_level = connection.get_execution_options().get("isolation_level")
    if connection.info.get(_IS_POOLED) and isolation_level != "AUTOCOMMIT":
        limits = (func.set_config(name, value, True) for name, value in _TRANSACTION_OPTIONS.items())
        connection.execute(select(*limits))


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
        self.has_begun = False
        self.on_begin: Callable[[], object] = lambda: None
        """Called first in the transaction, to lock what was read and check that it is unchanged."""

    def begin_writing(self) -> None:
        """Begin the transaction, unless it has begun already."""
        if not self.has_begun:
            self.has_begun = True
            self.commit()
            self._connection.execution_options(isolation_level="READ COMMITTED")
            self.on_begin()


@contextmanager
def late_transaction() -> Iterator[LateTransaction]:
    """Open a session whose transaction begins late; committed at the end, rolled back by an exception.

    A change of an object is not written if the transaction has never begun.
    """
    with engine().connect() as connection, LateTransaction(connection) as session:
        yield session
        # To look for changes would take a twentieth of the CPU time of an empty window's step.
        if session.has_begun:
            session.commit()


def begin_writing(session: Session) -> None:
    """Begin the transaction of a `LateTransaction`; that of another session has begun already."""
    if isinstance(session, LateTransaction):
        session.begin_writing()


def has_begun_writing(session: Session) -> bool:
    """Return whether the transaction of a `LateTransaction` has begun; that of another session has."""
    return not isinstance(session, LateTransaction) or session.has_begun


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


def server_address(database: Engine) -> str:
    """Return host and port of the server that the engine is connected to, or the folder of its socket."""
    with database.connect() as connection:
        info = connection.connection.driver_connection.info  # type: ignore[union-attr]
        return info.host if info.host.startswith("/") else f"{info.host}:{info.port}"


def database_unavailable(error: OperationalError | None = None) -> str:
    """Return the message for a user when the database cannot be reached.

    The first line of the driver's message is quoted; leave `error` out where its host must not be shown.
    """
    cause = "" if error is None else f" ({str(error.orig).strip().splitlines()[0]})"
    return (
        f"The database is unavailable{cause}: "
        "check that it is running and that ACCESSION_DATABASE_URL is correct."
    )


def permission_denied(error: DBAPIError) -> str | None:
    """Return the message for a user whose role lacks a privilege; None for another error."""
    if not isinstance(error.orig, psycopg.errors.InsufficientPrivilege):
        return None
    return (
        f"PostgreSQL refuses the user of ACCESSION_DATABASE_URL ({str(error.orig).splitlines()[0]}): "
        "make this user the owner of the database and of its tables."
    )


def dispose_engine() -> None:
    """Drop the connections inherited from the parent process without closing them; call it after a fork."""
    if engine.cache_info().currsize:
        engine().dispose(close=False)
