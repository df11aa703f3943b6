"""Tests of rejected purchase records: stored once with a reason, and imported again on request."""

from collections.abc import Callable
from datetime import date

import httpx
import pytest
import time_machine
from sqlalchemy import select
from sqlalchemy.orm import Session
from structlog.testing import capture_logs

from accession.bibliotheca.errors import BadResponseException
from accession.catalog.titles import title_views
from accession.core.workflow import Workflow
from accession.db.models import Collection, LicensePool, RejectedRecord
from accession.imports.purchases import BibliothecaPurchaseRecordImporter
from accession.imports.rejected_records import RetryResult
from accession.imports.windows import ImportCursor
from accession.runs.ledger import get_or_create_checkpoint
from tests.fixtures.factories import NOON, day
from tests.fixtures.holdings import commit_and_apply
from tests.fixtures.vendor import ScriptedVendor, marc

MAY_1, MAY_2, MAY_3 = day(2024, 5, 1), day(2024, 5, 2), day(2024, 5, 3)
NOW = day(2024, 6, 1)
STILL_OPEN = RetryResult(is_resolved=False)


def rejected_records(session: Session) -> list[RejectedRecord]:
    return list(session.scalars(select(RejectedRecord).order_by(RejectedRecord.id)))


def id_in_data_field(item_id: str, title: str = "A title") -> str:
    """Return a record whose only 001 is a data field."""
    return marc(item_id, title=title).replace("controlfield", "datafield", 2)


def repair(record: RejectedRecord) -> None:
    """Restore the 001 of a stored record, as if a newer version could read it."""
    record.raw_xml = record.raw_xml.replace("datafield", "controlfield", 2)


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        (marc(), "It has no title identifier (001)."),
        (marc(" "), "It has no title identifier (001)."),
        (marc("abc", "abd"), "It has 2 title identifiers (001): abc, abd."),
        (marc("abc", "abc", "abd"), "It has 3 title identifiers (001): abc, abc, abd."),
        (marc("a/b"), "Its title identifier (001) is invalid: 'a/b'."),
        (marc("x" * 33), f"Its title identifier (001) is invalid: '{'x' * 33}'."),
        (
            id_in_data_field("abc"),
            "It has no title identifier (001). A data field cannot have the tag 001: '' was left out.",
        ),
        (
            "<marc:record><marc:datafield><marc:subfield>A title</marc:subfield></marc:datafield>"
            "</marc:record>",
            "the record has no valid fields. A field has no tag: 'A title' was left out.",
        ),
    ],
    ids=[
        "no 001",
        "blank 001",
        "two 001",
        "three 001",
        "slash in 001",
        "long 001",
        "001 as data field",
        "no valid field",
    ],
)
def test_invalid_record_is_rejected_and_others_are_stored(
    session: Session,
    collection: Collection,
    vendor: ScriptedVendor,
    importer: BibliothecaPurchaseRecordImporter,
    record: str,
    reason: str,
) -> None:
    vendor.add_purchases(day(2024, 5, 1, 9), "good1")
    vendor.purchases.append((day(2024, 5, 1, 9), record))
    vendor.add_purchases(day(2024, 5, 1, 9), "good2")

    with capture_logs() as logs:
        result = importer.import_day(ImportCursor(MAY_1), NOW)
    session.commit()

    assert (result.records_fetched, result.records_rejected, result.titles_new) == (3, 1, 2)
    assert vendor.item_requests() == [["good1", "good2"]]
    (rejected,) = rejected_records(session)
    assert (rejected.collection_id, rejected.purchased_on) == (collection.id, date(2024, 5, 1))
    assert rejected.reason == reason
    assert rejected.raw_xml.startswith("<marc:record ")
    assert "A title" in rejected.raw_xml
    assert rejected.resolved_at is None
    assert [(entry["log_level"], entry["event"], entry["reason"]) for entry in logs] == [
        ("error", "purchase record rejected", reason)
    ]
    assert get_or_create_checkpoint(session, collection, Workflow.PURCHASES).finish == MAY_2


@pytest.mark.parametrize(
    "make_record",
    [lambda: marc(), lambda: marc("abc", "abd"), lambda: id_in_data_field("abc")],
    ids=["no 001", "two 001", "001 as data field"],
)
def test_rejected_record_with_new_time_stamps_is_stored_once(
    session: Session,
    vendor: ScriptedVendor,
    importer: BibliothecaPurchaseRecordImporter,
    make_record: Callable[[], str],
) -> None:
    """The vendor renews the time stamps of its records in every response."""
    records = {make_record() for _ in range(3)}
    for record in records:
        vendor.purchases = [(MAY_1, record), (MAY_1, record)]
        assert importer.import_day(ImportCursor(MAY_1), NOW).records_rejected == 2
        session.commit()

    assert len(records) == 3
    assert len(rejected_records(session)) == 1


def test_rejected_records_with_other_content_are_all_stored(
    session: Session, vendor: ScriptedVendor, importer: BibliothecaPurchaseRecordImporter
) -> None:
    vendor.purchases = [
        (MAY_1, marc(title="One")),
        (MAY_1, marc(title="Two")),
        (MAY_1, id_in_data_field("abc", "One")),
        (MAY_1, id_in_data_field("abc", "Two")),
    ]

    importer.import_day(ImportCursor(MAY_1), NOW)

    assert len(rejected_records(session)) == 4


def test_retry_of_invalid_record_updates_its_reason(
    session: Session, vendor: ScriptedVendor, importer: BibliothecaPurchaseRecordImporter
) -> None:
    vendor.purchases = [(MAY_1, marc())]
    importer.import_day(ImportCursor(MAY_1), NOW)
    (rejected,) = rejected_records(session)
    rejected.reason = "A reason given by an older version."
    session.commit()

    assert importer.retry_rejected(rejected) == STILL_OPEN
    session.commit()

    assert (rejected.reason, rejected.resolved_at) == ("It has no title identifier (001).", None)
    assert importer.retry_rejected(rejected) == STILL_OPEN
    assert not session.dirty
    assert session.scalars(select(LicensePool)).all() == []


def test_retry_of_malformed_xml_leaves_the_record_open(
    session: Session, collection: Collection, importer: BibliothecaPurchaseRecordImporter
) -> None:
    rejected = RejectedRecord(
        collection_id=collection.id,
        purchased_on=date(2024, 5, 1),
        reason="x",
        raw_xml="<marc:record",
        content_hash="x",
        created_at=NOON,
    )
    session.add(rejected)

    assert importer.retry_rejected(rejected) == STILL_OPEN
    assert "malformed or truncated XML" in rejected.reason


def test_retry_of_repaired_record_stores_its_original_date(
    session: Session,
    collection: Collection,
    vendor: ScriptedVendor,
    importer: BibliothecaPurchaseRecordImporter,
) -> None:
    vendor.add_purchases(MAY_1, "abc")
    vendor.purchases = [(MAY_1, id_in_data_field("abc"))]
    importer.import_day(ImportCursor(MAY_1), NOW)
    importer.import_day(ImportCursor(MAY_2), NOW)
    session.commit()
    (rejected,) = rejected_records(session)
    repair(rejected)

    with time_machine.travel(NOON, tick=False):
        result = importer.retry_rejected(rejected)

    assert result.is_resolved
    assert rejected.resolved_at == NOON
    commit_and_apply(session, result.outbox_ids)
    (view,) = title_views(session)
    assert (view.identifier, view.title, view.purchased_on) == ("abc", "Title abc", "2024-05-01")
    assert get_or_create_checkpoint(session, collection, Workflow.PURCHASES).finish == MAY_3


def test_retry_resolves_a_record_without_changes_to_apply(
    session: Session, vendor: ScriptedVendor, importer: BibliothecaPurchaseRecordImporter
) -> None:
    """The vendor has no metadata for the title."""
    vendor.purchases = [(MAY_1, id_in_data_field("abc"))]
    importer.import_day(ImportCursor(MAY_1), NOW)
    (rejected,) = rejected_records(session)
    repair(rejected)

    assert importer.retry_rejected(rejected) == RetryResult(is_resolved=True, outbox_ids=())
    assert rejected.resolved_at is not None


def test_retry_during_a_vendor_failure_leaves_the_record_open(
    session: Session, vendor: ScriptedVendor, importer: BibliothecaPurchaseRecordImporter
) -> None:
    vendor.purchases = [(MAY_1, id_in_data_field("abc"))]
    importer.import_day(ImportCursor(MAY_1), NOW)
    (rejected,) = rejected_records(session)
    repair(rejected)
    session.commit()
    vendor.responses.append(httpx.Response(502))

    with pytest.raises(BadResponseException):
        importer.retry_rejected(rejected)
    session.commit()

    assert rejected.resolved_at is None
    assert session.scalars(select(LicensePool)).all() == []
