"""No error about a response with events names a patron, because errors are logged and stored."""

import gzip
import logging
import pickle
import traceback
from collections.abc import Iterator
from datetime import datetime, timedelta
from email.utils import format_datetime

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from accession.bibliotheca.client import BibliothecaAPI
from accession.bibliotheca.errors import (
    BadResponseException,
    RemoteInitiatedServerError,
    RemoteIntegrationException,
    RequestTimedOut,
    TransientVendorError,
    excerpt_of,
)
from tests.fixtures.bibliotheca import (
    ERROR,
    EVENTS,
    NOW,
    EndlessBody,
    api_returning,
    api_with,
    events_error,
    marc_error,
    socket_vendor,
)
from tests.fixtures.vendor import PATRON, PATRON_CARD


def all_texts(error: BaseException) -> str:
    """Return everything of an error that a log or the ledger could store, also after pickling."""
    copy = pickle.loads(pickle.dumps(error))  # noqa: S301
    texts = [f"{one} {one!r} {one.args!r} {vars(one)!r}" for one in (error, copy)]
    return "\n".join((*texts, *traceback.format_exception(error), *traceback.format_exception(copy)))


def assert_names_no_patron(error: RemoteIntegrationException) -> None:
    assert error.excerpt == ""
    assert error.__cause__ is None
    assert PATRON not in all_texts(error)
    assert PATRON_CARD not in all_texts(error)


PATRON_ERROR = ERROR.replace(b"Authentication failed", f"{PATRON} lost {PATRON_CARD}".encode())
PATRON_BATCH = f"<LibraryEventBatch><CloudLibraryEvent><PatronId>{PATRON}</PatronId>".encode()
PATRON_BODIES = {
    "error document": (PATRON_ERROR, RemoteInitiatedServerError),
    "error in the batch": (
        EVENTS.replace(b"<Events>", b"<Error><Message>%s</Message></Error><Events>" % PATRON.encode()),
        RemoteInitiatedServerError,
    ),
    "text": (f"Patron {PATRON} is not known".encode(), BadResponseException),
    "HTML": (f"<html><body>{PATRON}<br></body></html>".encode(), BadResponseException),
    "XHTML": (f"<html><body>{PATRON}</body></html>".encode(), BadResponseException),
    "truncated": (PATRON_BATCH, BadResponseException),
    "truncated at the end": (EVENTS[:-20], BadResponseException),
    "wrong end tag": (f"<LibraryEventBatch><{PATRON}></LibraryEventBatch>".encode(), BadResponseException),
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


@pytest.mark.parametrize(("body", "kind"), PATRON_BODIES.values(), ids=PATRON_BODIES.keys())
def test_invalid_batch_error_names_no_patron(
    body: bytes, kind: type[RemoteIntegrationException], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)

    error = events_error(api_returning(200, body))

    assert type(error) is kind
    assert error.status == 200
    assert_names_no_patron(error)
    assert PATRON not in caplog.text


@pytest.mark.parametrize(("body", "kind"), PATRON_BODIES.values(), ids=PATRON_BODIES.keys())
def test_error_about_other_endpoint_quotes_body(body: bytes, kind: type[RemoteIntegrationException]) -> None:
    error = marc_error(api_returning(200, body))

    assert type(error) is kind
    assert error.excerpt == excerpt_of(body)


@pytest.mark.parametrize(
    "status", [204, 206, 301, 302, 304, 400, 401, 403, 404, 408, 410, 422, 429, 500, 502, 503, 599]
)
@pytest.mark.parametrize(
    "body", [PATRON_BATCH, PATRON_ERROR, PATRON.encode()], ids=["batch", "error", "text"]
)
def test_status_error_names_no_patron(status: int, body: bytes) -> None:
    error = events_error(api_returning(status, body, Location=f"https://vendor.example/{PATRON}"))

    assert type(error) is type(marc_error(api_returning(status, body)))
    assert error.status == status
    assert_names_no_patron(error)


@pytest.mark.parametrize("status", [200, 400, 500])
def test_error_document_says_why_message_is_omitted(status: int) -> None:
    error = events_error(api_returning(status, PATRON_ERROR))

    assert str(error) == (
        'Collection "Main": the vendor reported an error: its message is omitted because '
        "it may contain patron data (https://vendor.example/cirrus/library/rvs/data/cloudevents"
        f"?startdate=2024-04-30T00:00:00&enddate=2024-05-01T00:00:00, status {status})."
    )


@pytest.mark.parametrize(
    ("header", "seconds"), [("120", 120.0), ("Wed, 01 May 2024 08:16:30 GMT", 90.0), (PATRON, None)]
)
def test_retry_after_is_kept_without_patron(header: str, seconds: float | None) -> None:
    error = events_error(api_returning(503, PATRON_BATCH, Retry_After=header))

    assert isinstance(error, BadResponseException)
    assert error.retry_after == seconds
    assert_names_no_patron(error)


def test_clock_skew_is_reported_without_patron() -> None:
    date = format_datetime(NOW + timedelta(minutes=12), usegmt=True)

    error = events_error(api_returning(401, PATRON_BATCH, Date=date))

    assert "12 minutes behind" in str(error)
    assert_names_no_patron(error)


TRANSPORT_ERRORS = [
    httpx.CloseError,
    httpx.ConnectTimeout,
    httpx.DecodingError,
    httpx.LocalProtocolError,
    httpx.NetworkError,
    httpx.PoolTimeout,
    httpx.ProtocolError,
    httpx.ReadError,
    httpx.ReadTimeout,
    httpx.RemoteProtocolError,
    httpx.RequestError,
    httpx.TimeoutException,
    httpx.TooManyRedirects,
    httpx.TransportError,
    httpx.UnsupportedProtocol,
    httpx.WriteError,
    httpx.WriteTimeout,
]


@pytest.mark.parametrize("kind", TRANSPORT_ERRORS)
def test_transport_error_names_no_patron(kind: type[httpx.RequestError]) -> None:
    class FailingBody(httpx.SyncByteStream):
        def __iter__(self) -> Iterator[bytes]:
            yield PATRON_BATCH
            raise kind(f"cannot read {PATRON}")

    error = events_error(api_with(lambda _: httpx.Response(200, stream=FailingBody())))

    assert type(error) is type(marc_error(api_with(lambda _: httpx.Response(200, stream=FailingBody()))))
    assert_names_no_patron(error)


GZIP = b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n"


@pytest.mark.usefixtures("http_pool")
@pytest.mark.parametrize(
    "sent",
    [
        pytest.param(PATRON.encode() + b" is not HTTP\r\n\r\n", id="not HTTP"),
        pytest.param(f"HTTP/1.1 500 No {PATRON}\r\nContent-Length: 0\r\n\r\n".encode(), id="reason phrase"),
        pytest.param(f"HTTP/1.1 200 OK\r\n{PATRON} {PATRON}\r\n\r\n".encode(), id="invalid header"),
        pytest.param(f"HTTP/1.1 200 OK\r\nContent-Length: {PATRON}\r\n\r\n".encode(), id="length"),
        pytest.param(
            f"HTTP/1.1 200 OK\r\nTransfer-Encoding: {PATRON}\r\n\r\n".encode(), id="transfer encoding"
        ),
        pytest.param(
            f"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{PATRON}\r\n".encode(), id="chunk size"
        ),
        pytest.param(
            f"HTTP/1.1 200 OK\r\nContent-Encoding: gzip, {PATRON}\r\n\r\n{PATRON}".encode(),
            id="content encoding",
        ),
        pytest.param(b"HTTP/1.1 200 OK\r\nContent-Length: 9999\r\n\r\n" + EVENTS, id="length too large"),
        pytest.param(GZIP + b"\r\n" + EVENTS, id="not gzip"),
        pytest.param(GZIP + b"\r\n" + gzip.compress(EVENTS)[:-100], id="truncated gzip"),
        pytest.param(GZIP + b"\r\n" + gzip.compress(EVENTS, mtime=0)[:10], id="gzip header only"),
    ],
)
def test_broken_transfer_names_no_patron(sent: bytes) -> None:
    with socket_vendor(lambda: [sent]) as account:
        error = events_error(BibliothecaAPI(account))

    assert isinstance(error, TransientVendorError)
    assert_names_no_patron(error)


def test_endless_body_names_no_patron() -> None:
    seconds = iter(range(0, 100_000, 10))

    def fast_clock() -> datetime:
        return NOW + timedelta(seconds=next(seconds))

    too_large = events_error(
        api_with(lambda _: httpx.Response(200, stream=EndlessBody(PATRON_BATCH * 10_000)))
    )
    too_slow = events_error(
        api_with(lambda _: httpx.Response(200, stream=EndlessBody(PATRON_BATCH)), clock=fast_clock)
    )

    assert (type(too_large), type(too_slow)) == (BadResponseException, RequestTimedOut)
    assert_names_no_patron(too_large)
    assert_names_no_patron(too_slow)


@settings(deadline=None)
@given(st.binary(max_size=60), st.binary(max_size=60), st.sampled_from([200, 302, 400, 401, 404, 429, 500]))
def test_arbitrary_body_with_patron_is_not_quoted(before: bytes, after: bytes, status: int) -> None:
    error = events_error(api_returning(status, before + PATRON.encode() + after))

    assert_names_no_patron(error)
