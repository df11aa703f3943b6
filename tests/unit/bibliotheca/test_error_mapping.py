"""HTTP statuses and connection failures become transient or permanent vendor errors."""

import socket
from collections.abc import Iterator
from datetime import timedelta
from email.utils import format_datetime

import httpx
import pytest

from accession.bibliotheca.client import BibliothecaAPI
from accession.bibliotheca.errors import (
    AuthenticationFailed,
    BadResponseException,
    ConnectionFailed,
    PermanentVendorError,
    RemoteInitiatedServerError,
    RequestTimedOut,
    UnknownLibrary,
)
from tests.fixtures.bibliotheca import (
    END,
    ERROR,
    NOW,
    PAGE,
    START,
    api_returning,
    api_with,
    document,
    events_error,
    local_account,
    marc_error,
)

# Statuses


@pytest.mark.parametrize(
    ("status", "error_type"),
    [
        (400, PermanentVendorError),
        (401, AuthenticationFailed),
        (403, AuthenticationFailed),
        (404, UnknownLibrary),
        (405, PermanentVendorError),
        (410, PermanentVendorError),
        (422, PermanentVendorError),
    ],
)
def test_client_error_status_is_permanent(status: int, error_type: type[PermanentVendorError]) -> None:
    error = marc_error(api_returning(status, b"no", Location="https://evil.example/"))

    assert type(error) is error_type
    assert (error.collection, error.status, error.excerpt) == ("Main", status, "no")
    assert error.url.startswith("https://vendor.example/cirrus/library/rvs/data/marc?startdate=2024-04-30T")


@pytest.mark.parametrize("status", [204, 206, 301, 302, 304, 307, 308, 408, 429, 500, 502, 503, 504, 599])
def test_other_status_is_transient(status: int) -> None:
    error = marc_error(api_returning(status, b"busy"))

    assert type(error) is BadResponseException
    assert (error.status, error.excerpt, error.retry_after) == (status, "busy", None)


def test_redirect_says_to_check_the_base_url() -> None:
    assert "redirects to another URL, which is not followed; check the base URL" in str(
        marc_error(api_returning(302, Location="https://evil.example/"))
    )


@pytest.mark.parametrize("status", [200, 400, 500, 502])
def test_error_document_is_transient_with_most_statuses(status: int) -> None:
    error = marc_error(api_returning(status, ERROR))

    assert type(error) is RemoteInitiatedServerError
    assert "the vendor reported an error: Authentication failed" in str(error)
    assert error.status == status


@pytest.mark.parametrize("status", [401, 403, 404])
def test_error_document_does_not_make_a_refusal_transient(status: int) -> None:
    assert isinstance(marc_error(api_returning(status, ERROR)), PermanentVendorError)


@pytest.mark.parametrize("name", ["maintenance.html", "marc_truncated.xml", "items.xml"])
def test_unexpected_document_is_transient(name: str) -> None:
    assert type(marc_error(api_returning(200, document(name)))) is BadResponseException


def http_date(offset: timedelta) -> str:
    return format_datetime(NOW + offset, usegmt=True)


def test_refusal_with_correct_clock_names_the_credentials() -> None:
    text = str(marc_error(api_returning(401, Date=http_date(timedelta(minutes=4)))))

    assert "account id and the account key" in text
    assert "clock" not in text


@pytest.mark.parametrize(("minutes", "skew"), [(-9, "9 minutes ahead of"), (12, "12 minutes behind")])
def test_refusal_with_wrong_clock_names_the_clock(minutes: int, skew: str) -> None:
    text = str(marc_error(api_returning(401, Date=http_date(timedelta(minutes=minutes)))))

    assert skew in text
    assert "account key" not in text


@pytest.mark.parametrize("date", ["", "yesterday", "Fri, 01 Jan 2016 00:00:00 +9999999999999999"])
def test_refusal_without_valid_date_names_both(date: str) -> None:
    text = str(marc_error(api_returning(401, Date=date)))

    assert "account key" in text
    assert "clock" in text


@pytest.mark.parametrize(
    ("header", "seconds"),
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
def test_retry_after_is_converted_to_seconds(header: str, seconds: float | None) -> None:
    error = marc_error(api_returning(429, Retry_After=header))

    assert isinstance(error, BadResponseException)
    assert error.retry_after == seconds


# Connections


def all_subclasses(error_type: type[Exception]) -> Iterator[type[Exception]]:
    yield error_type
    for subclass in error_type.__subclasses__():
        yield from all_subclasses(subclass)


TRANSPORT_ERRORS = sorted(
    {kind for kind in all_subclasses(httpx.RequestError) if kind.__module__.startswith("httpx")},
    key=lambda kind: kind.__name__,
)


def expected_type(error_type: type[Exception]) -> type[Exception]:
    if issubclass(error_type, httpx.TimeoutException):
        return RequestTimedOut
    if issubclass(error_type, httpx.NetworkError | httpx.ProxyError | httpx.RemoteProtocolError):
        return ConnectionFailed
    return BadResponseException if error_type is httpx.DecodingError else PermanentVendorError


@pytest.mark.parametrize("kind", TRANSPORT_ERRORS)
def test_transport_error_is_mapped(kind: type[httpx.RequestError]) -> None:
    def fail(request: httpx.Request) -> httpx.Response:
        raise kind("it broke", request=request)

    error = marc_error(api_with(fail))

    assert type(error) is expected_type(kind)
    assert (error.collection, error.status) == ("Main", None)


@pytest.mark.parametrize("kind", TRANSPORT_ERRORS)
def test_transport_error_within_a_body_is_mapped(kind: type[httpx.RequestError]) -> None:
    class FailingBody(httpx.SyncByteStream):
        def __iter__(self) -> Iterator[bytes]:
            yield PAGE[:100]
            raise kind("it broke")

    error = marc_error(api_with(lambda _: httpx.Response(200, stream=FailingBody())))

    assert type(error) is expected_type(kind)
    assert error.status == 200


def test_only_our_mistakes_are_permanent_transport_errors() -> None:
    """A new httpx exception must be classified deliberately."""
    permanent = {kind for kind in TRANSPORT_ERRORS if expected_type(kind) is PermanentVendorError}

    assert permanent == {
        httpx.UnsupportedProtocol,
        httpx.LocalProtocolError,
        httpx.TooManyRedirects,
        # Base classes, which httpx does not raise itself.
        httpx.RequestError,
        httpx.TransportError,
        httpx.ProtocolError,
    }


def test_unknown_exception_is_not_mapped() -> None:
    def fail(_: httpx.Request) -> httpx.Response:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        api_with(fail).fetch_marc_page(START, END)


@pytest.mark.usefixtures("http_pool")
def test_silent_vendor_times_out() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        error = marc_error(BibliothecaAPI(local_account(server), timeout_seconds=0.05))

    assert type(error) is RequestTimedOut
    assert "the vendor did not respond in time" in str(error)


@pytest.mark.usefixtures("http_pool")
def test_refused_connection_is_a_connection_failure() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        account = local_account(server)

    error = marc_error(BibliothecaAPI(account))

    assert type(error) is ConnectionFailed
    assert "the connection to the vendor failed: Connection refused; check the base URL" in str(error)


@pytest.mark.usefixtures("http_pool")
def test_refused_connection_for_events_names_the_reason() -> None:
    """Without a response there is no personal data that the reason could contain."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        account = local_account(server)

    error = events_error(BibliothecaAPI(account))

    assert type(error) is ConnectionFailed
    assert "refused" in error.problem
