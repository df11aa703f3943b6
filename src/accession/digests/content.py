"""Content of a digest: the titles of a period, and its numbers.

All days are UTC, as those of purchases and statistics are.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from enum import StrEnum
from typing import Any

from pydantic import TypeAdapter
from sqlalchemy import Integer, Select, and_, cast, func, literal, or_, select
from sqlalchemy.dialects.postgresql import aggregate_order_by
from sqlalchemy.orm import Session

from accession.catalog.titles import TitleView, titles_of_pools
from accession.core.vocabulary import EventType
from accession.db.models import (
    CirculationTotal,
    Collection,
    LicensePool,
    PoolStatus,
    PurchaseRecord,
    TitleChange,
)

ONE_DAY = timedelta(days=1)


@dataclass(frozen=True)
class Period:
    """Days from the first to the last."""

    first: date
    last: date

    @property
    def days(self) -> int:
        """Return the number of days."""
        return (self.last - self.first).days + 1

    @property
    def before(self) -> "Period":
        """Return the period of the same length just before."""
        return Period(self.first - self.days * ONE_DAY, self.first - ONE_DAY)

    def __str__(self) -> str:
        """Return the period as "29 November 2026", "23–29 November 2026" or with both months or years."""
        first, last = self.first, self.last
        end = f"{last.day} {last:%B %Y}"
        if first == last:
            return end
        if (first.year, first.month) == (last.year, last.month):
            return f"{first.day}–{end}"
        start = f"{first.day} {first:%B}" if first.year == last.year else f"{first.day} {first:%B %Y}"
        return f"{start} – {end}"


class SectionKind(StrEnum):
    """Section of a digest."""

    PURCHASED = "purchased"
    REMOVED = "removed"
    """The collection has lost its last copy of the title."""
    EXPIRED = "expired"
    """The collection has lost copies of the title, and has others left."""


@dataclass(frozen=True)
class DigestTitle:
    """A title of a section. `note` tells when it was purchased, or how many copies are left."""

    identifier: str
    title: str
    authors: tuple[str, ...]
    format: str | None
    cover_url: str | None
    note: str


@dataclass(frozen=True)
class Section:
    """Titles of one kind: the first of them, and the number of all.

    `period` is None if no day of purchases is covered, because none has been imported since the last issue.
    """

    kind: SectionKind
    period: Period | None
    total: int
    titles: tuple[DigestTitle, ...]

    @property
    def not_listed(self) -> int:
        """Return the number of titles that are not listed."""
        return self.total - len(self.titles)


@dataclass(frozen=True)
class Numbers:
    """Numbers of a collection: those of the present, and those of the period and of the one before."""

    titles: int
    copies: int
    exhausted: int
    holds: int
    loans: int
    loans_before: int
    holds_placed: int
    holds_placed_before: int


@dataclass(frozen=True)
class DigestContent:
    """Content of an issue.

    `imported_until` is the last day up to which all purchases have been imported, None if it is not known.
    """

    collection_id: int
    collection: str
    library_id: str
    period: Period
    imported_until: date | None
    sections: tuple[Section, ...]
    numbers: Numbers

    @property
    def is_empty(self) -> bool:
        """Return whether no title was purchased, removed or expired."""
        return not any(section.total for section in self.sections)

    @property
    def is_behind(self) -> bool:
        """Return whether purchases of the period are missing, because they have not been imported yet."""
        return self.imported_until is None or self.imported_until < self.period.last

    def to_json(self) -> dict[str, Any]:
        """Return the content as it is stored."""
        stored: dict[str, Any] = _CONTENT.dump_python(self, mode="json")
        return stored

    @classmethod
    def from_json(cls, stored: dict[str, Any]) -> "DigestContent":
        """Return the content that was stored."""
        return _CONTENT.validate_python(stored)


_CONTENT = TypeAdapter(DigestContent)


def read_content(
    session: Session,
    collection: Collection,
    period: Period,
    *,
    purchases: Period | None,
    imported_until: date | None,
    max_titles: int,
) -> DigestContent:
    """Read what has happened in a period; that of the purchases may differ, or (None) have no day."""
    periods = {
        SectionKind.PURCHASED: purchases,
        SectionKind.REMOVED: period,
        SectionKind.EXPIRED: period,
    }
    return DigestContent(
        collection_id=collection.id,
        collection=collection.name,
        library_id=collection.library_id,
        period=period,
        imported_until=imported_until,
        sections=tuple(
            Section(kind, None, 0, ())
            if each is None
            else read_section(session, collection, kind, each, limit=max_titles)
            for kind, each in periods.items()
        ),
        numbers=_read_numbers(session, collection, period),
    )


def read_section(
    session: Session,
    collection: Collection,
    kind: SectionKind,
    period: Period,
    *,
    limit: int,
    offset: int = 0,
) -> Section:
    """Read some titles of a section, the latest first, and the number of all."""
    if kind is SectionKind.PURCHASED:
        query = _select_purchased(collection, period)
    else:
        query = _select_losses(collection, kind, period)
    total = session.scalar(select(func.count()).select_from(query.subquery())) or 0
    order = (query.selected_columns["latest"].desc(), query.selected_columns["pool_id"].desc())
    rows = session.execute(query.order_by(*order).offset(offset).limit(limit)).all()
    return Section(kind, period, total, tuple(_titles(session, kind, rows)))


def _select_purchased(collection: Collection, period: Period) -> Select[*tuple[Any, ...]]:
    """Return a query for the pools with a purchase in the period.

    A purchase of which only the month is known counts if the month includes the first day, as in the filter
    of the catalogue (`accession.catalog.title_filter`).
    """
    row = PurchaseRecord
    in_month = and_(row.month_only, row.purchased_on >= period.first.replace(day=1))
    return (
        select(
            row.license_pool_id.label("pool_id"),
            func.max(row.purchased_on).label("latest"),
            func.bool_and(row.month_only).label("month_only"),
        )
        .where(row.collection_id == collection.id, row.purchased_on <= period.last)
        .where(row.purchased_on >= period.first.replace(day=1))
        .where(or_(row.purchased_on >= period.first, in_month))
        .group_by(row.license_pool_id)
    )


def _select_losses(collection: Collection, kind: SectionKind, period: Period) -> Select[*tuple[Any, ...]]:
    """Return a query for the pools that have fewer copies after the period than before it."""
    row = TitleChange
    # With literals the database can use the index of these changes.
    copies = row.changes.op("->")(literal("licenses_owned", literal_execute=True))
    has_copies = row.changes.has_key(literal("licenses_owned", literal_execute=True))
    before = cast(copies.op("->>")(literal(0, literal_execute=True)), Integer)
    after = cast(copies.op("->>")(literal(1, literal_execute=True)), Integer)
    first = func.array_agg(aggregate_order_by(before, row.changed_at, row.id))[1]
    last = func.array_agg(aggregate_order_by(after, row.changed_at.desc(), row.id.desc()))[1]
    return (
        select(
            row.license_pool_id.label("pool_id"),
            func.max(row.changed_at).label("latest"),
            first.label("before"),
            last.label("after"),
        )
        .join(LicensePool, LicensePool.id == row.license_pool_id)
        .where(LicensePool.collection_id == collection.id, row.license_pool_id.is_not(None), has_copies)
        .where(row.changed_at >= _start(period.first), row.changed_at < _start(period.last + ONE_DAY))
        .group_by(row.license_pool_id)
        .having(last < first, last == 0 if kind is SectionKind.REMOVED else last > 0)
    )


def _start(day: date) -> datetime:
    return datetime.combine(day, time(), UTC)


def _titles(session: Session, kind: SectionKind, rows: Sequence[Any]) -> Iterator[DigestTitle]:
    titles = titles_of_pools(session, [row.pool_id for row in rows])
    for row, title in zip(rows, titles, strict=True):
        yield DigestTitle(
            identifier=title.identifier,
            title=title.title or title.identifier,
            authors=title.credits,
            format=title.format,
            cover_url=title.cover_url,
            note=_note(kind, row, title),
        )


def _note(kind: SectionKind, row: Any, title: TitleView) -> str:
    if kind is SectionKind.PURCHASED:
        on_order = f", on order until {title.on_order_until}" if title.on_order_until else ""
        on = f"in {row.latest:%B %Y}" if row.month_only else f"on {row.latest.day} {row.latest:%B}"
        return f"Purchased {on}{on_order}"
    lost = row.before - row.after
    if kind is SectionKind.REMOVED:
        return "Last copy removed" if lost == 1 else f"All {lost} copies removed"
    return f"{lost} {'copy' if lost == 1 else 'copies'} expired or removed, {row.after} left"


def _read_numbers(session: Session, collection: Collection, period: Period) -> Numbers:
    pool = LicensePool
    is_held = pool.status != PoolStatus.EXHAUSTED
    query = select(
        func.count().filter(is_held),
        func.coalesce(func.sum(pool.licenses_owned), 0),
        func.count().filter(~is_held),
        func.coalesce(func.sum(pool.patrons_in_hold_queue), 0),
    ).where(pool.collection_id == collection.id)
    titles, copies, exhausted, holds = session.execute(query).one()
    loans, holds_placed = _count_events(session, collection, period)
    loans_before, holds_placed_before = _count_events(session, collection, period.before)
    return Numbers(
        titles=titles,
        copies=copies,
        exhausted=exhausted,
        holds=holds,
        loans=loans,
        loans_before=loans_before,
        holds_placed=holds_placed,
        holds_placed_before=holds_placed_before,
    )


def _count_events(session: Session, collection: Collection, period: Period) -> tuple[int, int]:
    """Return the loans of a period, and the holds placed."""
    row = CirculationTotal
    query = (
        select(
            func.coalesce(func.sum(row.events).filter(row.event_type == EventType.CHECKOUT), 0),
            func.coalesce(func.sum(row.events).filter(row.event_type == EventType.HOLD), 0),
        )
        .join(LicensePool, LicensePool.id == row.license_pool_id)
        .where(LicensePool.collection_id == collection.id, row.day.between(period.first, period.last))
    )
    loans, holds = session.execute(query).one()
    return loans, holds
