"""MARC 21 as people read it: a line a field."""

from dataclasses import dataclass

import pymarc


@dataclass(frozen=True)
class MarcField:
    """A field of a record: `text` of a control field; of a data field two `indicators`, and the `subfields`
    as code and value, in their order."""

    tag: str
    indicators: str = ""
    text: str = ""
    subfields: tuple[tuple[str, str], ...] = ()


def marc_fields(marc: bytes) -> list[MarcField]:
    """The leader, as a field LDR, and the fields of a record in binary MARC 21, in their order."""
    record = pymarc.Record(data=marc)
    return [MarcField("LDR", text=str(record.leader)), *map(_field, record.fields)]


def _field(field: pymarc.Field) -> MarcField:
    if field.control_field:
        return MarcField(field.tag, text=field.data or "")
    return MarcField(
        field.tag,
        indicators="".join(field.indicators or ()),
        subfields=tuple((subfield.code, subfield.value) for subfield in field.subfields),
    )
