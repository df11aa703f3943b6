"""How the stand-in vendor misbehaves on request, and what that looks like on the wire."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from starlette.responses import RedirectResponse, Response
from starlette.types import Receive, Scope, Send

from accession.errors import UserError
from accession.sandbox.catalogue import seeded
from accession.sandbox.documents import error_document


class Fault(StrEnum):
    """A name in a faults specification."""

    # Instead of the answer; at most one of them strikes a request.
    BAD_GATEWAY = "bad-gateway"  # 502 with a proxy's page
    UNAVAILABLE = "unavailable"  # 503, Retry-After 1
    TOO_MANY = "too-many"  # 429, Retry-After 1
    ERROR_500 = "error-500"  # 500, "The server has encountered an error"
    ERROR_DOCUMENT = (
        "error-document"  # 200 with an Error, "Unknown error" and "Authentication failed" in turn
    )
    HTML = "html"  # 200 with a web page
    BLANK = (
        "blank"  # 200 without a body, but never twice running for one URL, which would mean "nothing here"
    )
    TRUNCATED = "truncated"  # 200 whose XML ends early, with a fitting Content-Length
    DROP = "drop"  # the connection is closed in mid-body
    REDIRECT = "redirect"  # 302 to another path
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


_BREAKING = tuple(Fault)[: tuple(Fault).index(Fault.SLOW)]


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
        if sum(shares.get(fault, 0) for fault in _BREAKING) > 1 + 1e-9:
            raise UserError(
                f'The faults "{spec}" sum up to more than 1: lower the shares of {", ".join(_BREAKING)}.'
            )
        return cls(shares, seed)

    def striking(self, number: int) -> frozenset[Fault]:
        """What strikes the request of this number: of the faults that replace the answer at most one."""
        dice = seeded(f"faults {self.seed} {number}")
        drawn = dice.random()
        struck = set()
        for fault in _BREAKING:
            share = self.shares.get(fault, 0)
            if 0 <= drawn < share:
                struck.add(fault)
            drawn -= share
        struck |= {
            fault for fault in Fault if fault not in _BREAKING and dice.random() < self.shares.get(fault, 0)
        }
        return frozenset(struck)


def breaking(struck: frozenset[Fault]) -> Fault | None:
    """The one of them that replaces the answer."""
    return next((fault for fault in _BREAKING if fault in struck), None)


def broken_answer(fault: Fault, body: bytes, number: int) -> Response:
    """What the client gets instead of an answer with this body. `number` is the request's."""
    match fault:
        case Fault.BAD_GATEWAY:
            return Response(_page("502 Bad Gateway"), 502, media_type="text/html")
        case Fault.UNAVAILABLE:
            return Response(_page("503 Service Unavailable"), 503, {"Retry-After": "1"}, "text/html")
        case Fault.TOO_MANY:
            return Response(_page("429 Too Many Requests"), 429, {"Retry-After": "1"}, "text/html")
        case Fault.ERROR_500:
            return Response("The server has encountered an error", 500, media_type="text/plain")
        case Fault.ERROR_DOCUMENT:
            return Xml(error_document(("Unknown error", "Authentication failed")[number % 2]))
        case Fault.HTML:
            return Response(_page("cloudLibrary is undergoing maintenance"), media_type="text/html")
        case Fault.BLANK:
            return Xml("")
        case Fault.TRUNCATED:
            return Xml(body[: len(body) * 2 // 3])
        case Fault.DROP:
            return _Dropped(body)
        case Fault.REDIRECT:
            return RedirectResponse("/maintenance", 302)
        case _:
            raise ValueError(f"{fault} does not replace an answer")


class Xml(Response):
    """An answer of the vendor's. No source says its content type: `application/xml` is a choice."""

    media_type = "application/xml"


class _Dropped(Xml):
    """Promises the whole body, sends half of it, and has the server close the connection."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        half = bytes(self.body[: len(self.body) // 2])
        await send({"type": "http.response.body", "body": half, "more_body": True})


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
