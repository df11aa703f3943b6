"""Prefetch later pages of purchase records while the current page is fetched and stored.

An import that requests one page after another spends its time waiting for the vendor. Pages that follow
in any case are therefore requested in background threads, and their responses cached until they are due.
A thread outlives the step that started it: the next step, in whatever process, waits for its response.
"""

import json
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from contextvars import copy_context
from dataclasses import astuple, dataclass, replace
from datetime import datetime
from threading import Thread
from typing import Protocol, TypeAlias

import structlog

from accession.bibliotheca.client import BibliothecaAPI
from accession.bibliotheca.errors import (
    EmptyResponse,
    RemoteIntegrationException,
    RequestSlotUnavailable,
    TransientVendorError,
)
from accession.bibliotheca.marc import MarcPage
from accession.imports.title_lookup import TitleLookup, count_concurrent_requests, look_up_titles
from accession.imports.windows import PageRequest

log = structlog.get_logger(__name__)

# Number of times that the vendor has to send other records, and none where known ones should be.
_CONTROL_REQUESTS = 3

_THREAD_NAME = "prefetch"


class PrefetchCache(Protocol):
    """A cache of the vendor's responses to pages that are due soon.

    A key is free, claimed while its response is awaited, or has a response. Each state ends after about a
    minute at most: an older response might differ from what the vendor has now.
    """

    def claim(self, keys: Sequence[str]) -> Sequence[str]:
        """Claim the free ones among the keys, and return them: the caller has to request their pages."""

    def put(self, key: str, response: bytes | None) -> None:
        """Store the response to a claimed key; None if there is none, so that nobody waits for it."""

    def take(self, key: str) -> bytes | None:
        """Remove a response from the cache and return it; None where there is none.

        Waits for the response to a claimed key, but not as long as a vendor may take that is overloaded.
        """


class NullPrefetchCache:
    """A cache that stores nothing and lets nobody claim a key, so that nothing is prefetched."""

    def claim(self, keys: Sequence[str]) -> Sequence[str]:
        """Return no key."""
        return ()

    def put(self, key: str, response: bytes | None) -> None:
        """Discard the response."""

    def take(self, key: str) -> bytes | None:
        """Return None."""
        return None


SkipKnown: TypeAlias = Callable[[PageRequest, int, Sequence[str]], int | None]
"""Returns how many records of a cached page to leave out, or None if the page is of no use.

Its arguments are the request of the cached page, the `first_listed` of its cursor, and its keys.
"""


@dataclass(frozen=True)
class _CachedPage:
    """A prefetched response with its request, and the `first_listed` of the cursor then."""

    request: PageRequest
    first_listed: int
    body: bytes

    def as_bytes(self) -> bytes:
        header = [*astuple(self.request), self.first_listed]
        return json.dumps(header, default=datetime.isoformat).encode() + b"\n" + self.body

    @classmethod
    def from_bytes(cls, data: bytes) -> "_CachedPage":
        header, _, body = data.partition(b"\n")
        start, end, offset, may_be_empty, first_listed = json.loads(header)
        moments = (datetime.fromisoformat(start), datetime.fromisoformat(end))
        return cls(PageRequest(*moments, offset, may_be_empty), first_listed, body)


class Prefetcher:
    """Fetch one page, and start to fetch others meanwhile.

    An error of a prefetched page is ignored here; it recurs when that page is requested itself.
    """

    def __init__(self, api: BibliothecaAPI, cache: PrefetchCache, max_concurrency: int) -> None:
        self._api = api
        self._cache = cache
        self._max_concurrency = max_concurrency
        self._started: set[str] = set()

    def fetch_page(
        self, request: PageRequest, upcoming: Sequence[PageRequest], first_listed: int, skip_known: SkipKnown
    ) -> MarcPage:
        """Return the requested page, from the cache where possible.

        On a cache miss, the `upcoming` pages are prefetched meanwhile. `first_listed` is that of the cursor,
        and `skip_known` tells what part of a cached page is the requested one.
        """
        upcoming = upcoming[: self._max_concurrency - 1]
        if (cached := self._cache.take(_cache_key(request))) is not None:
            # A cached response that cannot be parsed is requested again.
            with suppress(TransientVendorError):
                page = self._read_cached(_CachedPage.from_bytes(cached), skip_known)
                if page is not None:
                    # The step that prefetched this page has prefetched these too.
                    self._started.update(map(_cache_key, upcoming))
                    return page
        self.prefetch(upcoming, first_listed)
        return self._api.fetch_marc_page(
            request.start, request.end, request.offset, may_be_empty=request.may_be_empty
        )

    def _read_cached(self, cached: _CachedPage, skip_known: SkipKnown) -> MarcPage | None:
        """Return all or the end of a cached page; None if it is of no use."""
        page = self._api.parse_marc_body(cached.body)
        keys = [record.key for record in page.records]
        known_records = skip_known(cached.request, cached.first_listed, keys)
        return None if known_records is None else replace(page, records=page.records[known_records:])

    def look_up(
        self,
        title_ids: Sequence[str],
        upcoming: Sequence[PageRequest],
        first_listed: int,
        meanwhile: Callable[[], None] = lambda: None,
    ) -> TitleLookup:
        """Look up titles, and prefetch the `upcoming` pages of a cursor with this `first_listed` meanwhile.

        The last ones have to wait until the lookup has ended, because the step waits for that. `meanwhile`
        is called while the vendor processes the requests.
        """
        upcoming = upcoming[: self._max_concurrency]
        lookups = count_concurrent_requests(len(title_ids))

        def prefetch_first() -> None:
            self.prefetch(upcoming[: max(0, self._max_concurrency - lookups)], first_listed)
            meanwhile()

        # The step waits for the titles only, so they are requested first.
        lookup = look_up_titles(self._api, title_ids, prefetch_first)
        self.prefetch(upcoming, first_listed)
        for title_id in lookup.missing:
            log.warning("no metadata for a purchased title", title=title_id)
        return lookup

    def prefetch(self, upcoming: Sequence[PageRequest], first_listed: int) -> None:
        """Start to request pages of a cursor with this `first_listed` that have not been prefetched."""
        requests = {_cache_key(request): request for request in upcoming}
        new_keys = [key for key in requests if key not in self._started]
        self._started.update(new_keys)
        for key in self._cache.claim(new_keys):
            arguments = (self._fetch_into_cache, key, requests[key], first_listed)
            Thread(target=copy_context().run, args=arguments, name=_THREAD_NAME, daemon=True).start()

    def _fetch_into_cache(self, key: str, request: PageRequest, first_listed: int) -> None:
        cached = None
        try:
            body = self._api.fetch_marc_body(
                request.start, request.end, request.offset, may_be_empty=request.may_be_empty
            )
            cached = _CachedPage(request, first_listed, body).as_bytes()
        except (RemoteIntegrationException, RequestSlotUnavailable) as error:
            log.debug("prefetching failed", reason=str(error))
        finally:
            self._cache.put(key, cached)


def wait_for_prefetches(seconds: float) -> None:
    """Wait until the responses that this process awaits are cached, for `seconds` each at most."""
    for thread in threading.enumerate():
        if thread.name == _THREAD_NAME:
            thread.join(seconds)


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
