"""Normalise ISBNs to 13 digits and calculate their check digits."""

import re

from accession.core.invisible import remove_all_invisible

# Hyphens and dashes that look alike, and the minus sign.
_DASHES = str.maketrans(dict.fromkeys("\u2010\u2011\u2012\u2013\u2014\u2212", "-"))
# "ISBN", also as "e-ISBN-13:" or "urn:isbn:", and a remark in brackets may stand before the number. A remark
# after it is separated by a space or a sign: "9780306406157 (ebook)", "0-306-40615-2 (hbk.) :".
# Possessive quantifiers make the time linear.
_ISBN = re.compile(
    r"\s*+(?:(?:urn:)?(?:[ep][\s-]?)?isbn(?:[\s-]?1[03](?=[\s:]))?\s*+(?:\([^()]*+\))?[\s:.]*+)?"
    r"(?:(?P<isbn13>97[89](?:[\s-]*+[0-9]){10})(?!-*[0-9])"
    r"|(?P<isbn10>[0-9](?:[\s-]*+[0-9]){8}[\s-]*+[0-9X])(?![\s-]*[0-9]))(?!\w)",
    re.IGNORECASE,
)


def normalise_isbn(text: str, *, is_checked: bool = True) -> str | None:
    """Return the ISBN-13 for an ISBN of 10 or 13 digits, which may contain hyphens and white space.

    "ISBN" before the number and a remark after it are ignored. Return None if `text` is not an ISBN or,
    unless `is_checked` is False, its check digit is wrong.
    """
    match = _ISBN.match(remove_all_invisible(text).translate(_DASHES))
    if match is None:
        return None
    digits = re.sub(r"[\s-]", "", match["isbn13"] or match["isbn10"]).upper()
    if match["isbn13"]:
        is_valid = digits == complete_isbn13(digits[:12])
        return digits if is_valid or not is_checked else None
    is_valid = digits[-1] == _isbn10_check_digit(digits[:9])
    return complete_isbn13(f"978{digits[:9]}") if is_valid or not is_checked else None


def complete_isbn13(first_twelve: str) -> str:
    """Return the ISBN-13 that starts with these twelve digits: append the check digit."""
    total = sum(map(int, first_twelve[::2])) + 3 * sum(map(int, first_twelve[1::2]))
    return f"{first_twelve}{-total % 10}"


def _isbn10_check_digit(first_nine: str) -> str:
    total = sum(int(digit) * (10 - index) for index, digit in enumerate(first_nine))
    return "0123456789X"[-total % 11]
