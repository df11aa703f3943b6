"""Selection of the titles of an export, from the options that a person gives."""

import re
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta

from sqlalchemy.orm import Session

from accession.accounts.collections import find_collections
from accession.catalog.feed_filter import FeedFilter
from accession.core.clock import parse_datetime, utc_now
from accession.core.errors import UserError

_DURATION = re.compile(r"(\d{1,5})([hdw])", re.ASCII)
_UNITS = {"h": "hours", "d": "days", "w": "weeks"}


def parse_since(text: str) -> datetime:
    """Parse a date, a time, or a duration before now (`12h`, `7d`, `2w`) into a time in UTC.

    Raises:
        UserError: the text is none of these.
    """
    try:
        duration = _DURATION.fullmatch(text.strip())
        if duration is not None:
            return utc_now() - timedelta(**{_UNITS[duration[2]]: int(duration[1])})
        return parse_datetime(text.strip()).astimezone(UTC)
    except (ValueError, OverflowError):
        raise UserError(
            f'"{text}" is not a valid time: use a date (2024-05-01), a time (2024-05-01T12:00) or a '
            "duration (7d)."
        ) from None


def describe_since(text: str) -> str:
    """Return in words which changes a time for `parse_since` selects: "changes of the last 7 days"."""
    duration = _DURATION.fullmatch(text.strip())
    if duration is None:
        return f"changes since {text.strip()}"
    number, units = int(duration[1]), _UNITS[duration[2]]
    span = units.removesuffix("s") if number == 1 else f"{number:,} {units}"
    return f"changes of the last {span}"


def select_titles(session: Session, collections: Iterable[str], since: datetime | None) -> FeedFilter:
    """Return the filter for an export of collections by name, or of all if none is named.

    Without `since` it selects the titles they hold; with it, the titles modified since then, including
    removed ones.

    Raises:
        NotFound: a collection does not exist.
    """
    ids = tuple(sorted(each.id for each in find_collections(session, collections)))
    return FeedFilter(collections=ids or None, since=since, with_removed=since is not None)
