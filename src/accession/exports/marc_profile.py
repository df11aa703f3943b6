"""Export profile of a library: organisation code, access links and local fields of its MARC records."""

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, TypeAlias

from pydantic import BaseModel, ConfigDict, StringConstraints, ValidationError, field_validator

from accession.core.errors import UserError
from accession.core.validation import first_invalid_field
from accession.exports.templates import check_placeholders, check_url_template

# MARC organisation code in field 003 of the vendor's own records.
_VENDOR_CODE = "MnSpTMCL"

Subfield: TypeAlias = tuple[Annotated[str, StringConstraints(pattern=r"^[0-9a-z]$")], str]
"""Code and value."""


class LocalField(BaseModel):
    """A local field of the library. Values may contain placeholders such as `{identifier}`.

    A subfield that is empty after filling in is omitted, and so is a field without subfields.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    tag: Annotated[str, StringConstraints(pattern=r"^(0[1-9]|[1-9]\d)\d$")]
    indicators: Annotated[str, StringConstraints(pattern=r"^[0-9a-z ]{2}$")] = "  "
    subfields: tuple[Subfield, ...]

    @field_validator("subfields")
    @classmethod
    def _check_placeholders(cls, subfields: tuple[tuple[str, str], ...]) -> tuple[tuple[str, str], ...]:
        for _, value in subfields:
            check_placeholders(value)
        return subfields


class Profile(BaseModel):
    """Export profile of a library.

    Attributes:
        organization: MARC organisation code for field 003.
        url_template: URL of a title in 856 $u, such as
            `https://ebook.yourcloudlibrary.com/library/alder-document_id-{identifier}`; None keeps the
            vendor's URL.
        link: Further subfields of that 856; empty keeps the vendor's.
        fields: Local fields to add to each record.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    organization: Annotated[str, StringConstraints(min_length=1)] = _VENDOR_CODE
    url_template: str | None = None
    link: tuple[Subfield, ...] = ()
    fields: tuple[LocalField, ...] = ()

    @field_validator("url_template")
    @classmethod
    def _check_url_template(cls, template: str | None) -> str | None:
        return None if template is None else check_url_template(template)


def read_profile(path: Path) -> Profile:
    """Read a profile from a TOML file.

    Raises:
        UserError: the file cannot be read or is not a valid profile.
    """
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise UserError(
            f"The profile {path} cannot be read ({reason}): see docs/exports.md for the format."
        ) from None
    return parse_profile(values, f"profile {path}")


def parse_profile(values: Mapping[str, object], source: str) -> Profile:
    """Create a profile from its values; `source` names their origin in error messages.

    Raises:
        UserError: the values are not a valid profile.
    """
    try:
        return Profile.model_validate(values)
    except ValidationError as error:
        field = first_invalid_field(error.errors())
        raise UserError(f"The {source} is invalid: {field.name}: {field.reason}.") from None
