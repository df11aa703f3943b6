"""Language codes: ISO 639-2 as MARC has it, tags of BCP 47, and English names."""

import re
from functools import lru_cache

import pycountry


@lru_cache(maxsize=1024)
def language_code(text: str) -> str | None:
    """Return the ISO 639-2 code of a language, or None if the language is unknown.

    `text` is a code, a tag with a region such as "en-US", or an English name. Where ISO 639-2 has two codes
    the result is the bibliographic one, as in MARC: "ger", not "deu". A language without a code in
    ISO 639-2 gets the one of ISO 639-3.
    """
    for name in (text, re.split(r"[-_]", text)[0]):
        language = _find_by_code_or_name(name.strip().lower())
        if language is not None:
            return getattr(language, "bibliographic", None) or str(language.alpha_3)
    return None


def language_tag(code: str) -> str:
    """Return the BCP 47 tag of an ISO 639-2 or 639-3 code, with two letters where possible.

    An unknown code is returned unchanged.
    """
    language = _find_by_code(code)
    return code if language is None else getattr(language, "alpha_2", None) or str(language.alpha_3)


def language_name(code: str) -> str:
    """Return the English name of a language; an unknown code is returned unchanged."""
    language = _find_by_code(code)
    return code if language is None else str(language.name)


def _find_by_code_or_name(name: str) -> pycountry.db.Data | None:
    by_code = _find_by_code(name)
    if by_code is not None:
        return by_code
    try:
        by_name: pycountry.db.Data = pycountry.languages.lookup(name)
    except LookupError:
        return None
    return by_name


@lru_cache(maxsize=1024)
def _find_by_code(code: str) -> pycountry.db.Data | None:
    for field in ("alpha_2", "alpha_3", "bibliographic"):
        language: pycountry.db.Data | None = pycountry.languages.get(**{field: code})
        if language is not None:
            return language
    return None
