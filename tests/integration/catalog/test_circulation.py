"""Copy counts from snapshots and events, which may arrive late, repeatedly and in any order."""

import threading
from collections.abc import Mapping, Sequence
from datetime import timedelta

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import select
from sqlalchemy.orm import Session

from accession.catalog.apply import apply_outbox
from accession.catalog.circulation import apply_snapshots, filter_new_events, has_new_counts, record_events
from accession.catalog.data import ApplyData, CirculationData, EventData
from accession.catalog.outbox import enqueue_changes
from accession.catalog.pools import lock_pools
from accession.catalog.sweeps import record_swept
from accession.catalog.written_rows import count_rows_written_since, read_table_state
from accession.core.vocabulary import EventType, IdentifierType
from accession.db.engine import engine, transaction
from accession.db.models import (
    CirculationEvent,
    Collection,
    CopyCounts,
    Identifier,
    IdentifierEquivalent,
    LicensePool,
    counts_after_events,
)
from tests.fixtures.factories import (
    NOON,
    SOURCE,
    TIMEOUT_SECONDS,
    BackgroundThread,
    apply_titles,
    counts_data,
    event_data,
    make_collection,
    make_pool,
    run_concurrently,
    title_data,
    wait_for_blocked,
)

MINUTE = timedelta(minutes=1)


@pytest.fixture
def pool(session: Session, collection: Collection) -> LicensePool:
    """A pool without a snapshot."""
    return make_pool(session, collection, "solaris")


def deliver(session: Session, collection: Collection, *events: EventData) -> set[int]:
    """Store a slice of events and return the ids of the pools that it changed."""
    new = filter_new_events(session, collection, events)
    if not new:
        return set()
    pools = {event.identifier: make_pool(session, collection, event.identifier) for event in new}
    changed = record_events(session, collection, pools, new)
    session.commit()
    return changed


def apply_snapshot(session: Session, pool: LicensePool, data: CirculationData) -> int:
    """Apply a snapshot and return the number of pools written."""
    applied = apply_snapshots(session, lock_pools(session, [pool.id]), {pool.id: data})
    session.commit()
    return applied.written


def counts_and_status(session: Session, pool: LicensePool) -> tuple[int, int, int, int, str]:
    session.refresh(pool)
    counts = pool.counts
    return counts.owned, counts.available, counts.reserved, counts.holds, pool.status


def stored_events(session: Session) -> dict[str, bool]:
    """Return whether each stored event is counted, by its id."""
    query = select(CirculationEvent.event_id, CirculationEvent.counted)
    return dict(session.execute(query).all())


# Properties: any order of delivery has the same result

TITLES = ("eden", "solaris")

occurrences = st.tuples(
    st.sampled_from([*(event_type.value for event_type in EventType), "RENEWED"]),
    st.sampled_from(TITLES),
    st.integers(0, 20),
)
# All events, and slices of their indexes: any of them in any order, overlapping and repeated, then all.
deliveries = st.lists(occurrences, min_size=1, max_size=12).flatmap(
    lambda occurred: st.tuples(
        st.just(
            [
                event_data(f"event-{number:02}", event_type, title, at=NOON + minute * MINUTE)
                for number, (event_type, title, minute) in enumerate(occurred)
            ]
        ),
        st.lists(st.lists(st.integers(0, len(occurred) - 1), max_size=8), max_size=5).map(
            lambda slices: [*slices, list(range(len(occurred)))]
        ),
    )
)
Delivery = tuple[list[EventData], list[list[int]]]
small = st.integers(0, 3)
any_counts = st.builds(
    lambda owned, available, reserved, holds: CopyCounts(owned, min(owned, available), reserved, holds),
    small,
    small,
    small,
    small,
)
on_the_database = settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def event_types_in_order(events: Sequence[EventData], title: str = "solaris") -> list[str]:
    ordered = sorted(events, key=lambda event: (event.occurred_at, event.event_id))
    return [event.event_type for event in ordered if event.identifier == title]


def expected_status(counts: CopyCounts, event_types: Sequence[str], *, has_snapshot: bool) -> str:
    if counts.owned > 0:
        return "active"
    is_known = has_snapshot or not {"PURCHASE", "REMOVED"}.isdisjoint(event_types)
    return "exhausted" if is_known else "unknown"


def add_pools(session: Session, counts: CopyCounts | None) -> tuple[Collection, Mapping[str, LicensePool]]:
    """Add a collection with pools that have a snapshot of noon, or none.

    They are not committed, so that the next example starts with an empty database.
    """
    collection = Collection(
        name="Alder Library", library_id="a", account_id="a", account_key_encrypted=b"", base_url=""
    )
    session.add(collection)
    session.flush()
    created = LicensePool.for_foreign_ids(
        session, SOURCE, IdentifierType.BIBLIOTHECA, TITLES, collection=collection
    )
    pools = {title: pool for title, (pool, _) in created.items()}
    if counts is not None:
        for pool in pools.values():
            pool.counts = pool.snapshot = counts
            pool.status = expected_status(counts, [], has_snapshot=True)
            pool.circulation_as_of = NOON
    session.flush()
    return collection, pools


def record_new_events(
    session: Session, collection: Collection, pools: Mapping[str, LicensePool], events: Sequence[EventData]
) -> None:
    if new := filter_new_events(session, collection, events):
        record_events(session, collection, pools, new)


@on_the_database
@given(delivery=deliveries, start=st.none() | any_counts)
def test_counts_do_not_depend_on_the_order_of_delivery(
    database: None, delivery: Delivery, start: CopyCounts | None
) -> None:
    events, slices = delivery
    with Session(engine()) as session:
        collection, pools = add_pools(session, start)
        for indexes in slices:
            record_new_events(session, collection, pools, [events[index] for index in indexes])

        for title, pool in pools.items():
            types = event_types_in_order(events, title)
            counts = counts_after_events(start or CopyCounts(0, 0, 0, 0), types)
            assert pool.counts == counts
            assert pool.status == expected_status(counts, types, has_snapshot=start is not None)
        rows = session.scalars(select(CirculationEvent).order_by(CirculationEvent.event_id)).all()
        assert [
            (row.event_id, row.license_pool_id, row.event_type, row.occurred_at, row.counted) for row in rows
        ] == [(e.event_id, pools[e.identifier].id, e.event_type, e.occurred_at, True) for e in events]


@on_the_database
@given(delivery=deliveries, snapshot_minute=st.integers(0, 20), applied_before=st.integers(0, 5))
def test_snapshot_replaces_all_earlier_events(
    database: None, delivery: Delivery, snapshot_minute: int, applied_before: int
) -> None:
    """The snapshot is applied before any of the slices, so before or after the events it covers."""
    events, slices = delivery
    snapshot = counts_data(3, 1, 2, as_of=NOON + snapshot_minute * MINUTE + MINUTE / 2, reserved=1)
    with Session(engine()) as session:
        collection, pools = add_pools(session, CopyCounts(9, 9, 0, 0))
        pool = pools["solaris"]
        for number, indexes in enumerate(slices):
            if number == min(applied_before, len(slices) - 1):
                apply_snapshots(session, lock_pools(session, [pool.id]), {pool.id: snapshot})
            record_new_events(session, collection, pools, [events[index] for index in indexes])

        later = [event for event in events if event.occurred_at >= snapshot.as_of]
        assert pool.counts == counts_after_events(CopyCounts(3, 1, 1, 2), event_types_in_order(later))


@on_the_database
@given(
    delivery=deliveries,
    start=any_counts,
    sweep_minute=st.integers(0, 20),
    new_counts=st.none() | any_counts,
    applied_before=st.integers(0, 5),
)
def test_sweep_replaces_all_earlier_events(
    database: None,
    delivery: Delivery,
    start: CopyCounts,
    sweep_minute: int,
    new_counts: CopyCounts | None,
    applied_before: int,
) -> None:
    """The sweep returns new counts, which are applied later, or the known ones, which are never written."""
    events, slices = delivery
    as_of = NOON + sweep_minute * MINUTE + MINUTE / 2
    earlier = [event for event in events if event.occurred_at < as_of]
    with Session(engine()) as session:
        collection, pools = add_pools(session, start)
        pool = pools["solaris"]
        delivered_before = {index for index in slices[0] if events[index] in earlier}
        record_new_events(session, collection, pools, [events[index] for index in delivered_before])
        swept = new_counts or pool.counts
        snapshot = counts_data(
            swept.owned, swept.available, swept.holds, as_of=as_of, reserved=swept.reserved
        )
        differs = has_new_counts(pool, snapshot, None)
        record_swept(
            session,
            collection,
            after_id=0,
            last_id=None,
            identifier_ids=[pool.identifier_id],
            at=as_of,
        )
        for number, indexes in enumerate(slices):
            if differs and number == min(applied_before, len(slices) - 1):
                apply_snapshots(session, lock_pools(session, [pool.id]), {pool.id: snapshot})
            record_new_events(session, collection, pools, [events[index] for index in indexes])

        later = event_types_in_order([event for event in events if event not in earlier])
        counts = counts_after_events(swept, later)
        assert (pool.counts, pool.status) == (counts, expected_status(counts, later, has_snapshot=True))
        # The sweep did not include the other title.
        assert pools["eden"].counts == counts_after_events(start, event_types_in_order(events, "eden"))
        assert stored_events(session) == {
            event.event_id: event.identifier == "eden" or event not in earlier or index in delivered_before
            for index, event in enumerate(events)
        }


def test_redelivered_event_is_stored_once(
    session: Session, collection: Collection, pool: LicensePool
) -> None:
    purchase = event_data("1", "PURCHASE")

    assert deliver(session, collection, purchase, purchase) == {pool.id}
    assert deliver(session, collection, purchase) == set()

    assert counts_and_status(session, pool) == (1, 1, 0, 0, "active")
    assert stored_events(session) == {"1": True}


def test_collections_store_their_events_separately(
    session: Session, collection: Collection, pool: LicensePool
) -> None:
    other = make_collection(session, "Birch Library")

    deliver(session, collection, event_data("1", "PURCHASE"))
    deliver(session, other, event_data("1", "PURCHASE"), event_data("2", "PURCHASE"))

    assert counts_and_status(session, pool)[:2] == (1, 1)
    assert counts_and_status(session, make_pool(session, other, "solaris"))[:2] == (2, 2)
    query = select(CirculationEvent.collection_id, CirculationEvent.event_id)
    assert sorted(session.execute(query).all()) == [
        (collection.id, "1"),
        (other.id, "1"),
        (other.id, "2"),
    ]


def test_event_before_the_last_snapshot_is_not_counted(
    session: Session, collection: Collection, pool: LicensePool
) -> None:
    apply_snapshot(session, pool, counts_data(2, 1, 0, as_of=NOON))

    assert deliver(session, collection, event_data("late", "CHECKOUT", at=NOON - MINUTE)) == set()
    assert counts_and_status(session, pool)[:2] == (2, 1)
    assert deliver(session, collection, event_data("new", "CHECKOUT", at=NOON + MINUTE)) == {pool.id}

    assert counts_and_status(session, pool)[:2] == (2, 0)
    assert stored_events(session) == {"late": False, "new": True}


def test_event_before_an_unchanged_sweep_is_not_counted(
    session: Session, collection: Collection, pool: LicensePool
) -> None:
    not_swept = make_pool(session, collection, "not-swept")
    for each in (pool, not_swept):
        apply_snapshot(session, each, counts_data(2, 1, 0, as_of=NOON))
    swept_at = NOON + 10 * MINUTE
    record_swept(
        session, collection, after_id=0, last_id=None, identifier_ids=[pool.identifier_id], at=swept_at
    )

    changed = deliver(
        session,
        collection,
        event_data("before the sweep", "CHECKOUT", at=NOON + MINUTE),
        event_data("of the other title", "CHECKOUT", "not-swept", at=NOON + MINUTE),
    )

    assert changed == {not_swept.id}
    assert counts_and_status(session, pool)[:2] == (2, 1)
    assert counts_and_status(session, not_swept)[:2] == (2, 0)
    deliver(session, collection, event_data("after the sweep", "CHECKOUT", at=NOON + 11 * MINUTE))
    assert counts_and_status(session, pool)[:2] == (2, 0)


def test_unchanged_snapshot_is_not_written(
    session: Session, collection: Collection, pool: LicensePool
) -> None:
    apply_snapshot(session, pool, counts_data(2, 0, 0, as_of=NOON))
    deliver(session, collection, event_data("1", "CHECKIN", at=NOON + MINUTE))
    updated_at = pool.updated_at
    unchanged = counts_data(2, 1, 0, as_of=NOON + 2 * MINUTE)
    state = read_table_state(session)
    session.commit()

    assert not has_new_counts(pool, unchanged, None)
    assert apply_snapshot(session, pool, unchanged) == 0
    assert count_rows_written_since(session, state) == 0
    assert (pool.circulation_as_of, pool.updated_at) == (NOON, updated_at)


def test_older_snapshot_is_not_applied(session: Session, pool: LicensePool) -> None:
    apply_snapshot(session, pool, counts_data(2, 1, 0, as_of=NOON))
    older = counts_data(9, 9, 9, as_of=NOON - MINUTE)

    assert not has_new_counts(pool, older, None)
    assert apply_snapshot(session, pool, older) == 0
    assert counts_and_status(session, pool) == (2, 1, 0, 0, "active")


def test_events_after_a_snapshot_count_when_it_is_applied_late(
    session: Session, collection: Collection, pool: LicensePool
) -> None:
    (row_id,) = enqueue_changes(session, [(pool, title_data("solaris", as_of=NOON, licenses_owned=3))])
    deliver(
        session,
        collection,
        event_data("1", "PURCHASE", at=NOON - MINUTE),
        event_data("2", "REMOVED", at=NOON + MINUTE),
    )

    apply_outbox(session, [row_id])
    session.commit()

    assert counts_and_status(session, pool)[:2] == (2, 1)


@pytest.mark.parametrize("applied_late", [False, True])
def test_late_event_counts_on_a_snapshot_that_events_hide(
    session: Session, collection: Collection, pool: LicensePool, applied_late: bool
) -> None:
    """No copy, or one that is removed: both leave none, until the event of a copy in between arrives."""
    apply_snapshot(session, pool, counts_data(0, 0, 0, as_of=NOON))
    snapshot = counts_data(1, 1, 0, as_of=NOON + MINUTE)
    removed = event_data("2", "REMOVED", at=NOON + 3 * MINUTE)

    if applied_late:
        deliver(session, collection, removed)
        apply_snapshot(session, pool, snapshot)
    else:
        apply_snapshot(session, pool, snapshot)
        deliver(session, collection, removed)
    assert counts_and_status(session, pool) == (0, 0, 0, 0, "exhausted")
    deliver(session, collection, event_data("1", "PURCHASE", at=NOON + 2 * MINUTE))

    assert counts_and_status(session, pool) == (1, 1, 0, 0, "active")


# Status


@pytest.mark.parametrize(
    ("event_types", "status"),
    [
        (["CHECKOUT"], "unknown"),
        (["PURCHASE"], "active"),
        (["PURCHASE", "REMOVED"], "exhausted"),
        (["REMOVED"], "exhausted"),
        (["REMOVED", "PURCHASE"], "active"),
    ],
)
@pytest.mark.parametrize("backwards", [False, True])
def test_status_does_not_depend_on_the_order_of_delivery(
    session: Session,
    collection: Collection,
    pool: LicensePool,
    event_types: list[str],
    status: str,
    backwards: bool,
) -> None:
    events = [event_data(str(n), kind, at=NOON + n * MINUTE) for n, kind in enumerate(event_types)]

    for event in reversed(events) if backwards else events:
        deliver(session, collection, event)

    assert counts_and_status(session, pool)[4] == status


def test_title_without_its_last_copy_is_exhausted(
    session: Session, collection: Collection, pool: LicensePool
) -> None:
    apply_snapshot(session, pool, counts_data(1, 1, 0, as_of=NOON))

    deliver(session, collection, event_data("1", "REMOVED", at=NOON + MINUTE))

    assert counts_and_status(session, pool) == (0, 0, 0, 0, "exhausted")


def test_event_of_unknown_type_changes_no_counts(
    session: Session, collection: Collection, pool: LicensePool
) -> None:
    apply_snapshot(session, pool, counts_data(2, 1, 0, as_of=NOON))

    assert deliver(session, collection, event_data("1", "RENEWED", at=NOON + MINUTE)) == set()

    assert counts_and_status(session, pool) == (2, 1, 0, 0, "active")
    assert session.scalars(select(CirculationEvent.event_type)).all() == ["RENEWED"]


# Reserved copies, which the vendor's snapshots do not report


def test_reserved_copies_come_from_events_and_are_limited(
    session: Session, collection: Collection, pool: LicensePool
) -> None:
    apply_snapshot(session, pool, counts_data(3, 0, 2, as_of=NOON))
    deliver(
        session,
        collection,
        event_data("1", "RESERVED", at=NOON + MINUTE),
        event_data("2", "RESERVED", at=NOON + MINUTE),
    )
    assert counts_and_status(session, pool)[:4] == (3, 0, 2, 0)

    apply_snapshot(session, pool, counts_data(3, 0, 1, as_of=NOON + 2 * MINUTE))
    assert counts_and_status(session, pool)[:4] == (3, 0, 2, 1)
    apply_snapshot(session, pool, counts_data(3, 2, 0, as_of=NOON + 3 * MINUTE))
    assert counts_and_status(session, pool)[:4] == (3, 2, 1, 0)
    apply_snapshot(session, pool, counts_data(3, 2, 0, as_of=NOON + 4 * MINUTE, reserved=0))
    assert counts_and_status(session, pool)[:4] == (3, 2, 0, 0)


# Concurrent transactions


def test_concurrent_slice_and_apply_lose_no_counts(
    session: Session, collection: Collection, pool: LicensePool
) -> None:
    """Both lock the pool before its outbox row."""
    (row_id,) = enqueue_changes(session, [(pool, title_data("solaris", as_of=NOON))])
    session.commit()
    collection_id, pool_id = collection.id, pool.id

    def apply() -> None:
        with transaction() as other:
            apply_outbox(other, [row_id])

    with engine().connect() as observer, transaction() as first:
        same_pool = first.get_one(LicensePool, pool_id)
        checkout = event_data("1", "CHECKOUT", at=NOON + MINUTE)
        record_events(first, first.get_one(Collection, collection_id), {"solaris": same_pool}, [checkout])
        applying = BackgroundThread(apply)
        wait_for_blocked(observer, 1)
        counts = ApplyData(circulation=counts_data(4, 2, 0, as_of=NOON + 2 * MINUTE))
        enqueue_changes(first, [(same_pool, counts)])
    applying.finish()

    assert counts_and_status(session, pool)[:2] == (4, 2)


@pytest.mark.parametrize("events_first", [False, True])
def test_concurrent_events_count_on_an_older_snapshot(
    session: Session, collection: Collection, pool: LicensePool, events_first: bool
) -> None:
    row_ids = enqueue_changes(session, [(pool, title_data("solaris", as_of=NOON))])
    session.commit()
    collection_id, pool_id = collection.id, pool.id

    def deliver_event(writer: Session) -> None:
        owner, same_pool = writer.get_one(Collection, collection_id), writer.get_one(LicensePool, pool_id)
        checkout = event_data("1", "CHECKOUT", at=NOON + MINUTE)
        record_new_events(writer, owner, {"solaris": same_pool}, [checkout])

    def apply(writer: Session) -> None:
        apply_outbox(writer, row_ids)

    first, second = (deliver_event, apply) if events_first else (apply, deliver_event)

    def run_second() -> None:
        with transaction() as writer:
            second(writer)

    with engine().connect() as observer, transaction() as writer:
        first(writer)
        blocked = BackgroundThread(run_second)
        wait_for_blocked(observer, 1)
    blocked.finish()

    assert counts_and_status(session, pool) == (2, 0, 0, 0, "active")
    assert stored_events(session) == {"1": True}


def test_event_in_two_concurrent_slices_counts_once(
    session: Session, collection: Collection, pool: LicensePool
) -> None:
    apply_snapshot(session, pool, counts_data(5, 5, 0, as_of=NOON))
    collection_id, pool_id = collection.id, pool.id
    both, alone = (event_data(name, "CHECKOUT", at=NOON + MINUTE) for name in ("both", "alone"))

    def deliver_slice(writer: Session, *events: EventData) -> None:
        owner, same_pool = writer.get_one(Collection, collection_id), writer.get_one(LicensePool, pool_id)
        record_new_events(writer, owner, {"solaris": same_pool}, events)

    def deliver_second() -> None:
        with transaction() as writer:
            deliver_slice(writer, both, alone)

    with engine().connect() as observer, transaction() as writer:
        deliver_slice(writer, both)
        blocked = BackgroundThread(deliver_second)
        wait_for_blocked(observer, 1)
    blocked.finish()

    assert counts_and_status(session, pool)[:2] == (5, 3)
    assert stored_events(session) == {"both": True, "alone": True}


def test_concurrent_slices_and_apply_do_not_deadlock(session: Session, collection: Collection) -> None:
    names = [f"t{n:02}" for n in range(20)]
    pools = {name: make_pool(session, collection, name) for name in names}
    row_ids = enqueue_changes(session, [(pools[name], title_data(name)) for name in names])
    session.commit()
    ids, collection_id = {name: pool.id for name, pool in pools.items()}, collection.id
    barrier = threading.Barrier(3, timeout=TIMEOUT_SECONDS)

    def deliver_slice(event_type: str, minute: int, order: Sequence[str]) -> None:
        with transaction() as writer:
            owner = writer.get_one(Collection, collection_id)
            own_pools = {name: writer.get_one(LicensePool, ids[name]) for name in order}
            at = NOON + minute * MINUTE
            events = [event_data(f"{minute}-{name}", event_type, name, at=at) for name in order]
            counts = ApplyData(circulation=counts_data(2, 1, 0, as_of=NOON, reserved=0))
            barrier.wait()
            record_new_events(writer, owner, own_pools, events)
            enqueue_changes(writer, [(own_pools[name], counts) for name in order])

    def apply() -> None:
        with transaction() as writer:
            writer.execute(select(1))
            barrier.wait()
            apply_outbox(writer, row_ids[::-1])

    run_concurrently(
        lambda: deliver_slice("CHECKOUT", 1, names[::-1]),
        lambda: deliver_slice("HOLD", 2, [*names[10:], *names[:10]]),
        apply,
    )

    assert {counts_and_status(session, pool) for pool in pools.values()} == {(2, 0, 0, 1, "active")}
    assert stored_events(session) == {f"{minute}-{name}": True for minute in (1, 2) for name in names}


# ISBNs of titles that an event names first


def test_isbn_of_an_event_is_stored_only_without_metadata(
    session: Session, collection: Collection, pool: LicensePool
) -> None:
    with_metadata = make_pool(session, collection, "with-metadata")
    apply_titles(session, {with_metadata.id: title_data("with-metadata", isbns=("9780306406157",))})
    isbns = {pool.identifier_id: "9788308068298", with_metadata.identifier_id: "9788308068298"}
    of_another_source = "9780156027601"
    IdentifierEquivalent.add_first(session, "Another", {pool.identifier_id: of_another_source})

    for _ in range(2):
        IdentifierEquivalent.add_first(session, SOURCE, isbns)

    query = select(
        IdentifierEquivalent.data_source, IdentifierEquivalent.identifier_id, Identifier.identifier
    ).join(Identifier, IdentifierEquivalent.equivalent_id == Identifier.id)
    assert sorted(session.execute(query).all()) == [
        ("Another", pool.identifier_id, of_another_source),
        (SOURCE, pool.identifier_id, "9788308068298"),
        (SOURCE, with_metadata.identifier_id, "9780306406157"),
    ]
