"""How many copies there are and who waits: the arithmetic of circulation events, without a database."""

from collections.abc import Iterable
from dataclasses import dataclass, replace

from accession.core.vocabulary import EventType


@dataclass(frozen=True)
class Counts:
    """What a collection has of one title: copies owned, available and reserved, and patrons waiting."""

    owned: int
    available: int
    reserved: int
    holds: int

    def after(self, event_type: str) -> "Counts":
        """The counts once an event has happened to one copy; an unknown type changes nothing.

        No number falls below zero, and there are never more copies available than owned.
        """
        match event_type:
            case EventType.PURCHASE:
                # A copy that patrons wait for is not free; the vendor says so with a RESERVED.
                told = replace(self, owned=self.owned + 1, available=self.available + (not self.holds))
            case EventType.REMOVED:
                told = replace(self, owned=self.owned - 1)
            case EventType.CHECKOUT if self.available:
                told = replace(self, available=self.available - 1)
            case EventType.CHECKOUT:
                told = replace(self, reserved=self.reserved - 1)
            case EventType.CHECKIN if not self.holds:
                told = replace(self, available=self.available + 1)
            case EventType.HOLD:
                told = replace(self, holds=self.holds + 1, available=0)
            case EventType.RESERVED:
                told = replace(self, holds=self.holds - 1, reserved=self.reserved + 1)
            case _:
                told = self
        owned = max(0, told.owned)
        return Counts(owned, min(told.available, owned), max(0, told.reserved), max(0, told.holds))


def counted_on(counts: Counts, event_types: Iterable[str]) -> Counts:
    """The counts after all these events, which come in the order of their moments."""
    for event_type in event_types:
        counts = counts.after(event_type)
    return counts
