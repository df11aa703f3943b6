"""Differences between a rejected record and the stored record of its title."""

from datetime import date

import pytest
from sqlalchemy.orm import Session

from accession.bibliotheca.marc import marc_record_from_xml
from accession.catalog.purchase_dates import PurchaseDate
from accession.catalog.purchase_records import PurchaseRecordData, store_purchase_records
from accession.catalog.record_diff import RecordDiff, diff_with_stored_record
from accession.catalog.rejected_records import RejectedRecordData, store_rejected_records
from accession.core.workflow import Workflow
from accession.db.models import Collection
from tests.fixtures.factories import make_collection, make_pool
from tests.fixtures.vendor import raw_record

STORED_ON = PurchaseDate(date(2024, 5, 1))


def store_record(session: Session, collection: Collection, day: int, title: str) -> None:
    pool = make_pool(session, collection, "abc")
    record = marc_record_from_xml(raw_record("abc", title=title))
    data = PurchaseRecordData(pool, record.as_marc21, record.content_hash())
    store_purchase_records(session, {PurchaseDate(date(2024, 5, day)): [data]})


def reject(
    session: Session, collection: Collection, raw_xml: str, workflow: Workflow = Workflow.PURCHASES
) -> None:
    record = RejectedRecordData("It is invalid.", raw_xml, "hash")
    store_rejected_records(session, collection, STORED_ON, [record], workflow)


def changes(diff: RecordDiff | None) -> set[tuple[str, str]]:
    assert diff is not None
    return {(line.change, line.text) for line in diff.lines if line.change != "same"}


def test_record_is_compared_with_the_latest_of_its_title(session: Session, collection: Collection) -> None:
    store_record(session, collection, 1, "Earlier")
    store_record(session, collection, 2, "Solaris")
    reject(session, collection, raw_record("abc", "abd", title="Solaris & Eden"))

    diff = diff_with_stored_record(session, 1)

    assert diff is not None
    assert (diff.identifier, diff.purchased_on) == ("abc", "2024-05-02")
    assert changes(diff) == {
        ("added", "001 abd"),
        ("removed", "245 10 $aSolaris"),
        ("added", "245 10 $aSolaris & Eden"),
    }
    assert any(line.text == "001 abc" for line in diff.lines if line.change == "same")


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ('controlfield tag="001"', 'datafield tag="001"'),
        ("</marc:record>", ""),
        ("marc:", ""),
    ],
    ids=["001 as data field", "malformed", "no prefix"],
)
def test_title_is_found_in_an_invalid_record(
    session: Session, collection: Collection, before: str, after: str
) -> None:
    store_record(session, collection, 1, "Solaris")
    raw_xml = raw_record("abc", title="Solaris")
    assert before in raw_xml
    reject(session, collection, raw_xml.replace(before, after))

    diff = diff_with_stored_record(session, 1)

    assert diff is not None
    assert "245 10 $aSolaris" in {line.text for line in diff.lines if line.change == "same"}


def test_record_of_unknown_title_has_no_diff(session: Session, collection: Collection) -> None:
    store_record(session, make_collection(session, "Birch Library"), 1, "Solaris")
    reject(session, collection, raw_record("abc"))

    assert diff_with_stored_record(session, 1) is None


def test_record_without_identifier_has_no_diff(session: Session, collection: Collection) -> None:
    store_record(session, collection, 1, "Solaris")
    reject(session, collection, raw_record())

    assert diff_with_stored_record(session, 1) is None


def test_event_has_no_diff(session: Session, collection: Collection) -> None:
    store_record(session, collection, 1, "Solaris")
    reject(session, collection, raw_record("abc"), Workflow.EVENTS)

    assert diff_with_stored_record(session, 1) is None
