"""Tests of imports by a search for the days of purchases: they store what an import by days stores."""

from collections.abc import Iterator
from datetime import date, timedelta

import pytest
import time_machine
from sqlalchemy import Engine, select
from sqlalchemy.orm import Session

from accession.core.workflow import Workflow
from accession.db.models import (
    Collection,
    Identifier,
    LicensePool,
    PurchaseRecord,
    RejectedRecord,
    UndatedRecord,
)
from accession.imports.page_result import DayImportResult
from accession.imports.purchases import BibliothecaPurchaseRecordImporter
from accession.imports.vendor_api import vendor_api_for
from accession.imports.windows import ImportCursor, Width, midnight
from accession.runs.ledger import find_run, open_run, record_step
from accession.sandbox.catalogue import build_catalogue
from tests.fixtures.factories import NOON, day, make_collection
from tests.fixtures.holdings import commit_and_apply
from tests.fixtures.importers import capture_step_logs, count_written_rows
from tests.fixtures.stored import count_rows
from tests.fixtures.vendor import ScriptedVendor, marc

FIRST, NOW = day(2024, 1, 1), day(2024, 4, 20, 10)
ONE_DAY = timedelta(days=1)


@pytest.fixture
def importer(
    session: Session, collection: Collection, vendor: ScriptedVendor
) -> BibliothecaPurchaseRecordImporter:
    return BibliothecaPurchaseRecordImporter(session, collection, vendor_api_for(collection))


def pages(
    session: Session, importer: BibliothecaPurchaseRecordImporter, width: Width = Width.ADAPTIVE
) -> Iterator[DayImportResult]:
    """Import, apply and commit page after page."""
    cursor = ImportCursor(FIRST)
    while not cursor.is_complete(NOW):
        page = importer.import_day(cursor, NOW, width)
        commit_and_apply(session, page.outbox_ids)
        yield page
        cursor = page.next_cursor


def sell_odd_titles(vendor: ScriptedVendor) -> dict[date, list[str]]:
    """Add purchases of many and few titles, some of them repeated, and invalid records.

    Return the titles of the valid ones by day.
    """
    vendor.purchases.clear()
    counts = {0: 3, 7: 1, 8: 60, 21: 2, 22: 2, 60: 7, 61: 1, 95: 30, 108: 1, 109: 2}
    sold = {
        (FIRST + number * ONE_DAY).date(): [f"t{number}-{n}" for n in range(count)]
        for number, count in counts.items()
    }
    sold[date(2024, 1, 22)] += ["t7-0", "twice", "twice"]
    sold[date(2024, 3, 1)] += ["t7-0"]
    for sold_on, titles in sold.items():
        vendor.add_purchases(day(sold_on.year, sold_on.month, sold_on.day, 9), *titles)
    for moment in (day(2024, 1, 22, 9), day(2024, 3, 2, 9)):
        vendor.purchases.append((moment, marc()))
        vendor.purchases.append((moment, marc("in-part").replace('tag="245"', 'tag=""')))
    return sold


def stored(session: Session) -> tuple[list[tuple[str, date, int, bool]], list[tuple[date, str]]]:
    """Return the purchases, with day, listings and whether there are warnings; and the rejected records."""
    query = (
        select(Identifier.identifier, PurchaseRecord)
        .join(LicensePool, PurchaseRecord.license_pool_id == LicensePool.id)
        .join(Identifier, LicensePool.identifier_id == Identifier.id)
    )
    purchases = [
        (identifier, record.purchased_on, record.listed, bool(record.warnings))
        for identifier, record in session.execute(query)
    ]
    rejected = [
        (record.purchased_on, record.content_hash) for record in session.scalars(select(RejectedRecord))
    ]
    return sorted(purchases), sorted(rejected)


def import_both_ways(session: Session, vendor: ScriptedVendor) -> dict[Width, list[DayImportResult]]:
    """Import into two collections, by days and by a search, and check that the results are the same."""
    results, catalogues = {}, []
    for width in (Width.DAY, Width.ADAPTIVE):
        collection = make_collection(session, f"{width} Library")
        importer = BibliothecaPurchaseRecordImporter(session, collection, vendor_api_for(collection))
        results[width] = list(pages(session, importer, width))
        catalogues.append(stored(session))
        session.delete(collection)
        session.commit()
    assert catalogues[0] == catalogues[1]
    return results


def test_search_stores_what_an_import_by_days_stores(session: Session, vendor: ScriptedVendor) -> None:
    sell_odd_titles(vendor)
    results = import_both_ways(session, vendor)

    by_days, by_search = (
        [
            sum(getattr(page, name) for page in results[width])
            for name in ("records_stored", "records_rejected")
        ]
        for width in (Width.DAY, Width.ADAPTIVE)
    )
    assert by_search == by_days
    assert len(results[Width.ADAPTIVE]) < len(results[Width.DAY])


@pytest.mark.parametrize("seed", range(3))
def test_purchases_of_sandbox_get_the_days_of_an_import_by_days(
    session: Session, vendor: ScriptedVendor, seed: int
) -> None:
    vendor.purchases.clear()
    vendor.sends_empty_bodies = True
    catalogue = build_catalogue(120, FIRST, NOW, seed=seed)
    for purchase in catalogue.purchases:
        vendor.add_purchases(purchase.purchased_at, purchase.item_id)

    results = import_both_ways(session, vendor)

    assert sum(page.records_stored for page in results[Width.ADAPTIVE]) == 120


def test_search_looks_up_titles_in_full_requests(
    session: Session, collection: Collection, vendor: ScriptedVendor
) -> None:
    """They are those of several windows, and some are looked up before their day is known."""
    sold = sell_odd_titles(vendor)
    open_run(session, collection.id, Workflow.PURCHASES, "task", {})
    run = find_run(session, "task")
    assert run is not None
    importer = BibliothecaPurchaseRecordImporter(session, collection, vendor_api_for(collection), run)
    early: set[str] = set()
    for page in pages(session, importer):
        record_step(run, page.counters, since=None, next_cursor={})
        looked_up = {title for titles in vendor.item_requests() for title in titles}
        early |= looked_up - {identifier for identifier, *_ in stored(session)[0]}

    titles = {"in-part"}.union(*sold.values())
    assert sorted(map(len, vendor.item_requests())) == [len(titles) % 25, *[25] * (len(titles) // 25)]
    assert early


def test_last_two_days_are_requested_one_by_one(
    session: Session, importer: BibliothecaPurchaseRecordImporter, vendor: ScriptedVendor
) -> None:
    sell_odd_titles(vendor)

    windows = [page.window for page in pages(session, importer) if not page.window.is_probe]

    assert [window.start for window in windows] == [day(2024, 4, 18), day(2024, 4, 19), day(2024, 4, 20)]


def test_checkpoint_stays_before_records_without_a_day(
    session: Session, importer: BibliothecaPurchaseRecordImporter, vendor: ScriptedVendor
) -> None:
    sold = sell_odd_titles(vendor)
    undated = []
    for _ in pages(session, importer):
        confirmed = importer.get_start().date()
        expected = {title for sold_on, titles in sold.items() if sold_on < confirmed for title in titles}
        assert expected <= {identifier for identifier, *_ in stored(session)[0]}
        undated.append(count_rows(UndatedRecord))
    assert max(undated) > 0
    assert undated[-1] == 0


def test_second_search_writes_no_row(isolated_database: Engine, vendor: ScriptedVendor) -> None:
    sell_odd_titles(vendor)
    with isolated_database.connect() as writer, Session(writer) as session:
        collection = make_collection(session, "Alder Library")
        importer = BibliothecaPurchaseRecordImporter(session, collection, vendor_api_for(collection))
        with time_machine.travel(NOON, tick=False):
            first = sum(page.records_fetched for page in pages(session, importer))
        session.commit()
        before = count_written_rows(writer, isolated_database)
        second = sum(page.records_fetched for page in pages(session, importer))
        session.commit()
        after = count_written_rows(writer, isolated_database)
    assert (first, after) == (second, before)


def test_changed_list_is_imported_by_days(
    session: Session, importer: BibliothecaPurchaseRecordImporter, vendor: ScriptedVendor
) -> None:
    """A record appears among days whose records the search knows."""
    sold = sell_odd_titles(vendor)
    appeared_on: date | None = None
    restarts = 0
    with capture_step_logs() as lines:
        for page in pages(session, importer):
            restarts += page.counters.restarts
            search = page.next_cursor.search
            planned = [] if search is None else search.planned[1:]
            divisions = [each for each in planned if search is not None and each.end <= search.listed_until]
            if appeared_on is None and divisions:
                appeared_on = divisions[0].start
                vendor.add_purchases(midnight(appeared_on), "late")
    event = "vendor's list has changed, importing day by day"
    purchases = {identifier: purchased_on for identifier, purchased_on, *_ in stored(session)[0]}
    assert sum(line["event"] == event for line in lines) == restarts == 1
    assert purchases["late"] == appeared_on
    assert purchases.keys() == {"in-part", "late"}.union(*sold.values())
