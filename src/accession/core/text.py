"""Cleaning and normalisation of text, and field types for vendor data."""

from typing import Annotated
from unicodedata import category, combining, normalize

from pydantic import AfterValidator, BeforeValidator, Field

from accession.core.invisible import remove_all_invisible

# An entry of a B-tree index holds at most 2,704 bytes: indexed names and URLs must stay below.
_MAX_NAME_LENGTH = 300
MAX_URL_BYTES = 2000
# Short enough for an index, and for the cursor of a list.
_MAX_SORT_LENGTH = 80
# Categories of Unicode: punctuation, symbols, separators and control characters.
_SIGNS = "PSZC"
_ASCII_SIGNS = {code: " " for code in range(128) if category(chr(code))[0] in _SIGNS}

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


def sort_text(text: str) -> str:
    """Return the beginning of the text by which lists sort it: its words without accents, case and signs."""
    letters = text[: 4 * _MAX_SORT_LENGTH]
    if letters.isascii():
        # The same as below, in a tenth of the time.
        words = letters.translate(_ASCII_SIGNS).split()
    else:
        letters = normalize("NFKD", normalise_text(letters))
        words = "".join(
            " " if category(each)[0] in _SIGNS else each for each in letters if not combining(each)
        ).split()
    return " ".join(words).casefold()[:_MAX_SORT_LENGTH].rstrip()


def _clean(value: object) -> object:
    return clean_text(value) if isinstance(value, str) else value


def _truncate(name: str) -> str:
    return name[:_MAX_NAME_LENGTH].rstrip()


Text = Annotated[str, BeforeValidator(_clean)]
Name = Annotated[str, Field(min_length=1), BeforeValidator(_clean), AfterValidator(_truncate)]
Count = Annotated[int, Field(ge=0, le=2_147_483_647)]
