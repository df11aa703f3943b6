"""Asking the vendor about titles, as many at once as it takes."""

from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from dataclasses import dataclass
from datetime import datetime

import structlog

from accession.bibliotheca.client import MOST_ITEMS, BibliothecaAPI
from accession.bibliotheca.items import ItemsAnswer
from accession.catalog.data import TitleData
from accession.core.clock import utc_now
from accession.core.settings import get_settings

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class LookUp:
    """What the vendor said of titles.

    `missing` are those that well-formed answers left out: the collection does not have them. A title in
    neither `titles` nor `missing` had an item that could not be used. `as_of` (UTC) is before the first
    request. `repairs` counts documents that were well-formed only after a repair.
    """

    as_of: datetime
    titles: Mapping[str, TitleData]
    missing: tuple[str, ...]
    repairs: int


def look_up(api: BibliothecaAPI, ids: Sequence[str]) -> LookUp:
    """Ask for all of `ids`, which differ, 25 a request and some requests at once; an item that cannot be used
    is logged.

    Raises what `BibliothecaAPI.items` raises.
    """
    as_of = utc_now()
    titles: dict[str, TitleData] = {}
    missing: list[str] = []
    repairs = 0
    batches = [ids[start : start + MOST_ITEMS] for start in range(0, len(ids), MOST_ITEMS)]
    for batch, answer in zip(batches, _answers(api, batches), strict=True):
        repairs += answer.repaired
        found = {title.identifier: title for title in answer.titles if title.identifier in batch}
        titles |= found
        faulty = {fault.item_id for fault in answer.faults}
        for fault in answer.faults:
            log.warning("title's metadata cannot be used", title=fault.item_id, reason=fault.reason)
        # An item without an id may be any of those that seem to be missing.
        if None not in faulty:
            missing += [item_id for item_id in batch if item_id not in found and item_id not in faulty]
    return LookUp(as_of, titles, tuple(missing), repairs)


def requests_for(titles: int) -> int:
    """How many requests a look-up of so many titles has under way at once."""
    return min(-(-titles // MOST_ITEMS), get_settings().lookup_concurrency)


def _answers(api: BibliothecaAPI, batches: Sequence[Sequence[str]]) -> Iterable[ItemsAnswer]:
    at_once = requests_for(sum(map(len, batches)))
    if at_once <= 1:
        return map(api.items, batches)
    with ThreadPoolExecutor(at_once, thread_name_prefix="look-up") as threads:
        under_way = [threads.submit(copy_context().run, api.items, batch) for batch in batches]
        return [answer.result() for answer in under_way]
