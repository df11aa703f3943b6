"""Purchases per month."""

from datetime import date

import time_machine
from sqlalchemy.orm import Session

from accession.accounts.collections import mark_for_deletion
from accession.catalog.purchase_counts import MonthCount, purchases_by_month, recent_purchases
from accession.catalog.purchase_dates import PurchaseDate
from accession.catalog.purchase_records import PurchaseRecordData, store_purchase_records
from accession.db.models import Collection
from tests.fixtures.factories import NOON, make_collection, make_pool


def purchase(session: Session, collection: Collection, identifier: str, *days: date) -> None:
    pool = make_pool(session, collection, identifier)
    for purchased_on in days:
        store_purchase_records(
            session, {PurchaseDate(purchased_on): [PurchaseRecordData(pool, lambda: b"marc", "hash")]}
        )
    session.commit()


@time_machine.travel(NOON, tick=False)
def test_purchases_by_month_start_in_2014(session: Session, collection: Collection) -> None:
    purchase(session, collection, "a", date(2014, 1, 31))
    purchase(
        session, collection, "b", date(2014, 3, 1), date(2014, 3, 31), date(2014, 1, 1), date(2024, 5, 1)
    )
    purchase(session, collection, "c", date(2014, 4, 1))
    purchase(session, make_collection(session, "Birch Library"), "a", date(2014, 2, 1))

    months = purchases_by_month(session, collection.id)

    assert months[:5] == [
        MonthCount(date(2014, 1, 1), purchases=2, titles=2),
        MonthCount(date(2014, 2, 1), purchases=0, titles=2),
        MonthCount(date(2014, 3, 1), purchases=2, titles=2),
        MonthCount(date(2014, 4, 1), purchases=1, titles=3),
        MonthCount(date(2014, 5, 1), purchases=0, titles=3),
    ]
    assert months[-1] == MonthCount(date(2024, 5, 1), purchases=1, titles=3)
    assert len(months) == 10 * 12 + 5


def test_purchases_by_month_without_purchases_are_empty(session: Session, collection: Collection) -> None:
    assert purchases_by_month(session, collection.id) == []


@time_machine.travel(NOON, tick=False)
def test_recent_purchases_cover_collections_in_use(session: Session, collection: Collection) -> None:
    purchase(session, collection, "a", date(2022, 5, 31), date(2022, 6, 1), date(2024, 5, 1))
    purchase(session, collection, "b", date(2024, 5, 31))
    empty, deleted = (make_collection(session, name) for name in ("Birch Library", "Deleted Library"))
    mark_for_deletion(deleted)
    session.commit()

    recent = recent_purchases(session)

    assert recent == {collection.id: (1, *[0] * 22, 2), empty.id: (0,) * 24}
    assert recent_purchases(session, months=1) == {collection.id: (2,), empty.id: (0,)}
