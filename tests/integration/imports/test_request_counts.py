"""Tests of how many requests an import makes: exact for a small library, upper bounds for any size."""

from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime
from functools import cache

import pytest
from sqlalchemy import select
from sqlalchemy.orm import Session

from accession.catalog.rejected_records import rejected_record_views
from accession.catalog.titles import title_views
from accession.core.workflow import Workflow
from accession.db.models import Collection, Identifier, LicensePool, PurchaseRecord, RejectedRecord
from accession.imports.purchases import BibliothecaPurchaseRecordImporter
from accession.imports.vendor_api import vendor_api_for
from accession.imports.windows import ImportCursor, ProbedSpan, Width, count_requests
from accession.runs.ledger import find_run, get_or_create_checkpoint, open_run, record_step
from accession.sandbox.catalogue import Catalogue, build_catalogue
from tests.fixtures.factories import day
from tests.fixtures.holdings import title_ids
from tests.fixtures.model_vendor import ModelImport, ModelVendor
from tests.fixtures.vendor import ScriptedVendor, marc

FIRST, NOW = day(2014, 1, 1), day(2025, 11, 25, 4)
PAGE_SIZE, LOOKUP_SIZE, MAX_PENDING_PAGES = 50, 25, 50


@dataclass(frozen=True)
class RequestCounts:
    """The requests of an import from a vendor that sends empty bodies for empty windows."""

    pages: int
    lookups: int

    @property
    def total(self) -> int:
        return self.pages + self.lookups


@cache
def catalogue_of(titles: int, seed: int = 0) -> Catalogue:
    return build_catalogue(titles, FIRST, NOW, seed=seed)


def simulate_import(catalogue: Catalogue, width: Width, start: datetime = FIRST) -> RequestCounts:
    """Count the requests of a first import of all purchases."""
    vendor = ModelVendor([(purchase.purchased_at, purchase.item_id) for purchase in catalogue.purchases])
    steps = list(ModelImport(vendor, NOW, width).steps(ImportCursor(start)))
    met: set[str] = set()
    new_titles = []
    for step in steps:
        titles = {*(step.keys_to_store if step.days is None else step.new_keys)}
        new_titles.append(len(titles - met))
        met |= titles
    return RequestCounts(len(steps), count_lookups(new_titles))


def count_lookups(titles_by_page: Sequence[int]) -> int:
    """Count the look-ups of an import whose titles wait for those of up to 50 further pages."""
    lookups, pages_of_pending = 0, deque[int]()
    for page, titles in enumerate(titles_by_page):
        pages_of_pending.extend([page] * titles)
        while len(pages_of_pending) >= LOOKUP_SIZE:
            lookups += 1
            for _ in range(LOOKUP_SIZE):
                pages_of_pending.popleft()
        if pages_of_pending and page - pages_of_pending[0] >= MAX_PENDING_PAGES:
            lookups += 1
            pages_of_pending.clear()
    return lookups + bool(pages_of_pending)


@pytest.mark.parametrize(("titles", "seed"), [(2_000, 0), (2_000, 1), (2_000, 2), (10_000, 0), (50_000, 0)])
def test_import_by_months_needs_few_extra_requests(titles: int, seed: int) -> None:
    counts = simulate_import(catalogue_of(titles, seed), Width.MONTH)

    minimum = -(-titles // PAGE_SIZE) + -(-titles // LOOKUP_SIZE)
    assert counts.total <= 1.15 * minimum + 200


@pytest.mark.parametrize(
    ("titles", "seed"), [(200, 0), (200, 1), (200, 2), (2_000, 0), (2_000, 1), (2_000, 2), (10_000, 0)]
)
def test_import_by_days_needs_fewer_requests_than_days(titles: int, seed: int) -> None:
    catalogue = catalogue_of(titles, seed)
    titles_by_day = Counter(purchase.purchased_at.date() for purchase in catalogue.purchases)
    days = (NOW.date() - FIRST.date()).days + 1
    full_pages = sum(titles // PAGE_SIZE for titles in titles_by_day.values())

    counts = simulate_import(catalogue, Width.DAY)

    assert counts.pages < days + full_pages


@pytest.mark.parametrize("first_year", [2015, 2021, 2025])
def test_years_before_the_first_purchase_cost_few_requests(first_year: int) -> None:
    first_purchase = day(first_year, 1, 1)
    catalogue = build_catalogue(300, first_purchase, NOW)

    with_earlier_years = simulate_import(catalogue, Width.DAY)
    without_earlier_years = simulate_import(catalogue, Width.DAY, first_purchase)

    assert with_earlier_years.total - without_earlier_years.total <= 150


@pytest.mark.parametrize("width", list(Width))
@pytest.mark.parametrize("titles", [0, 200, 2_000])
def test_count_requests_predicts_a_reimport(titles: int, width: Width) -> None:
    catalogue = catalogue_of(titles)
    titles_by_day = Counter(purchase.purchased_at.date() for purchase in catalogue.purchases)

    counts = simulate_import(catalogue, width)

    assert count_requests(titles_by_day, FIRST, NOW, width) == counts.total


# The importer


def requested_windows(vendor: ScriptedVendor) -> list[tuple[str, str, str]]:
    """Return the start (month and day), end (with the hour) and offset of each page requested."""
    return [
        (query["startdate"][5:10], query["enddate"][5:13], query["offset"])
        for query in vendor.marc_requests()
    ]


def checkpoint(session: Session, collection: Collection) -> tuple[datetime | None, datetime | None]:
    """Return up to when everything is requested, and up to when it is confirmed."""
    row = get_or_create_checkpoint(session, collection, Workflow.PURCHASES)
    return row.finish, row.confirmed


def import_all_pages(
    session: Session, collection: Collection, start: datetime, now: datetime, width: Width = Width.DAY
) -> None:
    """Import every page from `start` to `now` in one run."""
    open_run(session, collection.id, Workflow.PURCHASES, "task", {})
    run = find_run(session, "task")
    importer = BibliothecaPurchaseRecordImporter(session, collection, vendor_api_for(collection), run)
    assert run is not None
    cursor = ImportCursor(start)
    while not cursor.is_complete(now):
        page = importer.import_day(cursor, now, width)
        record_step(run, page.counters, since=None, next_cursor={})
        cursor = page.next_cursor


def purchase_dates(session: Session) -> dict[str, list[tuple[date, bool]]]:
    """Return the date and `month_only` of each purchase by title."""
    query = (
        select(Identifier.identifier, PurchaseRecord.purchased_on, PurchaseRecord.month_only)
        .join(LicensePool, LicensePool.identifier_id == Identifier.id)
        .join(PurchaseRecord, PurchaseRecord.license_pool_id == LicensePool.id)
        .order_by(Identifier.identifier, PurchaseRecord.purchased_on)
    )
    dates: dict[str, list[tuple[date, bool]]] = {}
    for item_id, purchased_on, month_only in session.execute(query):
        dates.setdefault(item_id, []).append((purchased_on, month_only))
    return dates


def add_purchases(vendor: ScriptedVendor) -> None:
    """Add 60 titles on a day of February, one of them again in March, and an invalid record."""
    vendor.add_purchases(day(2014, 2, 3, 9), *title_ids(60))
    vendor.add_purchases(day(2014, 3, 5, 9), "t0000")
    vendor.purchases.append((day(2014, 3, 5, 9), marc()))


def test_import_by_days_requests_each_day_and_title_once(
    session: Session, collection: Collection, vendor: ScriptedVendor
) -> None:
    add_purchases(vendor)
    import_all_pages(session, collection, day(2014, 2, 1), day(2014, 3, 7, 4))

    assert requested_windows(vendor) == [
        *((f"02-{n:02}", f"02-{n + 1:02}T00", "1") for n in (1, 2, 3)),
        # The second page begins with the last record of the first. Days after so many records do not.
        ("02-03", "02-04T00", "50"),
        *((f"02-{n:02}", f"02-{n + 1:02}T00", "1") for n in range(4, 11)),
        ("02-03", "03-01T00", "60"),
        # The probe lists the two records of 5 March, so that the days after it are skipped.
        ("02-03", "03-07T04", "60"),
        *((f"03-{n:02}", f"03-{n + 1:02}T00", "1") for n in range(1, 6)),
        # The records are where they were, so that their day is certain.
        ("03-05", "03-07T04", "2"),
    ]
    assert sorted(map(len, vendor.item_requests())) == [10, 25, 25]
    assert purchase_dates(session)["t0000"] == [(date(2014, 2, 3), False), (date(2014, 3, 5), False)]


def test_import_by_months_requests_each_month_once(
    session: Session, collection: Collection, vendor: ScriptedVendor
) -> None:
    """Purchases and rejected records then have a month and no day."""
    add_purchases(vendor)
    import_all_pages(session, collection, day(2014, 2, 1), day(2014, 4, 2, 4), Width.MONTH)

    assert requested_windows(vendor) == [
        ("02-01", "03-01T00", "1"),
        ("02-01", "03-01T00", "50"),
        ("03-01", "04-01T00", "1"),
        ("04-01", "04-02T00", "1"),
        ("04-02", "04-02T04", "1"),
    ]
    assert purchase_dates(session)["t0000"] == [(date(2014, 2, 1), True), (date(2014, 3, 1), True)]
    assert {view.purchased_on for view in title_views(session)} == {"2014-02"}
    (rejected,) = rejected_record_views(session)
    assert rejected.purchased_on == "2014-03"


def test_reimport_by_months_keeps_known_days(
    session: Session, collection: Collection, vendor: ScriptedVendor
) -> None:
    add_purchases(vendor)
    import_all_pages(session, collection, day(2014, 2, 1), day(2014, 4, 2, 4))
    before = purchase_dates(session)

    import_all_pages(session, collection, day(2014, 2, 1), day(2014, 4, 2, 4), Width.MONTH)

    assert purchase_dates(session) == before
    assert len(session.scalars(select(RejectedRecord)).all()) == 1


def test_reimport_by_days_replaces_months_with_days(
    session: Session, collection: Collection, vendor: ScriptedVendor
) -> None:
    add_purchases(vendor)
    import_all_pages(session, collection, day(2014, 2, 1), day(2014, 4, 2, 4), Width.MONTH)
    import_all_pages(session, collection, day(2014, 2, 1), day(2014, 4, 2, 4))

    assert set(map(tuple, purchase_dates(session).values())) == {
        ((date(2014, 2, 3), False),),
        ((date(2014, 2, 3), False), (date(2014, 3, 5), False)),
    }
    assert len(session.scalars(select(RejectedRecord)).all()) == 1


def test_probe_with_records_stores_nothing(
    session: Session, collection: Collection, vendor: ScriptedVendor
) -> None:
    vendor.add_purchases(day(2014, 2, 20), "abc", "def")
    importer = BibliothecaPurchaseRecordImporter(session, collection, vendor_api_for(collection))
    cursor = ImportCursor(day(2014, 2, 8), empty_windows=7)

    page = importer.import_day(cursor, day(2014, 4, 1))

    assert (page.day_start, page.day_end, page.next_offset) == (day(2014, 2, 8), day(2014, 3, 1), None)
    assert (page.counters.pages, page.records_fetched, page.outbox_ids) == (1, 0, ())
    probed = ProbedSpan(day(2014, 2, 8), day(2014, 3, 1), ("abc", "def"))
    next_cursor = page.next_cursor
    assert (next_cursor.current_day, next_cursor.probed) == (day(2014, 2, 8), (probed,))
    assert (purchase_dates(session), vendor.item_requests()) == ({}, [])
    assert checkpoint(session, collection) == (day(2014, 2, 8), day(2014, 2, 8))


@pytest.mark.parametrize(
    ("is_blank", "confirmed"),
    [(True, day(2014, 2, 8)), (False, day(2014, 3, 1))],
    ids=["empty body", "empty collection"],
)
def test_empty_probe_moves_the_checkpoint_to_its_end(
    is_blank: bool, confirmed: datetime, session: Session, collection: Collection, vendor: ScriptedVendor
) -> None:
    """An empty body proves nothing, so that it confirms nothing."""
    vendor.sends_empty_bodies = is_blank
    importer = BibliothecaPurchaseRecordImporter(session, collection, vendor_api_for(collection))

    page = importer.import_day(ImportCursor(day(2014, 2, 8), empty_windows=7), day(2014, 4, 1))

    assert (page.next_cursor.current_day, page.next_cursor.empty_windows) == (day(2014, 3, 1), 8)
    assert checkpoint(session, collection) == (day(2014, 3, 1), confirmed)
    assert importer.get_start() == confirmed
    assert len(vendor.requests) == 1


def test_empty_probe_after_a_record_is_confirmed(
    session: Session, collection: Collection, vendor: ScriptedVendor
) -> None:
    """The response begins with the last record, which proves that nothing follows it."""
    vendor.sends_empty_bodies = True
    vendor.add_purchases(day(2014, 2, 1, 9), "abc")

    import_all_pages(session, collection, day(2014, 2, 1), day(2014, 3, 1))

    assert requested_windows(vendor)[-1] == ("02-01", "03-01T00", "1")
    assert checkpoint(session, collection) == (day(2014, 3, 1), day(2014, 3, 1))
