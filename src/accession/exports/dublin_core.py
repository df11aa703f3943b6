"""Simple Dublin Core metadata of a title, in the `oai_dc` format of OAI-PMH."""

from collections.abc import Iterator

from lxml.etree import Element, QName, SubElement, _Element

from accession.catalog.change_feed import FeedTitle
from accession.core.vocabulary import Format, Medium
from accession.exports.xml import SCHEMA_LOCATION, XSI, remove_forbidden_characters

NAMESPACE = "http://www.openarchives.org/OAI/2.0/oai_dc/"
SCHEMA = "http://www.openarchives.org/OAI/2.0/oai_dc.xsd"
_DC = "http://purl.org/dc/elements/1.1/"

# Terms of the DCMI Type Vocabulary.
_TYPES = {Medium.BOOK: "Text", Medium.AUDIOBOOK: "Sound"}
_MEDIA_TYPES = {
    Format.EPUB: "application/epub+zip",
    Format.EPUB3: "application/epub+zip",
    Format.PDF: "application/pdf",
    Format.MP3: "audio/mpeg",
}


def build_dublin_core(entry: FeedTitle) -> _Element:
    """Return the `oai_dc` record of a title; unknown values are omitted."""
    record = Element(QName(NAMESPACE, "dc"), nsmap={"oai_dc": NAMESPACE, "dc": _DC, "xsi": XSI})
    record.set(SCHEMA_LOCATION, f"{NAMESPACE} {SCHEMA}")
    for name, text in _elements(entry):
        if text:
            SubElement(record, QName(_DC, name)).text = remove_forbidden_characters(text)
    return record


def _elements(entry: FeedTitle) -> Iterator[tuple[str, str | None]]:
    title = entry.title
    yield "title", ": ".join(filter(None, (title.title, title.subtitle)))
    yield from (("creator", name) for name in title.authors)
    yield from (("subject", name) for name in title.subjects)
    yield "description", title.description
    yield "publisher", title.publisher
    names = dict.fromkeys(name for _, name in title.contributors)
    yield from (("contributor", name) for name in names if name not in title.authors)
    yield "date", title.published
    yield "type", _TYPES.get(Medium(title.medium)) if title.medium else None
    yield "format", _MEDIA_TYPES.get(Format(title.format)) if title.format else None
    yield from (("identifier", f"urn:isbn:{isbn}") for isbn in title.isbns)
    yield "identifier", title.identifier
    yield "language", title.language
