"""Event documents: what happened to the collection's copies, into the catalogue's data classes.

The elements that say which patron it was about are not read, wherever they stand.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import MAXYEAR, MINYEAR, UTC, datetime

from lxml import etree

from accession.bibliotheca.errors import BadResponseException, ResponseContext, excerpt_of
from accession.bibliotheca.items import is_item_id
from accession.bibliotheca.text import LONGEST_TEXT, plain
from accession.bibliotheca.xml import local_name, read
from accession.catalog.data import EventData
from accession.core.isbn import normalise_isbn
from accession.core.vocabulary import EventType

_UNKNOWN_CONTEXT = ResponseContext(contains_personal_data=True)
_BATCH, _EVENT = "LibraryEventBatch", "CloudLibraryEvent"
_START, _END = "EventStartDateTimeInUTC", "EventEndDateTimeInUTC"
_PUBLISHED = "EventPublishDateTimeInUTC"
# The vendor tells 150 at most.
_MOST_EVENTS = 2_000
_READ = ("EventId", "EventType", _START, _END, _PUBLISHED, "ItemId", "ISBN")
_MOMENT = re.compile(
    r"(?P<second>\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d)(?:\.(?P<fraction>\d{1,12}))?"
    r"\s*(?:Z|(?P<offset>[+-]\d\d:?[0-5]\d))?",
    re.ASCII | re.IGNORECASE,
)


@dataclass(frozen=True)
class EventFault:
    """An event that could not be used. `event_id` is None when not even that could be read.

    `raw_xml` is a document of its own with as much of the event as is ever read.
    """

    event_id: str | None
    reason: str
    raw_xml: str


@dataclass(frozen=True)
class EventsAnswer:
    """What the vendor told of a span of time, in its order, which need not be that of the moments.

    `repaired` when the document was well-formed only after the repair.
    """

    events: tuple[EventData, ...]
    faults: tuple[EventFault, ...]
    requests: int = 1
    repaired: bool = False

    @property
    def fetched(self) -> int:
        """How many events the answer held, usable or not."""
        return len(self.events) + len(self.faults)


def parse_events(body: bytes, context: ResponseContext = _UNKNOWN_CONTEXT, requests: int = 1) -> EventsAnswer:
    """The events in the batch `body`, which took so many `requests`.

    One malformed event is a fault and does not touch the others; an unknown type is kept as it is. Raises
    what `xml.read` raises, and `BadResponseException` for more events than the vendor ever tells.
    """
    document = read(body, _BATCH, context)
    elements = list(document.root.iter(f"{{*}}{_EVENT}"))
    if len(elements) > _MOST_EVENTS:
        raise context.error(BadResponseException, f"the vendor told {len(elements):,} events at once", body)
    found = [_event(element) for element in elements]
    return EventsAnswer(
        events=tuple(event for event in found if isinstance(event, EventData)),
        faults=tuple(fault for fault in found if isinstance(fault, EventFault)),
        requests=requests,
        repaired=document.repaired,
    )


def _event(element: etree._Element) -> EventData | EventFault:
    elements = _elements_to_read(element)
    texts = _texts(elements)
    event_id = texts.get("EventId", "")
    event_type = texts.get("EventType", "").upper()
    item_id = texts.get("ItemId", "")
    moment = _happened_at(texts, event_type)
    if not event_id:
        fault = f"It has no EventId (type {excerpt_of(event_type)!r})."
    elif not event_type:
        fault = "It has no EventType."
    elif moment is None:
        fault = "It does not say when it happened."
    elif not is_item_id(item_id):
        fault = f"Its ItemId is not one the vendor can be asked for: {excerpt_of(item_id)!r}."
    else:
        isbn = normalise_isbn(texts.get("ISBN", ""))
        return EventData(
            event_id=event_id, event_type=event_type, identifier=item_id, occurred_at=moment, isbn=isbn
        )
    return EventFault(excerpt_of(event_id) or None, fault, _batch_of(elements))


def _elements_to_read(element: etree._Element) -> Sequence[etree._Element]:
    """One that holds elements is not read: what is in those could be a patron's id."""
    return [child for child in element if local_name(child) in _READ and not len(child)]


def _texts(elements: Sequence[etree._Element]) -> Mapping[str, str]:
    """What the elements say, by local name; of several with one name the first that says something, each
    as far as it is read."""
    texts: dict[str, str] = {}
    for child in elements:
        name = local_name(child)
        if not texts.get(name):
            texts[name] = plain((child.text or "")[:LONGEST_TEXT])
    return texts


def _batch_of(elements: Sequence[etree._Element]) -> str:
    """A batch of one event of which no more is left than these elements' texts."""
    batch = etree.Element(_BATCH)
    event = etree.SubElement(etree.SubElement(batch, "Events"), _EVENT)
    for child in elements:
        etree.SubElement(event, local_name(child)).text = child.text
    return etree.tostring(batch, encoding="unicode")


def _happened_at(texts: Mapping[str, str], event_type: str) -> datetime | None:
    """The moment of the event, which is its start; the end of a loan, for one, lies in the future.

    A return is told with equal moments in older documents and as a span in newer ones, which begins hours
    before it ends, as a loan does (NYPL/python-utils, tests/test_cloudlibrary_client.py): its end it is,
    unless that is later than the vendor published it.
    """
    start, end, published = (_moment(texts.get(name, "")) for name in (_START, _END, _PUBLISHED))
    ended = end is not None and (published is None or end <= published)
    if event_type == EventType.CHECKIN and ended:
        return end
    return start or end


def _moment(text: str) -> datetime | None:
    """The moment in `text`, in UTC where it names no zone; seven fraction digits have been seen.

    None for what is no moment, and for the first and the last year there are: many systems write
    "no date" like that.
    """
    match = _MOMENT.fullmatch(text)
    if match is None:
        return None
    fraction = (match["fraction"] or "")[:6].ljust(6, "0")
    try:
        moment = datetime.fromisoformat(f"{match['second']}.{fraction}{match['offset'] or '+00:00'}")
    except ValueError:
        return None
    return None if moment.year in (MINYEAR, MAXYEAR) else moment.astimezone(UTC)
