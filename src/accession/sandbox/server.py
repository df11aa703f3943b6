"""The stand-in vendor over HTTP: signed calls as the real one has them, and a look behind the scenes.

`/cirrus/library/{libraryId}/...` imitates the vendor and wants signed requests. `/sandbox/...` is for
tests and people, unsigned: `GET statistics` and `GET titles` tell what was sold and asked,
`POST faults` takes a new faults specification, `POST remove/{id}` takes a title out of the collection.

What no public source settles was decided thus: a window includes its start and not its end (a
setting), records come in the order of purchase, a `limit` above 50 counts as 50, more than 25 ids and
an `offset` below 1 are 400 with an `Error` document, an id asked for twice answers once, documents are
`application/xml`, a missing `enddate` leaves the window open, and a wrong library id is 404.
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
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from itertools import count
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from accession.clock import utc_now
from accession.errors import UserError
from accession.sandbox.catalogue import Catalogue, Purchase
from accession.sandbox.documents import EMPTY_EVENTS, error_document, item_documents, marc_collection
from accession.sandbox.faults import Fault, Faults, Xml, breaking, broken_answer

SANDBOX_ACCOUNT_KEY = "sandbox-key-that-is-no-secret"
"""The key of the default account: printed, published, and good for nothing but a sandbox."""

MARC_LIMIT = 50
ITEMS_LIMIT = 25
_CLOCK_TOLERANCE = timedelta(minutes=5)
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
        end_included: bool = False,
    ) -> None:
        """Every signed request takes `latency_ms` longer, side by side with others.

        A request that the fault `slow` strikes takes `slow_ms` more. With `end_included` purchases of
        the very second of a window's end belong to the window, and to the next one too.
        """
        self.catalogue = catalogue
        self.account = account or SandboxAccount()
        self.faults = faults or Faults()
        self.latency_ms = latency_ms
        self.slow_ms = slow_ms
        self.end_included = end_included
        self.removed: set[str] = set()
        self.requests = Counter({"marc": 0, "record": 0, "items": 0, "cloudevents": 0, "refused": 0})
        self.struck: Counter[str] = Counter()
        self._numbers = count(1)
        self._blanked: set[str] = set()

    def statistics(self) -> dict[str, Any]:
        """What `GET /sandbox/statistics` answers.

        `titles_bought` is the sum of `unusable_records` and `usable_titles`. `requests` counts the
        answered requests per endpoint and those refused as wrongly signed or meant for another
        library; `faults` counts what struck.
        """
        bought, unusable = len(self.catalogue), self.catalogue.unusable
        return {
            "titles_bought": bought,
            "unusable_records": unusable,
            "usable_titles": bought - unusable,
            "requests": dict(self.requests),
            "faults": dict(self.struck),
        }

    def titles(self) -> list[dict[str, Any]]:
        """What `GET /sandbox/titles` answers: every purchase, in order.

        `purchased_at` is ISO 8601 in UTC, `usable` says whether its record carries exactly one 001,
        `listed` whether `items` answers with it.
        """
        return [
            {
                "id": purchase.item_id,
                "title": purchase.work.title,
                "purchased_at": purchase.purchased_at.isoformat(),
                "format": purchase.format,
                "isbn": purchase.isbn,
                "copies": purchase.copies,
                "available": purchase.available,
                "holds": purchase.holds,
                "usable": purchase.flaw is None,
                "listed": self._listed(purchase),
            }
            for purchase in self.catalogue.purchases
        ]

    def remove(self, item_id: str) -> bool:
        """Take the title out of the collection; whether it was bought at all.

        As with the vendor that shows in `items` and `data/marc/{id}` only, never in a window.
        """
        if self.catalogue.find(item_id) is None:
            return False
        self.removed.add(item_id)
        return True

    async def marc(self, request: Request) -> Response:
        return await self._answer(request, "marc", self._marc)

    async def record(self, request: Request) -> Response:
        return await self._answer(request, "record", self._record)

    async def items(self, request: Request) -> Response:
        return await self._answer(request, "items", self._items)

    async def events(self, request: Request) -> Response:
        return await self._answer(request, "cloudevents", lambda _request, _struck: EMPTY_EVENTS)

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
        try:
            answer = Xml(document(request, struck))
        except _BadRequestError as error:
            return Xml(error_document(str(error)), 400)
        fault = self._breaking(request, struck)
        if fault is None:
            return answer
        self.struck[fault] += 1
        return broken_answer(fault, bytes(answer.body), number)

    def _breaking(self, request: Request, struck: Struck) -> Fault | None:
        fault = breaking(struck)
        target = _target(request)
        # Two blanks running are the vendor's way to say "nothing here", which would be a lie, not a fault.
        if fault is Fault.BLANK and target not in self._blanked:
            self._blanked.add(target)
            return fault
        self._blanked.discard(target)
        return None if fault is Fault.BLANK else fault

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
        in_time = abs(utc_now() - moment) <= _CLOCK_TOLERANCE
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
        owned = purchase is not None and purchase.item_id not in self.removed
        return self._collection([purchase] if purchase and owned else [], struck)

    def _collection(self, page: Sequence[Purchase], struck: Struck) -> str:
        entities = bool(page) and self._strikes(Fault.ENTITIES, struck)
        return marc_collection(page, self.account.library_id, utc_now(), undefined_entities=entities)

    def _items(self, request: Request, struck: Struck) -> str:
        item_ids = request.path_params["item_ids"].split(",")
        if len(item_ids) > ITEMS_LIMIT:
            raise _BadRequestError(f"at most {ITEMS_LIMIT} items")
        found = (self.catalogue.find(item_id) for item_id in dict.fromkeys(item_ids))
        listed = [purchase for purchase in found if purchase and self._listed(purchase)]
        double_escaped = bool(listed) and self._strikes(Fault.DOUBLE_ESCAPE, struck)
        return item_documents(listed, self.account.library_id, double_escaped=double_escaped)

    def _listed(self, purchase: Purchase) -> bool:
        return purchase.listed and purchase.item_id not in self.removed


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


def _number(request: Request, name: str, default: int) -> int:
    text = request.query_params.get(name, str(default))
    if not text.isdecimal() or int(text) < 1:
        raise _BadRequestError(f"{name} must be at least 1")
    return int(text)


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
        ]
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


def _server(sandbox: Sandbox) -> uvicorn.Server:
    config = uvicorn.Config(
        make_app(sandbox),
        access_log=False,
        log_level="warning",
        log_config=None,
        lifespan="off",
        ws="none",
        timeout_graceful_shutdown=1,
    )
    logging.getLogger("uvicorn.error").addFilter(_not_dropped_on_purpose)
    return uvicorn.Server(config)


def _not_dropped_on_purpose(record: logging.LogRecord) -> bool:
    """Lets pass all that uvicorn reports but the answers that the fault `drop` ended early."""
    return record.getMessage() != "ASGI callable returned without completing response."
