"""Parser for pages of purchase records in MARCXML.

Most records of a page are already stored, so ids and hash are computed from plain tuples of fields. Binary
MARC 21 and raw XML, which only new and rejected records need, are produced on demand.

A field that is not valid MARC 21 does not make the record invalid: it is left out as far as it is invalid,
with a warning.
"""

import hashlib
import json
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import TypeAlias

from lxml import etree

from accession.bibliotheca.errors import UNKNOWN_CONTEXT, BadResponseException, ResponseContext, excerpt_of
from accession.bibliotheca.xml import parse_document, parse_xml
from accession.core.marc21 import DELIMITER, MARC_NAMESPACE, Field, Marc21Record

_COLLECTION, _RECORD, _LEADER, _CONTROL_FIELD, _DATA_FIELD, _SUBFIELD = (
    f"{{{MARC_NAMESPACE}}}{name}"
    for name in ("collection", "record", "leader", "controlfield", "datafield", "subfield")
)
_ATTRIBUTES = etree.XPath("@*")
_LEADER_LENGTH = 24
# Without the type of record (06), which depends on the medium: exports fill it in.
_BLANK_LEADER = "     n m a22     3a 4500"
_SUBFIELD_CODES = frozenset(map(chr, range(ord("!"), ord("~") + 1)))
_INDICATORS = _SUBFIELD_CODES | {" "}
_encode = json.JSONEncoder(separators=(",", ":"), check_circular=False).encode

# A page is requested with a limit of 50 records.
_MAX_RECORDS = 2_000

_MAX_WARNINGS = 20
_MAX_QUOTED = 60


ControlField: TypeAlias = tuple[str, str]
"""Tag and data."""
DataField: TypeAlias = tuple[str, str, str, *tuple[tuple[str, str], ...]]
"""Tag, two indicators, and any number of subfields as pairs of code and value."""


@dataclass(frozen=True)
class MarcContent:
    """Leader (24 characters) and fields of a record, in order."""

    leader: str
    fields: tuple[ControlField | DataField, ...]

    def as_marc21(self) -> bytes:
        """Return the content as binary MARC 21 (ISO 2709) in UTF-8; see `Marc21Record.as_marc21`."""
        return Marc21Record(self.leader, [_encode_field(field) for field in self.fields]).as_marc21()


@dataclass(frozen=True)
class MarcRecord:
    """One purchase record as the vendor sent it.

    Attributes:
        source: its XML element, or its stored XML.
        content: leader and valid fields, or None if the source is not a MARCXML record with such fields.
        fault: the reason why `content` is None.
        warnings: a sentence for each part of the source that `content` lacks because it is not valid MARC 21.
    """

    source: etree._Element | str
    content: MarcContent | None
    fault: str | None = None
    warnings: tuple[str, ...] = ()

    @cached_property
    def raw_xml(self) -> str:
        """The record as a complete XML document; the stored text if it was parsed from that."""
        if isinstance(self.source, str):
            return self.source
        return etree.tostring(self.source, encoding="unicode", with_tail=False)

    @cached_property
    def item_ids(self) -> tuple[str, ...]:
        """The stripped text of each 001 that is not blank; a valid record has exactly one.

        For a record with a fault, the ids are read from its XML.
        """
        if self.content is not None:
            texts = [field[1] for field in self.content.fields if field[0] == "001"]
        else:
            texts = _raw_ids(self.raw_xml)
        return tuple(text.strip() for text in texts if text.strip())

    @property
    def key(self) -> str:
        """Return what identifies the record: its id, or the start of its hash if it has not exactly one."""
        return self.item_ids[0] if len(self.item_ids) == 1 else self.content_hash()[:16]

    def content_hash(self) -> str:
        """Return the SHA-256 of the record's content in hexadecimal, which is computed once.

        The hash ignores what changes between responses: field 005, the first six characters of 008, and
        length and base address in the leader. The hash of a record with a fault or warnings is that of its
        XML without these time stamps, so that it covers what `content` lacks.
        """
        return self._content_hash

    @cached_property
    def _content_hash(self) -> str:
        if self.content is None or self.warnings:
            return hashlib.sha256(_xml_without_time_stamps(self.raw_xml)).hexdigest()
        leader = self.content.leader
        stable_fields = [
            field if field[0] != "008" else ("008", field[1][6:])
            for field in self.content.fields
            if field[0] != "005"
        ]
        return hashlib.sha256(_encode([leader[5:12] + leader[17:], stable_fields]).encode()).hexdigest()

    def as_marc21(self) -> bytes:
        """Return the record as binary MARC 21 (ISO 2709), truncated if it is too long.

        `raw_xml` stays complete.

        Raises:
            ValueError: the record has a fault.
        """
        if self.content is None:
            raise ValueError(f"The record cannot be converted to MARC 21: {self.fault}.")
        return self.content.as_marc21()


@dataclass(frozen=True)
class MarcPage:
    """A page of purchase records in the vendor's order.

    Attributes:
        records: all records, including those with a fault.
        repaired: whether the document was only well-formed after the repair.
        is_blank: whether the body was empty, which does not prove that there are no records.
    """

    records: tuple[MarcRecord, ...]
    repaired: bool = False
    is_blank: bool = False


def parse_marc_page(body: bytes, context: ResponseContext = UNKNOWN_CONTEXT) -> MarcPage:
    """Parse a page of MARCXML; ignore text and elements that MARCXML does not define.

    Anything that is not a MARC collection is an error, never a page without records.

    Raises:
        RemoteInitiatedServerError: the vendor reports an error.
        BadResponseException: the document is invalid, or has more records than any page.
    """
    document = parse_document(body, "collection", context)
    if document.root.tag != _COLLECTION:
        raise context.error(
            BadResponseException, "the vendor sent a collection that is not in the MARCXML namespace", body
        )
    elements = list(document.root.iter("{*}record"))
    if len(elements) > _MAX_RECORDS:
        problem = f"the vendor sent {len(elements):,} records in one response; the limit is {_MAX_RECORDS:,}"
        raise context.error(BadResponseException, problem, body)
    return MarcPage(tuple(_parse_record(element) for element in elements), document.repaired)


def marc_record_from_xml(raw_xml: str) -> MarcRecord:
    """Parse stored raw XML again; invalid XML becomes a record with a fault."""
    try:
        record = _parse_record(parse_xml(raw_xml.encode()).root)
    except BadResponseException as error:
        return MarcRecord(raw_xml, None, error.problem)
    return replace(record, source=raw_xml)


class _InvalidPartError(Exception):
    """A part of a field, or all of it, that MARC 21 does not allow."""


def _parse_record(element: etree._Element) -> MarcRecord:
    if element.tag != _RECORD:
        return MarcRecord(
            element, None, f"the element {excerpt_of(str(element.tag))!r} is not a MARCXML record"
        )
    warnings: list[str] = []
    fields: list[ControlField | DataField] = []
    # Slicing is twice as fast as iterating in lxml.
    for child in element[:]:
        kind = child.tag
        try:
            if kind == _DATA_FIELD:
                fields.append(_parse_data_field(child, warnings))
            elif kind == _CONTROL_FIELD:
                fields.append(_parse_control_field(child))
        except _InvalidPartError as error:
            warnings.append(f"{error}.")
    fields = _without_repeated_id(fields, warnings)
    if len(warnings) > _MAX_WARNINGS:
        warnings[_MAX_WARNINGS - 1 :] = [f"There are {len(warnings) - _MAX_WARNINGS + 1:,} more such faults."]
    if not fields:
        return MarcRecord(element, None, "the record has no valid fields", tuple(warnings))
    return MarcRecord(element, MarcContent(_normalise_leader(element), tuple(fields)), None, tuple(warnings))


def _without_repeated_id(
    fields: list[ControlField | DataField], warnings: list[str]
) -> list[ControlField | DataField]:
    """Return the fields with a single 001, if all that are not blank have the same text.

    Of different ids none is certain to be the title's: all of them stay, so that the record is rejected.
    """
    positions = [index for index, field in enumerate(fields) if field[0] == "001"]
    if len(positions) < 2:
        return fields
    ids = {str(fields[index][1]).strip(): index for index in reversed(positions)}
    ids.pop("", None)
    if len(ids) != 1:
        return fields
    (position,) = ids.values()
    for _ in positions[1:]:
        warnings.append("A repeated or blank field 001 was left out: a record has only one.")
    return [field for index, field in enumerate(fields) if index == position or field[0] != "001"]


def _normalise_leader(element: etree._Element) -> str:
    """Return the record's leader, or a default one if it is missing or malformed.

    The counts of indicators and subfield codes and the entry map are set to the constants of MARC 21.
    """
    leader = element.findtext(_LEADER) or ""
    if len(leader) != _LEADER_LENGTH or not leader.isascii():
        leader = _BLANK_LEADER
    return f"{leader[:10]}22{leader[12:20]}4500"


def _parse_control_field(element: etree._Element) -> ControlField:
    tag = element.get("tag", "")
    try:
        _check_tag(tag, is_control=True)
    except _InvalidPartError as error:
        raise _InvalidPartError(f"{error}: {_quote(_text(element))} was left out") from None
    return tag, _text(element)


def _parse_data_field(element: etree._Element, warnings: list[str]) -> DataField:
    """Return the field with what is valid of it, and add a warning for each part that is not.

    Raises:
        _InvalidPartError: nothing is valid.
    """
    tag, first, second = element.get("tag", ""), element.get("ind1") or " ", element.get("ind2") or " "
    subfields: list[tuple[str, str]] = []
    for part in element[:]:
        code = part.get("code", "")
        if part.tag != _SUBFIELD or len(part) or code not in _SUBFIELD_CODES:
            break
        subfields.append((code, part.text or ""))
    else:
        if _is_valid_heading(tag, first, second):
            return tag, first, second, *subfields
    return _valid_part(element, (tag, first, second), warnings)


# All fields share a few dozen headings.
@lru_cache(maxsize=1024)
def _is_valid_heading(tag: str, first: str, second: str) -> bool:
    """Return whether tag and indicators of a data field are valid."""
    try:
        _check_tag(tag, is_control=False)
    except _InvalidPartError:
        return False
    return first in _INDICATORS and second in _INDICATORS


def _valid_part(element: etree._Element, heading: tuple[str, str, str], warnings: list[str]) -> DataField:
    """Return what is valid of an unusual data field, and raise and warn as `_parse_data_field` does."""
    tag, *indicators = heading
    texts = [(part.get("code", ""), _text(part)) for part in element[:] if part.tag == _SUBFIELD]
    subfields = [(code, text) for code, text in texts if code in _SUBFIELD_CODES]
    invalid = [(code, text) for code, text in texts if code not in _SUBFIELD_CODES]
    try:
        _check_tag(tag, is_control=False)
    except _InvalidPartError as error:
        text = " ".join(text for _, text in (*subfields, *invalid))
        raise _InvalidPartError(f"{error}: {_quote(text)} was left out") from None
    for code, text in invalid:
        problem = f"{_quote(code)} is not a valid subfield code" if code else "a subfield has no code"
        warnings.append(f"Field {tag}: {problem}: {_quote(text)} was left out.")
    if invalid and not subfields:
        raise _InvalidPartError(f"Field {tag} was left out: it has no valid subfield")
    for indicator in indicators:
        if indicator not in _INDICATORS:
            warnings.append(f"Field {tag}: {_quote(indicator)} is not a valid indicator: it became a blank.")
    first, second = (each if each in _INDICATORS else " " for each in indicators)
    return tag, first, second, *subfields


def _check_tag(tag: str, *, is_control: bool) -> None:
    if not (len(tag) == 3 and tag.isascii() and tag.isalnum()):
        problem = f"{_quote(tag)} is not a valid field tag" if tag else "A field has no tag"
        raise _InvalidPartError(problem)
    # Control fields are 00X. MARC 21 distinguishes the kinds of fields by tag alone.
    if (tag[:2] == "00" and tag[2].isdigit()) != is_control:
        kind = "control field" if is_control else "data field"
        raise _InvalidPartError(f"A {kind} cannot have the tag {tag}")


def _quote(text: str) -> str:
    """Return the start of a text from the vendor in quotes, in a form that is safe to show."""
    excerpt = excerpt_of(text)
    return repr(excerpt if len(excerpt) <= _MAX_QUOTED else f"{excerpt[:_MAX_QUOTED].rstrip()}...")


def _text(element: etree._Element) -> str:
    return "".join(element.itertext()) if len(element) else element.text or ""


def _raw_ids(raw_xml: str) -> list[str]:
    try:
        root = parse_xml(raw_xml.encode()).root
    except BadResponseException:
        return []
    return [_text(field) for field in root.iter("{*}controlfield") if field.get("tag") == "001"]


def _xml_without_time_stamps(raw_xml: str) -> bytes:
    """Return a canonical form of the record's XML without its time stamps; invalid XML unchanged."""
    try:
        root = parse_xml(raw_xml.encode()).root
    except BadResponseException:
        return raw_xml.encode()
    for field in root.iter("{*}controlfield"):
        if field.get("tag") == "005":
            field.text = None
        elif field.get("tag") == "008":
            field.text = (field.text or "")[6:]
    # Canonical XML (C14N) rejects some namespaces. XPath is faster than `attrib` for many attributes.
    elements = [
        (
            str(each.tag),
            len(each),
            sorted((str(value.attrname), str(value)) for value in _ATTRIBUTES(each)),
            each.text or "",
            each.tail or "",
        )
        for each in root.iter()
    ]
    return json.dumps(elements).encode()


def _encode_field(field: ControlField | DataField) -> Field:
    if len(field) == 2:
        return field[0], field[1].encode()
    tag, first, second, *subfields = field
    parts = [f"{DELIMITER}{code}{value}" for code, value in subfields]
    return tag, f"{first}{second}{''.join(parts)}".encode()
