"""How many requests an import makes: exactly, for a small library, and at the most, for any."""

from collections import Counter
from dataclasses import dataclass
from datetime import date, datetime

import httpx
import pytest
from sqlalchemy import select
from sqlalchemy.orm import Session

from accession.catalog.rejected_records import reject_views
from accession.catalog.titles import title_views
from accession.core.workflow import Workflow
from accession.db.models import Collection, Identifier, LicensePool, PurchaseRecord, RejectedRecord
from accession.imports.purchases import BibliothecaPurchaseRecordImporter
from accession.imports.vendor import api_for
from accession.imports.windows import Place, Width, requests_of
from accession.runs.ledger import find_run, open_run
from accession.sandbox.catalogue import Catalogue, build_catalogue
from tests.fixtures.factories import day
from tests.fixtures.holdings import names
from tests.fixtures.vendor import Vendor, marc

FIRST, NOW = day(2014, 1, 1), day(2025, 11, 25, 4)


@dataclass(frozen=True)
class Requests:
    """What an import asks for, where every window is answered as the vendor does: an empty one by a blank."""

    pages: int
    second_looks: int
    look_ups: int

    @property
    def all(self) -> int:
        return self.pages + self.second_looks + self.look_ups


def requests_for(catalogue: Catalogue, width: Width, start: datetime = FIRST) -> Requests:
    """The requests of a first import of all that the vendor has sold."""
    pages = second_looks = look_ups = 0
    place = Place(start)
    while place.current_day < NOW:
        window = place.window(NOW, width)
        page = catalogue.page(window.start, window.end, offset=place.offset, limit=50)
        pages += 1
        second_looks += not page
        if window.leap:
            place = place.after_leap(window, sold=bool(page))
            continue
        look_ups += -(-len(page) // 25)
        sold = bool(page) or place.offset > 1
        place = place.after_page(window, "page", full=len(page) == 50, sold=sold)
    return Requests(pages, second_looks, look_ups)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("titles", [2_000, 10_000, 50_000])
def test_by_months_a_first_import_asks_for_little_more_than_what_there_is(titles: int, seed: int) -> None:
    catalogue = build_catalogue(titles, FIRST, NOW, seed=seed)

    asked = requests_for(catalogue, Width.MONTH)

    assert asked.pages + asked.look_ups <= 1.15 * (-(-titles // 50) - (-titles // 25)) + 200


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("titles", [200, 2_000, 10_000])
def test_by_days_it_asks_for_no_day_twice_and_leaps_over_deserts(titles: int, seed: int) -> None:
    catalogue = build_catalogue(titles, FIRST, NOW, seed=seed)
    days_with_sales = {purchase.purchased_at.date() for purchase in catalogue.purchases}
    days = (NOW.date() - FIRST.date()).days + 1
    further_pages = sum(
        sum(purchase.purchased_at.date() == one for purchase in catalogue.purchases) // 50
        for one in days_with_sales
    )

    asked = requests_for(catalogue, Width.DAY)

    assert asked.pages < days + further_pages
    assert asked.second_looks <= asked.pages - len(days_with_sales)


@pytest.mark.parametrize("first_year", [2015, 2021, 2025])
def test_the_years_before_a_librarys_first_purchase_cost_next_to_nothing(first_year: int) -> None:
    began = day(first_year, 1, 1)
    bought = build_catalogue(300, began, NOW)

    asked = requests_for(bought, Width.DAY)
    without_the_years_before = requests_for(bought, Width.DAY, began)

    # Each of them asked for twice, as it is when the vendor says "nothing here" with a blank.
    assert asked.all - without_the_years_before.all <= 150


# The importer itself


def asked_of(vendor: Vendor) -> list[tuple[str, str, str]]:
    return [(a["startdate"], a["enddate"], a["offset"]) for a in vendor.marc_requests()]


def import_all(
    session: Session, collection: Collection, start: datetime, now: datetime, width: Width = Width.DAY
) -> None:
    """Every page from `start` to `now`, of one run."""
    open_run(session, collection.id, Workflow.PURCHASES, "task", {})
    run = find_run(session, "task")
    importer = BibliothecaPurchaseRecordImporter(session, collection, api_for(collection), run)
    place = Place(start)
    while place.current_day < now:
        place = importer.import_page(place, now, width).next


def purchases(session: Session) -> dict[str, list[tuple[date, bool]]]:
    query = (
        select(Identifier.identifier, PurchaseRecord.purchased_on, PurchaseRecord.month_only)
        .join(LicensePool, LicensePool.identifier_id == Identifier.id)
        .join(PurchaseRecord, PurchaseRecord.license_pool_id == LicensePool.id)
        .order_by(Identifier.identifier, PurchaseRecord.purchased_on)
    )
    found: dict[str, list[tuple[date, bool]]] = {}
    for name, bought, month_only in session.execute(query):
        found.setdefault(name, []).append((bought, month_only))
    return found


def sell(vendor: Vendor) -> None:
    """Sixty titles on a day of February, one of them again in March, and a record that cannot be used."""
    vendor.sells(day(2014, 2, 3, 9), *names(60))
    vendor.sells(day(2014, 3, 5, 9), "t0000")
    vendor.sold.append((day(2014, 3, 5, 9), marc()))


def test_by_days_each_day_is_asked_for_once_and_each_title_once(
    session: Session, collection: Collection, vendor: Vendor
) -> None:
    sell(vendor)
    import_all(session, collection, day(2014, 2, 1), day(2014, 3, 7, 4))

    asked = [(start[5:10], end[5:13], offset) for start, end, offset in asked_of(vendor)]
    assert asked == [
        *((f"02-{n:02}", f"02-{n + 1:02}T00", "1") for n in (1, 2, 3)),
        ("02-03", "02-04T00", "51"),
        *((f"02-{n:02}", f"02-{n + 1:02}T00", "1") for n in range(4, 11)),
        ("02-11", "03-01T00", "1"),
        ("03-01", "03-07T04", "1"),
        *((f"03-{n:02}", f"03-{n + 1:02}T00", "1") for n in range(1, 7)),
        ("03-07", "03-07T04", "1"),
    ]
    assert sorted(map(len, vendor.item_requests())) == [10, 25, 25]
    assert purchases(session)["t0000"] == [(date(2014, 2, 3), False), (date(2014, 3, 5), False)]


def test_by_months_a_month_is_asked_for_once_and_its_titles_know_their_month(
    session: Session, collection: Collection, vendor: Vendor
) -> None:
    sell(vendor)
    import_all(session, collection, day(2014, 2, 1), day(2014, 4, 2, 4), Width.MONTH)

    assert [(start[5:10], offset) for start, _, offset in asked_of(vendor)] == [
        ("02-01", "1"),
        ("02-01", "51"),
        ("03-01", "1"),
        ("04-01", "1"),
        ("04-02", "1"),
    ]
    assert purchases(session)["t0000"] == [(date(2014, 2, 1), True), (date(2014, 3, 1), True)]
    assert {view.purchased_on for view in title_views(session)} == {"2014-02"}
    (rejected,) = reject_views(session)
    assert rejected.purchased_on == "2014-03"


def test_what_was_imported_by_days_keeps_them_when_it_is_imported_by_months(
    session: Session, collection: Collection, vendor: Vendor
) -> None:
    sell(vendor)
    import_all(session, collection, day(2014, 2, 1), day(2014, 4, 2, 4))
    known = purchases(session)

    import_all(session, collection, day(2014, 2, 1), day(2014, 4, 2, 4), Width.MONTH)

    assert purchases(session) == known
    assert len(session.scalars(select(RejectedRecord)).all()) == 1


def test_what_was_imported_by_months_gets_its_days_when_it_is_imported_by_days(
    session: Session, collection: Collection, vendor: Vendor
) -> None:
    sell(vendor)
    import_all(session, collection, day(2014, 2, 1), day(2014, 4, 2, 4), Width.MONTH)
    import_all(session, collection, day(2014, 2, 1), day(2014, 4, 2, 4))

    assert set(map(tuple, purchases(session).values())) == {
        ((date(2014, 2, 3), False),),
        ((date(2014, 2, 3), False), (date(2014, 3, 5), False)),
    }
    assert len(session.scalars(select(RejectedRecord)).all()) == 1


def test_a_leap_that_finds_something_stores_nothing_of_it_yet(
    session: Session, collection: Collection, vendor: Vendor
) -> None:
    vendor.sells(day(2014, 2, 20), "abc")
    importer = BibliothecaPurchaseRecordImporter(session, collection, api_for(collection))
    place = Place(day(2014, 2, 8), empty=7)

    page = importer.import_page(place, day(2014, 4, 1))

    assert (page.counters.pages, page.records_fetched, page.outbox_ids) == (1, 0, ())
    assert page.next == Place(day(2014, 2, 8), empty=7, sold_before=day(2014, 3, 1))
    assert (purchases(session), importer.get_start()) == ({}, FIRST)


@pytest.mark.parametrize("blank", [True, False])
def test_an_empty_leap_moves_the_checkpoint_to_its_end(
    blank: bool, session: Session, collection: Collection, vendor: Vendor
) -> None:
    vendor.answers.extend([httpx.Response(200)] * 2 * blank)
    importer = BibliothecaPurchaseRecordImporter(session, collection, api_for(collection))

    page = importer.import_page(Place(day(2014, 2, 8), empty=7), day(2014, 4, 1))

    assert page.next == Place(day(2014, 3, 1), empty=8)
    assert importer.get_start() == day(2014, 3, 1)
    assert len(vendor.requests) == 1 + blank


@pytest.mark.parametrize("width", list(Width))
@pytest.mark.parametrize("titles", [0, 200, 10_000])
def test_what_a_reimport_costs_is_known_from_what_is_stored(titles: int, width: Width) -> None:
    catalogue = build_catalogue(titles, FIRST, NOW)
    sold = Counter(purchase.purchased_at.date() for purchase in catalogue.purchases)

    asked = requests_for(catalogue, width)

    assert requests_of(sold, FIRST, NOW, width) == asked.pages + asked.look_ups
