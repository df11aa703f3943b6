"""Kind of change of a title since a reader last fetched the catalogue."""

from datetime import datetime
from enum import StrEnum

from accession.catalog.change_feed import FeedTitle

CHANGE = "change"
"""Name of the column that holds the kind of change."""


class Change(StrEnum):
    """Change of a title, from the point of view of a reader with an older copy of the catalogue."""

    NEW = "new"
    CHANGED = "changed"
    REMOVED = "removed"


def change_since(since: datetime, *holdings: FeedTitle) -> Change:
    """Return how a title has changed since a time (UTC), given its holdings in the exported collections.

    It is removed if no collection holds it any more, and new if none held it before.
    """
    if all(holding.is_removed for holding in holdings):
        return Change.REMOVED
    return Change.NEW if all(holding.created_at >= since for holding in holdings) else Change.CHANGED
