"""Totals of circulation events by title and day, by collection and month, and of the last year."""

from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta

import pytest
import time_machine
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from accession.catalog import circulation_totals
from accession.catalog.circulation import record_events
from accession.catalog.circulation_totals import roll_up_events, rolled_up_until
from accession.db.engine import engine, transaction
from accession.db.models import (
    CirculationEvent,
    CirculationMonth,
    CirculationTotal,
    Collection,
    TitleStatistics,
)
from tests.fixtures.factories import (
    NOON,
    BackgroundThread,
    event_data,
    make_collection,
    make_pool,
    wait_for_blocked,
)
from tests.fixtures.servers import delete_all_rows

TODAY = NOON.date()
YESTERDAY = TODAY - timedelta(days=1)
DAY = timedelta(days=1)


def record(session: Session, collection: Collection, *events: tuple[str, str, datetime]) -> None:
    """Store and commit events of the title "solaris", given as id, type and time."""
    pool = make_pool(session, collection, "solaris")
    data = [event_data(event_id, event_type, at=at) for event_id, event_type, at in events]
    record_events(session, collection, {"solaris": pool}, data)
    session.commit()


def roll_up(session: Session, now: datetime = NOON) -> int:
    events = roll_up_events(session, now)
    session.commit()
    session.expire_all()
    return events


def days(session: Session) -> Sequence[tuple[date, str, int]]:
    total = CirculationTotal
    query = select(total.day, total.event_type, total.events).order_by(total.day, total.event_type)
    return [(day, event_type, number) for day, event_type, number in session.execute(query)]


def months(session: Session) -> Sequence[tuple[date, str, int]]:
    row = CirculationMonth
    query = select(row.month, row.event_type, row.events).order_by(row.month, row.event_type)
    return [(day, event_type, number) for day, event_type, number in session.execute(query)]


def loans(session: Session) -> tuple[int, int, date | None]:
    """Return all loans of the only title, those of the last year, and the day of the last one."""
    row = session.scalars(select(TitleStatistics)).one()
    return row.loans, row.loans_last_year, row.last_loan_on


def test_events_are_counted_by_day_in_utc_and_type(session: Session, collection: Collection) -> None:
    record(
        session,
        collection,
        ("1", "CHECKOUT", datetime(2024, 4, 29, 23, 59, 59, tzinfo=UTC)),
        ("2", "CHECKOUT", datetime(2024, 4, 30, tzinfo=UTC)),
        ("3", "CHECKOUT", datetime(2024, 5, 1, 1, tzinfo=UTC)),
        ("4", "HOLD", datetime(2024, 5, 1, 1, tzinfo=UTC)),
        ("5", "CHECKOUT", datetime(2024, 5, 1, 2, tzinfo=UTC)),
    )

    assert roll_up(session) == 5

    assert days(session) == [
        (date(2024, 4, 29), "CHECKOUT", 1),
        (date(2024, 4, 30), "CHECKOUT", 1),
        (date(2024, 5, 1), "CHECKOUT", 2),
        (date(2024, 5, 1), "HOLD", 1),
    ]
    assert months(session) == [
        (date(2024, 4, 1), "CHECKOUT", 2),
        (date(2024, 5, 1), "CHECKOUT", 2),
        (date(2024, 5, 1), "HOLD", 1),
    ]
    assert loans(session) == (4, 4, TODAY)


def test_second_roll_up_adds_nothing(session: Session, collection: Collection) -> None:
    record(session, collection, ("1", "CHECKOUT", NOON))
    roll_up(session)

    assert roll_up(session) == 0
    assert days(session) == [(TODAY, "CHECKOUT", 1)]
    assert loans(session) == (1, 1, TODAY)


def test_late_event_is_added_once(session: Session, collection: Collection) -> None:
    record(session, collection, ("1", "CHECKOUT", NOON - DAY), ("2", "CHECKOUT", NOON))
    roll_up(session)
    record(session, collection, ("3", "CHECKOUT", NOON - DAY), ("1", "CHECKOUT", NOON - DAY))

    assert rolled_up_until(session) == YESTERDAY - DAY
    assert roll_up(session) == 1
    assert roll_up(session) == 0
    assert days(session) == [(YESTERDAY, "CHECKOUT", 2), (TODAY, "CHECKOUT", 1)]
    assert loans(session) == (3, 3, TODAY)
    assert rolled_up_until(session) == YESTERDAY


def test_totals_remain_when_events_are_pruned(session: Session, collection: Collection) -> None:
    record(session, collection, ("1", "CHECKOUT", NOON))
    roll_up(session)
    session.execute(delete(CirculationEvent))
    session.commit()

    record(session, collection, ("2", "CHECKOUT", NOON))
    roll_up(session)

    assert days(session) == [(TODAY, "CHECKOUT", 2)]


def test_batches_begin_with_the_oldest_events(
    session: Session, collection: Collection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(circulation_totals, "BATCH_SIZE", 2)
    times = [NOON - number * DAY for number in range(3)]
    record(session, collection, *((str(at), "CHECKOUT", at) for at in times))

    assert roll_up(session) == 2
    assert days(session) == [(TODAY - 2 * DAY, "CHECKOUT", 1), (YESTERDAY, "CHECKOUT", 1)]
    assert rolled_up_until(session) == YESTERDAY
    assert roll_up(session) == 1
    assert len(days(session)) == 3


def test_no_day_is_covered_before_the_first_roll_up(session: Session, collection: Collection) -> None:
    record(session, collection, ("1", "CHECKOUT", NOON - 9 * DAY))
    assert rolled_up_until(session) is None


def test_days_without_events_are_covered_too(session: Session) -> None:
    roll_up(session)
    assert rolled_up_until(session) == YESTERDAY


def test_clock_that_goes_back_changes_nothing(session: Session, collection: Collection) -> None:
    record(session, collection, ("1", "CHECKOUT", NOON))
    roll_up(session)
    roll_up(session, NOON - 400 * DAY)

    assert rolled_up_until(session) == YESTERDAY
    assert loans(session) == (1, 1, TODAY)


def test_failed_roll_up_is_repeated_as_a_whole(session: Session, collection: Collection) -> None:
    record(session, collection, ("1", "CHECKOUT", NOON))
    roll_up_events(session, NOON)
    session.rollback()
    assert days(session) == []

    roll_up(session)
    assert days(session) == [(TODAY, "CHECKOUT", 1)]


def test_concurrent_roll_ups_add_an_event_once(session: Session, collection: Collection) -> None:
    record(session, collection, ("1", "CHECKOUT", NOON))

    def other_process() -> None:
        with transaction() as other:
            roll_up_events(other, NOON)

    roll_up_events(session, NOON)
    thread = BackgroundThread(other_process)
    wait_for_blocked(session.connection(), 1)
    session.commit()
    thread.finish()

    assert days(session) == [(TODAY, "CHECKOUT", 1)]


def test_last_year_ends_yesterday_and_includes_today(session: Session, collection: Collection) -> None:
    first = NOON - 365 * DAY
    record(session, collection, ("1", "CHECKOUT", first - DAY), ("2", "CHECKOUT", first))
    record(session, collection, ("3", "CHECKOUT", NOON))
    roll_up(session)
    assert loans(session) == (3, 2, TODAY)

    roll_up(session, NOON + DAY)
    assert loans(session) == (3, 1, TODAY)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rounds=st.lists(
        st.tuples(st.integers(0, 500), st.lists(st.tuples(st.integers(-900, 0), st.booleans()), max_size=5)),
        max_size=4,
    )
)
def test_totals_equal_the_events_in_any_order(
    database: None, rounds: list[tuple[int, list[tuple[int, bool]]]]
) -> None:
    delete_all_rows()
    with Session(engine()) as session:
        collection = make_collection(session, "Alder Library")
        now = NOON
        stored: list[tuple[datetime, str]] = []
        for elapsed, events in rounds:
            now += elapsed * DAY
            for ago, is_loan in events:
                event_type = "CHECKOUT" if is_loan else "CHECKIN"
                with time_machine.travel(now, tick=False):
                    record(session, collection, (str(len(stored)), event_type, now + ago * DAY))
                stored.append((now + ago * DAY, event_type))
            roll_up(session, now)
        roll_up(session, now)

        assert sum(number for *_, number in days(session)) == len(stored)
        assert sum(number for *_, number in months(session)) == len(stored)
        loan_times = [at for at, event_type in stored if event_type == "CHECKOUT"]
        if loan_times:
            of_last_year = sum(at.date() >= now.date() - 365 * DAY for at in loan_times)
            assert loans(session) == (len(loan_times), of_last_year, max(loan_times).date())
