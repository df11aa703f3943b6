"""Differences between a rejected purchase record and the last record of its title that was stored."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from difflib import SequenceMatcher
from html import unescape
from typing import Literal

from sqlalchemy import select
from sqlalchemy.orm import Session

from accession.catalog.marc import MarcField, marc_fields
from accession.catalog.purchase_dates import PurchaseDate
from accession.core.vocabulary import IdentifierType
from accession.core.workflow import Workflow
from accession.db.bulk import in_array
from accession.db.models import Identifier, LicensePool, PurchaseRecord, RejectedRecord

# The start of an element of MARCXML, its attributes, and the text after it.
_ELEMENT = re.compile(r"<(?:[\w.-]+:)?(leader|controlfield|datafield|subfield)\b([^<>]*)>([^<]*)")
_ATTRIBUTE = re.compile(r"""([\w.-]+)\s*=\s*["']([^"'<]*)["']""")
# Also in a data field, or in its subfield: that may be why the record was rejected.
_IDENTIFIER = re.compile(r"""tag\s*=\s*["']001["'][^<>]*>\s*(?:<[^<>]*>\s*)?([^<]+)""")
_MAX_IDENTIFIERS = 20


@dataclass(frozen=True)
class DiffLine:
    """A line of a diff: a field such as `245 10 $aSolaris`.

    It is in both records ("same"), only in the stored one ("removed"), or only in the rejected one ("added").
    """

    change: Literal["same", "removed", "added"]
    text: str


@dataclass(frozen=True)
class RecordDiff:
    """Differences between the stored record of a title, and a record that was rejected.

    Attributes:
        identifier: the vendor's id of the title.
        purchased_on: day or month under which the record is stored.
        lines: the fields of both, in their order.
    """

    identifier: str
    purchased_on: str
    lines: tuple[DiffLine, ...]


def diff_with_stored_record(session: Session, record_id: int) -> RecordDiff | None:
    """Compare a rejected purchase record with the latest one that is stored for its title.

    Returns:
        None for an event, and if the collection has no record of a title that the rejected one names.
    """
    rejected = session.get_one(RejectedRecord, record_id)
    identifiers = list(dict.fromkeys(map(str.strip, _IDENTIFIER.findall(rejected.raw_xml))))
    if rejected.workflow != Workflow.PURCHASES or not identifiers:
        return None
    query = (
        select(PurchaseRecord, Identifier.identifier)
        .join(LicensePool, PurchaseRecord.license_pool_id == LicensePool.id)
        .join(Identifier, LicensePool.identifier_id == Identifier.id)
        .where(PurchaseRecord.collection_id == rejected.collection_id)
        .where(Identifier.type == IdentifierType.BIBLIOTHECA)
        .where(in_array(Identifier.identifier, identifiers[:_MAX_IDENTIFIERS]))
        .order_by(PurchaseRecord.purchased_on.desc(), PurchaseRecord.id.desc())
        .limit(1)
    )
    row = session.execute(query).one_or_none()
    if row is None:
        return None
    stored, identifier = row
    lines = _diff(list(_stored_lines(stored.marc)), list(_raw_lines(rejected.raw_xml)))
    purchased_on = str(PurchaseDate(stored.purchased_on, stored.month_only))
    return RecordDiff(identifier, purchased_on, tuple(lines))


def _diff(old: Sequence[str], new: Sequence[str]) -> Iterator[DiffLine]:
    matcher = SequenceMatcher(None, old, new, autojunk=False)
    for operation, old_start, old_end, new_start, new_end in matcher.get_opcodes():
        if operation == "equal":
            yield from (DiffLine("same", text) for text in old[old_start:old_end])
        else:
            yield from (DiffLine("removed", text) for text in old[old_start:old_end])
            yield from (DiffLine("added", text) for text in new[new_start:new_end])


def _stored_lines(marc: bytes) -> Iterator[str]:
    for field in marc_fields(marc):
        if field.indicators:
            yield _data_line(field)
        elif line := _control_line(field.tag, field.text):
            yield line


def _data_line(field: MarcField) -> str:
    subfields = (f"${code}{text}" for code, text in field.subfields)
    return " ".join((field.tag, field.indicators.replace(" ", "_"), *subfields))


def _control_line(tag: str, text: str) -> str | None:
    """Return the line of a leader or control field without what differs with each response of the vendor.

    These are the lengths in the leader, field 005, and the date in field 008.
    """
    if tag == "005":
        return None
    if tag == "LDR":
        text = f".....{text[5:12]}.....{text[17:]}"
    elif tag == "008":
        text = f"......{text[6:]}"
    return f"{tag} {text}"


def _raw_lines(raw_xml: str) -> Iterator[str]:
    """Yield the line of each field, also of XML that is malformed."""
    data_field: MarcField | None = None
    for name, attribute_text, raw_text in _ELEMENT.findall(raw_xml):
        attributes = {key: unescape(value) for key, value in _ATTRIBUTE.findall(attribute_text)}
        text = unescape(raw_text).strip()
        if name == "subfield" and data_field is not None:
            subfields = (*data_field.subfields, (attributes.get("code", "?"), text))
            data_field = replace(data_field, subfields=subfields)
            continue
        if data_field is not None:
            yield _data_line(data_field)
            data_field = None
        tag = "LDR" if name == "leader" else attributes.get("tag", "???")
        if name == "datafield":
            indicators = "".join(attributes.get(key) or " " for key in ("ind1", "ind2"))
            # Text outside a subfield is a fault.
            data_field = MarcField(tag, indicators=indicators, subfields=((" ", text),) if text else ())
        elif line := _control_line(tag, text):
            yield line
    if data_field is not None:
        yield _data_line(data_field)
