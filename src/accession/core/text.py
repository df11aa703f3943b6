"""TODO."""

from typing import Annotated
from unicodedata import normalize

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
)

# A row of a B-tree index holds 2,704 bytes: what is found by its name or address stays below.
_LONGEST_NAME = 300


_LONGEST_ADDRESS = 2000


# Of a title that goes on for ever, words beyond these find nothing; PostgreSQL takes no more than a megabyte.
_LONGEST_SEARCH_TEXT = 4000


def storable(text: str) -> str:
    """Text as PostgreSQL can hold it: without NUL, and without lone surrogates, which UTF-8 cannot say."""
    return text.replace("\0", "").encode("utf-8", "ignore").decode("utf-8").strip()


def comparable(text: str) -> str:
    """The text with one way to write each character: an accent is part of its letter, `ﬁ` is `fi`."""
    return normalize("NFKC", text)


def _storable(value: object) -> object:
    return storable(value) if isinstance(value, str) else value


def _cut(name: str) -> str:
    return name[:_LONGEST_NAME].rstrip()


Text = Annotated[str, BeforeValidator(_storable)]


Name = Annotated[str, Field(min_length=1), BeforeValidator(_storable), AfterValidator(_cut)]


Count = Annotated[int, Field(ge=0, le=2_147_483_647)]
