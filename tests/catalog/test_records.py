"""Purchase records: stored by pool and day, or kept as rejected, and never written twice."""

from datetime import date

import pytest
from sqlalchemy import select
from sqlalchemy.orm import Session

from accession.catalog.models import Collection, LicensePool, PurchaseRecord, RejectedRecord
from accession.catalog.records import Rejection, StoredRecord, keep_rejected, store_purchase_records
from accession.database import engine
from tests.making import make_collection, make_pool, statements_of

FIRST, SECOND = date(2014, 3, 1), date(2016, 5, 2)


@pytest.fixture
def pool(session: Session, collection: Collection) -> LicensePool:
    return make_pool(session, collection, "abc")


def stored(session: Session) -> list[tuple[date, bytes]]:
    query = select(PurchaseRecord.purchased_on, PurchaseRecord.marc).order_by(PurchaseRecord.purchased_on)
    return list(session.execute(query))


def record(pool: LicensePool, day: date, says: str) -> StoredRecord:
    return StoredRecord(pool, day, f"marc of {says}".encode, f"hash of {says}")


def test_a_title_bought_on_two_days_has_two_records(session: Session, pool: LicensePool) -> None:
    store_purchase_records(session, [record(pool, SECOND, "b"), record(pool, FIRST, "a")])

    assert stored(session) == [(FIRST, b"marc of a"), (SECOND, b"marc of b")]


def test_a_record_that_says_the_same_is_neither_written_nor_made(session: Session, pool: LicensePool) -> None:
    def made() -> bytes:
        raise AssertionError("binary MARC of a record that is not written")

    store_purchase_records(session, [record(pool, FIRST, "a")])

    with statements_of(engine()) as sent:
        store_purchase_records(session, [StoredRecord(pool, FIRST, made, "hash of a")])

    assert [statement[:6] for statement in sent] == ["SELECT"]
    assert stored(session) == [(FIRST, b"marc of a")]


def test_a_record_that_says_something_else_takes_the_place_of_the_days_other(
    session: Session, pool: LicensePool
) -> None:
    store_purchase_records(session, [record(pool, FIRST, "a")])
    store_purchase_records(session, [record(pool, FIRST, "b"), record(pool, FIRST, "c")])

    assert stored(session) == [(FIRST, b"marc of c")]


def test_no_records_are_no_rows(session: Session, collection: Collection) -> None:
    store_purchase_records(session, [])
    keep_rejected(session, collection, FIRST, [])

    assert stored(session) == []
    assert session.scalars(select(RejectedRecord)).all() == []


def test_a_rejection_is_kept_once_a_day_and_collection(session: Session, collection: Collection) -> None:
    other = make_collection(session, "Birch Library")
    rejection = Rejection("It has no title identifier (001).", "<record/>", "hash")

    for _ in range(2):
        keep_rejected(session, collection, FIRST, [rejection, rejection])
        keep_rejected(session, collection, SECOND, [rejection])
        keep_rejected(session, other, FIRST, [rejection])

    kept = session.scalars(select(RejectedRecord).order_by(RejectedRecord.id)).all()
    assert [(each.collection_id, each.purchased_on) for each in kept] == [
        (collection.id, FIRST),
        (collection.id, SECOND),
        (other.id, FIRST),
    ]
    assert {(each.reason, each.raw_xml, each.resolved_at) for each in kept} == {
        ("It has no title identifier (001).", "<record/>", None)
    }
