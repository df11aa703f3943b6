"""The vendor's side of HTTP for tests that script it page by page; the sandbox is the vendor for the rest."""

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from html import escape
from itertools import count
from urllib.parse import parse_qs

import httpx

NAMESPACE = "http://www.loc.gov/MARC21/slim"
_stamps = count(1)


def marc(*item_ids: str, title: str = "A title") -> str:
    """A purchase record with an 001 for each id, and the stamps that the vendor renews in each answer."""
    stamp = next(_stamps)
    controls = [("001", escape(item_id)) for item_id in item_ids]
    controls.append(("005", f"2021040223{stamp % 10000:04}.0"))
    controls.append(("008", f"{stamp % 1000000:06}s2013||||||||||||o|||||||||||eng|d"))
    fields = (f'<marc:controlfield tag="{tag}">{text}</marc:controlfield>' for tag, text in controls)
    return (
        "<marc:record><marc:leader>01034nam a22002413a 4500</marc:leader>"
        f"{''.join(fields)}"
        '<marc:datafield tag="245" ind1="1" ind2="0">'
        f'<marc:subfield code="a">{escape(title)}</marc:subfield></marc:datafield></marc:record>'
    )


def marc_page(records: Iterable[str]) -> str:
    """A page as the vendor sends it, with the `>` that strays behind the last record."""
    return (
        '<?xml version="1.0" encoding="UTF-8" ?>'
        f'<marc:collection xmlns:marc="{NAMESPACE}">{"".join(records)}></marc:collection>'
    )


def raw(*item_ids: str) -> str:
    """A record as it is kept: a document of its own."""
    return marc(*item_ids).replace("<marc:record>", f'<marc:record xmlns:marc="{NAMESPACE}">')


def item(
    item_id: str, *, title: str = "A title", owned: int = 1, available: int = 1, holds: int = 0, **more: str
) -> str:
    """An item document's element; `more` adds or replaces elements by name."""
    elements = {
        "ItemId": item_id,
        "Title": title,
        "Authors": "Lem, Stanisław",
        "Language": "pl",
        "ISBN13": "9788308068298",
        "BookFormat": "EPUB",
        "TotalCopies": str(owned),
        "AvailableCopies": str(available),
        "OnHoldCount": str(holds),
    } | more
    inner = "".join(f"<{name}>{escape(value)}</{name}>" for name, value in elements.items())
    return f"<Item>{inner}</Item>"


PATRON = "patron-4711"
PATRONS_CARD = "card-0815"


def event(
    event_id: str,
    event_type: str,
    item_id: str,
    moment: datetime,
    *,
    isbn: str = "9788308068298",
    **more: str,
) -> str:
    """An event's element, with the patron's ids that nobody may keep; `more` adds or replaces elements."""
    elements = {
        "LibraryId": "alder",
        "EventId": event_id,
        "EventType": event_type,
        "EventStartDateTimeInUTC": f"{moment:%Y-%m-%dT%H:%M:%S}",
        "EventEndDateTimeInUTC": "",
        "ItemId": item_id,
        "ItemLibraryId": "alder",
        "ISBN": isbn,
        "PatronId": PATRON,
        "PatronLibraryId": PATRONS_CARD,
        "EventPublishDateTimeInUTC": f"{moment:%Y-%m-%dT%H:%M:%S}",
    } | more
    inner = "".join(f"<{name}>{escape(value)}</{name}>" for name, value in elements.items())
    return f"<CloudLibraryEvent>{inner}</CloudLibraryEvent>"


def event_batch(events: Iterable[str]) -> str:
    """A batch as the vendor sends it; an empty one is an empty root."""
    inner = "".join(events)
    return f"<LibraryEventBatch>{f'<Events>{inner}</Events>' if inner else ''}</LibraryEventBatch>"


def error_document(message: str) -> str:
    """The vendor's way to say that it failed."""
    return f"<Error><Code>Gen-001</Code><Message>{message}</Message></Error>"


@dataclass
class Vendor:
    """A scripted vendor: what was sold when, what happened, what `items` says, and which answers come first.

    Answers of events are cut after `events_told`. `answers` are sent, one a request, before the vendor
    looks at what it was asked.
    """

    sold: list[tuple[datetime, str]] = field(default_factory=list)
    happened: list[tuple[datetime, str]] = field(default_factory=list)
    events_told: int = 100
    items: dict[str, str] = field(default_factory=dict)
    answers: deque[httpx.Response | Exception] = field(default_factory=deque)
    requests: list[httpx.Request] = field(default_factory=list)
    repeats_pages: bool = False

    def sells(self, moment: datetime, *item_ids: str) -> None:
        """Sell titles at a moment, one record each, with metadata in `items`."""
        for item_id in item_ids:
            self.sold.append((moment, marc(item_id)))
            self.items[item_id] = item(item_id, title=f"Title {item_id}")

    def tells(self, moment: datetime, event_type: str, item_id: str, **more: str) -> str:
        """Have something happen to a title; its event id."""
        event_id = f"event-{len(self.happened) + 1}"
        self.happened.append((moment, event(event_id, event_type, item_id, moment, **more)))
        return event_id

    def client(self) -> httpx.Client:
        """An HTTP client whose other end is this vendor."""
        return httpx.Client(transport=httpx.MockTransport(self._answer))

    def marc_requests(self) -> list[dict[str, str]]:
        """What was asked of `data/marc`: start, end, offset, limit."""
        return self._asked_of("/data/marc")

    def event_requests(self) -> list[dict[str, str]]:
        """What was asked of `data/cloudevents`: start, end."""
        return self._asked_of("/data/cloudevents")

    def _asked_of(self, path: str) -> list[dict[str, str]]:
        asked = [r.url.query.decode() for r in self.requests if r.url.path.endswith(path)]
        return [{name: values[0] for name, values in parse_qs(query).items()} for query in asked]

    def item_requests(self) -> list[list[str]]:
        """The ids of each request for items."""
        return [r.url.path.rsplit("/", 1)[1].split(",") for r in self.requests if "/items/" in r.url.path]

    def _answer(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        if self.answers:
            answer = self.answers.popleft()
            if isinstance(answer, Exception):
                raise answer
            return answer
        if "/items/" in request.url.path:
            ids = request.url.path.rsplit("/", 1)[1].split(",")
            found = "".join(self.items[i] for i in ids if i in self.items)
            return httpx.Response(200, text=f"<ArrayOfItem>{found}</ArrayOfItem>")
        if request.url.path.endswith("/data/cloudevents"):
            return httpx.Response(200, text=event_batch(_within(self.happened, request)[: self.events_told]))
        return httpx.Response(200, text=marc_page(self._page(request)))

    def _page(self, request: httpx.Request) -> list[str]:
        asked = request.url.params
        window = _within(self.sold, request)
        offset = 1 if self.repeats_pages else int(asked["offset"])
        return window[offset - 1 :][: int(asked["limit"])]


def _within(told: Iterable[tuple[datetime, str]], request: httpx.Request) -> list[str]:
    """What was told of the window that the request asks for, in the order it was told in."""
    start, end = (_moment(request.url.params[name]) for name in ("startdate", "enddate"))
    return [element for moment, element in told if start <= moment < end]


def _moment(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)
