"""Parser for circulation events; it never reads the elements that identify patrons."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import MAXYEAR, MINYEAR, UTC, datetime

from lxml import etree

from accession.bibliotheca.errors import BadResponseException, ResponseContext, excerpt_of
from accession.bibliotheca.items import is_item_id
from accession.bibliotheca.text import MAX_TEXT_LENGTH, to_line
from accession.bibliotheca.xml import local_name, parse_document
from accession.catalog.data import EventData
from accession.core.isbn import normalise_isbn
from accession.core.vocabulary import EventType

_UNKNOWN_CONTEXT = ResponseContext(contains_personal_data=True)
_BATCH, _EVENT = "LibraryEventBatch", "CloudLibraryEvent"
_START, _END = "EventStartDateTimeInUTC", "EventEndDateTimeInUTC"
_PUBLISHED = "EventPublishDateTimeInUTC"
# The vendor sends at most 150 events in one response.
_MAX_EVENTS = 2_000
_ELEMENTS_TO_READ = ("EventId", "EventType", _START, _END, _PUBLISHED, "ItemId", "ISBN")
# From Python 3.14 on, `datetime` accepts the hour 24.
_MOMENT = re.compile(
    r"(?P<second>\d{4}-\d\d-\d\d[T ](?!24)\d\d:\d\d:\d\d)(?:\.(?P<fraction>\d{1,12}))?"
    r"\s*(?:Z|(?P<offset>[+-]\d\d:?[0-5]\d))?",
    re.ASCII | re.IGNORECASE,
)


@dataclass(frozen=True)
class EventFault:
    """An event that is invalid.

    Attributes:
        event_id: id of the event, or None if it cannot be read.
        reason: one sentence for a person.
        raw_xml: a complete document with the event, reduced to the elements that the parser reads.
    """

    event_id: str | None
    reason: str
    raw_xml: str


@dataclass(frozen=True)
class EventsResponse:
    """Events of a window in the vendor's order, which is not always chronological.

    Attributes:
        events: the valid events.
        faults: the invalid events.
        repaired: whether the document was only well-formed after the repair.
        is_blank: whether the body was empty, which does not prove that there are no events.
    """

    events: tuple[EventData, ...]
    faults: tuple[EventFault, ...]
    repaired: bool = False
    is_blank: bool = False

    @property
    def fetched(self) -> int:
        """Number of events in the response, valid or not."""
        return len(self.events) + len(self.faults)


def parse_events(body: bytes, context: ResponseContext = _UNKNOWN_CONTEXT) -> EventsResponse:
    """Parse a batch of events.

    An invalid event becomes a fault and does not affect the others. Unknown event types are kept.

    Raises:
        RemoteInitiatedServerError: the vendor reports an error.
        BadResponseException: the document is invalid, or has more events than the vendor ever sends.
    """
    document = parse_document(body, _BATCH, context)
    elements = list(document.root.iter(f"{{*}}{_EVENT}"))
    if len(elements) > _MAX_EVENTS:
        problem = f"the vendor sent {len(elements):,} events in one response; the limit is {_MAX_EVENTS:,}"
        raise context.error(BadResponseException, problem, body)
    results = [_parse_event(element) for element in elements]
    return EventsResponse(
        events=tuple(event for event in results if isinstance(event, EventData)),
        faults=tuple(fault for fault in results if isinstance(fault, EventFault)),
        repaired=document.repaired,
    )


def _parse_event(element: etree._Element) -> EventData | EventFault:
    elements = _elements_to_read(element)
    texts = _texts_by_name(elements)
    event_id = texts.get("EventId", "")
    event_type = texts.get("EventType", "").upper()
    item_id = texts.get("ItemId", "")
    moment = _occurred_at(texts, event_type)
    if not event_id:
        reason = f"It has no EventId (type {excerpt_of(event_type)!r})."
    elif not event_type:
        reason = "It has no EventType."
    elif moment is None:
        reason = "It has no valid date and time."
    elif not is_item_id(item_id):
        reason = f"Its ItemId is invalid: {excerpt_of(item_id)!r}."
    else:
        isbn = normalise_isbn(texts.get("ISBN", ""))
        return EventData(
            event_id=event_id, event_type=event_type, identifier=item_id, occurred_at=moment, isbn=isbn
        )
    return EventFault(excerpt_of(event_id) or None, reason, _to_batch(elements))


def _elements_to_read(element: etree._Element) -> Sequence[etree._Element]:
    # An element with children is skipped: the children could contain a patron's id.
    return [child for child in element if local_name(child) in _ELEMENTS_TO_READ and not len(child)]


def _texts_by_name(elements: Sequence[etree._Element]) -> Mapping[str, str]:
    """Return each element's text by local name; the first that is not empty if a name is repeated."""
    texts: dict[str, str] = {}
    for child in elements:
        name = local_name(child)
        if not texts.get(name):
            texts[name] = to_line((child.text or "")[:MAX_TEXT_LENGTH])
    return texts


def _to_batch(elements: Sequence[etree._Element]) -> str:
    """Return a batch with a single event that consists of these elements."""
    batch = etree.Element(_BATCH)
    event = etree.SubElement(etree.SubElement(batch, "Events"), _EVENT)
    for child in elements:
        etree.SubElement(event, local_name(child)).text = child.text
    return etree.tostring(batch, encoding="unicode")


def _occurred_at(texts: Mapping[str, str], event_type: str) -> datetime | None:
    """Return the moment of the event: its start, because the end of a loan, for example, is in the future.

    A return is the exception: in newer documents it is a span like that of a loan, which ends with the
    return (NYPL/python-utils, tests/test_cloudlibrary_client.py). Its end is used unless that is later than
    the publication of the event. In older documents start and end of a return are equal.
    """
    start, end, published = (_parse_moment(texts.get(name, "")) for name in (_START, _END, _PUBLISHED))
    has_ended = end is not None and (published is None or end <= published)
    if event_type == EventType.CHECKIN and has_ended:
        return end
    return start or end


def _parse_moment(text: str) -> datetime | None:
    """Return the UTC time in `text`, which is UTC unless it has an offset, with up to 12 fraction digits.

    Return None for invalid text and for the first and the last year, which many systems use for "no date".
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
