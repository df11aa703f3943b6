"""One request to the URL of a webhook."""

import time
from dataclasses import dataclass

import httpx

from accession import __version__
from accession.core.errors import InvalidInput
from accession.core.outgoing_http import CheckedTransport, is_allowed_for_operators
from accession.core.sanitize import sanitize
from accession.core.text import clean_text

MAX_URL_LENGTH = 2000
# Of a connection, which is used for many requests. A receiver that responds byte by byte can take as long.
LIFETIME_SECONDS = 60.0

_TIMEOUT = httpx.Timeout(15.0, connect=5.0)
_MAX_RESPONSE_BYTES, _MAX_RESPONSE_LENGTH = 4096, 500
_HEADERS = {
    "Content-Type": "application/json",
    "User-Agent": f"Accession/{__version__}",
    "Accept-Encoding": "identity",
}


@dataclass(frozen=True)
class SendResult:
    """Result of a request; `error` is None if the receiver has accepted it.

    `status` is None without a response, `response` the beginning of its text.
    """

    status: int | None
    duration_ms: int
    response: str | None
    error: str | None

    @property
    def is_gone(self) -> bool:
        """Return whether the receiver wants no requests any more."""
        return self.status == httpx.codes.GONE


def check_url(url: str) -> str:
    """Return the URL without surrounding space.

    Raises:
        InvalidInput: it is not a URL of http or https without credentials.
    """
    url = url.strip()
    try:
        parsed = httpx.URL(url)
    except httpx.InvalidURL:
        parsed = httpx.URL()
    if parsed.scheme not in ("http", "https") or not parsed.host or len(url) > MAX_URL_LENGTH:
        raise InvalidInput(
            "The URL of the webhook is invalid: enter one such as https://program.library.example/accession."
        )
    if parsed.userinfo or parsed.fragment:
        raise InvalidInput(
            "The URL of the webhook contains a user, a password or a fragment: leave it out, because each "
            "request is signed."
        )
    return url


def make_client() -> httpx.Client:
    """Return a client for the requests of about a minute; it follows no redirects and uses no proxy."""
    transport = CheckedTransport(is_allowed_for_operators, lifetime_seconds=LIFETIME_SECONDS)
    return httpx.Client(transport=transport, timeout=_TIMEOUT, headers=_HEADERS, trust_env=False)


def send(client: httpx.Client, url: str, headers: dict[str, str], body: bytes) -> SendResult:
    """Send a request, and read the beginning of the response."""
    start = time.monotonic()
    status = text = error = None
    try:
        with client.stream("POST", url, content=body, headers=headers) as response:
            status = response.status_code
            text = _read_beginning(response)
        if not response.is_success:
            error = _describe_status(status)
    except httpx.TimeoutException:
        error = "The receiver did not respond in time."
    except httpx.HTTPError as failure:
        error = f"The receiver could not be reached: {sanitize(str(failure)) or type(failure).__name__}."
    return SendResult(status, round(1000 * (time.monotonic() - start)), text, error)


def _read_beginning(response: httpx.Response) -> str:
    beginning = b""
    for chunk in response.iter_raw(_MAX_RESPONSE_BYTES):
        beginning += chunk
        if len(beginning) >= _MAX_RESPONSE_BYTES:
            break
    return clean_text(beginning.decode("utf-8", "replace"))[:_MAX_RESPONSE_LENGTH]


def _describe_status(status: int) -> str:
    if httpx.codes.is_redirect(status):
        return f"The receiver responded with the redirect {status}, which is not followed."
    return f"The receiver responded with status {status}."
