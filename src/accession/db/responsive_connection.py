"""Connections that do not wait for ever for a server that has fallen silent.

When a firewall forgets a connection, or a proxy stops forwarding it, nothing is closed: keepalives are
answered, and a read would never end.
"""

from typing import Any, TypeVar

import psycopg
from psycopg.abc import PQGen
from sqlalchemy import Connection, Engine, event
from sqlalchemy.engine import Dialect
from sqlalchemy.pool import ConnectionPoolEntry

# Far longer than any statement of Accession takes.
RESPONSE_SECONDS = 300.0
# A connection that rested in the pool is checked with an empty statement first.
CHECK_SECONDS = 5.0

_Result = TypeVar("_Result")


class ResponsiveConnection(psycopg.Connection[Any]):
    """A connection that is closed when the server does not complete a statement within `limit_seconds`."""

    limit_seconds: float | None = RESPONSE_SECONDS

    def wait(self, gen: PQGen[_Result], interval: float = 0.1, timeout: float | None = None) -> _Result:
        """Wait for a response.

        Raises:
            psycopg.OperationalError: there was none in time.
        """
        limit = self.limit_seconds if timeout is None else timeout
        try:
            return super().wait(gen, interval, limit)
        except psycopg.errors._WaitTimeout:
            self.pgconn.finish()
            raise psycopg.OperationalError(f"no response within {limit:g} seconds") from None


def use_responsive_connections(engine: Engine) -> None:
    """Let an engine open such connections, and check those of its pool quickly."""
    event.listen(engine, "do_connect", _connect)
    event.listen(engine, "checkin", _limit_check)
    event.listen(engine, "checkout", _limit_statements)


def _connect(_: Dialect, __: ConnectionPoolEntry, arguments: Any, parameters: Any) -> psycopg.Connection[Any]:
    return ResponsiveConnection.connect(*arguments, **parameters)


def _limit_check(connection: object, _: ConnectionPoolEntry) -> None:
    _set_limit(connection, CHECK_SECONDS)


def _limit_statements(connection: object, *_: object) -> None:
    _set_limit(connection, RESPONSE_SECONDS)


def wait_without_limit(connection: Connection) -> None:
    """Let a checked-out connection wait for as long as its statements take."""
    _set_limit(connection.connection.driver_connection, None)


def _set_limit(connection: object, seconds: float | None) -> None:
    # The pool passes None for a connection that is closed already.
    if isinstance(connection, ResponsiveConnection):
        connection.limit_seconds = seconds
