"""Which titles an export takes, as a person says it."""

import re
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta

from sqlalchemy.orm import Session

from accession.accounts.collections import find_collection
from accession.catalog.change_feed import FeedFilter
from accession.core.clock import moment_of, utc_now
from accession.core.errors import UserError

_SPAN = re.compile(r"(\d{1,5})([hdw])", re.ASCII)
_UNITS = {"h": timedelta(hours=1), "d": timedelta(days=1), "w": timedelta(weeks=1)}


def since_of(text: str) -> datetime:
    """The moment (UTC) in `text`: a date, a moment, or how long ago, as `12h`, `7d`, `2w`.

    Raises `UserError` when it is none of these.
    """
    try:
        span = _SPAN.fullmatch(text.strip())
        if span is not None:
            return utc_now() - int(span[1]) * _UNITS[span[2]]
        return moment_of(text.strip()).astimezone(UTC)
    except (ValueError, OverflowError):
        raise UserError(
            f'"{text}" is no moment: give a date as 2024-05-01, a moment as 2024-05-01T12:00, or a span '
            "as 7d."
        ) from None


def wanted_titles(session: Session, collections: Iterable[str], since: datetime | None) -> FeedFilter:
    """The titles of the collections of these names, or of all when there are none: those that they have, or
    what has become another since then, removed ones with it. Raises `NotFound` for an unknown name."""
    ids = tuple(sorted({find_collection(session, name).id for name in collections}))
    return FeedFilter(collections=ids or None, since=since, with_removed=since is not None)
