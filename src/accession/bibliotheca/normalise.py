"""Normalise the vendor's languages and dates to the forms that the catalogue stores."""

import re
from datetime import date
from functools import lru_cache

import pycountry

_DATE = re.compile(r"(\d{4})(?:-(\d{2})(?:-(\d{2})(?:[T ].*)?)?)?", re.ASCII | re.DOTALL)
# 0001-01-01 is how some systems write "no date".
_EARLIEST_YEAR = 1000


@lru_cache(maxsize=1024)
def language_code(text: str) -> str | None:
    """The ISO 639-2 code of a language given as code, as tag with a region, or by its English name.

    Where ISO 639-2 has two codes it is the bibliographic one, as in MARC: `de`, `deu`, `ger` and
    `German` are all `ger`. A language that only ISO 639-3 knows has its code there.
    """
    for name in (text, re.split(r"[-_]", text)[0]):
        language = _language(name.strip().lower())
        if language is not None:
            return getattr(language, "bibliographic", None) or str(language.alpha_3)
    return None


def _language(name: str) -> pycountry.db.Data | None:
    for field in ("alpha_2", "alpha_3", "bibliographic"):
        found: pycountry.db.Data | None = pycountry.languages.get(**{field: name})
        if found is not None:
            return found
    try:
        by_name: pycountry.db.Data = pycountry.languages.lookup(name)
    except LookupError:
        return None
    return by_name


def iso_date(text: str) -> str | None:
    """The date at the beginning of `text`, as precise as it is good: `2016-09-03`, `2016-09` or `2016`."""
    match = _DATE.fullmatch(text.strip())
    if match is None or int(match[1]) < _EARLIEST_YEAR:
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
