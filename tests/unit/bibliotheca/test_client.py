"""The client validates arguments, confirms empty responses and retries transient failures at once."""

from datetime import datetime, timedelta, tzinfo
from itertools import count

import httpx
import pytest

from accession.bibliotheca.errors import (
    PermanentVendorError,
    RemoteInitiatedServerError,
)
from accession.bibliotheca.events import EventsResponse
from tests.fixtures.bibliotheca import (
    END,
    ERROR,
    EVENTS,
    HTML,
    ITEMS,
    NOW,
    PAGE,
    START,
    SignedVendor,
    api_returning,
    api_with,
    document,
    marc_error,
)

# Requests


def test_first_page_has_offset_1_and_limit_50() -> None:
    vendor = SignedVendor(PAGE)

    api_with(vendor).fetch_marc_page(START, END)

    assert vendor.paths[0].endswith("&offset=1&limit=50")


def test_fetched_body_parses_to_the_same_page() -> None:
    api = api_with(SignedVendor(PAGE))

    page = api.parse_marc_body(api.fetch_marc_body(START, END))

    assert [record.item_ids for record in page.records] == [
        record.item_ids for record in api.fetch_marc_page(START, END).records
    ]


@pytest.mark.parametrize(
    ("item_id", "sent"),
    [("a/b?c#d", "a%2Fb%3Fc%23d"), ("..", "%2E%2E"), ("a b", "a%20b"), ("é%", "%C3%A9%25"), ("q,x", "q%2Cx")],
)
def test_item_id_is_one_escaped_path_segment(item_id: str, sent: str) -> None:
    vendor = SignedVendor(ITEMS)

    api_with(vendor).fetch_items([item_id])

    assert vendor.paths == [f"/cirrus/library/rvs/items/{sent}"]


def test_items_are_requested_together_and_dated() -> None:
    vendor = SignedVendor(ITEMS)

    response = api_with(vendor).fetch_items(["qx7k2m9", "ah51rr9"])

    assert vendor.paths == ["/cirrus/library/rvs/items/qx7k2m9,ah51rr9"]
    assert {title.as_of for title in response.titles} == {NOW}
    assert (len(response.titles), len(response.faults)) == (3, 1)


@pytest.mark.parametrize("ids", [[], ["a"] * 26, ["a", " "], [""]])
def test_invalid_list_of_ids_raises_value_error(ids: list[str]) -> None:
    with pytest.raises(ValueError, match="1 to 25"):
        api_returning().fetch_items(ids)


@pytest.mark.parametrize(("offset", "limit"), [(0, 50), (1, 0), (1, 51)])
def test_offset_or_limit_out_of_range_raises_value_error(offset: int, limit: int) -> None:
    with pytest.raises(ValueError, match="offset"):
        api_returning().fetch_marc_page(START, END, offset, limit)


def test_marc_window_without_time_zone_raises_value_error() -> None:
    with pytest.raises(ValueError, match="time zone"):
        api_returning().fetch_marc_page(START.replace(tzinfo=None), END)


@pytest.mark.parametrize(
    ("start", "end"),
    [
        (START.replace(tzinfo=None), END),
        (START, END.replace(tzinfo=None)),
        (START.replace(tzinfo=None), END.replace(tzinfo=None)),
    ],
)
def test_events_window_without_time_zone_raises_value_error(start: datetime, end: datetime) -> None:
    with pytest.raises(ValueError, match="time zone"):
        api_with(SignedVendor()).fetch_events(start, end)


SECOND = timedelta(seconds=1)
MAX_WIDTH = timedelta(hours=72)


@pytest.mark.parametrize("width", [timedelta(), -SECOND, SECOND / 2, MAX_WIDTH + SECOND, -MAX_WIDTH])
def test_events_window_of_invalid_width_raises_value_error(width: timedelta) -> None:
    with pytest.raises(ValueError, match="at least 1 second and at most 72 hours"):
        api_with(SignedVendor()).fetch_events(START, START + width)


@pytest.mark.parametrize("width", [SECOND, timedelta(minutes=5), MAX_WIDTH, MAX_WIDTH + SECOND / 2])
def test_events_window_of_valid_width_is_accepted(width: timedelta) -> None:
    assert api_with(SignedVendor(EVENTS)).fetch_events(START, START + width).fetched == 4


class EndOfDaylightSavingTime(tzinfo):
    """A zone whose clocks go back one hour at the start of 3 November 2024."""

    def utcoffset(self, dt: datetime | None) -> timedelta:
        return timedelta(hours=-4 if dt is None or (dt.month, dt.day) < (11, 3) else -5)

    def dst(self, dt: datetime | None) -> timedelta:
        return timedelta()

    def tzname(self, dt: datetime | None) -> str:
        return "local"


def test_window_width_is_elapsed_time_across_dst_change() -> None:
    start = datetime(2024, 11, 2, tzinfo=EndOfDaylightSavingTime())

    with pytest.raises(ValueError, match="72 hours"):
        api_with(SignedVendor()).fetch_events(start, start + MAX_WIDTH)


def test_url_too_long_to_send_is_a_permanent_error() -> None:
    with pytest.raises(PermanentVendorError, match="the request cannot be sent to the vendor"):
        api_returning().fetch_items(["x" * 70_000])


# Empty responses

BLANK_BODIES = [b"", b" \r\n", b"\xef\xbb\xbf"]


@pytest.mark.parametrize("blank", BLANK_BODIES)
def test_empty_body_is_a_blank_page_after_one_request(blank: bytes) -> None:
    """A second request would prove nothing: the vendor also sends empty bodies while it is broken."""
    vendor = SignedVendor(blank, PAGE)

    page = api_with(vendor).fetch_marc_page(START, END)

    assert (page.records, page.repaired, page.is_blank) == ((), False, True)
    assert len(vendor.requests) == 1


@pytest.mark.parametrize("blank", BLANK_BODIES)
def test_empty_body_is_fetched_as_it_is(blank: bytes) -> None:
    api = api_with(SignedVendor(blank))

    body = api.fetch_marc_body(START, END)

    assert body == blank
    assert api.parse_marc_body(body) == api.fetch_marc_page(START, END)


def test_empty_collection_is_not_a_blank_page() -> None:
    vendor = SignedVendor(document("marc_empty.xml"))

    page = api_with(vendor).fetch_marc_page(START, END, may_be_empty=False)

    assert (page.records, page.is_blank, len(vendor.requests)) == ((), False, 1)


@pytest.mark.parametrize("blank", BLANK_BODIES)
def test_empty_body_of_span_with_purchases_is_an_error(blank: bytes) -> None:
    vendor = SignedVendor(blank)

    with pytest.raises(RemoteInitiatedServerError, match="an empty response for a time span with purchases"):
        api_with(vendor).fetch_marc_page(START, END, may_be_empty=False)
    with pytest.raises(RemoteInitiatedServerError, match="an empty response for a time span with purchases"):
        api_with(vendor).fetch_marc_body(START, END, may_be_empty=False)

    assert len(vendor.requests) == 6, "each is repeated twice at once"


@pytest.mark.parametrize("blank", BLANK_BODIES)
def test_empty_body_of_span_with_purchases_is_retried(blank: bytes) -> None:
    vendor = SignedVendor(blank, PAGE)

    page = api_with(vendor).fetch_marc_page(START, END, may_be_empty=False)

    assert (len(page.records), page.is_blank, len(vendor.requests)) == (3, False, 2)


@pytest.mark.parametrize("blank", BLANK_BODIES)
def test_empty_body_is_a_blank_batch_after_one_request(blank: bytes) -> None:
    vendor = SignedVendor(blank, EVENTS)

    response = api_with(vendor).fetch_events(START, END)

    assert response == EventsResponse(events=(), faults=(), is_blank=True)
    assert len(vendor.requests) == 1


@pytest.mark.parametrize("blank", BLANK_BODIES)
def test_empty_body_of_span_with_events_is_retried(blank: bytes) -> None:
    vendor = SignedVendor(blank, EVENTS)

    response = api_with(vendor).fetch_events(START, END, may_be_empty=False)

    assert (len(response.events), len(vendor.requests)) == (3, 2)


def test_empty_batch_needs_no_second_request() -> None:
    vendor = SignedVendor(b"<LibraryEventBatch/>")

    response = api_with(vendor).fetch_events(START, END)

    assert response == EventsResponse(events=(), faults=())
    assert len(vendor.requests) == 1


def test_empty_items_response_is_a_server_error() -> None:
    with pytest.raises(RemoteInitiatedServerError) as caught:
        api_returning(200, b" ").fetch_items(["a"])

    assert caught.value.status == 200
    assert caught.value.url == "https://vendor.example/cirrus/library/rvs/items/a"


# Immediate retries

INVALID_BODIES = [ERROR, HTML, PAGE[:-200], b"<other/>"]
INVALID_IDS = ["error", "html", "truncated", "other root"]


@pytest.mark.parametrize("invalid", INVALID_BODIES, ids=INVALID_IDS)
def test_invalid_page_is_retried_at_once(invalid: bytes) -> None:
    vendor = SignedVendor(invalid, invalid, PAGE)

    assert len(api_with(vendor).fetch_marc_page(START, END).records) == 3
    assert len(vendor.requests) == 3


@pytest.mark.parametrize("invalid", [b"", *INVALID_BODIES], ids=["empty", *INVALID_IDS])
def test_invalid_items_response_is_retried_at_once(invalid: bytes) -> None:
    vendor = SignedVendor(invalid, invalid, ITEMS)

    assert len(api_with(vendor).fetch_items(["qx7k2m9"]).titles) == 3


@pytest.mark.parametrize("invalid", INVALID_BODIES, ids=INVALID_IDS)
def test_invalid_events_response_is_retried_at_once(invalid: bytes) -> None:
    assert len(api_with(SignedVendor(invalid, EVENTS)).fetch_events(START, END).events) == 3


def test_third_invalid_response_raises() -> None:
    vendor = SignedVendor(HTML, HTML, HTML, PAGE)

    marc_error(api_with(vendor))

    assert len(vendor.requests) == 3


@pytest.mark.parametrize(
    ("status", "retry_after", "requests"),
    [
        (502, None, 3),
        (503, None, 3),
        (302, None, 3),
        (429, None, 1),
        (401, None, 1),
        (404, None, 1),
        (503, "1", 1),
    ],
)
def test_immediate_retries_depend_on_status(status: int, retry_after: str | None, requests: int) -> None:
    """Neither permanent errors nor vendors that ask to wait are retried."""
    received = []

    def respond(request: httpx.Request) -> httpx.Response:
        received.append(request)
        return httpx.Response(status, headers={"Retry-After": retry_after} if retry_after else {})

    marc_error(api_with(respond))

    assert len(received) == requests


def test_slow_failure_is_not_retried_at_once() -> None:
    vendor = SignedVendor(HTML)
    moments = (NOW + number * timedelta(seconds=4) for number in count())

    marc_error(api_with(vendor, clock=lambda: next(moments)))

    assert len(vendor.requests) < 3
