"""Sort orders as text: the name of a key, with `-` before it for descending order."""

from enum import StrEnum
from typing import TypeVar

from accession.core.errors import InvalidInput

_Key = TypeVar("_Key", bound=StrEnum)


def parse_sort_order(text: str, keys: type[_Key]) -> tuple[_Key, bool]:
    """Return the key of the order that is written like this, and whether it is descending.

    Raises:
        InvalidInput: there is no such key.
    """
    name = text.removeprefix("-")
    if name not in list(keys):
        raise InvalidInput(
            f"{text!r} is not a sort order: enter one of {', '.join(keys)}, with - before it for "
            "descending order."
        )
    return keys(name), text != name


def format_sort_order(key: StrEnum, *, is_descending: bool) -> str:
    """Return the order as `parse_sort_order` reads it."""
    return f"{'-' if is_descending else ''}{key}"
