"""The vendor's API over HTTP: every request signed, every answer bounded, every failure in the hierarchy."""

import base64
import hmac
import os
import re
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime, parsedate_to_datetime
from enum import StrEnum
from functools import cache, partial
from http import HTTPStatus
from http.cookiejar import CookieJar, DefaultCookiePolicy
from time import perf_counter
from typing import TypeVar, cast
from urllib.parse import quote

import httpx
import structlog
from pydantic import SecretStr

from accession import __version__
from accession.accounts.account import Account
from accession.bibliotheca.errors import (
    AuthenticationFailed,
    BadResponseException,
    ConnectionFailed,
    PermanentVendorError,
    RemoteInitiatedServerError,
    RemoteIntegrationException,
    RequestTimedOut,
    ResponseContext,
    TransientVendorError,
    UnknownLibrary,
    excerpt_of,
)
from accession.bibliotheca.events import EventsAnswer, parse_events
from accession.bibliotheca.items import ItemsAnswer, parse_items
from accession.bibliotheca.marc import MarcPage, parse_marc_page
from accession.bibliotheca.xml import error_problem, is_blank, reported_error
from accession.core.clock import truncate_to_second, utc_now

log = structlog.get_logger(__name__)


_Answered = TypeVar("_Answered")


PAGE_SIZE = 50


MOST_ITEMS = 25


# Wider windows are answered with spurious results (NYPL-Simplified/circulation, 9018dcccf).
WIDEST_EVENTS_WINDOW = timedelta(hours=72)


CLOCK_TOLERANCE = timedelta(minutes=5)


TIMEOUT_SECONDS = 60.0


_CONNECT_TIMEOUT_SECONDS = 10.0


ASK_AGAIN_TIMES = 2


ASK_AGAIN_WITHIN = timedelta(seconds=10)


LARGEST_BODY = 20 * 1024 * 1024


# Of an answer that only says what is wrong, more is not read.
_LARGEST_ERROR_BODY = 64 * 1024


# A kilobyte on the wire can be a megabyte.
_UNPACKED_AT_ONCE = 64 * 1024


_GZIP = zlib.MAX_WBITS | 16


@cache
def http_client() -> httpx.Client:
    """This process's pool of connections, shared by all collections.

    It takes proxies and certificates from the environment as other programs do, but never goes through
    a proxy to this machine, and keeps no cookies: one account's must not travel with another's request.
    """
    return httpx.Client(
        timeout=_timeout(TIMEOUT_SECONDS),
        follow_redirects=False,
        cookies=CookieJar(DefaultCookiePolicy(allowed_domains=())),
        headers={"User-Agent": f"accession/{__version__}"},
        mounts={f"all://{host}": None for host in ("localhost", "127.0.0.1", "[::1]")},
    )


def _timeout(seconds: float) -> httpx.Timeout:
    return httpx.Timeout(seconds, connect=min(seconds, _CONNECT_TIMEOUT_SECONDS))


# A connection shared with the parent after a fork would mix up their answers.
os.register_at_fork(after_in_child=http_client.cache_clear)


def signature(account_key: SecretStr, moment: str, method: str, path: str) -> str:
    """What the vendor expects for a request made at `moment` (RFC 1123) to `path` with its query, as sent."""
    message = f"{moment}\n{method}\n{path}".encode()
    return base64.b64encode(hmac.digest(account_key.get_secret_value().encode(), message, "sha256")).decode()


class Endpoint(StrEnum):
    """What the vendor can be asked, by the last word of its path."""

    MARC = "marc"
    ITEMS = "items"
    EVENTS = "cloudevents"


class Outcome(StrEnum):
    """How a request ended: a word for each class of `bibliotheca.errors`, two for `RequestTimedOut`."""

    OK = "ok"
    REFUSED = "refused"
    BAD_RESPONSE = "bad_response"
    TIMEOUT = "timeout"
    CONNECTION = "connection"
    """There was none, or it broke."""
    SERVER_ERROR = "server_error"


_OUTCOMES = {
    PermanentVendorError: Outcome.REFUSED,
    AuthenticationFailed: Outcome.REFUSED,
    UnknownLibrary: Outcome.REFUSED,
    ConnectionFailed: Outcome.CONNECTION,
    BadResponseException: Outcome.BAD_RESPONSE,
    RequestTimedOut: Outcome.TIMEOUT,
    RemoteInitiatedServerError: Outcome.SERVER_ERROR,
}


# Is told of each request how it ended, and after how many seconds.
CountRequest = Callable[[Endpoint, Outcome, float], object]


def count_nothing(endpoint: Endpoint, outcome: Outcome, seconds: float) -> None:
    """A `CountRequest` for whoever does not count."""


@dataclass(frozen=True)
class _Call:
    """A question: a path below the library with its query. Errors repeat nothing of an answer that is not
    `quotable`."""

    endpoint: Endpoint
    path: str
    quotable: bool = True


@dataclass(frozen=True)
class _Answer:
    body: bytes = field(repr=False)
    context: ResponseContext
    requests: int = 1


@dataclass
class _Request:
    """What is to be counted of a request."""

    unconnected: bool = False
    seconds: float = 0.0

    @contextmanager
    def timed(self) -> Iterator[None]:
        began = perf_counter()
        try:
            yield
        finally:
            self.seconds = perf_counter() - began

    def failed_as(self, error: RemoteIntegrationException) -> Outcome:
        return Outcome.CONNECTION if self.unconnected else _OUTCOMES[type(error)]


class BibliothecaAPI:
    """What one collection can ask the vendor.

    Every call raises the hierarchy of `bibliotheca.errors` and nothing else of HTTP or XML: retry the
    classes of `TransientVendorError` later, stop on any other. An answer that was spoilt in a way that need not come
    again is asked for again at once, twice at most; never when the vendor asks to wait, or was slow.

    The vendor may be silent for `timeout_seconds`, and take twice as long for a whole answer. Each request
    is made within the context of a `turn`, so that the vendor is not asked for more at once than it likes,
    and is counted by one call of `count`, without the time that its turn was waited for. One
    `BibliothecaAPI` may be asked by several threads at once.
    """

    def __init__(
        self,
        account: Account,
        http: httpx.Client | None = None,
        clock: Callable[[], datetime] = utc_now,
        *,
        timeout_seconds: float = TIMEOUT_SECONDS,
        turn: Callable[[], AbstractContextManager[object]] = nullcontext,
        count: CountRequest = count_nothing,
    ) -> None:
        self._account = account
        self._http = http_client() if http is None else http
        self._clock = clock
        self._timeout_seconds = timeout_seconds
        self._turn = turn
        self._count = count

    def marc_page(self, start: datetime, end: datetime, offset: int = 1, limit: int = PAGE_SIZE) -> MarcPage:
        """At most `limit` (1 to 50) purchase records of `[start, end)`, from the 1-based `offset` on.

        Both moments carry a time zone and are asked for in whole seconds. The vendor says "nothing here"
        with a blank body, which is believed when it comes twice. `ValueError` for arguments out of range.
        """
        call = _marc_call(start, end, offset, limit)
        return self._ask(lambda: self._marc_page(call))

    def _marc_page(self, call: _Call) -> MarcPage:
        page = self._get_unless_blank_twice(
            call, lambda answer: parse_marc_page(answer.body, answer.context, answer.requests)
        )
        return page or MarcPage(records=(), repaired=False, requests=2)

    def marc_body(self, start: datetime, end: datetime, offset: int = 1) -> bytes:
        """What the vendor answers to `marc_page` with these arguments, for `read_marc_page`; empty when it
        says that nothing is there. It counts as well answered though nobody has read it yet."""
        call = _marc_call(start, end, offset, PAGE_SIZE)
        return self._ask(lambda: self._get_unless_blank_twice(call, lambda answer: answer.body)) or b""

    @staticmethod
    def read_marc_page(body: bytes) -> MarcPage:
        """The page that an answer of `marc_body` holds; raises what its reading by `marc_page` would."""
        return parse_marc_page(body) if body else MarcPage(records=(), repaired=False, requests=2)

    def events(self, start: datetime, end: datetime) -> EventsAnswer:
        """The circulation events of `[start, end)`, 72 hours at most, as far as the vendor tells them: it
        cuts an answer at 100 to 150 events without a word (NYPL-Simplified/circulation, 5b6ab6fcf).

        Both moments carry a time zone and are asked for in whole seconds. A blank body that comes twice is
        believed: nothing happened. `ValueError` for a window that is empty, in whole seconds, or too wide.
        No error repeats what the vendor answered, for events name patrons.
        """
        if not timedelta() < _second(end) - _second(start) <= WIDEST_EVENTS_WINDOW:
            raise ValueError("A window of events is at least a second and at most 72 hours wide.")
        query = f"startdate={_date(start)}&enddate={_date(end)}"
        call = _Call(Endpoint.EVENTS, f"data/cloudevents?{query}", quotable=False)
        return self._ask(lambda: self._events(call))

    def _events(self, call: _Call) -> EventsAnswer:
        told = self._get_unless_blank_twice(
            call, lambda answer: parse_events(answer.body, answer.context, answer.requests)
        )
        return told or EventsAnswer(events=(), faults=(), requests=2)

    def items(self, ids: Sequence[str]) -> ItemsAnswer:
        """What the vendor says of these titles (1 to 25 ids, none blank; `ValueError` otherwise).

        Ask only for what `is_item_id` accepts: one odd id can spoil the answer for the others.
        """
        if not 1 <= len(ids) <= MOST_ITEMS or not all(item_id.strip() for item_id in ids):
            raise ValueError(f"Ask for 1 to {MOST_ITEMS} item ids, none of them blank.")
        call = _Call(Endpoint.ITEMS, f"items/{','.join(_quoted(item_id) for item_id in ids)}")
        return self._ask(lambda: self._items(call))

    def _items(self, call: _Call) -> ItemsAnswer:
        as_of = self._clock()
        return self._get(call, lambda answer: parse_items(answer.body, as_of, answer.context))

    def _ask(self, call: Callable[[], _Answered]) -> _Answered:
        """What the call returns; tried again at once where a second answer may well be a good one."""
        hurry_until = self._clock() + ASK_AGAIN_WITHIN
        for _ in range(ASK_AGAIN_TIMES):
            try:
                return call()
            except TransientVendorError as error:
                if _asks_to_wait(error) or self._clock() > hurry_until:
                    raise
                log.info("a spoilt answer is asked for again", reason=str(error))
        return call()

    def _get_unless_blank_twice(self, call: _Call, read: Callable[[_Answer], _Answered]) -> _Answered | None:
        """What `read` makes of the answer to `call`; None when it is blank twice running, which is how the
        vendor says that there is nothing."""

        def read_unless_blank(answer: _Answer, requests: int) -> _Answered | None:
            return None if is_blank(answer.body) else read(replace(answer, requests=requests))

        for requests in (1, 2):
            found = self._get(call, partial(read_unless_blank, requests=requests))
            if found is not None:
                return found
        return None

    def _get(self, call: _Call, read: Callable[[_Answer], _Answered]) -> _Answered:
        """What `read` makes of the answer to `call`; how that ended is counted."""
        request = _Request()
        try:
            found = read(self._answer(call, request))
        except RemoteIntegrationException as error:
            self._count(call.endpoint, request.failed_as(error), request.seconds)
            raise
        self._count(call.endpoint, Outcome.OK, request.seconds)
        return found

    def _answer(self, call: _Call, request: _Request) -> _Answer:
        """The body of a 200 answer to `call`."""
        account = self._account
        path = f"/cirrus/library/{_quoted(account.library_id)}/{call.path}"
        url = account.base_url.rstrip("/") + path
        context = ResponseContext(account.collection, url, contains_personal_data=not call.quotable)
        try:
            with self._turn(), request.timed():
                deadline = self._clock() + self._whole_answer_limit
                signed = self._signed_request(url)
                with closing(
                    self._http.send(signed, stream=True, auth=None, follow_redirects=False)
                ) as response:
                    context = replace(context, status=response.status_code)
                    body = self._body(response, context, deadline)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            request.unconnected = isinstance(error, _UNCONNECTED)
            raise _translated(error, context) from context.cause(error)
        if response.status_code != HTTPStatus.OK:
            raise self._refusal(response, body, context)
        return _Answer(body, context)

    def _signed_request(self, url: str) -> httpx.Request:
        request = self._http.build_request("GET", url, timeout=_timeout(self._timeout_seconds))
        moment = format_datetime(self._clock().astimezone(UTC), usegmt=True)
        # Signed is what httpx sends, whatever it made of the URL.
        signed = signature(self._account.account_key, moment, request.method, request.url.raw_path.decode())
        request.headers.update(
            {
                "Accept": "application/xml",
                "Accept-Encoding": "gzip",
                "3mcl-Version": "2.0",
                "3mcl-Datetime": moment,
                "3mcl-Authorization": f"3MCLAUTH {self._account.account_id}:{signed}",
            }
        )
        return request

    @property
    def _whole_answer_limit(self) -> timedelta:
        return timedelta(seconds=2 * self._timeout_seconds)

    def _body(self, response: httpx.Response, context: ResponseContext, deadline: datetime) -> bytes:
        """The decompressed body, bounded in size and in time; of a refusal its beginning."""
        succeeded = response.status_code == HTTPStatus.OK
        largest = LARGEST_BODY if succeeded else _LARGEST_ERROR_BODY
        body = bytearray()
        for chunk in _unpacked(response, context):
            body += chunk
            if len(body) > largest:
                if not succeeded:
                    break
                size = f"{LARGEST_BODY // 1024**2} MiB"
                raise context.error(
                    BadResponseException, f"the vendor's answer is larger than {size}", bytes(body)
                )
            if self._clock() > deadline:
                seconds = f"{self._whole_answer_limit.total_seconds():.0f} seconds"
                raise context.error(
                    RequestTimedOut, f"the vendor's answer took longer than {seconds}", bytes(body)
                )
        return bytes(body)

    def _refusal(
        self, response: httpx.Response, body: bytes, context: ResponseContext
    ) -> RemoteIntegrationException:
        """The error that an answer with a status other than 200 means."""
        status = response.status_code
        if status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
            return context.error(AuthenticationFailed, self._credentials_problem(response), body)
        if status == HTTPStatus.NOT_FOUND:
            problem = "the vendor does not know this library; check the library id and the base URL"
            return context.error(UnknownLibrary, problem, body)
        complaint = reported_error(body)
        if complaint is not None:
            return context.error(RemoteInitiatedServerError, error_problem(complaint, context), body)
        if 300 <= status < 400:
            problem = "the vendor redirects to another address, which is refused; check the base URL"
            return context.error(BadResponseException, problem, body)
        retryable = status < 400 or status >= 500
        if retryable or status in (HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_MANY_REQUESTS):
            return BadResponseException(
                f"the vendor answered {_status_text(status)}; try again later",
                context.collection,
                context.url,
                status,
                context.quote(body),
                self._retry_after(response),
            )
        problem = f"the vendor refused the request with {_status_text(status)}; asking again will not help"
        return context.error(PermanentVendorError, problem, body)

    def _credentials_problem(self, response: httpx.Response) -> str:
        """Why the vendor does not let us in: it also refuses a good signature whose date is off."""
        said = _http_date(response.headers.get("Date", ""))
        if said is None:
            return (
                "the vendor refused the credentials; check the account id and the account key, "
                "and that this machine's clock is right"
            )
        skew = self._clock() - said
        if abs(skew) > CLOCK_TOLERANCE:
            direction = "ahead of" if skew > timedelta(0) else "behind"
            minutes = round(abs(skew).total_seconds() / 60)
            return (
                f"the vendor refused the request because this machine's clock is {minutes} minutes "
                f"{direction} the vendor's; set the clock right"
            )
        return "the vendor refused the credentials; check the account id and the account key"

    def _retry_after(self, response: httpx.Response) -> float | None:
        """Seconds to wait, from either form of the header."""
        said = response.headers.get("Retry-After", "").strip()
        if re.fullmatch(r"\d{1,9}", said, re.ASCII):
            return float(said)
        moment = _http_date(said)
        return None if moment is None else max(0.0, (moment - self._clock()).total_seconds())


def _unpacked(response: httpx.Response, context: ResponseContext) -> Iterator[bytes]:
    """The body piece by piece, none of them large, decompressed where the answer says that it is gzip.

    Raises `BadResponseException` where it is not, or ends early. httpx unpacks as well, but all that comes
    at once, however much that is, and takes the early end for the end: a blank body, if it is early enough.
    """
    packed = cast(Iterable[bytes], response.stream)
    encoding = response.headers.get("Content-Encoding", "").strip().lower()
    if "," in encoding:
        raise context.error(
            BadResponseException, "the vendor sent an answer that is compressed more than once"
        )
    if encoding not in ("gzip", "x-gzip"):
        yield from packed
        return
    unzip, begun = zlib.decompressobj(_GZIP), False
    for piece in packed:
        begun = begun or bool(piece)
        try:
            yield b"" if unzip.eof else unzip.decompress(piece, _UNPACKED_AT_ONCE)
            while unzip.unconsumed_tail:
                yield unzip.decompress(unzip.unconsumed_tail, _UNPACKED_AT_ONCE)
        except zlib.error as error:
            problem = "the vendor's answer is damaged: it is not the gzip that it says it is"
            raise context.error(BadResponseException, problem) from context.cause(error)
    yield unzip.flush()
    if begun and not unzip.eof:
        raise context.error(BadResponseException, "the vendor's answer is damaged: its gzip ends early")


def _asks_to_wait(error: RemoteIntegrationException) -> bool:
    too_many = error.status == HTTPStatus.TOO_MANY_REQUESTS
    return too_many or (isinstance(error, BadResponseException) and error.retry_after is not None)


_UNCONNECTED = (httpx.NetworkError, httpx.ProxyError, httpx.RemoteProtocolError)


def _translated(
    error: httpx.HTTPError | httpx.InvalidURL, context: ResponseContext
) -> RemoteIntegrationException:
    # Without a connection the vendor has said nothing; what is wrong with an answer is told with its bytes.
    unconnected = isinstance(error, httpx.ConnectError | httpx.ProxyError)
    detail = (excerpt_of(str(error)) if unconnected else context.quote(str(error))) or type(error).__name__
    match error:
        case httpx.TimeoutException():
            return context.error(
                RequestTimedOut, f"the vendor did not answer in time: {type(error).__name__}"
            )
        case _ if isinstance(error, _UNCONNECTED):
            return context.error(ConnectionFailed, f"the connection to the vendor failed: {detail}")
        case httpx.DecodingError():
            return context.error(BadResponseException, f"the vendor's answer is damaged: {detail}")
        case _:
            return context.error(PermanentVendorError, f"the vendor cannot be asked this way: {detail}")


def _marc_call(start: datetime, end: datetime, offset: int, limit: int) -> _Call:
    if offset < 1 or not 1 <= limit <= PAGE_SIZE:
        raise ValueError(f"An offset is 1 or more and a limit 1 to {PAGE_SIZE}, not {offset} and {limit}.")
    query = f"startdate={_date(start)}&enddate={_date(end)}&offset={offset}&limit={limit}"
    return _Call(Endpoint.MARC, f"data/marc?{query}")


def _second(moment: datetime) -> datetime:
    """`moment` as the vendor is asked for it: in UTC, without its fraction of a second."""
    if moment.tzinfo is None:
        raise ValueError("A window is between moments that carry a time zone.")
    return truncate_to_second(moment.astimezone(UTC))


def _date(moment: datetime) -> str:
    return _second(moment).replace(tzinfo=None).isoformat()


def _http_date(text: str) -> datetime | None:
    try:
        moment = parsedate_to_datetime(text)
    except (ValueError, OverflowError):
        return None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _quoted(segment: str) -> str:
    """`segment` as one part of a path, also when it is made of dots, which alone mean "this" and "up"."""
    quote = quote(segment, safe="")
    return quote if quote.strip(".") else quote.replace(".", "%2E")


def _status_text(status: int) -> str:
    try:
        return f"{status} {HTTPStatus(status).phrase}"
    except ValueError:
        return str(status)
