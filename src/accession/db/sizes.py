"""Sizes of the tables, and how they have grown."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta

from sqlalchemy import delete, func, select, text
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from accession.db.models import Base, TableSize

GROWTH_DAYS = 30
"""Growth is measured over so many days, or over as many as are known."""

_KEPT_DAYS = 730
# Autovacuum updates the number of live rows; that of the planner is all that is left after a crash.
_SIZES = text("""
    SELECT relname, pg_total_relation_size(pg_class.oid),
           greatest(coalesce(nullif(pg_stat_get_live_tuples(pg_class.oid), 0), reltuples::bigint), 0)
    FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind = 'r'
""")


@dataclass(frozen=True)
class TableSizeView:
    """Size of a table with its indexes.

    `rows` is an estimate. `bytes_per_day` is the growth over the last days; None while it is unknown.
    """

    name: str
    rows: int
    bytes: int
    bytes_per_day: float | None


def table_sizes(session: Session, now: datetime) -> list[TableSizeView]:
    """Return the sizes of all tables, largest first."""
    before = _sizes_before(session, now)
    views = [
        TableSizeView(name, rows, size, _growth(name, size, before, now))
        for name, size, rows in session.execute(_SIZES)
        if name in Base.metadata.tables
    ]
    return sorted(views, key=lambda view: (-view.bytes, view.name))


def total_size(tables: Sequence[TableSizeView]) -> tuple[int, float | None]:
    """Return the size of all tables in bytes, and its growth per day; None while it is unknown."""
    known = [table.bytes_per_day for table in tables if table.bytes_per_day is not None]
    return sum(table.bytes for table in tables), sum(known) if known else None


def record_table_sizes(session: Session, now: datetime) -> None:
    """Store the sizes of all tables, once a day, and delete those of two years ago."""
    sizes = [
        {"day": now.date(), "name": name, "bytes": size, "rows": rows}
        for name, size, rows in session.execute(_SIZES)
        if name in Base.metadata.tables
    ]
    session.execute(insert(TableSize).values(sizes).on_conflict_do_nothing())
    session.execute(delete(TableSize).where(TableSize.day < now.date() - timedelta(days=_KEPT_DAYS)))


def sizes_by_day(session: Session, since: date) -> list[tuple[date, int]]:
    """Return the size of all tables together on each day from `since` on, in bytes."""
    query = select(TableSize.day, func.sum(TableSize.bytes)).where(TableSize.day >= since)
    rows = session.execute(query.group_by(TableSize.day).order_by(TableSize.day))
    return [(day, int(size)) for day, size in rows]


def _sizes_before(session: Session, now: datetime) -> Mapping[str, tuple[date, int]]:
    """Return the earliest size of each table in the time over which growth is measured."""
    query = (
        select(TableSize.name, TableSize.day, TableSize.bytes)
        .where(TableSize.day >= now.date() - timedelta(days=GROWTH_DAYS), TableSize.day < now.date())
        .order_by(TableSize.day.desc())
    )
    # An earlier row of the same table replaces a later one.
    return {name: (day, size) for name, day, size in session.execute(query)}


def _growth(name: str, size: int, before: Mapping[str, tuple[date, int]], now: datetime) -> float | None:
    if name not in before:
        return None
    day, earlier = before[name]
    return (size - earlier) / (now.date() - day).days
