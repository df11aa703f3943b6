"""Prefetch later pages of purchase records while the current page waits for a response of its own.

An import that requests one page after another spends its time waiting for the vendor. Pages that follow
in any case are therefore requested in background threads, and their responses cached until they are due.
"""

import json
from collections.abc import Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from contextvars import copy_context
from dataclasses import astuple, dataclass, replace
from datetime import datetime
from itertools import islice
from types import TracebackType
from typing import Protocol

from accession.bibliotheca.client import BibliothecaAPI
from accession.bibliotheca.errors import RemoteIntegrationException, TransientVendorError
from accession.bibliotheca.marc import MarcPage
from accession.imports.windows import ImportCursor, PageRequest, Window


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

    def fetch_page(self, cursor: ImportCursor, window: Window, upcoming: Iterable[PageRequest]) -> MarcPage:
        """Return the next page of the window, from the cache where possible.

        On a cache miss, the `upcoming` pages are prefetched too.
        """
        request = cursor.request(window)
        if (cached := self._cache.pop(_cache_key(request))) is not None:
            # A cached response that cannot be parsed is requested again.
            with suppress(TransientVendorError):
                page = self._read_cached(_CachedPage.from_bytes(cached), cursor, window)
                if page is not None:
                    return page
        self.prefetch(upcoming, cursor.records, concurrent_requests=1)
        return self._api.fetch_marc_page(
            request.start, request.end, request.offset, may_be_empty=request.may_be_empty
        )

    def _read_cached(self, cached: _CachedPage, cursor: ImportCursor, window: Window) -> MarcPage | None:
        """Return the window's next page, all or the end of the cached one; None if that is of no use."""
        page = self._api.parse_marc_body(cached.body)
        keys = [record.key for record in page.records]
        known_records = cursor.skip_known(window, cached.request, cached.records, keys)
        return None if known_records is None else replace(page, records=page.records[known_records:])

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


def _cache_key(request: PageRequest) -> str:
    # Requests of the same window differ by their anchor.
    return request.end.isoformat()
