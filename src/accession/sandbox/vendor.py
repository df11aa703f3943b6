"""The simulated vendor: its state, and the responses of its API.

Assumptions where no public source documents the vendor:

- A window includes its start and excludes its end (a setting). A missing `enddate` leaves it open-ended;
  a window of events then ends after 72 hours. Without `startdate`, events start 24 hours before the end.
- Records are in order of purchase, events in order of time. A response has at most 100 to 150 events (the
  same number for the same request); later ones are omitted.
- A `limit` above 50 counts as 50. More than 25 ids, an `offset` below 1 and a window of events longer than
  72 hours (where the real vendor returns spurious results) give 400 with an `Error` document. A wrong
  library id gives 404.
- An id requested twice is returned once. A further copy of a title creates no purchase record. `items`
  omits a title without copies.
- Documents are `application/xml`. `Date` shows the clock that signatures are checked against.
  `Retry-After` is in seconds (a setting).
"""

from asyncio import sleep
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, time, timedelta
from itertools import count
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from accession.core.clock import parse_datetime, truncate_to_second, utc_now
from accession.sandbox.activity import Activity
from accession.sandbox.catalogue import Catalogue, NewTitles, Purchase, seeded_random
from accession.sandbox.documents import error_document, event_batch
from accession.sandbox.faults import Fault, Faults, XmlResponse, faulty_response, response_fault
from accession.sandbox.items import item_documents
from accession.sandbox.marc import marc_collection
from accession.sandbox.signatures import SandboxAccount, is_signed, request_target

MARC_LIMIT = 50
ITEMS_LIMIT = 25
EVENTS_LIMIT = (100, 150)
_MAX_EVENTS_WINDOW = timedelta(hours=72)
_BLANK_BURST = timedelta(minutes=1)

ActiveFaults = frozenset[Fault]


class Sandbox:
    """State of the simulated vendor: catalogue, activity, faults and request statistics."""

    def __init__(
        self,
        catalogue: Catalogue,
        account: SandboxAccount | None = None,
        faults: Faults | None = None,
        *,
        latency_ms: int = 0,
        slow_ms: int = 2000,
        retry_after_seconds: int = 1,
        late_days: float = 7,
        end_included: bool = False,
        activity: Activity | None = None,
        clock: Callable[[], datetime] = utc_now,
    ) -> None:
        """Create a simulated vendor.

        Args:
            catalogue: Purchases of the library.
            account: Account that may access the sandbox.
            faults: Faults to apply.
            latency_ms: Delay of every signed request; concurrent requests are delayed concurrently.
            slow_ms: Further delay of a request with the fault `slow`.
            retry_after_seconds: `Retry-After` of the faults `unavailable` and `too-many`.
            late_days: Longest delay of a purchase record with the fault `late`.
            end_included: A window includes the second of its end, as the next window does.
            activity: Circulation events; without it, copies never change.
            clock: Current time of the vendor (UTC).
        """
        self.catalogue = catalogue
        self.account = account or SandboxAccount()
        self.faults = faults or Faults()
        self.latency_ms = latency_ms
        self.slow_ms = slow_ms
        self.retry_after_seconds = retry_after_seconds
        self.late_days = late_days
        self.end_included = end_included
        self.clock = clock
        self.activity = activity or Activity(catalogue, 0, clock())
        self.removed: set[str] = set()
        self.withdrawn_records: set[str] = set()
        self.requests = Counter({"marc": 0, "record": 0, "items": 0, "cloudevents": 0, "rejected": 0})
        self.fault_counts: Counter[str] = Counter()
        self._numbers = count(1)
        self._new_titles = NewTitles(catalogue, f"added {self.faults.seed}")
        self._added: set[str] = set()
        self._burst_end: datetime | None = None

    def statistics(self) -> dict[str, Any]:
        """Return the response of `GET /sandbox/statistics`.

        `titles_purchased` is the number of records in `data/marc`: the sum of `unusable_records` and
        `usable_titles`. It includes neither `late_records` nor `withdrawn_records`. `requests` counts
        requests by endpoint, and as `rejected` those with a wrong signature or library id. `faults` counts
        the faults applied, `activity` the circulation events.
        """
        self.activity.advance(self.clock())
        omitted = [purchase for purchase in self.catalogue.purchases if not self._has_record(purchase)]
        purchased = len(self.catalogue) - len(omitted)
        unusable = self.catalogue.unusable - sum(purchase.flaw is not None for purchase in omitted)
        return {
            "titles_purchased": purchased,
            "unusable_records": unusable,
            "usable_titles": purchased - unusable,
            "late_records": len(omitted) - len(self.withdrawn_records),
            "withdrawn_records": len(self.withdrawn_records),
            "requests": dict(self.requests),
            "faults": dict(self.fault_counts),
            "activity": self.activity.statistics(),
        }

    def titles(self) -> list[dict[str, Any]]:
        """Return the response of `GET /sandbox/titles`: the current state of every purchase, in order.

        `purchased_at` is ISO 8601 in UTC. `usable`: the record has exactly one 001. `listed`: `items`
        returns the title. `has_record`: windows of `data/marc` return the record, which is neither late nor
        withdrawn.
        """
        self.activity.advance(self.clock())
        return [self._title(purchase) for purchase in self.catalogue.purchases]

    def _title(self, purchase: Purchase) -> dict[str, Any]:
        copy_state = self.activity.copy_state(purchase)
        return {
            "id": purchase.item_id,
            "title": purchase.work.title,
            "purchased_at": purchase.purchased_at.isoformat(),
            "format": purchase.format,
            "isbn": purchase.isbn,
            "copies": copy_state.copies,
            "available": copy_state.available,
            "reserved": copy_state.reserved,
            "holds": copy_state.holds,
            "usable": purchase.flaw is None,
            "listed": self._is_listed(purchase),
            "has_record": self._has_record(purchase),
        }

    def purchase(self, moment: datetime) -> dict[str, Any]:
        """Add the purchase of a new title at `moment`, and return its entry in `titles`.

        `moment` (with a time zone) may be long ago. The record is never late, and no event reports the
        purchase.
        """
        purchase = self._new_titles.next_purchase(truncate_to_second(moment.astimezone(UTC)))
        self._added.add(purchase.item_id)
        self.catalogue.add(purchase)
        return self._title(purchase)

    def remove(self, item_id: str) -> bool:
        """Withdraw a title; return False if it was never purchased.

        As at the vendor, `items` and `data/marc/{id}` no longer return it, but windows still do.
        """
        if self.catalogue.find(item_id) is None:
            return False
        self.activity.withdraw(item_id, self.clock())
        self.removed.add(item_id)
        return True

    async def marc(self, request: Request) -> Response:
        """Handle `data/marc`."""
        return await self._respond(request, "marc", self._marc)

    async def record(self, request: Request) -> Response:
        """Handle `data/marc/{item_id}`."""
        return await self._respond(request, "record", self._record)

    async def items(self, request: Request) -> Response:
        """Handle `items/{item_ids}`."""
        return await self._respond(request, "items", self._items)

    async def events(self, request: Request) -> Response:
        """Handle `data/cloudevents`."""
        return await self._respond(request, "cloudevents", self._events)

    async def _respond(
        self, request: Request, endpoint: str, document: Callable[[Request, ActiveFaults], str]
    ) -> Response:
        rejection = self._check_request(request)
        number = next(self._numbers) if rejection is None else 0
        self.requests["rejected" if rejection else endpoint] += 1
        active = self.faults.active_faults(number) if number else frozenset()
        delay_ms = self.latency_ms + (self.slow_ms if self._count_if_active(Fault.SLOW, active) else 0)
        await sleep(delay_ms / 1000)
        if rejection is not None:
            return rejection
        self.activity.advance(self.clock())
        try:
            response = XmlResponse(document(request, active))
        except _BadRequestError as error:
            return XmlResponse(error_document(str(error)), 400)
        fault = Fault.BLANK if self._is_blank_burst(active) else response_fault(active)
        if fault is None:
            return response
        self.fault_counts[fault] += 1
        return faulty_response(fault, bytes(response.body), number, self.retry_after_seconds)

    def _is_blank_burst(self, active: ActiveFaults) -> bool:
        """Return whether a burst of empty bodies is in progress, after starting one if the request draws it.

        A burst also ends with the fault: when the faults are replaced.
        """
        now = self.clock()
        is_over = self._burst_end is None or now >= self._burst_end
        if is_over and self._count_if_active(Fault.BLANK_BURST, active):
            self._burst_end = now + _BLANK_BURST
            return True
        return not is_over and Fault.BLANK_BURST in self.faults.shares

    def _check_request(self, request: Request) -> Response | None:
        if not is_signed(request, self.account, self.clock()):
            return Response(status_code=401)
        if request.path_params["library_id"] != self.account.library_id:
            return XmlResponse(error_document("Unknown library"), 404)
        return None

    def _count_if_active(self, fault: Fault, active: ActiveFaults) -> bool:
        self.fault_counts.update([fault] if fault in active else [])
        return fault in active

    def _marc(self, request: Request, active: ActiveFaults) -> str:
        start, end = _parse_date(request, "startdate"), _parse_date(request, "enddate")
        if start is None:
            raise _BadRequestError("startdate is missing")
        offset, limit = (
            _parse_number(request, "offset", 1),
            min(_parse_number(request, "limit", MARC_LIMIT), MARC_LIMIT),
        )
        if offset > 1 and self._count_if_active(Fault.REPEAT_PAGE, active):
            offset = max(1, offset - limit)
        if self._is_within_day(start, end, offset) and self._count_if_active(Fault.SHIFT_PAGE, active):
            self._shift_day(start, end, offset)
        end_included = self.end_included or self._count_if_active(Fault.REPEAT_EDGE, active)
        page = self._page(start, end, offset, limit, end_included=end_included)
        if not page and self._count_if_active(Fault.BLANK_WHEN_EMPTY, active):
            return ""
        return self._collection(page, active)

    def _page(
        self, start: datetime, end: datetime | None, offset: int, limit: int, *, end_included: bool = False
    ) -> Sequence[Purchase]:
        return self.catalogue.page(
            start, end, offset=offset, limit=limit, end_included=end_included, has_record=self._has_record
        )

    def _is_within_day(self, start: datetime, end: datetime | None, offset: int) -> bool:
        """Return whether the records just before and after this offset are of one day (UTC).

        An offset that merely leads from one day to the next does not count.
        """
        around = self._page(start, end, offset - 1, 3) if offset > 1 else ()
        return len(around) == 3 and around[0].purchased_at.date() == around[2].purchased_at.date()

    def _shift_day(self, start: datetime, end: datetime | None, offset: int) -> None:
        """Withdraw the first record of the day at this offset, or add one before it, in turn."""
        [current] = self._page(start, end, offset, 1)
        day_start = max(start, datetime.combine(current.purchased_at, time(), UTC))
        if self.fault_counts[Fault.SHIFT_PAGE] % 2:
            [first] = self._page(day_start, end, 1, 1)
            self.withdrawn_records.add(first.item_id)
        else:
            self.purchase(day_start)

    def _record(self, request: Request, active: ActiveFaults) -> str:
        purchase = self.catalogue.find(request.path_params["item_id"])
        has_record = purchase and self._is_owned(purchase) and self._has_record(purchase)
        return self._collection([purchase] if purchase and has_record else [], active)

    def _collection(self, page: Sequence[Purchase], active: ActiveFaults) -> str:
        entities = bool(page) and self._count_if_active(Fault.ENTITIES, active)
        return marc_collection(page, self.account.library_id, self.clock(), undefined_entities=entities)

    def _items(self, request: Request, active: ActiveFaults) -> str:
        item_ids = request.path_params["item_ids"].split(",")
        if len(item_ids) > ITEMS_LIMIT:
            raise _BadRequestError(f"at most {ITEMS_LIMIT} items")
        purchases = (self.catalogue.find(item_id) for item_id in dict.fromkeys(item_ids))
        listed = [
            self._with_current_copies(purchase)
            for purchase in purchases
            if purchase and self._is_listed(purchase)
        ]
        double_escaped = bool(listed) and self._count_if_active(Fault.DOUBLE_ESCAPE, active)
        return item_documents(listed, self.account.library_id, double_escaped=double_escaped)

    def _events(self, request: Request, active: ActiveFaults) -> str:
        now = self.clock()
        start, end = _events_window(request, now)
        rng = seeded_random(f"events {request_target(request)}")
        events = list(self.activity.between(start, end, end_included=self.end_included))
        events = events[: rng.randint(*EVENTS_LIMIT)]
        if not events and self._count_if_active(Fault.BLANK_WHEN_EMPTY, active):
            return ""
        if events and self._count_if_active(Fault.REPEAT_EVENTS, active):
            events += events[:10]
        if events and self._count_if_active(Fault.SHUFFLE_EVENTS, active):
            rng.shuffle(events)
        return event_batch(events, self.account.library_id, now, with_library=rng.random() < 0.5)

    def _with_current_copies(self, purchase: Purchase) -> Purchase:
        copy_state = self.activity.copy_state(purchase)
        return replace(
            purchase, copies=copy_state.copies, available=copy_state.available, holds=copy_state.holds
        )

    def _is_listed(self, purchase: Purchase) -> bool:
        return purchase.is_listed and self._is_owned(purchase)

    def _has_record(self, purchase: Purchase) -> bool:
        return purchase.item_id not in self.withdrawn_records and not self._is_late(purchase)

    def _is_late(self, purchase: Purchase) -> bool:
        lateness = 0 if purchase.item_id in self._added else self.faults.lateness(purchase.item_id)
        delay = lateness * timedelta(days=self.late_days)
        return lateness > 0 and self.clock() < purchase.purchased_at + delay

    def _is_owned(self, purchase: Purchase) -> bool:
        return purchase.item_id not in self.removed and self.activity.copy_state(purchase).copies > 0


class _BadRequestError(Exception):
    """Invalid request parameter; the response is 400 with an `Error` document."""


def _parse_date(request: Request, name: str) -> datetime | None:
    text = request.query_params.get(name)
    if text is None:
        return None
    try:
        return parse_datetime(text)
    except ValueError:
        raise _BadRequestError(f"{name} is not a date") from None


def _events_window(request: Request, now: datetime) -> tuple[datetime, datetime]:
    start, end = _parse_date(request, "startdate"), _parse_date(request, "enddate")
    if start is None:
        start = (end or now) - timedelta(days=1)
    if end is None:
        end = now if now - start <= _MAX_EVENTS_WINDOW else start + _MAX_EVENTS_WINDOW
    if end - start > _MAX_EVENTS_WINDOW:
        raise _BadRequestError("at most 72 hours")
    return start, end


def _parse_number(request: Request, name: str, default: int) -> int:
    text = request.query_params.get(name, str(default))
    if not text.isdecimal() or int(text) < 1:
        raise _BadRequestError(f"{name} must be at least 1")
    return int(text)
