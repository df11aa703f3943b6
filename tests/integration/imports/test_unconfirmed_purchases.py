"""Tests of empty bodies before the first record of a purchase import, which prove nothing."""

from datetime import date, datetime, timedelta

import httpx
import pytest
from sqlalchemy.orm import Session

from accession.bibliotheca.errors import BadResponseException
from accession.core.workflow import Workflow
from accession.db.models import Collection
from accession.imports.purchases import (
    DEFAULT_PURCHASE_RECORD_START_TIME,
    BibliothecaPurchaseRecordImporter,
)
from accession.imports.windows import ImportCursor
from accession.runs.ledger import get_or_create_checkpoint
from tests.fixtures.factories import day
from tests.fixtures.holdings import title_ids
from tests.fixtures.purchases import import_until, requested_pages, stored_purchases
from tests.fixtures.vendor import ScriptedVendor, marc_page

Importer = BibliothecaPurchaseRecordImporter

MAY_1, MAY_2, MAY_4 = day(2024, 5, 1), day(2024, 5, 2), day(2024, 5, 4)
NOW = day(2024, 5, 6)


@pytest.fixture
def vendor(vendor: ScriptedVendor) -> ScriptedVendor:
    """A vendor that sends an empty body for a window without purchases."""
    vendor.sends_empty_bodies = True
    return vendor


def checkpoint(session: Session, collection: Collection) -> tuple[datetime | None, datetime | None]:
    """Return up to when everything is requested, and up to when it is confirmed."""
    row = get_or_create_checkpoint(session, collection, Workflow.PURCHASES)
    session.refresh(row)
    return row.finish, row.confirmed


@pytest.mark.parametrize("body", ["", " \n"], ids=["no bytes", "white space"])
def test_empty_body_before_the_first_record_confirms_nothing(
    session: Session, collection: Collection, vendor: ScriptedVendor, importer: Importer, body: str
) -> None:
    vendor.responses.append(httpx.Response(200, text=body))

    page = importer.import_day(ImportCursor(MAY_1), NOW)
    session.commit()

    assert (page.next_cursor.current_day, page.next_cursor.confirmed_until) == (MAY_2, MAY_1)
    assert checkpoint(session, collection) == (MAY_2, MAY_1)
    assert importer.get_start() == MAY_1
    assert len(vendor.marc_requests()) == 1, "a second empty body would prove nothing either"


def test_empty_collection_confirms_its_window(
    session: Session, collection: Collection, vendor: ScriptedVendor, importer: Importer
) -> None:
    vendor.responses.append(httpx.Response(200, text=marc_page([])))

    page = importer.import_day(ImportCursor(MAY_1), NOW)
    session.commit()

    assert (page.next_cursor.current_day, page.next_cursor.confirmed_until) == (MAY_2, MAY_2)
    assert checkpoint(session, collection) == (MAY_2, MAY_2)
    assert importer.get_start() == MAY_2


def test_empty_collection_after_empty_body_confirms_nothing(
    session: Session, collection: Collection, vendor: ScriptedVendor, importer: Importer
) -> None:
    vendor.responses.extend([httpx.Response(200), httpx.Response(200, text=marc_page([]))])

    first = importer.import_day(ImportCursor(MAY_1), NOW)
    importer.import_day(first.next_cursor, NOW)
    session.commit()

    assert checkpoint(session, collection) == (day(2024, 5, 3), MAY_1)


def test_first_record_confirms_the_days_before_with_next_page(
    session: Session, collection: Collection, vendor: ScriptedVendor, importer: Importer
) -> None:
    vendor.add_purchases(day(2024, 5, 3, 9), "abc")

    *_, with_record, after_record = import_until(session, importer, day(2024, 5, 5), ImportCursor(MAY_1))

    assert with_record.next_cursor.confirmed == MAY_1
    assert after_record.next_cursor.confirmed == day(2024, 5, 5)
    assert requested_pages(vendor) == [
        ("05-01", "05-02", "1"),
        ("05-02", "05-03", "1"),
        ("05-03", "05-04", "1"),
        ("05-01", "05-05", "1"),
    ]


@pytest.mark.parametrize("hidden", [1, 3, 60])
def test_records_hidden_by_empty_bodies_are_found(
    session: Session, vendor: ScriptedVendor, importer: Importer, hidden: int
) -> None:
    """The request after the first record lists them, so the days are requested again."""
    vendor.add_purchases(day(2024, 5, 2, 9), *title_ids(hidden, "hidden"))
    vendor.add_purchases(day(2024, 5, 4, 9), "seen")
    vendor.responses.extend([httpx.Response(200)] * 3)

    import_until(session, importer, NOW, ImportCursor(MAY_1))

    assert requested_pages(vendor)[:6] == [
        ("05-01", "05-02", "1"),
        ("05-02", "05-03", "1"),
        ("05-03", "05-04", "1"),
        ("05-04", "05-05", "1"),
        ("05-01", "05-06", "1"),
        ("05-01", "05-02", "1"),
    ]
    assert stored_purchases(session) == [
        *((title, date(2024, 5, 2)) for title in title_ids(hidden, "hidden")),
        ("seen", date(2024, 5, 4)),
    ]
    assert importer.get_start() == NOW


def test_records_hidden_in_a_probe_are_found(
    session: Session, vendor: ScriptedVendor, importer: Importer
) -> None:
    vendor.add_purchases(day(2024, 5, 20, 9), "hidden")
    vendor.add_purchases(day(2024, 6, 10, 9), "seen")
    vendor.responses.extend([httpx.Response(200)] * 8)

    pages = import_until(session, importer, day(2024, 6, 20), ImportCursor(MAY_1))

    assert (pages[7].window.is_probe, pages[7].window.end) == (True, day(2024, 6, 1))
    assert stored_purchases(session) == [("hidden", date(2024, 5, 20)), ("seen", date(2024, 6, 10))]
    assert importer.get_start() == day(2024, 6, 20)


def test_run_after_failure_starts_where_it_was_confirmed(
    session: Session, collection: Collection, vendor: ScriptedVendor, importer: Importer
) -> None:
    """The checkpoint of the failed run is later, but its days had only empty bodies."""
    vendor.add_purchases(day(2024, 5, 2, 9), "hidden")
    vendor.responses.extend([httpx.Response(200)] * 3)
    vendor.responses.append(httpx.Response(502))
    with pytest.raises(BadResponseException):
        import_until(session, importer, NOW, ImportCursor(MAY_1))
    session.rollback()
    assert checkpoint(session, collection) == (MAY_4, MAY_1)

    pages = import_until(session, importer, NOW)

    assert pages[0].window.start == MAY_1
    assert stored_purchases(session) == [("hidden", date(2024, 5, 2))]
    assert checkpoint(session, collection) == (NOW, NOW)


def test_going_back_also_moves_the_confirmed_time_back(
    session: Session, collection: Collection, vendor: ScriptedVendor, importer: Importer
) -> None:
    """A failure just after the import went back must not skip the days that are to be requested again."""
    vendor.add_purchases(day(2024, 5, 1, 9), "first")
    pages = import_until(session, importer, MAY_4, ImportCursor(MAY_1))
    assert checkpoint(session, collection) == (MAY_4, MAY_4)
    vendor.add_purchases(day(2024, 5, 1, 8), "added")

    again = importer.import_day(pages[-1].next_cursor, NOW)
    session.commit()
    assert (again.records_fetched, again.next_cursor.current_day) == (0, MAY_1)
    assert checkpoint(session, collection) == (MAY_4, MAY_1)

    vendor.responses.append(httpx.Response(502))
    with pytest.raises(BadResponseException):
        importer.import_day(again.next_cursor, NOW)
    session.rollback()
    import_until(session, importer, NOW)
    assert stored_purchases(session) == [("added", date(2024, 5, 1)), ("first", date(2024, 5, 1))]
    assert checkpoint(session, collection) == (NOW, NOW)


# Collections without purchases


def test_collection_without_records_stays_unconfirmed(
    session: Session, collection: Collection, vendor: ScriptedVendor, importer: Importer
) -> None:
    """Each run after the first asks once for all time."""
    import_until(session, importer, NOW)
    assert checkpoint(session, collection) == (NOW, DEFAULT_PURCHASE_RECORD_START_TIME)
    vendor.requests.clear()

    for number in (1, 2, 60):
        now = NOW + timedelta(days=number)
        (page,) = import_until(session, importer, now)
        assert (page.window.start, page.window.end) == (DEFAULT_PURCHASE_RECORD_START_TIME, now)
        assert checkpoint(session, collection) == (now, DEFAULT_PURCHASE_RECORD_START_TIME)

    assert {request["startdate"] for request in vendor.marc_requests()} == {"2014-01-01T00:00:00"}
    assert len(vendor.requests) == 3


@pytest.mark.parametrize("purchased", [day(2014, 1, 1), day(2019, 8, 17, 13), day(2024, 5, 6, 9)])
def test_first_purchase_of_a_collection_is_found_with_its_day(
    session: Session, vendor: ScriptedVendor, importer: Importer, purchased: datetime
) -> None:
    import_until(session, importer, NOW)
    vendor.add_purchases(purchased, "abc")
    now = NOW + timedelta(days=1)

    import_until(session, importer, now)

    assert stored_purchases(session) == [("abc", purchased.date())]
    assert importer.get_start() == now


def test_healthy_empty_collections_confirm_all_time(
    session: Session, collection: Collection, vendor: ScriptedVendor, importer: Importer
) -> None:
    vendor.sends_empty_bodies = False

    import_until(session, importer, NOW)

    assert checkpoint(session, collection) == (NOW, NOW)
