"""Titles purchased most recently."""

from datetime import date
from typing import Any

from sqlalchemy.orm import Session

from accession.catalog.purchase_dates import PurchaseDate
from accession.catalog.purchase_records import PurchaseRecordData, store_purchase_records
from accession.catalog.recent_titles import RecentTitles, recent_titles
from accession.db.models import Collection
from tests.fixtures.factories import apply_titles, make_collection, make_pool, title_data


def add_title(
    session: Session, collection: Collection, identifier: str, days: list[int], **fields: Any
) -> None:
    """Add a title that was purchased on these days of May 2024."""
    pool = make_pool(session, collection, identifier)
    apply_titles(session, {pool.id: title_data(identifier, **fields)})
    for day in days:
        record = PurchaseRecordData(pool, lambda: b"marc", f"{day}")
        store_purchase_records(session, {PurchaseDate(date(2024, 5, day)): [record]})


def test_recent_titles_are_listed_once_by_last_purchase(session: Session, collection: Collection) -> None:
    other = make_collection(session, "Birch Library")
    for identifier, days in {"a": [1, 9], "b": [8], "c": [2], "withdrawn": [10]}.items():
        copies = 0 if identifier == "withdrawn" else 2
        add_title(session, collection, identifier, days, licenses_owned=copies, licenses_available=copies)
        add_title(session, other, identifier, [20])

    recent = recent_titles(session, collection.id, limit=2)

    assert ([title.identifier for title in recent.titles], recent.since) == (["a", "b"], date(2024, 5, 8))
    all_titles = recent_titles(session, collection.id, limit=9).titles
    assert [title.identifier for title in all_titles] == ["a", "b", "c"]


def test_recent_titles_without_purchases_are_empty(session: Session, collection: Collection) -> None:
    assert recent_titles(session, collection.id, limit=9) == RecentTitles((), None)
