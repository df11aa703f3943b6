"""Counts stay true: snapshots and events, whenever and however often they arrive."""

import threading
from collections.abc import Mapping, Sequence
from datetime import timedelta

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import select
from sqlalchemy.orm import Session

from accession.catalog.apply import apply_outbox
from accession.catalog.circulation import (
    apply_snapshots,
    filter_new_events,
    has_new_counts,
    lock_pools,
    record_events,
)
from accession.catalog.data import ApplyData, CirculationData, EventData
from accession.catalog.outbox import enqueue_changes
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
    """A pool of which the vendor has said nothing yet."""
    return make_pool(session, collection, "solaris")


def told(session: Session, collection: Collection, *events: EventData) -> set[int]:
    """A slice of events arrives; returns the pools it has changed."""
    new = filter_new_events(session, collection, events)
    if not new:
        return set()
    pools = {event.identifier: make_pool(session, collection, event.identifier) for event in new}
    changed = record_events(session, collection, pools, new)
    session.commit()
    return changed


def snapshot(session: Session, pool: LicensePool, data: CirculationData) -> int:
    counted = apply_snapshots(session, lock_pools(session, [pool.id]), {pool.id: data})
    session.commit()
    return counted.pools


def state(session: Session, pool: LicensePool) -> tuple[int, int, int, int, str]:
    session.refresh(pool)
    counts = pool.counts
    return counts.owned, counts.available, counts.reserved, counts.holds, pool.status


def kept(session: Session) -> dict[str, bool]:
    """The events that are kept, and whether they count."""
    query = select(CirculationEvent.event_id, CirculationEvent.counted)
    return dict(session.execute(query).all())


# Each event once, in the order of its time

TITLES = ("eden", "solaris")

happenings = st.tuples(
    st.sampled_from([*(event_type.value for event_type in EventType), "RENEWED"]),
    st.sampled_from(TITLES),
    st.integers(0, 20),
)
deliveries = st.lists(happenings, min_size=1, max_size=12).flatmap(
    lambda happened: st.tuples(
        st.just(
            [
                event_data(f"event-{number:02}", event_type, title, at=NOON + minute * MINUTE)
                for number, (event_type, title, minute) in enumerate(happened)
            ]
        ),
        # Slices of any of the events, in any order, overlapping and repeated; and last all of them.
        st.lists(st.lists(st.integers(0, len(happened) - 1), max_size=8), max_size=5).map(
            lambda slices: [*slices, list(range(len(happened)))]
        ),
    )
)
Delivered = tuple[list[EventData], list[list[int]]]
few = st.integers(0, 3)
any_counts = st.builds(
    lambda owned, available, reserved, holds: CopyCounts(owned, min(owned, available), reserved, holds),
    few,
    few,
    few,
    few,
)
on_the_database = settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def in_time(events: Sequence[EventData], title: str = "solaris") -> list[str]:
    ordered = sorted(events, key=lambda event: (event.occurred_at, event.event_id))
    return [event.event_type for event in ordered if event.identifier == title]


def status_of(counts: CopyCounts, events: Sequence[str], *, told: bool) -> str:
    if counts.owned > 0:
        return "active"
    return "exhausted" if told or not {"PURCHASE", "REMOVED"}.isdisjoint(events) else "unknown"


def pools_that_stand_at(
    session: Session, counts: CopyCounts | None
) -> tuple[Collection, Mapping[str, LicensePool]]:
    """A collection whose pools the vendor has told at noon, or not yet; never committed, so that the next
    example finds nothing of it."""
    collection = Collection(
        name="Alder Library", library_id="a", account_id="a", account_key_encrypted=b"", base_url=""
    )
    session.add(collection)
    session.flush()
    found = LicensePool.for_foreign_ids(
        session, SOURCE, IdentifierType.BIBLIOTHECA, TITLES, collection=collection
    )
    pools = {title: pool for title, (pool, _) in found.items()}
    if counts is not None:
        for pool in pools.values():
            pool.counts = pool.snapshot = counts
            pool.status = status_of(counts, [], told=True)
            pool.circulation_as_of = NOON
    session.flush()
    return collection, pools


def arrive(
    session: Session, collection: Collection, pools: Mapping[str, LicensePool], events: Sequence[EventData]
) -> None:
    if new := filter_new_events(session, collection, events):
        record_events(session, collection, pools, new)


@on_the_database
@given(delivered=deliveries, start=st.none() | any_counts)
def test_any_slices_leave_what_each_event_once_in_the_order_of_its_time_makes(
    database: None, delivered: Delivered, start: CopyCounts | None
) -> None:
    events, slices = delivered
    with Session(engine()) as session:
        collection, pools = pools_that_stand_at(session, start)
        for numbers in slices:
            arrive(session, collection, pools, [events[n] for n in numbers])

        for title, pool in pools.items():
            types = in_time(events, title)
            counts = counts_after_events(start or CopyCounts(0, 0, 0, 0), types)
            assert pool.counts == counts
            assert pool.status == status_of(counts, types, told=start is not None)
        rows = session.scalars(select(CirculationEvent).order_by(CirculationEvent.event_id)).all()
        assert [
            (row.event_id, row.license_pool_id, row.event_type, row.occurred_at, row.counted) for row in rows
        ] == [(e.event_id, pools[e.identifier].id, e.event_type, e.occurred_at, True) for e in events]


@on_the_database
@given(delivered=deliveries, look=st.integers(0, 20), look_after=st.integers(0, 5))
def test_a_snapshot_in_between_counts_for_all_that_was_before_it(
    database: None, delivered: Delivered, look: int, look_after: int
) -> None:
    """Whether it is written before or after the events arrive."""
    events, slices = delivered
    said = counts_data(3, 1, 2, as_of=NOON + look * MINUTE + MINUTE / 2, reserved=1)
    with Session(engine()) as session:
        collection, pools = pools_that_stand_at(session, CopyCounts(9, 9, 0, 0))
        pool = pools["solaris"]
        for at, numbers in enumerate(slices):
            if at == min(look_after, len(slices) - 1):
                apply_snapshots(session, lock_pools(session, [pool.id]), {pool.id: said})
            arrive(session, collection, pools, [events[n] for n in numbers])

        since = [event for event in events if event.occurred_at >= said.as_of]
        assert pool.counts == counts_after_events(CopyCounts(3, 1, 1, 2), in_time(since))


@on_the_database
@given(
    delivered=deliveries,
    start=any_counts,
    look=st.integers(0, 20),
    word=st.none() | any_counts,
    written_after=st.integers(0, 5),
)
def test_a_sweep_counts_for_all_that_was_before_it_whenever_its_word_is_written(
    database: None,
    delivered: Delivered,
    start: CopyCounts,
    look: int,
    word: CopyCounts | None,
    written_after: int,
) -> None:
    """The vendor says something of its own, or what is known already, which is not written at all."""
    events, slices = delivered
    as_of = NOON + look * MINUTE + MINUTE / 2
    past = [event for event in events if event.occurred_at < as_of]
    with Session(engine()) as session:
        collection, pools = pools_that_stand_at(session, start)
        pool = pools["solaris"]
        before = {n for n in slices[0] if events[n] in past}
        arrive(session, collection, pools, [events[n] for n in before])
        told = word or pool.counts
        said = counts_data(told.owned, told.available, told.holds, as_of=as_of, reserved=told.reserved)
        news = has_new_counts(pool, said)
        record_swept(
            session, collection, after_id=0, last_id=None, identifier_ids=[pool.identifier_id], at=as_of
        )
        for at, numbers in enumerate(slices):
            if news and at == min(written_after, len(slices) - 1):
                apply_snapshots(session, lock_pools(session, [pool.id]), {pool.id: said})
            arrive(session, collection, pools, [events[n] for n in numbers])

        since = in_time([event for event in events if event not in past])
        counts = counts_after_events(told, since)
        assert (pool.counts, pool.status) == (counts, status_of(counts, since, told=True))
        # The sweep was told nothing of the other title.
        assert pools["eden"].counts == counts_after_events(start, in_time(events, "eden"))
        assert kept(session) == {
            event.event_id: event.identifier == "eden" or event not in past or n in before
            for n, event in enumerate(events)
        }


def test_an_event_is_kept_once_however_often_it_is_told(
    session: Session, collection: Collection, pool: LicensePool
) -> None:
    bought = event_data("1", "PURCHASE")

    assert told(session, collection, bought, bought) == {pool.id}
    assert told(session, collection, bought) == set()

    assert state(session, pool) == (1, 1, 0, 0, "active")
    assert kept(session) == {"1": True}


def test_each_collection_keeps_its_own_events(
    session: Session, collection: Collection, pool: LicensePool
) -> None:
    other = make_collection(session, "Birch Library")

    told(session, collection, event_data("1", "PURCHASE"))
    told(session, other, event_data("1", "PURCHASE"), event_data("2", "PURCHASE"))

    assert state(session, pool)[:2] == (1, 1)
    assert state(session, make_pool(session, other, "solaris"))[:2] == (2, 2)
    query = select(CirculationEvent.collection_id, CirculationEvent.event_id)
    assert sorted(session.execute(query).all()) == [
        (collection.id, "1"),
        (other.id, "1"),
        (other.id, "2"),
    ]


def test_an_event_that_was_past_at_the_last_snapshot_changes_nothing(
    session: Session, collection: Collection, pool: LicensePool
) -> None:
    snapshot(session, pool, counts_data(2, 1, 0, as_of=NOON))

    assert told(session, collection, event_data("late", "CHECKOUT", at=NOON - MINUTE)) == set()
    assert state(session, pool)[:2] == (2, 1)
    assert told(session, collection, event_data("new", "CHECKOUT", at=NOON + MINUTE)) == {pool.id}

    assert state(session, pool)[:2] == (2, 0)
    assert kept(session) == {"late": False, "new": True}


def test_a_sweep_that_found_nothing_new_is_a_snapshot_too(
    session: Session, collection: Collection, pool: LicensePool
) -> None:
    silent = make_pool(session, collection, "silent")
    for one in (pool, silent):
        snapshot(session, one, counts_data(2, 1, 0, as_of=NOON))
    record_swept(
        session,
        collection,
        after_id=0,
        last_id=None,
        identifier_ids=[pool.identifier_id],
        at=NOON + 10 * MINUTE,
    )

    changed = told(
        session,
        collection,
        event_data("before the sweep", "CHECKOUT", at=NOON + MINUTE),
        event_data("of no answer", "CHECKOUT", "silent", at=NOON + MINUTE),
    )

    assert changed == {silent.id}
    assert state(session, pool)[:2] == (2, 1)
    assert state(session, silent)[:2] == (2, 0)
    told(session, collection, event_data("after the sweep", "CHECKOUT", at=NOON + 11 * MINUTE))
    assert state(session, pool)[:2] == (2, 0)


def test_a_snapshot_that_says_what_is_known_is_not_written(
    session: Session, collection: Collection, pool: LicensePool
) -> None:
    snapshot(session, pool, counts_data(2, 0, 0, as_of=NOON))
    told(session, collection, event_data("1", "CHECKIN", at=NOON + MINUTE))
    before = pool.updated_at
    again = counts_data(2, 1, 0, as_of=NOON + 2 * MINUTE)
    mark = read_table_state(session)
    session.commit()

    assert not has_new_counts(pool, again)
    assert snapshot(session, pool, again) == 0
    assert count_rows_written_since(session, mark) == 0
    assert (pool.circulation_as_of, pool.updated_at) == (NOON, before)


def test_a_snapshot_older_than_the_last_is_not_applied(session: Session, pool: LicensePool) -> None:
    snapshot(session, pool, counts_data(2, 1, 0, as_of=NOON))
    older = counts_data(9, 9, 9, as_of=NOON - MINUTE)

    assert not has_new_counts(pool, older)
    assert snapshot(session, pool, older) == 0
    assert state(session, pool) == (2, 1, 0, 0, "active")


def test_a_snapshot_that_is_written_late_leaves_the_newer_events_in_force(
    session: Session, collection: Collection, pool: LicensePool
) -> None:
    (row_id,) = enqueue_changes(session, [(pool, title_data("solaris", as_of=NOON, licenses_owned=3))])
    told(
        session,
        collection,
        event_data("1", "PURCHASE", at=NOON - MINUTE),
        event_data("2", "REMOVED", at=NOON + MINUTE),
    )

    apply_outbox(session, [row_id])
    session.commit()

    assert state(session, pool)[:2] == (2, 1)


@pytest.mark.parametrize("written_late", [False, True])
def test_a_snapshot_is_what_late_events_count_on_even_if_newer_ones_hide_what_it_says(
    session: Session, collection: Collection, pool: LicensePool, written_late: bool
) -> None:
    """No copy or one, of which one is removed: both leave none, until a copy turns up in between."""
    snapshot(session, pool, counts_data(0, 0, 0, as_of=NOON))
    said = counts_data(1, 1, 0, as_of=NOON + MINUTE)
    removed = event_data("2", "REMOVED", at=NOON + 3 * MINUTE)

    if written_late:
        told(session, collection, removed)
        snapshot(session, pool, said)
    else:
        snapshot(session, pool, said)
        told(session, collection, removed)
    assert state(session, pool) == (0, 0, 0, 0, "exhausted")
    told(session, collection, event_data("1", "PURCHASE", at=NOON + 2 * MINUTE))

    assert state(session, pool) == (1, 1, 0, 0, "active")


# Status


@pytest.mark.parametrize(
    ("events", "status"),
    [
        (["CHECKOUT"], "unknown"),
        (["PURCHASE"], "active"),
        (["PURCHASE", "REMOVED"], "exhausted"),
        (["REMOVED"], "exhausted"),
        (["REMOVED", "PURCHASE"], "active"),
    ],
)
@pytest.mark.parametrize("backwards", [False, True])
def test_the_status_follows_the_copies_in_whatever_order_events_arrive(
    session: Session,
    collection: Collection,
    pool: LicensePool,
    events: list[str],
    status: str,
    backwards: bool,
) -> None:
    happened = [event_data(str(n), kind, at=NOON + n * MINUTE) for n, kind in enumerate(events)]

    for event in reversed(happened) if backwards else happened:
        told(session, collection, event)

    assert state(session, pool)[4] == status


def test_the_last_copy_that_is_removed_leaves_the_title_exhausted(
    session: Session, collection: Collection, pool: LicensePool
) -> None:
    snapshot(session, pool, counts_data(1, 1, 0, as_of=NOON))

    told(session, collection, event_data("1", "REMOVED", at=NOON + MINUTE))

    assert state(session, pool) == (0, 0, 0, 0, "exhausted")


def test_an_unknown_event_is_kept_and_changes_nothing(
    session: Session, collection: Collection, pool: LicensePool
) -> None:
    snapshot(session, pool, counts_data(2, 1, 0, as_of=NOON))

    assert told(session, collection, event_data("1", "RENEWED", at=NOON + MINUTE)) == set()

    assert state(session, pool) == (2, 1, 0, 0, "active")
    assert session.scalars(select(CirculationEvent.event_type)).all() == ["RENEWED"]


# Reserved copies, of which the vendor's snapshots say nothing


def test_reserved_copies_are_known_from_events_and_are_never_more_than_there_can_be(
    session: Session, collection: Collection, pool: LicensePool
) -> None:
    snapshot(session, pool, counts_data(3, 0, 2, as_of=NOON))
    told(
        session,
        collection,
        event_data("1", "RESERVED", at=NOON + MINUTE),
        event_data("2", "RESERVED", at=NOON + MINUTE),
    )
    assert state(session, pool)[:4] == (3, 0, 2, 0)

    snapshot(session, pool, counts_data(3, 0, 1, as_of=NOON + 2 * MINUTE))
    assert state(session, pool)[:4] == (3, 0, 2, 1)
    snapshot(session, pool, counts_data(3, 2, 0, as_of=NOON + 3 * MINUTE))
    assert state(session, pool)[:4] == (3, 2, 1, 0)
    snapshot(session, pool, counts_data(3, 2, 0, as_of=NOON + 4 * MINUTE, reserved=0))
    assert state(session, pool)[:4] == (3, 2, 0, 0)


# Side by side


def test_events_and_applies_of_one_title_take_turns_and_lose_nothing(
    session: Session, collection: Collection, pool: LicensePool
) -> None:
    """Both want the pool and its outbox row: the slice locks the pool first, and so does the apply."""
    (row_id,) = enqueue_changes(session, [(pool, title_data("solaris", as_of=NOON))])
    session.commit()
    collection_id, pool_id = collection.id, pool.id

    def apply() -> None:
        with transaction() as mine:
            apply_outbox(mine, [row_id])

    with engine().connect() as watcher, transaction() as mine:
        here = mine.get_one(LicensePool, pool_id)
        checkout = event_data("1", "CHECKOUT", at=NOON + MINUTE)
        record_events(mine, mine.get_one(Collection, collection_id), {"solaris": here}, [checkout])
        applying = BackgroundThread(apply)
        wait_for_blocked(watcher, 1)
        enqueue_changes(mine, [(here, ApplyData(circulation=counts_data(4, 2, 0, as_of=NOON + 2 * MINUTE)))])
    applying.finish()

    assert state(session, pool)[:2] == (4, 2)


@pytest.mark.parametrize("events_first", [False, True])
def test_events_that_meet_the_apply_of_an_older_snapshot_count_on_it(
    session: Session, collection: Collection, pool: LicensePool, events_first: bool
) -> None:
    row_ids = enqueue_changes(session, [(pool, title_data("solaris", as_of=NOON))])
    session.commit()
    collection_id, pool_id = collection.id, pool.id

    def slice_of_events(mine: Session) -> None:
        here, there = mine.get_one(Collection, collection_id), mine.get_one(LicensePool, pool_id)
        arrive(mine, here, {"solaris": there}, [event_data("1", "CHECKOUT", at=NOON + MINUTE)])

    def apply(mine: Session) -> None:
        apply_outbox(mine, row_ids)

    first, second = (slice_of_events, apply) if events_first else (apply, slice_of_events)

    def wait_and_go() -> None:
        with transaction() as mine:
            second(mine)

    with engine().connect() as watcher, transaction() as mine:
        first(mine)
        waiting = BackgroundThread(wait_and_go)
        wait_for_blocked(watcher, 1)
    waiting.finish()

    assert state(session, pool) == (2, 0, 0, 0, "active")
    assert kept(session) == {"1": True}


def test_two_slices_that_tell_the_same_event_at_once_count_it_once(
    session: Session, collection: Collection, pool: LicensePool
) -> None:
    snapshot(session, pool, counts_data(5, 5, 0, as_of=NOON))
    collection_id, pool_id = collection.id, pool.id
    both, alone = (event_data(name, "CHECKOUT", at=NOON + MINUTE) for name in ("both", "alone"))

    def slice_of(mine: Session, *events: EventData) -> None:
        here, there = mine.get_one(Collection, collection_id), mine.get_one(LicensePool, pool_id)
        arrive(mine, here, {"solaris": there}, events)

    def another() -> None:
        with transaction() as mine:
            slice_of(mine, both, alone)

    with engine().connect() as watcher, transaction() as mine:
        slice_of(mine, both)
        waiting = BackgroundThread(another)
        wait_for_blocked(watcher, 1)
    waiting.finish()

    assert state(session, pool)[:2] == (5, 3)
    assert kept(session) == {"both": True, "alone": True}


def test_slices_and_an_apply_on_many_titles_in_any_order_neither_deadlock_nor_lose_a_thing(
    session: Session, collection: Collection
) -> None:
    names = [f"t{n:02}" for n in range(20)]
    pools = {name: make_pool(session, collection, name) for name in names}
    row_ids = enqueue_changes(session, [(pools[name], title_data(name)) for name in names])
    session.commit()
    ids, collection_id = {name: pool.id for name, pool in pools.items()}, collection.id
    start = threading.Barrier(3, timeout=TIMEOUT_SECONDS)

    def slice_of(event_type: str, minute: int, order: Sequence[str]) -> None:
        with transaction() as mine:
            here = mine.get_one(Collection, collection_id)
            theirs = {name: mine.get_one(LicensePool, ids[name]) for name in order}
            at = NOON + minute * MINUTE
            start.wait()
            arrive(mine, here, theirs, [event_data(f"{minute}-{n}", event_type, n, at=at) for n in order])
            enqueue_changes(
                mine,
                [
                    (theirs[n], ApplyData(circulation=counts_data(2, 1, 0, as_of=NOON, reserved=0)))
                    for n in order
                ],
            )

    def apply() -> None:
        with transaction() as mine:
            mine.execute(select(1))
            start.wait()
            apply_outbox(mine, row_ids[::-1])

    run_concurrently(
        lambda: slice_of("CHECKOUT", 1, names[::-1]),
        lambda: slice_of("HOLD", 2, [*names[10:], *names[:10]]),
        apply,
    )

    assert {state(session, pool) for pool in pools.values()} == {(2, 0, 0, 1, "active")}
    assert kept(session) == {f"{minute}-{name}": True for minute in (1, 2) for name in names}


# A title first seen in an event


def test_an_isbn_is_noted_only_where_the_source_has_named_none(
    session: Session, collection: Collection, pool: LicensePool
) -> None:
    described = make_pool(session, collection, "described")
    apply_titles(session, {described.id: title_data("described", isbns=("9780306406157",))})
    isbns = {pool.identifier_id: "9788308068298", described.identifier_id: "9788308068298"}
    another = "9780156027601"
    IdentifierEquivalent.add_first(session, "Another", {pool.identifier_id: another})

    for _ in range(2):
        IdentifierEquivalent.add_first(session, SOURCE, isbns)

    query = select(
        IdentifierEquivalent.data_source, IdentifierEquivalent.identifier_id, Identifier.identifier
    ).join(Identifier, IdentifierEquivalent.equivalent_id == Identifier.id)
    assert sorted(session.execute(query).all()) == [
        ("Another", pool.identifier_id, another),
        (SOURCE, pool.identifier_id, "9788308068298"),
        (SOURCE, described.identifier_id, "9780306406157"),
    ]
