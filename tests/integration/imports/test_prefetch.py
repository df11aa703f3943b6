"""Asking for pages before it is their turn: beside what is waited for, never in vain, and losing nothing."""

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
from accession.imports.prefetch import Asked, ReadingAhead, Shelf
from accession.imports.purchases import BibliothecaPurchaseRecordImporter, PageImportResult
from accession.imports.vendor import api_for
from accession.imports.windows import Place, Window
from tests.fixtures.factories import day
from tests.fixtures.holdings import names
from tests.fixtures.vendor import Vendor

MAY_1, LATER = day(2024, 5, 1), day(2024, 6, 1)


class OnPaper(Shelf):
    """A shelf in this process."""

    def __init__(self) -> None:
        self.answers: dict[str, bytes] = {}

    def take(self, name: str) -> bytes | None:
        return self.answers.pop(name, None)

    def lay(self, name: str, answer: bytes) -> None:
        self.answers[name] = answer

    def missing(self, names: Sequence[str]) -> Sequence[str]:
        return [name for name in names if name not in self.answers]


@pytest.fixture
def shelf() -> OnPaper:
    return OnPaper()


@pytest.fixture
def importer(
    session: Session, collection: Collection, vendor: Vendor, shelf: OnPaper
) -> BibliothecaPurchaseRecordImporter:
    return BibliothecaPurchaseRecordImporter(session, collection, api_for(collection), shelf=shelf)


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(get_settings(), "vendor_max_concurrency", 4)
    return 4


def asked(vendor: Vendor) -> list[tuple[str, str]]:
    return [(request["startdate"][5:10], request["offset"]) for request in vendor.marc_requests()]


def walk(importer: BibliothecaPurchaseRecordImporter, place: Place, pages: int) -> Iterator[PageImportResult]:
    for _ in range(pages):
        page = importer.import_page(place, LATER)
        yield page
        place = page.next


def test_a_page_that_waits_for_its_answer_has_those_behind_it_asked_for_beside_it(
    vendor: Vendor, importer: BibliothecaPurchaseRecordImporter
) -> None:
    importer.import_page(Place(MAY_1), LATER)
    assert sorted(asked(vendor)) == [(f"05-0{n}", "1") for n in (1, 2, 3, 4)]

    for page in walk(importer, Place(day(2024, 5, 2), empty=1), 3):
        assert (page.records_fetched, len(asked(vendor))) == (0, 4), "the answers are there"
    importer.import_page(page.next, LATER)
    assert sorted(asked(vendor))[4:] == [("05-05", "1"), ("05-06", "1"), ("05-07", "1")]


def test_all_that_is_asked_for_is_under_way_at_once(
    vendor: Vendor, importer: BibliothecaPurchaseRecordImporter, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    everybody = threading.Barrier(at_once, timeout=10)
    answer = vendor._answer

    def wait_for_the_others(request: httpx.Request) -> httpx.Response:
        everybody.wait()
        return answer(request)

    with httpx.Client(transport=httpx.MockTransport(wait_for_the_others)) as client:
        monkeypatch.setattr("accession.bibliotheca.client.http_client", lambda: client)
        importer.import_page(Place(MAY_1), LATER)
    assert not everybody.broken


def test_a_page_whose_answer_is_there_asks_ahead_while_its_titles_are_looked_up(
    vendor: Vendor, importer: BibliothecaPurchaseRecordImporter
) -> None:
    vendor.sells(day(2024, 5, 2, 9), *names(30))
    first, second = walk(importer, Place(MAY_1), 2)

    assert (first.records_fetched, second.titles_new) == (0, 30)
    # Two requests are for the titles, and as many may be under way beside them.
    assert sorted(asked(vendor))[4:] == [("05-05", "1"), ("05-06", "1")]
    assert sorted(map(len, vendor.item_requests())) == [5, 25]


def test_the_next_page_of_a_window_is_asked_for_while_the_titles_of_this_are_looked_up(
    session: Session, vendor: Vendor, importer: BibliothecaPurchaseRecordImporter
) -> None:
    vendor.sells(day(2024, 5, 1, 9), *names(130))
    for page in walk(importer, Place(MAY_1), 3):
        assert page.window == Window(MAY_1, day(2024, 5, 2))

    windows = asked(vendor)
    assert len(windows) == len(set(windows)), "nothing is asked for twice"
    assert {window for window in windows if window[0] == "05-01"} == {
        ("05-01", "1"),
        ("05-01", "51"),
        ("05-01", "101"),
    }
    query = select(Identifier.identifier).join(LicensePool.identifier)
    assert set(session.scalars(query)) == set(names(130))


def test_a_whole_import_asks_for_nothing_in_vain(
    session: Session, vendor: Vendor, importer: BibliothecaPurchaseRecordImporter, shelf: OnPaper
) -> None:
    vendor.sells(day(2024, 5, 1, 9), *names(50, "a"))
    vendor.sells(day(2024, 5, 7, 9), *names(120, "b"))
    vendor.sells(day(2024, 5, 8), *names(3, "c"))
    vendor.sells(day(2024, 5, 26), *names(3, "d"))
    place, end = Place(MAY_1), day(2024, 6, 1, 4)
    while place.current_day < end:
        page = importer.import_page(place, end)
        place = page.next

    windows = [(asked["startdate"], asked["enddate"], asked["offset"]) for asked in vendor.marc_requests()]
    assert len(windows) == len(set(windows))
    assert shelf.answers == {}
    days = {(f"2024-05-{n:02}T00:00:00", "1") for n in (*range(1, 16), *range(16, 32))}
    assert {(start, offset) for start, _, offset in windows} - days == {
        ("2024-05-01T00:00:00", "51"),
        ("2024-05-07T00:00:00", "51"),
        ("2024-05-07T00:00:00", "101"),
        ("2024-06-01T00:00:00", "1"),
    }
    assert len(session.scalars(select(PurchaseRecord.id)).all()) == 176


def test_a_fault_of_a_page_ahead_is_left_for_that_page(
    collection: Collection, vendor: Vendor, importer: BibliothecaPurchaseRecordImporter, shelf: OnPaper
) -> None:
    vendor.sells(day(2024, 5, 3, 9), "abc")
    with ReadingAhead(api_for(collection), shelf, 4) as ahead:
        vendor.answers.append(httpx.Response(502))
        ahead.ask_beside(1, [Asked(Window(day(2024, 5, 3), day(2024, 5, 4)))])

    assert shelf.answers == {}
    assert importer.import_page(Place(day(2024, 5, 3)), LATER).titles_new == 1


def test_a_page_that_fails_leaves_nothing_on_the_shelf(
    vendor: Vendor, importer: BibliothecaPurchaseRecordImporter, shelf: OnPaper
) -> None:
    vendor.answers.extend([httpx.Response(502)] * 4)
    with pytest.raises(BadResponseException):
        importer.import_page(Place(MAY_1), LATER)

    assert shelf.answers == {}


@pytest.mark.parametrize(
    "spoilt", [b"<html></html>", b"<marc:collection", b"<Error><Message>no</Message></Error>"]
)
def test_an_answer_that_cannot_be_read_when_its_turn_comes_is_asked_for_again(
    spoilt: bytes, vendor: Vendor, importer: BibliothecaPurchaseRecordImporter, shelf: OnPaper
) -> None:
    vendor.sells(day(2024, 5, 1, 9), "abc")
    shelf.lay(Asked(Window(MAY_1, day(2024, 5, 2))).name, spoilt)

    assert importer.import_page(Place(MAY_1), LATER).titles_new == 1


def test_a_blank_that_was_told_twice_is_believed_when_its_turn_comes(
    vendor: Vendor, importer: BibliothecaPurchaseRecordImporter, shelf: OnPaper
) -> None:
    vendor.answers.extend([httpx.Response(200)] * 8)
    place = importer.import_page(Place(MAY_1), LATER).next
    requests = len(vendor.requests)

    assert importer.import_page(place, LATER).next == Place(day(2024, 5, 3), empty=2)
    assert requests == len(vendor.requests) == 8


def test_what_is_cut_off_by_the_present_is_not_asked_for_ahead(
    vendor: Vendor, importer: BibliothecaPurchaseRecordImporter
) -> None:
    importer.import_page(Place(MAY_1), day(2024, 5, 2) + timedelta(hours=4))

    assert asked(vendor) == [("05-01", "1")]
