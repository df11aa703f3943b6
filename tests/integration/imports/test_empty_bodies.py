"""Imports from a vendor that sends empty bodies for windows with purchases: nothing is lost."""

from collections.abc import Callable
from datetime import datetime, timedelta
from random import Random

import httpx
import pytest
from sqlalchemy.orm import Session

from accession.bibliotheca.errors import EmptyResponse, TransientVendorError
from accession.core.settings import get_settings
from accession.db.models import Collection
from accession.imports.purchases import BibliothecaPurchaseRecordImporter
from accession.imports.vendor_api import vendor_api_for
from accession.imports.windows import ImportCursor, Width
from tests.fixtures.factories import day
from tests.fixtures.prefetch import InMemoryPrefetchCache
from tests.fixtures.purchases import import_until, requested_pages, stored_purchases
from tests.fixtures.stored import checkpoint_confirmed
from tests.fixtures.vendor import ScriptedVendor

FIRST = day(2024, 1, 1)
NOW = day(2024, 3, 2, 4)
DAYS = (NOW - FIRST).days
MAX_ATTEMPTS = 100


class SilentVendor(ScriptedVendor):
    """A vendor that also sends an empty body for a share of all requests."""

    def __init__(self, random: Random, share: float) -> None:
        super().__init__(sends_empty_bodies=True)
        self._random = random
        self.share = share

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        response = super().handle_request(request)
        return httpx.Response(200) if self._random.random() < self.share else response


def sell_titles(vendor: ScriptedVendor, random: Random) -> dict[str, datetime]:
    """Add purchases on a few days, of up to three pages, and return when each title was sold."""
    sold: dict[str, datetime] = {}
    for number in range(DAYS):
        if random.random() >= 0.12:
            continue
        moment = FIRST + timedelta(days=number, hours=random.randrange(24))
        names = [f"t{len(sold) + n}" for n in range(random.choice((1, 2, 5, 49, 50, 120)))]
        vendor.add_purchases(moment, *names)
        sold |= dict.fromkeys(names, moment)
    return sold


def run_import(
    session: Session,
    collection: Collection,
    sold: dict[str, datetime],
    now: datetime,
    width: Width,
    cursor: ImportCursor | None = None,
) -> None:
    """Import until `now`, repeating failed pages, and check after each page what is confirmed."""
    cache = InMemoryPrefetchCache()
    importer = BibliothecaPurchaseRecordImporter(
        session, collection, vendor_api_for(collection), prefetch_cache=cache
    )
    cursor = cursor or importer.first_cursor(now)
    attempts = 0
    while not cursor.is_complete(now):
        try:
            cursor = importer.import_day(cursor, now, width).next_cursor
        except TransientVendorError:
            session.rollback()
            attempts += 1
            assert attempts < MAX_ATTEMPTS
            continue
        session.commit()
        attempts = 0
        confirmed = importer.get_start()
        stored = dict(stored_purchases(session)).keys()
        assert [name for name, moment in sold.items() if moment < confirmed and name not in stored] == []


@pytest.mark.parametrize("width", Width)
@pytest.mark.parametrize(("seed", "max_concurrency"), [(2, 1), (4, 4)])
def test_no_purchase_is_lost_to_empty_bodies(
    seed: int,
    max_concurrency: int,
    width: Width,
    session: Session,
    collection: Collection,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    random = Random(f"{seed} {width}")
    vendor = SilentVendor(random, share=0.3)
    sold = sell_titles(vendor, random)
    monkeypatch.setattr(get_settings(), "vendor_max_concurrency", max_concurrency)
    monkeypatch.setattr("accession.bibliotheca.client.IMMEDIATE_RETRIES", 0)
    monkeypatch.setattr("accession.bibliotheca.client.vendor_transport", vendor.transport)
    run_import(session, collection, sold, NOW, width, ImportCursor(FIRST))
    vendor.share = 0
    next_day = NOW + timedelta(days=1)
    vendor.add_purchases(NOW + timedelta(hours=3), "new")
    vendor.add_purchases(NOW - timedelta(days=9), "late")
    sold |= {"new": NOW + timedelta(hours=3), "late": NOW - timedelta(days=9)}
    run_import(session, collection, {}, next_day, width)

    assert checkpoint_confirmed(collection.id) == next_day
    stored = dict(stored_purchases(session))
    assert stored.keys() == sold.keys()
    if width is not Width.MONTH:
        assert stored == {name: moment.date() for name, moment in sold.items()}


# Purchases that change while an import runs


def import_before_and_after(
    session: Session,
    importer: BibliothecaPurchaseRecordImporter,
    pages: int,
    change: Callable[[], object],
) -> None:
    """Import so many pages from 1 January on, then the change happens, then the rest of the week."""
    end, cursor = day(2024, 1, 8), ImportCursor(FIRST)
    for _ in range(pages):
        cursor = importer.import_day(cursor, end).next_cursor
        session.commit()
    change()
    import_until(session, importer, end, cursor)


@pytest.mark.parametrize("others", [[], ["other"]], ids=["only one of its page", "with another"])
def test_purchase_that_appears_late_gets_its_own_day(
    session: Session,
    collection: Collection,
    vendor: ScriptedVendor,
    importer: BibliothecaPurchaseRecordImporter,
    others: list[str],
) -> None:
    """It is listed first with a later day, which was requested with the last record as anchor."""
    vendor.sends_empty_bodies = True
    vendor.add_purchases(FIRST, "first")
    vendor.add_purchases(day(2024, 1, 4), *others)

    import_before_and_after(session, importer, 3, lambda: vendor.add_purchases(day(2024, 1, 3, 9), "late"))

    days = {"first": FIRST, "late": day(2024, 1, 3), "other": day(2024, 1, 4)}
    names = ["first", "late", *others]
    assert stored_purchases(session) == [(name, days[name].date()) for name in names]
    assert checkpoint_confirmed(collection.id) == day(2024, 1, 8)


def test_late_purchase_of_a_month_is_kept_under_no_later_day(
    session: Session, vendor: ScriptedVendor, importer: BibliothecaPurchaseRecordImporter
) -> None:
    """It is listed first together with the next one, with the first day after the month."""
    vendor.add_purchases(day(2024, 1, 15), "first")
    vendor.add_purchases(day(2024, 2, 1), "other")
    end = day(2024, 2, 8)

    cursor = importer.import_day(ImportCursor(FIRST), end, Width.MONTH).next_cursor
    vendor.add_purchases(day(2024, 1, 20), "late")
    while not cursor.is_complete(end):
        cursor = importer.import_day(cursor, end, Width.MONTH).next_cursor

    assert stored_purchases(session) == [
        ("first", FIRST.date()),
        ("late", FIRST.date()),
        ("other", day(2024, 2, 1).date()),
    ]


def test_late_purchase_of_a_title_keeps_its_other_days(
    session: Session, vendor: ScriptedVendor, importer: BibliothecaPurchaseRecordImporter
) -> None:
    vendor.add_purchases(FIRST, "first")
    vendor.add_purchases(day(2024, 1, 4), "other")
    vendor.add_purchases(day(2024, 1, 5), "twice")

    import_before_and_after(session, importer, 3, lambda: vendor.add_purchases(day(2024, 1, 3, 9), "twice"))

    assert stored_purchases(session) == [
        ("first", FIRST.date()),
        ("other", day(2024, 1, 4).date()),
        ("twice", day(2024, 1, 3).date()),
        ("twice", day(2024, 1, 5).date()),
    ]


@pytest.mark.parametrize("records", [1, 10, 50], ids=["one", "many", "a full page"])
def test_withdrawn_last_purchase_does_not_stop_the_import(
    session: Session,
    collection: Collection,
    vendor: ScriptedVendor,
    importer: BibliothecaPurchaseRecordImporter,
    records: int,
) -> None:
    """Nothing is listed where it was, and an empty body there is no error then."""
    vendor.sends_empty_bodies = True
    vendor.add_purchases(FIRST, "first")
    vendor.add_purchases(day(2024, 1, 2), *(f"t{number}" for number in range(records)))

    import_before_and_after(session, importer, 2, vendor.purchases.pop)

    assert checkpoint_confirmed(collection.id) == day(2024, 1, 8)


def test_empty_body_at_the_anchor_is_an_error_while_broken(
    session: Session, vendor: ScriptedVendor, importer: BibliothecaPurchaseRecordImporter
) -> None:
    """A vendor that sends no records before the anchor either is broken, so that nothing is concluded."""
    vendor.add_purchases(FIRST, "first")
    vendor.add_purchases(day(2024, 1, 2), "second")

    def break_vendor() -> None:
        vendor.responses.extend([httpx.Response(200)] * 2)

    with pytest.raises(EmptyResponse):
        import_before_and_after(session, importer, 2, break_vendor)
    assert requested_pages(vendor)[-1] == ("01-01", "01-04", "1")


def test_last_purchase_withdrawn_before_any_other_is_an_error(
    session: Session, vendor: ScriptedVendor, importer: BibliothecaPurchaseRecordImporter
) -> None:
    """No other record is known, so that the next run starts from what is confirmed."""
    vendor.sends_empty_bodies = True
    vendor.add_purchases(FIRST, "first")

    with pytest.raises(EmptyResponse):
        import_before_and_after(session, importer, 2, vendor.purchases.pop)
