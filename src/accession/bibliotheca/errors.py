"""What can go wrong at the vendor's side: the class alone says whether to retry or to stop."""

from dataclasses import dataclass
from typing import TypeVar

from accession.core.sanitize import harmless

EXCERPT_LENGTH = 200


class RemoteIntegrationException(Exception):
    """The vendor cannot be used this way, and asking again will not help.

    Bad credentials, a wrong library, a refused redirect, a request the vendor does not understand: a
    person has to put it right. The subclasses in `RETRYABLE` are the vendor's own trouble: ask again.

    `collection` is the collection's name, `url` what was asked (it carries no signature), `status` the
    answer's HTTP status or None when there was no answer, `excerpt` the beginning of its body, at most
    200 printable characters, and empty when no word of the answer may stand in an error. `str()` is one
    sentence for a person. It survives pickling.
    """

    def __init__(
        self, problem: str, collection: str = "", url: str = "", status: int | None = None, excerpt: str = ""
    ) -> None:
        # All of them are `args`, from which pickle and Celery make the exception anew.
        super().__init__(problem, collection, url, status, excerpt)
        self.problem = problem
        self.collection = collection
        self.url = url
        self.status = status
        self.excerpt = excerpt

    def __str__(self) -> str:
        subject = f'Collection "{self.collection}": ' if self.collection else ""
        status = f"status {self.status}" if self.status is not None else ""
        place = ", ".join(filter(None, (self.url, status)))
        return f"{subject}{self.problem}{f' ({place})' if place else ''}."


class BadResponseException(RemoteIntegrationException):
    """An answer that is none: a 5xx, "too many requests", HTML, truncated or malformed XML. Ask again.

    `retry_after` is how many seconds the vendor asks to wait, None when it does not say. It is what the
    vendor said, so the caller sets the bound.
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


class RequestTimedOut(RemoteIntegrationException):
    """No whole answer came: a timeout, a refused or a dropped connection. Ask again."""


class RemoteInitiatedServerError(RemoteIntegrationException):
    """The vendor says of itself that it failed: an `<Error>` document, or a blank body of `items`. Ask again.

    "Authentication failed" in such a document is a passing fault of the vendor's and says nothing of
    the credentials: wrong ones are answered with status 401.
    """


RETRYABLE: tuple[type[RemoteIntegrationException], ...] = (
    BadResponseException,
    RequestTimedOut,
    RemoteInitiatedServerError,
)

_Kind = TypeVar("_Kind", bound=RemoteIntegrationException)


@dataclass(frozen=True)
class Origin:
    """Where a body came from: what its errors carry.

    Of a body that is not `quotable` no word stands in any error: it can name patrons, and errors are
    logged and stored.
    """

    collection: str = ""
    url: str = ""
    status: int | None = None
    quotable: bool = True

    def error(self, kind: type[_Kind], problem: str, body: bytes = b"") -> _Kind:
        """An error of `kind` about this answer, with an excerpt of `body`."""
        return kind(problem, self.collection, self.url, self.status, self.quoted(body))

    def quoted(self, text: bytes | str, instead: str = "") -> str:
        """An excerpt of what the answer says, or `instead` when it is not quotable."""
        return excerpt_of(text) if self.quotable else instead

    def cause(self, error: Exception) -> Exception | None:
        """`error` as the cause of one about this answer; None when the answer is not quotable: parsers
        quote what they cannot read, and a traceback prints the causes."""
        return error if self.quotable else None


UNKNOWN_ORIGIN = Origin()


def excerpt_of(body: bytes | str) -> str:
    """The first 200 characters of `body`, fit for a log or a terminal.

    Runs of white space become one space, and what cannot be printed (control characters, escape
    sequences, direction marks, undecodable bytes) becomes U+FFFD.
    """
    start = body[: 20 * EXCERPT_LENGTH]
    text = start.decode("utf-8", "replace") if isinstance(start, bytes) else start
    return harmless(" ".join(text.split()), "\N{REPLACEMENT CHARACTER}")[:EXCERPT_LENGTH]
