"""Storage report: sizes of the tables, what is kept for how long, and what the next pruning will delete."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time

from sqlalchemy import select
from sqlalchemy.orm import Session

from accession.core.settings import Settings
from accession.db.aged_rows import count_about
from accession.db.models import Pruning, table_of
from accession.db.sizes import TableSizeView, table_sizes, total_size
from accession.runs.retention import KINDS, RetentionKind


@dataclass(frozen=True)
class RetentionView:
    """Rows of one kind, and how long they are kept.

    Attributes:
        name: Name of the kind.
        description: Description for people.
        setting: Setting with the number of days.
        days: Number of days for which the rows are kept; None: for ever.
        rows: Their number; above 10,000 an estimate.
        bytes: Their approximate share of the tables and indexes.
        oldest: Time (UTC) of the oldest row.
        prunable_rows: Number of rows that the next pruning deletes; above 10,000 an estimate.
        prunable_bytes: Approximate space that it frees for new rows.
        pruned_at: Time (UTC) of the last pruning.
        pruned_rows: Number of rows deleted so far.
    """

    name: str
    description: str
    setting: str
    days: int | None
    rows: int
    bytes: int
    oldest: datetime | None
    prunable_rows: int
    prunable_bytes: int
    pruned_at: datetime | None
    pruned_rows: int


@dataclass(frozen=True)
class StorageReport:
    """Sizes of all tables, and the kinds of rows that are deleted at some age.

    `bytes` is the size of all tables and indexes. `bytes_per_day` is their growth over the last days; None
    while it is unknown.
    """

    bytes: int
    bytes_per_day: float | None
    retention: Sequence[RetentionView]
    tables: Sequence[TableSizeView]


def storage_report(session: Session, settings: Settings, now: datetime) -> StorageReport:
    """Return the sizes of the tables, and what is kept for how long."""
    tables = table_sizes(session, now)
    by_name = {table.name: table for table in tables}
    prunings = {pruning.kind: pruning for pruning in session.scalars(select(Pruning))}
    size, growth = total_size(tables)
    return StorageReport(
        bytes=size,
        bytes_per_day=growth,
        retention=[
            _retention_view(session, kind, kind.kept_since(settings, now), settings, by_name, prunings)
            for kind in KINDS
        ],
        tables=tables,
    )


def _retention_view(
    session: Session,
    kind: RetentionKind,
    kept_since: datetime | None,
    settings: Settings,
    tables: Mapping[str, TableSizeView],
    prunings: Mapping[str, Pruning],
) -> RetentionView:
    rows = count_about(session, kind.rows.select_all())
    prunable = 0 if kept_since is None else count_about(session, kind.rows.select_old(kept_since))
    size = _share(session, kind, rows, tables)
    pruning = prunings.get(kind.name)
    return RetentionView(
        name=kind.name,
        description=kind.description,
        setting=kind.setting,
        days=kind.days(settings) or None,
        rows=rows,
        bytes=size,
        oldest=_as_time(kind.rows.oldest(session)),
        prunable_rows=prunable,
        prunable_bytes=round(size * min(prunable / rows, 1)) if rows else 0,
        pruned_at=pruning.pruned_at if pruning else None,
        pruned_rows=pruning.rows if pruning else 0,
    )


def _share(session: Session, kind: RetentionKind, rows: int, tables: Mapping[str, TableSizeView]) -> int:
    """Return the size of the kind's tables, in proportion to its rows if the first has others, too."""
    table = table_of(kind.tables[0])
    all_rows = count_about(session, select(*table.primary_key.columns))
    size = sum(tables[table_of(model).name].bytes for model in kind.tables)
    return round(size * min(rows / all_rows, 1)) if all_rows else 0


def _as_time(value: datetime | date | None) -> datetime | None:
    if value is None or isinstance(value, datetime):
        return value
    return datetime.combine(value, time(), UTC)
