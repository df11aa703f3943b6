"""Pages of purchase records: MARCXML, read once into plain fields.

Most records are known already: ids and hash come from the plain fields, and what only a new or an unusable
record needs, binary MARC 21 or raw XML, is made when it is asked for.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import starmap
from typing import TypeAlias

from lxml import etree
from pymarc import Field, Indicators, Record, Subfield

from accession.bibliotheca.errors import UNKNOWN_CONTEXT, BadResponseException, ResponseContext, excerpt_of
from accession.bibliotheca.xml import parse, read

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
_encode = json.JSONEncoder(separators=(",", ":"), check_circular=False).encode

# What ISO 2709 has digits for: 4 for the length of a field, 5 for that of a record.
_LONGEST_FIELD = 9_999
_LONGEST_RECORD = 99_999
_DIRECTORY_ENTRY = 12
# Asked for are 50.
_MOST_RECORDS = 2_000
# Cut no further than this, so that an item id stays whole.
_SHORTEST_CUT = 128


ControlField: TypeAlias = tuple[str, str]
"""Tag and data."""
DataField: TypeAlias = tuple[str, str, str, *tuple[tuple[str, str], ...]]
"""Tag, both indicators, and any number of subfields: code and value."""


@dataclass(frozen=True)
class MarcContent:
    """What a record says: 24 characters of leader, and its fields in their order."""

    leader: str
    fields: tuple[ControlField | DataField, ...]

    def as_pymarc(self) -> Record:
        """The same as a pymarc record."""
        return Record(fields=[_pymarc_field(field) for field in self.fields], leader=self.leader)


@dataclass(frozen=True)
class MarcRecord:
    """One purchase record as it came.

    `source` is its element, or the text that was kept of it. `content` is None when MARC 21 cannot hold
    the element, and `fault` then says why; `as_marc21` raises `ValueError` then.
    """

    source: etree._Element | str
    content: MarcContent | None
    fault: str | None

    @cached_property
    def raw_xml(self) -> str:
        """The record element, well-formed by itself; of a record that was kept, the very text."""
        if isinstance(self.source, str):
            return self.source
        return etree.tostring(self.source, encoding="unicode", with_tail=False)

    @property
    def item_ids(self) -> tuple[str, ...]:
        """The text of every 001 that is not blank, stripped. Any number but one makes a record unusable.

        It is also given for a record with a fault, as far as its XML says.
        """
        if self.content is not None:
            texts = [field[1] for field in self.content.fields if field[0] == "001"]
        else:
            texts = _raw_ids(self.raw_xml)
        return tuple(text.strip() for text in texts if text.strip())

    def content_hash(self) -> str:
        """SHA-256, in hexadecimal, of what the record says.

        The vendor stamps 005 and the first six characters of 008 anew in every answer, and the leader's
        length and base address say nothing: they take no part. A record with a fault has a hash of its
        XML, which leaves out the same stamps, so that it is known again when it is sent again.
        """
        if self.content is None:
            return hashlib.sha256(_without_stamps(self.raw_xml)).hexdigest()
        leader = self.content.leader
        said = [
            field if field[0] != "008" else ("008", field[1][6:])
            for field in self.content.fields
            if field[0] != "005"
        ]
        return hashlib.sha256(_encode([leader[5:12] + leader[17:], said]).encode()).hexdigest()

    def as_marc21(self) -> bytes:
        """The record as binary MARC 21 (ISO 2709) in UTF-8, which always reads back.

        The form has room for 9,999 bytes a field and 99,999 bytes a record. A field that is longer is
        cut at a character's border, the subfields after the cut go; a record that is longer has its
        longest fields cut further, and last of all loses fields from its end. `raw_xml` is whole.
        """
        if self.content is None:
            raise ValueError(f"This record cannot be MARC 21: {self.fault}.")
        whole = self.content.as_pymarc().as_marc21()
        if len(whole) <= _LONGEST_FIELD:
            return whole
        limit = _LONGEST_FIELD
        fields = [_shortened(field, limit) for field in self.content.fields]
        while _size(fields) > _LONGEST_RECORD and limit > _SHORTEST_CUT:
            limit = max(limit // 2, _SHORTEST_CUT)
            fields = [_shortened(field, limit) for field in fields]
        while _size(fields) > _LONGEST_RECORD:
            del fields[-1 - len(fields) // 10 :]
        return MarcContent(self.content.leader, tuple(fields)).as_pymarc().as_marc21()


@dataclass(frozen=True)
class MarcPage:
    """A page of purchase records in the vendor's order, those with a fault among them.

    `repaired` when the page was well-formed only after the repair; `requests` is how many were made for it.
    """

    records: tuple[MarcRecord, ...]
    repaired: bool
    requests: int


def parse_marc_page(body: bytes, context: ResponseContext = UNKNOWN_CONTEXT, requests: int = 1) -> MarcPage:
    """The page in `body`. Text and elements that MARCXML does not know do no harm.

    Raises `RemoteInitiatedServerError` and `BadResponseException`, as `xml.read` does: anything that is
    not a MARC collection is the vendor's fault and never a page without records.
    """
    document = read(body, "collection", context)
    if document.root.tag != _COLLECTION:
        raise context.error(BadResponseException, "the vendor sent a collection that is not MARCXML", body)
    elements = list(document.root.iter("{*}record"))
    if len(elements) > _MOST_RECORDS:
        raise context.error(BadResponseException, f"the vendor sent {len(elements):,} records at once", body)
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
    return MarcRecord(raw_xml, record.content, record.fault)


class _UnrepresentableError(Exception):
    """MARC 21 has no place for what the element says."""


def _marc_record(element: etree._Element) -> MarcRecord:
    try:
        return MarcRecord(element, _content(element), None)
    except _UnrepresentableError as fault:
        return MarcRecord(element, None, str(fault))


def _content(element: etree._Element) -> MarcContent:
    if element.tag != _RECORD:
        raise _UnrepresentableError(f"the element {excerpt_of(str(element.tag))!r} is not a MARCXML record")
    fields: list[ControlField | DataField] = []
    # lxml makes a slice in half the time that it takes to iterate.
    for child in element[:]:
        kind = child.tag
        if kind == _DATA_FIELD:
            fields.append(_data_field(child))
        elif kind == _CONTROL_FIELD:
            tag = child.get("tag", "")
            _check_tag(tag, control=True)
            fields.append((tag, _text(child)))
    if not fields:
        raise _UnrepresentableError("the record has no fields")
    return MarcContent(_leader(element), tuple(fields))


def _leader(element: etree._Element) -> str:
    """The leader, or a plain one where it is missing or deformed: no title is lost for its leader.

    What is the same in every MARC 21 record is set: the counts of indicators and codes, and the map.
    """
    leader = element.findtext(_LEADER) or ""
    if len(leader) != _LEADER_LENGTH or not leader.isascii():
        leader = _BLANK_LEADER
    return f"{leader[:10]}22{leader[12:20]}4500"


def _data_field(element: etree._Element) -> DataField:
    tag, first, second = _heading(
        element.get("tag", ""), element.get("ind1") or " ", element.get("ind2") or " "
    )
    subfields: list[tuple[str, str]] = []
    for part in element[:]:
        if part.tag != _SUBFIELD:
            continue
        code = part.get("code", "")
        if code not in _SUBFIELD_CODES:
            raise _UnrepresentableError(f"{excerpt_of(code)!r} is not the code of a subfield, in field {tag}")
        subfields.append((code, _text(part)))
    return tag, first, second, *subfields


# A few dozen headings stand over all fields. One that is refused is not remembered.
@lru_cache(maxsize=1024)
def _heading(tag: str, first: str, second: str) -> tuple[str, str, str]:
    """Tag and indicators of a data field, when they can be that."""
    _check_tag(tag, control=False)
    if first not in _INDICATORS or second not in _INDICATORS:
        shown = (excerpt_of(first) or " ", excerpt_of(second) or " ")
        raise _UnrepresentableError(f"{shown!r} are not the indicators of field {tag}")
    return tag, first, second


def _check_tag(tag: str, *, control: bool) -> None:
    if not (len(tag) == 3 and tag.isascii() and tag.isalnum()):
        raise _UnrepresentableError(f"{excerpt_of(tag)!r} is not the tag of a field")
    # Control fields are 00X; pymarc goes by the tag alone, and would drop the data of any other.
    if (tag[:2] == "00" and tag[2].isdigit()) != control:
        kind = "controlfield" if control else "datafield"
        raise _UnrepresentableError(f"a {kind} cannot have the tag {tag}")


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


def _pymarc_field(field: ControlField | DataField) -> Field:
    if len(field) == 2:
        return Field(field[0], data=field[1])
    tag, first, second, *subfields = field
    return Field(tag, Indicators(first, second), list(starmap(Subfield, subfields)))


def _size(fields: Sequence[ControlField | DataField]) -> int:
    """Bytes of a record of these fields: leader, directory, fields, and the terminators of both."""
    return _LEADER_LENGTH + 2 + sum(_DIRECTORY_ENTRY + _field_size(field) for field in fields)


def _field_size(field: ControlField | DataField) -> int:
    """Bytes of the field: indicators, each subfield with its code and what marks it, and the terminator."""
    if len(field) == 2:
        return len(field[1].encode()) + 1
    return 3 + sum(2 + len(value.encode()) for _, value in field[3:])


def _shortened(field: ControlField | DataField, limit: int) -> ControlField | DataField:
    """The field in at most `limit` bytes, terminator included."""
    if _field_size(field) <= limit:
        return field
    if len(field) == 2:
        return field[0], _cut(field[1], limit - 1)
    tag, first, second, *subfields = field
    room = limit - 3
    kept: list[tuple[str, str]] = []
    for code, value in subfields:
        room -= 2
        if room < 0:
            break
        kept.append((code, _cut(value, room)))
        if kept[-1][1] != value:
            break
        room -= len(value.encode())
    return tag, first, second, *kept


def _cut(text: str, size: int) -> str:
    """The longest beginning of `text` that fits `size` bytes of UTF-8."""
    return text.encode()[:size].decode("utf-8", "ignore")
