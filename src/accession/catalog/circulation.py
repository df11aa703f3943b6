"""Keeping the counts of pools true: what the vendor says when it is asked, and the events in between.

A snapshot is the vendor's word on all counts of a title at one moment. The counts of a pool are those
of its last snapshot and every counted event since, in the order of their moments: so it does not matter
when, how often or in which order the events arrive. Pools are locked in the order of their ids, against
writing only.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from sqlalchemy import func, select, text
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from accession.catalog.changes import Change, pool_changes
from accession.catalog.data import CirculationData, EventData
from accession.catalog.sweeps import last_swept
from accession.core.clock import utc_now
from accession.core.vocabulary import EventType
from accession.db.bulk import one_of, update_of
from accession.db.models import (
    CirculationEvent,
    Collection,
    Counts,
    LicensePool,
    PoolStatus,
    counted_on,
    table_of,
)

# Of a pool without a snapshot every event counts.
_EVER = text("'-infinity'")
_OF_COPIES_OWNED = (EventType.PURCHASE, EventType.REMOVED)


@dataclass(frozen=True)
class Counted:
    """How many pools a snapshot has written, and what of them has changed by it."""

    pools: int
    changes: Sequence[Change] = ()


def lock_pools(session: Session, pool_ids: Iterable[int]) -> Sequence[LicensePool]:
    """The pools as they are now, locked until the transaction ends; whoever locks pools locks them first.

    A page that adds a purchase record to one of them goes on.
    """
    query = select(LicensePool).where(one_of(LicensePool.id, set(pool_ids))).order_by(LicensePool.id)
    query = query.with_for_update(key_share=True).execution_options(populate_existing=True)
    return session.scalars(query).all()


def is_news(pool: LicensePool, data: CirculationData) -> bool:
    """Whether a snapshot made now differs from the pool's counts; one older than the last does not."""
    if pool.circulation_as_of is not None and data.as_of < pool.circulation_as_of:
        return False
    counts = _told(data, pool.licenses_reserved)
    return (counts, _status(counts, told=True)) != (pool.counts, pool.status)


def apply_snapshots(
    session: Session, pools: Sequence[LicensePool], said: Mapping[int, CirculationData]
) -> Counted:
    """Make locked pools say what the vendor said of them (by pool id), with the events since.

    What has changed is for the caller to note. A snapshot older than the pool's last is not applied, and
    one that says what was known of its moment is not written. The session reads pools that were written
    anew when they are used again.
    """
    events, now = _events_since_snapshot(session, pools), utc_now()
    rows: list[dict[str, Any]] = []
    changes: list[Change] = []
    for pool in pools:
        data = said[pool.id]
        if pool.circulation_as_of is not None and data.as_of < pool.circulation_as_of:
            continue
        before = [e.event_type for e in events[pool.id] if e.occurred_at < data.as_of]
        since = [e.event_type for e in events[pool.id] if e.occurred_at >= data.as_of]
        known = counted_on(pool.snapshot, before)
        snapshot = _told(data, known.reserved)
        counts = counted_on(snapshot, since)
        status = _status(counts, told=True)
        # What newer events hide today may come out when an event of the time between is told late.
        if (snapshot, counts, status) == (known, pool.counts, pool.status):
            continue
        rows.append(
            {
                "id": pool.id,
                "licenses_owned": counts.owned,
                "licenses_available": counts.available,
                "licenses_reserved": counts.reserved,
                "patrons_in_hold_queue": counts.holds,
                "status": status,
                "circulation_as_of": data.as_of,
                "snapshot_owned": snapshot.owned,
                "snapshot_available": snapshot.available,
                "snapshot_reserved": snapshot.reserved,
                "snapshot_holds": snapshot.holds,
                "updated_at": now,
            }
        )
        changes += pool_changes(pool, counts, status, now)
        session.expire(pool)
    if rows:
        session.execute(update_of(table_of(LicensePool), rows))
    return Counted(len(rows), changes)


def new_events(session: Session, collection: Collection, events: Iterable[EventData]) -> list[EventData]:
    """Those of `events` that the collection has not been told yet, each once, in the order given."""
    by_id: dict[str, EventData] = {}
    for event in events:
        by_id.setdefault(event.event_id, event)
    if not by_id:
        return []
    query = select(CirculationEvent.event_id).where(
        CirculationEvent.collection_id == collection.id, CirculationEvent.event_id.in_(by_id)
    )
    known = set(session.scalars(query))
    return [event for event in by_id.values() if event.event_id not in known]


def record_events(
    session: Session, collection: Collection, pools: Mapping[str, LicensePool], events: Sequence[EventData]
) -> set[int]:
    """Keep new events, at least one, and count them; returns the ids of the pools whose counts or status
    they changed.

    `pools` are those of the events' identifiers. An event that was past at its pool's last snapshot is
    kept and changes nothing.
    """
    concerned = lock_pools(session, {pools[event.identifier].id for event in events})
    known_up_to = _known_up_to(session, collection, concerned)
    rows = [
        {
            "collection_id": collection.id,
            "event_id": event.event_id,
            "license_pool_id": pool_id,
            "event_type": event.event_type,
            "occurred_at": event.occurred_at,
            "counted": pool_id not in known_up_to or event.occurred_at >= known_up_to[pool_id],
        }
        for event in events
        for pool_id in [pools[event.identifier].id]
    ]
    session.execute(insert(CirculationEvent).values(rows).on_conflict_do_nothing())
    return _count_again(session, concerned)


def _known_up_to(
    session: Session, collection: Collection, pools: Sequence[LicensePool]
) -> dict[int, datetime]:
    """When the vendor was last asked about each pool, where it ever was; changed or not."""
    swept = last_swept(session, collection, [pool.identifier_id for pool in pools])
    looks = {
        pool.id: [at for at in (pool.circulation_as_of, swept.get(pool.identifier_id)) if at is not None]
        for pool in pools
    }
    return {pool_id: max(moments) for pool_id, moments in looks.items() if moments}


def _count_again(session: Session, pools: Sequence[LicensePool]) -> set[int]:
    events = _events_since_snapshot(session, pools)
    changed = set()
    for pool in pools:
        types = [event.event_type for event in events[pool.id]]
        counts = counted_on(pool.snapshot, types)
        told = pool.circulation_as_of is not None or any(kind in _OF_COPIES_OWNED for kind in types)
        status = _status(counts, told=told)
        if (counts, status) != (pool.counts, pool.status):
            pool.counts, pool.status, pool.updated_at = counts, status, utc_now()
            changed.add(pool.id)
    return changed


def _events_since_snapshot(
    session: Session, pools: Sequence[LicensePool]
) -> Mapping[int, Sequence[CirculationEvent]]:
    """The counted events of each pool since its last snapshot, in the order of their moments."""
    query = (
        select(CirculationEvent)
        .join(LicensePool, CirculationEvent.license_pool_id == LicensePool.id)
        .where(one_of(LicensePool.id, [pool.id for pool in pools]), CirculationEvent.counted)
        .where(CirculationEvent.occurred_at >= func.coalesce(LicensePool.circulation_as_of, _EVER))
        .order_by(CirculationEvent.occurred_at, CirculationEvent.event_id)
    )
    events = defaultdict(list)
    for event in session.scalars(query):
        events[event.license_pool_id].append(event)
    return events


def _told(data: CirculationData, reserved: int) -> Counts:
    """The counts of a snapshot; where it does not tell the reserved copies, as many as there can be of
    those known."""
    counts = Counts(data.licenses_owned, data.licenses_available, reserved, data.patrons_in_hold_queue)
    if data.licenses_reserved is not None:
        return replace(counts, reserved=data.licenses_reserved)
    return replace(counts, reserved=min(reserved, max(0, counts.owned - counts.available)))


def _status(counts: Counts, *, told: bool) -> str:
    if counts.owned:
        return PoolStatus.ACTIVE
    return PoolStatus.EXHAUSTED if told else PoolStatus.UNKNOWN
