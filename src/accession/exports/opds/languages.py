"""Language tags and names for ISO 639-2 codes."""

from functools import lru_cache

import pycountry


def language_tag(code: str) -> str:
    """Return the BCP 47 tag of an ISO 639-2 or 639-3 code, with two letters where possible.

    An unknown code is returned unchanged.
    """
    language = _find_language(code)
    return code if language is None else getattr(language, "alpha_2", None) or str(language.alpha_3)


def language_name(code: str) -> str:
    """Return the English name of a language; an unknown code is returned unchanged."""
    language = _find_language(code)
    return code if language is None else str(language.name)


@lru_cache(maxsize=1024)
def _find_language(code: str) -> pycountry.db.Data | None:
    language: pycountry.db.Data | None = pycountry.languages.get(bibliographic=code)
    return language or pycountry.languages.get(alpha_3=code)
