"""Rejected records: stored once, listed, and resolved with a note."""

from datetime import date
from typing import Any

import pytest
import time_machine
from sqlalchemy import select, text
from sqlalchemy.orm import Session

from accession.accounts.collections import mark_for_deletion
from accession.catalog.purchase_dates import PurchaseDate
from accession.catalog.rejected_records import (
    RejectedRecordData,
    find_rejected_record,
    open_rejected_record_ids,
    open_rejection_reasons,
    rejected_record_views,
    resolve_rejected_record,
    resolve_rejected_records,
    store_rejected_records,
)
from accession.core.errors import NotFound, UserError
from accession.db.models import Collection, RejectedRecord
from tests.fixtures.factories import NOON, make_collection

MARCH_1, MAY_2 = PurchaseDate(date(2014, 3, 1)), PurchaseDate(date(2016, 5, 2))
MARCH, MARCH_9 = PurchaseDate(date(2014, 3, 1), month_only=True), PurchaseDate(date(2014, 3, 9))
WITHOUT_ID = RejectedRecordData("It has no title identifier (001).", "<record/>", "hash")


def test_rejected_record_is_stored_once_per_date_and_collection(
    session: Session, collection: Collection
) -> None:
    other = make_collection(session, "Birch Library")

    for _ in range(2):
        store_rejected_records(session, collection, MARCH_1, [WITHOUT_ID, WITHOUT_ID])
        store_rejected_records(session, collection, MAY_2, [WITHOUT_ID])
        store_rejected_records(session, other, MARCH_1, [WITHOUT_ID])

    stored = session.scalars(select(RejectedRecord).order_by(RejectedRecord.id)).all()
    assert [(row.collection_id, PurchaseDate(row.purchased_on, row.month_only)) for row in stored] == [
        (collection.id, MARCH_1),
        (collection.id, MAY_2),
        (other.id, MARCH_1),
    ]
    assert {(row.reason, row.raw_xml, row.resolved_at) for row in stored} == {
        ("It has no title identifier (001).", "<record/>", None)
    }


@pytest.mark.parametrize("dates", [(MARCH, MARCH_9, MARCH), (MARCH_9, MARCH, MARCH_9)])
def test_rejected_record_is_stored_once_by_day_or_month(
    session: Session, collection: Collection, dates: tuple[PurchaseDate, ...]
) -> None:
    for purchase_date in dates:
        store_rejected_records(session, collection, purchase_date, [WITHOUT_ID])

    (stored,) = session.scalars(select(RejectedRecord)).all()
    assert PurchaseDate(stored.purchased_on, stored.month_only) == dates[0]


def test_empty_list_of_rejected_records_stores_nothing(session: Session, collection: Collection) -> None:
    store_rejected_records(session, collection, MARCH_1, [])

    assert session.scalars(select(RejectedRecord)).all() == []


def test_rejected_record_is_resolved_once_with_its_note(session: Session, collection: Collection) -> None:
    store_rejected_records(session, collection, MARCH_1, [WITHOUT_ID])
    stored = session.scalars(select(RejectedRecord)).one()

    with time_machine.travel(NOON, tick=False):
        resolve_rejected_record(session, stored.id, "The vendor knows\0. ")

    assert (stored.resolved_at, stored.note) == (NOON, "The vendor knows.")
    with pytest.raises(UserError, match=rf"^The rejected record {stored.id} is already resolved: see `acc"):
        resolve_rejected_record(session, stored.id, "Again.")
    with pytest.raises(
        UserError, match=r"^There is no rejected record 4711: see `accession rejects list --all"
    ):
        resolve_rejected_record(session, 4711, "Unknown.")


def test_rejected_records_are_listed_oldest_first(session: Session, collection: Collection) -> None:
    other = make_collection(session, "Birch Library")
    with time_machine.travel(NOON, tick=False):
        for owner, reason, day in (
            (collection, "one", date(2016, 5, 1)),
            (other, "two", date(2014, 1, 1)),
            (collection, "three", date(2015, 1, 1)),
        ):
            record = RejectedRecordData(reason, "<record/>", reason)
            store_rejected_records(session, owner, PurchaseDate(day), [record])
    session.execute(text("UPDATE rejected_records SET resolved_at = created_at WHERE reason = 'one'"))

    def reasons(**arguments: object) -> list[str]:
        return [view.reason for view in rejected_record_views(session, **arguments)]  # type: ignore[arg-type]

    assert reasons() == ["two", "three"]
    assert reasons(with_resolved=True) == ["one", "two", "three"]
    assert reasons(collection="Alder Library") == ["three"]
    assert reasons(with_resolved=True, limit=2) == ["one", "two"]
    assert reasons(with_resolved=True, limit=2, offset=1) == ["two", "three"]
    (first, *_) = rejected_record_views(session, with_resolved=True)
    assert (first.collection, first.purchased_on) == ("Alder Library", "2016-05-01")
    assert first.created_at == first.resolved_at == NOON


def test_rejected_records_of_deleted_collection_are_not_found(
    session: Session, collection: Collection
) -> None:
    """A new collection may have the name of the deleted one."""
    other = make_collection(session, "Birch Library")
    for owner in (collection, other):
        store_rejected_records(session, owner, MARCH_1, [WITHOUT_ID])
    record_id, _ = session.scalars(select(RejectedRecord.id).order_by(RejectedRecord.id)).all()
    assert find_rejected_record(session, record_id) == (rejected_record_views(session)[0], "<record/>")

    mark_for_deletion(collection)
    session.commit()

    assert [view.collection for view in rejected_record_views(session)] == ["Birch Library"]
    with pytest.raises(NotFound, match=f"There is no rejected record {record_id}"):
        find_rejected_record(session, record_id)
    with pytest.raises(NotFound, match=f"There is no rejected record {record_id}"):
        resolve_rejected_record(session, record_id, "Too late.")


def reject_for(session: Session, collection: Collection, *reasons: str) -> None:
    records = [RejectedRecordData(reason, "<record/>", f"hash {n}") for n, reason in enumerate(reasons)]
    store_rejected_records(session, collection, MARCH_1, records)
    session.commit()


TWO_IDS = "It has 2 title identifiers (001): {}."
INVALID_ID = "Its title identifier (001) is invalid: {!r}."


def test_reasons_are_grouped_without_quoted_values(session: Session, collection: Collection) -> None:
    reject_for(
        session, collection, INVALID_ID.format("a/b"), TWO_IDS.format("a, b"), TWO_IDS.format("c, it's")
    )

    reasons = open_rejection_reasons(session)

    assert [(each.reason, each.records, each.last_id) for each in reasons] == [
        ("It has 2 title identifiers (001): …", 2, 3),
        ("Its title identifier (001) is invalid: ….", 1, 1),
    ]


def test_reasons_are_those_of_open_records_of_a_collection(session: Session, collection: Collection) -> None:
    other = make_collection(session, "Birch Library")
    reject_for(session, collection, "one", "two", "two")
    reject_for(session, other, "three")
    resolve_rejected_record(session, 1, "Withdrawn.")

    assert [each.reason for each in open_rejection_reasons(session, collection="Alder Library")] == ["two"]
    assert {each.reason for each in open_rejection_reasons(session)} == {"two", "three"}


def test_open_records_are_selected_by_reason_and_number(session: Session, collection: Collection) -> None:
    reject_for(session, collection, "one", "two", "two", "two")

    def select_ids(**options: Any) -> list[int]:
        return open_rejected_record_ids(session, **options)

    assert select_ids() == [1, 2, 3, 4]
    assert select_ids(reason="two", last_id=3) == [2, 3]
    assert select_ids(collection="Birch Library") == []


def test_many_records_are_resolved_once(session: Session, collection: Collection) -> None:
    reject_for(session, collection, "one", "two", "two")
    resolve_rejected_record(session, 2, "Earlier.")

    assert resolve_rejected_records(session, [1, 2], "Withdrawn.") == 1

    session.expire_all()
    notes = {view.id: view.note for view in rejected_record_views(session, with_resolved=True)}
    assert notes == {1: "Withdrawn.", 2: "Earlier.", 3: None}
