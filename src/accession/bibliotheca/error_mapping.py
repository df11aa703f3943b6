"""Translate HTTP statuses and httpx exceptions into the vendor errors of `bibliotheca.errors`."""

import re
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from http import HTTPStatus

import httpx

from accession.bibliotheca.errors import (
    AuthenticationFailed,
    BadResponseException,
    ConnectionFailed,
    PermanentVendorError,
    RemoteInitiatedServerError,
    RemoteIntegrationException,
    RequestTimedOut,
    ResponseContext,
    UnknownLibrary,
    excerpt_of,
)
from accession.bibliotheca.xml import describe_vendor_error, vendor_error_message

# The vendor rejects signatures whose date differs from its own clock by more than this.
CLOCK_TOLERANCE = timedelta(minutes=5)

_CONNECTION_ERRORS = (httpx.NetworkError, httpx.ProxyError, httpx.RemoteProtocolError)
# Raised before there is a response, so their messages cannot quote one.
_ERRORS_WITHOUT_RESPONSE = (httpx.ConnectError, httpx.ProxyError)
# At the start of an error of the operating system; its text says the same.
_ERROR_NUMBER = re.compile(r"\A\[Errno -?[0-9]+\] ")


def error_from_response(
    response: httpx.Response, body: bytes, context: ResponseContext, now: datetime
) -> RemoteIntegrationException:
    """Return the error for a response whose status is not 200."""
    status = response.status_code
    if status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
        return context.error(AuthenticationFailed, _authentication_problem(response, now), body)
    if status == HTTPStatus.NOT_FOUND:
        problem = "the vendor does not know this library; check the library id and the base URL"
        return context.error(UnknownLibrary, problem, body)
    message = vendor_error_message(body)
    if message is not None:
        return context.error(RemoteInitiatedServerError, describe_vendor_error(message, context), body)
    if 300 <= status < 400:
        problem = "the vendor redirects to another URL, which is not followed; check the base URL"
        return context.error(BadResponseException, problem, body)
    is_client_error = 400 <= status < 500
    if not is_client_error or status in (HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_MANY_REQUESTS):
        return BadResponseException(
            f"the vendor responded with {_describe_status(status)}; try again later",
            context.collection,
            context.url,
            status,
            context.quote(body),
            _retry_after_seconds(response, now),
        )
    problem = f"the vendor rejected the request with {_describe_status(status)}; a retry will not help"
    return context.error(PermanentVendorError, problem, body)


def error_from_httpx(
    error: httpx.HTTPError | httpx.InvalidURL, context: ResponseContext
) -> RemoteIntegrationException:
    """Return the error for a request that httpx could not complete."""
    can_quote = isinstance(error, _ERRORS_WITHOUT_RESPONSE)
    message = _ERROR_NUMBER.sub("", str(error))
    detail = (excerpt_of(message) if can_quote else context.quote(message)) or type(error).__name__
    if isinstance(error, httpx.TimeoutException):
        return context.error(
            RequestTimedOut, f"the vendor did not respond in time ({type(error).__name__}); try again later"
        )
    if isinstance(error, _CONNECTION_ERRORS):
        problem = f"the connection to the vendor failed: {detail}"
        if can_quote:
            problem += "; check the base URL, and whether this machine may reach it"
        return context.error(ConnectionFailed, problem)
    if isinstance(error, httpx.DecodingError):
        return context.error(BadResponseException, f"the vendor's response cannot be decoded: {detail}")
    return context.error(PermanentVendorError, f"the request cannot be sent to the vendor: {detail}")


def _authentication_problem(response: httpx.Response, now: datetime) -> str:
    """Describe why credentials were refused: the vendor also refuses valid ones if the clock is wrong."""
    vendor_time = _parse_http_date(response.headers.get("Date", ""))
    if vendor_time is None:
        return (
            "the vendor refused the credentials; check the account id and the account key, "
            "and that this machine's clock is correct"
        )
    skew = now - vendor_time
    if abs(skew) > CLOCK_TOLERANCE:
        direction = "ahead of" if skew > timedelta(0) else "behind"
        minutes = round(abs(skew).total_seconds() / 60)
        return (
            f"the vendor refused the request because this machine's clock is {minutes} minutes "
            f"{direction} the vendor's; correct the clock"
        )
    return "the vendor refused the credentials; check the account id and the account key"


def _retry_after_seconds(response: httpx.Response, now: datetime) -> float | None:
    """Return the value of Retry-After, which is a number of seconds or a date."""
    value = response.headers.get("Retry-After", "").strip()
    if re.fullmatch(r"\d{1,9}", value, re.ASCII):
        return float(value)
    moment = _parse_http_date(value)
    return None if moment is None else max(0.0, (moment - now).total_seconds())


def _parse_http_date(text: str) -> datetime | None:
    try:
        moment = parsedate_to_datetime(text)
    except (ValueError, OverflowError):
        return None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _describe_status(status: int) -> str:
    try:
        return f"{status} {HTTPStatus(status).phrase}"
    except ValueError:
        return str(status)
