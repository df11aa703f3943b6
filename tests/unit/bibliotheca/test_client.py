"""The client signs what it sends, bounds what it takes, and turns every failure into the hierarchy."""

import gzip
import logging
import pickle
import socket
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta, timezone, tzinfo
from email.utils import format_datetime
from itertools import chain, count, cycle, pairwise, repeat
from pathlib import Path

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import SecretStr

from accession.accounts.account import Account
from accession.bibliotheca.client import LARGEST_BODY, BibliothecaAPI, http_client, signature
from accession.bibliotheca.errors import (
    BadResponseException,
    RemoteInitiatedServerError,
    RemoteIntegrationException,
    RequestTimedOut,
    TransientVendorError,
    excerpt_of,
)
from accession.bibliotheca.events import EventsAnswer
from accession.core.errors import UserError
from tests.fixtures.vendor import PATRON, PATRON_CARD

DOCUMENTS = Path(__file__).parent / "documents"
KEY = SecretStr("s3cret-key")
ACCOUNT = Account("Main", "rvs", "library.rvs", KEY, "https://vendor.example")
NOW = datetime(2024, 5, 1, 8, 15, tzinfo=UTC)
START, END = datetime(2024, 4, 30, tzinfo=UTC), datetime(2024, 5, 1, tzinfo=UTC)
PAGE = (DOCUMENTS / "marc_page.xml").read_bytes()
ITEMS = (DOCUMENTS / "items.xml").read_bytes()
EVENTS = (DOCUMENTS / "events.xml").read_bytes()
ERROR = (DOCUMENTS / "error_authentication_failed.xml").read_bytes()

Answer = Callable[[httpx.Request], httpx.Response]
Clock = Callable[[], datetime]


def api_of(
    answer: Answer, account: Account = ACCOUNT, clock: Callable[[], datetime] = lambda: NOW
) -> BibliothecaAPI:
    return BibliothecaAPI(account, httpx.Client(transport=httpx.MockTransport(answer)), clock)


def answering(status: int = 200, content: bytes = b"", **headers: str) -> BibliothecaAPI:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return api_of(lambda _: httpx.Response(status, content=content, headers=named))


def failure(api: BibliothecaAPI) -> RemoteIntegrationException:
    with pytest.raises(RemoteIntegrationException) as caught:
        api.marc_page(START, END)
    return caught.value


def events_failure(api: BibliothecaAPI) -> RemoteIntegrationException:
    with pytest.raises(RemoteIntegrationException) as caught:
        api.events(START, END)
    return caught.value


class Vendor:
    """Checks every signature against the path as it came over the wire, and remembers the requests.

    It answers with one body after the other, and for ever with the last.
    """

    def __init__(self, *bodies: bytes) -> None:
        self.requests: list[httpx.Request] = []
        self._bodies = chain(bodies, repeat(bodies[-1]) if bodies else ())

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        moment = request.headers["3mcl-Datetime"]
        expected = signature(KEY, moment, "GET", request.url.raw_path.decode("ascii"))
        if request.headers["3mcl-Authorization"] != f"3MCLAUTH library.rvs:{expected}":
            return httpx.Response(401)
        return httpx.Response(200, content=next(self._bodies))

    @property
    def paths(self) -> list[str]:
        return [request.url.raw_path.decode("ascii") for request in self.requests]


# Signing


@pytest.mark.parametrize(
    ("key", "moment", "path", "expected"),
    [
        (
            "b",
            "Fri, 01 Jan 2016 00:00:00 GMT",
            "/cirrus/library/c/some_url",
            "HZHNGfn6WVceakGrwXaJQ9zIY0Ai5opGct38j9/bHrE=",
        ),
        (
            "account_key",
            "Mon, 11 Nov 2024 10:00:00 GMT",
            "/cirrus/library/library_id/data/cloudevents"
            "?startdate=2024-11-10T10:00:00&enddate=2024-11-11T10:00:00",
            "KipNmbVsmsT2xPjP4oHAaR3n00JgcszfF6mQRffBoRk=",
        ),
    ],
)
def test_known_requests_have_their_known_signatures(key: str, moment: str, path: str, expected: str) -> None:
    assert signature(SecretStr(key), moment, "GET", path) == expected


def test_a_page_is_asked_for_in_utc_whole_seconds_with_colons_as_they_are() -> None:
    vendor = Vendor(PAGE)
    tokyo = timezone(timedelta(hours=9))

    page = api_of(vendor).marc_page(
        datetime(2024, 4, 30, 9, tzinfo=tokyo),
        datetime(2024, 5, 1, 0, 0, 0, 999_999, UTC),
        offset=51,
        limit=7,
    )

    assert vendor.paths == [
        "/cirrus/library/rvs/data/marc?startdate=2024-04-30T00:00:00&enddate=2024-05-01T00:00:00&offset=51&limit=7"
    ]
    headers = vendor.requests[0].headers
    assert headers["3mcl-Datetime"] == "Wed, 01 May 2024 08:15:00 GMT"
    assert (headers["3mcl-Version"], headers["Accept"]) == ("2.0", "application/xml")
    assert (len(page.records), page.requests) == (3, 1)


def test_events_are_asked_for_in_utc_whole_seconds_too() -> None:
    vendor = Vendor(EVENTS)
    tokyo = timezone(timedelta(hours=9))

    answer = api_of(vendor).events(
        datetime(2024, 4, 30, 9, tzinfo=tokyo), datetime(2024, 5, 1, 0, 0, 0, 999_999, UTC)
    )

    assert vendor.paths == [
        "/cirrus/library/rvs/data/cloudevents?startdate=2024-04-30T00:00:00&enddate=2024-05-01T00:00:00"
    ]
    assert [event.event_id for event in answer.events] == ["e-0001", "e-0002", "e-0004"]
    assert [fault.event_id for fault in answer.faults] == ["e-0003"]
    assert (answer.fetched, answer.requests, answer.repaired) == (4, 1, False)


def test_a_known_request_for_events_is_sent_with_its_known_signature() -> None:
    vendor = Vendor()
    account = Account("Main", "library_id", "account_id", SecretStr("account_key"), "https://vendor.example")
    now = datetime(2024, 11, 11, 10, tzinfo=UTC)

    with pytest.raises(RemoteIntegrationException):
        api_of(vendor, account, lambda: now).events(now - timedelta(days=1), now)

    assert (
        vendor.requests[0].headers["3mcl-Authorization"]
        == "3MCLAUTH account_id:KipNmbVsmsT2xPjP4oHAaR3n00JgcszfF6mQRffBoRk="
    )


def test_the_first_page_is_of_fifty_from_the_first_record_on() -> None:
    vendor = Vendor(PAGE)

    api_of(vendor).marc_page(START, END)

    assert vendor.paths[0].endswith("&offset=1&limit=50")


odd_ids = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8).filter(str.strip)


@settings(deadline=None)
@given(st.lists(odd_ids, min_size=1, max_size=25))
def test_whatever_the_ids_are_the_signature_is_of_the_path_that_is_sent(ids: list[str]) -> None:
    vendor = Vendor(ITEMS)

    api_of(vendor).items(ids)

    assert vendor.paths[0].startswith("/cirrus/library/rvs/items/")
    assert vendor.paths[0].count("/") == 5
    assert vendor.paths[0].count(",") == len(ids) - 1


@pytest.mark.parametrize(
    ("item_id", "sent"),
    [("a/b?c#d", "a%2Fb%3Fc%23d"), ("..", "%2E%2E"), ("a b", "a%20b"), ("é%", "%C3%A9%25"), ("q,x", "q%2Cx")],
)
def test_an_odd_id_stays_one_part_of_the_path(item_id: str, sent: str) -> None:
    vendor = Vendor(ITEMS)

    api_of(vendor).items([item_id])

    assert vendor.paths == [f"/cirrus/library/rvs/items/{sent}"]


def test_each_request_is_signed_afresh() -> None:
    vendor = Vendor(b"", PAGE)
    seconds = iter(range(1000))

    api_of(vendor, clock=lambda: NOW + timedelta(seconds=next(seconds))).marc_page(START, END)

    first, second = (request.headers["3mcl-Datetime"] for request in vendor.requests)
    assert first != second


def test_items_are_asked_for_together_and_dated_by_the_moment_of_asking() -> None:
    vendor = Vendor(ITEMS)

    answer = api_of(vendor).items(["qx7k2m9", "ah51rr9"])

    assert vendor.paths == ["/cirrus/library/rvs/items/qx7k2m9,ah51rr9"]
    assert {title.as_of for title in answer.titles} == {NOW}
    assert (len(answer.titles), len(answer.faults), answer.requests) == (3, 1, 1)


@pytest.mark.parametrize("ids", [[], ["a"] * 26, ["a", " "], [""]])
def test_none_too_many_or_blank_ids_are_the_callers_mistake(ids: list[str]) -> None:
    with pytest.raises(ValueError, match="1 to 25"):
        answering().items(ids)


@pytest.mark.parametrize(("offset", "limit"), [(0, 50), (1, 0), (1, 51)])
def test_an_offset_or_limit_out_of_range_is_the_callers_mistake(offset: int, limit: int) -> None:
    with pytest.raises(ValueError, match="offset"):
        answering().marc_page(START, END, offset, limit)


def test_a_moment_without_time_zone_is_the_callers_mistake() -> None:
    with pytest.raises(ValueError, match="time zone"):
        answering().marc_page(START.replace(tzinfo=None), END)


@pytest.mark.parametrize(
    ("start", "end"),
    [
        (START.replace(tzinfo=None), END),
        (START, END.replace(tzinfo=None)),
        (START.replace(tzinfo=None), END.replace(tzinfo=None)),
    ],
)
def test_a_moment_without_time_zone_is_no_bound_of_events_either(start: datetime, end: datetime) -> None:
    with pytest.raises(ValueError, match="time zone"):
        api_of(Vendor()).events(start, end)


SECOND = timedelta(seconds=1)
WIDEST = timedelta(hours=72)


@pytest.mark.parametrize("width", [timedelta(), -SECOND, SECOND / 2, WIDEST + SECOND, -WIDEST])
def test_a_window_of_events_that_is_empty_or_too_wide_is_the_callers_mistake(width: timedelta) -> None:
    with pytest.raises(ValueError, match="at least a second and at most 72 hours"):
        api_of(Vendor()).events(START, START + width)


@pytest.mark.parametrize("width", [SECOND, timedelta(minutes=5), WIDEST, WIDEST + SECOND / 2])
def test_a_window_of_events_may_be_of_a_second_to_72_hours(width: timedelta) -> None:
    assert api_of(Vendor(EVENTS)).events(START, START + width).fetched == 4


class PutBackAnHour(tzinfo):
    """A zone whose clocks are put back an hour as the third of November 2024 begins."""

    def utcoffset(self, dt: datetime | None) -> timedelta:
        return timedelta(hours=-4 if dt is None or (dt.month, dt.day) < (11, 3) else -5)

    def dst(self, dt: datetime | None) -> timedelta:
        return timedelta()

    def tzname(self, dt: datetime | None) -> str:
        return "here"


def test_the_width_of_a_window_is_not_what_the_clock_on_the_wall_makes_of_it() -> None:
    start = datetime(2024, 11, 2, tzinfo=PutBackAnHour())

    with pytest.raises(ValueError, match="72 hours"):
        api_of(Vendor()).events(start, start + WIDEST)


# Silence


@pytest.mark.parametrize("blank", [b"", b" \r\n", b"\xef\xbb\xbf"])
def test_a_blank_page_is_believed_when_it_comes_twice(blank: bytes) -> None:
    vendor = Vendor(blank, blank)

    page = api_of(vendor).marc_page(START, END)

    assert (page.records, page.repaired, page.requests) == ((), False, 2)


def test_a_blank_page_that_is_a_page_when_asked_again_was_a_slip() -> None:
    page = api_of(Vendor(b"", PAGE)).marc_page(START, END)

    assert (len(page.records), page.requests) == (3, 2)


def test_a_blank_page_and_then_an_error_document_is_an_error() -> None:
    with pytest.raises(RemoteInitiatedServerError):
        api_of(Vendor(b"", ERROR)).marc_page(START, END)


@pytest.mark.parametrize("blank", [b"", b" \r\n", b"\xef\xbb\xbf"])
def test_a_blank_body_twice_means_no_events(blank: bytes) -> None:
    vendor = Vendor(blank, blank)

    assert api_of(vendor).events(START, END) == EventsAnswer(events=(), faults=(), requests=2)


def test_a_blank_body_that_is_a_batch_when_asked_again_was_a_slip() -> None:
    answer = api_of(Vendor(b"", EVENTS)).events(START, END)

    assert (len(answer.events), answer.requests) == (3, 2)


def test_an_empty_batch_is_believed_at_once() -> None:
    answer = api_of(Vendor(b"<LibraryEventBatch/>")).events(START, END)

    assert answer == EventsAnswer(events=(), faults=(), requests=1)


@pytest.mark.parametrize("second", [ERROR, (DOCUMENTS / "maintenance.html").read_bytes(), EVENTS[:-200]])
def test_a_blank_body_and_then_a_fault_is_a_fault_and_not_no_events(second: bytes) -> None:
    with pytest.raises(TransientVendorError):
        api_of(Vendor(b"", second)).events(START, END)


def test_a_blank_answer_about_items_is_the_vendors_fault() -> None:
    with pytest.raises(RemoteInitiatedServerError) as caught:
        answering(200, b" ").items(["a"])

    assert caught.value.status == 200
    assert caught.value.url == "https://vendor.example/cirrus/library/rvs/items/a"


# Asking again at once

HTML = (DOCUMENTS / "maintenance.html").read_bytes()
SPOILT = [ERROR, HTML, PAGE[:-200], b"<other/>"]


@pytest.mark.parametrize("spoilt", SPOILT)
def test_a_spoilt_answer_is_asked_for_again_at_once(spoilt: bytes) -> None:
    vendor = Vendor(spoilt, spoilt, PAGE)

    assert len(api_of(vendor).marc_page(START, END).records) == 3
    assert len(vendor.requests) == 3


@pytest.mark.parametrize("spoilt", [b"", *SPOILT])
def test_so_is_one_about_items_blank_ones_included(spoilt: bytes) -> None:
    assert len(api_of(Vendor(spoilt, spoilt, ITEMS)).items(["qx7k2m9"]).titles) == 3


@pytest.mark.parametrize("spoilt", SPOILT)
def test_so_is_one_about_events(spoilt: bytes) -> None:
    assert len(api_of(Vendor(spoilt, EVENTS)).events(START, END).events) == 3


def test_the_third_spoilt_answer_is_an_error() -> None:
    vendor = Vendor(HTML, HTML, HTML, PAGE)

    failure(api_of(vendor))

    assert len(vendor.requests) == 3


@pytest.mark.parametrize(("status", "asked"), [(502, 3), (503, 3), (302, 3), (429, 1), (401, 1), (404, 1)])
def test_a_refusal_is_not_asked_for_again(status: int, asked: int) -> None:
    """Nor is what the vendor has too many of; a fault of its own is."""
    requests = []

    def answer(request: httpx.Request) -> httpx.Response:
        requests.append(request)
        return httpx.Response(status)

    failure(api_of(answer))

    assert len(requests) == asked


def test_nobody_asks_again_at_once_where_the_vendor_asks_to_wait() -> None:
    requests = []

    def answer(request: httpx.Request) -> httpx.Response:
        requests.append(request)
        return httpx.Response(503, headers={"Retry-After": "1"})

    failure(api_of(answer))

    assert len(requests) == 1


def test_nobody_asks_again_at_once_after_a_slow_fault() -> None:
    vendor = Vendor(HTML)
    moments = (NOW + number * timedelta(seconds=4) for number in count())

    failure(api_of(vendor, clock=lambda: next(moments)))

    assert len(vendor.requests) < 3


# Answers that are refusals


@pytest.mark.parametrize("status", [400, 401, 403, 404, 405, 410, 422])
def test_what_asking_again_cannot_mend_is_terminal(status: int) -> None:
    error = failure(answering(status, b"no", Location="https://evil.example/"))

    assert type(error) is RemoteIntegrationException
    assert (error.collection, error.status, error.excerpt) == ("Main", status, "no")
    assert error.url.startswith("https://vendor.example/cirrus/library/rvs/data/marc?startdate=2024-04-30T")


@pytest.mark.parametrize("status", [204, 206, 301, 302, 304, 307, 308, 408, 429, 500, 502, 503, 504, 599])
def test_what_may_pass_is_to_be_retried(status: int) -> None:
    error = failure(answering(status, b"busy"))

    assert type(error) is BadResponseException
    assert (error.status, error.excerpt, error.retry_after) == (status, "busy", None)


@pytest.mark.parametrize("status", [200, 400, 500, 502])
def test_an_error_document_is_to_be_retried_almost_whatever_the_status(status: int) -> None:
    error = failure(answering(status, ERROR))

    assert type(error) is RemoteInitiatedServerError
    assert "Authentication failed" in str(error)
    assert error.status == status


@pytest.mark.parametrize("status", [401, 403, 404])
def test_refused_credentials_and_wrong_libraries_stay_terminal_even_with_an_error_document(
    status: int,
) -> None:
    assert type(failure(answering(status, ERROR))) is RemoteIntegrationException


def test_a_refusal_with_a_right_clock_points_at_the_credentials() -> None:
    text = str(failure(answering(401, Date=format_datetime(NOW + timedelta(minutes=4), usegmt=True))))

    assert "account id and the account key" in text
    assert "clock" not in text


@pytest.mark.parametrize(("minutes", "said"), [(-9, "9 minutes ahead of"), (12, "12 minutes behind")])
def test_a_refusal_with_a_wrong_clock_points_at_the_clock(minutes: int, said: str) -> None:
    text = str(failure(answering(401, Date=format_datetime(NOW + timedelta(minutes=minutes), usegmt=True))))

    assert said in text
    assert "account key" not in text


@pytest.mark.parametrize("date", ["", "yesterday", "Fri, 01 Jan 2016 00:00:00 +9999999999999999"])
def test_a_refusal_without_a_usable_date_points_at_both(date: str) -> None:
    text = str(failure(answering(401, Date=date)))

    assert "account key" in text
    assert "clock" in text


@pytest.mark.parametrize(
    ("said", "seconds"),
    [
        ("120", 120.0),
        ("0", 0.0),
        ("Wed, 01 May 2024 08:16:30 GMT", 90.0),
        ("Wed, 01 May 2024 08:16:30 -0000", 90.0),
        ("Wed, 01 May 2024 08:00:00 GMT", 0.0),
        ("soon", None),
        ("-5", None),
        ("9" * 5000, None),
        ("nan", None),
    ],
)
def test_the_wait_that_the_vendor_asks_for_is_told_in_seconds(said: str, seconds: float | None) -> None:
    error = failure(answering(429, Retry_After=said))

    assert isinstance(error, BadResponseException)
    assert error.retry_after == seconds


@pytest.mark.parametrize("name", ["maintenance.html", "marc_truncated.xml", "items.xml"])
def test_a_page_that_is_none_is_to_be_retried(name: str) -> None:
    assert type(failure(answering(200, (DOCUMENTS / name).read_bytes()))) is BadResponseException


# Failures of the connection


def every_kind_of(kind: type[Exception]) -> Iterator[type[Exception]]:
    yield kind
    for below in kind.__subclasses__():
        yield from every_kind_of(below)


TRANSPORT_ERRORS = sorted(
    {kind for kind in every_kind_of(httpx.RequestError) if kind.__module__.startswith("httpx")},
    key=lambda kind: kind.__name__,
)
OURS = (httpx.UnsupportedProtocol, httpx.LocalProtocolError, httpx.TooManyRedirects)
ABSTRACT = (httpx.RequestError, httpx.TransportError, httpx.ProtocolError)


@pytest.mark.parametrize("kind", TRANSPORT_ERRORS)
def test_every_failure_of_the_transport_has_its_place(
    kind: type[httpx.RequestError],
) -> None:
    def fail(request: httpx.Request) -> httpx.Response:
        raise kind("it broke", request=request)

    error = failure(api_of(fail))

    assert isinstance(error, TransientVendorError) == (kind not in (*OURS, *ABSTRACT))
    assert (error.collection, error.status) == ("Main", None)


@pytest.mark.parametrize("kind", TRANSPORT_ERRORS)
def test_a_failure_in_mid_body_has_its_place_too(kind: type[httpx.RequestError]) -> None:
    class Breaking(httpx.SyncByteStream):
        def __iter__(self) -> Iterator[bytes]:
            yield PAGE[:100]
            raise kind("it broke")

    error = failure(api_of(lambda _: httpx.Response(200, stream=Breaking())))

    assert isinstance(error, TransientVendorError) == (kind not in (*OURS, *ABSTRACT))
    assert error.status == 200


def test_a_url_that_cannot_be_sent_is_terminal() -> None:
    with pytest.raises(RemoteIntegrationException) as caught:
        answering().items(["x" * 70_000])

    assert not isinstance(caught.value, TransientVendorError)


def test_an_unknown_exception_rises_as_it_is() -> None:
    def fail(_: httpx.Request) -> httpx.Response:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        api_of(fail).marc_page(START, END)


@pytest.fixture
def pool(monkeypatch: pytest.MonkeyPatch) -> Iterator[httpx.Client]:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("NO_PROXY", "")
    http_client.cache_clear()
    with http_client() as client:
        yield client
    http_client.cache_clear()


@contextmanager
def vendor_that_sends(*parts: bytes) -> Iterator[Account]:
    """The account of a vendor on this machine that reads each request, sends `parts` and hangs up."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            with suppress(OSError):
                while True:
                    connection, _ = server.accept()
                    with connection:
                        connection.recv(65_536)
                        for part in parts:
                            connection.sendall(part)

        thread = threading.Thread(target=serve)
        thread.start()
        yield Account("Main", "rvs", "a", KEY, f"http://127.0.0.1:{server.getsockname()[1]}")
        server.shutdown(socket.SHUT_RDWR)
        thread.join()


GZIPPED = b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n"


@pytest.mark.usefixtures("pool")
@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"not HTTP at all\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 99999\r\n\r\n" + PAGE,
        b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n" + PAGE,
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n400\r\n" + PAGE[:0x400],
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzzz\r\n",
        GZIPPED + f"Content-Length: {len(PAGE)}\r\n\r\n".encode() + PAGE,
        GZIPPED + b"\r\n" + gzip.compress(PAGE)[:-400],
        GZIPPED + b"\r\n" + gzip.compress(PAGE, mtime=0)[:10],
        GZIPPED + b"\r\n" + gzip.compress(b"", mtime=0)[:-1],
        GZIPPED.replace(b"gzip", b"gzip, gzip") + b"\r\n" + gzip.compress(gzip.compress(PAGE)),
    ],
)
def test_a_connection_that_drops_or_lies_is_to_be_retried(sent: bytes) -> None:
    with vendor_that_sends(sent) as account:
        assert isinstance(failure(BibliothecaAPI(account)), TransientVendorError)


@pytest.mark.usefixtures("pool")
@pytest.mark.parametrize(
    "sent",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(PAGE), PAGE),
        GZIPPED + b"\r\n" + gzip.compress(PAGE),
    ],
)
def test_a_page_comes_over_a_real_connection_plain_or_compressed(sent: bytes) -> None:
    with vendor_that_sends(sent) as account:
        assert len(BibliothecaAPI(account).marc_page(START, END).records) == 3


@pytest.mark.usefixtures("pool")
@pytest.mark.parametrize(
    "blank", [b"\r\n", b"\r\n" + gzip.compress(b"", mtime=0), b"\r\n" + gzip.compress(b" \n", mtime=0)]
)
def test_a_blank_page_can_be_compressed_too(blank: bytes) -> None:
    with vendor_that_sends(GZIPPED + blank) as account:
        assert BibliothecaAPI(account).marc_page(START, END).records == ()


def test_a_blank_body_and_then_gzip_that_ends_before_a_byte_is_out_of_it_is_a_fault_and_not_no_records() -> (
    None
):
    cut = httpx.Response(
        200, stream=httpx.ByteStream(gzip.compress(PAGE)[:10]), headers={"Content-Encoding": "gzip"}
    )
    answers = cycle([httpx.Response(200), cut])

    assert isinstance(failure(api_of(lambda _: next(answers))), TransientVendorError)


@settings(deadline=None)
@given(
    st.lists(st.integers(1, 3000), max_size=8),
    st.sampled_from(["gzip", "x-gzip", " GZIP "]),
    st.integers(0, 9),
)
def test_a_compressed_page_is_the_same_in_whatever_pieces_it_comes(
    cuts: list[int], name: str, level: int
) -> None:
    packed = gzip.compress(PAGE + b" " * 200_000, level)
    pieces = [packed[start:end] for start, end in pairwise([0, *sorted(cuts), len(packed)])]

    class InPieces(httpx.SyncByteStream):
        def __iter__(self) -> Iterator[bytes]:
            yield from pieces

    page = api_of(
        lambda _: httpx.Response(200, stream=InPieces(), headers={"Content-Encoding": name})
    ).marc_page(START, END)

    assert len(page.records) == 3


@pytest.mark.usefixtures("pool")
def test_a_silent_vendor_is_given_up_after_the_timeout() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        account = Account("Main", "rvs", "a", KEY, f"http://127.0.0.1:{server.getsockname()[1]}")
        error = failure(BibliothecaAPI(account, timeout_seconds=0.05))

    assert type(error) is RequestTimedOut
    assert "the vendor did not answer in time" in str(error)


@pytest.mark.usefixtures("pool")
def test_a_refused_connection_is_to_be_retried() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    account = Account("Main", "rvs", "a", KEY, f"http://127.0.0.1:{port}")

    error = failure(BibliothecaAPI(account))

    assert type(error) is RequestTimedOut
    assert "connection to the vendor failed" in str(error)


@pytest.mark.usefixtures("pool")
def test_a_refused_connection_says_why_also_where_answers_must_not_be_quoted() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    account = Account("Main", "rvs", "a", KEY, f"http://127.0.0.1:{port}")

    error = events_failure(BibliothecaAPI(account))

    assert type(error) is RequestTimedOut
    assert "refused" in error.problem


# Bounds


class Endless(httpx.SyncByteStream):
    """A body without end, that counts what was taken of it."""

    def __init__(self, chunk: bytes) -> None:
        self.chunk = chunk
        self.taken = 0

    def __iter__(self) -> Iterator[bytes]:
        while True:
            self.taken += len(self.chunk)
            yield self.chunk


def test_a_body_without_end_is_given_up_at_its_bound() -> None:
    bodies = []

    def answer(_: httpx.Request) -> httpx.Response:
        bodies.append(Endless(b"x" * 1_000_000))
        return httpx.Response(200, stream=bodies[-1])

    error = failure(api_of(answer))

    assert type(error) is BadResponseException
    assert "20 MiB" in str(error)
    assert all(body.taken <= LARGEST_BODY + 1_000_000 for body in bodies)


def test_the_bound_is_of_what_comes_out_of_the_compression() -> None:
    packed = gzip.compress(b"<a>" + b" " * (LARGEST_BODY + 1))
    stream = httpx.ByteStream(packed)

    def answer(_: httpx.Request) -> httpx.Response:
        return httpx.Response(200, stream=stream, headers={"Content-Encoding": "gzip"})

    assert len(packed) < 100_000
    assert "20 MiB" in str(failure(api_of(answer)))


def test_a_refusal_with_a_body_without_end_is_still_that_refusal() -> None:
    body = Endless(b"x" * 10_000)

    error = failure(api_of(lambda _: httpx.Response(404, stream=body)))

    assert (type(error), error.status) == (RemoteIntegrationException, 404)
    assert body.taken < 100_000


@pytest.mark.parametrize(("timeout_seconds", "limit"), [(60, 120), (30, 60)])
def test_an_answer_that_drips_without_end_is_given_up_after_twice_the_timeout(
    timeout_seconds: int, limit: int
) -> None:
    body = Endless(b"x")
    seconds = iter(range(0, 100_000, 10))
    http = httpx.Client(transport=httpx.MockTransport(lambda _: httpx.Response(200, stream=body)))
    clock = lambda: NOW + timedelta(seconds=next(seconds))  # noqa: E731

    error = failure(BibliothecaAPI(ACCOUNT, http, clock, timeout_seconds=timeout_seconds))

    assert type(error) is RequestTimedOut
    assert f"{limit} seconds" in str(error)
    assert body.taken < 20


# What may name patrons


def shown(error: BaseException) -> str:
    """All of an error that a log, the ledger or a message could hold, also after it was pickled."""
    copy = pickle.loads(pickle.dumps(error))  # noqa: S301
    texts = [f"{one} {one!r} {one.args!r} {vars(one)!r}" for one in (error, copy)]
    return "\n".join((*texts, *traceback.format_exception(error), *traceback.format_exception(copy)))


def assert_names_no_patron(error: RemoteIntegrationException) -> None:
    assert error.excerpt == ""
    assert error.__cause__ is None
    assert PATRON not in shown(error)
    assert PATRON_CARD not in shown(error)


ERROR_OF_A_PATRON = ERROR.replace(b"Authentication failed", f"{PATRON} lost {PATRON_CARD}".encode())
BATCH_OF_A_PATRON = f"<LibraryEventBatch><CloudLibraryEvent><PatronId>{PATRON}</PatronId>".encode()
OF_A_PATRON = {
    "error document": (ERROR_OF_A_PATRON, RemoteInitiatedServerError),
    "error in the batch": (
        EVENTS.replace(b"<Events>", b"<Error><Message>%s</Message></Error><Events>" % PATRON.encode()),
        RemoteInitiatedServerError,
    ),
    "text": (f"Patron {PATRON} is not known".encode(), BadResponseException),
    "web page": (f"<html><body>{PATRON}<br></body></html>".encode(), BadResponseException),
    "web page that is XML": (f"<html><body>{PATRON}</body></html>".encode(), BadResponseException),
    "truncated": (BATCH_OF_A_PATRON, BadResponseException),
    "truncated later": (EVENTS[:-20], BadResponseException),
    "other end tag": (f"<LibraryEventBatch><{PATRON}></LibraryEventBatch>".encode(), BadResponseException),
    "other root": (f"<{PATRON}/>".encode(), BadResponseException),
    "other root with a prefix": (f"<a:{PATRON} xmlns:a='urn:{PATRON}'/>".encode(), BadResponseException),
    "document type": (
        f"<!DOCTYPE LibraryEventBatch SYSTEM '{PATRON}'><LibraryEventBatch/>".encode(),
        BadResponseException,
    ),
    "encoding": (
        f"<?xml version='1.0' encoding='{PATRON}'?><LibraryEventBatch/>".encode(),
        BadResponseException,
    ),
    "not UTF-8": (b"<LibraryEventBatch>%s\xe9</LibraryEventBatch>" % PATRON.encode(), BadResponseException),
}


@pytest.mark.parametrize(("body", "kind"), OF_A_PATRON.values(), ids=OF_A_PATRON.keys())
def test_no_error_about_a_batch_that_cannot_be_read_names_a_patron(
    body: bytes, kind: type[RemoteIntegrationException], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)

    error = events_failure(answering(200, body))

    assert type(error) is kind
    assert error.status == 200
    assert_names_no_patron(error)
    assert PATRON not in caplog.text


@pytest.mark.parametrize(("body", "kind"), OF_A_PATRON.values(), ids=OF_A_PATRON.keys())
def test_errors_about_other_answers_quote_them_as_before(
    body: bytes, kind: type[RemoteIntegrationException]
) -> None:
    error = failure(answering(200, body))

    assert type(error) is kind
    assert error.excerpt == excerpt_of(body)


@pytest.mark.parametrize(
    "status", [204, 206, 301, 302, 304, 400, 401, 403, 404, 408, 410, 422, 429, 500, 502, 503, 599]
)
@pytest.mark.parametrize("body", [BATCH_OF_A_PATRON, ERROR_OF_A_PATRON, PATRON.encode()])
def test_no_refusal_names_a_patron(status: int, body: bytes) -> None:
    error = events_failure(answering(status, body, Location=f"https://vendor.example/{PATRON}"))

    assert type(error) is type(failure(answering(status, body)))
    assert error.status == status
    assert_names_no_patron(error)


@pytest.mark.parametrize("status", [200, 400, 500])
def test_an_error_document_about_events_says_why_it_is_not_repeated(status: int) -> None:
    error = events_failure(answering(status, ERROR_OF_A_PATRON))

    assert str(error) == (
        'Collection "Main": the vendor reported an error of its own: what it said is not repeated, because '
        "it can name patrons (https://vendor.example/cirrus/library/rvs/data/cloudevents"
        f"?startdate=2024-04-30T00:00:00&enddate=2024-05-01T00:00:00, status {status})."
    )


@pytest.mark.parametrize(
    ("said", "seconds"), [("120", 120.0), ("Wed, 01 May 2024 08:16:30 GMT", 90.0), (PATRON, None)]
)
def test_the_wait_that_the_vendor_asks_for_is_told_of_events_too(said: str, seconds: float | None) -> None:
    error = events_failure(answering(503, BATCH_OF_A_PATRON, Retry_After=said))

    assert isinstance(error, BadResponseException)
    assert error.retry_after == seconds
    assert_names_no_patron(error)


def test_a_wrong_clock_is_told_of_events_too() -> None:
    date = format_datetime(NOW + timedelta(minutes=12), usegmt=True)

    error = events_failure(answering(401, BATCH_OF_A_PATRON, Date=date))

    assert "12 minutes behind" in str(error)
    assert_names_no_patron(error)


# Before there is a connection there is no answer that an error could quote.
UNCONNECTED = (httpx.ConnectError, httpx.ProxyError)


@pytest.mark.parametrize("kind", [kind for kind in TRANSPORT_ERRORS if kind not in UNCONNECTED])
def test_no_failure_in_mid_body_names_a_patron(kind: type[httpx.RequestError]) -> None:
    class Breaking(httpx.SyncByteStream):
        def __iter__(self) -> Iterator[bytes]:
            yield BATCH_OF_A_PATRON
            raise kind(f"cannot read {PATRON}")

    error = events_failure(api_of(lambda _: httpx.Response(200, stream=Breaking())))

    assert type(error) is type(failure(api_of(lambda _: httpx.Response(200, stream=Breaking()))))
    assert_names_no_patron(error)


@pytest.mark.usefixtures("pool")
@pytest.mark.parametrize(
    "sent",
    [
        PATRON.encode() + b" is not HTTP\r\n\r\n",
        f"HTTP/1.1 500 No {PATRON}\r\nContent-Length: 0\r\n\r\n".encode(),
        f"HTTP/1.1 200 OK\r\n{PATRON} {PATRON}\r\n\r\n".encode(),
        f"HTTP/1.1 200 OK\r\nContent-Length: {PATRON}\r\n\r\n".encode(),
        f"HTTP/1.1 200 OK\r\nTransfer-Encoding: {PATRON}\r\n\r\n".encode(),
        f"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{PATRON}\r\n".encode(),
        f"HTTP/1.1 200 OK\r\nContent-Encoding: gzip, {PATRON}\r\n\r\n{PATRON}".encode(),
        b"HTTP/1.1 200 OK\r\nContent-Length: 9999\r\n\r\n" + EVENTS,
        GZIPPED + b"\r\n" + EVENTS,
        GZIPPED + b"\r\n" + gzip.compress(EVENTS)[:-100],
        GZIPPED + b"\r\n" + gzip.compress(EVENTS, mtime=0)[:10],
    ],
)
def test_no_connection_that_drops_or_lies_names_a_patron(sent: bytes) -> None:
    with vendor_that_sends(sent) as account:
        error = events_failure(BibliothecaAPI(account))

    assert isinstance(error, TransientVendorError)
    assert_names_no_patron(error)


def test_a_body_without_end_names_no_patron_however_it_ends() -> None:
    seconds = iter(range(0, 100_000, 10))

    def drips() -> datetime:
        return NOW + timedelta(seconds=next(seconds))

    too_long = events_failure(
        api_of(lambda _: httpx.Response(200, stream=Endless(BATCH_OF_A_PATRON * 10_000)))
    )
    too_slow = events_failure(
        api_of(lambda _: httpx.Response(200, stream=Endless(BATCH_OF_A_PATRON)), clock=drips)
    )

    assert (type(too_long), type(too_slow)) == (BadResponseException, RequestTimedOut)
    assert_names_no_patron(too_long)
    assert_names_no_patron(too_slow)


@settings(deadline=None)
@given(st.binary(max_size=60), st.binary(max_size=60), st.sampled_from([200, 302, 400, 401, 404, 429, 500]))
def test_whatever_surrounds_a_patrons_id_no_error_names_it(before: bytes, after: bytes, status: int) -> None:
    error = events_failure(answering(status, before + PATRON.encode() + after))

    assert_names_no_patron(error)


# The account and its secrets


@pytest.mark.parametrize(
    "base_url",
    [
        "https://partner.yourcloudlibrary.com",
        "https://partner.yourcloudlibrary.com/",
        "https://vendor.example:8443",
        "http://localhost:8080",
        "http://127.0.0.1:8080/",
        "http://127.8.9.1",
        "http://[::1]:8080",
    ],
)
def test_https_anywhere_and_plain_http_on_this_machine_will_do(base_url: str) -> None:
    vendor = Vendor(PAGE)

    api_of(vendor, Account("Main", "rvs", "library.rvs", KEY, base_url)).marc_page(START, END)

    assert vendor.paths[0].startswith("/cirrus/library/rvs/data/marc?")


@pytest.mark.parametrize(
    "base_url",
    [
        "",
        "vendor.example",
        "http://vendor.example",
        "http://10.0.0.1",
        "http://localhost.evil.example",
        "http://127.0.0.1.evil.example",
        "http://0x7f.1",
        "ftp://localhost",
        "https://",
        "https://user:hunter2@vendor.example",
        "https://vendor.example/cirrus",
        "https://vendor.example?a=b",
        "https://vendor.example#a",
        "https://vendor.example:port",
        "https://vendor\n.example",
    ],
)
def test_any_other_address_is_refused_with_the_collections_name(base_url: str) -> None:
    with pytest.raises(UserError, match='base URL of collection "Main"') as caught:
        Account("Main", "rvs", "a", KEY, base_url)

    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("library_id", "account_id", "key"),
    [
        ("", "a", "k"),
        (" ", "a", "k"),
        ("rvs", "a", ""),
        ("rvs", "", "k"),
        ("rvs", "a\r\nX: y", "k"),
        ("rvs", "é", "k"),
    ],
)
def test_an_account_that_lacks_something_is_refused_with_the_collections_name(
    library_id: str, account_id: str, key: str
) -> None:
    with pytest.raises(UserError, match='ollection "Main"'):
        Account("Main", library_id, account_id, SecretStr(key), "https://vendor.example")


def test_the_key_and_the_signature_show_nowhere(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    vendor = Vendor(ERROR)

    error = failure(api_of(vendor))

    signed = vendor.requests[0].headers["3mcl-Authorization"].rpartition(":")[2]
    shown = f"{ACCOUNT!r} {error!r} {error} {vars(error)} {caplog.text}"
    assert "s3cret-key" not in shown
    assert signed not in shown


# The pool of connections


def test_a_process_has_one_pool_with_bounded_waits_and_no_redirects(pool: httpx.Client) -> None:
    assert http_client() is pool
    assert (pool.timeout.connect, pool.timeout.read) == (10, 60)
    assert not pool.follow_redirects


def test_no_proxy_stands_between_us_and_this_machine_and_no_cookie_is_kept(pool: httpx.Client) -> None:
    answer = b"HTTP/1.1 200 OK\r\nSet-Cookie: session=1\r\nContent-Length: %d\r\n\r\n%s" % (len(PAGE), PAGE)

    with vendor_that_sends(answer) as account:
        page = BibliothecaAPI(account).marc_page(START, END)

    assert len(page.records) == 3
    assert len(pool.cookies) == 0


def test_a_child_process_has_a_pool_of_its_own() -> None:
    script = (
        "import os\n"
        "from accession.bibliotheca.client import http_client\n"
        "parent = http_client()\n"
        "pid = os.fork()\n"
        "if pid == 0: os._exit(http_client() is parent)\n"
        "raise SystemExit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))"
    )

    assert subprocess.run([sys.executable, "-c", script], check=False, timeout=60).returncode == 0
