"""Titles on order, which are purchased and not on sale yet, and counts that cannot be."""

from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest
import time_machine
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import select
from sqlalchemy.orm import Session

from accession.catalog.availability import SHOWN_COUNTS, is_before_sale, pool_status, shown_counts
from accession.catalog.change_feed import read_feed
from accession.catalog.circulation import record_events
from accession.catalog.data import ApplyData
from accession.catalog.feed_filter import FeedFilter
from accession.catalog.on_order import update_on_order
from accession.catalog.outbox import find_changed_titles
from accession.catalog.title_history import title_history
from accession.catalog.titles import TitleView, find_title
from accession.db.engine import engine, transaction
from accession.db.models import Collection, CopyCounts, LicensePool, PoolStatus
from accession.runs.health import CopyTotals, sum_copies
from tests.fixtures.factories import (
    NOON,
    BackgroundThread,
    apply_titles,
    counts_data,
    event_data,
    make_collection,
    make_pool,
    record_statements,
    title_data,
    wait_for_blocked,
)
from tests.fixtures.servers import delete_all_rows

DAY = timedelta(days=1)
TOMORROW = "2024-05-02"
IN_A_WEEK = "2024-05-08"
YESTERDAY = "2024-04-30"


@pytest.fixture(autouse=True)
def _first_of_may() -> Iterator[None]:
    with time_machine.travel(NOON, tick=False):
        yield


def apply_at(session: Session, pool: LicensePool, at: datetime, **fields: Any) -> None:
    fields = {"licenses_owned": 5, "licenses_available": 5} | fields
    with time_machine.travel(at, tick=False):
        apply_titles(session, {pool.id: title_data("solaris", as_of=at, **fields)})
        session.commit()


def update_at(session: Session, at: datetime) -> int:
    with time_machine.travel(at, tick=False):
        updated = update_on_order(session)
        session.commit()
    return updated


def solaris(session: Session, collection: str = "Alder Library") -> TitleView:
    session.expire_all()
    return find_title(session, collection, "solaris")


def status_and_copies(session: Session, collection: str = "Alder Library") -> tuple[str, int, int]:
    title = solaris(session, collection)
    return title.status, title.licenses_available, title.licenses_owned


@pytest.fixture
def pool(session: Session, collection: Collection) -> LicensePool:
    return make_pool(session, collection, "solaris")


@pytest.mark.parametrize(
    ("on_sale", "expected"),
    [
        (None, False),
        ("2024-05-01", False),
        ("2024-05-02", True),
        ("2024-04-30", False),
        ("2024-05", False),
        ("2024-06", True),
        ("2024-04", False),
        ("2024", False),
        ("2025", True),
        ("2023", False),
    ],
)
def test_month_and_year_of_sale_begin_on_their_first_day(on_sale: str | None, expected: bool) -> None:
    assert is_before_sale(on_sale) is expected


@given(on_sale=st.dates(), now=st.datetimes(timezones=st.just(UTC)), length=st.sampled_from((4, 7, 10)))
def test_title_is_before_sale_until_its_first_day(on_sale: date, now: datetime, length: int) -> None:
    period = on_sale.isoformat()[:length]
    first_day = period + "-01-01"[length - 10 :] if length < 10 else period

    with time_machine.travel(now, tick=False):
        assert is_before_sale(period) is (first_day > now.date().isoformat())


def test_title_without_copies_is_never_on_order() -> None:
    none = CopyCounts(0, 0, 0, 0)

    assert pool_status(none, TOMORROW, is_known=True) == PoolStatus.EXHAUSTED
    assert pool_status(none, TOMORROW, is_known=False) == PoolStatus.UNKNOWN


def test_copies_of_title_on_order_are_not_available(session: Session, pool: LicensePool) -> None:
    apply_at(session, pool, NOON, on_sale=TOMORROW, patrons_in_hold_queue=2)

    title = solaris(session)

    assert (title.status, title.on_order_until) == ("on order", TOMORROW)
    assert (title.licenses_owned, title.licenses_available, title.patrons_in_hold_queue) == (5, 0, 2)
    assert sum_copies(session, pool.collection_id) == CopyTotals(owned=5, available=0, reserved=0, holds=2)
    # The vendor's counts stay as they are.
    assert (pool.snapshot.available, pool.counts.available) == (5, 5)


def test_title_becomes_available_on_the_day_of_sale(session: Session, pool: LicensePool) -> None:
    apply_at(session, pool, NOON, on_sale=TOMORROW)
    midnight = datetime(2024, 5, 2, tzinfo=UTC)

    assert update_at(session, midnight - timedelta(seconds=1)) == 0
    assert update_at(session, midnight) == 1

    title = solaris(session)
    assert (title.status, title.licenses_available, title.updated_at) == ("active", 5, midnight)
    (entry,) = title_history(session, "Alder Library", "solaris")
    assert (entry.at, entry.text) == (midnight, "Available 0 → 5, status on order → active")
    (changed,) = read_feed(session, FeedFilter(since=midnight))
    assert (changed.title.licenses_available, changed.modified_at) == (5, midnight)
    assert update_at(session, midnight) == 0


def test_missed_day_of_sale_is_made_up_for(session: Session, pool: LicensePool) -> None:
    apply_at(session, pool, NOON, on_sale=TOMORROW)

    assert update_at(session, NOON + 30 * DAY) == 1

    assert status_and_copies(session) == ("active", 5, 5)


def test_snapshot_after_the_day_makes_title_available(session: Session, pool: LicensePool) -> None:
    """The sweep's metadata is the same, and so are the counts: only the day has come."""
    apply_at(session, pool, NOON, on_sale=TOMORROW)
    later = title_data("solaris", as_of=NOON + DAY, on_sale=TOMORROW, licenses_owned=5, licenses_available=5)

    with time_machine.travel(NOON + DAY, tick=False):
        ((_, changed),) = find_changed_titles(session, [(pool, later)])
        apply_titles(session, {pool.id: changed})
        session.commit()

    assert changed.bibliographic is None
    assert status_and_copies(session) == ("active", 5, 5)


def test_unchanged_title_on_order_is_not_applied_again(session: Session, pool: LicensePool) -> None:
    apply_at(session, pool, NOON, on_sale=IN_A_WEEK)
    same = title_data("solaris", as_of=NOON + DAY, on_sale=IN_A_WEEK, licenses_owned=5, licenses_available=5)

    assert find_changed_titles(session, [(pool, same)]) == []


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        (TOMORROW, IN_A_WEEK, ("on order", 0, 5)),
        (IN_A_WEEK, YESTERDAY, ("active", 5, 5)),
        (YESTERDAY, IN_A_WEEK, ("on order", 0, 5)),
        (IN_A_WEEK, None, ("active", 5, 5)),
        (None, IN_A_WEEK, ("on order", 0, 5)),
    ],
)
def test_moved_date_of_sale_changes_the_status(
    session: Session,
    pool: LicensePool,
    before: str | None,
    after: str | None,
    expected: tuple[str, int, int],
) -> None:
    apply_at(session, pool, NOON, on_sale=before)

    apply_at(session, pool, NOON + timedelta(hours=1), on_sale=after)

    assert status_and_copies(session) == expected


def test_older_metadata_does_not_change_the_status(session: Session, pool: LicensePool) -> None:
    apply_at(session, pool, NOON, on_sale=IN_A_WEEK)

    older = title_data("solaris", as_of=NOON - DAY, on_sale=YESTERDAY)
    apply_titles(
        session,
        {pool.id: ApplyData(bibliographic=older.bibliographic, circulation=counts_data(4, 4, 0, as_of=NOON))},
    )

    assert status_and_copies(session)[0] == "on order"


def test_date_moved_by_another_collection_is_followed(session: Session, pool: LicensePool) -> None:
    other = make_pool(session, make_collection(session, "Birch Library"), "solaris")
    apply_at(session, pool, NOON, on_sale=YESTERDAY)
    apply_at(session, other, NOON + timedelta(hours=1), on_sale=IN_A_WEEK)

    assert status_and_copies(session, "Birch Library") == ("on order", 0, 5)
    assert update_at(session, NOON + timedelta(hours=2)) == 1

    assert status_and_copies(session) == ("on order", 0, 5)
    (entry,) = (
        each for each in title_history(session, "Alder Library", "solaris") if each.kind == "availability"
    )
    assert entry.text == "Available 5 → 0, status active → on order"


def test_withdrawn_title_stays_withdrawn_on_the_day(session: Session, pool: LicensePool) -> None:
    apply_at(session, pool, NOON, on_sale=TOMORROW)
    apply_at(
        session, pool, NOON + timedelta(hours=1), on_sale=TOMORROW, licenses_owned=0, licenses_available=0
    )

    assert status_and_copies(session) == ("exhausted", 0, 0)
    assert update_at(session, NOON + DAY) == 0

    assert status_and_copies(session) == ("exhausted", 0, 0)


def test_events_of_title_on_order_keep_it_on_order(
    session: Session, collection: Collection, pool: LicensePool
) -> None:
    apply_at(session, pool, NOON, on_sale=TOMORROW)
    events = [event_data("1", "PURCHASE", at=NOON + timedelta(minutes=1))]

    record_events(session, collection, {"solaris": pool}, events)
    session.commit()

    assert status_and_copies(session) == ("on order", 0, 6)
    update_at(session, NOON + DAY)
    assert status_and_copies(session) == ("active", 6, 6)


def test_many_titles_are_updated_in_several_transactions(session: Session, collection: Collection) -> None:
    pools = [make_pool(session, collection, name) for name in "abc"]
    apply_titles(
        session, {pool.id: title_data(pool.identifier.identifier, on_sale=TOMORROW) for pool in pools}
    )
    session.commit()

    with time_machine.travel(NOON + DAY, tick=False):
        assert [update_on_order(session, limit=2) for _ in range(3)] == [2, 1, 0]


def test_title_withdrawn_meanwhile_is_not_made_active(session: Session, pool: LicensePool) -> None:
    """The update waits for the transaction that withdraws the title, and then sees its result."""
    apply_at(session, pool, NOON, on_sale=TOMORROW)

    with time_machine.travel(NOON + DAY, tick=False):
        withdrawn = title_data(
            "solaris", as_of=NOON + DAY, on_sale=TOMORROW, licenses_owned=0, licenses_available=0
        )
        apply_titles(session, {pool.id: withdrawn})
        updating = BackgroundThread(_update)
        with engine().connect() as observer:
            wait_for_blocked(observer, 1)
        session.commit()
        updating.finish()

    assert status_and_copies(session) == ("exhausted", 0, 0)


def _update() -> None:
    with transaction() as session:
        update_on_order(session)


def test_nothing_to_update_takes_few_statements(session: Session, pool: LicensePool) -> None:
    apply_at(session, pool, NOON, on_sale=TOMORROW)

    with record_statements(engine()) as statements:
        assert update_on_order(session) == 0

    assert len(statements) <= 3


@pytest.mark.parametrize(
    ("stored", "shown"),
    [
        # owned, available, reserved, holds
        ((1, 5, 0, 0), (1, 1, 0, 0)),
        ((5, 4, 3, 2), (5, 4, 1, 2)),
        ((1, 0, 4, 0), (1, 0, 1, 0)),
        ((0, 2, 1, 0), (0, 0, 0, 0)),
    ],
)
def test_impossible_counts_are_stored_and_shown_as_possible(
    session: Session, pool: LicensePool, stored: tuple[int, ...], shown: tuple[int, ...]
) -> None:
    owned, available, reserved, holds = stored
    apply_at(
        session,
        pool,
        NOON,
        licenses_owned=owned,
        licenses_available=available,
        licenses_reserved=reserved,
        patrons_in_hold_queue=holds,
    )

    title = solaris(session)

    assert (
        title.licenses_owned,
        title.licenses_available,
        title.licenses_reserved,
        title.patrons_in_hold_queue,
    ) == shown
    assert sum_copies(session, pool.collection_id) == CopyTotals(*shown)
    assert pool.snapshot == CopyCounts(*stored)


def test_loan_of_impossible_copies_leaves_none_available(
    session: Session, collection: Collection, pool: LicensePool
) -> None:
    apply_at(session, pool, NOON, licenses_owned=1, licenses_available=5)

    record_events(
        session, collection, {"solaris": pool}, [event_data("1", "CHECKOUT", at=NOON + timedelta(minutes=1))]
    )
    session.commit()

    assert status_and_copies(session) == ("active", 0, 1)


def test_history_shows_possible_counts(session: Session, pool: LicensePool) -> None:
    apply_at(session, pool, NOON, licenses_owned=3, licenses_available=2)
    apply_at(session, pool, NOON + timedelta(hours=1), licenses_owned=1, licenses_available=4)

    (entry,) = title_history(session, "Alder Library", "solaris")

    assert entry.text == "Owned 3 → 1, available 2 → 1"


count = st.sampled_from((0, 1, 2, 3, 2**31 - 1))


@pytest.fixture(scope="module")
def one_pool(servers: object) -> int:
    """A pool whose counts a test sets without a commit."""
    delete_all_rows()
    with Session(engine()) as session:
        return make_pool(session, make_collection(session, "Alder Library"), "solaris").id


@given(owned=count, available=count, reserved=count, holds=count, status=st.sampled_from(PoolStatus))
def test_queries_and_program_agree_on_shown_counts(
    one_pool: int, owned: int, available: int, reserved: int, holds: int, status: PoolStatus
) -> None:
    counts = CopyCounts(owned, available, reserved, holds)
    with Session(engine()) as session:
        pool = session.get_one(LicensePool, one_pool)
        pool.counts, pool.status = counts, status
        session.flush()
        queried = session.execute(select(*SHOWN_COUNTS.values())).one()

    shown = shown_counts(counts, status)

    assert CopyCounts(*map(int, queried)) == shown
    assert shown.available + shown.reserved <= shown.owned == owned
    assert min(vars(shown).values()) >= 0
