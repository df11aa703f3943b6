"""Deletion of old circulation events, without a change of the counts that depend on them."""

from collections import defaultdict
from collections.abc import Sequence
from datetime import UTC, datetime, time, timedelta
from typing import Any

from sqlalchemy import ColumnElement, Select, Subquery, delete, func, select, true, update
from sqlalchemy.orm import Session, aliased

from accession.catalog.circulation_totals import rolled_up_until
from accession.catalog.pools import lock_pools
from accession.db.bulk import in_array, update_rows
from accession.db.models import CirculationEvent, Collection, LicensePool, counts_after_events, table_of

_INSTANT = timedelta(microseconds=1)
_ONE_DAY = timedelta(days=1)


class OldEvents:
    """Circulation events that may be deleted once they are old and part of the totals.

    The newest event of each collection stays: the next import needs it. So do events of titles whose counts
    the vendor has never returned, because their counts come from the events alone.
    """

    def select_all(self) -> Select[Any]:
        """Return a query for the events of any age."""
        return select(CirculationEvent.occurred_at)

    def select_old(self, before: datetime) -> Any:
        """Return a query for the events from before a time that may be deleted."""
        bounds = _select_bounds(before)
        return _select_deletable().join(bounds, _is_within(bounds))

    def oldest(self, session: Session) -> datetime | None:
        """Return the time (UTC) of the oldest event; None without events."""
        oldest = select(func.min(CirculationEvent.occurred_at)).where(
            CirculationEvent.collection_id == Collection.id
        )
        return session.scalar(select(func.min(oldest.scalar_subquery())).select_from(Collection))

    def delete_batch(self, session: Session, before: datetime, limit: int) -> int:
        """Delete the oldest events of one collection from before a time, and return their number.

        There are about `limit` of them. First they become part of the last snapshot of their titles, whose
        time moves to that of the first event that stays.
        """
        covered = rolled_up_until(session)
        if covered is None:
            return 0
        before = min(before, datetime.combine(covered + _ONE_DAY, time(), UTC))
        bounds = _select_bounds(before)
        # A lateral query with a limit reads one row of the index for each collection, whatever the planner
        # expects of the table.
        oldest = _select_deletable().where(_is_within(bounds)).order_by(CirculationEvent.occurred_at)
        bound = session.execute(
            select(bounds)
            .join(oldest.limit(1).lateral("oldest"), true())
            .order_by(bounds.c.collection_id)
            .limit(1)
        ).one_or_none()
        return 0 if bound is None else _delete_events(session, bound.collection_id, bound.before, limit)


def _select_deletable() -> Any:
    event = CirculationEvent
    return (
        select(event.occurred_at, event.license_pool_id)
        .select_from(event)
        .join(LicensePool, event.license_pool_id == LicensePool.id)
        .where(event.rolled_up, LicensePool.circulation_as_of.is_not(None))
    )


def _is_within(bounds: Subquery) -> ColumnElement[bool]:
    event = CirculationEvent
    return (event.collection_id == bounds.c.collection_id) & (event.occurred_at < bounds.c.before)


def _select_bounds(before: datetime) -> Subquery:
    """Return the collections with the time up to which their events may be deleted."""
    event = aliased(CirculationEvent)
    newest = (
        select(func.max(event.occurred_at).label("at"))
        .where(event.collection_id == Collection.id)
        .lateral("newest")
    )
    return (
        select(Collection.id.label("collection_id"), func.least(before, newest.c.at).label("before"))
        .join(newest, true())
        .subquery("bounds")
    )


def _delete_events(session: Session, collection_id: int, before: datetime, limit: int) -> int:
    event = CirculationEvent
    oldest = _select_deletable().where(event.collection_id == collection_id, event.occurred_at < before)
    rows = session.execute(oldest.order_by(event.occurred_at).limit(limit + 1)).all()
    # All events of the last moment stay for the next batch, unless there is only one moment.
    end = max(rows[-1].occurred_at, rows[0].occurred_at + _INSTANT) if len(rows) > limit else before
    # Locked titles get no further events meanwhile, so that none is deleted without being in the snapshot.
    pools = lock_pools(session, {row.license_pool_id for row in rows if row.occurred_at < end})
    is_old = in_array(event.license_pool_id, [pool.id for pool in pools]) & (event.occurred_at < end)
    _move_snapshots(session, pools, end)
    deleted = session.execute(
        delete(event)
        .where(is_old, event.collection_id == collection_id, event.rolled_up)
        .execution_options(synchronize_session=False)
    )
    session.execute(
        update(Collection)
        .where(Collection.id == collection_id)
        .values(events_pruned_before=func.greatest(Collection.events_pruned_before, end))
        .execution_options(synchronize_session=False)
    )
    return deleted.rowcount  # type: ignore[attr-defined,no-any-return]


def _move_snapshots(session: Session, pools: Sequence[LicensePool], end: datetime) -> None:
    """Add the events before `end` to the snapshots of locked titles, and let these be of that time."""
    event = CirculationEvent
    query = (
        select(event.license_pool_id, event.event_type)
        .join(LicensePool, event.license_pool_id == LicensePool.id)
        .where(in_array(event.license_pool_id, [pool.id for pool in pools]), event.counted)
        .where(event.occurred_at >= LicensePool.circulation_as_of, event.occurred_at < end)
        .order_by(event.occurred_at, event.event_id)
    )
    types: defaultdict[int, list[str]] = defaultdict(list)
    for pool_id, event_type in session.execute(query):
        types[pool_id].append(event_type)
    snapshots = {
        pool.id: counts_after_events(pool.snapshot, types[pool.id]) for pool in pools if pool.id in types
    }
    if snapshots:
        rows = [
            {
                "id": pool_id,
                "snapshot_owned": counts.owned,
                "snapshot_available": counts.available,
                "snapshot_reserved": counts.reserved,
                "snapshot_holds": counts.holds,
                "circulation_as_of": end,
            }
            for pool_id, counts in snapshots.items()
        ]
        update_rows(session, table_of(LicensePool), rows)
    for pool in pools:
        session.expire(pool)
