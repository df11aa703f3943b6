"""Event documents are parsed to events, and nothing about a patron is kept."""

import re
import traceback
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from xml.sax.saxutils import escape

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from accession.bibliotheca.errors import (
    BadResponseException,
    RemoteInitiatedServerError,
    TransientVendorError,
)
from accession.bibliotheca.events import EventFault, EventsResponse, parse_events
from accession.catalog.data import EventData
from accession.core.vocabulary import EventType
from tests.fixtures.vendor import PATRON, PATRON_CARD

DOCUMENTS = Path(__file__).parent / "documents"
BATCH = (DOCUMENTS / "events.xml").read_bytes()
COMPLETE = {
    "LibraryId": "rvs",
    "EventId": "e-1",
    "EventType": "CHECKOUT",
    "EventStartDateTimeInUTC": "2024-05-01T08:11:40",
    "EventEndDateTimeInUTC": "2024-05-22T08:11:40",
    "ItemId": "qx7k2m9",
    "ItemLibraryId": "rvs",
    "ISBN": "9780141439549",
    "PatronId": PATRON,
    "PatronLibraryId": PATRON_CARD,
}
EVENT = EventData(
    event_id="e-1",
    event_type="CHECKOUT",
    identifier="qx7k2m9",
    occurred_at=datetime(2024, 5, 1, 8, 11, 40, tzinfo=UTC),
    isbn="9780141439549",
)


def element_of(event: Mapping[str, str]) -> str:
    inner = "".join(f"<{name}>{escape(text)}</{name}>" for name, text in event.items())
    return f"<CloudLibraryEvent>{inner}</CloudLibraryEvent>"


def batch_of(*elements: str) -> bytes:
    return f"<LibraryEventBatch><Events>{''.join(elements)}</Events></LibraryEventBatch>".encode()


def response_with(**elements: str) -> EventsResponse:
    return parse_events(batch_of(element_of({**COMPLETE, **elements})))


def event_with(**elements: str) -> EventData:
    response = response_with(**elements)
    assert response.faults == ()
    return response.events[0]


def fault_with(**elements: str) -> EventFault:
    response = response_with(**elements)
    assert response.events == ()
    return response.faults[0]


def id_and_reason(fault: EventFault) -> tuple[str | None, str]:
    return fault.event_id, fault.reason


# Events


def test_events_keep_the_order_of_the_document() -> None:
    response = parse_events(BATCH)

    assert response.events == (
        EventData(
            event_id="e-0001",
            event_type=EventType.CHECKOUT,
            identifier="qx7k2m9",
            occurred_at=datetime(2024, 5, 1, 8, 11, 40, tzinfo=UTC),
            isbn="9780141439549",
        ),
        EventData(
            event_id="e-0002",
            event_type=EventType.PURCHASE,
            identifier="b3tz8w",
            occurred_at=datetime(2024, 5, 1, 8, 2, 3, tzinfo=UTC),
        ),
        EventData(
            event_id="e-0004",
            event_type="RENEWAL",
            identifier="qx7k2m9",
            occurred_at=datetime(2024, 5, 1, 8, 4, 5, 678_000, tzinfo=UTC),
        ),
    )
    assert not response.repaired


def test_invalid_event_does_not_affect_the_others() -> None:
    response = parse_events(BATCH)

    assert [id_and_reason(fault) for fault in response.faults] == [
        ("e-0003", "It has no valid date and time.")
    ]
    assert (len(response.events), response.fetched) == (3, 4)


@pytest.mark.parametrize(
    "body",
    [
        (DOCUMENTS / "events_empty.xml").read_bytes(),
        b"<LibraryEventBatch/>",
        b'<LibraryEventBatch xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance" />\r\n',
        b"<LibraryEventBatch><Events/></LibraryEventBatch>",
        b"<LibraryEventBatch><PublishId>1</PublishId></LibraryEventBatch>",
    ],
)
def test_empty_batch_has_no_events(body: bytes) -> None:
    assert parse_events(body) == EventsResponse(events=(), faults=())
    assert parse_events(body).fetched == 0


def test_repeated_event_is_returned_twice() -> None:
    element = element_of(COMPLETE)

    assert parse_events(batch_of(element, element)).events == (EVENT, EVENT)


def test_events_are_found_at_any_depth_and_namespace() -> None:
    element = element_of(COMPLETE)
    prefixed = re.sub("<(/?)", r"<\1v:", element)

    for inner in (element, f"<Events><More>{element}</More></Events>"):
        assert parse_events(f"<LibraryEventBatch>{inner}</LibraryEventBatch>".encode()).events == (EVENT,)
        default = f'<LibraryEventBatch xmlns="urn:x">{inner}</LibraryEventBatch>'
        assert parse_events(default.encode()).events == (EVENT,)
    document = f'<v:LibraryEventBatch xmlns:v="urn:x">{prefixed}</v:LibraryEventBatch>'
    assert parse_events(document.encode()).events == (EVENT,)


@pytest.mark.parametrize("name", EventType)
def test_known_event_type_is_normalised(name: str) -> None:
    assert event_with(EventType=f" {name.lower()}\n").event_type == EventType(name)


def test_unknown_event_type_is_kept() -> None:
    assert event_with(EventType=" Lent  elsewhere ").event_type == "LENT ELSEWHERE"


@pytest.mark.parametrize(
    ("text", "isbn"),
    [
        ("9780141439549", "9780141439549"),
        ("978-0-14-143954-9", "9780141439549"),
        ("0141439549", None),
        ("0306406152", "9780306406157"),
        ("9780141439540", None),
        ("", None),
        ("none", None),
    ],
)
def test_isbn_is_normalised_or_none(text: str, isbn: str | None) -> None:
    assert event_with(ISBN=text).isbn == isbn


def test_ids_are_stripped_and_keep_their_case() -> None:
    event = event_with(EventId="\n E-1 ", ItemId=" Qx7k2m9\t")

    assert (event.event_id, event.identifier) == ("E-1", "Qx7k2m9")


def test_first_non_empty_of_repeated_elements_is_used() -> None:
    element = element_of({**COMPLETE, "EventId": " "}).replace(
        "<EventType>", "<EventId>e-1</EventId><EventId>e-2</EventId><EventType>"
    )

    assert parse_events(batch_of(element)).events == (EVENT,)


# Moments


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2024-05-01T08:11:40", datetime(2024, 5, 1, 8, 11, 40, tzinfo=UTC)),
        (" 2024-05-01T08:11:40Z ", datetime(2024, 5, 1, 8, 11, 40, tzinfo=UTC)),
        ("2024-05-01 08:11:40", datetime(2024, 5, 1, 8, 11, 40, tzinfo=UTC)),
        ("2024-05-01T08:11:40.250", datetime(2024, 5, 1, 8, 11, 40, 250_000, tzinfo=UTC)),
        ("2024-05-01T08:11:40.1234567Z", datetime(2024, 5, 1, 8, 11, 40, 123_456, tzinfo=UTC)),
        ("2024-05-01T08:11:40.9999999", datetime(2024, 5, 1, 8, 11, 40, 999_999, tzinfo=UTC)),
        ("2024-05-01T08:11:40+02:00", datetime(2024, 5, 1, 6, 11, 40, tzinfo=UTC)),
        ("2024-05-01T08:11:40.5 -03:30", datetime(2024, 5, 1, 11, 41, 40, 500_000, tzinfo=UTC)),
        ("2024-05-01T00:11:40+0545", datetime(2024, 4, 30, 18, 26, 40, tzinfo=UTC)),
        ("2024-02-29t08:11:40z", datetime(2024, 2, 29, 8, 11, 40, tzinfo=UTC)),
    ],
)
def test_moment_without_offset_is_utc(text: str, moment: datetime) -> None:
    event = event_with(EventStartDateTimeInUTC=text)

    assert event.occurred_at == moment
    assert event.occurred_at.utcoffset() == timedelta(0)


INVALID_MOMENTS = (
    "",
    "2024-05-01",
    "yesterday",
    "2023-02-29T00:00:00",
    "2024-05-01T24:00:00",
    "2024-05-01T08:11:60",
    "2024-05-01T08:11:40+99:00",
    "2024-05-01T08:11:40+02:75",
    "2024-05-01T08:11:40 UTC",
    "0000-01-01T00:00:00",
    "٢٠٢٤-05-01T08:11:40",
    # Many systems write "no date" like this.
    "0001-01-01T00:00:00",
    "0001-01-01T00:00:00+14:00",
    "9999-12-31T23:59:59.9999999",
    "9999-12-31T23:59:59-14:00",
)


@pytest.mark.parametrize("text", INVALID_MOMENTS)
def test_end_is_used_if_start_is_invalid(text: str) -> None:
    event = event_with(EventStartDateTimeInUTC=text, EventEndDateTimeInUTC="2024-05-01T09:00:00")

    assert event.occurred_at == datetime(2024, 5, 1, 9, tzinfo=UTC)


@pytest.mark.parametrize("text", INVALID_MOMENTS)
def test_event_without_valid_moment_is_a_fault(text: str) -> None:
    fault = fault_with(EventStartDateTimeInUTC=text, EventEndDateTimeInUTC=text)

    assert id_and_reason(fault) == ("e-1", "It has no valid date and time.")


MORNING, NOON, EVENING = "2024-11-10T05:07:56", "2024-11-10T12:00:00", "2024-11-10T19:30:00"


@pytest.mark.parametrize(
    ("event_type", "start", "end", "published", "expected"),
    [
        # A return that spans its loan happened at the end, unless that is after its publication.
        ("CHECKIN", MORNING, NOON, EVENING, NOON),
        ("CHECKIN", MORNING, NOON, "", NOON),
        ("CHECKIN", NOON, NOON, EVENING, NOON),
        ("CHECKIN", MORNING, EVENING, NOON, MORNING),
        ("CHECKIN", MORNING, "", NOON, MORNING),
        # A loan happened at its start; its end is the due date.
        ("CHECKOUT", MORNING, NOON, EVENING, MORNING),
        ("CHECKOUT", MORNING, EVENING, NOON, MORNING),
    ],
)
def test_return_occurs_at_its_end_and_loan_at_its_start(
    event_type: str, start: str, end: str, published: str, expected: str
) -> None:
    event = event_with(
        EventType=event_type,
        EventStartDateTimeInUTC=start,
        EventEndDateTimeInUTC=end,
        EventPublishDateTimeInUTC=published,
    )
    assert f"{event.occurred_at:%Y-%m-%dT%H:%M:%S}" == expected


def test_end_is_used_if_start_is_missing() -> None:
    without_start = {name: text for name, text in COMPLETE.items() if name != "EventStartDateTimeInUTC"}

    (event,) = parse_events(batch_of(element_of(without_start))).events

    assert event.occurred_at == datetime(2024, 5, 22, 8, 11, 40, tzinfo=UTC)


zones = st.integers(-23 * 60 - 59, 23 * 60 + 59).map(lambda minutes: timezone(timedelta(minutes=minutes)))
moments = st.datetimes(*(datetime(year, 1, 1, tzinfo=UTC).replace(tzinfo=None) for year in (3, 9998)))


@settings(deadline=None)
@given(moments, zones)
def test_moment_in_any_zone_is_preserved(wall: datetime, zone: timezone) -> None:
    moment = wall.replace(tzinfo=zone)

    assert event_with(EventStartDateTimeInUTC=moment.isoformat()).occurred_at == moment


@settings(deadline=None)
@given(moments, st.integers(1, 7), st.sampled_from(["", "Z", "+00:00"]))
def test_fraction_is_parsed_to_microseconds(wall: datetime, digits: int, suffix: str) -> None:
    fraction = f"{wall.microsecond:06}0"[:digits]
    text = f"{wall.replace(microsecond=0).isoformat()}.{fraction}{suffix}"

    occurred_at = event_with(EventStartDateTimeInUTC=text).occurred_at

    assert occurred_at == wall.replace(microsecond=int(fraction[:6].ljust(6, "0")), tzinfo=UTC)


# Faults


def test_event_without_id_is_a_fault_with_its_type() -> None:
    assert id_and_reason(fault_with(EventId=" ")) == (None, "It has no EventId (type 'CHECKOUT').")


def test_event_without_type_is_a_fault() -> None:
    assert id_and_reason(fault_with(EventType="")) == ("e-1", "It has no EventType.")


@pytest.mark.parametrize("item_id", ["", "a/b", "a,b", "a b", "..", "é", "x" * 33])
def test_event_with_invalid_item_id_is_a_fault(item_id: str) -> None:
    reason = f"Its ItemId is invalid: {item_id!r}."
    assert id_and_reason(fault_with(ItemId=item_id)) == ("e-1", reason)


def test_stored_fault_is_a_batch_without_the_patron() -> None:
    fault = fault_with(EventStartDateTimeInUTC="soon", EventEndDateTimeInUTC="", ISBN="a & b")

    assert PATRON not in fault.raw_xml
    assert PATRON_CARD not in fault.raw_xml
    assert parse_events(fault.raw_xml.encode()).faults == (fault,)
    corrected = fault.raw_xml.replace("soon", COMPLETE["EventStartDateTimeInUTC"])
    (event,) = parse_events(corrected.encode()).events
    assert event == EVENT.model_copy(update={"isbn": None})


def test_stored_fault_omits_nested_elements() -> None:
    response = parse_events(
        batch_of(f"<CloudLibraryEvent><ItemId><PatronId>{PATRON}</PatronId></ItemId></CloudLibraryEvent>")
    )

    assert PATRON not in response.faults[0].raw_xml


def test_event_without_elements_is_a_fault() -> None:
    response = parse_events(batch_of("<CloudLibraryEvent/>", element_of(COMPLETE)))

    assert response.events == (EVENT,)
    assert [id_and_reason(fault) for fault in response.faults] == [(None, "It has no EventId (type '').")]


def test_fault_reason_is_short_and_printable() -> None:
    text = "\N{RIGHT-TO-LEFT OVERRIDE}\x9b31m" + "x" * 1000

    by_item = fault_with(EventId=text, ItemId=text)
    by_type = fault_with(EventId="", EventType=text)

    for output in (by_item.event_id or "", by_item.reason, by_type.reason):
        assert output.isprintable()
        assert len(output) < 300


# Invalid documents


@pytest.mark.parametrize(
    "body",
    [
        b"<Error><Code>Gen-001</Code><Message>Unknown error</Message></Error>",
        BATCH.replace(b"<Events>", b"<Error><Message>Unknown error</Message></Error><Events>"),
    ],
)
def test_error_document_raises_server_error(body: bytes) -> None:
    with pytest.raises(RemoteInitiatedServerError, match="the vendor reported an error"):
        parse_events(body)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"The server has encountered an error",
        b"<ArrayOfItem/>",
        BATCH[:-200],
        BATCH.replace(b"<Events>", b""),
        BATCH.replace(b"?>", b"?><!DOCTYPE LibraryEventBatch>", 1),
        (DOCUMENTS / "maintenance.html").read_bytes(),
    ],
)
def test_other_document_is_a_bad_response(body: bytes) -> None:
    with pytest.raises(BadResponseException):
        parse_events(body)


def test_undefined_entity_is_repaired() -> None:
    body = BATCH.replace(b"ask us", b"ask&nbsp;us &supl;").replace(b"rvs", b"r&v&#x1F;s")

    response = parse_events(body)

    assert response.repaired
    assert response.events == parse_events(BATCH).events
    assert response.faults == parse_events(BATCH).faults


# Patrons


def test_parsed_events_do_not_contain_the_patron() -> None:
    assert PATRON.encode() in BATCH
    assert PATRON_CARD.encode() in BATCH

    response = parse_events(BATCH)

    assert PATRON not in repr(response)
    assert PATRON_CARD not in repr(response)


@pytest.mark.parametrize("body", [f"<{PATRON}/>", f"<Error><Message>{PATRON}</Message></Error>", PATRON])
def test_error_without_context_names_no_patron(body: str) -> None:
    with pytest.raises(TransientVendorError) as caught:
        parse_events(body.encode())

    assert PATRON not in "".join(traceback.format_exception(caught.value))
    assert PATRON not in repr(caught.value)


@pytest.mark.parametrize(
    "name", ["EventId", "EventType", "EventStartDateTimeInUTC", "EventEndDateTimeInUTC", "ItemId", "ISBN"]
)
def test_patron_id_within_another_element_is_ignored(name: str) -> None:
    stray = f"<{name}>1<PatronId>{PATRON}</PatronId></{name}>"
    others = {other: text for other, text in COMPLETE.items() if other != name}
    element = element_of(others).replace("<LibraryId>", f"{stray}<LibraryId>")

    response = parse_events(batch_of(element))

    assert response.fetched == 1
    assert PATRON not in repr(response).lower()


xml_text = st.text(
    st.characters(
        exclude_categories=["Cs", "Cc"], exclude_characters="\ufffe\uffff", include_characters="\t\n"
    ),
    max_size=40,
)
references = st.sampled_from(["&#0;", "&#xD800;", "&#31;", "&amp;#0;", "&shy;", "&nbsp;", "\N{SOFT HYPHEN}"])
values = st.one_of(xml_text, references, st.sampled_from(list(COMPLETE.values())[:-2]))
fields = st.dictionaries(st.sampled_from(list(COMPLETE)[:-2]), values)


@settings(deadline=None)
@given(fields, st.booleans())
def test_arbitrary_event_never_contains_the_patron(elements: dict[str, str], patron_first: bool) -> None:
    patron = {"PatronId": PATRON, "PatronLibraryId": PATRON_CARD}

    response = parse_events(batch_of(element_of(patron | elements if patron_first else elements | patron)))

    assert response.fetched == 1
    assert PATRON not in repr(response)
    assert PATRON_CARD not in repr(response)
    for event in response.events:
        assert EventData.model_validate_json(event.model_dump_json()) == event


@settings(deadline=None)
@given(st.lists(st.tuples(fields, st.booleans()), max_size=5))
def test_invalid_events_do_not_affect_valid_ones(entries: list[tuple[dict[str, str], bool]]) -> None:
    elements = [element_of(COMPLETE if is_valid else {**texts, "EventId": ""}) for texts, is_valid in entries]

    response = parse_events(batch_of(*elements))

    assert response.events == (EVENT,) * sum(is_valid for _, is_valid in entries)
    assert response.fetched == len(entries)
