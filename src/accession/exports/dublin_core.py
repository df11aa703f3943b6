"""A title as simple Dublin Core, in the form that OAI-PMH gives it (`oai_dc`)."""

from collections.abc import Iterator

from lxml.etree import Element, QName, SubElement, _Element

from accession.catalog.change_feed import FeedTitle
from accession.core.vocabulary import Format, Medium
from accession.exports.xml import SCHEMA_LOCATION, XSI, clean

NAMESPACE = "http://www.openarchives.org/OAI/2.0/oai_dc/"
SCHEMA = "http://www.openarchives.org/OAI/2.0/oai_dc.xsd"
_DC = "http://purl.org/dc/elements/1.1/"

# DCMI's words for kinds of resource.
_TYPES = {Medium.BOOK: "Text", Medium.AUDIOBOOK: "Sound"}
_MEDIA_TYPES = {
    Format.EPUB: "application/epub+zip",
    Format.EPUB3: "application/epub+zip",
    Format.PDF: "application/pdf",
    Format.MP3: "audio/mpeg",
}


def dublin_core(found: FeedTitle) -> _Element:
    """The record; what is not known is left out."""
    record = Element(QName(NAMESPACE, "dc"), nsmap={"oai_dc": NAMESPACE, "dc": _DC, "xsi": XSI})
    record.set(SCHEMA_LOCATION, f"{NAMESPACE} {SCHEMA}")
    for name, text in _statements(found):
        if text:
            SubElement(record, QName(_DC, name)).text = clean(text)
    return record


def _statements(found: FeedTitle) -> Iterator[tuple[str, str | None]]:
    title = found.title
    yield "title", ": ".join(filter(None, (title.title, title.subtitle)))
    yield from (("creator", name) for name in title.authors)
    yield from (("subject", name) for name in title.subjects)
    yield "description", title.description
    yield "publisher", title.publisher
    yield from (("contributor", name) for name in title.narrators)
    yield "date", title.published
    yield "type", _TYPES.get(Medium(title.medium)) if title.medium else None
    yield "format", _MEDIA_TYPES.get(Format(title.format)) if title.format else None
    yield from (("identifier", f"urn:isbn:{isbn}") for isbn in title.isbns)
    yield "identifier", title.identifier
    yield "language", title.language
