"""Sessions of the database server that hold locks for which others wait."""

import re
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import psycopg
from sqlalchemy import Row, text
from sqlalchemy.exc import OperationalError, SQLAlchemyError
from sqlalchemy.orm import Session

from accession.core.sanitize import sanitize
from accession.db.engine import engine

_MAX_QUERY_LENGTH = 120
_LITERAL = re.compile(r"'(?:[^']|'')*'|\$(\w*)\$.*?\$\1\$|\b\d+(?:\.\d+)?\b", re.DOTALL)

# A session that waits itself is left out: ending it would help nobody.
_BLOCKING = text("""
    SELECT blocking.pid, blocking.usename, blocking.application_name, blocking.state, blocking.query,
           blocking.xact_start, count(*) AS waiting, min(waiting.query_start) AS waiting_since
    FROM pg_stat_activity waiting
    CROSS JOIN LATERAL unnest(pg_blocking_pids(waiting.pid)) AS blocker (pid)
    JOIN pg_stat_activity blocking ON blocking.pid = blocker.pid
    WHERE waiting.datname = current_database() AND waiting.wait_event_type = 'Lock'
      AND cardinality(pg_blocking_pids(blocking.pid)) = 0
    GROUP BY 1, 2, 3, 4, 5, 6
    ORDER BY waiting_since
""")

# Of a transaction that has just stopped waiting, PostgreSQL no longer knows for whom it waited. Those that
# only read, and vacuums, let others write.
_OLDEST_HOLDER = text("""
    SELECT activity.pid, activity.usename, activity.application_name, activity.state, activity.query,
           activity.xact_start, 1 AS waiting, activity.xact_start AS waiting_since
    FROM pg_stat_activity activity
    WHERE activity.datname = current_database() AND activity.pid <> pg_backend_pid()
      AND EXISTS (
          SELECT FROM pg_locks lock
          WHERE lock.pid = activity.pid AND lock.granted AND lock.locktype = 'relation'
            AND lock.mode NOT IN ('AccessShareLock', 'ShareUpdateExclusiveLock')
      )
    ORDER BY activity.xact_start LIMIT 1
""")


@dataclass(frozen=True)
class BlockingSession:
    """A session that holds locks for which others wait.

    Attributes:
        pid: Its process on the database server.
        user: Its role; None if the own role may not see it.
        application: The name that its program gives itself.
        since: Begin of its transaction (UTC); None for autovacuum.
        is_idle: It does nothing with its open transaction.
        query: Its latest statement without values; empty if the own role may not see it.
        waiting: Number of sessions that wait for it.
        waiting_since: Since when the first of them waits (UTC).
    """

    pid: int
    user: str | None
    application: str
    since: datetime | None
    is_idle: bool
    query: str
    waiting: int
    waiting_since: datetime | None

    @property
    def description(self) -> str:
        """The session in words, such as "process 4711 (user ann, psql, idle after: UPDATE ...)"."""
        parts = [f"user {self.user}" if self.user else "", self.application]
        parts.append(f"since {self.since:%Y-%m-%d %H:%M} UTC" if self.since else "")
        state = "idle after" if self.is_idle else "running"
        parts.append(f"{state}: {self.query}" if self.query else "")
        return f"process {self.pid} ({', '.join(filter(None, parts))})"


def find_blocking_sessions(session: Session) -> list[BlockingSession]:
    """Return the sessions for which others wait, that for the longest wait first."""
    return [_blocking_session(row) for row in session.execute(_BLOCKING)]


def is_lock_timeout(error: BaseException) -> bool:
    """Return whether the statement was cancelled because it waited too long for a lock."""
    return isinstance(error, OperationalError) and isinstance(error.orig, psycopg.errors.LockNotAvailable)


def describe_lock_timeout() -> str:
    """Return the message for a user whose statement has waited too long for rows or a table."""
    try:
        with engine().connect() as connection:
            row = connection.execute(_OLDEST_HOLDER).one_or_none()
    except SQLAlchemyError:
        row = None
    if row is None:
        return "The database kept rows locked for too long: repeat the command."
    holder = _blocking_session(row)
    return (
        f"Another session of the database keeps rows locked: {holder.description}; let it end, or end it "
        f"with SELECT pg_terminate_backend({holder.pid}), and repeat the command."
    )


def _blocking_session(row: Row[Any]) -> BlockingSession:
    return BlockingSession(
        pid=row.pid,
        user=row.usename,
        application=sanitize(row.application_name or ""),
        since=row.xact_start,
        is_idle=(row.state or "").startswith("idle"),
        query=_without_values(row.query or ""),
        waiting=row.waiting,
        waiting_since=row.waiting_since,
    )


def _without_values(query: str) -> str:
    text_only = " ".join(sanitize(_LITERAL.sub("?", query)).split())
    is_hidden = text_only.startswith("<insufficient privilege>")
    return "" if is_hidden else text_only[:_MAX_QUERY_LENGTH]
