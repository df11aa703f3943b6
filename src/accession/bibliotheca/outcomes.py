"""Endpoints of the vendor's API and the outcomes of requests to them, as metrics count them."""

from collections.abc import Callable
from enum import StrEnum

from accession.bibliotheca.errors import (
    BadResponseException,
    ConnectionFailed,
    RemoteInitiatedServerError,
    RemoteIntegrationException,
    RequestTimedOut,
)


class Endpoint(StrEnum):
    """An endpoint of the vendor's API, named after its path."""

    MARC = "marc"
    ITEMS = "items"
    EVENTS = "cloudevents"


class RequestOutcome(StrEnum):
    """Result of a request: success, or the kind of vendor error."""

    OK = "ok"
    REFUSED = "refused"
    BAD_RESPONSE = "bad_response"
    TIMEOUT = "timeout"
    CONNECTION = "connection"
    SERVER_ERROR = "server_error"


CountRequest = Callable[[Endpoint, RequestOutcome, float], object]
"""Callback for each completed request: its endpoint, its outcome, and its duration in seconds."""

_TRANSIENT_OUTCOMES = {
    BadResponseException: RequestOutcome.BAD_RESPONSE,
    RequestTimedOut: RequestOutcome.TIMEOUT,
    ConnectionFailed: RequestOutcome.CONNECTION,
    RemoteInitiatedServerError: RequestOutcome.SERVER_ERROR,
}


def ignore_request(endpoint: Endpoint, outcome: RequestOutcome, seconds: float) -> None:
    """Count nothing: the default `CountRequest`."""


def outcome_of_error(error: RemoteIntegrationException) -> RequestOutcome:
    """Return the outcome of a request that raised this error; permanent errors count as refused."""
    for error_type, outcome in _TRANSIENT_OUTCOMES.items():
        if isinstance(error, error_type):
            return outcome
    return RequestOutcome.REFUSED
