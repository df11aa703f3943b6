"""Tests of prefetching: pages are requested early and concurrently, never twice and only if needed."""

import threading
from collections import Counter
from collections.abc import Iterator
from datetime import date, timedelta

import httpx
import pytest
from sqlalchemy import select
from sqlalchemy.orm import Session

from accession.core.settings import get_settings
from accession.db.models import Collection, Identifier, LicensePool
from accession.imports.page_result import DayImportResult
from accession.imports.prefetch import Prefetcher
from accession.imports.purchases import BibliothecaPurchaseRecordImporter
from accession.imports.vendor_api import vendor_api_for
from accession.imports.windows import Anchor, ImportCursor, PageRequest
from tests.fixtures.factories import day
from tests.fixtures.holdings import title_ids
from tests.fixtures.prefetch import InMemoryPrefetchCache
from tests.fixtures.purchases import import_until, requested_pages, stored_purchases
from tests.fixtures.vendor import ScriptedVendor, transport_with_barrier

MAY_1, MAY_2, NOW = day(2024, 5, 1), day(2024, 5, 2), day(2024, 6, 1)
DEADLINE_SECONDS = 60


@pytest.fixture
def cache() -> InMemoryPrefetchCache:
    return InMemoryPrefetchCache()


@pytest.fixture
def importer(
    session: Session, collection: Collection, vendor: ScriptedVendor, cache: InMemoryPrefetchCache
) -> BibliothecaPurchaseRecordImporter:
    api = vendor_api_for(collection)
    return BibliothecaPurchaseRecordImporter(session, collection, api, prefetch_cache=cache)


@pytest.fixture(autouse=True)
def max_concurrency(monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(get_settings(), "vendor_max_concurrency", 4)
    return 4


def import_pages(
    importer: BibliothecaPurchaseRecordImporter, cursor: ImportCursor, pages: int
) -> Iterator[DayImportResult]:
    for _ in range(pages):
        page = importer.import_day(cursor, NOW)
        yield page
        cursor = page.next_cursor


def test_pages_after_the_current_one_are_prefetched(
    vendor: ScriptedVendor, importer: BibliothecaPurchaseRecordImporter, cache: InMemoryPrefetchCache
) -> None:
    for number, page in enumerate(import_pages(importer, ImportCursor(MAY_1), 3), 1):
        cache.wait_for_all()
        days = range(1, number + 5)
        assert sorted(requested_pages(vendor)) == [(f"05-0{n}", f"05-0{n + 1}", "1") for n in days]
        assert page.records_fetched == 0


def test_prefetched_requests_are_concurrent(
    vendor: ScriptedVendor,
    importer: BibliothecaPurchaseRecordImporter,
    max_concurrency: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    all_in_flight = threading.Barrier(max_concurrency, timeout=DEADLINE_SECONDS)
    transport = transport_with_barrier(vendor, all_in_flight)
    monkeypatch.setattr("accession.bibliotheca.client.vendor_transport", lambda: transport)
    importer.import_day(ImportCursor(MAY_1), NOW)
    assert not all_in_flight.broken


def test_next_page_of_a_window_is_prefetched_during_lookup(
    session: Session, vendor: ScriptedVendor, importer: BibliothecaPurchaseRecordImporter
) -> None:
    vendor.add_purchases(day(2024, 5, 1, 9), *title_ids(130))
    for page in import_pages(importer, ImportCursor(MAY_1), 3):
        assert (page.day_start, page.day_end) == (MAY_1, day(2024, 5, 2))

    pages = requested_pages(vendor)
    assert len(pages) == len(set(pages)), "no page is requested twice"
    assert {page for page in pages if page[1] == "05-02"} == {
        ("05-01", "05-02", "1"),
        ("05-01", "05-02", "50"),
        ("05-01", "05-02", "99"),
    }
    query = select(Identifier.identifier).join(LicensePool.identifier)
    assert set(session.scalars(query)) == set(title_ids(130))


@pytest.mark.parametrize("empty_bodies", [False, True])
def test_import_requests_no_page_twice(
    session: Session,
    vendor: ScriptedVendor,
    importer: BibliothecaPurchaseRecordImporter,
    empty_bodies: bool,
) -> None:
    vendor.sends_empty_bodies = empty_bodies
    vendor.add_purchases(day(2024, 5, 1, 9), *title_ids(50, "a"))
    vendor.add_purchases(day(2024, 5, 7, 9), *title_ids(120, "b"))
    vendor.add_purchases(day(2024, 5, 8), *title_ids(3, "c"))
    vendor.add_purchases(day(2024, 5, 26), *title_ids(3, "d"))

    import_until(session, importer, day(2024, 6, 1, 4), ImportCursor(MAY_1))

    pages = requested_pages(vendor)
    # With empty bodies, a check at the end lists what a probe has listed before.
    pages = pages[:-1] if empty_bodies else pages
    assert len(pages) == len(set(pages))
    days = {name: date(2024, 5, number) for name, number in (("a", 1), ("b", 7), ("c", 8), ("d", 26))}
    assert [(title[0], purchased) for title, purchased in stored_purchases(session)] == [
        (name, days[name]) for name in "a" * 50 + "b" * 120 + "c" * 3 + "d" * 3
    ]


def test_page_with_an_earlier_anchor_serves_empty_days(
    session: Session, vendor: ScriptedVendor, importer: BibliothecaPurchaseRecordImporter
) -> None:
    """They do not tell the day of new purchases, because these may have appeared in the days between."""
    vendor.add_purchases(day(2024, 5, 1, 9), "first")
    vendor.add_purchases(day(2024, 5, 2, 9), "a")
    vendor.add_purchases(day(2024, 5, 4, 9), *title_ids(7, "b"))
    vendor.add_purchases(day(2024, 5, 5, 9), "c", "d")
    vendor.add_purchases(day(2024, 5, 9, 9), "e")
    cursor = ImportCursor(MAY_2, confirmed=MAY_2, anchor=Anchor(MAY_1, 1, "first"), records=1)

    pages = import_until(session, importer, day(2024, 5, 10), cursor)

    windows = [f"{page.day_end:%m-%d}" for page in pages]
    assert windows == [*(f"05-0{number}" for number in range(3, 10)), "05-10"]
    again = Counter(end for _, end, _ in requested_pages(vendor)) - Counter(windows)
    assert again == Counter({"05-06": 1}), "a day with purchases right after another"
    assert stored_purchases(session) == [
        ("a", date(2024, 5, 2)),
        *((title, date(2024, 5, 4)) for title in title_ids(7, "b")),
        ("c", date(2024, 5, 5)),
        ("d", date(2024, 5, 5)),
        ("e", date(2024, 5, 9)),
    ]


@pytest.mark.parametrize("purchases", [20, 49])
def test_days_with_many_purchases_are_each_requested_once(
    session: Session, vendor: ScriptedVendor, importer: BibliothecaPurchaseRecordImporter, purchases: int
) -> None:
    """Pages with an earlier anchor would not have room for the purchases of several days."""
    days = range(1, 10)
    for number in days:
        vendor.add_purchases(day(2024, 5, number, 9), *title_ids(purchases, str(number)))

    import_until(session, importer, day(2024, 5, 10), ImportCursor(MAY_1))

    assert sorted(requested_pages(vendor)) == [(f"05-{n:02}", f"05-{n + 1:02}", "1") for n in days]
    assert stored_purchases(session) == [
        (title, date(2024, 5, number)) for number in days for title in title_ids(purchases, str(number))
    ]


def test_page_with_an_earlier_anchor_serves_a_day_without(
    session: Session, vendor: ScriptedVendor, importer: BibliothecaPurchaseRecordImporter
) -> None:
    """It was prefetched before a day with many purchases. A page with purchases does not tell their day."""
    vendor.add_purchases(day(2024, 5, 1, 9), "first")
    vendor.add_purchases(day(2024, 5, 3, 9), *title_ids(12, "b"))
    vendor.add_purchases(day(2024, 5, 4, 9), "c")
    cursor = ImportCursor(MAY_2, confirmed=MAY_2, anchor=Anchor(MAY_1, 1, "first"), records=1)

    pages = import_until(session, importer, day(2024, 5, 6), cursor)

    assert [page.records_fetched for page in pages] == [0, 12, 1, 0]
    ends = sorted(end for _, end, _ in requested_pages(vendor))
    assert ends == ["05-03", "05-04", "05-05", "05-05", "05-06"]
    assert [(title, date(2024, 5, 4)) for title in ("c",)] == stored_purchases(session)[12:]


def test_prefetched_page_without_the_anchor_is_not_used(
    session: Session, vendor: ScriptedVendor, importer: BibliothecaPurchaseRecordImporter
) -> None:
    """It was requested before the first record, so it does not show that nothing is missing."""
    vendor.sends_empty_bodies = True
    vendor.add_purchases(day(2024, 5, 1, 9), "a")

    *_, second = import_pages(importer, ImportCursor(MAY_1), 2)

    prefetched = {(f"05-0{n}", f"05-0{n + 1}", "1") for n in (2, 3, 4)}
    assert {("05-01", "05-02", "1"), *prefetched, ("05-01", "05-03", "1")} <= set(requested_pages(vendor))
    assert second.next_cursor.confirmed == day(2024, 5, 3)


def test_title_purchased_again_in_a_prefetched_page_is_stored(
    session: Session, vendor: ScriptedVendor, importer: BibliothecaPurchaseRecordImporter
) -> None:
    """The prefetched page lists the anchor's title at the position that the anchor would have."""
    vendor.add_purchases(day(2024, 5, 1, 9), "twice")
    vendor.add_purchases(day(2024, 5, 2, 8), "between")
    vendor.add_purchases(day(2024, 5, 2, 9), "twice")

    import_until(session, importer, NOW, ImportCursor(MAY_1))

    assert stored_purchases(session) == [
        ("between", date(2024, 5, 2)),
        ("twice", date(2024, 5, 1)),
        ("twice", date(2024, 5, 2)),
    ]


def test_prefetched_page_confirms_only_what_it_requested(
    session: Session, vendor: ScriptedVendor, importer: BibliothecaPurchaseRecordImporter
) -> None:
    """A page prefetched within the first day with records does not show what empty bodies have hidden."""
    vendor.sends_empty_bodies = True
    vendor.add_purchases(day(2024, 5, 4, 9), *title_ids(60, "seen"))
    vendor.add_purchases(day(2024, 5, 5, 9), "after")
    *_, empty = import_pages(importer, ImportCursor(MAY_1), 2)
    session.commit()
    vendor.add_purchases(day(2024, 5, 2, 9), "hidden")

    import_until(session, importer, NOW, empty.next_cursor)

    assert stored_purchases(session) == [
        ("after", date(2024, 5, 5)),
        ("hidden", date(2024, 5, 2)),
        *((title, date(2024, 5, 4)) for title in title_ids(60, "seen")),
    ]


@pytest.mark.parametrize("body", ["", " \n"], ids=["no bytes", "white space"])
def test_prefetched_empty_body_with_an_anchor_is_not_used(
    collection: Collection,
    vendor: ScriptedVendor,
    importer: BibliothecaPurchaseRecordImporter,
    cache: InMemoryPrefetchCache,
    body: str,
) -> None:
    vendor.add_purchases(day(2024, 5, 1, 9), "a")
    vendor.add_purchases(day(2024, 5, 2, 9), "b")
    cursor = ImportCursor(MAY_2, confirmed=MAY_2, anchor=Anchor(MAY_1, 1, "a"), records=1)
    prefetcher = Prefetcher(vendor_api_for(collection), cache, 4)
    vendor.responses.append(httpx.Response(200, text=body))
    prefetcher.prefetch([cursor.request(cursor.window(NOW))], 1)
    cache.wait_for_all()

    assert not any(cache.responses.values())
    assert importer.import_day(cursor, NOW).titles_new == 1


def test_failed_prefetch_leaves_the_error_to_its_own_page(
    collection: Collection,
    vendor: ScriptedVendor,
    importer: BibliothecaPurchaseRecordImporter,
    cache: InMemoryPrefetchCache,
) -> None:
    vendor.add_purchases(day(2024, 5, 3, 9), "abc")
    prefetcher = Prefetcher(vendor_api_for(collection), cache, 4)
    vendor.responses.append(httpx.Response(502))
    request = PageRequest(day(2024, 5, 3), day(2024, 5, 4))
    prefetcher.prefetch([request], 0)
    cache.wait_for_all()

    assert not any(cache.responses.values())
    assert importer.import_day(ImportCursor(day(2024, 5, 3)), NOW).titles_new == 1


@pytest.mark.parametrize(
    "malformed",
    [b"<html></html>", b"<marc:collection", b"<Error><Message>no</Message></Error>"],
    ids=["HTML", "truncated", "error document"],
)
def test_malformed_cached_response_is_requested_again(
    malformed: bytes,
    collection: Collection,
    vendor: ScriptedVendor,
    importer: BibliothecaPurchaseRecordImporter,
    cache: InMemoryPrefetchCache,
) -> None:
    vendor.add_purchases(day(2024, 5, 1, 9), "abc")
    prefetcher = Prefetcher(vendor_api_for(collection), cache, 4)
    vendor.responses.append(httpx.Response(200, content=malformed))
    prefetcher.prefetch([PageRequest(MAY_1, MAY_2)], 0)
    cache.wait_for_all()
    assert len(cache.responses) == 1

    assert importer.import_day(ImportCursor(MAY_1), NOW).titles_new == 1


def test_prefetched_empty_body_before_first_record_is_used(
    vendor: ScriptedVendor, importer: BibliothecaPurchaseRecordImporter, cache: InMemoryPrefetchCache
) -> None:
    vendor.sends_empty_bodies = True

    _, second = import_pages(importer, ImportCursor(MAY_1), 2)

    assert (second.next_cursor.current_day, second.next_cursor.confirmed_until) == (day(2024, 5, 3), MAY_1)
    cache.wait_for_all()
    assert requested_pages(vendor).count(("05-02", "05-03", "1")) == 1


def test_window_that_ends_now_is_not_prefetched(
    vendor: ScriptedVendor, importer: BibliothecaPurchaseRecordImporter
) -> None:
    importer.import_day(ImportCursor(MAY_1), day(2024, 5, 2) + timedelta(hours=4))

    assert requested_pages(vendor) == [("05-01", "05-02", "1")]
