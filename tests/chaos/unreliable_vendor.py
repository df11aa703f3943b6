"""A vendor that sends empty bodies, and whose list of purchases changes all the time."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, time, timedelta
from itertools import count
from random import Random

import httpx
import time_machine

from accession.core.clock import truncate_to_second, utc_now
from tests.fixtures.vendor import ScriptedVendor, item, marc

_BURST = timedelta(minutes=1)
_MAX_RESPONSE_TIME = timedelta(seconds=2)
_NEAR = timedelta(days=5)
_NEVER = datetime.min.replace(tzinfo=UTC)


class WorkerKilled(BaseException):
    """The worker is killed, so no error handler of a task runs."""


@dataclass(frozen=True)
class Shares:
    """Probabilities of what happens at a request.

    Attributes:
        blank: the body is empty.
        burst: a minute begins in which all bodies are empty.
        blank_when_empty: a page without records is an empty body; otherwise it is an empty collection.
        shift: a record is withdrawn or added in the day that is being paged.
        addition: a record is added near the requested time span.
        kill: the worker is killed before it has the response.
    """

    blank: float = 0
    burst: float = 0
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


@dataclass(kw_only=True)
class UnreliableVendor(ScriptedVendor):
    """A vendor with faults, whose list of purchases changes. The clock moves forward with each request.

    What happens at a request depends on the seed, the request, and how often it was made before.

    Attributes:
        listed: the purchases that are in the vendor's list.
        withdrawn: purchases that have been in it.
    """

    seed: str
    clock: time_machine.Traveller
    shares: Shares = field(default_factory=Shares)
    listed: list[Purchase] = field(default_factory=list)
    withdrawn: list[Purchase] = field(default_factory=list)
    _upcoming: list[tuple[datetime, Purchase]] = field(default_factory=list)
    _requested_until: datetime = _NEVER
    _burst_end: datetime = _NEVER
    _attempts: Counter[str] = field(default_factory=Counter)
    _numbers: Iterator[int] = field(default_factory=count)

    def sell(self, moment: datetime, *, item_id: str | None = None, listed_from: datetime = _NEVER) -> str:
        """Add the purchase of a title to the list, at `listed_from`; return its id, by default a new one."""
        item_id = item_id or f"t{next(self._numbers)}"
        self.items[item_id] = item(item_id, title=f"Title {item_id}")
        self._upcoming.append((listed_from, Purchase(item_id, truncate_to_second(moment), marc(item_id))))
        self.list_due_purchases()
        return item_id

    def list_due_purchases(self) -> None:
        """List the purchases whose time has come."""
        now = utc_now()
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
        self.list_due_purchases()
        is_list = request.url.path.endswith("/data/marc")
        if is_list:
            self._change_list(request, random)
        if random.random() < self.shares.kill:
            raise WorkerKilled
        if self._is_blank(random):
            return httpx.Response(200)
        if is_list:
            self._requested_until = max(self._requested_until, _parse_moment(request, "enddate"))
        self.sends_empty_bodies = random.random() < self.shares.blank_when_empty
        return super().handle_request(request)

    def _is_blank(self, random: Random) -> bool:
        if random.random() < self.shares.burst:
            self._burst_end = utc_now() + _BURST
        return utc_now() < self._burst_end or random.random() < self.shares.blank

    def _change_list(self, request: httpx.Request, random: Random) -> None:
        start, end = _parse_moment(request, "startdate"), _parse_moment(request, "enddate")
        if random.random() < self.shares.addition:
            moment = random.choice((start, end)) + random.uniform(-1, 1) * _NEAR
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


def _parse_moment(request: httpx.Request, name: str) -> datetime:
    return datetime.fromisoformat(request.url.params[name]).replace(tzinfo=UTC)
