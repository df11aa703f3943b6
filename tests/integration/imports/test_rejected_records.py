"""Records that cannot be used: kept with the reason, once, and tried again when someone asks."""

from datetime import date

import httpx
import pytest
import time_machine
from sqlalchemy import select
from sqlalchemy.orm import Session
from structlog.testing import capture_logs

from accession.bibliotheca.errors import BadResponseException
from accession.catalog.apply import apply_outbox
from accession.catalog.titles import title_views
from accession.core.workflow import Workflow
from accession.db.models import Collection, LicensePool, RejectedRecord
from accession.imports.purchases import BibliothecaPurchaseRecordImporter
from accession.imports.windows import Place
from accession.runs.ledger import timestamp
from tests.fixtures.factories import NOON, day
from tests.fixtures.vendor import Vendor, marc

MAY_1, MAY_2 = day(2024, 5, 1), day(2024, 5, 2)
LATER = day(2024, 6, 1)


def rejected(session: Session) -> list[RejectedRecord]:
    return list(session.scalars(select(RejectedRecord).order_by(RejectedRecord.id)))


def broken(item_id: str, title: str = "A title") -> str:
    """A record in which a field has lost its tag."""
    return marc(item_id, title=title).replace('tag="245"', 'tag=""')


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        (marc(), "It has no title identifier (001)."),
        (marc(" "), "It has no title identifier (001)."),
        (marc("abc", "abd"), "It has 2 title identifiers (001): abc, abd."),
        (marc("abc", "abc"), "It has 2 title identifiers (001): abc, abc."),
        (marc("a/b"), "Its title identifier (001) is not one the vendor can be asked for: 'a/b'."),
        (marc("x" * 33), f"Its title identifier (001) is not one the vendor can be asked for: '{'x' * 33}'."),
        (broken("abc"), "'' is not the tag of a field"),
    ],
)
def test_a_record_that_cannot_be_used_is_kept_and_logged_and_the_page_goes_on(
    session: Session,
    collection: Collection,
    vendor: Vendor,
    importer: BibliothecaPurchaseRecordImporter,
    record: str,
    reason: str,
) -> None:
    vendor.sells(day(2024, 5, 1, 9), "good1")
    vendor.sold.append((day(2024, 5, 1, 9), record))
    vendor.sells(day(2024, 5, 1, 9), "good2")

    with capture_logs() as logs:
        result = importer.import_page(Place(MAY_1), LATER)
    session.commit()

    assert (result.records_fetched, result.records_rejected, result.titles_new) == (3, 1, 2)
    assert vendor.item_requests() == [["good1", "good2"]]
    (kept,) = rejected(session)
    assert (kept.collection_id, kept.purchased_on, kept.reason) == (collection.id, date(2024, 5, 1), reason)
    assert kept.raw_xml.startswith("<marc:record ")
    assert "A title" in kept.raw_xml
    assert kept.resolved_at is None
    assert [(line["log_level"], line["event"], line["reason"]) for line in logs] == [
        ("error", "purchase record rejected", reason)
    ]
    assert timestamp(session, collection, Workflow.PURCHASES).finish == MAY_2


@pytest.mark.parametrize("make", [lambda: marc(), lambda: marc("abc", "abd"), lambda: broken("abc")])
def test_a_record_sent_again_under_new_stamps_is_kept_once(
    session: Session, vendor: Vendor, importer: BibliothecaPurchaseRecordImporter, make: object
) -> None:
    assert callable(make)
    sent = set()
    for _ in range(3):
        sent.add(record := make())
        vendor.sold = [(MAY_1, record), (MAY_1, record)]
        assert importer.import_page(Place(MAY_1), LATER).records_rejected == 2
        session.commit()

    assert len(sent) == 3
    assert len(rejected(session)) == 1


def test_records_that_say_different_things_are_kept_apart(
    session: Session, vendor: Vendor, importer: BibliothecaPurchaseRecordImporter
) -> None:
    vendor.sold = [
        (MAY_1, marc(title="One")),
        (MAY_1, marc(title="Two")),
        (MAY_1, broken("abc", "One")),
        (MAY_1, broken("abc", "Two")),
    ]

    importer.import_page(Place(MAY_1), LATER)

    assert len(rejected(session)) == 4


def test_a_record_that_is_still_unusable_stays_with_the_reason_of_now(
    session: Session, vendor: Vendor, importer: BibliothecaPurchaseRecordImporter
) -> None:
    vendor.sold = [(MAY_1, marc())]
    importer.import_page(Place(MAY_1), LATER)
    (kept,) = rejected(session)
    kept.reason = "what an older version said"
    session.commit()

    assert importer.retry_rejected(kept) is None
    session.commit()

    assert (kept.reason, kept.resolved_at) == ("It has no title identifier (001).", None)
    assert importer.retry_rejected(kept) is None
    assert not session.dirty
    assert session.scalars(select(LicensePool)).all() == []


def test_kept_text_that_is_no_xml_stays_with_a_reason(
    session: Session, collection: Collection, importer: BibliothecaPurchaseRecordImporter
) -> None:
    kept = RejectedRecord(
        collection_id=collection.id,
        purchased_on=date(2024, 5, 1),
        reason="x",
        raw_xml="<marc:record",
        content_hash="x",
        created_at=NOON,
    )
    session.add(kept)

    assert importer.retry_rejected(kept) is None
    assert "malformed or truncated XML" in kept.reason


def test_a_record_that_is_usable_now_passes_under_the_day_it_came_in(
    session: Session, collection: Collection, vendor: Vendor, importer: BibliothecaPurchaseRecordImporter
) -> None:
    vendor.sells(MAY_1, "abc")
    vendor.sold = [(MAY_1, broken("abc"))]
    importer.import_page(Place(MAY_1), LATER)
    importer.import_page(Place(day(2024, 5, 2)), LATER)
    session.commit()
    (kept,) = rejected(session)
    kept.raw_xml = kept.raw_xml.replace('tag=""', 'tag="245"')

    with time_machine.travel(NOON, tick=False):
        outbox_ids = importer.retry_rejected(kept)
    session.commit()

    assert outbox_ids is not None
    assert kept.resolved_at == NOON
    apply_outbox(session, outbox_ids)
    (view,) = title_views(session)
    assert (view.identifier, view.title, view.purchased_on) == ("abc", "Title abc", "2024-05-01")
    assert timestamp(session, collection, Workflow.PURCHASES).finish == day(2024, 5, 3)


def test_a_record_that_passes_with_nothing_to_apply_is_resolved_all_the_same(
    session: Session, vendor: Vendor, importer: BibliothecaPurchaseRecordImporter
) -> None:
    vendor.sold = [(MAY_1, broken("abc"))]
    importer.import_page(Place(MAY_1), LATER)
    (kept,) = rejected(session)
    kept.raw_xml = kept.raw_xml.replace('tag=""', 'tag="245"')

    assert importer.retry_rejected(kept) == ()
    assert kept.resolved_at is not None


def test_a_vendor_fault_leaves_the_record_as_it_was(
    session: Session, vendor: Vendor, importer: BibliothecaPurchaseRecordImporter
) -> None:
    vendor.sold = [(MAY_1, broken("abc"))]
    importer.import_page(Place(MAY_1), LATER)
    (kept,) = rejected(session)
    kept.raw_xml = kept.raw_xml.replace('tag=""', 'tag="245"')
    session.commit()
    vendor.answers.append(httpx.Response(502))

    with pytest.raises(BadResponseException):
        importer.retry_rejected(kept)
    session.commit()

    assert kept.resolved_at is None
    assert session.scalars(select(LicensePool)).all() == []
