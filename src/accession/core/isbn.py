"""Normalise ISBNs to 13 digits and calculate their check digits."""

import re


def normalise_isbn(text: str, *, is_checked: bool = True) -> str | None:
    """Return the ISBN-13 for an ISBN of 10 or 13 digits, which may contain hyphens and white space.

    Return None if `text` is not an ISBN or, unless `is_checked` is False, its check digit is wrong.
    """
    digits = re.sub(r"[\s-]", "", text).upper()
    if re.fullmatch(r"97[89]\d{10}", digits, re.ASCII):
        is_valid = digits == complete_isbn13(digits[:12])
        return digits if is_valid or not is_checked else None
    if re.fullmatch(r"\d{9}[\dX]", digits, re.ASCII):
        is_valid = digits[-1] == _isbn10_check_digit(digits[:9])
        return complete_isbn13(f"978{digits[:9]}") if is_valid or not is_checked else None
    return None


def complete_isbn13(first_twelve: str) -> str:
    """Return the ISBN-13 that starts with these twelve digits: append the check digit."""
    total = sum(int(digit) * (3 if index % 2 else 1) for index, digit in enumerate(first_twelve))
    return f"{first_twelve}{-total % 10}"


def _isbn10_check_digit(first_nine: str) -> str:
    total = sum(int(digit) * (10 - index) for index, digit in enumerate(first_nine))
    return "0123456789X"[-total % 11]
