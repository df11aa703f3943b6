"""Pages of purchase records: MARCXML into pymarc records that keep their raw XML."""

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from lxml import etree
from pymarc import Field, Indicators, Record, Subfield

from accession.bibliotheca.errors import UNKNOWN_ORIGIN, BadResponseException, Origin, excerpt_of
from accession.bibliotheca.xml import local_name, parse, read

MARC_NAMESPACE = "http://www.loc.gov/MARC21/slim"

_COLLECTION, _RECORD, _LEADER, _CONTROL_FIELD, _DATA_FIELD, _SUBFIELD = (
    f"{{{MARC_NAMESPACE}}}{name}"
    for name in ("collection", "record", "leader", "controlfield", "datafield", "subfield")
)
_ATTRIBUTES = etree.XPath("@*")
_LEADER_LENGTH = 24
_BLANK_LEADER = "     nam a22     3a 4500"
_SUBFIELD_CODES = frozenset(map(chr, range(ord("!"), ord("~") + 1)))
_INDICATORS = _SUBFIELD_CODES | {" "}

# What ISO 2709 has digits for: 4 for the length of a field, 5 for that of a record.
_LONGEST_FIELD = 9_999
_LONGEST_RECORD = 99_999
_DIRECTORY_ENTRY = 12
# Asked for are 50.
_MOST_RECORDS = 2_000
# Cut no further than this, so that an item id stays whole.
_SHORTEST_CUT = 128


@dataclass(frozen=True)
class MarcRecord:
    """One purchase record as it came.

    `raw_xml` is the record element, well-formed by itself. `record` is None when MARC 21 cannot hold the
    element, and `fault` then says why; `as_marc21` raises `ValueError` then.
    """

    raw_xml: str
    record: Record | None
    fault: str | None

    @property
    def item_ids(self) -> tuple[str, ...]:
        """The text of every 001 that is not blank, stripped. Any number but one makes a record unusable.

        It is also given for a record with a fault, as far as its XML says.
        """
        if self.record is not None:
            texts = [field.data or "" for field in self.record.get_fields("001")]
        else:
            texts = _raw_ids(self.raw_xml)
        return tuple(text.strip() for text in texts if text.strip())

    def content_hash(self) -> str:
        """SHA-256, in hexadecimal, of what the record says.

        The vendor stamps 005 and the first six characters of 008 anew in every answer, and the leader's
        length and base address say nothing: they take no part. A record with a fault has a hash of its
        XML, which leaves out the same stamps, so that it is known again when it is sent again.
        """
        record = self.record
        if record is None:
            return hashlib.sha256(_without_stamps(self.raw_xml)).hexdigest()
        leader = str(record.leader)
        content = [
            leader[5:12] + leader[17:],
            [_content(field) for field in record.fields if field.tag != "005"],
        ]
        return hashlib.sha256(json.dumps(content, separators=(",", ":")).encode()).hexdigest()

    def as_marc21(self) -> bytes:
        """The record as binary MARC 21 (ISO 2709) in UTF-8, which always reads back.

        The form has room for 9,999 bytes a field and 99,999 bytes a record. A field that is longer is
        cut at a character's border, the subfields after the cut go; a record that is longer has its
        longest fields cut further, and last of all loses fields from its end. `raw_xml` is whole.
        """
        record = self._usable()
        leader = str(record.leader)
        limit = _LONGEST_FIELD
        fields = [_shortened(field, limit) for field in record.fields]
        while _size(fields) > _LONGEST_RECORD and limit > _SHORTEST_CUT:
            limit = max(limit // 2, _SHORTEST_CUT)
            fields = [_shortened(field, limit) for field in fields]
        while _size(fields) > _LONGEST_RECORD:
            del fields[-1 - len(fields) // 10 :]
        return Record(fields=fields, leader=leader[:9] + "a" + leader[10:]).as_marc21()

    def _usable(self) -> Record:
        if self.record is None:
            raise ValueError(f"This record cannot be MARC 21: {self.fault}.")
        return self.record


@dataclass(frozen=True)
class MarcPage:
    """A page of purchase records in the vendor's order, those with a fault among them.

    `repaired` when the page was well-formed only after the repair; `requests` is how many were made for it.
    """

    records: tuple[MarcRecord, ...]
    repaired: bool
    requests: int


def parse_marc_page(body: bytes, origin: Origin = UNKNOWN_ORIGIN, requests: int = 1) -> MarcPage:
    """The page in `body`. Text and elements that MARCXML does not know do no harm.

    Raises `RemoteInitiatedServerError` and `BadResponseException`, as `xml.read` does: anything that is
    not a MARC collection is the vendor's fault and never a page without records.
    """
    document = read(body, "collection", origin)
    if document.root.tag != _COLLECTION:
        raise origin.error(BadResponseException, "the vendor sent a collection that is not MARCXML", body)
    elements = list(document.root.iter("{*}record"))
    if len(elements) > _MOST_RECORDS:
        raise origin.error(BadResponseException, f"the vendor sent {len(elements):,} records at once", body)
    return MarcPage(
        tuple(_marc_record(element) for element in elements),
        document.repaired,
        requests,
    )


def marc_record_from_xml(raw_xml: str) -> MarcRecord:
    """The record whose `raw_xml` was kept, read anew. XML that is no record is a record with a fault."""
    try:
        record = _marc_record(parse(raw_xml.encode()).root)
    except BadResponseException as error:
        return MarcRecord(raw_xml, None, error.problem)
    return MarcRecord(raw_xml, record.record, record.fault)


class _UnrepresentableError(Exception):
    """MARC 21 has no place for what the element says."""


def _marc_record(element: etree._Element) -> MarcRecord:
    raw_xml = etree.tostring(element, encoding="unicode", with_tail=False)
    try:
        return MarcRecord(raw_xml, _record(element), None)
    except _UnrepresentableError as fault:
        return MarcRecord(raw_xml, None, str(fault))


def _record(element: etree._Element) -> Record:
    if element.tag != _RECORD:
        raise _UnrepresentableError(f"the element {excerpt_of(str(element.tag))!r} is not a MARCXML record")
    fields = list(_fields(element))
    if not fields:
        raise _UnrepresentableError("the record has no fields")
    return Record(fields=fields, leader=_leader(element))


def _leader(element: etree._Element) -> str:
    """The leader, or a plain one where it is missing or deformed: no title is lost for its leader."""
    leader = element.findtext(_LEADER) or ""
    return leader if len(leader) == _LEADER_LENGTH and leader.isascii() else _BLANK_LEADER


def _fields(element: etree._Element) -> Iterator[Field]:
    for child in element:
        kind = child.tag
        if kind == _DATA_FIELD:
            yield _data_field(child)
        elif kind == _CONTROL_FIELD:
            yield Field(_tag(child, control=True), data=_text(child))


def _data_field(element: etree._Element) -> Field:
    tag = _tag(element, control=False)
    indicators = Indicators(element.get("ind1") or " ", element.get("ind2") or " ")
    if indicators.first not in _INDICATORS or indicators.second not in _INDICATORS:
        shown = tuple(excerpt_of(indicator) or " " for indicator in indicators)
        raise _UnrepresentableError(f"{shown!r} are not the indicators of field {tag}")
    subfields = [Subfield(part.get("code", ""), _text(part)) for part in element if part.tag == _SUBFIELD]
    for subfield in subfields:
        if subfield.code not in _SUBFIELD_CODES:
            raise _UnrepresentableError(
                f"{excerpt_of(subfield.code)!r} is not the code of a subfield, in field {tag}"
            )
    return Field(tag, indicators, subfields)


def _tag(element: etree._Element, *, control: bool) -> str:
    tag = element.get("tag", "")
    if not (len(tag) == 3 and tag.isascii() and tag.isalnum()):
        raise _UnrepresentableError(f"{excerpt_of(tag)!r} is not the tag of a field")
    # Control fields are 00X; pymarc goes by the tag alone, and would drop the data of any other.
    if (tag[:2] == "00" and tag[2].isdigit()) != control:
        raise _UnrepresentableError(f"a {local_name(element)} cannot have the tag {tag}")
    return tag


def _text(element: etree._Element) -> str:
    return "".join(element.itertext()) if len(element) else element.text or ""


def _raw_ids(raw_xml: str) -> list[str]:
    try:
        root = parse(raw_xml.encode()).root
    except BadResponseException:
        return []
    return [_text(field) for field in root.iter("{*}controlfield") if field.get("tag") == "001"]


def _without_stamps(raw_xml: str) -> bytes:
    """What the record's XML says, however it is written, without the stamps; text that is no XML as it is."""
    try:
        root = parse(raw_xml.encode()).root
    except BadResponseException:
        return raw_xml.encode()
    for field in root.iter("{*}controlfield"):
        if field.get("tag") == "005":
            field.text = None
        elif field.get("tag") == "008":
            field.text = (field.text or "")[6:]
    # Not as Canonical XML: it refuses some namespaces. XPath finds many attributes faster than `attrib`.
    said = [
        (
            str(each.tag),
            len(each),
            sorted((str(value.attrname), str(value)) for value in _ATTRIBUTES(each)),
            each.text or "",
            each.tail or "",
        )
        for each in root.iter()
    ]
    return json.dumps(said).encode()


def _content(field: Field) -> list[object]:
    if field.control_field:
        data = field.data or ""
        return [field.tag, data[6:] if field.tag == "008" else data]
    return [field.tag, field.indicator1, field.indicator2, *(list(part) for part in field.subfields)]


def _size(fields: Iterable[Field]) -> int:
    """Bytes of a record of these fields: leader, directory, fields, and the terminators of both."""
    return _LEADER_LENGTH + 2 + sum(_DIRECTORY_ENTRY + len(field.as_marc("utf-8")) for field in fields)


def _shortened(field: Field, limit: int) -> Field:
    """`field` in at most `limit` bytes, terminator included."""
    if len(field.as_marc("utf-8")) <= limit:
        return field
    if field.control_field:
        return Field(field.tag, data=_cut(field.data or "", limit - 1))
    room = limit - 3
    kept = []
    for code, value in field.subfields:
        room -= 2
        if room < 0:
            break
        kept.append(Subfield(code, _cut(value, room)))
        if kept[-1].value != value:
            break
        room -= len(value.encode())
    return Field(field.tag, field.indicators, kept)


def _cut(text: str, size: int) -> str:
    """The longest beginning of `text` that fits `size` bytes of UTF-8."""
    return text.encode()[:size].decode("utf-8", "ignore")
