"""Cleaning and normalisation of text, and field types for vendor data."""

from typing import Annotated
from unicodedata import normalize

from pydantic import AfterValidator, BeforeValidator, Field

from accession.core.invisible import remove_all_invisible

# An entry of a B-tree index holds at most 2,704 bytes: indexed names and URLs must stay below.
_MAX_NAME_LENGTH = 300
MAX_URL_BYTES = 2000

# A tsvector of PostgreSQL holds at most one megabyte. Titles are not found by words after this length.
MAX_SEARCH_TEXT_LENGTH = 4000


def clean_text(text: str) -> str:
    """Strip white space, and remove what PostgreSQL cannot store: NUL and lone surrogates."""
    if text.isprintable():
        return text.strip()
    return text.replace("\0", "").encode("utf-8", "ignore").decode("utf-8").strip()


def normalise_text(text: str) -> str:
    """Return the text as a search compares it: without invisible characters, and in Unicode normal form NFKC.

    Accents are composed, and ligatures resolved: `ﬁ` becomes `fi`.
    """
    return normalize("NFKC", remove_all_invisible(text))


def _clean(value: object) -> object:
    return clean_text(value) if isinstance(value, str) else value


def _truncate(name: str) -> str:
    return name[:_MAX_NAME_LENGTH].rstrip()


Text = Annotated[str, BeforeValidator(_clean)]
Name = Annotated[str, Field(min_length=1), BeforeValidator(_clean), AfterValidator(_truncate)]
Count = Annotated[int, Field(ge=0, le=2_147_483_647)]
