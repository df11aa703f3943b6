"""Imports from a vendor that sends empty bodies, and whose list changes between two requests.

The model of an import needs no database, so many more lists are tried than in a simulation.
"""

import os
import random
from bisect import bisect_left, insort
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, time, timedelta

import pytest

from accession.imports.day_search import DaySearch
from accession.imports.windows import ImportCursor, PageRequest, Width, Window, page_request
from tests.fixtures.model_vendor import (
    ContradictoryPages,
    ModelImport,
    ModelVendor,
    Step,
    VendorUnavailable,
    purchases_of,
)

FIRST = datetime(2014, 1, 1, tzinfo=UTC)
DAY = timedelta(days=1)
RUNS = int(os.environ.get("CHAOS_RUNS", "0"))
FIRST_SEED = int(os.environ.get("CHAOS_SEED", "0"))
# In 147, a withdrawn record makes up for one that an empty body has hidden.
SEEDS = range(FIRST_SEED, FIRST_SEED + RUNS) if RUNS else (*range(20), 147)
# As in the client and in `fetch_unless_withdrawn`.
TRIES = 3
RETRIES = 6


@dataclass(kw_only=True)
class ChangingVendor(ModelVendor):
    """A vendor to whose list records are added, and from which they are withdrawn, at requests.

    Attributes:
        until: end (UTC) of the time in which records are added.
        addition: probability that a record is added near the requested time span.
        shift: probability that a record is added or withdrawn in the day of the requested offset.
        late: keys of the records that were added to times that had been requested.
    """

    rng: random.Random
    until: datetime
    addition: float
    shift: float
    late: set[str] = field(default_factory=set)
    _requested_until: datetime = FIRST
    _added: int = 0

    def fetch_keys(self, request: PageRequest) -> list[str] | None:
        """Change the list, and return the keys of the requested page, or None for an empty body."""
        if self.rng.random() < self.addition:
            near = self.rng.choice((request.start, request.end)) + self.rng.uniform(-5, 5) * DAY
            self._add(max(FIRST, min(near, self.until)))
        first, end = (bisect_left(self.purchases, (moment, "")) for moment in (request.start, request.end))
        if 1 < request.offset <= end - first and self.rng.random() < self.shift:
            moment, _ = self.purchases[first + request.offset - 1]
            self._shift(max(request.start, datetime.combine(moment, time(), UTC)))
        keys = super().fetch_keys(request)
        if keys is not None:
            self._requested_until = max(self._requested_until, request.end)
        return keys

    def _shift(self, day: datetime) -> None:
        if self.rng.random() < 1 / 2:
            self._add(day)
        else:
            del self.purchases[bisect_left(self.purchases, (day, ""))]

    def _add(self, moment: datetime) -> None:
        self._added += 1
        key = f"added{self._added:04}"
        if moment < self._requested_until:
            self.late.add(key)
        insort(self.purchases, (moment, key))


@dataclass
class PatientImport(ModelImport):
    """An import that retries, and asks for other known records where a known one is missing."""

    _search_control: PageRequest | None = None

    def _fetch_page(self, cursor: ImportCursor, window: Window) -> list[str] | None:
        return self._fetch_unless_withdrawn(cursor.request(window), cursor.control_request(window))

    def _search_step(self, cursor: ImportCursor, search: DaySearch) -> Step:
        control = search.control_range()
        self._search_control = None if control is None else page_request(control)
        return super()._search_step(cursor, search)

    def _fetch_keys(self, request: PageRequest) -> list[str] | None:
        return self._fetch_unless_withdrawn(request, self._search_control)

    def _fetch_unless_withdrawn(self, request: PageRequest, control: PageRequest | None) -> list[str] | None:
        for _ in range(RETRIES):
            keys = self._try(request)
            if keys is not None or request.may_be_empty:
                return keys
            if control is not None and self._is_withdrawn(request, control):
                return None
        raise VendorUnavailable

    def _is_withdrawn(self, request: PageRequest, control: PageRequest) -> bool:
        """Return whether the vendor repeatedly sends the other records, and nothing for the request."""
        return all(self._try(control) is not None and self._try(request) is None for _ in range(TRIES))

    def _try(self, request: PageRequest) -> list[str] | None:
        for _ in range(TRIES):
            keys = self.vendor.fetch_keys(request)
            if keys is not None or request.may_be_empty:
                return keys
        return None


def random_flags(rng: random.Random, share: float, burst: float = 0) -> Iterator[bool]:
    """Yield flags of which a share is true, and bursts of up to forty that are."""
    while True:
        yield rng.random() < share
        if rng.random() < burst:
            yield from [True] * rng.randrange(40)


def random_import(seed: int, width: Width) -> PatientImport:
    """Return an import of purchases on some days, with gaps between them, from a vendor with faults."""
    rng = random.Random(f"{seed} {width}")
    sizes = rng.choice(((1, 1, 2, 3), (1, 2, 5, 20), (1, 3, 12, 49, 50, 51, 120)))
    days = rng.choice((70, 220, 600))
    now = FIRST + days * DAY + timedelta(hours=4)
    sales: list[tuple[datetime, int]] = []
    moment = FIRST + rng.randrange(60) * DAY
    while moment < now - DAY and sum(count for _, count in sales) < 600:
        sales.append((moment + rng.random() * DAY, rng.choice(sizes)))
        moment += rng.choice((1, 1, 2, 3, 5, 12, 40)) * DAY
    vendor = ChangingVendor(
        purchases_of(sales),
        random_flags(rng, rng.choice((0.1, 0.3)), rng.choice((0, 0.003, 0.02))),
        random_flags(rng, rng.choice((1, 1, 0.5))),
        rng=rng,
        until=now,
        addition=rng.choice((0, 0.003, 0.01)),
        shift=rng.choice((0.02, 0.1, 0.3)),
    )
    return PatientImport(vendor, now, width)


def missing_purchases(model: PatientImport, vendor: ChangingVendor) -> list[tuple[datetime, str]]:
    """Return what is confirmed, and not read under its day or month, except what was listed later."""
    windows: dict[str, list[Window]] = {}
    for key, window in model.read:
        windows.setdefault(key, []).append(window)
    confirmed = vendor.purchases[: bisect_left(vendor.purchases, (model.confirmed or FIRST, ""))]
    return [
        (moment, key)
        for moment, key in confirmed
        if key not in vendor.late
        and not any(window.start <= moment < window.end for window in windows.get(key, ()))
    ]


@pytest.mark.parametrize("width", Width)
@pytest.mark.parametrize("seed", SEEDS)
def test_no_confirmed_purchase_of_changing_list_is_missing(seed: int, width: Width) -> None:
    model = random_import(seed, width)
    assert isinstance(model.vendor, ChangingVendor)
    # A vendor that changes its list again and again makes the importer give up.
    with suppress(ContradictoryPages):
        for _ in model.runs(FIRST):
            assert missing_purchases(model, model.vendor) == []
        assert model.confirmed == model.now
