"""Prefetch later pages of purchase records while the current page waits for a response of its own.

An import that requests one page after another spends its time waiting for the vendor. Pages that follow
in any case are therefore requested in background threads, and their responses cached until they are due.
"""

import json
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from contextvars import copy_context
from dataclasses import astuple, dataclass, replace
from datetime import datetime
from itertools import islice
from types import TracebackType
from typing import Protocol, TypeAlias

import structlog

from accession.bibliotheca.client import BibliothecaAPI
from accession.bibliotheca.errors import EmptyResponse, RemoteIntegrationException, TransientVendorError
from accession.bibliotheca.marc import MarcPage
from accession.imports.title_lookup import TitleLookup, count_concurrent_requests, look_up_titles
from accession.imports.windows import PageRequest

log = structlog.get_logger(__name__)

# Number of times that the vendor has to send other records, and none where known ones should be.
_CONTROL_REQUESTS = 3


class PrefetchCache(Protocol):
    """A cache of the vendor's responses to pages that are due soon."""

    def pop(self, key: str) -> bytes | None:
        """Remove a response from the cache and return it; None where there is none."""

    def put(self, key: str, response: bytes) -> None:
        """Store a response, for about a minute: an older one might differ from what the vendor has now."""

    def missing(self, keys: Sequence[str]) -> Sequence[str]:
        """Return the keys whose responses are not cached and should be."""


class NullPrefetchCache:
    """A cache that stores nothing and reports nothing as missing, so that nothing is prefetched."""

    def pop(self, key: str) -> bytes | None:
        """Return None."""
        return None

    def put(self, key: str, response: bytes) -> None:
        """Discard the response."""

    def missing(self, keys: Sequence[str]) -> Sequence[str]:
        """Return no key."""
        return ()


SkipKnown: TypeAlias = Callable[[PageRequest, int, Sequence[str]], int | None]
"""Returns how many records of a cached page to leave out, or None if the page is of no use.

Its arguments are the request of the cached page, the number of records read before it, and its keys.
"""


@dataclass(frozen=True)
class _CachedPage:
    """A prefetched response with its request and the number of records that were read before it."""

    request: PageRequest
    records: int
    body: bytes

    def as_bytes(self) -> bytes:
        header = [*astuple(self.request), self.records]
        return json.dumps(header, default=datetime.isoformat).encode() + b"\n" + self.body

    @classmethod
    def from_bytes(cls, data: bytes) -> "_CachedPage":
        header, _, body = data.partition(b"\n")
        start, end, offset, may_be_empty, records = json.loads(header)
        moments = (datetime.fromisoformat(start), datetime.fromisoformat(end))
        return cls(PageRequest(*moments, offset, may_be_empty), records, body)


class Prefetcher:
    """Fetch one page and prefetch others meanwhile.

    Use it as a context manager: on leaving, it waits for all prefetched responses and caches them. A vendor
    error of a prefetched page is ignored here; it recurs when that page is requested itself.
    """

    def __init__(self, api: BibliothecaAPI, cache: PrefetchCache, max_concurrency: int) -> None:
        self._api = api
        self._cache = cache
        self._max_concurrency = max_concurrency
        self._threads = ThreadPoolExecutor(max_concurrency, thread_name_prefix="prefetch")
        self._in_flight: dict[str, tuple[PageRequest, int, Future[bytes]]] = {}

    def __enter__(self) -> "Prefetcher":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._threads as threads:
            if error is not None:
                threads.shutdown(cancel_futures=True)
                return
            for key, (request, records, response) in self._in_flight.items():
                with suppress(RemoteIntegrationException):
                    self._cache.put(key, _CachedPage(request, records, response.result()).as_bytes())

    def fetch_page(
        self, request: PageRequest, upcoming: Iterable[PageRequest], records: int, skip_known: SkipKnown
    ) -> MarcPage:
        """Return the requested page, from the cache where possible.

        On a cache miss, the `upcoming` pages are prefetched too. `records` were read before. `skip_known`
        tells what part of a cached page is the requested one.
        """
        if (cached := self._cache.pop(_cache_key(request))) is not None:
            # A cached response that cannot be parsed is requested again.
            with suppress(TransientVendorError):
                page = self._read_cached(_CachedPage.from_bytes(cached), skip_known)
                if page is not None:
                    return page
        self.prefetch(upcoming, records, concurrent_requests=1)
        return self._api.fetch_marc_page(
            request.start, request.end, request.offset, may_be_empty=request.may_be_empty
        )

    def _read_cached(self, cached: _CachedPage, skip_known: SkipKnown) -> MarcPage | None:
        """Return all or the end of a cached page; None if it is of no use."""
        page = self._api.parse_marc_body(cached.body)
        keys = [record.key for record in page.records]
        known_records = skip_known(cached.request, cached.records, keys)
        return None if known_records is None else replace(page, records=page.records[known_records:])

    def look_up(self, title_ids: Sequence[str], upcoming: Iterable[PageRequest], records: int) -> TitleLookup:
        """Look up titles, and prefetch the `upcoming` pages meanwhile; `records` were read before them."""
        if title_ids:
            concurrent_requests = count_concurrent_requests(len(title_ids))
            self.prefetch(upcoming, records, concurrent_requests=concurrent_requests)
        lookup = look_up_titles(self._api, title_ids)
        for title_id in lookup.missing:
            log.warning("no metadata for a purchased title", title=title_id)
        return lookup

    def prefetch(self, upcoming: Iterable[PageRequest], records: int, *, concurrent_requests: int) -> None:
        """Start to request the `upcoming` pages that are neither cached nor in flight.

        `records` were read before them. `concurrent_requests` is the number of other requests that the
        caller is about to make: together with them there are never more than the maximum in flight.
        """
        allowed = max(0, self._max_concurrency - concurrent_requests)
        if not allowed:
            return
        requests = {_cache_key(request): request for request in islice(upcoming, self._max_concurrency)}
        missing = self._cache.missing([key for key in requests if key not in self._in_flight])
        for key in missing[:allowed]:
            request = requests[key]
            response = self._threads.submit(copy_context().run, self._fetch_body, request)
            self._in_flight[key] = (request, records, response)

    def _fetch_body(self, request: PageRequest) -> bytes:
        return self._api.fetch_marc_body(
            request.start, request.end, request.offset, may_be_empty=request.may_be_empty
        )


def fetch_unless_withdrawn(
    api: BibliothecaAPI, fetch: Callable[[], MarcPage], control: PageRequest | None
) -> MarcPage:
    """Return a page that should have known records; a blank one if the vendor has withdrawn them.

    `control` is a request for other known records. If the vendor sends them, and an empty body for the page,
    then it is not broken.

    Raises:
        EmptyResponse: the page is an empty body, and there is no `control`.
    """
    try:
        return fetch()
    except EmptyResponse:
        if control is None:
            raise
    # A vendor that is broken at times may have been broken each time by chance.
    for _ in range(_CONTROL_REQUESTS):
        api.fetch_marc_page(control.start, control.end, control.offset, may_be_empty=False)
        with suppress(EmptyResponse):
            return fetch()
    return MarcPage(records=(), is_blank=True)


def _cache_key(request: PageRequest) -> str:
    # Requests of the same window differ by their anchor.
    return request.end.isoformat()
