"""Read binary MARC 21 records into fields that a page or an API can show."""

from collections.abc import Sequence
from dataclasses import dataclass

from accession.core.marc21 import DELIMITER, Field, is_control_field, parse_marc21


@dataclass(frozen=True)
class MarcField:
    """A field of a MARC record.

    A control field has a `text`; a data field has two `indicators`, and `subfields` as (code, value) in their
    order.
    """

    tag: str
    indicators: str = ""
    text: str = ""
    subfields: tuple[tuple[str, str], ...] = ()


def marc_fields(marc: bytes) -> list[MarcField]:
    """Return the leader, with the tag LDR, and the fields of a binary MARC 21 record in their order."""
    record = parse_marc21(marc)
    return [MarcField("LDR", text=record.leader), *map(_decode_field, record.fields)]


def _decode_field(field: Field) -> MarcField:
    tag, content = field[0], field[1].decode()
    if is_control_field(tag):
        return MarcField(tag, text=content)
    indicators, *subfields = content.split(DELIMITER)
    return MarcField(
        tag, indicators=indicators, subfields=tuple((part[:1], part[1:]) for part in subfields if part)
    )


def series_statements(fields: Sequence[MarcField]) -> list[str]:
    """Return the series of a record, such as "Discworld ; 8": those of fields 490, else of 800 to 830."""
    for tags in (("490",), ("800", "810", "811", "830")):
        statements = [_join_subfields(field, "atv") for field in fields if field.tag in tags]
        if any(statements):
            return list(filter(None, statements))
    return []


def audience_notes(fields: Sequence[MarcField]) -> list[str]:
    """Return the target audience notes of a record (field 521)."""
    notes = (_join_subfields(field, "a") for field in fields if field.tag == "521")
    return list(filter(None, notes))


def _join_subfields(field: MarcField, codes: str) -> str:
    return " ".join(value for code, value in field.subfields if code in codes).strip()
