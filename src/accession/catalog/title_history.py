"""History of a title in a collection: purchases, changes of metadata and counts, and circulation events."""

import heapq
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields
from datetime import UTC, datetime, time
from itertools import islice
from typing import Any, Literal

from sqlalchemy import ColumnElement, select
from sqlalchemy.orm import Session

from accession.accounts.collections import find_collection
from accession.catalog.pools import find_pool
from accession.catalog.titles import TitleView
from accession.core.vocabulary import EventType
from accession.db.models import (
    CirculationEvent,
    PurchaseRecord,
    TitleChange,
)

_EVENT_TEXTS: Mapping[str, str] = {
    EventType.PURCHASE: "Copy added",
    EventType.REMOVED: "Copy removed",
    EventType.CHECKOUT: "Checked out",
    EventType.CHECKIN: "Returned",
    EventType.HOLD: "Hold placed",
    EventType.RESERVED: "Copy reserved for a hold",
}
_COUNT_LABELS = {
    "licenses_owned": "owned",
    "licenses_available": "available",
    "licenses_reserved": "reserved",
    "patrons_in_hold_queue": "on hold",
    "status": "status",
}
_FIELD_LABELS = {"cover_url": "cover", "duration_ms": "length", "isbns": "ISBNs", "on_sale": "date of sale"}
_FIELD_ORDER = {field.name: position for position, field in enumerate(fields(TitleView))}


@dataclass(frozen=True)
class HistoryEntry:
    """An entry in the history of a title.

    Attributes:
        at: Time in UTC; of a purchase, the start of its day or month.
        kind: `purchased`, `changed` (metadata), `availability` (counts or status) or `event`.
        text: Description for people.
        changes: Value before and after by field of `TitleView`.
    """

    at: datetime
    kind: Literal["purchased", "changed", "availability", "event"]
    text: str
    changes: Mapping[str, tuple[Any, Any]]


def title_history(session: Session, collection: str, identifier: str, limit: int = 200) -> list[HistoryEntry]:
    """Return the latest `limit` entries of a title in a collection, newest first.

    Raises:
        NotFound: there is no such collection, or it does not hold the title.
    """
    pool_id, edition_id = find_pool(session, find_collection(session, collection), identifier)
    is_edition, is_pool = TitleChange.edition_id == edition_id, TitleChange.license_pool_id == pool_id
    entries = heapq.merge(
        _purchases(session, pool_id, limit),
        _changes(session, is_edition, limit, _metadata_entry) if edition_id else (),
        _changes(session, is_pool, limit, _availability_entry),
        _events(session, pool_id, limit),
        key=lambda entry: entry.at,
        reverse=True,
    )
    return list(islice(entries, limit))


def _purchases(session: Session, pool_id: int, limit: int) -> Iterator[HistoryEntry]:
    row = PurchaseRecord
    query = select(row.purchased_on, row.month_only).where(row.license_pool_id == pool_id)
    for day, month_only in session.execute(query.order_by(row.purchased_on.desc()).limit(limit)):
        text = f"Purchased in {day:%Y-%m}" if month_only else "Purchased"
        yield HistoryEntry(datetime.combine(day, time(), UTC), "purchased", text, {})


def _changes(
    session: Session,
    condition: ColumnElement[bool],
    limit: int,
    entry: Callable[[datetime, Mapping[str, tuple[Any, Any]]], HistoryEntry],
) -> Iterator[HistoryEntry]:
    row = TitleChange
    query = select(row.changed_at, row.changes).where(condition)
    for at, changes in session.execute(query.order_by(row.changed_at.desc(), row.id.desc()).limit(limit)):
        in_order = sorted(changes, key=lambda field: _FIELD_ORDER.get(field, len(_FIELD_ORDER)))
        yield entry(at, {field: (changes[field][0], changes[field][1]) for field in in_order})


def _metadata_entry(at: datetime, changes: Mapping[str, tuple[Any, Any]]) -> HistoryEntry:
    labels = (_FIELD_LABELS.get(field, field.replace("_", " ")) for field in changes)
    return HistoryEntry(at, "changed", f"Changed: {', '.join(labels)}", changes)


def _availability_entry(at: datetime, changes: Mapping[str, tuple[Any, Any]]) -> HistoryEntry:
    texts = (f"{_COUNT_LABELS[field]} {before} → {after}" for field, (before, after) in changes.items())
    return HistoryEntry(at, "availability", ", ".join(texts).capitalize(), changes)


def _events(session: Session, pool_id: int, limit: int) -> Iterator[HistoryEntry]:
    row = CirculationEvent
    query = select(row.occurred_at, row.event_type).where(row.license_pool_id == pool_id)
    for at, event_type in session.execute(query.order_by(row.occurred_at.desc(), row.id.desc()).limit(limit)):
        text = _EVENT_TEXTS.get(event_type, f"Unknown event: {event_type}")
        yield HistoryEntry(at, "event", text, {})
