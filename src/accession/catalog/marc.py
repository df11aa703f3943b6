"""Read binary MARC 21 records into fields that a page or an API can show."""

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
