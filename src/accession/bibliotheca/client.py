"""Client of the vendor's HTTP API: signed requests, limited responses, one tree of errors."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from time import perf_counter
from typing import TypeVar
from urllib.parse import quote

import httpx
import structlog

from accession import __version__
from accession.accounts.account import Account
from accession.bibliotheca.connection_pool import READ_TIMEOUT_SECONDS, request_timeout, vendor_transport
from accession.bibliotheca.error_mapping import error_from_httpx, error_from_response
from accession.bibliotheca.errors import (
    UNKNOWN_CONTEXT,
    BadResponseException,
    EmptyResponse,
    RemoteIntegrationException,
    ResponseContext,
    TransientVendorError,
)
from accession.bibliotheca.events import EventsResponse, parse_events
from accession.bibliotheca.items import ItemsResponse, parse_items
from accession.bibliotheca.marc import MarcPage, parse_marc_page
from accession.bibliotheca.outcomes import (
    CountRequest,
    Endpoint,
    RequestOutcome,
    ignore_request,
    outcome_of_error,
)
from accession.bibliotheca.response_body import Deadline, read_body
from accession.bibliotheca.signing import sign_request
from accession.bibliotheca.xml import is_blank
from accession.core.clock import truncate_to_second, utc_now

log = structlog.get_logger(__name__)

_Result = TypeVar("_Result")

_HEADERS = {
    "Accept": "application/xml",
    "Accept-Encoding": "gzip",
    "Connection": "keep-alive",
    "User-Agent": f"accession/{__version__}",
}

PAGE_SIZE = 50
MAX_ITEMS = 25
# The vendor answers wider windows with wrong events (NYPL-Simplified/circulation, 9018dcccf).
MAX_EVENTS_WINDOW = timedelta(hours=72)
IMMEDIATE_RETRIES = 2
# A request that failed slowly is not repeated at once: the vendor may be overloaded.
_IMMEDIATE_RETRY_LIMIT = timedelta(seconds=10)


@dataclass(frozen=True)
class _RequestSpec:
    """One request, before it is signed.

    Attributes:
        path: relative to the library, with the query.
        contains_personal_data: whether the response can name patrons.
        expected: what the response must contain, so that an empty body is an error; None if it may be empty.
    """

    endpoint: Endpoint
    path: str
    contains_personal_data: bool = False
    expected: str | None = None


@dataclass(frozen=True)
class _Response:
    """Body of a response with status 200."""

    body: bytes = field(repr=False)
    context: ResponseContext


@dataclass
class _Timer:
    seconds: float = 0.0

    @contextmanager
    def running(self) -> Iterator[None]:
        started = perf_counter()
        try:
            yield
        finally:
            self.seconds = perf_counter() - started


class BibliothecaAPI:
    """The vendor's API for one collection.

    Methods raise only `RemoteIntegrationException` for failures of HTTP or XML. A transient failure is
    retried immediately, at most twice, unless the vendor asks to wait or the request was slow. Later retries
    are up to the caller. Instances may be shared by threads.

    Args:
        account: the account to sign requests with.
        transport: sends the requests; by default with this process's connection pool.
        clock: returns the current time.
        timeout_seconds: how long the vendor may stay silent. A complete response may take twice as long.
        request_slot: returns the context manager within which each request is sent, for rate limiting. It
            may raise `RequestSlotUnavailable`.
        count_request: called for each completed request. Its duration excludes the wait for a slot.
    """

    def __init__(
        self,
        account: Account,
        transport: httpx.BaseTransport | None = None,
        clock: Callable[[], datetime] = utc_now,
        *,
        timeout_seconds: float = READ_TIMEOUT_SECONDS,
        request_slot: Callable[[], AbstractContextManager[object]] = nullcontext,
        count_request: CountRequest = ignore_request,
    ) -> None:
        self._account = account
        self._transport = vendor_transport() if transport is None else transport
        self._clock = clock
        self._timeout_seconds = timeout_seconds
        self._request_slot = request_slot
        self._count_request = count_request

    def fetch_marc_page(
        self,
        start: datetime,
        end: datetime,
        offset: int = 1,
        limit: int = PAGE_SIZE,
        *,
        may_be_empty: bool = True,
    ) -> MarcPage:
        """Return up to `limit` (1 to 50) purchase records of the window `[start, end)`.

        `start` and `end` need a time zone and are truncated to seconds. `offset` is 1-based. The vendor
        sends an empty body for a window without records, but also while it is broken. It is a page with
        `is_blank`, or an error unless `may_be_empty`.

        Raises:
            ValueError: an argument is out of range.
        """
        spec = _marc_request(start, end, offset, limit, may_be_empty=may_be_empty)

        def parse(response: _Response) -> MarcPage:
            return self.parse_marc_body(response.body, response.context)

        return self._retry_immediately(lambda: self._fetch(spec, parse))

    def fetch_marc_body(
        self, start: datetime, end: datetime, offset: int = 1, *, may_be_empty: bool = True
    ) -> bytes:
        """Return the body of a full page for `parse_marc_body`.

        The request counts as successful although the body is not parsed yet.
        """
        spec = _marc_request(start, end, offset, PAGE_SIZE, may_be_empty=may_be_empty)
        return self._retry_immediately(lambda: self._fetch(spec, lambda response: response.body))

    @staticmethod
    def parse_marc_body(body: bytes, context: ResponseContext = UNKNOWN_CONTEXT) -> MarcPage:
        """Return the page in a body from `fetch_marc_body`; raise the errors of `fetch_marc_page`."""
        return MarcPage(records=(), is_blank=True) if is_blank(body) else parse_marc_page(body, context)

    def fetch_events(self, start: datetime, end: datetime, *, may_be_empty: bool = True) -> EventsResponse:
        """Return the circulation events of the window `[start, end)`, which is 1 second to 72 hours wide.

        The vendor silently truncates responses at 100 to 150 events (NYPL-Simplified/circulation,
        5b6ab6fcf). `start` and `end` need a time zone and are truncated to seconds. An empty body is a
        response with `is_blank`, or an error unless `may_be_empty`. Errors never quote the response, because
        events name patrons.

        Raises:
            ValueError: the window is empty or too wide.
        """
        if not timedelta() < _to_utc_second(end) - _to_utc_second(start) <= MAX_EVENTS_WINDOW:
            raise ValueError("The window of events must be at least 1 second and at most 72 hours wide.")
        query = f"startdate={_format_date(start)}&enddate={_format_date(end)}"
        spec = _RequestSpec(
            Endpoint.EVENTS,
            f"data/cloudevents?{query}",
            contains_personal_data=True,
            expected=None if may_be_empty else "events",
        )

        def parse(response: _Response) -> EventsResponse:
            if is_blank(response.body):
                return EventsResponse(events=(), faults=(), is_blank=True)
            return parse_events(response.body, response.context)

        return self._retry_immediately(lambda: self._fetch(spec, parse))

    def fetch_items(self, ids: Sequence[str]) -> ItemsResponse:
        """Return metadata and copy counts of 1 to 25 titles.

        Pass only ids that `is_item_id` accepts: one malformed id can make the whole response unusable.

        Raises:
            ValueError: there are no ids, too many, or a blank one.
        """
        if not 1 <= len(ids) <= MAX_ITEMS or not all(item_id.strip() for item_id in ids):
            raise ValueError(f"Pass 1 to {MAX_ITEMS} item ids, none of them blank.")
        spec = _RequestSpec(Endpoint.ITEMS, f"items/{','.join(_quote_segment(item_id) for item_id in ids)}")

        def fetch() -> ItemsResponse:
            as_of = self._clock()
            return self._fetch(spec, lambda response: parse_items(response.body, as_of, response.context))

        return self._retry_immediately(fetch)

    def _retry_immediately(self, fetch: Callable[[], _Result]) -> _Result:
        retry_until = self._clock() + _IMMEDIATE_RETRY_LIMIT
        for _ in range(IMMEDIATE_RETRIES):
            try:
                return fetch()
            except TransientVendorError as error:
                if _asks_to_wait(error) or self._clock() > retry_until:
                    raise
                log.info("retrying invalid response", reason=str(error))
        return fetch()

    def _fetch(self, spec: _RequestSpec, parse: Callable[[_Response], _Result]) -> _Result:
        """Send one request, parse its response, and count the outcome."""
        timer = _Timer()
        try:
            response = self._send(spec, timer)
            if spec.expected is not None and is_blank(response.body):
                raise response.context.error(
                    EmptyResponse,
                    f"the vendor sent an empty response for a time span with {spec.expected}",
                )
            result = parse(response)
        except RemoteIntegrationException as error:
            self._count_request(spec.endpoint, outcome_of_error(error), timer.seconds)
            raise
        self._count_request(spec.endpoint, RequestOutcome.OK, timer.seconds)
        return result

    def _send(self, spec: _RequestSpec, timer: _Timer) -> _Response:
        account = self._account
        path = f"/cirrus/library/{_quote_segment(account.library_id)}/{spec.path}"
        url = account.base_url.rstrip("/") + path
        context = ResponseContext(account.collection, url, contains_personal_data=spec.contains_personal_data)
        try:
            with self._request_slot(), timer.running():
                deadline = Deadline.after(timedelta(seconds=2 * self._timeout_seconds), self._clock)
                request = self._build_request(url)
                with closing(self._transport.handle_request(request)) as response:
                    context = replace(context, status=response.status_code)
                    body = read_body(response, context, deadline)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise error_from_httpx(error, context) from context.cause(error)
        if response.status_code != HTTPStatus.OK:
            raise error_from_response(response, body, context, self._clock())
        return _Response(body, context)

    def _build_request(self, url: str) -> httpx.Request:
        timeout = request_timeout(self._timeout_seconds)
        request = httpx.Request("GET", url, headers=_HEADERS, extensions={"timeout": timeout.as_dict()})
        sign_request(request, self._account, self._clock())
        return request


def _asks_to_wait(error: TransientVendorError) -> bool:
    is_too_many_requests = error.status == HTTPStatus.TOO_MANY_REQUESTS
    return is_too_many_requests or (isinstance(error, BadResponseException) and error.retry_after is not None)


def _marc_request(
    start: datetime, end: datetime, offset: int, limit: int, *, may_be_empty: bool
) -> _RequestSpec:
    if offset < 1 or not 1 <= limit <= PAGE_SIZE:
        raise ValueError(f"The offset must be 1 or more and the limit 1 to {PAGE_SIZE}: {offset}, {limit}.")
    query = f"startdate={_format_date(start)}&enddate={_format_date(end)}&offset={offset}&limit={limit}"
    expected = None if may_be_empty else "purchases"
    return _RequestSpec(Endpoint.MARC, f"data/marc?{query}", expected=expected)


def _to_utc_second(moment: datetime) -> datetime:
    if moment.tzinfo is None:
        raise ValueError("The start and the end of a window need a time zone.")
    return truncate_to_second(moment.astimezone(UTC))


def _format_date(moment: datetime) -> str:
    return _to_utc_second(moment).replace(tzinfo=None).isoformat()


def _quote_segment(segment: str) -> str:
    """Percent-encode one path segment, including "." and "..", which would otherwise be resolved."""
    quoted = quote(segment, safe="")
    return quoted if quoted.strip(".") else quoted.replace(".", "%2E")
