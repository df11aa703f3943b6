"""Copy counts of license pools, from the vendor's snapshots and from circulation events.

A snapshot holds all counts of a title at one moment. The counts of a pool are those of its last snapshot plus
the events since, in the order of their times, so it does not matter when, how often or in which order the
events arrive.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import cache
from typing import Any

from sqlalchemy import Select, func, select, text
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from accession.catalog.availability import pool_status
from accession.catalog.data import CirculationData, EventData
from accession.catalog.editions import pool_edition_join
from accession.catalog.pools import lock_pools
from accession.catalog.sweeps import last_swept_at
from accession.catalog.title_changes import Change, pool_changes
from accession.catalog.title_events import TitleEvent, pool_events, store_title_events
from accession.core.clock import utc_now
from accession.core.vocabulary import EventType
from accession.db.bulk import in_array_parameter, update_rows
from accession.db.models import (
    CirculationEvent,
    Collection,
    CopyCounts,
    Edition,
    LicensePool,
    counts_after_events,
    table_of,
)

# Every event of a pool without a snapshot counts.
_NO_SNAPSHOT = text("'-infinity'")


_EVENTS_THAT_CHANGE_COPIES_OWNED = (EventType.PURCHASE, EventType.REMOVED)


@dataclass(frozen=True)
class AppliedSnapshots:
    """Number of pools written, the changes to record in the titles' histories, and the events to report."""

    written: int
    changes: Sequence[Change] = ()
    events: Sequence[TitleEvent] = ()


def has_new_counts(pool: LicensePool, data: CirculationData, on_sale: str | None) -> bool:
    """Return whether a snapshot differs from the pool's counts and is not older than its last snapshot.

    The first snapshot always does: its time tells which events the counts include. `on_sale` is the date from
    which the title is on sale, on which the pool's status depends.
    """
    if pool.circulation_as_of is None:
        return True
    if data.as_of < pool.circulation_as_of:
        return False
    counts = _snapshot_counts(data, pool.licenses_reserved)
    return (counts, pool_status(counts, on_sale, is_known=True)) != (pool.counts, pool.status)


def apply_snapshots(
    session: Session, pools: Sequence[LicensePool], snapshots: Mapping[int, CirculationData]
) -> AppliedSnapshots:
    """Write snapshots, by pool id, and the events since to locked pools.

    A snapshot is not written if it is older than the pool's last one, or if there is one and the counts known
    for its moment are equal. The session's objects of written pools expire. The caller stores the changes
    and the events.
    """
    titles, now = _titles_since_snapshot(session, pools), utc_now()
    rows: list[dict[str, Any]] = []
    changes: list[Change] = []
    events: list[TitleEvent] = []
    for pool in pools:
        data = snapshots[pool.id]
        if pool.circulation_as_of is not None and data.as_of < pool.circulation_as_of:
            continue
        title = titles[pool.id]
        before = [event_type for occurred_at, event_type in title.events if occurred_at < data.as_of]
        since = [event_type for occurred_at, event_type in title.events if occurred_at >= data.as_of]
        known = counts_after_events(pool.snapshot, before)
        snapshot = _snapshot_counts(data, known.reserved)
        counts = counts_after_events(snapshot, since)
        status = pool_status(counts, title.on_sale, is_known=True)
        # Compares the snapshot, too: later events may hide a difference that a late event reveals.
        is_first = pool.circulation_as_of is None
        if not is_first and (snapshot, counts, status) == (known, pool.counts, pool.status):
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
        events += pool_events(pool, counts, status)
        session.expire(pool)
    if rows:
        update_rows(session, table_of(LicensePool), rows)
    return AppliedSnapshots(len(rows), changes, events)


def latest_event_time(
    session: Session, collection: Collection, *, since: datetime, before: datetime
) -> datetime | None:
    """Return the time (UTC) of the latest stored event of a time span; None if it has none."""
    return session.scalar(
        select(func.max(CirculationEvent.occurred_at)).where(
            CirculationEvent.collection_id == collection.id,
            CirculationEvent.occurred_at >= since,
            CirculationEvent.occurred_at < before,
        )
    )


def filter_new_events(
    session: Session, collection: Collection, events: Iterable[EventData]
) -> list[EventData]:
    """Return the events that the collection has not stored yet, without duplicates and in the order given.

    Those from before the time up to which its events have been deleted are left out: they were stored.
    """
    pruned_before = collection.events_pruned_before
    by_id: dict[str, EventData] = {}
    for event in events:
        if pruned_before is None or event.occurred_at >= pruned_before:
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
    """Store new events, at least one, and return the ids of the pools whose counts or status changed.

    `pools` are the pools by the events' identifiers. An event that occurred before the vendor last returned
    the counts of its title is stored but not counted.
    """
    locked = lock_pools(session, {pools[event.identifier].id for event in events})
    counted_from = _last_snapshot_times(session, collection, locked)
    rows = [
        {
            "collection_id": collection.id,
            "event_id": event.event_id,
            "license_pool_id": pool_id,
            "event_type": event.event_type,
            "occurred_at": event.occurred_at,
            "counted": pool_id not in counted_from or event.occurred_at >= counted_from[pool_id],
        }
        for event in events
        for pool_id in [pools[event.identifier].id]
    ]
    session.execute(insert(CirculationEvent).values(rows).on_conflict_do_nothing())
    return _recount(session, locked)


def _last_snapshot_times(
    session: Session, collection: Collection, pools: Sequence[LicensePool]
) -> dict[int, datetime]:
    """Return when the vendor last returned each pool's counts, including counts that had not changed."""
    swept = last_swept_at(session, collection, [pool.identifier_id for pool in pools])
    times = {
        pool.id: [at for at in (pool.circulation_as_of, swept.get(pool.identifier_id)) if at is not None]
        for pool in pools
    }
    return {pool_id: max(moments) for pool_id, moments in times.items() if moments}


def _recount(session: Session, pools: Sequence[LicensePool]) -> set[int]:
    titles = _titles_since_snapshot(session, pools)
    changed: set[int] = set()
    title_events: list[TitleEvent] = []
    for pool in pools:
        title = titles[pool.id]
        types = [event_type for _, event_type in title.events]
        counts = counts_after_events(pool.snapshot, types)
        is_known = pool.circulation_as_of is not None or any(
            event_type in _EVENTS_THAT_CHANGE_COPIES_OWNED for event_type in types
        )
        status = pool_status(counts, title.on_sale, is_known=is_known)
        if (counts, status) != (pool.counts, pool.status):
            title_events += pool_events(pool, counts, status)
            pool.counts, pool.status, pool.updated_at = counts, status, utc_now()
            changed.add(pool.id)
    store_title_events(session, title_events)
    return changed


@dataclass
class _TitleSinceSnapshot:
    """Date from which a title is on sale, and its events as (time, type) in chronological order."""

    on_sale: str | None
    events: list[tuple[datetime, str]] = field(default_factory=list)


def _titles_since_snapshot(
    session: Session, pools: Sequence[LicensePool]
) -> Mapping[int, _TitleSinceSnapshot]:
    """Return the titles by pool id, with the counted events only, in one statement."""
    titles: dict[int, _TitleSinceSnapshot] = {}
    rows = session.execute(_select_since_snapshot(), {"pools": [pool.id for pool in pools]})
    for pool_id, on_sale, occurred_at, event_type in rows:
        title = titles.setdefault(pool_id, _TitleSinceSnapshot(on_sale))
        if event_type is not None:
            title.events.append((occurred_at, event_type))
    return titles


@cache
def _select_since_snapshot() -> Select[*tuple[Any, ...]]:
    event = CirculationEvent
    is_since_snapshot = (
        (event.license_pool_id == LicensePool.id)
        & event.counted
        & (event.occurred_at >= func.coalesce(LicensePool.circulation_as_of, _NO_SNAPSHOT))
    )
    return (
        select(LicensePool.id, Edition.on_sale, event.occurred_at, event.event_type)
        .outerjoin(Edition, pool_edition_join())
        .outerjoin(event, is_since_snapshot)
        .where(in_array_parameter(LicensePool.id, "pools"))
        .order_by(event.occurred_at, event.event_id)
    )


def _snapshot_counts(data: CirculationData, reserved: int) -> CopyCounts:
    """Return a snapshot's counts.

    Where it does not report reserved copies, use the known number, limited to the copies not available.
    """
    counts = CopyCounts(data.licenses_owned, data.licenses_available, reserved, data.patrons_in_hold_queue)
    if data.licenses_reserved is not None:
        return replace(counts, reserved=data.licenses_reserved)
    return replace(counts, reserved=min(reserved, max(0, counts.owned - counts.available)))
