"""Errors of the vendor's API: transient ones are worth a retry, permanent ones are not."""

import re
from dataclasses import dataclass
from typing import TypeVar

from accession.core.sanitize import sanitize

EXCERPT_LENGTH = 200
# URL and status at the end of a message, as `RemoteIntegrationException.__str__` writes them.
_REQUEST_OF_MESSAGE = re.compile(r" \((https?://\S+?(, status [0-9]+)?|status [0-9]+)\)\.\Z")


class RemoteIntegrationException(Exception):
    """Base class of everything that can go wrong with a request to the vendor.

    Raise one of its two branches: `TransientVendorError` or `PermanentVendorError`. `str()` is one sentence
    for a person. Errors survive pickling.

    Attributes:
        problem: what failed, why, and what to do, without a full stop.
        collection: name of the collection, or "".
        url: the URL of the request, which contains no signature, or "".
        status: HTTP status of the response, or None if there was no response.
        excerpt: up to 200 printable characters from the start of the response's body. Empty if the body
            may contain personal data.
    """

    def __init__(
        self, problem: str, collection: str = "", url: str = "", status: int | None = None, excerpt: str = ""
    ) -> None:
        # pickle and Celery recreate the exception from `args`.
        super().__init__(problem, collection, url, status, excerpt)
        self.problem = problem
        self.collection = collection
        self.url = url
        self.status = status
        self.excerpt = excerpt

    def __str__(self) -> str:
        status = f"status {self.status}" if self.status is not None else ""
        request = ", ".join(filter(None, (self.url, status)))
        return f"{self.sentence.removesuffix('.')} ({request})." if request else self.sentence

    @property
    def sentence(self) -> str:
        """The message without the request, for a person at a terminal."""
        subject = f'Collection "{self.collection}": ' if self.collection else ""
        return f"{subject}{self.problem}."


class RequestSlotUnavailable(Exception):
    """No request can be sent, because the server that limits their rate is unavailable."""


def problem_of(message: str, collection: str) -> str:
    """Return the problem in the message of an error, without the collection and the request.

    `message` is `str()` of an error of this module; any other text is returned unchanged, apart from a
    capital letter at its start.
    """
    text = _REQUEST_OF_MESSAGE.sub(".", message.removeprefix(f'Collection "{collection}": '))
    return text[:1].upper() + text[1:]


class TransientVendorError(RemoteIntegrationException):
    """A failure on the vendor's side or on the way there: the same request may succeed later."""


class PermanentVendorError(RemoteIntegrationException):
    """A request that fails until a person changes the configuration or the code: do not retry it."""


class BadResponseException(TransientVendorError):
    """An unusable response: a 5xx status, "too many requests", HTML, or malformed or truncated XML.

    Attributes:
        retry_after: seconds to wait according to the vendor, or None. The value is not limited.
    """

    def __init__(
        self,
        problem: str,
        collection: str = "",
        url: str = "",
        status: int | None = None,
        excerpt: str = "",
        retry_after: float | None = None,
    ) -> None:
        super().__init__(problem, collection, url, status, excerpt)
        self.args = (*self.args, retry_after)
        self.retry_after = retry_after


class RequestTimedOut(TransientVendorError):
    """A connection or a complete response that did not arrive in time."""


class ConnectionFailed(TransientVendorError):
    """A connection to the vendor that was refused, could not be established, or broke."""


class RemoteInitiatedServerError(TransientVendorError):
    """A failure that the vendor reports itself: an `<Error>` document, or an empty body from `items`.

    The message "Authentication failed" in such a document is a temporary fault of the vendor and does not
    mean that the credentials are wrong: the vendor rejects wrong credentials with status 401.
    """


class EmptyResponse(RemoteInitiatedServerError):
    """An empty body instead of purchases or events, of which at least one is known."""


class AuthenticationFailed(PermanentVendorError):
    """A request that the vendor rejected with status 401 or 403."""


class UnknownLibrary(PermanentVendorError):
    """A request that the vendor answered with status 404."""


_ErrorType = TypeVar("_ErrorType", bound=RemoteIntegrationException)


@dataclass(frozen=True)
class ResponseContext:
    """Request and response that an error is about.

    Attributes:
        collection: name of the collection, or "".
        url: the URL of the request, or "".
        status: HTTP status, or None if there was no response.
        contains_personal_data: whether the body can name patrons. Errors are logged and stored, so they
            then quote nothing from it.
    """

    collection: str = ""
    url: str = ""
    status: int | None = None
    contains_personal_data: bool = False

    def error(self, error_type: type[_ErrorType], problem: str, body: bytes = b"") -> _ErrorType:
        """Return an error of this type about the response, with an excerpt of `body`."""
        return error_type(problem, self.collection, self.url, self.status, self.quote(body))

    def quote(self, text: bytes | str, replacement: str = "") -> str:
        """Return an excerpt of text from the response, or `replacement` if it can contain personal data."""
        return replacement if self.contains_personal_data else excerpt_of(text)

    def cause(self, error: Exception) -> Exception | None:
        """Return `error` for use in `raise ... from`, or None if the response can contain personal data.

        Parsers quote what they cannot parse, and a traceback prints the messages of all causes.
        """
        return None if self.contains_personal_data else error


UNKNOWN_CONTEXT = ResponseContext()


def excerpt_of(body: bytes | str) -> str:
    """Return the first 200 characters of `body` in a form that is safe in logs and terminals.

    White space is collapsed. What cannot be printed (control characters, escape sequences, direction marks,
    undecodable bytes) becomes U+FFFD.
    """
    start = body[: 20 * EXCERPT_LENGTH]
    text = start.decode("utf-8", "replace") if isinstance(start, bytes) else start
    return sanitize(" ".join(text.split()), "\N{REPLACEMENT CHARACTER}")[:EXCERPT_LENGTH]
