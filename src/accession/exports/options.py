"""Validation of the options of an export format."""

from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from accession.core.errors import UserError


class Options(BaseModel):
    """Options of a format; unknown options are rejected."""

    model_config = ConfigDict(frozen=True, extra="forbid")


OptionsT = TypeVar("OptionsT", bound=Options)


def parse_options(model: type[OptionsT], options: Mapping[str, Any], label: str) -> OptionsT:
    """Validate the options of the format with this label.

    Raises:
        UserError: an option is unknown or invalid.
    """
    try:
        return model.model_validate(options)
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(str(part) for part in first["loc"])
        reason = first["msg"].removeprefix("Value error, ")
        raise UserError(f"The option {name} of a {label} export is invalid: {reason}.") from None
