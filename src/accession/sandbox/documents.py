"""Documents of the simulated vendor, with the known quirks of the real ones.

They are written as text because no XML library would produce some of these quirks. The vendor's MARC
records of audiobooks are not public: leader, 006, 300, 500 and 655 are assumptions.
"""

import html
from collections.abc import Iterable, Sequence
from datetime import datetime
from uuid import NAMESPACE_OID, uuid5
from xml.sax.saxutils import escape
from zlib import crc32

from accession.sandbox.activity import Event, EventType
from accession.sandbox.catalogue import Flaw, Format, Purchase, load_subject_codes

_XSI = "http://www.w3.org/2001/XMLSchema-instance"
_ROOT_NAMESPACES = f'xmlns:xsd="http://www.w3.org/2001/XMLSchema" xmlns:xsi="{_XSI}"'
_MARC = "http://www.loc.gov/MARC21/slim"
_MARC_HEAD = (
    '<?xml version="1.0" encoding="UTF-8" ?>'
    f'<marc:collection xmlns:marc="{_MARC}" xmlns:xsi="{_XSI}" '
    f'xsi:schemaLocation="{_MARC} http://www.loc.gov/standards/marcxml/schema/MARC21slim.xsd">'
)
_MARC_LANGUAGES = {  # ISO 639-1 to the bibliographic codes of ISO 639-2
    "ar": "ara",
    "ca": "cat",
    "cs": "cze",
    "da": "dan",
    "de": "ger",
    "el": "gre",
    "en": "eng",
    "es": "spa",
    "fi": "fin",
    "fr": "fre",
    "hu": "hun",
    "is": "ice",
    "it": "ita",
    "ja": "jpn",
    "ko": "kor",
    "lv": "lav",
    "nl": "dut",
    "no": "nor",
    "pl": "pol",
    "pt": "por",
    "ru": "rus",
    "sv": "swe",
    "tr": "tur",
    "zh": "chi",
}
_MARC_FORMATS = {
    Format.EPUB: "Adobe EPUB",
    Format.EPUB3: "Adobe EPUB3",
    Format.PDF: "Adobe PDF",
    Format.AUDIO: "MP3",
}
_UNDEFINED_ENTITIES = str.maketrans({"“": "&ldquo;", "”": "&rdquo;", "—": "&mdash;"})

EMPTY_EVENTS = f"<LibraryEventBatch {_ROOT_NAMESPACES}/>"


def error_document(message: str) -> str:
    """Return an `Error` document. The code is always Gen-001; only the message differs."""
    return f"<Error {_ROOT_NAMESPACES}><Code>Gen-001</Code><Message>{escape(message)}</Message></Error>"


def marc_collection(
    purchases: Iterable[Purchase], library_id: str, stamp: datetime, *, undefined_entities: bool = False
) -> str:
    """Return the purchase records as one MARCXML collection, with 005 and 008/00-05 set to `stamp`.

    With `undefined_entities`, quotes and dashes in 520 become HTML entities that XML does not define.
    """
    records = "".join(
        _marc_record(purchase, library_id, stamp, undefined_entities=undefined_entities)
        for purchase in purchases
    )
    # The vendor writes a superfluous ">" after the last record.
    stray = ">" if records else ""
    return f"{_MARC_HEAD}{records}{stray}</marc:collection>"


def item_documents(purchases: Iterable[Purchase], library_id: str, *, double_escaped: bool = False) -> str:
    """Return the purchases as one `ArrayOfItem`; with `double_escaped`, texts are escaped twice."""
    items = "".join(_item(purchase, library_id, double_escaped=double_escaped) for purchase in purchases)
    return f"<ArrayOfItem {_ROOT_NAMESPACES}>{items}</ArrayOfItem>"


def event_batch(events: Sequence[Event], library_id: str, stamp: datetime, *, with_library: bool) -> str:
    """Return the events as one `LibraryEventBatch` published at `stamp`; without events, an empty root.

    `with_library` adds the optional elements: the ids of library, title and patron within the library.
    """
    if not events:
        return EMPTY_EVENTS
    last = max(event.moment for event in events)
    elements = "".join(_event(event, library_id, stamp, with_library=with_library) for event in events)
    return (
        f"<LibraryEventBatch {_ROOT_NAMESPACES}>"
        f"<PublishId>{uuid5(NAMESPACE_OID, f'{library_id} {stamp}')}</PublishId>"
        f"<PublishDateTimeInUTC>{stamp:%Y-%m-%dT%H:%M:%S.%f}0Z</PublishDateTimeInUTC>"
        f"<LastEventDateTimeInUTC>{_second(last)}</LastEventDateTimeInUTC>"
        f"<Events>{elements}</Events></LibraryEventBatch>"
    )


def _event(event: Event, library_id: str, stamp: datetime, *, with_library: bool) -> str:
    is_purchase = event.event_type is EventType.PURCHASE
    elements = [
        *([("LibraryId", library_id)] if with_library else []),
        ("EventId", event.event_id),
        ("EventType", event.event_type),
        ("EventStartDateTimeInUTC", _second(event.moment)),
        ("EventEndDateTimeInUTC", "" if is_purchase else _second(event.moment)),
        ("ItemId", event.item_id),
        *([("ItemLibraryId", library_id)] if with_library else []),
        ("ISBN", event.isbn),
        ("PatronId", event.patron),
        *([("PatronLibraryId", event.patron and f"card-of-{event.patron}")] if with_library else []),
        ("EventPublishDateTimeInUTC", _second(stamp)),
    ]
    inner = "".join(_element(name, text) for name, text in elements)
    return f"<CloudLibraryEvent>{inner}</CloudLibraryEvent>"


def _second(moment: datetime) -> str:
    return f"{moment:%Y-%m-%dT%H:%M:%S}"


def describe(purchase: Purchase) -> list[str]:
    """Return the paragraphs of the summary, composed from the facts about the work."""
    work = purchase.work
    subtitle = f" — {work.subtitle}" if work.subtitle else ""
    paragraphs = [
        f"“{work.title}”{subtitle}",
        f"By {_display_names(work.authors)}, first published in {work.year}.",
    ]
    if purchase.format is Format.AUDIO:
        paragraphs.append(f"Read by {_display_names(work.narrators)}.")
    labels = ", ".join(_label(subject) for subject in work.subjects)
    return [*paragraphs, f"For readers of {labels} — published by {work.publisher}."]


def _display_names(names: str) -> str:
    return " and ".join(" ".join(reversed(name.split(", ", 1))) for name in names.split("; "))


def _label(subject: str) -> str:
    return subject.rstrip("|").rpartition("|")[2]


def _has_quirk(share: int, purchase: Purchase, quirk: str) -> bool:
    return crc32(f"{quirk} {purchase.item_id}".encode()) % share == 0


def _size(purchase: Purchase) -> str:
    kilobytes = purchase.size_kb
    return f"{kilobytes / 1024:.1f} MB" if kilobytes >= 1024 else f"{kilobytes}.0 KB"


def _title_page(purchase: Purchase, library_id: str) -> str:
    return f"https://ebook.yourcloudlibrary.com/library/{library_id}-document_id-{purchase.item_id}"


def _cover(host: str, purchase: Purchase) -> str:
    return f"{host}/delivery/img?type=DOCUMENTIMAGE&documentID={purchase.item_id}&token=nobody"


# MARC


def _control_field(tag: str, text: str) -> str:
    return f'<marc:controlfield tag="{tag}">{escape(text)}</marc:controlfield>'


def _data_field(tag: str, indicators: str, **subfields: str) -> str:
    inner = "".join(
        f'<marc:subfield code="{code.lstrip("_")}">{escape(text)}</marc:subfield>'
        for code, text in subfields.items()
    )
    return (
        f'<marc:datafield tag="{tag}" ind1="{indicators[0]}" ind2="{indicators[1]}">{inner}</marc:datafield>'
    )


def _identifier_fields(purchase: Purchase) -> str:
    match purchase.flaw:
        case Flaw.NO_ID:
            return ""
        case Flaw.EMPTY_ID:
            return _control_field("001", "")
        case Flaw.TWO_IDS:
            return _control_field("001", purchase.item_id) + _control_field("001", purchase.item_id[::-1])
        case None:
            return _control_field("001", purchase.item_id)


def _marc_record(purchase: Purchase, library_id: str, stamp: datetime, *, undefined_entities: bool) -> str:
    audio = purchase.format is Format.AUDIO
    language = _MARC_LANGUAGES[purchase.work.language]
    year = purchase.published.year
    fixed = f"{stamp:%y%m%d}s{year}{'|' * 12}o{'|' * 11}{language}|d"
    summary = _data_field("520", "  ", a=" -- ".join(describe(purchase)))
    return "".join(
        (
            f"<marc:record><marc:leader>01034n{'i' if audio else 'a'}m a22002413a 4500</marc:leader>",
            _identifier_fields(purchase),
            _control_field("003", "MnSpTMCL"),
            _control_field("005", f"{stamp:%Y%m%d%H%M%S}.0"),
            _control_field("006", f"m     o  {'h' if audio else 'd'} |      "),
            _control_field("007", "tz"),
            _control_field("007", "cr unu||||||||"),
            _control_field("008", fixed),
            _marc_identity(purchase),
            _marc_subjects(purchase),
            _marc_title(purchase),
            summary.translate(_UNDEFINED_ENTITIES) if undefined_entities else summary,
            _marc_edition(purchase),
            _marc_links(purchase, library_id),
            "</marc:record>",
        )
    )


def _marc_identity(purchase: Purchase) -> str:
    return (
        _data_field("020", "  ", a=purchase.isbn)
        + _data_field("037", "  ", a=purchase.item_id, b="cloudLibrary", n="https://yourcloudlibrary.com")
        + _data_field("040", "  ", a="MnSpTMCL", b="eng", c="MnSpTMCL")
    )


def _marc_subjects(purchase: Purchase) -> str:
    codes = load_subject_codes()
    return "".join(
        _data_field("072", " 7", a=f"{codes[heading][:3]}000000/{codes[heading]}/", _2="bisacsh")
        + _data_field("650", " 7", a=heading, _2="bisacsh")
        for heading in purchase.work.subjects
    )


def _marc_title(purchase: Purchase) -> str:
    work = purchase.work
    subtitle = {"b": f"{work.subtitle} /"} if work.subtitle else {}
    extent = "1 sound file" if purchase.format is Format.AUDIO else f"{work.pages} p."
    kind = "Electronic audio book." if purchase.format is Format.AUDIO else "Electronic book."
    return (
        _data_field("100", "1 ", a=_with_full_stop(work.authors.split("; ")[0]), _4="aut")
        + _data_field(
            "245",
            "10",
            a=work.title,
            h="[electronic resource] :",
            **subtitle,
            c=_with_full_stop(work.authors),
        )
        + _data_field("260", "  ", a="[S.l.] :", b=f"{work.publisher},", c=f"{purchase.published.year}.")
        + _data_field("300", "  ", a="1 online resource")
        + _data_field("300", "  ", a=extent)
        + _data_field("500", "  ", a=kind)
    )


def _with_full_stop(names: str) -> str:
    return f"{names.rstrip('.')}."


def _marc_edition(purchase: Purchase) -> str:
    genre = "Audiobooks." if purchase.format is Format.AUDIO else "Electronic books."
    return (
        _data_field(
            "533",
            "  ",
            a="Electronic reproduction.",
            b="[S.l.]",
            c=purchase.work.publisher,
            d=str(purchase.published.year),
            n="Available via World Wide Web.",
        )
        + _data_field("538", "  ", a=f"Format: {_MARC_FORMATS[purchase.format]}")
        + _data_field("538", "  ", a=f"Requires: cloudLibrary (file size: {_size(purchase)})")
        + _data_field("655", " 0", a=genre)
        + _data_field("710", "2 ", a="Cloud")
        + (_data_field("776", "1 ", z=purchase.physical_isbn) if purchase.physical_isbn else "")
    )


def _marc_links(purchase: Purchase, library_id: str) -> str:
    cover = _cover("https://images.yourcloudlibrary.com", purchase)
    icon = "http://download.yourcloudlibrary.com/apps/icons/Cloud_Library_App_Icon_50x50.png"
    product = f"https://partner.yourcloudlibrary.com/Cirrus/library/{library_id}/item/{purchase.item_id}"
    return (
        _data_field("856", "40", _3="cloudLibrary", u=_title_page(purchase, library_id), x=library_id)
        + _data_field("856", "42", _3="Cover Image", u=cover, x=library_id)
        + _data_field("856", "42", _3="cloudLibrary Icon", u=icon)
        + _data_field("956", "42", _3="Whole product", u=product)
    )


# Items


def _element(name: str, escaped: str) -> str:
    return f"<{name}>{escaped}</{name}>" if escaped else f"<{name}/>"


def _escape_twice(text: str) -> str:
    return escape(html.escape(text))


def _item(purchase: Purchase, library_id: str, *, double_escaped: bool) -> str:
    text = _escape_twice if double_escaped else escape
    work = purchase.work
    audio = purchase.format is Format.AUDIO
    pages = "" if audio or _has_quirk(15, purchase, "no pages") else str(work.pages)
    elements = [
        ("ItemId", purchase.item_id),
        ("Title", text(work.title)),
        ("SubTitle", text(work.subtitle)),
        ("Authors", text(work.authors)),
        ("Description", _item_description(purchase)),
        ("Publisher", text(work.publisher)),
        ("PubDate", _publication_date(purchase)),
        ("PubYear", str(purchase.published.year)),
        ("Size", _size(purchase)),
        ("Language", work.language),
        ("PhysicalISBN", purchase.physical_isbn),
        ("ISBN13", purchase.isbn),
        ("BookFormat", purchase.format),
        ("NumberOfPages", pages),
        *_circulation(purchase),
        ("BookLinkURL", _title_page(purchase, library_id)),
        ("CoverLinkURL", _item_cover(purchase)),
        ("LibraryUrlName", library_id),
    ]
    if audio:
        elements += [("Narrator", text(work.narrators)), ("Duration", f"{purchase.duration_ms:010}")]
    if not _has_quirk(20, purchase, "no genre"):
        elements.append(("Genre", _genre(purchase, double_escaped=double_escaped)))
    if audio:
        elements.append(("OnSaleDate", purchase.published.isoformat()))
    return f"<Item>{''.join(_element(name, escaped) for name, escaped in elements)}</Item>"


def _item_description(purchase: Purchase) -> str:
    if _has_quirk(40, purchase, "no description"):
        return ""
    first, *rest = (escape(paragraph) for paragraph in describe(purchase))
    # Escaped twice: once as HTML, once as content of an XML element.
    markup = escape("<br></br><br></br>".join([f"<b>{first}</b>", *rest]))
    if _has_quirk(4, purchase, "numeric references"):
        return markup.encode("ascii", "xmlcharrefreplace").decode()
    return markup


def _publication_date(purchase: Purchase) -> str:
    if _has_quirk(60, purchase, "no date"):
        return ""
    if _has_quirk(30, purchase, "year for date"):
        return str(purchase.published.year)
    return purchase.published.isoformat()


def _circulation(purchase: Purchase) -> list[tuple[str, str]]:
    lendable = purchase.available > 0
    available = [("AvailableCopies", str(purchase.available))]
    if not lendable and _has_quirk(10, purchase, "no available copies"):
        available = []
    return [
        ("CanCheckout", str(lendable).upper()),
        ("CanHold", str(not lendable).upper()),
        ("OnHold", str(purchase.holds > 0).upper()),
        ("TotalCopies", str(purchase.copies)),
        *available,
        ("OnHoldCount", str(purchase.holds)),
    ]


def _item_cover(purchase: Purchase) -> str:
    if _has_quirk(3, purchase, "old cover link"):
        return _escape_twice(_cover("http://ebook.3m.com", purchase))
    return escape(_cover("https://images.yourcloudlibrary.com", purchase))


def _genre(purchase: Purchase, *, double_escaped: bool) -> str:
    if _has_quirk(5, purchase, "plain genre"):
        # Older records: plain labels, escaped twice, with a trailing comma.
        return _escape_twice(", ".join(_label(subject) for subject in purchase.work.subjects) + ",")
    return (_escape_twice if double_escaped else escape)(",".join(purchase.work.subjects))
