"""Tests of the check with which a daily purchase import begins, and an unconfirmed one ends."""

from datetime import date, datetime, timedelta

import httpx
import pytest
from sqlalchemy.orm import Session

from accession.bibliotheca.errors import BadResponseException, RemoteInitiatedServerError
from accession.core.workflow import Workflow
from accession.db.models import Collection
from accession.imports.purchases import BibliothecaPurchaseRecordImporter
from accession.runs.ledger import get_or_create_checkpoint
from tests.fixtures.factories import day
from tests.fixtures.holdings import title_ids
from tests.fixtures.purchases import (
    count_rejected,
    import_listed_days,
    import_until,
    requested_pages,
    stored_purchases,
)
from tests.fixtures.vendor import ScriptedVendor, marc

Importer = BibliothecaPurchaseRecordImporter

LAST_RUN, NOW = day(2024, 5, 19, 10), day(2024, 5, 20, 10)
ONE_SECOND = timedelta(seconds=1)


def import_first_time(
    session: Session, collection: Collection, importer: Importer, vendor: ScriptedVendor
) -> None:
    """Import what the vendor has until the last run; then it sends empty bodies for empty windows."""
    import_listed_days(session, collection, importer, vendor, LAST_RUN)
    assert importer.get_start() == LAST_RUN
    vendor.requests.clear()
    vendor.sends_empty_bodies = True


def checkpoint(session: Session, collection: Collection) -> tuple[datetime | None, datetime | None]:
    """Return up to when everything is requested, and up to when it is confirmed."""
    row = get_or_create_checkpoint(session, collection, Workflow.PURCHASES)
    session.refresh(row)
    return row.finish, row.confirmed


@pytest.mark.parametrize("quiet_days", [1, 30, 31])
def test_daily_run_without_new_purchases_is_one_request(
    session: Session, collection: Collection, vendor: ScriptedVendor, importer: Importer, quiet_days: int
) -> None:
    vendor.add_purchases(day(2024, 5, 10, 9), "abc")
    import_first_time(session, collection, importer, vendor)
    now = LAST_RUN + timedelta(days=quiet_days)

    (page,) = import_until(session, importer, now)

    start = min(day(2024, 5, 10), day(now.year, now.month, now.day) - timedelta(days=31))
    assert vendor.marc_requests() == [
        {
            "startdate": f"{start:%Y-%m-%dT%H:%M:%S}",
            "enddate": f"{now:%Y-%m-%dT%H:%M:%S}",
            "offset": "1",
            "limit": "50",
        }
    ]
    assert (page.records_fetched, vendor.item_requests()) == (0, [])
    assert checkpoint(session, collection) == (now, now)


def test_check_begins_at_the_third_last_day_with_purchases(
    session: Session, collection: Collection, vendor: ScriptedVendor, importer: Importer
) -> None:
    """If the vendor withdraws the last purchases, the check still lists a known one."""
    for number in (2, 3, 4, 5):
        vendor.add_purchases(day(2024, 4, number, 9), f"t{number}")
    import_first_time(session, collection, importer, vendor)
    del vendor.purchases[2:]

    import_until(session, importer, NOW)

    assert requested_pages(vendor) == [("04-03", "05-20", "1")]


def test_run_after_more_than_31_days_imports_day_by_day(
    session: Session, collection: Collection, vendor: ScriptedVendor, importer: Importer
) -> None:
    vendor.add_purchases(day(2024, 5, 10, 9), "abc")
    import_first_time(session, collection, importer, vendor)

    pages = import_until(session, importer, LAST_RUN + timedelta(days=32))

    assert (pages[0].window.start, pages[0].window.end) == (LAST_RUN, day(2024, 5, 20))
    assert pages[-1].window.is_check, "only the check confirms the days without purchases"
    assert importer.get_start() == LAST_RUN + timedelta(days=32)


def test_empty_body_of_a_check_is_an_error(
    session: Session, collection: Collection, vendor: ScriptedVendor, importer: Importer
) -> None:
    vendor.add_purchases(day(2024, 5, 10, 9), "abc")
    import_first_time(session, collection, importer, vendor)
    vendor.responses.append(httpx.Response(200))

    with pytest.raises(RemoteInitiatedServerError):
        import_until(session, importer, NOW)
    session.rollback()

    assert checkpoint(session, collection) == (LAST_RUN, LAST_RUN)


# New and late purchases


@pytest.mark.parametrize("page_duration", [timedelta(), ONE_SECOND], ids=["at once", "a second per page"])
def test_daily_run_imports_new_purchases(
    session: Session,
    collection: Collection,
    vendor: ScriptedVendor,
    importer: Importer,
    page_duration: timedelta,
) -> None:
    vendor.add_purchases(day(2024, 5, 10, 9), "abc")
    import_first_time(session, collection, importer, vendor)
    vendor.add_purchases(day(2024, 5, 19, 15), "yesterday")
    vendor.add_purchases(day(2024, 5, 20, 9), "today")

    import_until(session, importer, NOW, page_duration=page_duration)

    assert requested_pages(vendor)[:3] == [
        ("04-19", "05-20", "1"),
        ("05-19", "05-20", "1"),
        ("05-19", "05-20", "1"),
    ]
    assert stored_purchases(session) == [
        ("abc", date(2024, 5, 10)),
        ("today", date(2024, 5, 20)),
        ("yesterday", date(2024, 5, 19)),
    ]
    assert importer.get_start() >= NOW


@pytest.mark.parametrize("days", [1, 10, 31])
def test_purchase_listed_late_is_found_with_its_day(
    session: Session, collection: Collection, vendor: ScriptedVendor, importer: Importer, days: int
) -> None:
    vendor.add_purchases(day(2024, 4, 10, 9), "earlier")
    vendor.add_purchases(day(2024, 5, 10, 9), "abc")
    import_first_time(session, collection, importer, vendor)
    purchased = NOW - timedelta(days=days)
    vendor.add_purchases(purchased, "late")

    import_until(session, importer, NOW)

    assert stored_purchases(session) == [
        ("abc", date(2024, 5, 10)),
        ("earlier", date(2024, 4, 10)),
        ("late", purchased.date()),
    ]
    assert importer.get_start() == NOW
    vendor.requests.clear()
    import_until(session, importer, NOW + timedelta(hours=1))
    assert len(vendor.requests) == 1, "the next run repeats no day"


@pytest.mark.parametrize("late", [100, 101])
def test_many_purchases_listed_late_are_found(
    session: Session, collection: Collection, vendor: ScriptedVendor, importer: Importer, late: int
) -> None:
    vendor.add_purchases(day(2024, 4, 10, 9), "abc")
    import_first_time(session, collection, importer, vendor)
    vendor.add_purchases(day(2024, 5, 2, 9), *title_ids(late))

    import_until(session, importer, NOW)

    assert stored_purchases(session) == [
        ("abc", date(2024, 4, 10)),
        *((title, date(2024, 5, 2)) for title in title_ids(late)),
    ]
    assert importer.get_start() == NOW


def test_second_purchase_of_a_title_listed_late_is_found(
    session: Session, collection: Collection, vendor: ScriptedVendor, importer: Importer
) -> None:
    vendor.add_purchases(day(2024, 5, 10, 9), "abc")
    import_first_time(session, collection, importer, vendor)
    vendor.add_purchases(day(2024, 5, 2, 9), "abc")

    import_until(session, importer, NOW)

    assert stored_purchases(session) == [("abc", date(2024, 5, 2)), ("abc", date(2024, 5, 10))]


def test_days_that_contradict_the_check_fail_the_import(
    session: Session, collection: Collection, vendor: ScriptedVendor, importer: Importer
) -> None:
    """A record that the check lists, but none of the days, must not be looked for without end."""
    vendor.add_purchases(day(2024, 5, 10, 9), "abc")
    import_first_time(session, collection, importer, vendor)
    vendor.add_purchases(day(2024, 5, 19, 15), "new")

    def import_pages_with_empty_days(pages: int) -> None:
        cursor = importer.first_cursor(NOW)
        for _ in range(pages):
            if not cursor.window(NOW).is_probe:
                vendor.responses.append(httpx.Response(200))
            cursor = importer.import_day(cursor, NOW).next_cursor

    with pytest.raises(BadResponseException, match="contradict"):
        import_pages_with_empty_days(1000)


# Checks of several pages


@pytest.mark.parametrize("page_duration", [timedelta(), ONE_SECOND], ids=["at once", "a second per page"])
def test_check_of_several_pages_ends_the_run(
    session: Session,
    collection: Collection,
    vendor: ScriptedVendor,
    importer: Importer,
    page_duration: timedelta,
) -> None:
    """Time passes from page to page; the purchases of that time are left to the next run."""
    vendor.add_purchases(day(2024, 5, 10, 9), *title_ids(120))
    import_first_time(session, collection, importer, vendor)

    import_until(session, importer, NOW, page_duration=page_duration)

    assert [offset for *_, offset in requested_pages(vendor)] == ["1", "50", "99"]
    assert importer.get_start() >= NOW


def test_check_that_does_not_continue_begins_again(
    session: Session, collection: Collection, vendor: ScriptedVendor, importer: Importer
) -> None:
    vendor.add_purchases(day(2024, 5, 10, 9), *title_ids(60))
    import_first_time(session, collection, importer, vendor)
    first = importer.import_day(importer.first_cursor(NOW), NOW)
    vendor.add_purchases(day(2024, 5, 2, 9), "late")

    pages = import_until(session, importer, NOW, first.next_cursor)

    assert [offset for *_, offset in requested_pages(vendor)][:4] == ["1", "50", "1", "50"]
    assert pages[0].next_cursor.restarts == 1
    assert ("late", date(2024, 5, 2)) in stored_purchases(session)
    assert len(stored_purchases(session)) == 61


def test_records_listed_by_check_survive_a_contradiction(
    session: Session, collection: Collection, vendor: ScriptedVendor, importer: Importer
) -> None:
    """The import goes back to the last day, but the check has listed a record of an earlier one."""
    vendor.add_purchases(day(2024, 5, 10, 9), "abc")
    import_first_time(session, collection, importer, vendor)
    vendor.add_purchases(day(2024, 5, 15, 9), "late")
    vendor.add_purchases(day(2024, 5, 19, 20), "new")
    check = importer.import_day(importer.first_cursor(NOW), NOW)
    last_day = importer.import_day(check.next_cursor, NOW)
    assert last_day.records_fetched == 1
    vendor.add_purchases(day(2024, 5, 19, 19), "between")

    pages = import_until(session, importer, NOW, last_day.next_cursor)

    assert pages[0].next_cursor.restarts == 1
    assert stored_purchases(session) == [
        ("abc", date(2024, 5, 10)),
        ("between", date(2024, 5, 19)),
        ("late", date(2024, 5, 15)),
        ("new", date(2024, 5, 19)),
    ]


# Rejected records


REJECTED = {
    "no 001": marc(),
    "001 as data field": marc("broken").replace("controlfield", "datafield", 2),
    "two 001": marc("a", "b"),
    "invalid 001": marc("no such id/"),
}


def add_rejected_records(vendor: ScriptedVendor, number: int) -> None:
    """Add a record of each kind that is rejected, on a day of May."""
    vendor.purchases += [(day(2024, 5, number, 9), record) for record in REJECTED.values()]


def test_rejected_records_do_not_repeat_days(
    session: Session, collection: Collection, vendor: ScriptedVendor, importer: Importer
) -> None:
    vendor.add_purchases(day(2024, 5, 10, 9), "abc")
    add_rejected_records(vendor, 12)
    add_rejected_records(vendor, 13)
    import_first_time(session, collection, importer, vendor)
    assert count_rejected(session) == 2 * len(REJECTED)

    for number in (1, 2):
        import_until(session, importer, LAST_RUN + timedelta(days=number))

    assert len(vendor.requests) == 2


def test_rejected_records_listed_late_repeat_days_once(
    session: Session, collection: Collection, vendor: ScriptedVendor, importer: Importer
) -> None:
    vendor.add_purchases(day(2024, 5, 10, 9), "abc")
    import_first_time(session, collection, importer, vendor)
    add_rejected_records(vendor, 2)

    import_until(session, importer, NOW)
    assert count_rejected(session) == len(REJECTED)
    vendor.requests.clear()
    import_until(session, importer, NOW + timedelta(days=1))

    assert len(vendor.requests) == 1
