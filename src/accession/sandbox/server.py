"""The stand-in vendor over HTTP: signed calls as the real one has them, and a look behind the scenes.

`/cirrus/library/{libraryId}/...` imitates the vendor and wants signed requests. `/sandbox/...` is for
tests and people, unsigned: `GET statistics` and `GET titles` tell what was sold and asked,
`POST faults` takes a new faults specification, `POST remove/{id}` takes a title out of the collection,
`POST activity/{events an hour}` has the library lend more, or less, or stand still.

What no public source settles was decided thus: a window includes its start and not its end (a
setting), records come in the order of purchase, a `limit` above 50 counts as 50, more than 25 ids and
an `offset` below 1 are 400 with an `Error` document, an id asked for twice answers once, documents are
`application/xml`, a missing `enddate` leaves the window open (one of events ends after 72 hours), and a
wrong library id is 404. Events come in the order of their moments; of more than 100 to 150 (a number that
is the same for the same request) the later ones are left out; without a `startdate` they are those of the
24 hours before the end; a window of more than 72 hours is 400 with an `Error` document, where the real
vendor gives spurious results. A further copy of a title is no new purchase record, and a title without a
copy is left out of `items`. Answers carry the `Date` of the clock that signatures are checked against. The
faults that say `Retry-After` say it in seconds (a setting), though no source has seen the header.
"""

import asyncio
import base64
import hashlib
import hmac
import logging
import socket
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime, parsedate_to_datetime
from itertools import count
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.datastructures import MutableHeaders
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from accession.core.clock import utc_now
from accession.core.errors import UserError
from accession.sandbox.activity import Activity
from accession.sandbox.catalogue import Catalogue, Purchase, seeded
from accession.sandbox.documents import error_document, event_batch, item_documents, marc_collection
from accession.sandbox.faults import WRITE, Fault, Faults, Xml, breaking, broken_answer

SANDBOX_ACCOUNT_KEY = "sandbox-key-that-is-no-secret"
"""The key of the default account: printed, published, and good for nothing but a sandbox."""

MARC_LIMIT = 50
ITEMS_LIMIT = 25
EVENTS_LIMIT = (100, 150)
_WIDEST_EVENTS_WINDOW = timedelta(hours=72)
_CLOCK_TOLERANCE = timedelta(minutes=5)
_NOT_BLANK_AGAIN = timedelta(minutes=10)
_SCHEME = "3MCLAUTH"

Struck = frozenset[Fault]


@dataclass(frozen=True)
class SandboxAccount:
    """Who may ask, and for which library."""

    library_id: str = "sandbox"
    account_id: str = "library.sandbox"
    account_key: str = field(default=SANDBOX_ACCOUNT_KEY, repr=False)


def signature(account_key: str, date: str, method: str, target: str) -> str:
    """What the vendor expects for a request: `date` as sent, `target` the path and query as sent."""
    signed = f"{date}\n{method.upper()}\n{target}".encode()
    digest = hmac.new(account_key.encode(), signed, hashlib.sha256).digest()
    return base64.b64encode(digest).decode()


class Sandbox:
    """The vendor's side: what it sold, how badly it behaves, and what it has been asked so far."""

    def __init__(
        self,
        catalogue: Catalogue,
        account: SandboxAccount | None = None,
        faults: Faults | None = None,
        *,
        latency_ms: int = 0,
        slow_ms: int = 2000,
        retry_after_seconds: int = 1,
        end_included: bool = False,
        activity: Activity | None = None,
        clock: Callable[[], datetime] = utc_now,
    ) -> None:
        """Every signed request takes `latency_ms` longer, side by side with others. Without `activity`
        nothing happens to the copies. `clock` tells the vendor's time (UTC).

        A request that the fault `slow` strikes takes `slow_ms` more; one that `unavailable` or `too-many`
        strikes is to be asked again after `retry_after_seconds`. With `end_included` purchases and
        events of the very second of a window's end belong to the window, and to the next one too.
        """
        self.catalogue = catalogue
        self.account = account or SandboxAccount()
        self.faults = faults or Faults()
        self.latency_ms = latency_ms
        self.slow_ms = slow_ms
        self.retry_after_seconds = retry_after_seconds
        self.end_included = end_included
        self.clock = clock
        self.activity = activity or Activity(catalogue, 0, clock())
        self.removed: set[str] = set()
        self.requests = Counter({"marc": 0, "record": 0, "items": 0, "cloudevents": 0, "refused": 0})
        self.struck: Counter[str] = Counter()
        self._numbers = count(1)
        self._blanked: dict[str, datetime] = {}

    def statistics(self) -> dict[str, Any]:
        """What `GET /sandbox/statistics` answers.

        `titles_bought` is the sum of `unusable_records` and `usable_titles`. `requests` counts the
        answered requests per endpoint and those refused as wrongly signed or meant for another
        library; `faults` counts what struck, `activity` what happened.
        """
        self.activity.advance(self.clock())
        bought, unusable = len(self.catalogue), self.catalogue.unusable
        return {
            "titles_bought": bought,
            "unusable_records": unusable,
            "usable_titles": bought - unusable,
            "requests": dict(self.requests),
            "faults": dict(self.struck),
            "activity": self.activity.statistics(),
        }

    def titles(self) -> list[dict[str, Any]]:
        """What `GET /sandbox/titles` answers: every purchase, in order, as it is now.

        `purchased_at` is ISO 8601 in UTC, `usable` says whether its record carries exactly one 001,
        `listed` whether `items` answers with it.
        """
        self.activity.advance(self.clock())
        return [self._title(purchase) for purchase in self.catalogue.purchases]

    def _title(self, purchase: Purchase) -> dict[str, Any]:
        stock = self.activity.stock(purchase)
        return {
            "id": purchase.item_id,
            "title": purchase.work.title,
            "purchased_at": purchase.purchased_at.isoformat(),
            "format": purchase.format,
            "isbn": purchase.isbn,
            "copies": stock.copies,
            "available": stock.available,
            "reserved": stock.reserved,
            "holds": stock.holds,
            "usable": purchase.flaw is None,
            "listed": self._listed(purchase),
        }

    def remove(self, item_id: str) -> bool:
        """Take the title out of the collection; whether it was bought at all.

        As with the vendor that shows in `items` and `data/marc/{id}` only, never in a window.
        """
        if self.catalogue.find(item_id) is None:
            return False
        self.activity.withdraw(item_id, self.clock())
        self.removed.add(item_id)
        return True

    async def marc(self, request: Request) -> Response:
        return await self._answer(request, "marc", self._marc)

    async def record(self, request: Request) -> Response:
        return await self._answer(request, "record", self._record)

    async def items(self, request: Request) -> Response:
        return await self._answer(request, "items", self._items)

    async def events(self, request: Request) -> Response:
        return await self._answer(request, "cloudevents", self._events)

    async def _answer(
        self, request: Request, endpoint: str, document: Callable[[Request, Struck], str]
    ) -> Response:
        refused = self._refusal(request)
        number = next(self._numbers) if refused is None else 0
        self.requests["refused" if refused else endpoint] += 1
        struck = self.faults.striking(number) if number else frozenset()
        delay_ms = self.latency_ms + (self.slow_ms if self._strikes(Fault.SLOW, struck) else 0)
        await asyncio.sleep(delay_ms / 1000)
        if refused is not None:
            return refused
        self.activity.advance(self.clock())
        try:
            answer = Xml(document(request, struck))
        except _BadRequestError as error:
            return Xml(error_document(str(error)), 400)
        fault = self._breaking(request, endpoint, struck)
        if fault is None:
            return answer
        self.struck[fault] += 1
        return broken_answer(fault, bytes(answer.body), number, self.retry_after_seconds)

    def _breaking(self, request: Request, endpoint: str, struck: Struck) -> Fault | None:
        fault = breaking(struck)
        if fault is not Fault.BLANK or endpoint == "items":
            return fault
        # Two blanks running are the vendor's way to say "nothing here", which would be a lie, not a fault.
        # Others may ask the same in between, so it is not enough that there was another answer since.
        target, now = _target(request), self.clock()
        before = self._blanked.get(target)
        if before is not None and now - before < _NOT_BLANK_AGAIN:
            return None
        self._blanked[target] = now
        return fault

    def _refusal(self, request: Request) -> Response | None:
        if not self._signed(request):
            return Response(status_code=401)
        if request.path_params["library_id"] != self.account.library_id:
            return Xml(error_document("Unknown library"), 404)
        return None

    def _signed(self, request: Request) -> bool:
        sent_at = request.headers.get("3mcl-Datetime", "")
        try:
            # RFC 1123 with a literal GMT, which the standard library reads as a naive moment.
            moment = parsedate_to_datetime(sent_at).replace(tzinfo=UTC)
        except ValueError:
            return False
        expected = signature(self.account.account_key, sent_at, request.method, _target(request))
        authorization = f"{_SCHEME} {self.account.account_id}:{expected}"
        given = request.headers.get("3mcl-Authorization", "")
        in_time = abs(self.clock() - moment) <= _CLOCK_TOLERANCE
        return in_time and hmac.compare_digest(given.encode(), authorization.encode())

    def _strikes(self, fault: Fault, struck: Struck) -> bool:
        self.struck.update([fault] if fault in struck else [])
        return fault in struck

    def _marc(self, request: Request, struck: Struck) -> str:
        start, end = _date(request, "startdate"), _date(request, "enddate")
        if start is None:
            raise _BadRequestError("startdate is missing")
        offset, limit = _number(request, "offset", 1), min(_number(request, "limit", MARC_LIMIT), MARC_LIMIT)
        if offset > 1 and self._strikes(Fault.REPEAT_PAGE, struck):
            offset = max(1, offset - limit)
        end_included = self.end_included or self._strikes(Fault.REPEAT_EDGE, struck)
        page = self.catalogue.page(start, end, offset=offset, limit=limit, end_included=end_included)
        if not page and self._strikes(Fault.BLANK_WHEN_EMPTY, struck):
            return ""
        return self._collection(page, struck)

    def _record(self, request: Request, struck: Struck) -> str:
        purchase = self.catalogue.find(request.path_params["item_id"])
        return self._collection([purchase] if purchase and self._owned(purchase) else [], struck)

    def _collection(self, page: Sequence[Purchase], struck: Struck) -> str:
        entities = bool(page) and self._strikes(Fault.ENTITIES, struck)
        return marc_collection(page, self.account.library_id, self.clock(), undefined_entities=entities)

    def _items(self, request: Request, struck: Struck) -> str:
        item_ids = request.path_params["item_ids"].split(",")
        if len(item_ids) > ITEMS_LIMIT:
            raise _BadRequestError(f"at most {ITEMS_LIMIT} items")
        found = (self.catalogue.find(item_id) for item_id in dict.fromkeys(item_ids))
        listed = [self._as_it_is(purchase) for purchase in found if purchase and self._listed(purchase)]
        double_escaped = bool(listed) and self._strikes(Fault.DOUBLE_ESCAPE, struck)
        return item_documents(listed, self.account.library_id, double_escaped=double_escaped)

    def _events(self, request: Request, struck: Struck) -> str:
        now = self.clock()
        start, end = _events_window(request, now)
        dice = seeded(f"events {_target(request)}")
        events = list(self.activity.between(start, end, end_included=self.end_included))
        events = events[: dice.randint(*EVENTS_LIMIT)]
        if not events and self._strikes(Fault.BLANK_WHEN_EMPTY, struck):
            return ""
        if events and self._strikes(Fault.REPEAT_EVENTS, struck):
            events += events[:10]
        if events and self._strikes(Fault.SHUFFLE_EVENTS, struck):
            dice.shuffle(events)
        return event_batch(events, self.account.library_id, now, with_library=dice.random() < 0.5)

    def _as_it_is(self, purchase: Purchase) -> Purchase:
        stock = self.activity.stock(purchase)
        return replace(purchase, copies=stock.copies, available=stock.available, holds=stock.holds)

    def _listed(self, purchase: Purchase) -> bool:
        return purchase.listed and self._owned(purchase)

    def _owned(self, purchase: Purchase) -> bool:
        return purchase.item_id not in self.removed and self.activity.stock(purchase).copies > 0


class _BadRequestError(Exception):
    """A parameter that the vendor would not take; answered as 400 with an `Error` document."""


def _target(request: Request) -> str:
    """Path and query exactly as received, which is what the client signed."""
    path: bytes = request.scope["raw_path"]
    query: bytes = request.scope["query_string"]
    return (path + b"?" + query if query else path).decode("latin-1")


def _date(request: Request, name: str) -> datetime | None:
    text = request.query_params.get(name)
    if text is None:
        return None
    try:
        # UTC without a zone, or a date alone.
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise _BadRequestError(f"{name} is no date") from None
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment


def _events_window(request: Request, now: datetime) -> tuple[datetime, datetime]:
    start, end = _date(request, "startdate"), _date(request, "enddate")
    if start is None:
        start = (end or now) - timedelta(days=1)
    if end is None:
        end = now if now - start <= _WIDEST_EVENTS_WINDOW else start + _WIDEST_EVENTS_WINDOW
    if end - start > _WIDEST_EVENTS_WINDOW:
        raise _BadRequestError("at most 72 hours")
    return start, end


def _number(request: Request, name: str, default: int) -> int:
    text = request.query_params.get(name, str(default))
    if not text.isdecimal() or int(text) < 1:
        raise _BadRequestError(f"{name} must be at least 1")
    return int(text)


@dataclass(frozen=True)
class _Dated:
    """An application whose every answer is dated by the clock."""

    app: ASGIApp
    clock: Callable[[], datetime]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_dated(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)["Date"] = format_datetime(self.clock(), usegmt=True)
            await send(message)

        await self.app(scope, receive, send_dated)


def make_app(sandbox: Sandbox) -> Starlette:
    """The sandbox as an ASGI application."""

    async def statistics(_request: Request) -> Response:
        return JSONResponse(sandbox.statistics())

    async def titles(_request: Request) -> Response:
        return JSONResponse(sandbox.titles())

    async def change_faults(request: Request) -> Response:
        try:
            sandbox.faults = Faults.parse((await request.body()).decode(), sandbox.faults.seed)
        except UserError as error:
            return PlainTextResponse(str(error), 400)
        return JSONResponse(dict(sandbox.faults.shares))

    async def remove(request: Request) -> Response:
        return Response(status_code=204 if sandbox.remove(request.path_params["item_id"]) else 404)

    async def change_activity(request: Request) -> Response:
        per_hour = request.path_params["per_hour"]
        if not per_hour.isdecimal():
            return PlainTextResponse(
                f'"{per_hour}" is no number of events an hour: give a whole number, 0 to stand still.', 400
            )
        sandbox.activity.change_rate(int(per_hour), sandbox.clock())
        return JSONResponse(sandbox.activity.statistics())

    vendor = "/cirrus/library/{library_id}"
    return Starlette(
        routes=[
            Route(f"{vendor}/data/marc", sandbox.marc),
            Route(f"{vendor}/data/marc/{{item_id}}", sandbox.record),
            Route(f"{vendor}/data/cloudevents", sandbox.events),
            Route(f"{vendor}/items/{{item_ids}}", sandbox.items),
            Route("/sandbox/statistics", statistics),
            Route("/sandbox/titles", titles),
            Route("/sandbox/faults", change_faults, methods=["POST"]),
            Route("/sandbox/remove/{item_id}", remove, methods=["POST"]),
            Route("/sandbox/activity/{per_hour}", change_activity, methods=["POST"]),
        ],
        middleware=[Middleware(_Dated, clock=sandbox.clock)],
    )


def serve(port: int, sandbox: Sandbox, ready: Callable[[str], None]) -> None:
    """Serve on 127.0.0.1 until Ctrl-C or SIGTERM, with port 0 on any free port.

    `ready` is called with the base URL once connections are accepted.
    Raises UserError when the port is taken.
    """
    listener = _listen(port)
    ready(_base_url(listener))
    # uvicorn stops in good order, then lets Ctrl-C rise again.
    with suppress(KeyboardInterrupt):
        _server(sandbox).run(sockets=[listener])


@dataclass(frozen=True)
class RunningSandbox:
    """A sandbox that answers at `base_url`."""

    base_url: str
    sandbox: Sandbox

    @property
    def account(self) -> SandboxAccount:
        return self.sandbox.account

    @property
    def catalogue(self) -> Catalogue:
        return self.sandbox.catalogue

    def statistics(self) -> dict[str, Any]:
        return self.sandbox.statistics()


@contextmanager
def running_sandbox(sandbox: Sandbox) -> Iterator[RunningSandbox]:
    """Serve from a thread of this process, on a free port of 127.0.0.1, until the context ends."""
    listener = _listen(0)
    server = _server(sandbox)
    thread = threading.Thread(target=server.run, args=([listener],), name="sandbox", daemon=True)
    thread.start()
    try:
        yield RunningSandbox(_base_url(listener), sandbox)
    finally:
        server.should_exit = True
        thread.join()


def _listen(port: int) -> socket.socket:
    try:
        listener = socket.create_server(("127.0.0.1", port), backlog=256)
    except OSError as error:
        raise UserError(
            f"The sandbox cannot listen on port {port} ({error.strerror}): choose another port, or 0 for any."
        ) from error
    # Accepted connections inherit it. asyncio sets it only on sockets that name their protocol, and
    # without it the body of each answer waits 40 ms for the acknowledgement of its headers.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener


def _base_url(listener: socket.socket) -> str:
    return f"http://127.0.0.1:{listener.getsockname()[1]}"


class _Connection(H11Protocol):
    """Also lets an answer send bytes that are not HTTP."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        app = self.app

        async def with_write(scope: Any, receive: Any, send: Any) -> None:
            await app(scope | {WRITE: transport.write}, receive, send)

        self.app = with_write


def _server(sandbox: Sandbox) -> uvicorn.Server:
    config = uvicorn.Config(
        make_app(sandbox),
        http=_Connection,
        date_header=False,
        access_log=False,
        log_level="warning",
        log_config=None,
        lifespan="off",
        ws="none",
        timeout_graceful_shutdown=1,
    )
    logging.getLogger("uvicorn.error").addFilter(_not_on_purpose)
    return uvicorn.Server(config)


def _not_on_purpose(record: logging.LogRecord) -> bool:
    """Lets pass all that uvicorn reports but the answers that faults do not begin, or do not end."""
    return record.getMessage() not in (
        "ASGI callable returned without starting response.",
        "ASGI callable returned without completing response.",
    )
