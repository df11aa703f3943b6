"""What has become of a title since its reader last looked."""

from datetime import datetime
from enum import StrEnum

from accession.catalog.change_feed import FeedTitle

CHANGE = "change"


class Change(StrEnum):
    """What a reader who has the catalogue of a moment has to do about a title."""

    NEW = "new"
    CHANGED = "changed"
    REMOVED = "removed"


def change_since(since: datetime, *titles: FeedTitle) -> Change:
    """What has become of a title, told by each collection that is asked for, since the moment (UTC).

    It is removed when none has it any more, new when none had it before.
    """
    if all(title.is_removed for title in titles):
        return Change.REMOVED
    return Change.NEW if all(title.created_at >= since for title in titles) else Change.CHANGED
