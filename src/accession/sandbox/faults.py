"""Faults of the simulated vendor: selection by share and seed, and the faulty responses."""

import asyncio
import gzip
from collections.abc import AsyncIterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from enum import StrEnum

from starlette.responses import RedirectResponse, Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from accession.core.errors import UserError
from accession.sandbox.catalogue import seeded_random
from accession.sandbox.documents import error_document


class Fault(StrEnum):
    """Name of a fault in a faults specification."""

    # Response faults replace the response; at most one applies to a request.
    BAD_GATEWAY = "bad-gateway"  # 502 with an HTML page of a proxy
    UNAVAILABLE = "unavailable"  # 503 with Retry-After: `retry_after_seconds` of the sandbox
    TOO_MANY = "too-many"  # 429 with the same Retry-After
    ERROR_500 = "error-500"  # 500 with the text "The server has encountered an error"
    ERROR_DOCUMENT = (
        "error-document"  # 200 with an Error document: "Unknown error" and "Authentication failed" in turn
    )
    ERROR_DOCUMENT_500 = "error-document-500"  # 500 with the same documents
    HTML = "html"  # 200 with an HTML page
    BLANK = "blank"  # 200 with an empty body, also for a window with records
    TRUNCATED = "truncated"  # 200 with truncated XML and a matching Content-Length
    DROP = "drop"  # the connection is closed in the middle of the body
    LONG_LENGTH = "long-length"  # Content-Length exceeds the body, then the connection is closed
    SHORT_LENGTH = "short-length"  # Content-Length is half of the body
    GZIP_PLAIN = "gzip-plain"  # Content-Encoding gzip with an uncompressed body
    GZIP_CUT = "gzip-cut"  # gzip truncated within its header, with a matching Content-Length
    REDIRECT = "redirect"  # 302 to another path
    SILENT = "silent"  # no response until the client disconnects
    DRIP = "drip"  # the response, then endless blanks, fifty per second
    ENDLESS = "endless"  # the response, then endless blanks at full speed
    OVERSIZED = "oversized"  # the response, then 21 MiB of blanks, with a matching Content-Length
    # Content faults change the response; any number of them may apply to a request.
    SLOW = "slow"  # delayed by `slow_ms` of the sandbox
    ENTITIES = "entities"  # data/marc: undefined HTML entities in 520
    DOUBLE_ESCAPE = "double-escape"  # items: texts are escaped twice
    REPEAT_EDGE = "repeat-edge"  # data/marc: the window also includes purchases at exactly its end
    REPEAT_PAGE = "repeat-page"  # data/marc: offsets above 1 return the previous page
    BLANK_WHEN_EMPTY = (
        "blank-when-empty"  # data/marc, data/cloudevents: empty body for an empty window, every time
    )
    SHUFFLE_EVENTS = "shuffle-events"  # data/cloudevents: in random order
    REPEAT_EVENTS = "repeat-events"  # data/cloudevents: the first ten events are repeated
    # State faults also change later responses.
    BLANK_BURST = "blank-burst"  # starts a minute in which every response is 200 with an empty body
    SHIFT_PAGE = (
        "shift-page"  # data/marc, between pages of a day: its first record is withdrawn or one added, in turn
    )
    LATE = "late"  # data/marc: omits this share of purchases, each for up to `late_days` of the sandbox


RESPONSE_FAULTS = tuple(Fault)[: tuple(Fault).index(Fault.SLOW)]
"""Faults that replace the response."""

WRITE = "accession.sandbox.write"
"""Key in the ASGI scope: function of the server that writes raw bytes to the connection."""

_GZIP = {"Content-Encoding": "gzip"}
_GZIP_HEADER_SIZE = 10
_OVERSIZE = 21 * 1024 * 1024


@dataclass(frozen=True)
class Faults:
    """Share of requests (0 to 1) that each fault applies to, reproducible by seed and request number.

    The share of `late` is one of purchases, reproducible by seed and title.
    """

    shares: Mapping[Fault, float] = field(default_factory=dict)
    seed: int = 0

    @classmethod
    def parse(cls, spec: str, seed: int = 0) -> "Faults":
        """Parse `name=share,name=share`; an empty text means no faults.

        Raises:
            UserError: a name or share is invalid, a name is repeated, or the shares of the response
                faults add up to more than 1.
        """
        parts = [part.strip() for part in spec.split(",") if part.strip()]
        shares = dict(_parse_share(part) for part in parts)
        if len(shares) < len(parts):
            raise UserError(f'The faults "{spec}" contain a fault twice: give each fault one share.')
        if sum(shares.get(fault, 0) for fault in RESPONSE_FAULTS) > 1 + 1e-9:
            raise UserError(
                f'The faults "{spec}" add up to more than 1: reduce shares of {", ".join(RESPONSE_FAULTS)}.'
            )
        return cls(shares, seed)

    def active_faults(self, number: int) -> frozenset[Fault]:
        """Return the faults of a request by its number, at most one of them a response fault."""
        rng = seeded_random(f"faults {self.seed} {number}")
        drawn = rng.random()
        active = set()
        for fault in RESPONSE_FAULTS:
            share = self.shares.get(fault, 0)
            if 0 <= drawn < share:
                active.add(fault)
            drawn -= share
        active |= {
            fault
            for fault in Fault
            if fault not in (*RESPONSE_FAULTS, Fault.LATE) and rng.random() < self.shares.get(fault, 0)
        }
        return frozenset(active)

    def lateness(self, item_id: str) -> float:
        """Return the delay of a title's purchase record: 0 for none, 1 for the longest."""
        share = self.shares.get(Fault.LATE, 0)
        if not share:
            return 0
        rng = seeded_random(f"late {self.seed} {item_id}")
        return 1 - rng.random() if rng.random() < share else 0


def response_fault(active: frozenset[Fault]) -> Fault | None:
    """Return the fault that replaces the response, if any."""
    return next((fault for fault in RESPONSE_FAULTS if fault in active), None)


def faulty_response(fault: Fault, body: bytes, number: int, retry_after_seconds: int = 1) -> Response:
    """Return the response that replaces one with this body; `number` is the number of the request."""
    wait = {"Retry-After": str(retry_after_seconds)}
    error = error_document(("Unknown error", "Authentication failed")[number % 2])
    match fault:
        case Fault.BAD_GATEWAY:
            return Response(_html_page("502 Bad Gateway"), 502, media_type="text/html")
        case Fault.UNAVAILABLE:
            return Response(_html_page("503 Service Unavailable"), 503, wait, "text/html")
        case Fault.TOO_MANY:
            return Response(_html_page("429 Too Many Requests"), 429, wait, "text/html")
        case Fault.ERROR_500:
            return Response("The server has encountered an error", 500, media_type="text/plain")
        case Fault.ERROR_DOCUMENT:
            return XmlResponse(error)
        case Fault.ERROR_DOCUMENT_500:
            return XmlResponse(error, 500)
        case Fault.HTML:
            return Response(_html_page("cloudLibrary is undergoing maintenance"), media_type="text/html")
        case Fault.BLANK:
            return XmlResponse("")
        case Fault.TRUNCATED:
            return XmlResponse(body[: len(body) * 2 // 3])
        case Fault.DROP:
            return _DroppedConnection(body[: len(body) // 2], content_length=len(body))
        case Fault.LONG_LENGTH:
            return _DroppedConnection(body, content_length=len(body) + 1000)
        case Fault.SHORT_LENGTH:
            return _ShortLengthResponse(body)
        case Fault.GZIP_PLAIN:
            return XmlResponse(body, headers=_GZIP)
        case Fault.GZIP_CUT:
            return XmlResponse(gzip.compress(body)[:_GZIP_HEADER_SIZE], headers=_GZIP)
        case Fault.REDIRECT:
            return RedirectResponse("/maintenance", 302)
        case Fault.SILENT:
            return _SilentResponse()
        case Fault.DRIP:
            return _EndlessResponse(
                _body_then_blanks(body, 1, pause_seconds=0.02), media_type=XmlResponse.media_type
            )
        case Fault.ENDLESS:
            return _EndlessResponse(_body_then_blanks(body, 64 * 1024), media_type=XmlResponse.media_type)
        case Fault.OVERSIZED:
            return XmlResponse(body + b" " * _OVERSIZE)
        case _:
            raise ValueError(f"{fault} does not replace the response")


class XmlResponse(Response):
    """Response of the vendor. The content type `application/xml` is an assumption."""

    media_type = "application/xml"


class _DroppedConnection(XmlResponse):
    """Announces a longer body than it sends; the server then closes the connection."""

    def __init__(self, body: bytes, *, content_length: int) -> None:
        super().__init__(body, headers={"Content-Length": str(content_length)})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        await send({"type": "http.response.body", "body": bytes(self.body), "more_body": True})


class _ShortLengthResponse(XmlResponse):
    """Announces half of the body but sends all of it; the connection stays open."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = bytes(self.body)
        half = len(body) // 2
        await XmlResponse(body[:half])(scope, receive, send)
        # Written past the HTTP server, which would refuse a body longer than announced.
        scope[WRITE](body[half:])


class _SilentResponse(Response):
    """Never starts."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        # Requests that are still open are cancelled when the sandbox stops.
        with suppress(asyncio.CancelledError):
            while (await receive())["type"] != "http.disconnect":
                pass


class _EndlessResponse(StreamingResponse):
    """Never ends until the client disconnects."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with suppress(asyncio.CancelledError):
            await super().__call__(scope, receive, send)


async def _body_then_blanks(
    body: bytes, chunk_size: int, *, pause_seconds: float = 0
) -> AsyncIterator[bytes]:
    yield body
    while True:
        # Sleeping even for 0 s lets other requests run and notices a disconnected client.
        await asyncio.sleep(pause_seconds)
        yield b" " * chunk_size


def _html_page(heading: str) -> str:
    return (
        f"<html><head><title>{heading}</title></head>"
        f"<body><center><h1>{heading}</h1></center><hr><br></body></html>"
    )


def _parse_share(part: str) -> tuple[Fault, float]:
    name, _, share = part.partition("=")
    try:
        fault, value = Fault(name.strip()), float(share)
    except ValueError:
        value = -1
    if not 0 <= value <= 1:
        raise UserError(
            f'"{part}" is not a fault: write name=share, a share from 0 to 1, and one of {", ".join(Fault)}.'
        )
    return fault, value
