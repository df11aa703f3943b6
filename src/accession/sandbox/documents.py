"""Documents of the simulated vendor: errors, events, and the texts that several documents share.

Documents are written as text because no XML library would produce some quirks of the real ones. Purchase
records are in `marc`, metadata in `items`.
"""

from collections.abc import Sequence
from datetime import datetime
from uuid import NAMESPACE_OID, uuid5
from xml.sax.saxutils import escape

from accession.sandbox.activity import Event, EventType
from accession.sandbox.catalogue import Format, Purchase

XSI = "http://www.w3.org/2001/XMLSchema-instance"
ROOT_NAMESPACES = f'xmlns:xsd="http://www.w3.org/2001/XMLSchema" xmlns:xsi="{XSI}"'

EMPTY_EVENTS = f"<LibraryEventBatch {ROOT_NAMESPACES}/>"


def error_document(message: str) -> str:
    """Return an `Error` document. The code is always Gen-001; only the message differs."""
    return f"<Error {ROOT_NAMESPACES}><Code>Gen-001</Code><Message>{escape(message)}</Message></Error>"


def event_batch(events: Sequence[Event], library_id: str, stamp: datetime, *, with_library: bool) -> str:
    """Return the events as one `LibraryEventBatch` published at `stamp`; without events, an empty root.

    `with_library` adds the optional elements: the ids of library, title and patron within the library.
    """
    if not events:
        return EMPTY_EVENTS
    last = max(event.moment for event in events)
    elements = "".join(_event(event, library_id, stamp, with_library=with_library) for event in events)
    return (
        f"<LibraryEventBatch {ROOT_NAMESPACES}>"
        f"<PublishId>{uuid5(NAMESPACE_OID, f'{library_id} {stamp}')}</PublishId>"
        f"<PublishDateTimeInUTC>{stamp:%Y-%m-%dT%H:%M:%S.%f}0Z</PublishDateTimeInUTC>"
        f"<LastEventDateTimeInUTC>{_second(last)}</LastEventDateTimeInUTC>"
        f"<Events>{elements}</Events></LibraryEventBatch>"
    )


def _event(event: Event, library_id: str, stamp: datetime, *, with_library: bool) -> str:
    is_purchase = event.event_type is EventType.PURCHASE
    elements = [
        *([("LibraryId", library_id)] if with_library else []),
        ("EventId", event.event_id),
        ("EventType", event.event_type),
        ("EventStartDateTimeInUTC", _second(event.moment)),
        ("EventEndDateTimeInUTC", "" if is_purchase else _second(event.moment)),
        ("ItemId", event.item_id),
        *([("ItemLibraryId", library_id)] if with_library else []),
        ("ISBN", event.isbn),
        ("PatronId", event.patron),
        *([("PatronLibraryId", event.patron and f"card-of-{event.patron}")] if with_library else []),
        ("EventPublishDateTimeInUTC", _second(stamp)),
    ]
    inner = "".join(xml_element(name, text) for name, text in elements)
    return f"<CloudLibraryEvent>{inner}</CloudLibraryEvent>"


def _second(moment: datetime) -> str:
    return f"{moment:%Y-%m-%dT%H:%M:%S}"


def describe(purchase: Purchase) -> list[str]:
    """Return the paragraphs of the summary, composed from the facts about the work."""
    work = purchase.work
    subtitle = f" — {work.subtitle}" if work.subtitle else ""
    paragraphs = [
        f"“{work.title}”{subtitle}",
        f"By {_display_names(work.authors)}, first published in {work.year}.",
    ]
    if purchase.format is Format.AUDIO:
        paragraphs.append(f"Read by {_display_names(work.narrators)}.")
    labels = ", ".join(subject_label(subject) for subject in work.subjects)
    return [*paragraphs, f"For readers of {labels} — published by {work.publisher}."]


def _display_names(names: str) -> str:
    return " and ".join(_display_name(name) for name in names.split("; "))


def _display_name(name: str) -> str:
    # Neither the role nor suffixes and dates.
    parts = name.partition(" (")[0].split(", ")
    return " ".join(reversed(parts[:2]))


def subject_label(subject: str) -> str:
    """Return the last part of a subject such as `TOP|Sub|`."""
    return subject.rstrip("|").rpartition("|")[2]


def format_size(purchase: Purchase) -> str:
    """Return the size of the file, such as "850.0 KB" or "1.2 MB"."""
    kilobytes = purchase.size_kb
    return f"{kilobytes / 1024:.1f} MB" if kilobytes >= 1024 else f"{kilobytes}.0 KB"


def title_page_url(purchase: Purchase, library_id: str) -> str:
    """Return the URL of the title on the library's site at the vendor."""
    return f"https://ebook.yourcloudlibrary.com/library/{library_id}-document_id-{purchase.item_id}"


def cover_url(host: str, purchase: Purchase) -> str:
    """Return the URL of the cover; `host` includes the scheme."""
    return f"{host}/delivery/img?type=DOCUMENTIMAGE&documentID={purchase.item_id}&token=nobody"


def xml_element(name: str, escaped: str) -> str:
    """Return an element with a text that is escaped already, or an empty-element tag."""
    return f"<{name}>{escaped}</{name}>" if escaped else f"<{name}/>"
