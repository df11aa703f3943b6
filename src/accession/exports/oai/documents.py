"""OAI-PMH documents: XML elements of responses, and the metadata formats of records."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from urllib.parse import quote

from lxml.etree import Element, QName, SubElement, _Element, fromstring, tostring

from accession.catalog.change_feed import FeedTitle
from accession.core.marc21 import MARC_NAMESPACE
from accession.exports import dublin_core
from accession.exports.marc_profile import Profile
from accession.exports.marc_records import build_export_record
from accession.exports.oai.requests import OaiError
from accession.exports.xml import SCHEMA_LOCATION, XSI, remove_forbidden_characters

NAMESPACE = "http://www.openarchives.org/OAI/2.0/"
_SCHEMA = "http://www.openarchives.org/OAI/2.0/OAI-PMH.xsd"
_IDENTIFIER_NAMESPACE = "http://www.openarchives.org/OAI/2.0/oai-identifier"
_SCHEME, _DELIMITER = "oai", ":"
_MARC_SCHEMA = "http://www.loc.gov/standards/marcxml/schema/MARC21slim.xsd"


@dataclass(frozen=True)
class MetadataFormat:
    """A metadata format; `build` returns a title's metadata element."""

    schema: str
    namespace: str
    build: Callable[[FeedTitle], _Element]
    needs_marc: bool = False


@dataclass(frozen=True)
class OaiResponse:
    """Content of a response, and its `responseDate` (UTC)."""

    response_date: datetime
    content: tuple[_Element, ...]


def build_document(response: OaiResponse, request: _Element) -> bytes:
    """Return the complete document of a response, with the element that repeats the request."""
    root = Element(QName(NAMESPACE, "OAI-PMH"), nsmap={None: NAMESPACE, "xsi": XSI})
    root.set(SCHEMA_LOCATION, f"{NAMESPACE} {_SCHEMA}")
    add_element(root, "responseDate", format_time(response.response_date))
    root.append(request)
    root.extend(response.content)
    return tostring(root, xml_declaration=True, encoding="UTF-8")


def build_record(entry: FeedTitle, namespace: str, metadata_format: MetadataFormat) -> _Element:
    """Return a title's `record`; a deleted one has no metadata."""
    record = create_element("record")
    record.append(build_header(entry, namespace))
    if not entry.is_removed:
        add_element(record, "metadata").append(metadata_format.build(entry))
    return record


def build_header(entry: FeedTitle, namespace: str) -> _Element:
    """Return a title's `header`."""
    header = create_element("header")
    if entry.is_removed:
        header.set("status", "deleted")
    add_element(header, "identifier", record_identifier(entry, namespace))
    add_element(header, "datestamp", format_time(entry.modified_at))
    add_element(header, "setSpec", f"collection:{entry.collection_id}")
    if entry.title.format:
        add_element(header, "setSpec", f"format:{entry.title.format}")
    return header


def record_identifier(entry: FeedTitle, namespace: str) -> str:
    """Return the identifier of a title's record."""
    return f"{identifier_prefix(namespace)}{entry.collection_id}/{quote(entry.title.identifier, safe='')}"


def identifier_prefix(namespace: str) -> str:
    """Return the start of all record identifiers."""
    return f"{_SCHEME}{_DELIMITER}{namespace}{_DELIMITER}"


def build_identifier_description(namespace: str) -> _Element:
    """Return the `description` of the scheme of identifiers, for Identify."""
    description = create_element("description")
    scheme = SubElement(
        description, QName(_IDENTIFIER_NAMESPACE, "oai-identifier"), nsmap={None: _IDENTIFIER_NAMESPACE}
    )
    scheme.set(SCHEMA_LOCATION, f"{_IDENTIFIER_NAMESPACE} {_IDENTIFIER_NAMESPACE}.xsd")
    for name, text in (
        ("scheme", _SCHEME),
        ("repositoryIdentifier", namespace),
        ("delimiter", _DELIMITER),
        ("sampleIdentifier", f"{identifier_prefix(namespace)}1/abc123"),
    ):
        SubElement(scheme, QName(_IDENTIFIER_NAMESPACE, name)).text = text
    return description


def error_element(error: OaiError) -> _Element:
    """Return the `error` element of an error condition."""
    return create_element("error", str(error), code=error.code)


def create_element(name: str, text: str | None = None, **attributes: str) -> _Element:
    """Create an element of the protocol."""
    element = Element(QName(NAMESPACE, name), nsmap={None: NAMESPACE})
    element.text = None if text is None else remove_forbidden_characters(text)
    for attribute, value in attributes.items():
        element.set(attribute, remove_forbidden_characters(value))
    return element


def add_element(parent: _Element, name: str, text: str | None = None) -> _Element:
    """Append an element of the protocol to its parent and return it."""
    element = SubElement(parent, QName(NAMESPACE, name))
    element.text = None if text is None else remove_forbidden_characters(text)
    return element


def format_time(moment: datetime) -> str:
    """Format a UTC time with the granularity of seconds."""
    return f"{moment:%Y-%m-%dT%H:%M:%SZ}"


def _build_marcxml(entry: FeedTitle) -> _Element:
    return fromstring(build_export_record([entry], Profile()).as_marcxml())


METADATA_FORMATS = {
    "oai_dc": MetadataFormat(dublin_core.SCHEMA, dublin_core.NAMESPACE, dublin_core.build_dublin_core),
    "marc21": MetadataFormat(_MARC_SCHEMA, MARC_NAMESPACE, _build_marcxml, needs_marc=True),
}
"""Metadata formats by their prefix."""
