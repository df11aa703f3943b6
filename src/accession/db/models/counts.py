"""Copy counts of a title, and the effect of circulation events on them. No database access."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from accession.core.vocabulary import EventType


@dataclass(frozen=True)
class CopyCounts:
    """Copies of one title in a collection (owned, available, reserved), and the patrons on hold."""

    owned: int
    available: int
    reserved: int
    holds: int

    def limited_to_owned(self) -> CopyCounts:
        """Return counts that can be: the copies available and reserved are together at most those owned.

        The vendor returns the copies available and not those reserved, so the reserved ones give way.
        """
        available = min(self.available, self.owned)
        return replace(self, available=available, reserved=min(self.reserved, self.owned - available))

    def after(self, event_type: str) -> CopyCounts:
        """Return the counts after an event of this type on one copy; an unknown type changes nothing.

        No count falls below zero, and there are never more copies available than owned.
        """
        available = min(self.available, self.owned)
        match event_type:
            case EventType.PURCHASE:
                # While patrons are on hold, the new copy is for them: the vendor sends RESERVED.
                counts = replace(self, owned=self.owned + 1, available=available + (not self.holds))
            case EventType.REMOVED:
                counts = replace(self, owned=self.owned - 1)
            case EventType.CHECKOUT if available:
                counts = replace(self, available=available - 1)
            case EventType.CHECKOUT:
                counts = replace(self, reserved=self.reserved - 1)
            case EventType.CHECKIN if not self.holds:
                counts = replace(self, available=available + 1)
            case EventType.HOLD:
                counts = replace(self, holds=self.holds + 1, available=0)
            case EventType.RESERVED:
                counts = replace(self, holds=self.holds - 1, reserved=self.reserved + 1)
            case _:
                counts = self
        owned = max(0, counts.owned)
        return CopyCounts(owned, min(counts.available, owned), max(0, counts.reserved), max(0, counts.holds))


def counts_after_events(counts: CopyCounts, event_types: Iterable[str]) -> CopyCounts:
    """Return the counts after these events, given in chronological order."""
    for event_type in event_types:
        counts = counts.after(event_type)
    return counts
