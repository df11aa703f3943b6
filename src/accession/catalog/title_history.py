"""What has been: the course of a run, purchases over time, and what happened to a title."""

import heapq
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields
from datetime import UTC, datetime, time
from itertools import islice
from typing import Any, Literal

from sqlalchemy import ColumnElement, select
from sqlalchemy.orm import Session

from accession.accounts.collections import find_collection
from accession.catalog.titles import TitleView, describes
from accession.core.errors import NotFound
from accession.core.vocabulary import EventType, IdentifierType
from accession.db.models import (
    CirculationEvent,
    Collection,
    Edition,
    Identifier,
    LicensePool,
    PurchaseRecord,
    TitleChange,
)

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
