"""Tests of hostile text from the vendor: stored as data or rejected, without loss of other records."""

from html import escape
from itertools import chain

import httpx
import pytest
from sqlalchemy import func, select, text
from sqlalchemy.orm import Session

from accession.bibliotheca.errors import BadResponseException
from accession.catalog.titles import TitleView, title_views
from accession.core.workflow import Workflow
from accession.db.models import CirculationEvent, Collection, LicensePool, PurchaseRecord, RejectedRecord
from accession.imports.events import BibliothecaEventImporter
from accession.imports.purchases import BibliothecaPurchaseRecordImporter
from accession.imports.windows import ImportCursor
from accession.runs.ledger import get_or_create_checkpoint
from tests.fixtures.factories import day
from tests.fixtures.holdings import commit_and_apply, title_ids
from tests.fixtures.vendor import ScriptedVendor, event, item, marc, marc_page

MAY_1, NINE = day(2024, 5, 1), day(2024, 5, 1, 9)
NOW = day(2024, 6, 1)

HOSTILE_TEXTS = {
    "SQL injection": "'; DROP TABLE runs; -- \" $1 %s %(x)s {} \\ \\x00 E'\\'",
    "terminal escapes": "\x9b2J\x9d52;c;aGk=\x9c\x85\x7f",
    "direction marks": "\u202egnp.exe\u2066\u200f",
    "forged log line": "\u20282024-05-01T00:00:00Z [error    ] all is lost\u2029",
    "Rich markup": "[red]a[/red] [/] [link=http://x]y[/link] :smile:",
    "HTML": "<script>alert(1)</script><img src=x onerror=alert(1)>\"'&amp;",
    "spreadsheet formula": "=HYPERLINK(\"http://x\"); +1; -1; @SUM(A1)|cmd|' /C calc'!A0",
    "invisible characters": "\ufeff\U000e0001\U0010ffff\ue000\u00ad",
    "letters with unusual case mapping": "İıſßŁ𝄞e\u0301 ŒĐ",
}
UNSTORABLE_CHARACTERS = {
    "NUL": "a&#0;b&amp;#0;c",
    "surrogate": "a&#xD800;b&amp;#xDFFF;c",
    "escape": "a&#27;b&amp;#27;c",
}


# Titles without control characters, tags, and invisible characters that no script needs.
CLEANED_TEXTS = HOSTILE_TEXTS | {
    "terminal escapes": "2J52;c;aGk=",
    "direction marks": "gnp.exe",
    "forged log line": "2024-05-01T00:00:00Z [error ] all is lost",
    "HTML": "<script>alert(1)</script>\"'&",
    "invisible characters": "\U0010ffff\ue000",
}


def titles_by_id(session: Session) -> dict[str, TitleView]:
    return {view.identifier: view for view in title_views(session)}


def count_rows(session: Session, model: type) -> int:
    return session.scalar(select(func.count()).select_from(model)) or 0


def test_hostile_titles_are_stored_as_text(
    session: Session, vendor: ScriptedVendor, importer: BibliothecaPurchaseRecordImporter
) -> None:
    ids = dict(zip(HOSTILE_TEXTS, title_ids(len(HOSTILE_TEXTS)), strict=True))
    vendor.add_purchases(NINE, "good1", *ids.values(), "good2")
    for number, (name, hostile) in enumerate(HOSTILE_TEXTS.items(), start=1):
        vendor.purchases[number] = (NINE, marc(ids[name], title=hostile))
        vendor.items[ids[name]] = item(
            ids[name], title=hostile, Authors=hostile.replace(";", ""), Publisher=hostile
        )

    result = importer.import_day(ImportCursor(MAY_1), NOW)
    commit_and_apply(session, result.outbox_ids)

    records = len(HOSTILE_TEXTS) + 2
    assert (result.records_fetched, result.records_stored, result.records_rejected) == (records, records, 0)
    titles = titles_by_id(session)
    assert [titles[item_id].title for item_id in ("good1", "good2")] == ["Title good1", "Title good2"]
    assert {name: titles[ids[name]].title for name in HOSTILE_TEXTS} == CLEANED_TEXTS
    assert {name: titles[ids[name]].publisher for name in HOSTILE_TEXTS} == CLEANED_TEXTS
    documents = session.scalars(select(PurchaseRecord.marc)).all()
    for hostile in HOSTILE_TEXTS.values():
        assert any(hostile.encode() in document for document in documents)


def test_unstorable_characters_are_removed_from_text(
    session: Session, vendor: ScriptedVendor, importer: BibliothecaPurchaseRecordImporter
) -> None:
    ids = title_ids(len(UNSTORABLE_CHARACTERS))
    vendor.add_purchases(NINE, *ids, "good")
    for number, (item_id, unstorable) in enumerate(zip(ids, UNSTORABLE_CHARACTERS.values(), strict=True)):
        vendor.purchases[number] = (NINE, marc(item_id, title="@").replace("@", unstorable))
        vendor.items[item_id] = item(item_id, title="@", Genre="@", Authors="@").replace("@", unstorable)

    result = importer.import_day(ImportCursor(MAY_1), NOW)
    commit_and_apply(session, result.outbox_ids)

    records = len(ids) + 1
    assert (result.records_fetched, result.records_stored, result.records_rejected) == (records, records, 0)
    assert result.repairs > 0
    titles = titles_by_id(session)
    for item_id in ids:
        title = titles[item_id].title
        assert title is not None
        assert title.startswith("ab")
        assert title.endswith("c")
    assert count_rows(session, PurchaseRecord) == records


def record_with(fields: str, item_id: str = "evil") -> str:
    return marc(item_id).replace("</marc:record>", f"{fields}</marc:record>")


def test_huge_records_are_stored_with_the_others(
    session: Session, vendor: ScriptedVendor, importer: BibliothecaPurchaseRecordImporter
) -> None:
    field = '<marc:datafield tag="500"><marc:subfield code="a">x</marc:subfield></marc:datafield>'
    attributes = " ".join(f'a{number:x}=""' for number in range(50_000))
    vendor.add_purchases(NINE, "good1", "many-fields", "long-field", "many-attributes", "good2")
    vendor.purchases[1:4] = [
        (NINE, record_with(field * 10_000, "many-fields")),
        (NINE, marc("long-field", title="x" * 9_900_000)),
        (NINE, marc("many-attributes").replace("<marc:record>", f"<marc:record {attributes}>")),
    ]

    result = importer.import_day(ImportCursor(MAY_1), NOW)
    session.commit()

    assert (result.records_fetched, result.records_stored, result.records_rejected) == (5, 5, 0)
    assert count_rows(session, PurchaseRecord) == 5


INVALID_FIELDS = {
    "tag": '<marc:datafield tag="@"/>',
    "indicator": '<marc:datafield tag="245" ind1="@"/>',
    "subfield code": '<marc:datafield tag="245"><marc:subfield code="@"/></marc:datafield>',
    "second id": '<marc:controlfield tag="001">@</marc:controlfield>',
    "relative namespace": '<marc:datafield tag="@"/><x xmlns="relative" y="@"/>',
    "many attributes": '<marc:datafield tag=""/><x ' + " ".join(f'a{n:x}="@"' for n in range(300)) + "/>",
}


def test_reasons_and_warnings_of_hostile_text_are_printable(
    session: Session, vendor: ScriptedVendor, importer: BibliothecaPurchaseRecordImporter
) -> None:
    hostile = "".join(HOSTILE_TEXTS.values()).replace("\u2028", "") + "x" * 500
    vendor.add_purchases(NINE, "good1", "good2")
    vendor.purchases[1:1] = [
        (NINE, record_with(field.replace("@", escape(hostile)), f"evil{number}"))
        for number, field in enumerate(INVALID_FIELDS.values())
    ]

    result = importer.import_day(ImportCursor(MAY_1), NOW)
    session.commit()

    in_part = len(INVALID_FIELDS) - 1
    assert (result.records_stored, result.records_in_part, result.records_rejected) == (
        2 + in_part,
        in_part,
        1,
    )
    (rejected,) = session.scalars(select(RejectedRecord))
    assert "DROP TABLE runs" in rejected.raw_xml
    lists = [warnings for warnings in session.scalars(select(PurchaseRecord.warnings)) if warnings]
    assert len(lists) == in_part
    for sentence in (rejected.reason, *chain.from_iterable(lists)):
        assert sentence.isprintable()
        assert len(sentence) < 400
    assert session.scalar(text("SELECT to_regclass('runs')")) == "runs"


@pytest.mark.parametrize(
    "document",
    [
        '<!DOCTYPE x [<!ENTITY e "x">]>@',
        '<?xml version="1.0"?><!DOCTYPE x SYSTEM "file:///etc/passwd">@',
        "@<",
        "<x:@",
    ],
    ids=["entity declaration", "external DTD", "trailing markup", "leading markup"],
)
def test_malformed_page_does_not_move_the_checkpoint(
    session: Session,
    collection: Collection,
    vendor: ScriptedVendor,
    importer: BibliothecaPurchaseRecordImporter,
    document: str,
) -> None:
    vendor.add_purchases(NINE, "good")
    body = document.replace("@", marc_page([marc("good")]))
    vendor.responses.append(httpx.Response(200, text=body))

    with pytest.raises(BadResponseException) as raised:
        importer.import_day(ImportCursor(MAY_1), NOW)
    session.rollback()

    assert str(raised.value).isprintable()
    assert get_or_create_checkpoint(session, collection, Workflow.PURCHASES).finish is None
    assert importer.import_day(ImportCursor(MAY_1), NOW).records_stored == 1


# Events


def test_hostile_events_are_stored_and_others_are_counted(
    session: Session, vendor: ScriptedVendor, event_importer: BibliothecaEventImporter
) -> None:
    """Hostile event ids and types are data; a hostile title id makes the event invalid."""
    vendor.items["good"] = item("good", owned=2, available=2)
    checkout = vendor.add_event(NINE, "CHECKOUT", "good")
    for hostile in HOSTILE_TEXTS.values():
        vendor.add_event(NINE, hostile, "good", EventId=hostile)
        vendor.add_event(NINE, "CHECKOUT", hostile, EventId="odd")
    hold = vendor.add_event(NINE, "HOLD", "good")

    result = event_importer.import_time_slice(NINE, NOW)
    session.commit()

    hostile_events = len(HOSTILE_TEXTS)
    assert (result.events_stored, result.events_rejected) == (hostile_events + 2, hostile_events)
    types_by_id = {row.event_id: row.event_type for row in session.scalars(select(CirculationEvent))}
    ids = [" ".join(hostile.replace("&amp;", "&").split()) for hostile in HOSTILE_TEXTS.values()]
    hostile_types = {event_id: event_id.upper() for event_id in ids}
    assert types_by_id == {checkout: "CHECKOUT", **hostile_types, hold: "HOLD"}
    records = session.scalars(select(RejectedRecord)).all()
    assert len(records) == hostile_events
    assert all(record.reason.isprintable() for record in records)
    assert count_rows(session, LicensePool) == 1


def test_huge_event_is_stored_or_rejected(
    session: Session, vendor: ScriptedVendor, event_importer: BibliothecaEventImporter
) -> None:
    vendor.items["good"] = item("good")
    vendor.events += [
        (NINE, event("x" * 4_000_000, "y" * 4_000_000, "good", NINE)),
        (NINE, event("no-moment", "CHECKOUT", "good", NINE, EventStartDateTimeInUTC="z" * 4_000_000)),
        (NINE, event("a&#0;b", "HOLD", "good", NINE).replace("&amp;", "&")),
    ]

    result = event_importer.import_time_slice(NINE, NOW)
    session.commit()

    assert (result.events_fetched, result.events_stored, result.events_rejected) == (3, 2, 1)
    assert set(session.scalars(select(CirculationEvent.event_id))) == {"x" * 300, "ab"}
    assert len(session.scalars(select(RejectedRecord)).one().raw_xml) > 4_000_000
