"""Purchase records of the simulated vendor as MARCXML, with the known quirks of the real ones.

The vendor's records of audiobooks are not public: leader, 006, 300, 500 and 655 are assumptions.
"""

from collections.abc import Iterable
from datetime import datetime
from functools import lru_cache
from xml.sax.saxutils import escape

from accession.sandbox.catalogue import Anomaly, Flaw, Format, Purchase, load_subject_codes
from accession.sandbox.documents import XSI, cover_url, describe, format_size, title_page_url

_MARC = "http://www.loc.gov/MARC21/slim"
_HEAD = (
    '<?xml version="1.0" encoding="UTF-8" ?>'
    f'<marc:collection xmlns:marc="{_MARC}" xmlns:xsi="{XSI}" '
    f'xsi:schemaLocation="{_MARC} http://www.loc.gov/standards/marcxml/schema/MARC21slim.xsd">'
)
_LANGUAGES = {  # ISO 639-1 to the bibliographic codes of ISO 639-2
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
_FORMATS = {
    Format.EPUB: "Adobe EPUB",
    Format.EPUB3: "Adobe EPUB3",
    Format.PDF: "Adobe PDF",
    Format.AUDIO: "MP3",
}
_UNDEFINED_ENTITIES = str.maketrans({"“": "&ldquo;", "”": "&rdquo;", "—": "&mdash;"})


def marc_collection(
    purchases: Iterable[Purchase], library_id: str, stamp: datetime, *, undefined_entities: bool = False
) -> str:
    """Return the purchase records as one MARCXML collection, with 005 and 008/00-05 set to `stamp`.

    With `undefined_entities`, quotes and dashes in 520 become HTML entities that XML does not define.
    """
    records = "".join(
        _record(purchase, library_id, stamp, undefined_entities=undefined_entities) for purchase in purchases
    )
    # The vendor writes a superfluous ">" after the last record.
    stray = ">" if records else ""
    return f"{_HEAD}{records}{stray}</marc:collection>"


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


def _record(purchase: Purchase, library_id: str, stamp: datetime, *, undefined_entities: bool) -> str:
    audio = purchase.format is Format.AUDIO
    language = _LANGUAGES[purchase.work.language]
    year = purchase.published.year
    fixed = f"{stamp:%y%m%d}s{year}{'|' * 12}o{'|' * 11}{language}|d"
    leader = f"01034n{'i' if audio else 'a'}m a22002413a 4500"
    form, carrier = f"m     o  {'h' if audio else 'd'} |      ", "cr unu||||||||"
    if purchase.anomaly is Anomaly.LEADER:
        leader = "?????xyz#q2200???!!!4500"
    elif purchase.anomaly is Anomaly.CONTROL_FIELDS:
        form, carrier, fixed = form.strip(), f"cx{carrier[2:]}||", " ".join(fixed.split("|"))
    return "".join(
        (
            f"<marc:record><marc:leader>{leader}</marc:leader>",
            _identifier_fields(purchase),
            _control_field("003", "MnSpTMCL"),
            _control_field("005", f"{stamp:%Y%m%d%H%M%S}.0"),
            _control_field("006", form),
            _control_field("007", "tz"),
            _control_field("007", carrier),
            _control_field("008", fixed),
            _data_fields(purchase, library_id, undefined_entities=undefined_entities),
            "</marc:record>",
        )
    )


# An import requests most records several times. Each takes about 4 kB.
@lru_cache(maxsize=4096)
def _data_fields(purchase: Purchase, library_id: str, *, undefined_entities: bool) -> str:
    """Return the data fields, which are the same in each response."""
    summary = _data_field("520", "  ", a=" -- ".join(describe(purchase)))
    return "".join(
        (
            _identity(purchase),
            _subjects(purchase),
            _title(purchase),
            summary.translate(_UNDEFINED_ENTITIES) if undefined_entities else summary,
            _edition(purchase),
            _links(purchase, library_id),
            _undefined_fields() if purchase.anomaly is Anomaly.DATA_FIELDS else "",
            _invalid_fields() if purchase.anomaly is Anomaly.INVALID_PARTS else "",
        )
    )


def _identity(purchase: Purchase) -> str:
    return (
        _data_field("020", "  ", a=purchase.isbn)
        + _data_field("037", "  ", a=purchase.item_id, b="cloudLibrary", n="https://yourcloudlibrary.com")
        + _data_field("040", "  ", a="MnSpTMCL", b="eng", c="MnSpTMCL")
    )


def _subjects(purchase: Purchase) -> str:
    codes = load_subject_codes()
    return "".join(
        _data_field("072", " 7", a=f"{codes[heading][:3]}000000/{codes[heading]}/", _2="bisacsh")
        + _data_field("650", " 7", a=heading, _2="bisacsh")
        for heading in purchase.work.subjects
    )


def _title(purchase: Purchase) -> str:
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


def _undefined_fields() -> str:
    return (
        _data_field("250", "x9", A="E-book edition.", q="1")
        + _data_field("650", "##", a="Fiction", _2="bisacsh")
        + _data_field("A1B", "  ", a="local")
        + _data_field("123", "  ", a="local")
    )


def _invalid_fields() -> str:
    without_code = "<marc:subfield>Includes index.</marc:subfield>"
    return (
        _data_field("504", "  ", a="@").replace('<marc:subfield code="a">@</marc:subfield>', without_code)
        + _data_field("521", "  ", a="Adult.").replace('ind1=" "', 'ind1="8_"')
        + _data_field("001", "  ", a="0000000000")
    )


def _with_full_stop(names: str) -> str:
    return f"{names.rstrip('.')}."


def _edition(purchase: Purchase) -> str:
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
        + _data_field("538", "  ", a=f"Format: {_FORMATS[purchase.format]}")
        + _data_field("538", "  ", a=f"Requires: cloudLibrary (file size: {format_size(purchase)})")
        + _data_field("655", " 0", a=genre)
        + _data_field("710", "2 ", a="Cloud")
        + (_data_field("776", "1 ", z=purchase.physical_isbn) if purchase.physical_isbn else "")
    )


def _links(purchase: Purchase, library_id: str) -> str:
    cover = cover_url("https://images.yourcloudlibrary.com", purchase)
    icon = "http://download.yourcloudlibrary.com/apps/icons/Cloud_Library_App_Icon_50x50.png"
    product = f"https://partner.yourcloudlibrary.com/Cirrus/library/{library_id}/item/{purchase.item_id}"
    return (
        _data_field("856", "40", _3="cloudLibrary", u=title_page_url(purchase, library_id), x=library_id)
        + _data_field("856", "42", _3="Cover Image", u=cover, x=library_id)
        + _data_field("856", "42", _3="cloudLibrary Icon", u=icon)
        + _data_field("956", "42", _3="Whole product", u=product)
    )
