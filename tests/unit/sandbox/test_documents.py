"""Documents of the simulated vendor: shape and quirks."""

import html
import re
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from lxml import etree

from accession.sandbox.activity import Event, EventType
from accession.sandbox.catalogue import Catalogue, Flaw, Format, Purchase, load_works
from accession.sandbox.documents import EMPTY_EVENTS, error_document, event_batch
from accession.sandbox.items import item_documents
from accession.sandbox.marc import marc_collection
from tests.fixtures.sandbox import MARC, item_ids, subfields

STAMP = datetime(2026, 11, 23, 18, 5, 9, tzinfo=UTC)


def records(*purchases: Purchase) -> list[etree._Element]:
    text = marc_collection(purchases, "sandbox", STAMP)
    return etree.fromstring(text.encode()).findall(f"{MARC}record")


def items(*purchases: Purchase, double_escaped: bool = False) -> list[etree._Element]:
    return etree.fromstring(item_documents(purchases, "sandbox", double_escaped=double_escaped)).findall(
        "Item"
    )


def control(record: etree._Element, tag: str) -> str | None:
    return record.findtext(f"{MARC}controlfield[@tag='{tag}']")


@pytest.fixture
def book(catalogue: Catalogue) -> Purchase:
    return next(p for p in catalogue.purchases if p.format is Format.EPUB and p.work.subtitle and not p.flaw)


@pytest.fixture
def audio(catalogue: Catalogue) -> Purchase:
    return next(p for p in catalogue.purchases if p.format is Format.AUDIO and not p.flaw)


def test_marc_record_has_fields_of_purchase(book: Purchase) -> None:
    [record] = records(replace(book, physical_isbn="9780805094602"))
    assert item_ids(record) == [book.item_id]
    assert subfields(record, "020", "a") == [book.isbn]
    assert subfields(record, "245", "a") == [book.work.title]
    assert subfields(record, "245", "b") == [f"{book.work.subtitle} /"]
    assert subfields(record, "260", "c") == [f"{book.published.year}."]
    assert subfields(record, "300", "a") == ["1 online resource", f"{book.work.pages} p."]
    assert subfields(record, "538", "a")[0] == "Format: Adobe EPUB"
    assert subfields(record, "776", "z") == ["9780805094602"]
    assert subfields(record, "710", "a") == ["Cloud"]
    assert subfields(record, "856", "3") == ["cloudLibrary", "Cover Image", "cloudLibrary Icon"]
    assert subfields(record, "856", "u")[0].endswith(f"-document_id-{book.item_id}")


def test_marc_subjects_are_pairs_of_code_and_heading(book: Purchase) -> None:
    [record] = records(book)
    tags = [field.get("tag") for field in record.findall(f"{MARC}datafield")]
    pairs = [tag for tag in tags if tag in ("072", "650")]
    assert pairs == ["072", "650"] * len(book.work.subjects)
    assert subfields(record, "650", "a") == list(book.work.subjects)
    assert all(code.endswith("/") for code in subfields(record, "072", "a"))


def test_marc_records_carry_stamp_of_response(book: Purchase, audio: Purchase) -> None:
    for record in records(book, audio):
        fixed = control(record, "008") or ""
        assert control(record, "005") == "20261123180509.0"
        assert fixed.startswith("261123s")
        assert len(fixed) == 40
        assert fixed[23] == "o"


def test_marc_collection_ends_with_superfluous_character(book: Purchase) -> None:
    assert marc_collection([book], "sandbox", STAMP).endswith("</marc:record>></marc:collection>")
    assert etree.fromstring(marc_collection([], "sandbox", STAMP).encode()).text is None


@pytest.mark.parametrize(("flaw", "identifiers"), [(Flaw.NO_ID, 0), (Flaw.EMPTY_ID, 1), (Flaw.TWO_IDS, 2)])
def test_flawed_marc_record_has_wrong_number_of_ids(book: Purchase, flaw: Flaw, identifiers: int) -> None:
    [record] = records(replace(book, flaw=flaw))
    ids = item_ids(record)
    assert len(ids) == identifiers
    assert ("" in ids) == (flaw is Flaw.EMPTY_ID)
    assert len(set(ids)) == identifiers


def test_undefined_entities_break_strict_parser(book: Purchase) -> None:
    text = marc_collection([book], "sandbox", STAMP, undefined_entities=True)
    assert "&ldquo;" in text
    with pytest.raises(etree.XMLSyntaxError, match="ldquo"):
        etree.fromstring(text.encode())


def test_every_work_gives_well_formed_documents(book: Purchase) -> None:
    purchases = [replace(book, work=work, format=Format.PDF) for work in load_works()]
    assert len(records(*purchases)) == len(load_works())
    assert [item.findtext("Title") for item in items(*purchases)] == [work.title for work in load_works()]


def test_item_has_copies_and_identifiers(book: Purchase) -> None:
    [item] = items(replace(book, copies=2, available=1, holds=0))
    assert item.findtext("ItemId") == book.item_id
    assert item.findtext("ISBN13") == book.isbn
    assert item.findtext("TotalCopies") == "2"
    assert item.findtext("AvailableCopies") == "1"
    assert (item.findtext("CanCheckout"), item.findtext("CanHold")) == ("TRUE", "FALSE")
    assert item.find("Narrator") is None


def test_audiobook_item_has_narrator_and_duration(audio: Purchase) -> None:
    [item] = items(audio)
    duration = item.findtext("Duration") or ""
    assert item.findtext("Narrator") == audio.work.narrators
    assert len(duration) == 10
    assert int(duration) == audio.duration_ms
    assert item.findtext("NumberOfPages") == ""
    assert "MP3" in subfields(records(audio)[0], "538", "a")[0]


def test_items_have_known_quirks(catalogue: Catalogue) -> None:
    all_items = items(*catalogue.purchases)
    texts = {
        name: [item.findtext(name) for item in all_items]
        for name in (
            "Authors",
            "AvailableCopies",
            "Description",
            "Genre",
            "NumberOfPages",
            "PubDate",
            "CoverLinkURL",
            "PhysicalISBN",
        )
    }
    for name in ("AvailableCopies", "Genre"):
        assert None in texts[name]
    for name in ("Description", "NumberOfPages", "PubDate", "PhysicalISBN"):
        assert "" in texts[name]
    assert any("(Translator)" in (text or "") for text in texts["Authors"])
    assert any((text or "").endswith(", Inc. (Editor)") for text in texts["Authors"])
    assert any(len(text or "") == 4 for text in texts["PubDate"])
    assert any("<br></br>" in (text or "") for text in texts["Description"])
    assert any((text or "").endswith(",") and "|" not in (text or "") for text in texts["Genre"])
    assert any("&amp;" in (text or "") for text in texts["CoverLinkURL"])
    assert any("&amp;" not in (text or "") for text in texts["CoverLinkURL"])


def test_missing_available_copies_means_none(catalogue: Catalogue) -> None:
    missing = {
        item.findtext("ItemId")
        for item in items(*catalogue.purchases)
        if item.find("AvailableCopies") is None
    }
    assert {p.available for p in catalogue.purchases if p.item_id in missing} == {0}


def test_double_escaped_item_needs_second_unescape(book: Purchase) -> None:
    work = replace(book.work, title="War & Peace's <Draft>", authors="O'Brien, Tim")
    [item] = items(replace(book, work=work), double_escaped=True)
    title = item.findtext("Title") or ""
    assert title != work.title
    assert html.unescape(title) == work.title
    assert html.unescape(item.findtext("Authors") or "") == work.authors


def test_error_and_empty_events_have_expected_roots() -> None:
    error = etree.fromstring(error_document("A & B"))
    assert (error.tag, error.findtext("Code"), error.findtext("Message")) == ("Error", "Gen-001", "A & B")
    assert etree.fromstring(EMPTY_EVENTS).tag == "LibraryEventBatch"


def loan(**changes: object) -> Event:
    moment = datetime(2026, 11, 23, 17, 0, 1, tzinfo=UTC)
    event = Event("e-1", EventType.CHECKOUT, moment, "abc12", "9780735289215", "sandbox-patron-0007")
    return replace(event, **changes)  # type: ignore[arg-type]


def elements(batch: str) -> list[dict[str, str | None]]:
    events = etree.fromstring(batch).findall("Events/CloudLibraryEvent")
    return [{str(element.tag): element.text for element in event} for event in events]


def test_event_has_all_elements() -> None:
    [event] = elements(event_batch([loan()], "sandbox", STAMP, with_library=True))
    assert event == {
        "LibraryId": "sandbox",
        "EventId": "e-1",
        "EventType": "CHECKOUT",
        "EventStartDateTimeInUTC": "2026-11-23T17:00:01",
        "EventEndDateTimeInUTC": "2026-11-23T17:00:01",
        "ItemId": "abc12",
        "ItemLibraryId": "sandbox",
        "ISBN": "9780735289215",
        "PatronId": "sandbox-patron-0007",
        "PatronLibraryId": "card-of-sandbox-patron-0007",
        "EventPublishDateTimeInUTC": "2026-11-23T18:05:09",
    }


def test_event_library_elements_are_optional() -> None:
    [full], [reduced] = (
        elements(event_batch([loan()], "sandbox", STAMP, with_library=with_library))
        for with_library in (True, False)
    )
    assert full.keys() - reduced.keys() == {"LibraryId", "ItemLibraryId", "PatronLibraryId"}
    assert reduced.items() <= full.items()


@pytest.mark.parametrize("event_type", [EventType.PURCHASE, EventType.REMOVED])
def test_library_event_has_no_patron_and_purchase_no_end(event_type: EventType) -> None:
    [event] = elements(
        event_batch([loan(event_type=event_type, patron="")], "sandbox", STAMP, with_library=True)
    )
    assert (event["PatronId"], event["PatronLibraryId"]) == (None, None)
    assert (event["EventEndDateTimeInUTC"] is None) == (event_type is EventType.PURCHASE)


def test_event_batch_has_publication_and_last_event_times() -> None:
    earlier = loan(event_id="e-0", moment=datetime(2026, 11, 23, 16, tzinfo=UTC))
    batch = etree.fromstring(event_batch([loan(), earlier], "sandbox", STAMP, with_library=False))
    assert re.fullmatch(r"[0-9a-f-]{36}", batch.findtext("PublishId", ""))
    assert batch.findtext("PublishDateTimeInUTC") == "2026-11-23T18:05:09.0000000Z"
    assert batch.findtext("LastEventDateTimeInUTC") == "2026-11-23T17:00:01"
    assert event_batch([], "sandbox", STAMP, with_library=True) == EMPTY_EVENTS
