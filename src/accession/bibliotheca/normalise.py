"""Normalise the vendor's languages and dates to the forms that the catalogue stores."""

import re
from datetime import date
from functools import lru_cache

import pycountry

_DATE = re.compile(r"(\d{4})(?:-(\d{2})(?:-(\d{2})(?:[T ].*)?)?)?", re.ASCII | re.DOTALL)
# Some systems write "no date" as 0001-01-01.
_MIN_YEAR = 1000


@lru_cache(maxsize=1024)
def language_code(text: str) -> str | None:
    """Return the ISO 639-2 code of a language, or None if the language is unknown.

    `text` is a code, a tag with a region such as "en-US", or an English name. Where ISO 639-2 has two codes
    the result is the bibliographic one, as in MARC: "ger", not "deu". A language without a code in
    ISO 639-2 gets the one of ISO 639-3.
    """
    for name in (text, re.split(r"[-_]", text)[0]):
        language = _find_language(name.strip().lower())
        if language is not None:
            return getattr(language, "bibliographic", None) or str(language.alpha_3)
    return None


def _find_language(name: str) -> pycountry.db.Data | None:
    for field in ("alpha_2", "alpha_3", "bibliographic"):
        by_code: pycountry.db.Data | None = pycountry.languages.get(**{field: name})
        if by_code is not None:
            return by_code
    try:
        by_name: pycountry.db.Data = pycountry.languages.lookup(name)
    except LookupError:
        return None
    return by_name


def iso_date(text: str) -> str | None:
    """Return the date at the start of `text` as far as it is valid: "2016-09-03", "2016-09" or "2016".

    Return None if there is no valid year.
    """
    match = _DATE.fullmatch(text.strip())
    if match is None or int(match[1]) < _MIN_YEAR:
        return None
    year, month, day = match.groups()
    for parts in ((year, month, day), (year, month)):
        if all(parts):
            try:
                date(int(year), int(month), int(day) if len(parts) == 3 else 1)
            except ValueError:
                continue
            return "-".join(parts)
    return str(year)
