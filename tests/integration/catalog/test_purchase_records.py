"""Purchase records: stored by pool and day, or kept as rejected, and never written twice."""

from datetime import date

import pytest
import time_machine
from sqlalchemy import select
from sqlalchemy.orm import Session

from accession.catalog.purchase_records import PurchaseDate, StoredRecord, store_purchase_records
from accession.catalog.rejected_records import Rejection, keep_rejected, resolve_rejected
from accession.core.errors import UserError
from accession.db.engine import engine
from accession.db.models import Collection, LicensePool, PurchaseRecord, RejectedRecord
from tests.fixtures.factories import NOON, make_collection, make_pool, statements_of

FIRST, SECOND = PurchaseDate(date(2014, 3, 1)), PurchaseDate(date(2016, 5, 2))


@pytest.fixture
def pool(session: Session, collection: Collection) -> LicensePool:
    return make_pool(session, collection, "abc")


def stored(session: Session) -> list[tuple[PurchaseDate, bytes]]:
    rows = session.scalars(select(PurchaseRecord).order_by(PurchaseRecord.purchased_on))
    return [(PurchaseDate(row.purchased_on, row.month_only), row.marc) for row in rows]


def record(pool: LicensePool, says: str) -> StoredRecord:
    return StoredRecord(pool, f"marc of {says}".encode, f"hash of {says}")


def test_a_title_bought_on_two_days_has_two_records(session: Session, pool: LicensePool) -> None:
    store_purchase_records(session, SECOND, [record(pool, "b")])
    store_purchase_records(session, FIRST, [record(pool, "a")])

    assert stored(session) == [(FIRST, b"marc of a"), (SECOND, b"marc of b")]


def test_a_record_that_says_the_same_is_neither_written_nor_made(session: Session, pool: LicensePool) -> None:
    def made() -> bytes:
        raise AssertionError("binary MARC of a record that is not written")

    store_purchase_records(session, FIRST, [record(pool, "a")])

    with statements_of(engine()) as sent:
        store_purchase_records(session, FIRST, [StoredRecord(pool, made, "hash of a")])

    assert [statement[:6] for statement in sent] == ["SELECT"]
    assert stored(session) == [(FIRST, b"marc of a")]


def test_a_record_that_says_something_else_takes_the_place_of_the_days_other(
    session: Session, pool: LicensePool
) -> None:
    store_purchase_records(session, FIRST, [record(pool, "a")])
    store_purchase_records(session, FIRST, [record(pool, "b"), record(pool, "c")])

    assert stored(session) == [(FIRST, b"marc of c")]


def test_no_records_are_no_rows(session: Session, collection: Collection) -> None:
    store_purchase_records(session, FIRST, [])
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
    assert [(each.collection_id, PurchaseDate(each.purchased_on, each.month_only)) for each in kept] == [
        (collection.id, FIRST),
        (collection.id, SECOND),
        (other.id, FIRST),
    ]
    assert {(each.reason, each.raw_xml, each.resolved_at) for each in kept} == {
        ("It has no title identifier (001).", "<record/>", None)
    }


def test_a_rejected_record_is_resolved_once_with_its_note(session: Session, collection: Collection) -> None:
    keep_rejected(session, collection, FIRST, [Rejection("It has no id.", "<record/>", "hash")])
    kept = session.scalars(select(RejectedRecord)).one()

    with time_machine.travel(NOON, tick=False):
        resolve_rejected(session, kept.id, "The vendor knows\0. ")

    assert (kept.resolved_at, kept.note) == (NOON, "The vendor knows.")
    with pytest.raises(UserError, match=rf"^The rejected record {kept.id} is resolved already: see `acc"):
        resolve_rejected(session, kept.id, "Again.")
    with pytest.raises(
        UserError, match=r"^There is no rejected record 4711: see `accession rejects list --all"
    ):
        resolve_rejected(session, 4711, "Gone.")


# Months


MARCH = PurchaseDate(date(2014, 3, 1), month_only=True)
MARCH_9, MARCH_20 = PurchaseDate(date(2014, 3, 9)), PurchaseDate(date(2014, 3, 20))


def test_a_purchase_of_which_the_month_is_known_gets_its_day_once_that_is_told(
    session: Session, pool: LicensePool
) -> None:
    store_purchase_records(session, MARCH, [record(pool, "a")])
    assert stored(session) == [(MARCH, b"marc of a")]

    store_purchase_records(session, MARCH_9, [record(pool, "a")])
    assert stored(session) == [(MARCH_9, b"marc of a")]

    store_purchase_records(session, MARCH_20, [record(pool, "a")])
    assert stored(session) == [(MARCH_9, b"marc of a"), (MARCH_20, b"marc of a")]


@pytest.mark.parametrize("days", [[FIRST], [MARCH_9], [MARCH_20, MARCH_9]])
def test_a_month_adds_nothing_to_the_days_that_are_known_of_it(
    session: Session, pool: LicensePool, days: list[PurchaseDate]
) -> None:
    for day in days:
        store_purchase_records(session, day, [record(pool, "a")])
    before = stored(session)

    with statements_of(engine()) as sent:
        store_purchase_records(session, MARCH, [record(pool, "a")])

    assert [statement[:6] for statement in sent] == ["SELECT"]
    assert stored(session) == before


def test_what_a_month_tells_anew_of_a_purchase_is_stored_under_its_day(
    session: Session, pool: LicensePool
) -> None:
    store_purchase_records(session, MARCH_9, [record(pool, "a")])
    store_purchase_records(session, MARCH, [record(pool, "b")])

    assert stored(session) == [(MARCH_9, b"marc of b")]


def test_the_first_of_a_month_may_be_a_day_or_a_month(session: Session, pool: LicensePool) -> None:
    store_purchase_records(session, MARCH, [record(pool, "a")])
    store_purchase_records(session, FIRST, [record(pool, "a")])

    assert stored(session) == [(FIRST, b"marc of a")]


def test_months_do_not_mingle(session: Session, pool: LicensePool) -> None:
    april = PurchaseDate(date(2014, 4, 1), month_only=True)
    last_of_march = PurchaseDate(date(2014, 3, 31))

    for bought in (last_of_march, april, MARCH, last_of_march, april):
        store_purchase_records(session, bought, [record(pool, "a")])

    assert stored(session) == [(last_of_march, b"marc of a"), (april, b"marc of a")]


@pytest.mark.parametrize("told", [(MARCH, MARCH_9, MARCH), (MARCH_9, MARCH, MARCH_9)])
def test_a_rejection_is_kept_once_whether_its_day_is_known_or_its_month(
    session: Session, collection: Collection, told: tuple[PurchaseDate, ...]
) -> None:
    for bought in told:
        keep_rejected(session, collection, bought, [Rejection("It has no id.", "<record/>", "hash")])

    (kept,) = session.scalars(select(RejectedRecord)).all()
    assert PurchaseDate(kept.purchased_on, kept.month_only) == told[0]
