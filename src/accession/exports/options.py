"""What can be chosen of an export beside its titles."""

from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from accession.core.errors import UserError


class Options(BaseModel):
    """The options of a format; those that it does not have are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


Chosen = TypeVar("Chosen", bound=Options)


def chosen(kind: type[Chosen], options: Mapping[str, Any], label: str) -> Chosen:
    """The options of the format that people know as `label`; raises `UserError` when one cannot be used."""
    try:
        return kind.model_validate(options)
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(str(part) for part in first["loc"])
        reason = first["msg"].removeprefix("Value error, ")
        raise UserError(f"The option {name} of a {label} export cannot be used: {reason}.") from None
