"""Deletion of old circulation events, which must not change any count."""

from collections.abc import Sequence
from datetime import datetime, timedelta

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import select
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from accession.catalog.circulation import apply_snapshots, filter_new_events, record_events
from accession.catalog.circulation_totals import roll_up_events
from accession.catalog.event_retention import OldEvents
from accession.catalog.pools import lock_pools
from accession.core.vocabulary import EventType, IdentifierType
from accession.db.aged_rows import limit_lock_waits
from accession.db.blocking import is_lock_timeout
from accession.db.engine import engine, transaction
from accession.db.models import CirculationEvent, CirculationTotal, Collection, CopyCounts, LicensePool
from tests.fixtures.factories import (
    NOON,
    SOURCE,
    counts_data,
    event_data,
    make_collection,
    make_pool,
    record_statements,
)

MINUTE, DAY = timedelta(minutes=1), timedelta(days=1)
LATER = NOON + 100 * DAY


def store(session: Session, collection: Collection, *events: tuple[str, str, datetime]) -> None:
    """Store events, each an id, a type and a time, of the title "solaris", and add them to the totals."""
    data = [event_data(event_id, event_type, at=at) for event_id, event_type, at in events]
    new = filter_new_events(session, collection, data)
    if new:
        record_events(session, collection, {"solaris": make_pool(session, collection, "solaris")}, new)
    roll_up_events(session, LATER)
    session.commit()


def snapshot(session: Session, pool: LicensePool, counts: CopyCounts, at: datetime) -> None:
    data = counts_data(counts.owned, counts.available, counts.holds, as_of=at, reserved=counts.reserved)
    apply_snapshots(session, lock_pools(session, [pool.id]), {pool.id: data})
    session.commit()


def delete_all(session: Session, before: datetime, limit: int = 1000) -> int:
    """Delete batch after batch, and return the number of deleted events."""
    total = 0
    while deleted := OldEvents().delete_batch(session, before, limit):
        total += deleted
        session.commit()
    return total


def event_ids(session: Session) -> list[str]:
    return list(session.scalars(select(CirculationEvent.event_id).order_by(CirculationEvent.event_id)))


@pytest.fixture
def pool(session: Session, collection: Collection) -> LicensePool:
    """A title with five copies, all available, at noon."""
    pool = make_pool(session, collection, "solaris")
    snapshot(session, pool, CopyCounts(5, 5, 0, 0), NOON)
    return pool


def test_old_events_are_deleted_and_counts_stay(
    session: Session, collection: Collection, pool: LicensePool
) -> None:
    store(session, collection, *((str(number), "CHECKOUT", NOON + number * DAY) for number in range(1, 5)))
    updated_at = pool.updated_at

    assert delete_all(session, NOON + 3 * DAY) == 2

    session.refresh(pool)
    assert event_ids(session) == ["3", "4"]
    assert (pool.counts, pool.snapshot) == (CopyCounts(5, 1, 0, 0), CopyCounts(5, 3, 0, 0))
    # Feeds do not report the title as changed.
    assert pool.updated_at == updated_at


def test_event_after_deletion_continues_from_same_counts(
    session: Session, collection: Collection, pool: LicensePool
) -> None:
    store(session, collection, *((str(number), "CHECKOUT", NOON + number * DAY) for number in range(1, 5)))
    delete_all(session, LATER)
    store(session, collection, ("5", "CHECKIN", NOON + 5 * DAY))

    session.refresh(pool)
    assert pool.counts == CopyCounts(5, 2, 0, 0)


def test_newest_event_of_each_collection_is_kept(
    session: Session, collection: Collection, pool: LicensePool
) -> None:
    other = make_collection(session, "Birch Library")
    snapshot(session, make_pool(session, other, "solaris"), CopyCounts(5, 5, 0, 0), NOON)
    for owner in (collection, other):
        store(session, owner, *((f"{owner.id}-{n}", "CHECKOUT", NOON + n * DAY) for n in (1, 2)))

    assert delete_all(session, LATER) == 2
    assert event_ids(session) == ["1-2", "2-2"]


def test_events_without_totals_are_kept(session: Session, collection: Collection, pool: LicensePool) -> None:
    events = [event_data(str(n), "CHECKOUT", at=NOON + n * DAY) for n in (1, 2)]
    record_events(session, collection, {"solaris": pool}, events)
    session.commit()

    assert delete_all(session, LATER) == 0
    roll_up_events(session, LATER)
    assert delete_all(session, LATER) == 1


def test_totals_of_deleted_events_stay(session: Session, collection: Collection, pool: LicensePool) -> None:
    store(session, collection, *((str(n), "CHECKOUT", NOON + n * MINUTE) for n in (1, 2, 3)))
    delete_all(session, LATER)

    assert session.scalars(select(CirculationTotal.events)).all() == [3]


def test_events_of_title_without_snapshot_are_kept(session: Session, collection: Collection) -> None:
    store(session, collection, ("1", "PURCHASE", NOON), ("2", "PURCHASE", NOON + DAY))

    assert delete_all(session, LATER) == 0
    assert make_pool(session, collection, "solaris").counts == CopyCounts(2, 2, 0, 0)


def test_deleted_event_that_is_delivered_again_is_ignored(
    session: Session, collection: Collection, pool: LicensePool
) -> None:
    events = [(str(n), "CHECKOUT", NOON + n * DAY) for n in (1, 2, 3)]
    store(session, collection, *events)
    delete_all(session, NOON + 3 * DAY)
    store(session, collection, *events)

    session.refresh(pool)
    assert event_ids(session) == ["3"]
    assert pool.counts == CopyCounts(5, 2, 0, 0)
    assert sum(session.scalars(select(CirculationTotal.events))) == 3


def test_small_batches_delete_the_same_events(
    session: Session, collection: Collection, pool: LicensePool
) -> None:
    # Several at one moment, so that a batch ends within them.
    times = [NOON + minute * MINUTE for minute in (1, 1, 1, 2, 3, 3, 4)]
    store(session, collection, *((str(n), "CHECKOUT", at) for n, at in enumerate(times)))

    assert delete_all(session, LATER, limit=2) == 6
    session.refresh(pool)
    assert event_ids(session) == ["6"]
    assert pool.counts.available == 0


def test_locked_title_stops_the_deletion_soon(
    session: Session, collection: Collection, pool: LicensePool
) -> None:
    store(session, collection, ("1", "CHECKOUT", NOON + DAY), ("2", "CHECKOUT", NOON + 2 * DAY))
    lock_pools(session, [pool.id])

    with transaction() as other:
        limit_lock_waits(other)
        with pytest.raises(OperationalError) as caught:
            OldEvents().delete_batch(other, LATER, 1000)
        other.rollback()

    assert is_lock_timeout(caught.value)
    session.rollback()
    assert event_ids(session) == ["1", "2"]


def test_batch_sends_a_constant_number_of_statements(session: Session, collection: Collection) -> None:
    """It holds locks, so that it must not send a statement for each title."""
    names = [f"title-{number}" for number in range(10)]
    pools = {name: make_pool(session, collection, name) for name in names}
    for pool in pools.values():
        snapshot(session, pool, CopyCounts(5, 5, 0, 0), NOON)
    events = [event_data(name, "CHECKOUT", name, at=NOON + DAY) for name in names]
    record_events(session, collection, pools, [*events, event_data("newest", "CHECKOUT", names[0], at=LATER)])
    roll_up_events(session, LATER)
    session.commit()
    session.expunge_all()
    with record_statements(engine()) as statements:
        assert OldEvents().delete_batch(session, LATER, 1000) == 10

    assert len(statements) == 9


# Property: counts are those without any deletion, whatever arrives before and after it

occurrences = st.lists(
    st.tuples(st.sampled_from([*(kind.value for kind in EventType), "RENEWED"]), st.integers(0, 20)),
    min_size=1,
    max_size=12,
)
small = st.integers(0, 3)
any_counts = st.builds(lambda owned, available, holds: CopyCounts(owned, available, 0, holds), *[small] * 3)


def add_pool(session: Session, name: str, counts: CopyCounts) -> tuple[Collection, LicensePool]:
    """Add a collection with a title that has these counts at noon; neither is committed."""
    collection = Collection(name=name, library_id="a", account_id="a", account_key_encrypted=b"", base_url="")
    session.add(collection)
    session.flush()
    created = LicensePool.for_foreign_ids(
        session, SOURCE, IdentifierType.BIBLIOTHECA, ["solaris"], collection=collection
    )
    pool = created["solaris"][0]
    pool.counts = pool.snapshot = counts
    pool.status = "active"
    pool.circulation_as_of = NOON
    session.flush()
    return collection, pool


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    occurred=occurrences, start=any_counts, cut=st.integers(0, 21), limit=st.integers(1, 4), data=st.data()
)
def test_counts_are_the_same_with_and_without_deletion(
    database: None,
    occurred: Sequence[tuple[str, int]],
    start: CopyCounts,
    cut: int,
    limit: int,
    data: st.DataObject,
) -> None:
    events = [
        event_data(f"event-{number:02}", event_type, at=NOON + minute * MINUTE)
        for number, (event_type, minute) in enumerate(occurred)
    ]
    before = NOON + cut * MINUTE
    old = [event for event in events if event.occurred_at < before]
    new = data.draw(st.permutations([event for event in events if event.occurred_at >= before]))
    with Session(engine()) as session:
        counts = []
        for is_deleted in (False, True):
            collection, pool = add_pool(session, f"Library {is_deleted}", start)
            if old:
                record_events(session, collection, {"solaris": pool}, old)
            roll_up_events(session, LATER)
            while is_deleted and OldEvents().delete_batch(session, before, limit):
                session.flush()
            session.refresh(collection)
            for event in filter_new_events(session, collection, [*old, *new]):
                record_events(session, collection, {"solaris": pool}, [event])
            session.refresh(pool)
            counts.append((pool.counts, pool.status))
        assert counts[0] == counts[1]
