"""Names of people and organisations as catalogues write them to sort by: "Last, First, suffix, dates"."""

import re
from dataclasses import dataclass
from functools import lru_cache

from accession.core.name_order import join_name


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_YEAR = r"(?:\d{3,4}|\d{1,4}\s(?:B\.?C\.?(?:E\.?)?|A\.?D\.?|C\.?E\.?))\?{0,2}"
_MONTHS = "January|February|March|April|May|June|July|August|September|October|November|December"
_DAY = rf"{_YEAR}(?:\s(?:{_MONTHS})(?:\s\d{{1,2}})?)?"
_ABOUT = r"(?:(?:approximately|approx\.?|about|circa|ca?\.?|before|after|between)\s)?"
_PREFIX = r"(?:(?:born|died|active|flourished)\s|(?:b|d|fl)\.?\s?)?"
_MOMENT = rf"{_ABOUT}{_DAY}(?:\s(?:or|and)\s{_YEAR})?"
_CENTURY = r"\d{1,2}(?:st|nd|rd|th)(?:/\d{1,2}(?:st|nd|rd|th))?\s(?:century|cent\.)(?:\sB\.?C\.?)?"
_DATES = re.compile(
    rf"{_PREFIX}(?:{_MOMENT}(?:\s?[-–—]\s?(?:{_MOMENT})?)?|[-–—]\s?{_MOMENT}|{_ABOUT}{_CENTURY})",
    re.IGNORECASE,
)
# The vendor leaves out the comma before dates of a life now and then.
_DATES_AT_END = re.compile(r"(?<=\S)\s(\d{4}\??\s?[-–—]\s?(?:\d{4}\??)?)$")
_DIGIT = re.compile(r"\d")
_FULLER_FORM = re.compile(r"(?<=\S)\s?\(([^()]*)\)")

_SUFFIXES = frozenset({"jr", "sr", "jnr", "snr", "ii", "iii", "iv", "phd", "dphil", "esq"})
# These may also be the initials of first names: "Smith, M.D.", but "Deepak Chopra, M.D.".
_SUFFIXES_OR_INITIALS = frozenset({"v", "vi", "ma", "md", "ms", "ba", "bs", "do", "dds", "jd", "mba", "rn"})
_HONORIFICS = frozenset({"sir", "dame", "lord", "lady", "dr", "prof", "rev", "saint"})
# A surname of two words starts with one of these: "Van Dyke, M.D." are initials.
_PARTICLES = _words("al d' da de del den der di dos du el la le mac mc o' saint st ten ter van von")

_LEGAL_FORMS = _words(
    "llc inc incorporated ltd limited llp plc co corp corporation company gmbh coltd ptyltd pvtltd sarl ltda"
)
# After a comma, these may be first names or their initials.
_LEGAL_FORMS_OR_NAMES = _words("ab ag aps as asa bv ev kft kg kk lp nv oy sa sas se sl spa srl")
_WORDS_OF_ORGANISATIONS = _words(
    "academy agency association associates audio books centre center collective college comics commission"
    " committee company consortium cooperative corporation council department editora editorial editores"
    " editors edition editions ediciones edizioni éditions ensemble entertainment enterprises federation"
    " foundation games group grupo gruppe institut institute institution kitchen laboratory library"
    " magazine media ministry museum network office orchestra organization organisation players press"
    " productions publications publishers publishing redaktion school services society staff studio"
    " studios team theatre theater trust union universidad università universität université university"
    " verlag works workshop"
)


@dataclass(frozen=True)
class ParsedName:
    """A name in the parts of a heading.

    Attributes:
        name: "Last, First" of a person, or the name of an organisation without an initial article.
        display_name: "First Last, suffix" in the order of its readers, or the name of an organisation;
            without dates.
        is_organisation: Whether it is the name of an organisation.
        fuller_form: First names in full, such as "John Ronald Reuel" of "Tolkien, J. R. R.".
        titles: Suffixes and honorifics of a person, such as "Jr." and "Sir".
        dates: Dates of a life, such as "1946-".
    """

    name: str
    display_name: str
    is_organisation: bool = False
    fuller_form: str = ""
    titles: tuple[str, ...] = ()
    dates: str = ""


# Every title names its contributors again when it is looked up and exported.
@lru_cache(maxsize=4096)
def parse_name(sort_name: str, language: str | None = None) -> ParsedName:
    """Parse a name such as "King, Martin Luther, Jr., 1929-1968".

    `language` is the ISO 639-2 code of a title with this name, which may determine the order for display.
    """
    fuller_form = _FULLER_FORM.search(sort_name) if "(" in sort_name else None
    first, *rest = _split(_FULLER_FORM.sub("", sort_name, count=1) if fuller_form else sort_name)
    dates = [part for part in rest if is_date(part)]
    parts = [first, *(part for part in rest if part not in dates)]
    if _is_organisation(parts):
        name = ", ".join(parts)
        display_name = f"The {first}" if _has_article(parts) else name
        heading = name.removesuffix(", The").removeprefix("The ")
        return ParsedName(heading, display_name, is_organisation=True, dates=", ".join(dates))
    position = _given_name_index(parts)
    name = ", ".join((first, parts[position])) if position else first
    titles = tuple(parts[index] for index in range(1, len(parts)) if index != position)
    return ParsedName(
        name,
        _display_name(join_name(first, parts[position] if position else "", language=language), titles),
        fuller_form=fuller_form[1].strip() if fuller_form else "",
        titles=titles,
        dates=", ".join(dates),
    )


def _split(name: str) -> list[str]:
    parts = [part for text in name.split(",") if (part := text.strip())] or [name.strip()]
    if not is_date(parts[-1]) and (dates := _DATES_AT_END.search(parts[-1])):
        parts[-1:] = parts[-1][: dates.start()], dates[1]
    return parts


def is_date(text: str) -> bool:
    """Return whether a part of a name is dates, such as "1946-", "b. 1946" or "active 16th century"."""
    return _DIGIT.search(text) is not None and _DATES.fullmatch(text) is not None


def _display_name(name: str, titles: tuple[str, ...]) -> str:
    honorifics = [title for title in titles if _key(title) in _HONORIFICS]
    suffixes = [title for title in titles if title not in honorifics]
    return ", ".join((" ".join((*honorifics, name)), *suffixes))


def _given_name_index(parts: list[str]) -> int:
    """Return the position of the first names, 0 if there are none."""
    words = parts[0].split()
    is_in_reading_order = len(words) > 1 and _key(words[0]) not in _PARTICLES
    if is_in_reading_order and all(_may_be_suffix(part) for part in parts[1:]):
        return 0
    return next((index for index in range(1, len(parts)) if _key(parts[index]) not in _SUFFIXES), 0)


def _may_be_suffix(part: str) -> bool:
    key = _key(part)
    return key in _SUFFIXES or (part.isupper() and key in _SUFFIXES_OR_INITIALS)


def _is_organisation(parts: list[str]) -> bool:
    first, *rest = parts
    return (
        _has_article(parts)
        # Without a point, Co is a first name.
        or any(_key(part) in _LEGAL_FORMS and part != "Co" for part in rest)
        or any(_last_word(part) in _LEGAL_FORMS for part in parts)
        or (not rest and _last_word(first) in _LEGAL_FORMS_OR_NAMES)
        or _has_word_of_organisations(first, at_least=2)
        # "Little, Brown Books for Young Readers"
        or any(_has_word_of_organisations(part, at_least=3) for part in rest)
    )


def _has_word_of_organisations(part: str, *, at_least: int) -> bool:
    words = part.split()
    return len(words) >= at_least and not _WORDS_OF_ORGANISATIONS.isdisjoint(map(_key, words))


def _last_word(part: str) -> str:
    """Return the last word to compare; an empty text for a single word."""
    words = part.split()
    return _key(words[-1]) if len(words) > 1 else ""


def _has_article(parts: list[str]) -> bool:
    return len(parts) == 2 and parts[1] == "The"


def _key(text: str) -> str:
    """Return a text to compare: in lower case, without points and blanks."""
    return text.casefold().replace(".", "").replace(" ", "")
