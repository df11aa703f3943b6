"""How the stand-in vendor misbehaves on request, and what that looks like on the wire."""

import asyncio
import gzip
from collections.abc import AsyncIterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from enum import StrEnum

from starlette.responses import RedirectResponse, Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from accession.core.errors import UserError
from accession.sandbox.catalogue import seeded
from accession.sandbox.documents import error_document


class Fault(StrEnum):
    """A name in a faults specification."""

    # Instead of the answer; at most one of them strikes a request.
    BAD_GATEWAY = "bad-gateway"  # 502 with a proxy's page
    UNAVAILABLE = "unavailable"  # 503, Retry-After as the sandbox's `retry_after_seconds`
    TOO_MANY = "too-many"  # 429, Retry-After likewise
    ERROR_500 = "error-500"  # 500, "The server has encountered an error"
    ERROR_DOCUMENT = (
        "error-document"  # 200 with an Error, "Unknown error" and "Authentication failed" in turn
    )
    ERROR_DOCUMENT_500 = "error-document-500"  # 500 with the same
    HTML = "html"  # 200 with a web page
    BLANK = "blank"  # 200 without a body; where that can mean "nothing here", once in ten minutes for a URL
    TRUNCATED = "truncated"  # 200 whose XML ends early, with a fitting Content-Length
    DROP = "drop"  # the connection is closed in mid-body
    LONG_LENGTH = "long-length"  # a Content-Length of more than comes before the connection is closed
    SHORT_LENGTH = "short-length"  # a Content-Length of half of what comes
    GZIP_PLAIN = "gzip-plain"  # said to be gzip, which it is not
    GZIP_CUT = "gzip-cut"  # gzip that ends within its first bytes, with a fitting Content-Length
    REDIRECT = "redirect"  # 302 to another path
    SILENT = "silent"  # nothing, until the client hangs up
    DRIP = "drip"  # the answer, and then blanks without end, fifty a second
    ENDLESS = "endless"  # the answer, and then blanks without end, as fast as the client takes them
    OVERSIZED = "oversized"  # the answer, and then 21 MiB of blanks, with a fitting Content-Length
    # In the answer: any of them may strike together, each where it applies.
    SLOW = "slow"  # later by the sandbox's `slow_ms`
    ENTITIES = "entities"  # data/marc: undefined HTML entities in 520
    DOUBLE_ESCAPE = "double-escape"  # items: all texts are escaped twice
    REPEAT_EDGE = (
        "repeat-edge"  # data/marc: purchases of the very second of the window's end answer in it too
    )
    REPEAT_PAGE = "repeat-page"  # data/marc: the page before once more, at offsets above 1
    BLANK_WHEN_EMPTY = (
        "blank-when-empty"  # data/marc, data/cloudevents: an empty window has no body, both times asked
    )
    SHUFFLE_EVENTS = "shuffle-events"  # data/cloudevents: in no order
    REPEAT_EVENTS = "repeat-events"  # data/cloudevents: the first ten events stand there once more


BREAKING = tuple(Fault)[: tuple(Fault).index(Fault.SLOW)]
"""The faults that come instead of the answer."""

WRITE = "accession.sandbox.write"
"""The key in a request's scope under which the server offers to send bytes that are not HTTP."""

_GZIP = {"Content-Encoding": "gzip"}
_GZIP_HEADER_SIZE = 10
_OVERSIZE = 21 * 1024 * 1024


@dataclass(frozen=True)
class Faults:
    """The share of answers, 0 to 1, that each fault strikes. The same seed strikes the same requests."""

    shares: Mapping[Fault, float] = field(default_factory=dict)
    seed: int = 0

    @classmethod
    def parse(cls, spec: str, seed: int = 0) -> "Faults":
        """From `name=share,name=share`; blank means none.

        Raises UserError, naming the faults there are, for a name or share that is none, and for
        faults of which only one can strike an answer that sum up to more than 1.
        """
        parts = [part.strip() for part in spec.split(",") if part.strip()]
        shares = dict(_parse_part(part) for part in parts)
        if len(shares) < len(parts):
            raise UserError(f'The faults "{spec}" name one fault twice: give each a single share.')
        if sum(shares.get(fault, 0) for fault in BREAKING) > 1 + 1e-9:
            raise UserError(
                f'The faults "{spec}" sum up to more than 1: lower the shares of {", ".join(BREAKING)}.'
            )
        return cls(shares, seed)

    def striking(self, number: int) -> frozenset[Fault]:
        """What strikes the request of this number: of the faults that replace the answer at most one."""
        dice = seeded(f"faults {self.seed} {number}")
        drawn = dice.random()
        struck = set()
        for fault in BREAKING:
            share = self.shares.get(fault, 0)
            if 0 <= drawn < share:
                struck.add(fault)
            drawn -= share
        struck |= {
            fault for fault in Fault if fault not in BREAKING and dice.random() < self.shares.get(fault, 0)
        }
        return frozenset(struck)


def breaking(struck: frozenset[Fault]) -> Fault | None:
    """The one of them that replaces the answer."""
    return next((fault for fault in BREAKING if fault in struck), None)


def broken_answer(fault: Fault, body: bytes, number: int, retry_after_seconds: int = 1) -> Response:
    """What the client gets instead of an answer with this body. `number` is the request's."""
    wait = {"Retry-After": str(retry_after_seconds)}
    complaint = error_document(("Unknown error", "Authentication failed")[number % 2])
    match fault:
        case Fault.BAD_GATEWAY:
            return Response(_page("502 Bad Gateway"), 502, media_type="text/html")
        case Fault.UNAVAILABLE:
            return Response(_page("503 Service Unavailable"), 503, wait, "text/html")
        case Fault.TOO_MANY:
            return Response(_page("429 Too Many Requests"), 429, wait, "text/html")
        case Fault.ERROR_500:
            return Response("The server has encountered an error", 500, media_type="text/plain")
        case Fault.ERROR_DOCUMENT:
            return Xml(complaint)
        case Fault.ERROR_DOCUMENT_500:
            return Xml(complaint, 500)
        case Fault.HTML:
            return Response(_page("cloudLibrary is undergoing maintenance"), media_type="text/html")
        case Fault.BLANK:
            return Xml("")
        case Fault.TRUNCATED:
            return Xml(body[: len(body) * 2 // 3])
        case Fault.DROP:
            return _Dropped(body[: len(body) // 2], promised=len(body))
        case Fault.LONG_LENGTH:
            return _Dropped(body, promised=len(body) + 1000)
        case Fault.SHORT_LENGTH:
            return _Overrun(body)
        case Fault.GZIP_PLAIN:
            return Xml(body, headers=_GZIP)
        case Fault.GZIP_CUT:
            return Xml(gzip.compress(body)[:_GZIP_HEADER_SIZE], headers=_GZIP)
        case Fault.REDIRECT:
            return RedirectResponse("/maintenance", 302)
        case Fault.SILENT:
            return _Silent()
        case Fault.DRIP:
            return _Unending(_and_blanks(body, 1, pause_seconds=0.02), media_type=Xml.media_type)
        case Fault.ENDLESS:
            return _Unending(_and_blanks(body, 64 * 1024), media_type=Xml.media_type)
        case Fault.OVERSIZED:
            return Xml(body + b" " * _OVERSIZE)
        case _:
            raise ValueError(f"{fault} does not replace an answer")


class Xml(Response):
    """An answer of the vendor's. No source says its content type: `application/xml` is a choice."""

    media_type = "application/xml"


class _Dropped(Xml):
    """Promises more than it sends, and has the server close the connection."""

    def __init__(self, body: bytes, *, promised: int) -> None:
        super().__init__(body, headers={"Content-Length": str(promised)})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        await send({"type": "http.response.body", "body": bytes(self.body), "more_body": True})


class _Overrun(Xml):
    """Promises half of the body, and sends all of it; the connection stays open."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = bytes(self.body)
        half = len(body) // 2
        await Xml(body[:half])(scope, receive, send)
        # No server would send it as HTTP.
        scope[WRITE](body[half:])


class _Silent(Response):
    """Never begins."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        # Cancelled is who still waits when the sandbox closes.
        with suppress(asyncio.CancelledError):
            while (await receive())["type"] != "http.disconnect":
                pass


class _Unending(StreamingResponse):
    """Never ends, before the client hangs up."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with suppress(asyncio.CancelledError):
            await super().__call__(scope, receive, send)


async def _and_blanks(body: bytes, at_once: int, *, pause_seconds: float = 0) -> AsyncIterator[bytes]:
    yield body
    while True:
        # Also without a pause: others get their turn, and hear of it when the client hangs up.
        await asyncio.sleep(pause_seconds)
        yield b" " * at_once


def _page(heading: str) -> str:
    return (
        f"<html><head><title>{heading}</title></head>"
        f"<body><center><h1>{heading}</h1></center><hr><br></body></html>"
    )


def _parse_part(part: str) -> tuple[Fault, float]:
    name, _, share = part.partition("=")
    try:
        fault, value = Fault(name.strip()), float(share)
    except ValueError:
        value = -1
    if not 0 <= value <= 1:
        raise UserError(
            f'"{part}" is no fault: write name=share, with a share from 0 to 1 and one of {", ".join(Fault)}.'
        )
    return fault, value
