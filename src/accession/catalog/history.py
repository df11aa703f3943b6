"""What has been: the course of a run, purchases over time, and what happened to a title."""

import heapq
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import UTC, date, datetime, time
from itertools import accumulate, islice
from typing import Any, Literal

from sqlalchemy import ARRAY, ColumnElement, Date, TableValuedAlias, exists, func, literal, select, true
from sqlalchemy.orm import Session, aliased

from accession.catalog.collections import find_collection
from accession.catalog.data import EventType, IdentifierType
from accession.catalog.models import (
    CirculationEvent,
    Collection,
    Edition,
    Identifier,
    LicensePool,
    PurchaseRecord,
    Retry,
    Sample,
    TitleChange,
)
from accession.catalog.queries import TitleView, describes
from accession.catalog.rows import one_of
from accession.clock import utc_now
from accession.errors import NotFound

# Where an import of everything begins.
_FIRST_MONTH = date(2014, 1, 1)


@dataclass(frozen=True)
class RunSample:
    """What a run had done at a moment (UTC), from its beginning: pages, and records fetched."""

    at: datetime
    pages: int
    records_fetched: int


@dataclass(frozen=True)
class RunRetry:
    """That a page was to be tried again, for the `retry`th time (from 1), and why."""

    at: datetime
    retry: int
    reason: str


def run_samples(session: Session, run_id: int) -> list[RunSample]:
    """The samples of a run, oldest first; a run of some seconds has none, one of a day a few hundred."""
    query = select(Sample.at, Sample.pages, Sample.records_fetched).where(Sample.run_id == run_id)
    return [RunSample(*row) for row in session.execute(query.order_by(Sample.at))]


def run_retries(session: Session, run_id: int) -> list[RunRetry]:
    """The retries of a run, oldest first."""
    query = select(Retry.at, Retry.retry, Retry.reason).where(Retry.run_id == run_id)
    return [RunRetry(*row) for row in session.execute(query.order_by(Retry.id))]


# Purchases


@dataclass(frozen=True)
class MonthCount:
    """What a collection bought in a month, which goes by its first day, in purchase records; and how many
    titles it held at the end of it: those that it had bought by then, however often."""

    month: date
    purchases: int
    titles: int


def purchases_by_month(session: Session, collection_id: int) -> list[MonthCount]:
    """Every month (UTC) from January 2014 to the present one; none where nothing was ever bought."""
    months = _last_months(_number(utc_now()) - _number(_FIRST_MONTH) + 1)
    spans = _spans(months)
    query = select(_bought_in(spans, collection_id)).select_from(spans).order_by(spans.c.month)
    purchases = session.scalars(query).all()
    if not any(purchases):
        return []
    again = _bought_again(session, collection_id)
    titles = accumulate(bought - again[month] for month, bought in zip(months, purchases, strict=True))
    return list(map(MonthCount, months, purchases, titles))


def recent_purchases(session: Session, months: int = 24) -> dict[int, tuple[int, ...]]:
    """How many purchase records each collection in use, by id, has of each of the last `months` months (UTC),
    oldest first; the present one is the last."""
    spans = _spans(_last_months(months))
    query = select(Collection.id, _bought_in(spans, Collection.id)).join(spans, true())
    query = query.where(Collection.marked_for_deletion_at.is_(None))
    found = defaultdict(list)
    for collection_id, purchases in session.execute(query.order_by(Collection.id, spans.c.month)):
        found[collection_id].append(purchases)
    return {collection_id: tuple(purchases) for collection_id, purchases in found.items()}


def _last_months(count: int) -> list[date]:
    """Their first days, up to the present month."""
    end = _number(utc_now()) + 1
    return [_month(number) for number in range(end - count, end)]


def _number(day: date) -> int:
    return day.year * 12 + day.month - 1


def _month(number: int) -> date:
    return date(number // 12, number % 12 + 1, 1)


def _spans(months: Sequence[date]) -> TableValuedAlias:
    """The months with their first days and those of the months that follow."""
    ends = [_month(_number(month) + 1) for month in months]
    arrays = (literal(days, ARRAY(Date)) for days in (months, ends))
    return func.unnest(*arrays).table_valued("month", "end", name="span").render_derived()


def _bought_in(spans: TableValuedAlias, collection_id: Any) -> Any:
    # A span of an index for each: to sort every purchase into its month takes four times as long.
    row = PurchaseRecord
    query = select(func.count()).where(row.collection_id == collection_id)
    return query.where(row.purchased_on >= spans.c.month, row.purchased_on < spans.c.end).scalar_subquery()


def _bought_again(session: Session, collection_id: int) -> Counter[date]:
    """How many purchase records of each month are of titles that the collection had bought before."""
    row, earlier = PurchaseRecord, aliased(PurchaseRecord)
    bought = select(row.license_pool_id).where(row.collection_id == collection_id)
    more_than_once = session.scalars(bought.group_by(row.license_pool_id).having(func.count() > 1)).all()
    before = exists().where(
        earlier.license_pool_id == row.license_pool_id, earlier.purchased_on < row.purchased_on
    )
    query = select(row.purchased_on, func.count()).where(one_of(row.license_pool_id, more_than_once), before)
    months: Counter[date] = Counter()
    for day, records in session.execute(query.group_by(row.purchased_on)):
        months[day.replace(day=1)] += records
    return months


# Titles


@dataclass(frozen=True)
class HistoryEntry:
    """One thing that happened to a collection's title: it was bought, its description or its counts changed,
    or the vendor told an event. `text` says it in words; `changes` has, by field of `TitleView`, what was so
    before and since. `at` is a moment in UTC, of a purchase the beginning of its day or month."""

    at: datetime
    kind: Literal["purchased", "changed", "availability", "event"]
    text: str
    changes: Mapping[str, tuple[Any, Any]]


_EVENTS: Mapping[str, str] = {
    EventType.PURCHASE: "Copy added",
    EventType.REMOVED: "Copy removed",
    EventType.CHECKOUT: "Lent",
    EventType.CHECKIN: "Returned",
    EventType.HOLD: "Hold placed",
    EventType.RESERVED: "Copy set aside for who waited",
}
_COUNTS = {
    "licenses_owned": "owned",
    "licenses_available": "available",
    "licenses_reserved": "reserved",
    "patrons_in_hold_queue": "waiting",
    "status": "status",
}
_WORDS = {"cover_url": "cover", "duration_ms": "length", "isbns": "ISBNs", "on_sale": "date of sale"}
_ORDER = {field.name: place for place, field in enumerate(fields(TitleView))}


def title_history(session: Session, collection: str, identifier: str, limit: int = 200) -> list[HistoryEntry]:
    """What happened to a collection's title, by the vendor's id, newest first, at most `limit` entries.

    Raises `NotFound` when there is no such collection, or it does not hold the title.
    """
    pool_id, edition_id = _held(session, find_collection(session, collection), identifier)
    newest = heapq.merge(
        _purchases_of(session, pool_id, limit),
        _changes_of(session, TitleChange.edition_id == edition_id, limit, _described) if edition_id else (),
        _changes_of(session, TitleChange.license_pool_id == pool_id, limit, _counted),
        _events_of(session, pool_id, limit),
        key=lambda entry: entry.at,
        reverse=True,
    )
    return list(islice(newest, limit))


def _held(session: Session, collection: Collection, identifier: str) -> tuple[int, int | None]:
    """The ids of the collection's pool of a title, and of the title's edition."""
    query = (
        select(LicensePool.id, Edition.id)
        .join(Identifier, LicensePool.identifier_id == Identifier.id)
        .outerjoin(Edition, describes())
        .where(LicensePool.collection_id == collection.id)
        # The index has the type first.
        .where(Identifier.type.in_(IdentifierType), Identifier.identifier == identifier)
    )
    held = session.execute(query.order_by(LicensePool.id).limit(1)).one_or_none()
    if held is None:
        raise NotFound(
            f'The collection "{collection.name}" holds no title with id "{identifier}": '
            "see `accession titles list`."
        )
    return held[0], held[1]


def _purchases_of(session: Session, pool_id: int, limit: int) -> Iterator[HistoryEntry]:
    row = PurchaseRecord
    query = select(row.purchased_on, row.month_only).where(row.license_pool_id == pool_id)
    for day, month_only in session.execute(query.order_by(row.purchased_on.desc()).limit(limit)):
        text = f"Bought in {day:%Y-%m}" if month_only else "Bought"
        yield HistoryEntry(datetime.combine(day, time(), UTC), "purchased", text, {})


def _changes_of(
    session: Session,
    which: ColumnElement[bool],
    limit: int,
    entry: Callable[[datetime, Mapping[str, tuple[Any, Any]]], HistoryEntry],
) -> Iterator[HistoryEntry]:
    row = TitleChange
    query = select(row.changed_at, row.changes).where(which)
    for at, changes in session.execute(query.order_by(row.changed_at.desc(), row.id.desc()).limit(limit)):
        in_order = sorted(changes, key=lambda field: _ORDER.get(field, len(_ORDER)))
        yield entry(at, {field: (changes[field][0], changes[field][1]) for field in in_order})


def _described(at: datetime, changes: Mapping[str, tuple[Any, Any]]) -> HistoryEntry:
    words = (_WORDS.get(field, field.replace("_", " ")) for field in changes)
    return HistoryEntry(at, "changed", f"Changed: {', '.join(words)}", changes)


def _counted(at: datetime, changes: Mapping[str, tuple[Any, Any]]) -> HistoryEntry:
    texts = (f"{_COUNTS[field]} {before} → {after}" for field, (before, after) in changes.items())
    return HistoryEntry(at, "availability", ", ".join(texts).capitalize(), changes)


def _events_of(session: Session, pool_id: int, limit: int) -> Iterator[HistoryEntry]:
    row = CirculationEvent
    query = select(row.occurred_at, row.event_type).where(row.license_pool_id == pool_id)
    for at, kind in session.execute(query.order_by(row.occurred_at.desc(), row.id.desc()).limit(limit)):
        yield HistoryEntry(at, "event", _EVENTS.get(kind, f"Told by the vendor: {kind}"), {})
