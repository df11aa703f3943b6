"""Tests of the search for the days of purchases: every record gets its day, with few requests."""

import random
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from accession.bibliotheca.client import PAGE_SIZE
from accession.imports.day_search import ContradictionError, DayRange, DaySearch, DaySpan, RangeReading
from accession.imports.windows import ImportCursor, Width, midnight
from tests.fixtures.model_vendor import ModelImport, ModelVendor

FIRST = date(2014, 1, 1)
DAY = timedelta(days=1)
MAX_STEPS = 20_000
MAX_KEYS = 1_200

property_test = settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])

sales_lists = st.lists(
    st.tuples(st.integers(0, 799), st.sampled_from([1, 1, 1, 2, 5, 20, 49, 50, 51, 120])), max_size=40
)


@dataclass
class Vendor:
    """A vendor that lists records (day and key) in their order.

    Attributes:
        empty_bodies: share of the pages without records that are empty bodies.
        faults: share of all pages that are empty bodies.
    """

    records: list[tuple[date, str]]
    empty_bodies: float = 1.0
    faults: float = 0.0
    rng: random.Random = field(default_factory=lambda: random.Random(0))
    requests: list[DayRange] = field(default_factory=list)

    def fetch(self, requested: DayRange) -> list[str] | None:
        """Return the keys of the page, or None for an empty body."""
        self.requests.append(requested)
        first, end = (bisect_left(self.records, (day, "")) for day in (requested.start, requested.end))
        first += requested.offset - 1
        keys = [key for _, key in self.records[first : min(first + PAGE_SIZE, end)]]
        is_empty_body = not keys and self.rng.random() < self.empty_bodies
        return None if is_empty_body or self.rng.random() < self.faults else keys


def vendor_of(
    sales: Sequence[tuple[int, int]], titles: int = 10_000, *, empty_bodies: float = 1.0, faults: float = 0.0
) -> Vendor:
    """Return a vendor with so many purchases on each of the days since the first."""
    days = [FIRST + number * DAY for number, count in sorted(sales) for _ in range(count)]
    records = sorted((day, f"{number % titles:05}") for number, day in enumerate(days))
    return Vendor(records, empty_bodies, faults)


def pages(vendor: Vendor, search: DaySearch) -> Iterator[RangeReading]:
    """Request page by page until the search is complete."""
    for _ in range(MAX_STEPS):
        if search.is_complete:
            return
        requested = next(search.requests(1))
        keys = vendor.fetch(requested)
        if keys is None and not requested.may_be_empty:
            continue
        reading = search.read_page(keys or (), is_blank=keys is None)
        yield reading
        search = reading.search
    raise AssertionError("the search does not end")


def read_pages(vendor: Vendor, search: DaySearch, number: int) -> None:
    """Request so many pages, and believe each empty body where records are known."""
    for _ in range(number):
        listed = vendor.fetch(next(search.requests(1)))
        search = search.read_page(listed or (), is_blank=listed is None).search


@property_test
@given(
    sales_lists,
    st.sampled_from([1, 3, 40, 10_000]),
    st.sampled_from([0.0, 0.5, 1.0]),
    st.sampled_from([0.0, 0.3]),
    st.integers(0, 800),
)
def test_every_record_gets_its_day(
    sales: list[tuple[int, int]], titles: int, empty_bodies: float, faults: float, days: int
) -> None:
    """Except for those from `imported_until` on, which are left to other requests."""
    vendor = vendor_of(sales, titles, empty_bodies=empty_bodies, faults=faults)
    search = DaySearch.begin(FIRST, FIRST + days * DAY)
    dated: Counter[tuple[date, str]] = Counter()
    for reading in pages(vendor, search):
        search = reading.search
        dated.update((day.start, key) for day in reading.days for key in day.keys)
        expected = Counter(record for record in vendor.records if record[0] < search.imported_until)
        before = Counter({record: n for record, n in dated.items() if record[0] < search.imported_until})
        assert before == expected
        assert sum(len(span.keys) for span in search.spans) + len(search.read) <= MAX_KEYS
    assert dated <= Counter(vendor.records)
    if not vendor.records and not empty_bodies and not faults:
        assert search.imported_until == search.end


@property_test
@given(sales_lists)
def test_requests_ahead_are_all_made(sales: list[tuple[int, int]]) -> None:
    """Prefetched pages are of use, unless an empty body proves nothing."""
    vendor = vendor_of(sales, empty_bodies=0.0)
    search = DaySearch.begin(FIRST, FIRST + 800 * DAY)
    ahead: set[DayRange] = {*search.requests(4)}
    for reading in pages(vendor, search):
        ahead |= {*reading.search.requests(4)}
    assert ahead == {*vendor.requests}


def two_spans() -> DaySearch:
    """Return a search with the records a and b in one span of 8 days, c in another, and x between them."""
    spans = (
        DaySpan(FIRST, FIRST + 8 * DAY, ("a", "b")),
        DaySpan(FIRST + 8 * DAY, FIRST + 9 * DAY, ("x",)),
        DaySpan(FIRST + 10 * DAY, FIRST + 18 * DAY, ("c",)),
    )
    end = FIRST + 18 * DAY
    requested = DayRange(FIRST + 4 * DAY, FIRST + 14 * DAY)
    return DaySearch(FIRST, FIRST, listed_until=end, end=end, spans=spans, planned=(requested,))


def test_one_request_divides_two_spans() -> None:
    reading = two_spans().read_page(["b", "x", "c"])

    assert reading.search.spans == (
        DaySpan(FIRST, FIRST + 4 * DAY, ("a",)),
        DaySpan(FIRST + 4 * DAY, FIRST + 8 * DAY, ("b",)),
        DaySpan(FIRST + 8 * DAY, FIRST + 9 * DAY, ("x",)),
        DaySpan(FIRST + 10 * DAY, FIRST + 14 * DAY, ("c",)),
    )
    assert not reading.new_keys
    assert not reading.days


@pytest.mark.parametrize(
    "keys",
    [["b", "c"], ["b", "x", "c", "new"], ["b", "x", "x", "c"], []],
    ids=["withdrawn", "added", "listed again", "nothing"],
)
def test_contradictory_response_is_an_error(keys: list[str]) -> None:
    with pytest.raises(ContradictionError):
        two_spans().read_page(keys)


def test_empty_body_in_place_of_known_records_is_an_error() -> None:
    """They have been withdrawn, so the records after them may be at earlier offsets."""
    search = two_spans()
    assert not search.planned[0].may_be_empty
    with pytest.raises(ContradictionError):
        search.read_page((), is_blank=True)


def test_empty_body_after_a_full_page_is_an_error() -> None:
    """The last record of the page should begin the next one; those of the page must not be forgotten."""
    search = DaySearch.begin(FIRST, FIRST + 400 * DAY)
    assert search.planned[0].may_be_empty
    reading = search.read_page([str(number) for number in range(PAGE_SIZE)])
    with pytest.raises(ContradictionError):
        reading.search.read_page((), is_blank=True)


@pytest.mark.parametrize("records", [1, 2, 48, 49, 60, 120])
def test_withdrawn_record_of_the_only_span_is_noticed(records: int) -> None:
    """Neither half lists it, and the first page of the span is as before."""
    vendor = vendor_of([(2, records)])
    keys = tuple(key for _, key in vendor.records)
    end = FIRST + 16 * DAY
    search = DaySearch(FIRST, FIRST, end, end, (DaySpan(FIRST, end, keys),))
    vendor.records.pop()

    with pytest.raises(ContradictionError):
        read_pages(vendor, search._plan(), 10)


def test_later_purchase_of_the_same_title_is_not_mistaken() -> None:
    """Either purchase of `a` may be the new one, and the other one in the second half of the span."""
    spans = (
        DaySpan(FIRST, FIRST + 8 * DAY, ("b", "a")),
        DaySpan(FIRST + 8 * DAY, FIRST + 9 * DAY, ("a",)),
    )
    listed_until, end = FIRST + 9 * DAY, FIRST + 40 * DAY
    requested = DayRange(FIRST + 4 * DAY, FIRST + 20 * DAY)
    search = DaySearch(FIRST, FIRST, listed_until, end, spans, planned=(requested,))

    reading = search.read_page(["a", "a"])

    assert reading.search.spans == spans
    assert not reading.new_keys
    following = next(reading.search.requests(1))
    assert (following.start, following.offset) == (FIRST + 8 * DAY, 1)
    assert reading.search.read_page(["a", "a"]).new_keys == ("a",)


def test_order_shows_to_which_span_a_repeated_title_belongs() -> None:
    spans = (
        DaySpan(FIRST, FIRST + 8 * DAY, ("a", "b")),
        DaySpan(FIRST + 8 * DAY, FIRST + 9 * DAY, ("x",)),
        DaySpan(FIRST + 10 * DAY, FIRST + 18 * DAY, ("a",)),
    )
    end = FIRST + 18 * DAY
    requested = DayRange(FIRST + 4 * DAY, FIRST + 14 * DAY)
    search = DaySearch(FIRST, FIRST, end, end, spans, planned=(requested,))

    divided = search.read_page(["b", "x", "a"]).search.spans

    assert divided[-1] == DaySpan(FIRST + 10 * DAY, FIRST + 14 * DAY, ("a",))
    assert divided[0] == DaySpan(FIRST, FIRST + 4 * DAY, ("a",))


def test_days_with_very_many_records_are_left_to_others() -> None:
    search = DaySearch.begin(FIRST, FIRST + 100 * DAY)
    dated = []
    for reading in pages(vendor_of([(0, 1), (30, 3), (60, 1_000), (90, 1)]), search):
        search = reading.search
        dated += [day.start for day in reading.days]

    assert dated == [FIRST, FIRST + 30 * DAY]
    assert search.imported_until <= FIRST + 60 * DAY < search.others_until


def test_further_failed_search_leaves_more_days_to_others() -> None:
    """Days with many records are requested one by one, which takes no more requests."""
    vendor = vendor_of([(day, 120) for day in range(800)])
    periods, imported, start = [], 0, FIRST
    for failures in range(4):
        *_, reading = pages(vendor, DaySearch.begin(start, FIRST + 800 * DAY, failures))
        periods.append((reading.search.others_until - start).days)
        imported += (reading.search.imported_until - start).days
        start = reading.search.others_until

    assert periods == sorted(periods)
    assert periods[-1] > 4 * periods[0]
    pages_per_day = 3
    assert len(vendor.requests) <= imported * pages_per_day + len(periods)


@pytest.mark.parametrize("records", [1, 3, 48, 49, 55])
@pytest.mark.parametrize("sold_on", [0, 37, 60, 99])
def test_days_of_the_only_purchases_are_found(sold_on: int, records: int) -> None:
    """An empty body for a half of the only span is no proof, so the other half is requested."""
    search = DaySearch.begin(FIRST, FIRST + 100 * DAY)
    dated = []
    for reading in pages(vendor_of([(sold_on, records)]), search):
        search = reading.search
        dated += [(day.start, len(day.keys)) for day in reading.days]

    assert dated == [(FIRST + sold_on * DAY, records)]
    assert search.imported_until == search.end


def test_full_page_divides_the_first_span() -> None:
    keys = tuple(f"{number:03}" for number in range(120))
    spans = (
        DaySpan(FIRST, FIRST + 8 * DAY, keys[:60]),
        DaySpan(FIRST + 10 * DAY, FIRST + 18 * DAY, keys[60:]),
    )
    end = FIRST + 18 * DAY
    requested = DayRange(FIRST + 4 * DAY, FIRST + 14 * DAY)
    search = DaySearch(FIRST, FIRST, end, end, spans, planned=(requested,))

    divided = search.read_page(keys[40:90]).search.spans

    assert divided == (
        DaySpan(FIRST, FIRST + 4 * DAY, keys[:40]),
        DaySpan(FIRST + 4 * DAY, FIRST + 8 * DAY, keys[40:60]),
        spans[1],
    )


def test_resolved_days_are_stored_together() -> None:
    """A step that only resolves days writes nothing but its progress."""
    vendor = vendor_of([(3 * number, 1 + number % 3) for number in range(200)])
    search = DaySearch.begin(FIRST, FIRST + 800 * DAY)
    stored = [sum(len(day.keys) for day in reading.days) for reading in pages(vendor, search) if reading.days]

    assert sum(stored) == len(vendor.records)
    assert min(stored[:-1]) >= PAGE_SIZE


def test_days_resolved_before_a_contradiction_are_stored() -> None:
    spans = (
        DaySpan(FIRST, FIRST + DAY, ("a",)),
        DaySpan(FIRST + 2 * DAY, FIRST + 3 * DAY, ("b", "c")),
        DaySpan(FIRST + 5 * DAY, FIRST + 9 * DAY, ("d",)),
        DaySpan(FIRST + 9 * DAY, FIRST + 10 * DAY, ("e",)),
    )
    search = DaySearch(FIRST, FIRST + 2 * DAY, FIRST + 20 * DAY, FIRST + 40 * DAY, spans)

    reading = search.fail()

    assert reading.days == spans[1:2]
    assert reading.search.imported_until == FIRST + 5 * DAY
    assert reading.search.is_complete
    cursor = ImportCursor(midnight(FIRST)).after_contradiction(reading.search)
    assert cursor.current_day == cursor.confirmed_until == midnight(FIRST + 5 * DAY)


# Number of requests

END = date(2026, 11, 27)
NOW = midnight(END)


def random_purchases(titles: int, share: float) -> list[tuple[datetime, str]]:
    """Return purchases on this share of the days since 2014; with 1.0 on every weekday."""
    rng = random.Random(1)
    days = [FIRST + number * DAY for number in range((END - FIRST).days)]
    days = (
        [day for day in days if day.weekday() < 5]
        if share == 1.0
        else rng.sample(days, round(len(days) * share))
    )
    days += rng.choices(days, k=titles - len(days))
    return [(midnight(day), f"{n:05}") for n, day in enumerate(days)]


def count_page_requests(purchases: list[tuple[datetime, str]], width: Width, start: datetime) -> int:
    model = ModelImport(ModelVendor(purchases), NOW, width)
    return sum(1 for _ in model.steps(ImportCursor(start)))


@dataclass(frozen=True)
class Period:
    """Some days, with so many purchases on a share of every `step`-th of them."""

    days: int
    step: int
    purchases: int
    share: float

    def moments(self, start: datetime) -> Iterator[datetime]:
        """Yield the times of the purchases, from the `start` of the period on."""
        rng = random.Random(self.days)
        for number in range(0, self.days, self.step):
            if rng.random() < self.share:
                yield from [start + number * DAY] * self.purchases


periods = st.builds(
    Period,
    st.integers(1, 200),
    st.sampled_from([1, 1, 2, 7, 8, 40]),
    st.sampled_from([0, 1, 5, 20, 49, 50, 100, 151, 400]),
    st.sampled_from([0.05, 0.3, 1.0]),
)


@pytest.mark.parametrize(
    ("titles", "share", "maximum"),
    [(400, 0.02, 0.27), (2_000, 0.08, 0.3), (2_000, 0.2, 0.36), (20_000, 0.2, 0.55), (20_000, 1.0, 0.58)],
)
def test_search_needs_a_fraction_of_the_requests(titles: int, share: float, maximum: float) -> None:
    purchases = random_purchases(titles, share)

    start = midnight(FIRST)
    requests = {width: count_page_requests(purchases, width, start) for width in (Width.ADAPTIVE, Width.DAY)}

    assert requests[Width.ADAPTIVE] <= maximum * requests[Width.DAY]


@pytest.mark.parametrize(
    ("step", "purchases", "share"), [(1, 400, 0.3), (2, 75, 1.0), (8, 151, 1.0), (1, 49, 0.3), (5, 400, 0.3)]
)
def test_years_of_days_with_many_records_cost_no_more(step: int, purchases: int, share: float) -> None:
    """A search is not tried again and again: the days requested one by one show that it saves nothing."""
    moments = Period((END - FIRST).days, step, purchases, share).moments(midnight(FIRST))
    sold = [(moment, f"{number:06}") for number, moment in enumerate(moments)]

    requests = {
        width: count_page_requests(sold, width, midnight(FIRST)) for width in (Width.ADAPTIVE, Width.DAY)
    }

    assert requests[Width.ADAPTIVE] <= requests[Width.DAY] + 20


@property_test
@example([Period(84, 7, 100, 0.05), Period(156, 1, 49, 0.3)])
# Between the search and the days after it, nothing is confirmed.
@example([Period(132, 8, 100, 1.0), Period(102, 1, 50, 0.05)])
# The search saves requests, which the days after it may spend on probes.
@example([Period(39, 2, 151, 0.3), Period(125, 40, 1, 1.0), Period(14, 2, 1, 0.3)])
# The last span of the search is long, and its records fill a page.
@example([Period(22, 1, 100, 0.05), Period(66, 1, 0, 0.05), Period(25, 1, 49, 0.05)])
@given(st.lists(periods, min_size=1, max_size=6))
def test_search_never_needs_many_more_requests(habits: list[Period]) -> None:
    """Days with many records next to long gaps are the worst case."""
    first = start = NOW - sum(period.days for period in habits) * DAY
    moments: list[datetime] = []
    for period in habits:
        moments += period.moments(start)
        start += period.days * DAY
    purchases = [(moment, f"{number:05}") for number, moment in enumerate(moments)]

    requests = {width: count_page_requests(purchases, width, first) for width in (Width.ADAPTIVE, Width.DAY)}

    assert requests[Width.ADAPTIVE] <= 1.05 * requests[Width.DAY] + 30
