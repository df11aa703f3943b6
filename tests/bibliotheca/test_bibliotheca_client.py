"""The client signs what it sends, bounds what it takes, and turns every failure into the hierarchy."""

import gzip
import logging
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta, timezone
from email.utils import format_datetime
from pathlib import Path

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import SecretStr

from accession.bibliotheca.client import (
    LARGEST_BODY,
    Account,
    BibliothecaAPI,
    http_client,
    signature,
)
from accession.bibliotheca.errors import (
    RETRYABLE,
    BadResponseException,
    RemoteInitiatedServerError,
    RemoteIntegrationException,
    RequestTimedOut,
)
from accession.errors import UserError

DOCUMENTS = Path(__file__).parent / "documents"
KEY = SecretStr("s3cret-key")
ACCOUNT = Account("Main", "rvs", "library.rvs", KEY, "https://vendor.example")
NOW = datetime(2024, 5, 1, 8, 15, tzinfo=UTC)
START, END = datetime(2024, 4, 30, tzinfo=UTC), datetime(2024, 5, 1, tzinfo=UTC)
PAGE = (DOCUMENTS / "marc_page.xml").read_bytes()
ITEMS = (DOCUMENTS / "items.xml").read_bytes()
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


class Vendor:
    """Checks every signature against the path as it came over the wire, and remembers the requests."""

    def __init__(self, *bodies: bytes) -> None:
        self.requests: list[httpx.Request] = []
        self._bodies = iter(bodies)

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


def test_a_blank_answer_about_items_is_the_vendors_fault() -> None:
    with pytest.raises(RemoteInitiatedServerError) as caught:
        answering(200, b" ").items(["a"])

    assert caught.value.status == 200
    assert caught.value.url == "https://vendor.example/cirrus/library/rvs/items/a"


# Answers that are refusals


@pytest.mark.parametrize("status", [301, 302, 307, 308, 304, 400, 401, 403, 404, 405, 410, 422])
def test_what_asking_again_cannot_mend_is_terminal(status: int) -> None:
    error = failure(answering(status, b"no", Location="https://evil.example/"))

    assert type(error) is RemoteIntegrationException
    assert (error.collection, error.status, error.excerpt) == ("Main", status, "no")
    assert error.url.startswith("https://vendor.example/cirrus/library/rvs/data/marc?startdate=2024-04-30T")


@pytest.mark.parametrize("status", [204, 206, 408, 429, 500, 502, 503, 504, 599])
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

    assert isinstance(error, RETRYABLE) == (kind not in (*OURS, *ABSTRACT))
    assert (error.collection, error.status) == ("Main", None)


@pytest.mark.parametrize("kind", TRANSPORT_ERRORS)
def test_a_failure_in_mid_body_has_its_place_too(kind: type[httpx.RequestError]) -> None:
    class Breaking(httpx.SyncByteStream):
        def __iter__(self) -> Iterator[bytes]:
            yield PAGE[:100]
            raise kind("it broke")

    error = failure(api_of(lambda _: httpx.Response(200, stream=Breaking())))

    assert isinstance(error, RETRYABLE) == (kind not in (*OURS, *ABSTRACT))
    assert error.status == 200


def test_a_url_that_cannot_be_sent_is_terminal() -> None:
    with pytest.raises(RemoteIntegrationException) as caught:
        answering().items(["x" * 70_000])

    assert not isinstance(caught.value, RETRYABLE)


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
    """The account of a vendor on this machine that reads one request, sends `parts` and hangs up."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(65_536)
                for part in parts:
                    connection.sendall(part)

        thread = threading.Thread(target=serve)
        thread.start()
        yield Account("Main", "rvs", "a", KEY, f"http://127.0.0.1:{server.getsockname()[1]}")
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
        GZIPPED.replace(b"gzip", b"gzip, gzip") + b"\r\n" + gzip.compress(gzip.compress(PAGE)),
    ],
)
def test_a_connection_that_drops_or_lies_is_to_be_retried(sent: bytes) -> None:
    with vendor_that_sends(sent) as account:
        assert isinstance(failure(BibliothecaAPI(account)), RETRYABLE)


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
def test_a_refused_connection_is_to_be_retried() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    account = Account("Main", "rvs", "a", KEY, f"http://127.0.0.1:{port}")

    error = failure(BibliothecaAPI(account))

    assert type(error) is RequestTimedOut
    assert "connection to the vendor failed" in str(error)


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
    body = Endless(b"x" * 1_000_000)

    error = failure(api_of(lambda _: httpx.Response(200, stream=body)))

    assert type(error) is BadResponseException
    assert "20 MiB" in str(error)
    assert body.taken <= LARGEST_BODY + 1_000_000


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


def test_an_answer_that_drips_without_end_is_given_up() -> None:
    body = Endless(b"x")
    seconds = iter(range(0, 100_000, 10))

    error = failure(
        api_of(
            lambda _: httpx.Response(200, stream=body), clock=lambda: NOW + timedelta(seconds=next(seconds))
        )
    )

    assert type(error) is RequestTimedOut
    assert "120 seconds" in str(error)
    assert body.taken < 20


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
