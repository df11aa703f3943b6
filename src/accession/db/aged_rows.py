"""Rows that are deleted because of their age, in small batches."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, Date, Select, delete, func, select, text, tuple_, update
from sqlalchemy.orm import InstrumentedAttribute, Session

from accession.core.clock import utc_now
from accession.db.models import Base, table_of

_MAX_EXACT_COUNT = 10_000
_LOCK_TIMEOUT = "1s"
# Nothing is older: the vendor's data begin in 2014.
_FIRST_DAY = date(2014, 1, 1)


@dataclass(frozen=True)
class AgedRows:
    """Rows of a table that may be deleted once a time or day of theirs is old.

    Attributes:
        model: The table.
        time: Column with the time or the day; it has an index.
        conditions: Which rows of the table these are.
        deletable: Which of them may be deleted, however old they are.
        cleared: Values to set instead of deleting the row; then they no longer meet the conditions.
    """

    model: type[Base]
    time: InstrumentedAttribute[Any]
    conditions: Sequence[ColumnElement[bool]] = ()
    deletable: Sequence[ColumnElement[bool]] = ()
    cleared: dict[str, Any] = field(default_factory=dict)

    def select_all(self) -> Select[Any]:
        """Return a query for the rows of any age."""
        return select(self.time).where(*self.conditions)

    def select_old(self, before: datetime) -> Select[Any]:
        """Return a query for the rows from before a time that may be deleted."""
        return self.select_all().where(self._is_before(before), *self.deletable)

    def oldest(self, session: Session) -> datetime | date | None:
        """Return the earliest time or day of all rows; None without rows."""
        query = self.select_all().where(self.time.is_not(None)).order_by(self.time).limit(1)
        oldest: datetime | date | None = session.scalar(query)
        return oldest

    def delete_batch(self, session: Session, before: datetime, limit: int) -> int:
        """Delete up to `limit` rows from before a time, oldest first, and return their number.

        Rows that another transaction has locked are left for the next time.
        """
        table = table_of(self.model)
        old = (
            self.select_old(before)
            .with_only_columns(*table.primary_key.columns)
            .order_by(self.time)
            .limit(limit)
            .with_for_update(skip_locked=True, of=table)
        )
        keys = [tuple(row) for row in session.execute(old)]
        if keys:
            is_old = tuple_(*table.primary_key.columns).in_(keys)
            session.execute(
                update(table).where(is_old).values(self.cleared)
                if self.cleared
                else delete(table).where(is_old)
            )
        return len(keys)

    def _is_before(self, before: datetime) -> ColumnElement[bool]:
        return self.time < (before.date() if isinstance(self.time.type, Date) else before)


@dataclass(frozen=True)
class RowsByBlockRange(AgedRows):
    """Aged rows with a day whose index is a block range index (BRIN).

    It finds the rows up to a day, but no earliest one: to sort would read the whole table.
    """

    def oldest(self, session: Session) -> date | None:
        """Return the earliest day of all rows, found by halving the time since `_FIRST_DAY`; None without."""
        first, last = _FIRST_DAY, utc_now().date()
        if not self._has_rows_until(session, last):
            return None
        while first < last:
            middle = first + (last - first) // 2
            if self._has_rows_until(session, middle):
                last = middle
            else:
                first = middle + timedelta(days=1)
        return first

    def _has_rows_until(self, session: Session, day: date) -> bool:
        query = self.select_all().where(self.time <= day).limit(1)
        return session.scalar(query) is not None


def limit_lock_waits(session: Session) -> None:
    """Wait for locks for a second at most in this transaction, so that nobody queues behind it for long."""
    session.execute(select(func.set_config("lock_timeout", _LOCK_TIMEOUT, True)))


def count_about(session: Session, query: Select[Any]) -> int:
    """Return the number of rows of a query: exact up to 10,000, beyond that the planner's estimate."""
    first_rows = query.limit(_MAX_EXACT_COUNT + 1).subquery()
    exact = session.scalar(select(func.count()).select_from(first_rows)) or 0
    return exact if exact <= _MAX_EXACT_COUNT else max(exact, _estimate(session, query))


def _estimate(session: Session, query: Select[Any]) -> int:
    compiled = query.compile(session.get_bind(), compile_kwargs={"literal_binds": True})
    plan: list[dict[str, Any]] = session.scalar(text(f"EXPLAIN (FORMAT JSON) {_escaped(str(compiled))}"))
    return int(plan[0]["Plan"]["Plan Rows"])


def _escaped(statement: str) -> str:
    # Colons of literals and casts are no parameters.
    return statement.replace(":", r"\:")
