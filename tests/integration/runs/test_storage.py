"""Sizes of tables, their growth, and what the next pruning deletes."""

from datetime import UTC, date, datetime, time, timedelta

import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session

from accession.core.settings import get_settings
from accession.db.aged_rows import count_about
from accession.db.bulk import insert_rows
from accession.db.engine import engine
from accession.db.models import CirculationEvent, CirculationTotal, Pruning, TableSize, table_of
from accession.db.sizes import record_table_sizes, sizes_by_day, table_sizes
from accession.runs.retention import KINDS, find_kinds
from accession.runs.storage import RetentionView, storage_report
from tests.fixtures.factories import NOON, make_collection, make_pool, populate_all_tables

DAY = timedelta(days=1)


def view_of(session: Session, name: str, now: datetime) -> RetentionView:
    report = storage_report(session, get_settings(), now)
    return next(view for view in report.retention if view.name == name)


def add_events(session: Session, number: int) -> None:
    """Add rolled-up events, one per minute from noon on, of a title with known counts."""
    collection = make_collection(session, "Alder Library")
    pool = make_pool(session, collection, "solaris")
    pool.circulation_as_of = NOON - DAY
    rows = [
        {
            "collection_id": collection.id,
            "event_id": str(minute),
            "license_pool_id": pool.id,
            "event_type": "CHECKOUT",
            "occurred_at": NOON + timedelta(minutes=minute),
            "counted": True,
            "rolled_up": True,
        }
        for minute in range(1, number + 1)
    ]
    insert_rows(session, table_of(CirculationEvent), rows)
    session.execute(text("ANALYZE circulation_events"))
    session.commit()


def test_report_has_every_kind_of_every_table(session: Session, database: None) -> None:
    populate_all_tables(engine())
    report = storage_report(session, get_settings(), NOON)

    assert [view.name for view in report.retention] == [kind.name for kind in KINDS]
    assert {table.name for table in report.tables} >= {"runs", "circulation_events", "purchase_records"}
    assert report.bytes == sum(table.bytes for table in report.tables) > 0
    assert report.bytes_per_day is None


@pytest.mark.parametrize("first", [date(2014, 1, 1), date(2019, 7, 30), NOON.date()])
def test_first_day_of_event_totals_is_found(session: Session, first: date) -> None:
    """The index of their days is no order of them: to sort would read all totals."""
    assert view_of(session, "event-totals", NOON).oldest is None
    collection = make_collection(session, "Alder Library")
    pool = make_pool(session, collection, "solaris")
    total = {"license_pool_id": pool.id, "events": 1}
    days = [
        {**total, "day": NOON.date(), "event_type": "CHECKIN"},
        {**total, "day": first, "event_type": "CHECKOUT"},
        {**total, "day": date(2014, 1, 1), "event_type": "REMOVED"},
    ]
    insert_rows(session, table_of(CirculationTotal), days)
    assert view_of(session, "event-totals", NOON).oldest == datetime.combine(first, time(), UTC)


def test_report_tells_what_the_next_pruning_deletes(session: Session) -> None:
    add_events(session, 100)
    now = NOON + 90 * DAY + timedelta(minutes=41)

    view = view_of(session, "events", now)
    assert (view.rows, view.prunable_rows, view.days) == (100, 40, 90)
    assert view.oldest == NOON + timedelta(minutes=1)
    assert view.prunable_bytes == pytest.approx(view.bytes * 0.4, abs=1)
    assert (view.pruned_at, view.pruned_rows) == (None, 0)


def test_large_numbers_are_estimates(session: Session) -> None:
    add_events(session, 12_000)

    assert view_of(session, "events", NOON).rows == pytest.approx(12_000, rel=0.1)
    old = find_kinds(["events"])[0].rows.select_old(NOON + timedelta(minutes=11_001))
    assert count_about(session, old) == pytest.approx(11_000, rel=0.2)


def test_prunings_are_counted(session: Session) -> None:
    session.add(Pruning(kind="runs", pruned_at=NOON, rows=7))
    view = view_of(session, "runs", NOON)

    assert (view.pruned_at, view.pruned_rows) == (NOON, 7)


def test_kind_that_is_kept_for_ever_has_no_limit(session: Session) -> None:
    add_events(session, 10)
    settings = get_settings().model_copy(update={"retention_days_events": 0})
    report = storage_report(session, settings, NOON + 1000 * DAY)
    view = next(view for view in report.retention if view.name == "events")

    assert (view.days, view.prunable_rows) == (None, 0)


def test_growth_is_measured_over_the_last_days(session: Session) -> None:
    now = datetime(2024, 5, 11, 3, tzinfo=UTC)
    size = next(table.bytes for table in table_sizes(session, now) if table.name == "runs")
    for day, missing in ((date(2024, 3, 1), 500_000), (date(2024, 5, 1), 10_000), (date(2024, 5, 6), 0)):
        session.add(TableSize(day=day, name="runs", bytes=size - missing, rows=1))
    session.flush()

    growth = {table.name: table.bytes_per_day for table in table_sizes(session, now)}
    assert growth["runs"] == 1000
    assert growth["editions"] is None
    assert storage_report(session, get_settings(), now).bytes_per_day == 1000


def test_sizes_are_recorded_once_a_day(session: Session) -> None:
    size = storage_report(session, get_settings(), NOON).bytes
    for at in (NOON, NOON + timedelta(hours=1), NOON + DAY):
        record_table_sizes(session, at)

    days = [day for day, _ in sizes_by_day(session, NOON.date())]
    assert days == [NOON.date(), (NOON + DAY).date()]
    assert sizes_by_day(session, NOON.date())[0][1] == size


def test_sizes_of_years_ago_are_deleted(session: Session) -> None:
    for days in (0, 730, 731):
        record_table_sizes(session, NOON + days * DAY)

    assert [day for day, _ in sizes_by_day(session, NOON.date())] == [
        (NOON + days * DAY).date() for days in (730, 731)
    ]
