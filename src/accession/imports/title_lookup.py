"""Look up titles' metadata and circulation counts at the vendor, several requests at once."""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from dataclasses import dataclass
from datetime import datetime

import structlog

from accession.bibliotheca.client import MAX_ITEMS, BibliothecaAPI
from accession.bibliotheca.items import ItemsResponse
from accession.catalog.data import TitleData
from accession.core.clock import utc_now
from accession.core.settings import get_settings

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class TitleLookup:
    """The vendor's data on the titles of one lookup.

    Attributes:
        as_of: a time (UTC) before the first request.
        titles: the data of each title that the vendor returned, by its id.
        missing: titles that well-formed responses omit: the collection does not have them. Titles in
            neither `titles` nor `missing` had invalid data.
        repairs: number of documents that were well-formed only after a repair.
    """

    as_of: datetime
    titles: Mapping[str, TitleData]
    missing: tuple[str, ...]
    repairs: int


def look_up_titles(
    api: BibliothecaAPI, ids: Sequence[str], meanwhile: Callable[[], None] = lambda: None
) -> TitleLookup:
    """Look up all of the distinct `ids`, 25 per request, and log titles with invalid data.

    `meanwhile` is called while the vendor processes the requests, or before a single one.

    Raises:
        RemoteIntegrationException: one of the requests failed.
    """
    as_of = utc_now()
    titles: dict[str, TitleData] = {}
    missing: list[str] = []
    repairs = 0
    batches = [ids[start : start + MAX_ITEMS] for start in range(0, len(ids), MAX_ITEMS)]
    for batch, response in zip(batches, _responses(api, batches, meanwhile), strict=True):
        repairs += response.repaired
        returned = {title.identifier: title for title in response.titles if title.identifier in batch}
        titles |= returned
        invalid_ids = {fault.item_id for fault in response.faults}
        for fault in response.faults:
            log.warning("invalid title metadata", title=fault.item_id, reason=fault.reason)
        # An invalid item without an id may be any of those that seem to be missing.
        if None not in invalid_ids:
            missing += [
                item_id for item_id in batch if item_id not in returned and item_id not in invalid_ids
            ]
    return TitleLookup(as_of, titles, tuple(missing), repairs)


def count_concurrent_requests(titles: int) -> int:
    """Return how many requests a lookup of so many titles has in flight at once."""
    return min(-(-titles // MAX_ITEMS), get_settings().lookup_concurrency)


def _responses(
    api: BibliothecaAPI, batches: Sequence[Sequence[str]], meanwhile: Callable[[], None]
) -> Sequence[ItemsResponse]:
    concurrency = count_concurrent_requests(sum(map(len, batches)))
    if concurrency <= 1:
        meanwhile()
        return [api.fetch_items(batch) for batch in batches]
    with ThreadPoolExecutor(concurrency, thread_name_prefix="title-lookup") as threads:
        futures = [threads.submit(copy_context().run, api.fetch_items, batch) for batch in batches]
        meanwhile()
        return [future.result() for future in futures]
