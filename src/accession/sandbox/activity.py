"""Simulated circulation: purchases, loans, returns, holds and withdrawals at the simulated vendor.

Nothing runs in the background: each request first performs the events that are due by its time. Equal
seed, start and rate give equal events, whenever they are requested. Titles with an unusable record,
titles that are not listed and titles that were withdrawn take no part.
"""

from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum
from threading import RLock
from typing import Any

from accession.core.clock import truncate_to_second
from accession.sandbox.catalogue import Catalogue, NewTitles, Purchase, seeded_random

PATRON_PREFIX = "sandbox-patron-"
"""Prefix of the simulated patron ids; tests search stored data for it."""

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


_LIBRARY_EVENTS = (EventType.PURCHASE, EventType.REMOVED)


@dataclass(frozen=True, slots=True)
class Event:
    """A circulation event at a whole second (UTC). `patron` is empty for purchases and removals."""

    event_id: str
    event_type: EventType
    moment: datetime
    item_id: str
    isbn: str
    patron: str


@dataclass(frozen=True, slots=True)
class CopyState:
    """Copies and holds of one title. Copies neither available nor reserved are on loan."""

    copies: int
    available: int
    reserved: int
    holds: int

    @property
    def loans(self) -> int:
        """Number of copies on loan."""
        return self.copies - self.available - self.reserved

    def possible_events(self) -> dict[EventType, int]:
        """Return the events that can happen next, with their relative frequencies."""
        weights = {
            EventType.CHECKOUT: 45 * (self.available + self.reserved > 0),
            EventType.CHECKIN: 42 * (self.loans > 0),
            EventType.HOLD: 10 * (not self.available),
            EventType.PURCHASE: 2,
            EventType.REMOVED: 1,
        }
        return {event_type: weight for event_type, weight in weights.items() if weight}

    def after(self, event_type: EventType) -> "CopyState":
        """Return the state after an event.

        A copy that is returned or purchased while there are holds is for the first patron in the queue:
        it counts as on loan until the RESERVED event.
        """
        is_available = not self.holds
        match event_type:
            case EventType.PURCHASE:
                return replace(self, copies=self.copies + 1, available=self.available + is_available)
            case EventType.CHECKIN:
                return replace(self, available=self.available + is_available)
            case EventType.CHECKOUT if self.available:
                return replace(self, available=self.available - 1)
            case EventType.CHECKOUT:
                return replace(self, reserved=self.reserved - 1)
            case EventType.HOLD:
                return replace(self, holds=self.holds + 1)
            case EventType.RESERVED:
                return replace(self, holds=self.holds - 1, reserved=self.reserved + 1)
            case EventType.REMOVED:
                return self._without_one_copy()

    def _without_one_copy(self) -> "CopyState":
        if self.copies == 1:
            return CopyState(0, 0, 0, 0)
        if self.available:
            return replace(self, copies=self.copies - 1, available=self.available - 1)
        return replace(self, copies=self.copies - 1, reserved=self.reserved - (not self.loans))


class Activity:
    """The events so far and the state of each title's copies."""

    def __init__(self, catalogue: Catalogue, per_hour: int, since: datetime, *, seed: int = 0) -> None:
        """Start at `since` (UTC) with `per_hour` events on average and the titles purchased before."""
        self.per_hour = per_hour
        self.counts: Counter[str] = Counter({event_type.value: 0 for event_type in EventType})
        self._catalogue = catalogue
        self._rng = seeded_random(f"activity {seed}")
        # Event ids depend on the start: a restarted sandbox must not repeat earlier ids.
        self._ids = seeded_random(f"event ids {seed} {since.isoformat()}")
        self._events: list[Event] = []
        self._moments: list[datetime] = []
        self._states: dict[str, CopyState] = {}
        self._lock = RLock()
        self._new_titles = NewTitles(catalogue, seed)
        # In order of popularity.
        self._titles = [
            p
            for p in catalogue.purchases
            if p.flaw is None and p.is_listed and p.purchased_at < since and _can_circulate(p)
        ]
        self._rng.shuffle(self._titles)
        self._due = self._next_due(since)

    def copy_state(self, purchase: Purchase) -> CopyState:
        """Return the current state of the title's copies."""
        current = self._states.get(purchase.item_id)
        return current or CopyState(purchase.copies, purchase.available, 0, purchase.holds)

    def advance(self, now: datetime) -> None:
        """Perform all events that are due up to `now`."""
        with self._lock:
            # Events happen on whole seconds, so that a later count includes all events of its second.
            while self._due is not None and (moment := _next_second(self._due)) <= now:
                self._perform_event(moment)
                self._due = self._next_due(self._due)

    def change_rate(self, per_hour: int, now: datetime) -> None:
        """Change the rate to `per_hour` events from `now` on; 0 stops it, without catching up later."""
        with self._lock:
            self.advance(now)
            self.per_hour = per_hour
            self._due = self._next_due(now)

    def withdraw(self, item_id: str, now: datetime) -> None:
        """Exclude a title from the activity from `now` on, without an event."""
        with self._lock:
            self.advance(now)
            self._titles = [purchase for purchase in self._titles if purchase.item_id != item_id]

    def between(self, start: datetime, end: datetime, *, end_included: bool = False) -> Sequence[Event]:
        """Return the events of `[start, end)` in order of time."""
        stop = (bisect_right if end_included else bisect_left)(self._moments, end)
        return self._events[bisect_left(self._moments, start) : stop]

    def statistics(self) -> dict[str, Any]:
        """Return the current rate and the number of events by type."""
        return {"per_hour": self.per_hour, "events": dict(self.counts)}

    def _next_due(self, moment: datetime) -> datetime | None:
        if not self.per_hour:
            return None
        return moment + timedelta(hours=self._rng.expovariate(self.per_hour))

    def _perform_event(self, moment: datetime) -> None:
        if not self._titles or self._rng.random() < _NEW_TITLE_CHANCE:
            self._sell_new_title(moment)
            return
        # A few titles have most of the loans.
        rank = int((len(self._titles) + 1) ** self._rng.random())
        purchase = self._titles[rank - 1]
        before = self.copy_state(purchase)
        weights = before.possible_events()
        event_type = self._rng.choices(list(weights), list(weights.values()))[0]
        self._record_event(event_type, purchase, moment)
        if before.holds and event_type in (EventType.CHECKIN, EventType.PURCHASE):
            self._record_event(EventType.RESERVED, purchase, moment)
        if not self.copy_state(purchase).copies:
            del self._titles[rank - 1]

    def _sell_new_title(self, moment: datetime) -> None:
        purchase = self._new_titles.next_purchase(moment)
        self._catalogue.add(purchase)
        self._titles.insert(self._rng.randint(0, len(self._titles)), purchase)
        self._states[purchase.item_id] = CopyState(0, 0, 0, 0)
        self._record_event(EventType.PURCHASE, purchase, moment)

    def _record_event(self, event_type: EventType, purchase: Purchase, moment: datetime) -> None:
        self._states[purchase.item_id] = self.copy_state(purchase).after(event_type)
        patron = (
            "" if event_type in _LIBRARY_EVENTS else f"{PATRON_PREFIX}{self._rng.randint(1, _PATRONS):04}"
        )
        self.counts[event_type] += 1
        event = Event(
            # The sequence number keeps the order of events within one second.
            event_id=f"{len(self._events) + 1:08}-{self._ids.getrandbits(32):08x}",
            event_type=event_type,
            moment=moment,
            item_id=purchase.item_id,
            isbn=purchase.isbn,
            patron=patron,
        )
        self._moments.append(moment)
        self._events.append(event)


def _can_circulate(purchase: Purchase) -> bool:
    """Return whether the title is on sale, and its counts are those of real copies."""
    return purchase.on_sale is None and purchase.available <= purchase.copies


def _next_second(moment: datetime) -> datetime:
    return truncate_to_second(moment + timedelta(microseconds=999_999))
