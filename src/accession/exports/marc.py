"""MARC 21 that a library system can load: the vendor's own record of a title with what is the library's, or
where the vendor has sent none, one made from the metadata."""

import re
import tomllib
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Annotated, TypeAlias

import pymarc
from pydantic import BaseModel, ConfigDict, StringConstraints, ValidationError, field_validator

from accession.catalog.change_feed import FeedTitle
from accession.core.errors import UserError
from accession.exports.described import from_metadata as described
from accession.exports.iso2709 import Field, MarcParts, control_field, data_field, taken_apart
from accession.exports.links import filled_address, filled_text, said_of, usable_address, usable_text

# What the vendor's own records have in 003.
_VENDOR = "MnSpTMCL"
_OURS = frozenset({"001", "003", "005"})
_ACCESS = b"40"
_LINK = (("3", "cloudLibrary"),)
_URL = re.compile(rb"\x1fu([^\x1f]+)")
_NEW, _CHANGED, _DELETED = "ncd"


Subfield: TypeAlias = tuple[Annotated[str, StringConstraints(pattern=r"^[0-9a-z]$")], str]
"""Code and value."""


class LocalField(BaseModel):
    """A field of the library's own. Values may hold placeholders, as `{identifier}`; a subfield that has
    nothing to say is left out, and so is a field without subfields."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    tag: Annotated[str, StringConstraints(pattern=r"^(0[1-9]|[1-9]\d)\d$")]
    indicators: Annotated[str, StringConstraints(pattern=r"^[0-9a-z ]{2}$")] = "  "
    subfields: tuple[Subfield, ...]

    @field_validator("subfields")
    @classmethod
    def _usable(cls, subfields: tuple[tuple[str, str], ...]) -> tuple[tuple[str, str], ...]:
        for _, value in subfields:
            usable_text(value)
        return subfields


class Profile(BaseModel):
    """What a library wants of its records. `organization` is the code for 003; `url_template` the address of
    a title, as `https://ebook.yourcloudlibrary.com/library/alder-document_id-{identifier}`: None keeps the
    vendor's own. `link` is what stands beside it in 856; none of it keeps what the vendor has there."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    organization: Annotated[str, StringConstraints(min_length=1)] = _VENDOR
    url_template: str | None = None
    link: tuple[Subfield, ...] = ()
    fields: tuple[LocalField, ...] = ()

    @field_validator("url_template")
    @classmethod
    def _leads_to_a_title(cls, template: str | None) -> str | None:
        return None if template is None else usable_address(template)


def read_profile(path: Path) -> Profile:
    """The profile in the TOML file; raises `UserError` when it cannot be used."""
    try:
        said = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise UserError(f"The profile {path} cannot be read ({reason}): see docs/integrations.md.") from None
    return made_profile(said, f"profile {path}")


def made_profile(said: Mapping[str, object], place: str) -> Profile:
    """The profile that says this; raises `UserError` naming `place` when it cannot be used."""
    try:
        return Profile.model_validate(said)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        reason = first["msg"].removeprefix("Value error, ")
        raise UserError(f"The {place} cannot be used: {where}: {reason}.") from None


def loadable(
    found: FeedTitle, profile: Profile, *, availability: bool = False, since: datetime | None = None
) -> pymarc.Record:
    """`loadable_parts` as a pymarc record."""
    parts = loadable_parts(found, profile, availability=availability, since=since)
    return pymarc.Record(data=parts.as_marc21(), to_unicode=True, force_utf8=True)


def loadable_parts(
    found: FeedTitle, profile: Profile, *, availability: bool = False, since: datetime | None = None
) -> MarcParts:
    """The title's record as a library system can load it.

    UTF-8; 001 the vendor's id, 003 the profile's code, 005 when the title was modified; the access link in
    856 40 once; then, on request, availability in 852, and the profile's fields. It is deleted (leader/05)
    when the title is removed, and otherwise new; for who has loaded the titles of before `since`, changed
    where it was there by then.
    """
    organization = profile.organization
    vendors = taken_apart(found.marc) if found.marc is not None else described(found, organization)
    said = said_of(found)
    access = _access(vendors, profile, said)
    fields = [
        control_field("001", found.title.identifier),
        control_field("003", profile.organization),
        ("005", f"{found.modified_at:%Y%m%d%H%M%S}.0".encode()),
        *(each for each in vendors.fields if each[0] not in _OURS and not _is_access(each)),
        *([_availability(found)] if availability else []),
        *([access] if access else []),
        *(made for field in profile.fields if (made := _local(field, said)) is not None),
    ]
    if found.is_removed:
        state = _DELETED
    else:
        state = _CHANGED if since is not None and found.created_at < since else _NEW
    return MarcParts(f"{vendors.leader[:5]}{state}{vendors.leader[6:]}", fields)


def from_metadata(found: FeedTitle, profile: Profile) -> pymarc.Record:
    """The title's record from the metadata alone, without what is the library's."""
    return pymarc.Record(data=described(found, profile.organization).as_marc21())


def as_marc21(record: pymarc.Record) -> bytes:
    """The record as binary MARC 21 in UTF-8."""
    return bytes(record.as_marc21())


def as_marcxml(record: pymarc.Record) -> bytes:
    """The record as one <record> of MARCXML, in the default namespace, without XML declaration."""
    return taken_apart(record.as_marc21()).as_marcxml()


def _is_access(field: Field) -> bool:
    return field[0] == "856" and field[1][:2] == _ACCESS


def _access(vendors: MarcParts, profile: Profile, said: Mapping[str, str]) -> Field | None:
    if profile.url_template is not None:
        address = filled_address(profile.url_template, said)
    else:
        theirs = next(filter(_is_access, vendors.fields), None)
        found = None if theirs is None else _URL.search(theirs[1])
        if found is None or not profile.link:
            return theirs
        address = found[1].decode()
    beside = profile.link or _LINK
    before, after = ([each for each in beside if (each[0] == "3") is first] for first in (True, False))
    return data_field("856", "40", *before, ("u", address), *after)


def _availability(found: FeedTitle) -> Field:
    title = found.title
    owned, free = title.licenses_owned, title.licenses_available
    return data_field(
        "852",
        "  ",
        ("b", title.collection),
        ("x", f"owned: {owned}"),
        ("x", f"available: {free}"),
        ("x", f"reserved: {title.licenses_reserved}"),
        ("x", f"holds: {title.patrons_in_hold_queue}"),
        ("z", f"{free} of {owned} {'copy' if owned == 1 else 'copies'} available"),
    )


def _local(field: LocalField, said: Mapping[str, str]) -> Field | None:
    filled = [(code, text) for code, value in field.subfields if (text := filled_text(value, said).strip())]
    return data_field(field.tag, field.indicators, *filled) if filled else None
