"""Validation of the options of an export format."""

from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from accession.catalog.feed_filter import FeedFilter
from accession.core.errors import UserError
from accession.core.validation import first_invalid_field


class Options(BaseModel):
    """Options of a format; unknown options are rejected."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    def check(self, selection: FeedFilter) -> None:
        """Check what writing an export of this selection would find invalid.

        Raises:
            UserError: an option is invalid.
        """


OptionsT = TypeVar("OptionsT", bound=Options)


def parse_options(model: type[OptionsT], options: Mapping[str, Any], label: str) -> OptionsT:
    """Validate the options of the format with this label.

    Raises:
        UserError: an option is unknown or invalid.
    """
    try:
        return model.model_validate(options)
    except ValidationError as error:
        field = first_invalid_field(error.errors())
        raise UserError(f"The option {field.name} of a {label} export is invalid: {field.reason}.") from None
