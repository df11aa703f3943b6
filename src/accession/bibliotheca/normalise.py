"""Normalise the vendor's dates to the form that the catalogue stores."""

import re
from datetime import date

_DATE = re.compile(r"(\d{4})(?:-(\d{2})(?:-(\d{2})(?:[T ].*)?)?)?", re.ASCII | re.DOTALL)
# Some systems write "no date" as 0001-01-01.
_MIN_YEAR = 1000


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
