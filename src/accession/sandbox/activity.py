"""What happens in the stand-in vendor's library: it sells, lends, takes back, and makes patrons wait.

Nothing runs by itself: whoever asks first has everything performed that is due by then. The same seed,
start and rate make the same events, whenever they are asked for. A title whose record is unusable or that
is not listed takes no part; nor does one that has left, with its last copy or otherwise: it never returns.
"""

from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum
from threading import RLock
from typing import Any

from accession.core.clock import whole_second
from accession.sandbox.catalogue import Catalogue, FurtherTitles, Purchase, seeded

PATRON = "sandbox-patron-"
"""How the made-up patrons' ids begin, for whoever looks whether one was kept."""

_PATRONS = 500
_NEW_TITLE_CHANCE = 0.01


class EventType(StrEnum):
    """The vendor's `EventType`."""

    PURCHASE = "PURCHASE"
    REMOVED = "REMOVED"
    CHECKOUT = "CHECKOUT"
    CHECKIN = "CHECKIN"
    HOLD = "HOLD"
    RESERVED = "RESERVED"


_OF_THE_LIBRARY = (EventType.PURCHASE, EventType.REMOVED)


@dataclass(frozen=True, slots=True)
class Event:
    """One thing that happened, at a whole second (UTC). `patron` is empty where there is none."""

    event_id: str
    event_type: EventType
    moment: datetime
    item_id: str
    isbn: str
    patron: str


@dataclass(frozen=True, slots=True)
class Stock:
    """The copies of one title; those neither available nor reserved are on loan."""

    copies: int
    available: int
    reserved: int
    holds: int

    @property
    def loans(self) -> int:
        return self.copies - self.available - self.reserved

    def possible(self) -> dict[EventType, int]:
        """What can happen next to a title with copies, and how often it does beside the others."""
        weights = {
            EventType.CHECKOUT: 45 * (self.available + self.reserved > 0),
            EventType.CHECKIN: 42 * (self.loans > 0),
            EventType.HOLD: 10 * (not self.available),
            EventType.PURCHASE: 2,
            EventType.REMOVED: 1,
        }
        return {event_type: weight for event_type, weight in weights.items() if weight}

    def after(self, event_type: EventType) -> "Stock":
        """The copies afterwards. A copy that comes in while patrons wait is for the first of them: it is
        on its way, as if on loan, until RESERVED."""
        free = not self.holds
        match event_type:
            case EventType.PURCHASE:
                return replace(self, copies=self.copies + 1, available=self.available + free)
            case EventType.CHECKIN:
                return replace(self, available=self.available + free)
            case EventType.CHECKOUT if self.available:
                return replace(self, available=self.available - 1)
            case EventType.CHECKOUT:
                return replace(self, reserved=self.reserved - 1)
            case EventType.HOLD:
                return replace(self, holds=self.holds + 1)
            case EventType.RESERVED:
                return replace(self, holds=self.holds - 1, reserved=self.reserved + 1)
            case EventType.REMOVED:
                return self._with_a_copy_less()

    def _with_a_copy_less(self) -> "Stock":
        if self.copies == 1:
            return Stock(0, 0, 0, 0)
        if self.available:
            return replace(self, copies=self.copies - 1, available=self.available - 1)
        return replace(self, copies=self.copies - 1, reserved=self.reserved - (not self.loans))


class Activity:
    """The events so far, and how the copies of each title stand."""

    def __init__(self, catalogue: Catalogue, per_hour: int, since: datetime, *, seed: int = 0) -> None:
        """`per_hour` events on average, from `since` (UTC) on, with the titles bought before."""
        self.per_hour = per_hour
        self.counts: Counter[str] = Counter({event_type.value: 0 for event_type in EventType})
        self._catalogue = catalogue
        self._dice = seeded(f"activity {seed}")
        # A library that opens a second time may do the same things again, but they are other events.
        self._ids = seeded(f"event ids {seed} {since.isoformat()}")
        self._events: list[Event] = []
        self._moments: list[datetime] = []
        self._stocks: dict[str, Stock] = {}
        self._lock = RLock()
        self._new_titles = FurtherTitles(catalogue, seed)
        # The popular ones first.
        self._titles = [
            p for p in catalogue.purchases if p.flaw is None and p.listed and p.purchased_at < since
        ]
        self._dice.shuffle(self._titles)
        self._due = self._after(since)

    def stock(self, purchase: Purchase) -> Stock:
        """How the title's copies stand."""
        known = self._stocks.get(purchase.item_id)
        return known or Stock(purchase.copies, purchase.available, 0, purchase.holds)

    def advance(self, now: datetime) -> None:
        """Perform all that is due up to `now`."""
        with self._lock:
            # On the second, so that a count taken later includes all events of that second.
            while self._due is not None and (moment := _next_second(self._due)) <= now:
                self._happen(moment)
                self._due = self._after(self._due)

    def change_rate(self, per_hour: int, now: datetime) -> None:
        """From `now` on it is `per_hour` events an hour; 0 stands still, and nothing is made up for later."""
        with self._lock:
            self.advance(now)
            self.per_hour = per_hour
            self._due = self._after(now)

    def withdraw(self, item_id: str, now: datetime) -> None:
        """From `now` on nothing happens to the title, and no event says so."""
        with self._lock:
            self.advance(now)
            self._titles = [purchase for purchase in self._titles if purchase.item_id != item_id]

    def between(self, start: datetime, end: datetime, *, end_included: bool = False) -> Sequence[Event]:
        """The events of `[start, end)`, in the order of their moments."""
        stop = (bisect_right if end_included else bisect_left)(self._moments, end)
        return self._events[bisect_left(self._moments, start) : stop]

    def statistics(self) -> dict[str, Any]:
        """The present rate, and how many events of each type there were."""
        return {"per_hour": self.per_hour, "events": dict(self.counts)}

    def _after(self, moment: datetime) -> datetime | None:
        if not self.per_hour:
            return None
        return moment + timedelta(hours=self._dice.expovariate(self.per_hour))

    def _happen(self, moment: datetime) -> None:
        if not self._titles or self._dice.random() < _NEW_TITLE_CHANCE:
            self._sell_new_title(moment)
            return
        # As everywhere a few titles have most of the readers.
        rank = int((len(self._titles) + 1) ** self._dice.random())
        purchase = self._titles[rank - 1]
        before = self.stock(purchase)
        possible = before.possible()
        event_type = self._dice.choices(list(possible), list(possible.values()))[0]
        self._tell(event_type, purchase, moment)
        if before.holds and event_type in (EventType.CHECKIN, EventType.PURCHASE):
            self._tell(EventType.RESERVED, purchase, moment)
        if not self.stock(purchase).copies:
            del self._titles[rank - 1]

    def _sell_new_title(self, moment: datetime) -> None:
        purchase = self._new_titles.bought_at(moment)
        self._catalogue.add(purchase)
        self._titles.insert(self._dice.randint(0, len(self._titles)), purchase)
        self._stocks[purchase.item_id] = Stock(0, 0, 0, 0)
        self._tell(EventType.PURCHASE, purchase, moment)

    def _tell(self, event_type: EventType, purchase: Purchase, moment: datetime) -> None:
        self._stocks[purchase.item_id] = self.stock(purchase).after(event_type)
        patron = "" if event_type in _OF_THE_LIBRARY else f"{PATRON}{self._dice.randint(1, _PATRONS):04}"
        self.counts[event_type] += 1
        event = Event(
            # In the order in which they happened, which within a second nothing else would show.
            event_id=f"{len(self._events) + 1:08}-{self._ids.getrandbits(32):08x}",
            event_type=event_type,
            moment=moment,
            item_id=purchase.item_id,
            isbn=purchase.isbn,
            patron=patron,
        )
        self._moments.append(moment)
        self._events.append(event)


def _next_second(moment: datetime) -> datetime:
    return whole_second(moment + timedelta(microseconds=999_999))
