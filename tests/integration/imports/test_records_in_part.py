"""Tests of purchase records with invalid parts: imported without these, with a warning for each."""

from datetime import date

import pytest
from pymarc import MARCReader
from sqlalchemy import select
from sqlalchemy.orm import Session
from structlog.testing import capture_logs

from accession.catalog.search import list_titles, match_titles
from accession.catalog.title_filter import TitleFilter
from accession.catalog.titles import title_views
from accession.db.models import Collection, PurchaseRecord, RejectedRecord
from accession.imports.purchases import BibliothecaPurchaseRecordImporter
from accession.imports.windows import ImportCursor
from tests.fixtures.factories import NOON, day, make_collection
from tests.fixtures.holdings import commit_and_apply
from tests.fixtures.purchases import count_rejected
from tests.fixtures.vendor import NAMESPACE, ScriptedVendor, marc

MAY_1 = day(2024, 5, 1)
NOW = day(2024, 6, 1)


def with_field(record: str, field: str) -> str:
    return record.replace("</marc:record>", f"{field}</marc:record>")


UNCODED = '<marc:datafield tag="500" ind1=" " ind2=" "><marc:subfield>Note</marc:subfield></marc:datafield>'
UNCODED_WARNINGS = [
    "Field 500: a subfield has no code: 'Note' was left out.",
    "Field 500 was left out: it has no valid subfield.",
]


@pytest.mark.parametrize(
    ("record", "warnings"),
    [
        (with_field(marc("abc"), UNCODED), UNCODED_WARNINGS),
        (
            marc("abc").replace('ind1="1"', 'ind1="12"'),
            ["Field 245: '12' is not a valid indicator: it became a blank."],
        ),
        (
            with_field(marc("abc"), '<marc:datafield tag="001"/>'),
            ["A data field cannot have the tag 001: '' was left out."],
        ),
        (marc("abc", "abc"), ["A repeated or blank field 001 was left out: a record has only one."]),
    ],
    ids=["subfield without code", "long indicator", "001 as data field", "same 001 twice"],
)
def test_record_with_invalid_part_is_stored_with_warnings(
    session: Session,
    vendor: ScriptedVendor,
    importer: BibliothecaPurchaseRecordImporter,
    record: str,
    warnings: list[str],
) -> None:
    vendor.add_purchases(MAY_1, "abc")
    vendor.purchases = [(MAY_1, record)]

    with capture_logs() as logs:
        result = importer.import_day(ImportCursor(MAY_1), NOW)
    commit_and_apply(session, result.outbox_ids)

    assert (result.records_stored, result.records_in_part, result.records_rejected) == (1, 1, 0)
    assert [(each["log_level"], each["event"], each["title"], each["warnings"]) for each in logs] == [
        ("warning", "purchase record stored in part", "abc", tuple(warnings))
    ]
    (stored,) = session.scalars(select(PurchaseRecord))
    assert (stored.purchased_on, stored.warnings) == (date(2024, 5, 1), warnings)
    (read,) = MARCReader(stored.marc)
    assert read is not None
    assert (read["001"].data, read["245"]["a"]) == ("abc", "A title")
    (view,) = title_views(session)
    assert (view.title, view.warnings) == ("Title abc", tuple(warnings))


def test_record_in_part_with_new_time_stamps_is_not_rewritten(
    session: Session, vendor: ScriptedVendor, importer: BibliothecaPurchaseRecordImporter
) -> None:
    hashes = set()
    for _ in range(3):
        vendor.purchases = [(MAY_1, with_field(marc("abc"), UNCODED))]
        importer.import_day(ImportCursor(MAY_1), NOW)
        session.commit()
        (stored,) = session.scalars(select(PurchaseRecord))
        hashes.add((stored.content_hash, stored.marc))

    assert len(hashes) == 1


def test_mended_record_loses_its_warnings(
    session: Session, vendor: ScriptedVendor, importer: BibliothecaPurchaseRecordImporter
) -> None:
    vendor.purchases = [(MAY_1, with_field(marc("abc"), UNCODED))]
    importer.import_day(ImportCursor(MAY_1), NOW)
    session.commit()
    vendor.purchases = [(MAY_1, marc("abc"))]
    importer.import_day(ImportCursor(MAY_1), NOW)
    session.commit()

    (stored,) = session.scalars(select(PurchaseRecord))
    assert stored.warnings == []


def test_record_rejected_by_older_version_is_imported_by_retry(
    session: Session,
    collection: Collection,
    vendor: ScriptedVendor,
    importer: BibliothecaPurchaseRecordImporter,
) -> None:
    vendor.add_purchases(MAY_1, "abc")
    raw_xml = with_field(marc("abc"), UNCODED).replace(
        "<marc:record", f'<marc:record xmlns:marc="{NAMESPACE}"'
    )
    rejected = RejectedRecord(
        collection_id=collection.id,
        purchased_on=date(2024, 5, 1),
        workflow="purchases",
        reason="'' is not a valid subfield code, in field 500",
        raw_xml=raw_xml,
        content_hash="hash of an older version",
        created_at=NOON,
    )
    session.add(rejected)
    session.commit()

    result = importer.retry_rejected(rejected)
    commit_and_apply(session, result.outbox_ids)

    assert result.is_resolved
    assert count_rejected(session) == 1
    (view,) = title_views(session)
    assert (view.identifier, view.purchased_on) == ("abc", "2024-05-01")
    assert view.warnings == tuple(UNCODED_WARNINGS)


def test_titles_with_warnings_are_listed_and_counted(
    session: Session,
    collection: Collection,
    vendor: ScriptedVendor,
    importer: BibliothecaPurchaseRecordImporter,
) -> None:
    other = make_collection(session, "Birch")
    vendor.purchases = [(MAY_1, marc("good")), (MAY_1, with_field(marc("part"), UNCODED))]
    importer.import_day(ImportCursor(MAY_1), NOW)
    session.commit()

    def listed(name: str | None) -> list[str]:
        matches = match_titles(session, TitleFilter(collection=name, with_warnings=True))
        return [view.identifier for view in list_titles(session, matches)]

    assert listed(None) == listed(collection.name) == ["part"]
    assert listed(other.name) == []
