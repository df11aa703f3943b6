"""Storing the purchase records of several dates at once."""

from datetime import date

from sqlalchemy import select
from sqlalchemy.orm import Session

from accession.bibliotheca.marc import parse_marc_page
from accession.catalog.purchase_dates import PurchaseDate
from accession.db.models import Collection, PurchaseRecord
from accession.imports.purchase_store import PurchaseStore, SortedRecords, sort_records
from accession.imports.title_lookup import TitleLookup
from tests.fixtures.factories import NOON
from tests.fixtures.vendor import marc, marc_page

MARCH = PurchaseDate(date(2014, 3, 1), month_only=True)
MARCH_9, MARCH_20 = PurchaseDate(date(2014, 3, 9)), PurchaseDate(date(2014, 3, 20))
NO_LOOKUP = TitleLookup(NOON, {}, (), repairs=0)


def sorted_records(purchase_date: PurchaseDate, *item_ids: str) -> SortedRecords:
    page = parse_marc_page(marc_page(map(marc, item_ids)).encode())
    return sort_records(page.records, purchase_date)


def stored_dates(session: Session) -> list[PurchaseDate]:
    rows = session.scalars(select(PurchaseRecord).order_by(PurchaseRecord.purchased_on))
    return [PurchaseDate(row.purchased_on, row.month_only) for row in rows]


def test_new_title_on_two_days_has_two_records(session: Session, collection: Collection) -> None:
    days = [sorted_records(MARCH_9, "abc"), sorted_records(MARCH_20, "abc", "def")]
    stored = PurchaseStore(session, collection).store(days, NO_LOOKUP)

    assert stored.new_ids == {"abc", "def"}
    assert stored_dates(session) == [MARCH_9, MARCH_20, MARCH_20]


def test_new_title_in_month_and_on_day_has_one_record(session: Session, collection: Collection) -> None:
    dates = [sorted_records(MARCH, "abc"), sorted_records(MARCH_9, "abc")]
    PurchaseStore(session, collection).store(dates, NO_LOOKUP)

    assert stored_dates(session) == [MARCH_9]
