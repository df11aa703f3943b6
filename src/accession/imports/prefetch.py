"""Prefetch later pages of purchase records while the current page waits for a response of its own.

An import that requests one page after another spends its time waiting for the vendor. Pages that follow
in any case are therefore requested in background threads, and their responses cached until they are due.
"""

from collections.abc import Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from contextvars import copy_context
from dataclasses import dataclass
from itertools import islice
from types import TracebackType
from typing import Protocol

from accession.bibliotheca.client import BibliothecaAPI
from accession.bibliotheca.errors import RemoteIntegrationException, TransientVendorError
from accession.bibliotheca.marc import MarcPage
from accession.imports.windows import Window


@dataclass(frozen=True)
class PageRequest:
    """A request for one page of purchase records: a window and the 1-based offset in it."""

    window: Window
    offset: int = 1

    @property
    def cache_key(self) -> str:
        """Return the key of the response in a `PrefetchCache`."""
        return f"{self.window.start.isoformat()}/{self.window.end.isoformat()}/{self.offset}"


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
        self._in_flight: dict[str, Future[bytes]] = {}

    def __enter__(self) -> "Prefetcher":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._threads as threads:
            if error is not None:
                threads.shutdown(cancel_futures=True)
                return
            for key, response in self._in_flight.items():
                with suppress(RemoteIntegrationException):
                    self._cache.put(key, response.result())

    def fetch_page(self, request: PageRequest, upcoming: Iterable[PageRequest]) -> MarcPage:
        """Return the requested page, from the cache where possible.

        On a cache miss, the `upcoming` pages, which will certainly be needed, are prefetched too.
        """
        response = self._cache.pop(request.cache_key)
        if response is not None:
            # A cached response that cannot be parsed is requested again.
            with suppress(TransientVendorError):
                return self._api.parse_marc_body(response)
        self.prefetch(upcoming, concurrent_requests=1)
        return self._api.fetch_marc_page(request.window.start, request.window.end, request.offset)

    def prefetch(self, upcoming: Iterable[PageRequest], *, concurrent_requests: int) -> None:
        """Start to request the `upcoming` pages that are neither cached nor in flight.

        `concurrent_requests` is the number of other requests that the caller is about to make: together
        with them there are never more than the maximum in flight.
        """
        requests = {request.cache_key: request for request in islice(upcoming, self._max_concurrency)}
        missing = self._cache.missing([key for key in requests if key not in self._in_flight])
        for key in missing[: max(0, self._max_concurrency - concurrent_requests)]:
            window = requests[key].window
            self._in_flight[key] = self._threads.submit(
                copy_context().run, self._api.fetch_marc_body, window.start, window.end, requests[key].offset
            )
