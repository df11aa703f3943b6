"""Short descriptions of Pydantic's validation errors."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class InvalidField:
    """The first invalid field of an input: its path, and the reason without a full stop."""

    path: tuple[str, ...]
    reason: str

    @property
    def name(self) -> str:
        """Return the path as one name, such as `exports.0.format`."""
        return ".".join(self.path)


def first_invalid_field(errors: Sequence[Mapping[str, Any]]) -> InvalidField:
    """Return the first of the errors that `ValidationError.errors()` lists."""
    path = tuple(str(part) for part in errors[0]["loc"])
    # Pydantic writes this before the message of a validator's ValueError.
    return InvalidField(path, errors[0]["msg"].removeprefix("Value error, "))
