"""Text made to harm: stored as the data it is, or kept as rejected, and nothing beside it is lost."""

from collections.abc import Callable
from html import escape

import httpx
import pytest
from sqlalchemy import func, select, text
from sqlalchemy.orm import Session

from accession.bibliotheca.errors import BadResponseException
from accession.catalog.apply import apply_outbox
from accession.catalog.titles import TitleView, title_views
from accession.core.workflow import Workflow
from accession.db.models import CirculationEvent, Collection, LicensePool, PurchaseRecord, RejectedRecord
from accession.imports.events import BibliothecaEventImporter
from accession.imports.purchases import BibliothecaPurchaseRecordImporter
from accession.imports.windows import Place
from accession.runs.ledger import timestamp
from tests.fixtures.factories import day
from tests.fixtures.vendor import Vendor, event, item, marc, marc_page

MAY_1, NINE = day(2024, 5, 1), day(2024, 5, 1, 9)
LATER = day(2024, 6, 1)

HOSTILE = {
    "SQL": "'; DROP TABLE runs; -- \" $1 %s %(x)s {} \\ \\x00 E'\\'",
    "a terminal": "\x9b2J\x9d52;c;aGk=\x9c\x85\x7f",
    "direction marks": "\u202egnp.exe\u2066\u200f",
    "another log line": "\u20282024-05-01T00:00:00Z [error    ] all is lost\u2029",
    "markup of tables": "[red]a[/red] [/] [link=http://x]y[/link] :smile:",
    "HTML": "<script>alert(1)</script><img src=x onerror=alert(1)>\"'&amp;",
    "a formula": "=HYPERLINK(\"http://x\"); +1; -1; @SUM(A1)|cmd|' /C calc'!A0",
    "no character": "\ufeff\U000e0001\U0010ffff\ue000\u00ad",
    "strange letters": "İıſßŁ𝄞e\u0301 ŒĐ",
}
SAID_TWICE = {
    "NUL": "a&#0;b&amp;#0;c",
    "a surrogate": "a&#xD800;b&amp;#xDFFF;c",
    "an escape": "a&#27;b&amp;#27;c",
}


def stored_titles(session: Session) -> dict[str, TitleView]:
    return {view.identifier: view for view in title_views(session)}


def counted(session: Session, model: type) -> int:
    return session.scalar(select(func.count()).select_from(model)) or 0


@pytest.mark.parametrize("hostile", HOSTILE)
def test_a_title_is_stored_as_it_says(
    session: Session, vendor: Vendor, importer: BibliothecaPurchaseRecordImporter, hostile: str
) -> None:
    said = HOSTILE[hostile]
    vendor.sells(NINE, "good1", "evil", "good2")
    vendor.sold[1] = (NINE, marc("evil", title=said))
    vendor.items["evil"] = item("evil", title=said, Authors=said.replace(";", ""), Publisher=said)

    result = importer.import_page(Place(MAY_1), LATER)
    session.commit()
    apply_outbox(session, result.outbox_ids)
    session.commit()

    assert (result.records_fetched, result.records_stored, result.records_rejected) == (3, 3, 0)
    titles = stored_titles(session)
    assert [titles[name].title for name in ("good1", "good2")] == ["Title good1", "Title good2"]
    shown = " ".join(said.replace("&amp;", "&").replace("\u00ad", "").split())
    assert titles["evil"].title == titles["evil"].publisher == shown
    records = session.scalars(select(PurchaseRecord.marc)).all()
    assert any(said.encode() in record for record in records)


@pytest.mark.parametrize("hostile", SAID_TWICE)
def test_of_what_no_database_can_hold_the_rest_is_stored(
    session: Session, vendor: Vendor, importer: BibliothecaPurchaseRecordImporter, hostile: str
) -> None:
    said = SAID_TWICE[hostile]
    vendor.sells(NINE, "good", "evil")
    vendor.sold[1] = (NINE, marc("evil", title="@").replace("@", said))
    vendor.items["evil"] = item("evil", title="@", Genre="@", Authors="@").replace("@", said)

    result = importer.import_page(Place(MAY_1), LATER)
    apply_outbox(session, result.outbox_ids)
    session.commit()

    assert (result.records_fetched, result.records_stored, result.records_rejected) == (2, 2, 0)
    assert result.repairs > 0
    title = stored_titles(session)["evil"].title
    assert title is not None
    assert title.startswith("ab")
    assert title.endswith("c")
    assert counted(session, PurchaseRecord) == 2


def record_with(fields: str) -> str:
    return marc("evil").replace("</marc:record>", f"{fields}</marc:record>")


def many_fields() -> str:
    return record_with(
        '<marc:datafield tag="500"><marc:subfield code="a">x</marc:subfield></marc:datafield>' * 10_000
    )


def long_field() -> str:
    return marc("evil", title="x" * 9_900_000)


def many_attributes() -> str:
    attributes = " ".join(f'a{number:x}=""' for number in range(50_000))
    return marc("evil").replace("<marc:record>", f"<marc:record {attributes}>")


@pytest.mark.parametrize("make", [many_fields, long_field, many_attributes])
def test_a_record_without_measure_is_stored_beside_the_others(
    session: Session, vendor: Vendor, importer: BibliothecaPurchaseRecordImporter, make: Callable[[], str]
) -> None:
    vendor.sells(NINE, "good1", "evil", "good2")
    vendor.sold[1] = (NINE, make())

    result = importer.import_page(Place(MAY_1), LATER)
    session.commit()

    assert (result.records_fetched, result.records_stored, result.records_rejected) == (3, 3, 0)
    assert counted(session, PurchaseRecord) == 3


ODD = {
    "a tag": '<marc:datafield tag="@"/>',
    "an indicator": '<marc:datafield tag="245" ind1="@"/>',
    "a code": '<marc:datafield tag="245"><marc:subfield code="@"/></marc:datafield>',
    "a second id": '<marc:controlfield tag="001">@</marc:controlfield>',
    "an odd namespace": '<marc:datafield tag="@"/><x xmlns="relative" y="@"/>',
    "as many attributes": '<marc:datafield tag=""/><x ' + " ".join(f'a{n:x}="@"' for n in range(300)) + "/>",
}


@pytest.mark.parametrize("odd", ODD)
def test_a_record_that_cannot_be_used_is_kept_whole_and_its_reason_is_a_harmless_sentence(
    session: Session, vendor: Vendor, importer: BibliothecaPurchaseRecordImporter, odd: str
) -> None:
    said = "".join(HOSTILE.values()).replace("\u2028", "") + "x" * 500
    vendor.sells(NINE, "good1", "evil", "good2")
    vendor.sold[1] = (NINE, record_with(ODD[odd].replace("@", escape(said))))

    result = importer.import_page(Place(MAY_1), LATER)
    session.commit()

    assert (result.records_fetched, result.records_stored, result.records_rejected) == (3, 2, 1)
    kept = session.scalars(select(RejectedRecord)).one()
    assert kept.reason.isprintable()
    assert len(kept.reason) < 400
    assert "DROP TABLE runs" in kept.raw_xml
    assert session.scalar(text("SELECT to_regclass('runs')")) == "runs"


@pytest.mark.parametrize(
    "page",
    [
        '<!DOCTYPE x [<!ENTITY e "x">]>@',
        '<?xml version="1.0"?><!DOCTYPE x SYSTEM "file:///etc/passwd">@',
        "@<",
        "<x:@",
    ],
)
def test_a_page_that_is_refused_leaves_the_checkpoint_where_it_was(
    session: Session,
    collection: Collection,
    vendor: Vendor,
    importer: BibliothecaPurchaseRecordImporter,
    page: str,
) -> None:
    vendor.sells(NINE, "good")
    vendor.answers.append(httpx.Response(200, text=page.replace("@", marc_page([marc("good")]))))

    with pytest.raises(BadResponseException) as refused:
        importer.import_page(Place(MAY_1), LATER)
    session.rollback()

    assert str(refused.value).isprintable()
    assert timestamp(session, collection, Workflow.PURCHASES).finish is None
    assert importer.import_page(Place(MAY_1), LATER).records_stored == 1


# Events


@pytest.mark.parametrize("hostile", HOSTILE)
def test_an_event_is_stored_as_it_says_and_the_others_count(
    session: Session, vendor: Vendor, event_importer: BibliothecaEventImporter, hostile: str
) -> None:
    said = HOSTILE[hostile]
    shown = " ".join(said.replace("&amp;", "&").replace("\u00ad", "").split())
    vendor.items["good"] = item("good", owned=2, available=2)
    vendor.tells(NINE, "CHECKOUT", "good")
    vendor.tells(NINE, said, "good", EventId=said)
    vendor.tells(NINE, "CHECKOUT", said, EventId="odd")
    vendor.tells(NINE, "HOLD", "good")

    result = event_importer.import_time_slice(NINE, LATER)
    session.commit()

    assert (result.events_fetched, result.events_stored, result.events_rejected) == (4, 3, 1)
    kept = {row.event_id: row.event_type for row in session.scalars(select(CirculationEvent))}
    assert kept == {"event-1": "CHECKOUT", shown: shown.upper(), "event-4": "HOLD"}
    rejected = session.scalars(select(RejectedRecord)).one()
    assert rejected.reason.isprintable()
    assert counted(session, LicensePool) == 1


def test_an_event_without_measure_is_stored_and_a_broken_one_is_kept(
    session: Session, vendor: Vendor, event_importer: BibliothecaEventImporter
) -> None:
    vendor.items["good"] = item("good")
    vendor.happened += [
        (NINE, event("x" * 4_000_000, "y" * 4_000_000, "good", NINE)),
        (NINE, event("no-moment", "CHECKOUT", "good", NINE, EventStartDateTimeInUTC="z" * 4_000_000)),
        (NINE, event("a&#0;b", "HOLD", "good", NINE).replace("&amp;", "&")),
    ]

    result = event_importer.import_time_slice(NINE, LATER)
    session.commit()

    assert (result.events_fetched, result.events_stored, result.events_rejected) == (3, 2, 1)
    assert set(session.scalars(select(CirculationEvent.event_id))) == {"x" * 300, "ab"}
    assert len(session.scalars(select(RejectedRecord)).one().raw_xml) > 4_000_000
