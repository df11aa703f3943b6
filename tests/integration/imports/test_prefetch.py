"""Tests of prefetching: pages are requested early and concurrently, never twice and only if needed."""

import threading
from collections.abc import Iterator, Sequence
from datetime import timedelta

import httpx
import pytest
from sqlalchemy import select
from sqlalchemy.orm import Session

from accession.bibliotheca.errors import BadResponseException
from accession.core.settings import get_settings
from accession.db.models import Collection, Identifier, LicensePool, PurchaseRecord
from accession.imports.prefetch import PageRequest, Prefetcher
from accession.imports.purchases import BibliothecaPurchaseRecordImporter, DayImportResult
from accession.imports.vendor_api import vendor_api_for
from accession.imports.windows import ImportCursor, Window
from tests.fixtures.factories import day
from tests.fixtures.holdings import title_ids
from tests.fixtures.vendor import ScriptedVendor

MAY_1, NOW = day(2024, 5, 1), day(2024, 6, 1)
DEADLINE_SECONDS = 60


class InMemoryPrefetchCache:
    """A prefetch cache in this process."""

    def __init__(self) -> None:
        self.responses: dict[str, bytes] = {}

    def pop(self, key: str) -> bytes | None:
        return self.responses.pop(key, None)

    def put(self, key: str, response: bytes) -> None:
        self.responses[key] = response

    def missing(self, keys: Sequence[str]) -> Sequence[str]:
        return [key for key in keys if key not in self.responses]


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


def requested_pages(vendor: ScriptedVendor) -> list[tuple[str, str]]:
    """Return month and day of the start, and the offset, of each page requested."""
    return [(request["startdate"][5:10], request["offset"]) for request in vendor.marc_requests()]


def import_pages(
    importer: BibliothecaPurchaseRecordImporter, cursor: ImportCursor, pages: int
) -> Iterator[DayImportResult]:
    for _ in range(pages):
        page = importer.import_day(cursor, NOW)
        yield page
        cursor = page.next_cursor


def test_uncached_page_prefetches_the_pages_after_it(
    vendor: ScriptedVendor, importer: BibliothecaPurchaseRecordImporter
) -> None:
    importer.import_day(ImportCursor(MAY_1), NOW)
    assert sorted(requested_pages(vendor)) == [(f"05-0{n}", "1") for n in (1, 2, 3, 4)]

    for page in import_pages(importer, ImportCursor(day(2024, 5, 2), empty_windows=1), 3):
        assert (page.records_fetched, len(requested_pages(vendor))) == (0, 4), "responses are cached"
    importer.import_day(page.next_cursor, NOW)
    assert sorted(requested_pages(vendor))[4:] == [("05-05", "1"), ("05-06", "1"), ("05-07", "1")]


def test_prefetched_requests_are_concurrent(
    vendor: ScriptedVendor,
    importer: BibliothecaPurchaseRecordImporter,
    max_concurrency: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    all_in_flight = threading.Barrier(max_concurrency, timeout=DEADLINE_SECONDS)

    def respond_when_all_in_flight(request: httpx.Request) -> httpx.Response:
        all_in_flight.wait()
        return vendor.handle_request(request)

    with httpx.Client(transport=httpx.MockTransport(respond_when_all_in_flight)) as client:
        monkeypatch.setattr("accession.bibliotheca.client.http_client", lambda: client)
        importer.import_day(ImportCursor(MAY_1), NOW)
    assert not all_in_flight.broken


def test_cached_page_prefetches_during_its_title_lookup(
    vendor: ScriptedVendor, importer: BibliothecaPurchaseRecordImporter
) -> None:
    vendor.add_purchases(day(2024, 5, 2, 9), *title_ids(30))
    first, second = import_pages(importer, ImportCursor(MAY_1), 2)

    assert (first.records_fetched, second.titles_new) == (0, 30)
    # The lookup takes two of the four concurrent requests.
    assert sorted(requested_pages(vendor))[4:] == [("05-05", "1"), ("05-06", "1")]
    assert sorted(map(len, vendor.item_requests())) == [5, 25]


def test_next_page_of_a_window_is_prefetched_during_lookup(
    session: Session, vendor: ScriptedVendor, importer: BibliothecaPurchaseRecordImporter
) -> None:
    vendor.add_purchases(day(2024, 5, 1, 9), *title_ids(130))
    for page in import_pages(importer, ImportCursor(MAY_1), 3):
        assert (page.day_start, page.day_end) == (MAY_1, day(2024, 5, 2))

    pages = requested_pages(vendor)
    assert len(pages) == len(set(pages)), "no page is requested twice"
    assert {page for page in pages if page[0] == "05-01"} == {
        ("05-01", "1"),
        ("05-01", "51"),
        ("05-01", "101"),
    }
    query = select(Identifier.identifier).join(LicensePool.identifier)
    assert set(session.scalars(query)) == set(title_ids(130))


def test_import_requests_each_needed_page_once(
    session: Session,
    vendor: ScriptedVendor,
    importer: BibliothecaPurchaseRecordImporter,
    cache: InMemoryPrefetchCache,
) -> None:
    vendor.add_purchases(day(2024, 5, 1, 9), *title_ids(50, "a"))
    vendor.add_purchases(day(2024, 5, 7, 9), *title_ids(120, "b"))
    vendor.add_purchases(day(2024, 5, 8), *title_ids(3, "c"))
    vendor.add_purchases(day(2024, 5, 26), *title_ids(3, "d"))
    cursor, now = ImportCursor(MAY_1), day(2024, 6, 1, 4)
    while cursor.current_day < now:
        cursor = importer.import_day(cursor, now).next_cursor

    requests = [
        (request["startdate"], request["enddate"], request["offset"]) for request in vendor.marc_requests()
    ]
    assert len(requests) == len(set(requests))
    assert cache.responses == {}
    first_pages = {(f"2024-05-{n:02}T00:00:00", "1") for n in range(1, 32)}
    assert {(start, offset) for start, _, offset in requests} - first_pages == {
        ("2024-05-01T00:00:00", "51"),
        ("2024-05-07T00:00:00", "51"),
        ("2024-05-07T00:00:00", "101"),
        ("2024-06-01T00:00:00", "1"),
    }
    assert len(session.scalars(select(PurchaseRecord.id)).all()) == 176


def test_failed_prefetch_leaves_the_error_to_its_own_page(
    collection: Collection,
    vendor: ScriptedVendor,
    importer: BibliothecaPurchaseRecordImporter,
    cache: InMemoryPrefetchCache,
) -> None:
    vendor.add_purchases(day(2024, 5, 3, 9), "abc")
    with Prefetcher(vendor_api_for(collection), cache, 4) as prefetcher:
        vendor.responses.append(httpx.Response(502))
        request = PageRequest(Window(day(2024, 5, 3), day(2024, 5, 4)))
        prefetcher.prefetch([request], concurrent_requests=1)

    assert cache.responses == {}
    assert importer.import_day(ImportCursor(day(2024, 5, 3)), NOW).titles_new == 1


def test_failed_page_caches_no_prefetched_responses(
    vendor: ScriptedVendor, importer: BibliothecaPurchaseRecordImporter, cache: InMemoryPrefetchCache
) -> None:
    vendor.responses.extend([httpx.Response(502)] * 4)
    with pytest.raises(BadResponseException):
        importer.import_day(ImportCursor(MAY_1), NOW)

    assert cache.responses == {}


@pytest.mark.parametrize(
    "malformed",
    [b"<html></html>", b"<marc:collection", b"<Error><Message>no</Message></Error>"],
    ids=["HTML", "truncated", "error document"],
)
def test_malformed_cached_response_is_requested_again(
    malformed: bytes,
    vendor: ScriptedVendor,
    importer: BibliothecaPurchaseRecordImporter,
    cache: InMemoryPrefetchCache,
) -> None:
    vendor.add_purchases(day(2024, 5, 1, 9), "abc")
    cache.put(PageRequest(Window(MAY_1, day(2024, 5, 2))).cache_key, malformed)

    assert importer.import_day(ImportCursor(MAY_1), NOW).titles_new == 1


def test_prefetched_blank_response_needs_no_second_request(
    vendor: ScriptedVendor, importer: BibliothecaPurchaseRecordImporter
) -> None:
    """A blank response is confirmed by a second one when it is prefetched."""
    vendor.responses.extend([httpx.Response(200)] * 8)
    cursor = importer.import_day(ImportCursor(MAY_1), NOW).next_cursor
    assert len(vendor.requests) == 8

    next_cursor = importer.import_day(cursor, NOW).next_cursor

    assert next_cursor == ImportCursor(day(2024, 5, 3), empty_windows=2)
    assert len(vendor.requests) == 8


def test_window_that_ends_now_is_not_prefetched(
    vendor: ScriptedVendor, importer: BibliothecaPurchaseRecordImporter
) -> None:
    importer.import_day(ImportCursor(MAY_1), day(2024, 5, 2) + timedelta(hours=4))

    assert requested_pages(vendor) == [("05-01", "1")]
