"""A vendor that sends empty bodies, and whose purchases, events and copy counts change all the time."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, time, timedelta
from itertools import count
from random import Random
from typing import NamedTuple

import httpx
import time_machine

from accession.core.clock import truncate_to_second, utc_now
from accession.imports.purchases import DEFAULT_PURCHASE_RECORD_START_TIME
from tests.fixtures.vendor import ScriptedVendor, event, item, marc

_BURST = timedelta(minutes=1)
_OUTAGE = timedelta(hours=2)
_MAX_RESPONSE_TIME = timedelta(seconds=2)
_NEAR = timedelta(days=5)
_NEVER = datetime.min.replace(tzinfo=UTC)

# Events that are published later than this may be missing in the database.
MAX_EVENT_DELAY = timedelta(minutes=5)

# Copies owned, copies available, and holds.
CopyCounts = tuple[int, int, int]


class WorkerKilled(BaseException):
    """The worker is killed, so no error handler of a task runs."""


@dataclass(frozen=True)
class Shares:
    """Probabilities of what happens at a request.

    Attributes:
        blank: the body is empty.
        burst: a minute begins in which all bodies are empty.
        outage: two hours begin in which all bodies are empty, so that runs fail.
        blank_when_empty: a page without records is an empty body; otherwise it is an empty collection.
        shift: a record is withdrawn or added in the day that is being paged.
        addition: a record is added near the requested time span.
        kill: the worker is killed before it has the response.
    """

    blank: float = 0
    burst: float = 0
    outage: float = 0
    blank_when_empty: float = 1
    shift: float = 0
    addition: float = 0
    kill: float = 0


@dataclass(eq=False)
class Purchase:
    """A purchase of a title. `is_late`: it was listed after its time may have been requested."""

    item_id: str
    moment: datetime
    record: str = field(repr=False)
    is_late: bool = False


class Event(NamedTuple):
    """A circulation event."""

    event_id: str
    event_type: str
    item_id: str
    moment: datetime


@dataclass(kw_only=True)
class UnreliableVendor(ScriptedVendor):
    """A vendor with faults, whose lists change. The clock moves forward with each request.

    What happens at a request depends on the seed, the request, and how often it was made before.

    Attributes:
        listed: the purchases that are in the vendor's list.
        withdrawn: purchases that have been in it.
        published: the events that are in the vendor's list.
        published_late: those of them that were published more than `MAX_EVENT_DELAY` after their time.
        blank_event_windows: time spans whose events were requested, and hidden by an empty body.
        copies: the copy counts of each title.
    """

    seed: str
    clock: time_machine.Traveller
    shares: Shares = field(default_factory=Shares)
    listed: list[Purchase] = field(default_factory=list)
    withdrawn: list[Purchase] = field(default_factory=list)
    published: set[Event] = field(default_factory=set)
    published_late: set[Event] = field(default_factory=set)
    blank_event_windows: list[tuple[datetime, datetime]] = field(default_factory=list)
    copies: dict[str, CopyCounts] = field(default_factory=dict)
    _upcoming: list[tuple[datetime, Purchase]] = field(default_factory=list)
    _unpublished: list[tuple[datetime, Event]] = field(default_factory=list)
    _requested_until: datetime = _NEVER
    _burst_end: datetime = _NEVER
    _attempts: Counter[str] = field(default_factory=Counter)
    _numbers: Iterator[int] = field(default_factory=count)

    def sell(self, moment: datetime, *, item_id: str | None = None, listed_from: datetime = _NEVER) -> str:
        """Add the purchase of a title to the list, at `listed_from`; return its id, by default a new one."""
        item_id = item_id or f"t{next(self._numbers)}"
        self.set_copies(item_id, (1, 1, 0))
        self._upcoming.append((listed_from, Purchase(item_id, truncate_to_second(moment), marc(item_id))))
        self.list_due_records()
        return item_id

    def set_copies(self, item_id: str, copies: CopyCounts) -> None:
        """Set the copy counts of a title."""
        owned, available, holds = self.copies[item_id] = copies
        self.items[item_id] = item(
            item_id, title=f"Title {item_id}", owned=owned, available=available, holds=holds
        )

    def add_circulation(self, moment: datetime, event_type: str, item_id: str, delay: timedelta) -> None:
        """Add an event of a title, which is published after `delay`."""
        new = Event(f"e{next(self._numbers)}", event_type, item_id, truncate_to_second(moment))
        self._unpublished.append((moment + delay, new))
        if delay > MAX_EVENT_DELAY:
            self.published_late.add(new)

    def list_due_records(self) -> None:
        """List the purchases and events whose time has come."""
        now = utc_now()
        for published_at, new in self._unpublished:
            if published_at <= now:
                self.published.add(new)
                self.events.append((new.moment, event(*new)))
        self._unpublished = [each for each in self._unpublished if each[0] > now]
        for listed_from, purchase in self._upcoming:
            if listed_from <= now:
                purchase.is_late = purchase.moment < self._requested_until
                self.listed.append(purchase)
                self.purchases.append((purchase.moment, purchase.record))
        self._upcoming = [each for each in self._upcoming if each[0] > now]

    def recover(self) -> None:
        """End all faults."""
        self.shares = Shares()
        self._burst_end = _NEVER

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Let time pass and the list change, and return a response that may be faulty."""
        url = str(request.url)
        self._attempts[url] += 1
        random = Random(f"{self.seed} {self._attempts[url]} {url}")
        self.clock.shift(random.random() * _MAX_RESPONSE_TIME)
        self.list_due_records()
        is_list = request.url.path.endswith("/data/marc")
        if is_list:
            self._change_list(request, random)
        if random.random() < self.shares.kill:
            raise WorkerKilled
        if self._is_blank(random):
            if request.url.path.endswith("/data/cloudevents"):
                self.blank_event_windows.append(_window(request))
            return httpx.Response(200)
        if is_list:
            self._requested_until = max(self._requested_until, _window(request)[1])
        self.sends_empty_bodies = random.random() < self.shares.blank_when_empty
        return super().handle_request(request)

    def _is_blank(self, random: Random) -> bool:
        if random.random() < self.shares.burst:
            self._burst_end = utc_now() + _BURST
        if random.random() < self.shares.outage:
            self._burst_end = utc_now() + _OUTAGE
        return utc_now() < self._burst_end or random.random() < self.shares.blank

    def _change_list(self, request: httpx.Request, random: Random) -> None:
        start, end = _window(request)
        if random.random() < self.shares.addition:
            moment = random.choice((start, end)) + random.uniform(-1, 1) * _NEAR
            # No import requests the time before 2014.
            moment = max(moment, DEFAULT_PURCHASE_RECORD_START_TIME)
            self.sell(min(moment, utc_now() - timedelta(seconds=1)))
        offset = int(request.url.params["offset"])
        if offset > 1 and random.random() < self.shares.shift:
            self._shift_page(start, end, offset, random)

    def _shift_page(self, start: datetime, end: datetime, offset: int, random: Random) -> None:
        """Withdraw the first record of the day at this offset, or add one before it."""
        span = sorted((p for p in self.listed if start <= p.moment < end), key=lambda p: p.moment)
        if len(span) < offset:
            return
        day_start = max(start, datetime.combine(span[offset - 1].moment, time(), UTC))
        if random.random() < 1 / 2:
            self.sell(day_start)
        else:
            self._withdraw(next(purchase for purchase in span if purchase.moment >= day_start))

    def _withdraw(self, purchase: Purchase) -> None:
        self.listed.remove(purchase)
        self.purchases.remove((purchase.moment, purchase.record))
        self.withdrawn.append(purchase)


def _window(request: httpx.Request) -> tuple[datetime, datetime]:
    start, end = (request.url.params[name] for name in ("startdate", "enddate"))
    return datetime.fromisoformat(start).replace(tzinfo=UTC), datetime.fromisoformat(end).replace(tzinfo=UTC)
