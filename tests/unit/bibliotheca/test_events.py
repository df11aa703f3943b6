"""Event documents become events in the catalogue's words, and nobody learns from them who a patron was."""

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
from accession.bibliotheca.events import EventFault, EventsAnswer, parse_events
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


def answer_with(**elements: str) -> EventsAnswer:
    return parse_events(batch_of(element_of({**COMPLETE, **elements})))


def event_with(**elements: str) -> EventData:
    answer = answer_with(**elements)
    assert answer.faults == ()
    return answer.events[0]


def fault_with(**elements: str) -> EventFault:
    answer = answer_with(**elements)
    assert answer.events == ()
    return answer.faults[0]


def told(fault: EventFault) -> tuple[str | None, str]:
    return fault.event_id, fault.reason


# Events


def test_events_come_out_in_the_order_of_the_document_whichever_elements_the_vendor_sends() -> None:
    answer = parse_events(BATCH)

    assert answer.events == (
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
    assert (answer.requests, answer.repaired) == (1, False)


def test_one_malformed_event_is_reported_and_does_not_lose_the_others() -> None:
    answer = parse_events(BATCH)

    assert [told(fault) for fault in answer.faults] == [("e-0003", "It does not say when it happened.")]
    assert (len(answer.events), answer.fetched) == (3, 4)


@pytest.mark.parametrize(
    "body",
    [
        b"<LibraryEventBatch/>",
        b'<LibraryEventBatch xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance" />\r\n',
        b"<LibraryEventBatch><Events/></LibraryEventBatch>",
        b"<LibraryEventBatch><PublishId>1</PublishId></LibraryEventBatch>",
    ],
)
def test_an_empty_batch_has_no_events(body: bytes) -> None:
    assert parse_events(body) == EventsAnswer(events=(), faults=())
    assert parse_events(body).fetched == 0


def test_an_answer_tells_how_many_requests_it_took() -> None:
    assert parse_events(BATCH, requests=2).requests == 2


def test_an_event_told_twice_comes_out_twice() -> None:
    element = element_of(COMPLETE)

    assert parse_events(batch_of(element, element)).events == (EVENT, EVENT)


def test_events_are_found_wherever_they_stand_and_in_any_namespace() -> None:
    element = element_of(COMPLETE)
    prefixed = re.sub("<(/?)", r"<\1v:", element)

    for inner in (element, f"<Events><More>{element}</More></Events>"):
        assert parse_events(f"<LibraryEventBatch>{inner}</LibraryEventBatch>".encode()).events == (EVENT,)
        default = f'<LibraryEventBatch xmlns="urn:x">{inner}</LibraryEventBatch>'
        assert parse_events(default.encode()).events == (EVENT,)
    document = f'<v:LibraryEventBatch xmlns:v="urn:x">{prefixed}</v:LibraryEventBatch>'
    assert parse_events(document.encode()).events == (EVENT,)


@pytest.mark.parametrize("name", EventType)
def test_every_known_type_is_read_however_it_is_written(name: str) -> None:
    assert event_with(EventType=f" {name.lower()}\n").event_type == EventType(name)


def test_an_unknown_type_is_kept() -> None:
    assert event_with(EventType=" Lent  elsewhere ").event_type == "LENT ELSEWHERE"


@pytest.mark.parametrize(
    ("said", "isbn"),
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
def test_an_isbn_is_thirteen_digits_or_none(said: str, isbn: str | None) -> None:
    assert event_with(ISBN=said).isbn == isbn


def test_ids_lose_their_white_space_and_keep_their_case() -> None:
    event = event_with(EventId="\n E-1 ", ItemId=" Qx7k2m9\t")

    assert (event.event_id, event.identifier) == ("E-1", "Qx7k2m9")


def test_of_an_element_that_comes_twice_the_first_that_says_something_counts() -> None:
    element = element_of({**COMPLETE, "EventId": " "}).replace(
        "<EventType>", "<EventId>e-1</EventId><EventId>e-2</EventId><EventType>"
    )

    assert parse_events(batch_of(element)).events == (EVENT,)


# Moments


@pytest.mark.parametrize(
    ("said", "moment"),
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
def test_a_moment_is_in_utc_unless_it_names_another_zone(said: str, moment: datetime) -> None:
    event = event_with(EventStartDateTimeInUTC=said)

    assert event.occurred_at == moment
    assert event.occurred_at.utcoffset() == timedelta(0)


UNREADABLE = (
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
    # How many systems write "no date".
    "0001-01-01T00:00:00",
    "0001-01-01T00:00:00+14:00",
    "9999-12-31T23:59:59.9999999",
    "9999-12-31T23:59:59-14:00",
)


@pytest.mark.parametrize("said", UNREADABLE)
def test_the_end_stands_in_for_a_start_that_cannot_be_read(said: str) -> None:
    event = event_with(EventStartDateTimeInUTC=said, EventEndDateTimeInUTC="2024-05-01T09:00:00")

    assert event.occurred_at == datetime(2024, 5, 1, 9, tzinfo=UTC)


@pytest.mark.parametrize("said", UNREADABLE)
def test_an_event_without_a_readable_moment_is_a_fault(said: str) -> None:
    fault = fault_with(EventStartDateTimeInUTC=said, EventEndDateTimeInUTC=said)

    assert told(fault) == ("e-1", "It does not say when it happened.")


MORNING, NOON, EVENING = "2024-11-10T05:07:56", "2024-11-10T12:00:00", "2024-11-10T19:30:00"


@pytest.mark.parametrize(
    ("event_type", "start", "end", "published", "happened"),
    [
        # A return that is told with its loan is at its end, as long as that has come.
        ("CHECKIN", MORNING, NOON, EVENING, NOON),
        ("CHECKIN", MORNING, NOON, "", NOON),
        ("CHECKIN", NOON, NOON, EVENING, NOON),
        ("CHECKIN", MORNING, EVENING, NOON, MORNING),
        ("CHECKIN", MORNING, "", NOON, MORNING),
        # A loan is at its start, and when it will end is no event.
        ("CHECKOUT", MORNING, NOON, EVENING, MORNING),
        ("CHECKOUT", MORNING, EVENING, NOON, MORNING),
    ],
)
def test_a_return_happens_at_its_end_and_all_else_at_its_start(
    event_type: str, start: str, end: str, published: str, happened: str
) -> None:
    event = event_with(
        EventType=event_type,
        EventStartDateTimeInUTC=start,
        EventEndDateTimeInUTC=end,
        EventPublishDateTimeInUTC=published,
    )
    assert f"{event.occurred_at:%Y-%m-%dT%H:%M:%S}" == happened


def test_the_end_stands_in_for_a_start_that_is_missing() -> None:
    ended = {name: text for name, text in COMPLETE.items() if name != "EventStartDateTimeInUTC"}

    (event,) = parse_events(batch_of(element_of(ended))).events

    assert event.occurred_at == datetime(2024, 5, 22, 8, 11, 40, tzinfo=UTC)


zones = st.integers(-23 * 60 - 59, 23 * 60 + 59).map(lambda minutes: timezone(timedelta(minutes=minutes)))
moments = st.datetimes(*(datetime(year, 1, 1, tzinfo=UTC).replace(tzinfo=None) for year in (3, 9998)))


@settings(deadline=None)
@given(moments, zones)
def test_a_moment_in_any_zone_comes_out_as_it_went_in(wall: datetime, zone: timezone) -> None:
    moment = wall.replace(tzinfo=zone)

    assert event_with(EventStartDateTimeInUTC=moment.isoformat()).occurred_at == moment


@settings(deadline=None)
@given(moments, st.integers(1, 7), st.sampled_from(["", "Z", "+00:00"]))
def test_a_fraction_of_any_length_is_read_to_the_microsecond(
    wall: datetime, digits: int, suffix: str
) -> None:
    fraction = f"{wall.microsecond:06}0"[:digits]
    said = f"{wall.replace(microsecond=0).isoformat()}.{fraction}{suffix}"

    told = event_with(EventStartDateTimeInUTC=said).occurred_at

    assert told == wall.replace(microsecond=int(fraction[:6].ljust(6, "0")), tzinfo=UTC)


# Faults


def test_an_event_without_an_id_is_a_fault_that_tells_its_type() -> None:
    assert told(fault_with(EventId=" ")) == (None, "It has no EventId (type 'CHECKOUT').")


def test_an_event_without_a_type_is_a_fault() -> None:
    assert told(fault_with(EventType="")) == ("e-1", "It has no EventType.")


@pytest.mark.parametrize("item_id", ["", "a/b", "a,b", "a b", "..", "é", "x" * 33])
def test_an_event_of_an_item_that_cannot_be_asked_for_is_a_fault(item_id: str) -> None:
    reason = f"Its ItemId is not one the vendor can be asked for: {item_id!r}."
    assert told(fault_with(ItemId=item_id)) == ("e-1", reason)


def test_what_is_kept_of_a_fault_is_a_batch_of_its_own_without_the_patron() -> None:
    fault = fault_with(EventStartDateTimeInUTC="soon", EventEndDateTimeInUTC="", ISBN="a & b")

    assert PATRON not in fault.raw_xml
    assert PATRON_CARD not in fault.raw_xml
    assert parse_events(fault.raw_xml.encode()).faults == (fault,)
    mended = fault.raw_xml.replace("soon", COMPLETE["EventStartDateTimeInUTC"])
    (event,) = parse_events(mended.encode()).events
    assert event == EVENT.model_copy(update={"isbn": None})


def test_nor_with_what_stands_within_an_element_that_is_read() -> None:
    answer = parse_events(
        batch_of(f"<CloudLibraryEvent><ItemId><PatronId>{PATRON}</PatronId></ItemId></CloudLibraryEvent>")
    )

    assert PATRON not in answer.faults[0].raw_xml


def test_an_event_that_says_nothing_at_all_is_a_fault() -> None:
    answer = parse_events(batch_of("<CloudLibraryEvent/>", element_of(COMPLETE)))

    assert answer.events == (EVENT,)
    assert [told(fault) for fault in answer.faults] == [(None, "It has no EventId (type '').")]


def test_what_a_fault_tells_is_short_and_cannot_drive_a_terminal() -> None:
    said = "\N{RIGHT-TO-LEFT OVERRIDE}\x9b31m" + "x" * 1000

    by_item = fault_with(EventId=said, ItemId=said)
    by_type = fault_with(EventId="", EventType=said)

    for text in (by_item.event_id or "", by_item.reason, by_type.reason):
        assert text.isprintable()
        assert len(text) < 300


# Documents that are none


@pytest.mark.parametrize(
    "body",
    [
        b"<Error><Code>Gen-001</Code><Message>Unknown error</Message></Error>",
        BATCH.replace(b"<Events>", b"<Error><Message>Unknown error</Message></Error><Events>"),
    ],
)
def test_an_error_document_or_one_with_an_error_in_it_is_the_vendors_own_fault(body: bytes) -> None:
    with pytest.raises(RemoteInitiatedServerError, match="an error of its own"):
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
def test_anything_but_a_batch_is_a_bad_response_and_never_no_events(body: bytes) -> None:
    with pytest.raises(BadResponseException):
        parse_events(body)


def test_an_undefined_entity_is_repaired_and_said_so() -> None:
    body = BATCH.replace(b"ask us", b"ask&nbsp;us &supl;").replace(b"rvs", b"r&v&#x1F;s")

    answer = parse_events(body)

    assert answer.repaired
    assert answer.events == parse_events(BATCH).events
    assert answer.faults == parse_events(BATCH).faults


# Patrons


def test_who_the_patron_was_shows_nowhere() -> None:
    assert PATRON.encode() in BATCH
    assert PATRON_CARD.encode() in BATCH

    answer = parse_events(BATCH)

    assert PATRON not in repr(answer)
    assert PATRON_CARD not in repr(answer)


@pytest.mark.parametrize("body", [f"<{PATRON}/>", f"<Error><Message>{PATRON}</Message></Error>", PATRON])
def test_an_error_about_a_batch_of_unknown_origin_names_no_patron_either(body: str) -> None:
    with pytest.raises(TransientVendorError) as caught:
        parse_events(body.encode())

    assert PATRON not in "".join(traceback.format_exception(caught.value))
    assert PATRON not in repr(caught.value)


@pytest.mark.parametrize(
    "name", ["EventId", "EventType", "EventStartDateTimeInUTC", "EventEndDateTimeInUTC", "ItemId", "ISBN"]
)
def test_a_patrons_id_inside_another_element_is_not_read_either(name: str) -> None:
    stray = f"<{name}>1<PatronId>{PATRON}</PatronId></{name}>"
    others = {other: text for other, text in COMPLETE.items() if other != name}
    element = element_of(others).replace("<LibraryId>", f"{stray}<LibraryId>")

    answer = parse_events(batch_of(element))

    assert answer.fetched == 1
    assert PATRON not in repr(answer).lower()


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
def test_whatever_an_event_says_it_is_an_event_or_a_fault_and_never_tells_the_patron(
    said: dict[str, str], first: bool
) -> None:
    patron = {"PatronId": PATRON, "PatronLibraryId": PATRON_CARD}

    answer = parse_events(batch_of(element_of(patron | said if first else said | patron)))

    assert answer.fetched == 1
    assert PATRON not in repr(answer)
    assert PATRON_CARD not in repr(answer)
    for event in answer.events:
        assert EventData.model_validate_json(event.model_dump_json()) == event


@settings(deadline=None)
@given(st.lists(st.tuples(fields, st.booleans()), max_size=5))
def test_bad_events_never_cost_a_good_one(told: list[tuple[dict[str, str], bool]]) -> None:
    elements = [element_of(COMPLETE if good else {**said, "EventId": ""}) for said, good in told]

    answer = parse_events(batch_of(*elements))

    assert answer.events == (EVENT,) * sum(good for _, good in told)
    assert answer.fetched == len(told)
