"""Tests of the cursor of a purchase import: every record is read once, with few requests across gaps."""

import random
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from itertools import chain, cycle, islice, pairwise, repeat

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter

from accession.bibliotheca.client import PAGE_SIZE
from accession.imports.windows import (
    EMPTY_DAYS_BEFORE_PROBE,
    INITIAL_BUDGET,
    REQUEST_COST,
    Anchor,
    ImportCursor,
    PageRequest,
    ProbedSpan,
    Width,
    Window,
    midnight,
)
from tests.fixtures.factories import day
from tests.fixtures.model_vendor import (
    ContradictoryPages,
    ModelImport,
    ModelVendor,
    PrefetchingImport,
    Step,
    key_list,
    purchases_of,
)

FIRST = day(2014, 1, 1)
NOW = day(2016, 3, 9, 10, 30)
SPAN = int((NOW - FIRST).total_seconds())
DAYS_OF_SALES = 500
END_OF_SALES = FIRST + timedelta(days=DAYS_OF_SALES)
MAX_NEW_RECORDS = PAGE_SIZE - 1

# Without the deadline and the check that fail on a slow machine.
property_test = settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.too_slow])

moments = st.integers(0, SPAN - 1).map(lambda seconds: FIRST + timedelta(seconds=seconds))
starts = st.one_of(st.just(FIRST), moments)
widths = st.sampled_from(Width)
widths_without_search = st.sampled_from([Width.DAY, Width.MONTH])
seeds = st.integers(0, 2**32)
shares = st.sampled_from([0.0, 0.1, 0.5, 0.9, 1.0])
counts = st.sampled_from([1, 1, 1, 2, 5, 30, 48, 49, 50, 51, 98, 99, 120])
sales_lists = st.lists(st.tuples(moments, counts), max_size=25)


def random_flags(share: float, seed: int) -> Iterator[bool]:
    """Yield True and False at random, with this share of True."""
    rng = random.Random(seed)
    while True:
        yield rng.random() < share


def windows_of(
    moments: Iterable[datetime], start: datetime, now: datetime = NOW, width: Width = Width.DAY
) -> list[Window]:
    """Return the windows of an import of one record at each of the moments."""
    vendor = ModelVendor(purchases_of((moment, 1) for moment in moments))
    return [step.window for step in ModelImport(vendor, now, width).steps(ImportCursor(start))]


def missing_keys(model: ModelImport) -> list[str]:
    """Return the keys of the records that count as imported although they were not read."""
    confirmed = model.confirmed or FIRST
    return [key for moment, key in model.vendor.purchases if moment < confirmed and key not in model.known]


def purchase_dates(model: ModelImport) -> Counter[tuple[str, date]]:
    """Return how often each key was read under each date: the first of the month with month windows."""
    dates = ((key, window.start.date()) for key, window in model.read)
    if model.width is Width.MONTH:
        dates = ((key, date_read.replace(day=1)) for key, date_read in dates)
    return Counter(dates)


def expected_dates(
    purchases: Iterable[tuple[datetime, str]], width: Width, start: datetime = FIRST
) -> Counter[tuple[str, date]]:
    """Return what `purchase_dates` must be for an import from `start`."""
    dates = ((key, moment.date()) for moment, key in purchases if moment >= start)
    if width is Width.MONTH:
        dates = ((key, purchased_on.replace(day=1)) for key, purchased_on in dates)
    return Counter(dates)


# A healthy vendor


@property_test
@example([(FIRST, 10), (day(2014, 1, 9), 49)], 10_000, FIRST, Width.DAY, 0.5, 0)
@given(sales_lists, st.sampled_from([1, 3, 10_000]), starts, widths, shares, seeds)
def test_healthy_vendor_each_record_is_read_once(
    sales: list[tuple[datetime, int]],
    titles: int,
    start: datetime,
    width: Width,
    empty_bodies: float,
    seed: int,
) -> None:
    """Keys repeat if there are fewer titles than purchases. A search starts at the start of a day.

    A page is requested again only if more of its records are known by then, to confirm the days before them.
    """
    if width is Width.ADAPTIVE:
        start = midnight(start.date())
    keys = key_list(titles)
    purchases = [
        (moment, keys[number % titles]) for number, (moment, _) in enumerate(sorted(purchases_of(sales)))
    ]
    vendor = ModelVendor(purchases, empty_bodies=random_flags(empty_bodies, seed))
    model = ModelImport(vendor, NOW, width)

    requests = []
    for step in model.steps(ImportCursor(start)):
        assert not step.is_restart
        known_keys = step.cursor.anchor and step.cursor.anchor.keys
        requests.append((step.request, step.window.is_probe, step.cursor.search, known_keys))
    assert len(requests) == len(set(requests))

    expected = expected_dates(purchases, width, start)
    assert purchase_dates(model) == expected
    if expected or not empty_bodies:
        assert model.confirmed == NOW


@property_test
@given(sales_lists, starts, widths_without_search)
def test_windows_cover_every_moment_exactly_once(
    sales: list[tuple[datetime, int]], start: datetime, width: Width
) -> None:
    """A window begins where the one before ends, or at the end of a probe whose records are all imported."""
    covered_until = start
    probes: list[Window] = []

    def is_covered(moment: datetime) -> bool:
        return moment == covered_until or any(
            probe.start <= covered_until and moment == probe.end for probe in probes
        )

    for step in ModelImport(ModelVendor(purchases_of(sales)), NOW, width).steps(ImportCursor(start)):
        if step.window.is_check:
            break
        assert is_covered(step.window.start)
        if step.window.is_probe and step.new_keys:
            probes.append(step.window)
        is_ended = step.reading.next_cursor.current_day >= step.window.end
        covered_until = step.window.end if is_ended else step.window.start
    assert is_covered(NOW)


@property_test
@given(sales_lists, starts, widths_without_search, shares, seeds)
def test_stored_window_is_within_a_day_or_a_whole_month(
    sales: list[tuple[datetime, int]], start: datetime, width: Width, empty_bodies: float, seed: int
) -> None:
    vendor = ModelVendor(purchases_of(sales), empty_bodies=random_flags(empty_bodies, seed))
    for step in ModelImport(vendor, NOW, width).steps(ImportCursor(start)):
        window = step.window
        last_moment = window.end - timedelta.resolution
        assert start <= window.start < window.end <= NOW
        if window.is_month:
            assert width is Width.MONTH
            assert window.start.replace(day=1, hour=0, minute=0, second=0) == window.start
            assert (window.end.day, window.end.hour, last_moment.month) == (1, 0, window.start.month)
        elif not window.is_probe:
            assert window.start.date() == last_moment.date()


@property_test
@given(sales_lists, starts, widths_without_search)
def test_upcoming_windows_are_all_requested_later(
    sales: list[tuple[datetime, int]], start: datetime, width: Width
) -> None:
    """Otherwise prefetching would make requests that are not needed."""
    upcoming = set[datetime]()
    for step in ModelImport(ModelVendor(purchases_of(sales)), NOW, width).steps(ImportCursor(start)):
        upcoming.discard(step.window.end)
        following = list(step.cursor.upcoming_requests(NOW, width))[1:]
        upcoming |= {request.end for request in following}
    assert upcoming == set()


# A vendor that is broken at times


def assert_nothing_is_hidden(vendor: ModelVendor, width: Width) -> None:
    """Run imports until everything is confirmed; nothing is confirmed before it is read."""
    model = ModelImport(vendor, NOW, width)

    for _ in model.runs(FIRST):
        assert missing_keys(model) == []

    assert model.confirmed == NOW
    assert set(purchase_dates(model)) == set(expected_dates(vendor.purchases, width))


@property_test
@given(st.lists(st.tuples(moments, counts), min_size=1, max_size=25), widths, shares, seeds)
@pytest.mark.parametrize("fault_share", [0.05, 0.3])
def test_empty_bodies_at_random_hide_no_record(
    fault_share: float,
    sales: list[tuple[datetime, int]],
    width: Width,
    empty_bodies: float,
    seed: int,
) -> None:
    vendor = ModelVendor(
        purchases_of(sales), random_flags(fault_share, seed), random_flags(empty_bodies, seed + 1)
    )
    assert_nothing_is_hidden(vendor, width)


@property_test
@given(
    st.lists(st.tuples(moments, counts), min_size=1, max_size=25),
    st.lists(st.tuples(st.integers(0, 60), st.integers(1, 60)), min_size=1, max_size=8),
    widths,
    shares,
    seeds,
)
def test_bursts_of_empty_bodies_hide_no_record(
    sales: list[tuple[datetime, int]],
    bursts: list[tuple[int, int]],
    width: Width,
    empty_bodies: float,
    seed: int,
) -> None:
    """`bursts` are pairs: so many requests are answered, so many get an empty body."""
    faults = chain(*(chain(repeat(False, healthy), repeat(True, broken)) for healthy, broken in bursts))
    vendor = ModelVendor(purchases_of(sales), chain(faults, repeat(False)), random_flags(empty_bodies, seed))
    assert_nothing_is_hidden(vendor, width)


@property_test
@given(
    sales_lists,
    moments,
    st.integers(51, 160),
    st.integers(1, 3),
    st.floats(0, 1, exclude_max=True),
    widths,
    shares,
    seeds,
)
@pytest.mark.parametrize("is_added", [True, False], ids=["added", "withdrawn"])
@pytest.mark.parametrize("fault_share", [0.0, 0.3])
def test_record_changed_between_pages_hides_no_other(
    fault_share: float,
    is_added: bool,
    sales: list[tuple[datetime, int]],
    large_sale: datetime,
    size: int,
    page: int,
    position: float,
    width: Width,
    empty_bodies: float,
    seed: int,
) -> None:
    """After the given page of several of a window, a record of this window is added or withdrawn."""
    vendor = ModelVendor(
        purchases_of([*sales, (large_sale, size)]),
        random_flags(fault_share, seed),
        random_flags(empty_bodies, seed + 1),
    )
    model = ModelImport(vendor, NOW, width)
    moments_by_key = {key: moment for moment, key in vendor.purchases}

    pages = 0
    for step in model.runs(FIRST):
        pages += _is_between_pages(step)
        if not _is_between_pages(step) or pages != page:
            continue
        window = step.window
        if is_added:
            moment = window.start + timedelta(
                seconds=int(position * (window.end - window.start).total_seconds())
            )
            vendor.purchases = sorted([*vendor.purchases, (moment, "added")])
            moments_by_key["added"] = moment
        else:
            candidates = [row for row in vendor.purchases if window.start <= row[0] < window.end]
            vendor.purchases.remove(candidates[int(position * len(candidates))])

    assert model.confirmed == NOW
    assert missing_keys(model) == []
    assert all(window.start <= moments_by_key[key] < window.end for key, window in model.read)


@property_test
@given(
    st.lists(st.tuples(moments, counts), min_size=1, max_size=25),
    st.integers(1, 300),
    st.floats(0, 1, exclude_max=True),
    shares,
    seeds,
)
# The run fails right after it has read the late record.
@example(sales=[(FIRST, 1)], pages=1, position=0.0, empty_bodies=0.9, seed=0)
# The next page with records was prefetched with an anchor before the late record.
@example(
    sales=[(FIRST + timedelta(days=n, hours=9), 1) for n in (3, 4, 9, 25)],
    pages=7,
    position=0.37,
    empty_bodies=1.0,
    seed=0,
)
@pytest.mark.parametrize("importer", [ModelImport, PrefetchingImport])
def test_record_that_appears_late_is_read_under_no_other_day(
    importer: type[ModelImport],
    sales: list[tuple[datetime, int]],
    pages: int,
    position: float,
    empty_bodies: float,
    seed: int,
) -> None:
    """It appears after its day was requested, within the span of the next request with the anchor.

    The import finds it with that request, or leaves it to the check of the next run.
    """
    vendor = ModelVendor(purchases_of(sales), empty_bodies=random_flags(empty_bodies, seed))
    model = importer(vendor, NOW)
    moments_by_key = {key: moment for moment, key in vendor.purchases}

    last_window = None
    for number, step in enumerate(model.runs(FIRST)):
        last_window = step.window
        cursor = step.reading.next_cursor
        if number >= pages and "late" not in moments_by_key and cursor.anchor and cursor.check_start is None:
            earliest = moments_by_key[cursor.anchor.key] + timedelta.resolution
            gap = max(timedelta.resolution, cursor.current_day - earliest)
            moments_by_key["late"] = earliest + position * gap
            vendor.purchases = sorted([*vendor.purchases, (moments_by_key["late"], "late")])

    assert model.confirmed == NOW
    assert {*missing_keys(model)} <= {"late"}
    # A run notices a record that is read with a wrong window if it requests another one with the anchor.
    wrong = [key for key, window in model.read if not window.start <= moments_by_key[key] < window.end]
    last_reads = [("late", window) for window in (last_window, *model.last_windows)]
    assert wrong == [] or (wrong == ["late"] and any(read in last_reads for read in model.read))


def _is_between_pages(step: Step) -> bool:
    cursor = step.reading.next_cursor
    return cursor.window_end is not None and cursor.check_start is None and not step.is_restart


# Number of requests


def count_requests_made(sales: Iterable[tuple[datetime, int]], empty_bodies: Iterator[bool]) -> int:
    vendor = ModelVendor(purchases_of(sales), empty_bodies=empty_bodies)
    return sum(1 for _ in ModelImport(vendor, END_OF_SALES).steps(ImportCursor(FIRST)))


def count_prefetching_requests(sales: Iterable[tuple[datetime, int]], max_concurrency: int = 4) -> int:
    """Return the number of requests, those of no use included."""
    model = PrefetchingImport(ModelVendor(purchases_of(sales)), END_OF_SALES, max_concurrency=max_concurrency)
    assert not any(step.is_restart for step in model.steps(ImportCursor(FIRST)))
    assert purchase_dates(model) == expected_dates(model.vendor.purchases, Width.DAY)
    return len(model.requests)


def most_requests(sales: Iterable[tuple[datetime, int]]) -> float:
    """Return the limit: 5 % more than one request per day and full page, and a few at the start."""
    return 1.05 * (DAYS_OF_SALES + sum(count // PAGE_SIZE for _, count in sales)) + 10


def sales_of(counts: Iterable[int]) -> list[tuple[datetime, int]]:
    """Return sales of so many titles on the first day, the second, and so on, again and again."""
    numbers = enumerate(islice(cycle(counts), DAYS_OF_SALES))
    return [(FIRST + timedelta(days=number), count) for number, count in numbers if count]


def random_sales(share: float, size: int, seed: int) -> Iterator[tuple[datetime, int]]:
    """Yield sales of 1 to `size` titles on this share of the days."""
    rng = random.Random(seed)
    for number in range(DAYS_OF_SALES):
        if rng.random() < share:
            yield FIRST + timedelta(days=number, hours=rng.randrange(24)), rng.randint(1, size)


def periodic_sales(days: int, size: int, seed: int) -> Iterator[tuple[datetime, int]]:
    """Yield sales of `size` titles every so many days."""
    for number in range(seed % days, DAYS_OF_SALES, days):
        yield FIRST + timedelta(days=number), size


def seasonal_sales(days: int, size: int, seed: int) -> Iterator[tuple[datetime, int]]:
    """Yield sales of `size` titles on consecutive days, with gaps of up to `days`."""
    rng = random.Random(seed)
    number = rng.randint(0, days)
    while number < DAYS_OF_SALES:
        for _ in range(rng.randint(1, 30)):
            yield FIRST + timedelta(days=number), size
            number += 1
        number += rng.randint(1, days)


# 49 records and the anchor fill a page. Days with 99, and others that fill their second page or a later one
# with the record before it, are left out: they need another.
sizes = st.integers(1, 98)
runs_of_days = st.lists(
    st.tuples(st.sampled_from([0, 0, 1, 9, 10, 48, 49, 50, 98]), st.integers(1, 60)), min_size=1, max_size=12
)
sales_patterns = st.one_of(
    st.builds(random_sales, st.floats(0.005, 1), sizes, seeds),
    st.builds(periodic_sales, st.integers(1, 70), sizes, seeds),
    st.builds(seasonal_sales, st.integers(1, 90), sizes, seeds),
    st.builds(lambda runs: sales_of(count for count, days in runs for _ in range(days)), runs_of_days),
).map(lambda sales: [sale for sale in sales if sale[0] < END_OF_SALES])


@property_test
@given(sales_patterns, shares, seeds)
def test_import_requests_at_most_5_percent_more_than_days(
    sales: list[tuple[datetime, int]], empty_bodies: float, seed: int
) -> None:
    assert count_requests_made(sales, random_flags(empty_bodies, seed)) <= most_requests(sales)


@property_test
@given(sales_patterns, st.sampled_from([2, 4, 8]))
# Pages that are prefetched after one day without sales are of no use for most of the next days.
@example([*random_sales(0.689453125, 1, 19772087)], 8)
def test_prefetching_requests_at_most_5_percent_more_than_days(
    sales: list[tuple[datetime, int]], max_concurrency: int
) -> None:
    assert count_prefetching_requests(sales, max_concurrency) <= most_requests(sales)


@pytest.mark.parametrize(
    "counts",
    [
        [20],
        [49],
        [49, 0],
        [1, 49],
        [49, 60],
        [49, 49, 49, 49, 49, 0, 0],
        [49, *[0] * 8],
        [60, *[0] * 8],
        [9, 9, 9, 48],
        [20, 48, 5, 0, 0, 0, 0, 5, *[0] * 7],
    ],
    ids=str,
)
def test_pattern_of_days_stays_within_5_percent(counts: list[int]) -> None:
    """Patterns that waste requests, by pages that the anchor fills or by probes that skip nothing."""
    sales = sales_of(counts)

    assert count_requests_made(sales, repeat(True)) <= most_requests(sales)
    assert count_prefetching_requests(sales) <= most_requests(sales)


@pytest.mark.parametrize("sizes", [(48, 1), (1, 1), (48, 48)])
def test_two_probes_per_month_stay_within_5_percent(sizes: tuple[int, int]) -> None:
    """With purchases on the 8th and the last of each month, most probes skip little."""
    days = [FIRST + timedelta(days=number) for number in range(DAYS_OF_SALES + 1)]
    last_days = [before for before, after in pairwise(days) if after.day == 1]
    sales = [
        *((moment, sizes[0]) for moment in days[:-1] if moment.day == 8),
        *((moment, sizes[1]) for moment in last_days),
    ]

    assert count_requests_made(sales, repeat(True)) <= most_requests(sales)


@pytest.mark.parametrize(("count", "pages"), [(49, 1), (50, 2), (98, 2), (99, 3), (147, 3), (148, 4)])
def test_pages_of_a_day_overlap_by_one_record(count: int, pages: int) -> None:
    """Pages after the first have 49 new records each, so that 99 records fill the second."""
    windows = windows_of([FIRST] * count + [day(2014, 1, 2)] * count, FIRST, day(2014, 1, 3))

    assert [window.start.day for window in windows] == [1] * pages + [2] * pages


def test_weekly_purchases_are_imported_without_probes() -> None:
    windows = windows_of((FIRST + timedelta(days=7 * week) for week in range(200)), FIRST)

    assert len(windows) == (NOW - FIRST).days + 1
    assert not any(window.is_probe for window in windows)


# The anchor


def read_pages(cursor: ImportCursor, now: datetime, *pages: Sequence[str]) -> ImportCursor:
    """Return the cursor after responses with these keys; an empty response is an empty body."""
    for keys in pages:
        cursor = cursor.read_page(cursor.window(now), keys, is_blank=not keys).next_cursor
    return cursor


def assert_gone_back(cursor: ImportCursor, start: datetime) -> None:
    """Check that the import goes back once to `start`, and forgets what it knew of the time after it."""
    assert (cursor.current_day, cursor.confirmed_until) == (start, start)
    assert (cursor.offset, cursor.window_end, cursor.anchor, cursor.probed) == (1, None, None, ())
    assert cursor.restarts == 1


def next_request(cursor: ImportCursor, now: datetime = NOW) -> PageRequest:
    return cursor.request(cursor.window(now))


def test_first_request_begins_with_its_window() -> None:
    assert next_request(ImportCursor(FIRST)) == PageRequest(FIRST, day(2014, 1, 2), 1, may_be_empty=True)


def test_each_request_begins_with_the_last_record_read() -> None:
    now = day(2014, 1, 5)
    cursor = read_pages(ImportCursor(FIRST), now, ["a", "b"])
    assert next_request(cursor) == PageRequest(FIRST, day(2014, 1, 3), 2, may_be_empty=False)

    after_empty_day = read_pages(cursor, now, ["b"])
    assert next_request(after_empty_day) == PageRequest(FIRST, day(2014, 1, 4), 2, may_be_empty=False)

    after_records = read_pages(after_empty_day, now, ["b", "c", "d", "e"])
    assert next_request(after_records) == PageRequest(day(2014, 1, 3), day(2014, 1, 5), 3, may_be_empty=False)


def test_empty_body_before_the_first_record_proves_nothing() -> None:
    cursor = read_pages(ImportCursor(FIRST), NOW, [], [])

    assert (cursor.current_day, cursor.confirmed_until) == (day(2014, 1, 3), FIRST)


def test_empty_collection_proves_that_the_window_is_empty() -> None:
    cursor = ImportCursor(FIRST)

    cursor = cursor.read_page(cursor.window(NOW), []).next_cursor

    assert (cursor.current_day, cursor.confirmed_until) == (day(2014, 1, 2), day(2014, 1, 2))


def test_empty_collection_after_an_empty_body_proves_nothing() -> None:
    cursor = read_pages(ImportCursor(FIRST), NOW, [])

    cursor = cursor.read_page(cursor.window(NOW), []).next_cursor

    assert (cursor.current_day, cursor.confirmed_until) == (day(2014, 1, 3), FIRST)


def test_request_after_the_first_record_covers_all_before() -> None:
    cursor = read_pages(ImportCursor(FIRST), NOW, [], [], ["a"])
    assert cursor.confirmed_until == FIRST
    assert next_request(cursor) == PageRequest(FIRST, day(2014, 1, 5), 1, may_be_empty=False)

    confirmed = read_pages(cursor, NOW, ["a"])
    assert confirmed.confirmed_until == day(2014, 1, 5)


@pytest.mark.parametrize("keys", [[], ["earlier"], ["earlier", "a"]])
def test_other_first_record_sends_the_import_back(keys: list[str]) -> None:
    cursor = read_pages(ImportCursor(FIRST), NOW, [], [], ["a"])

    reading = cursor.read_page(cursor.window(NOW), keys)

    assert reading.known_records is None
    assert_gone_back(reading.next_cursor, FIRST)


def test_import_goes_back_to_the_day_of_the_anchor_before() -> None:
    """The anchor may have appeared after that day was imported, and have been read with a later one."""
    cursor = read_pages(ImportCursor(FIRST), NOW, ["a"], ["a", "b"], ["b", "c", "d"], ["d"])
    assert cursor.confirmed_until == day(2014, 1, 5)

    cursor = read_pages(cursor, NOW, ["c"])

    assert_gone_back(cursor, day(2014, 1, 2))


def test_restarts_are_counted_until_the_import_gets_further() -> None:
    cursor = read_pages(ImportCursor(FIRST), NOW, [], ["a"], ["b"], [], ["a"], ["b"], [])
    assert (cursor.restarts, cursor.confirmed_until) == (2, FIRST)

    cursor = read_pages(cursor, NOW, ["b"], ["b"])
    assert (cursor.restarts, cursor.confirmed_until) == (2, day(2014, 1, 4))

    cursor = read_pages(cursor, NOW, ["b"])
    assert (cursor.restarts, cursor.confirmed_until) == (0, day(2014, 1, 5))


class VendorWithoutPaging(ModelVendor):
    """A vendor that sends the first page, whichever is requested."""

    def fetch_keys(self, request: PageRequest) -> list[str] | None:
        return super().fetch_keys(replace(request, offset=1))


@pytest.mark.parametrize("records_per_day", [2, PAGE_SIZE])
def test_import_without_paging_gives_up(records_per_day: int) -> None:
    """The importer stops after a limited number of restarts, or it would never end."""
    purchases = purchases_of((day(2014, 1, number), records_per_day) for number in (1, 2))
    model = ModelImport(VendorWithoutPaging(purchases), NOW)

    with pytest.raises(ContradictoryPages):
        list(model.steps(ImportCursor(FIRST)))


def test_window_end_stays_the_same_for_all_pages() -> None:
    now, next_day = day(2024, 3, 1, 4), day(2024, 3, 2, 4)
    cursor = ImportCursor(day(2024, 3, 1))
    window = cursor.window(now)

    second_page = read_pages(cursor, now, key_list(PAGE_SIZE))

    assert (second_page.offset, second_page.current_day) == (PAGE_SIZE + 1, day(2024, 3, 1))
    assert second_page.window(next_day) == window
    assert next_request(second_page, next_day) == PageRequest(
        day(2024, 3, 1), now, PAGE_SIZE, may_be_empty=False
    )
    next_window = read_pages(second_page, next_day, [key_list(PAGE_SIZE)[-1], "another"])
    assert (next_window.offset, next_window.window_end) == (1, None)
    assert (next_window.current_day, next_window.confirmed, next_window.records) == (now, now, PAGE_SIZE + 1)
    assert next_window.anchor == Anchor(day(2024, 3, 1), PAGE_SIZE + 1, "another")


# Windows without the anchor


def after_many_records(*pages: Sequence[str]) -> ImportCursor:
    """Return the cursor after ten records on 1 January, and these pages of the days after it."""
    return read_pages(ImportCursor(FIRST), NOW, key_list(10), *pages)


def test_after_many_records_windows_go_without_the_anchor() -> None:
    """A day with records needs no other proof."""
    cursor = after_many_records()
    assert next_request(cursor) == PageRequest(day(2014, 1, 2), day(2014, 1, 3))

    cursor = read_pages(cursor, NOW, ["b", "c"])

    assert cursor.confirmed_until == day(2014, 1, 3)
    assert cursor.anchor == Anchor(day(2014, 1, 2), 2, "c", FIRST)
    assert next_request(cursor) == PageRequest(day(2014, 1, 3), day(2014, 1, 4))


def test_empty_body_without_the_anchor_confirms_nothing() -> None:
    cursor = after_many_records([], ["b"], [])

    assert (cursor.current_day, cursor.confirmed_until) == (day(2014, 1, 5), day(2014, 1, 2))
    # The next request lists the records since the last proof again, so that a hidden one would be noticed.
    assert cursor.anchor == Anchor(FIRST, 11, "b", earlier_keys=("k0009",))


def test_withdrawn_record_does_not_make_up_for_hidden_one() -> None:
    """The record at the anchor's position is the right one, though an empty body has hidden another."""
    cursor = read_pages(ImportCursor(FIRST), NOW, [], ["a", "b"])
    assert next_request(cursor) == PageRequest(FIRST, day(2014, 1, 4), may_be_empty=False)

    cursor = read_pages(cursor, NOW, ["hidden", "b"])

    assert (cursor.current_day, cursor.confirmed_until, cursor.restarts) == (FIRST, FIRST, 1)


def test_unproven_records_that_fill_a_page_are_listed_again() -> None:
    """Otherwise one that is withdrawn just then could make up for one that an empty body has hidden."""
    keys = key_list(50)
    cursor = read_pages(ImportCursor(FIRST), NOW, [], keys)
    again = PageRequest(FIRST, day(2014, 1, 3), 1, may_be_empty=False)
    assert next_request(cursor) == again

    assert_gone_back(read_pages(cursor, NOW, ["hidden", *keys[1:]]), FIRST)

    cursor = read_pages(cursor, NOW, keys)
    assert next_request(cursor) == replace(again, offset=50)
    assert cursor.budget == read_pages(ImportCursor(FIRST), NOW, []).budget - 20
    cursor = read_pages(cursor, NOW, ["k0049", "a"])
    assert (cursor.current_day, cursor.confirmed_until) == (day(2014, 1, 3), day(2014, 1, 3))


def test_many_unproven_records_are_not_listed_without_budget() -> None:
    """They would leave too little room for new ones on the page."""
    cursor = read_pages(ImportCursor(FIRST, budget=0), NOW, [], key_list(25))
    assert cursor.anchor == Anchor(FIRST, 25, "k0024")


def test_probe_that_lists_only_known_records_is_repeated() -> None:
    """Its page has no room for what else the span may hold, but proves these records."""
    known = tuple(key_list(50))
    cursor = ImportCursor(
        day(2014, 1, 10),
        confirmed=FIRST,
        anchor=Anchor(FIRST, 50, known[-1], earlier_keys=known[:-1]),
        empty_windows=7,
        budget=200,
    )
    probe = cursor.window(NOW)
    assert probe.is_probe

    repeated = read_pages(cursor, NOW, known)

    assert repeated.window(NOW) == probe
    assert next_request(repeated) == replace(next_request(cursor), offset=50)
    assert repeated.budget == cursor.budget - 20
    assert read_pages(repeated, NOW, ["k0049"]).confirmed_until == probe.end


def test_anchor_confirms_empty_days_after_a_month() -> None:
    """It waits for a day after one with records: an empty day's hidden records would come with its own."""
    pages: list[list[str]] = [[] if number % 3 else [f"k{number}"] for number in range(1, 31)]
    cursor = after_many_records(*pages)
    assert (cursor.current_day, cursor.confirmed_until) == (day(2014, 2, 1), day(2014, 1, 2))
    assert next_request(cursor) == PageRequest(FIRST, day(2014, 2, 2), 10, may_be_empty=False)

    known = ["k0009", *(key for page in pages for key in page)]
    cursor = read_pages(cursor, NOW, [*known, "new"])

    assert cursor.confirmed_until == day(2014, 2, 2)
    assert cursor.anchor == Anchor(day(2014, 2, 1), 1, "new", FIRST)


def test_probe_after_empty_bodies_lists_what_they_hid() -> None:
    """The records it lists may be of any day that is not confirmed."""
    cursor = read_pages(after_many_records(*[[]] * 7), NOW, ["k0009", "hidden"])

    assert cursor.probed == (ProbedSpan(day(2014, 1, 2), day(2014, 2, 1), ("hidden",)),)


def test_import_that_has_gone_back_always_uses_the_anchor() -> None:
    """The vendor's empty bodies may hide records, or its records change."""
    cursor = ImportCursor(FIRST, setback=day(2014, 1, 5))

    cursor = read_pages(cursor, NOW, key_list(10))

    assert next_request(cursor) == PageRequest(FIRST, day(2014, 1, 3), 10, may_be_empty=False)


def test_import_that_ends_unconfirmed_checks_the_rest() -> None:
    """The check begins with the anchor, so that it has no more records than are new."""
    end = day(2014, 1, 3)
    cursor = read_pages(ImportCursor(FIRST), end, key_list(10), []).end_with_check()
    assert next_request(cursor, end) == PageRequest(FIRST, end, 10, may_be_empty=False)

    complete = cursor.read_check(["k0009"], []).next_cursor
    assert (complete.is_complete(end), complete.confirmed_until) == (True, end)

    again = cursor.read_check(["k0009", "hidden"], ["hidden"]).next_cursor
    assert (again.current_day, again.is_complete(end)) == (day(2014, 1, 2), False)

    assert_gone_back(cursor.read_check(["other"], []).next_cursor, FIRST)


def test_check_at_the_end_needs_an_anchor() -> None:
    with pytest.raises(ValueError, match="needs an anchor"):
        ImportCursor(FIRST).end_with_check()


# Probes


def test_probes_gallop_by_month_by_year_then_everything() -> None:
    now = day(2020, 2, 3, 4)
    windows = windows_of([], FIRST, now)

    assert windows == [
        *(Window(day(2014, 1, n), day(2014, 1, n + 1)) for n in range(1, 8)),
        Window(day(2014, 1, 8), day(2014, 2, 1), is_probe=True),
        Window(day(2014, 2, 1), day(2015, 1, 1), is_probe=True),
        Window(day(2015, 1, 1), now, is_probe=True),
    ]


def test_probe_with_records_is_narrowed_by_halves_then_days() -> None:
    """When the record that the probes have listed is imported, the rest of their span is skipped."""
    windows = windows_of([FIRST, day(2014, 4, 3, 12)], FIRST, day(2014, 5, 2))

    assert windows[8:] == [
        Window(day(2014, 1, 9), day(2014, 2, 1), is_probe=True),
        Window(day(2014, 2, 1), day(2014, 5, 2), is_probe=True),
        Window(day(2014, 2, 1), day(2014, 3, 18), is_probe=True),
        Window(day(2014, 3, 18), day(2014, 4, 10), is_probe=True),
        Window(day(2014, 3, 18), day(2014, 3, 30), is_probe=True),
        Window(day(2014, 3, 30), day(2014, 4, 5), is_probe=True),
        *(Window(day(2014, 3, n), day(2014, 3, n) + timedelta(days=1)) for n in (30, 31)),
        *(Window(day(2014, 4, n), day(2014, 4, n + 1)) for n in (1, 2, 3)),
        Window(day(2014, 4, 3), day(2014, 5, 2), is_probe=True, is_check=True),
    ]


def at_probe(budget: int = INITIAL_BUDGET) -> ImportCursor:
    """Return a cursor at the probe of 8 to 31 January, with a record of 1 January as anchor."""
    anchor = Anchor(FIRST, 1, "a")
    return ImportCursor(day(2014, 1, 8), anchor=anchor, empty_windows=EMPTY_DAYS_BEFORE_PROBE, budget=budget)


def test_probe_with_records_stores_and_confirms_nothing() -> None:
    cursor = read_pages(at_probe(), NOW, ["a", "b", "c"])

    assert cursor == replace(
        at_probe(),
        confirmed=day(2014, 1, 8),
        budget=at_probe().budget - REQUEST_COST,
        probed=(ProbedSpan(day(2014, 1, 8), day(2014, 2, 1), ("b", "c")),),
    )
    assert next_request(cursor) == PageRequest(FIRST, day(2014, 1, 20), 1, may_be_empty=False)


def after_probe(*keys: str) -> ImportCursor:
    """Return the cursor after the probe has listed these, with no budget for another one."""
    return read_pages(at_probe(budget=REQUEST_COST), NOW, ["a", *keys])


def test_rest_of_a_probed_span_is_skipped() -> None:
    cursor = read_pages(after_probe("b", "c"), NOW, ["a", "b"], ["b"])
    assert cursor.current_day == day(2014, 1, 10)

    cursor = read_pages(cursor, NOW, ["b", "c"])

    assert (cursor.current_day, cursor.confirmed_until, cursor.probed) == (
        day(2014, 2, 1),
        day(2014, 2, 1),
        (),
    )
    assert cursor.anchor == Anchor(day(2014, 1, 10), 1, "c", day(2014, 1, 8))


def test_listed_record_that_no_day_shows_goes_back() -> None:
    """The record was withdrawn in the meantime, or listed for another time: the span is imported again."""
    cursor = after_probe("b")
    while not cursor.restarts:
        cursor = read_pages(cursor, NOW, ["a"])

    assert_gone_back(cursor, day(2014, 1, 8))


def test_span_with_a_title_listed_twice_needs_both_records() -> None:
    cursor = read_pages(after_probe("b", "b"), NOW, ["a", "b"])
    assert cursor.probed[-1].keys == ("b",)

    cursor = read_pages(cursor, NOW, ["b", "b"])

    assert (cursor.current_day, cursor.probed) == (day(2014, 2, 1), ())


def test_full_probe_is_narrowed_day_by_day() -> None:
    """It has not listed all records of the rest of the month, so that its span cannot be skipped."""
    cursor = read_pages(at_probe(), NOW, ["a", *key_list(MAX_NEW_RECORDS)])

    assert cursor.probed == (ProbedSpan(day(2014, 1, 8), day(2014, 2, 1), None),)
    assert cursor.window(NOW) == Window(day(2014, 1, 8), day(2014, 1, 9))


@pytest.mark.parametrize(("budget", "is_probe"), [(REQUEST_COST, True), (REQUEST_COST - 1, False)])
def test_probe_needs_the_budget_of_a_request(budget: int, is_probe: bool) -> None:
    assert at_probe(budget).window(NOW).is_probe is is_probe


def test_twenty_days_earn_a_request_and_skipped_days_their_own() -> None:
    cursor = ImportCursor(FIRST, budget=0)
    for number in range(20):
        cursor = read_pages(cursor, NOW, [f"k{number - 1}", f"k{number}"][not number :])
    assert cursor.budget == REQUEST_COST

    assert read_pages(at_probe(budget=0), NOW, ["a"]).budget == 1
    assert read_pages(at_probe(budget=REQUEST_COST), NOW, ["a"]).budget > 20 * REQUEST_COST - 1


@pytest.mark.parametrize("width", Width)
def test_run_with_wide_windows_requests_everything_at_once(width: Width) -> None:
    cursor = ImportCursor(FIRST).with_wide_windows()

    assert cursor.window(NOW, width) == Window(FIRST, NOW, is_probe=True)


def test_widest_probe_is_narrowed_by_halves_or_years() -> None:
    cursor = ImportCursor(FIRST).with_wide_windows()
    assert read_pages(cursor, NOW, []).is_complete(NOW)

    few_records, full_page = (read_pages(cursor, NOW, keys) for keys in (["a"], key_list(PAGE_SIZE)))

    assert few_records.window(NOW) == Window(FIRST, day(2015, 2, 4), is_probe=True)
    assert full_page.window(NOW) == Window(FIRST, day(2015, 1, 1), is_probe=True)


def test_seven_years_before_the_first_purchase_cost_little() -> None:
    """All purchases do not fit on the page of the widest probe, which is then narrowed to years."""
    purchases = [day(2021, 6, 17, 9) + timedelta(days=n) for n in range(60)]
    windows = windows_of(purchases, FIRST, day(2021, 9, 1))

    requests_before = windows.index(Window(day(2021, 6, 17), day(2021, 6, 18)))

    days, probes = 7 + 16, 3 + 6 + 1 + 5
    assert requests_before == days + probes


# Month width


def test_month_width_uses_whole_months_that_have_ended() -> None:
    assert windows_of([], day(2014, 1, 30, 5), day(2014, 4, 3, 4), Width.MONTH) == [
        Window(day(2014, 1, 30, 5), day(2014, 1, 31)),
        Window(day(2014, 1, 31), day(2014, 2, 1)),
        Window(day(2014, 2, 1), day(2014, 3, 1)),
        Window(day(2014, 3, 1), day(2014, 4, 1)),
        Window(day(2014, 4, 1), day(2014, 4, 2)),
        Window(day(2014, 4, 2), day(2014, 4, 3)),
        Window(day(2014, 4, 3), day(2014, 4, 3, 4)),
    ]


@pytest.mark.parametrize("width", Width)
def test_two_days_are_requested_day_by_day(width: Width) -> None:
    assert windows_of([], day(2024, 2, 29, 4), day(2024, 3, 1, 4), width) == [
        Window(day(2024, 2, 29, 4), day(2024, 3, 1)),
        Window(day(2024, 3, 1), day(2024, 3, 1, 4)),
    ]


def test_window_end_is_in_utc() -> None:
    local_time = datetime.fromisoformat("2024-03-01T00:30:00+02:00")
    window = ImportCursor(local_time).window(NOW.replace(year=2025))

    assert window.end == day(2024, 3, 1)
    assert window.end.tzinfo is UTC


# Checks

CHECK_START, CONFIRMED, CHECK_END = day(2014, 2, 1), day(2014, 3, 3, 4), day(2014, 3, 6, 10)


def at_check() -> ImportCursor:
    return ImportCursor(CONFIRMED).begin_check(CHECK_START, CHECK_END)


def check_pages(cursor: ImportCursor, *pages: tuple[Sequence[str], Sequence[str]]) -> ImportCursor:
    """Return the cursor after pages of a check: their keys, and which of them are unknown."""
    for keys, unknown_keys in pages:
        assert cursor.window(CHECK_END) == Window(CHECK_START, CHECK_END, is_probe=True, is_check=True)
        cursor = cursor.read_check(keys, unknown_keys).next_cursor
    return cursor


def test_check_requests_its_span_which_must_hold_records() -> None:
    later = CHECK_END + timedelta(hours=1)

    assert next_request(at_check(), later) == PageRequest(CHECK_START, CHECK_END, 1, may_be_empty=False)


def test_check_of_known_records_completes_in_one_page() -> None:
    cursor = check_pages(at_check(), (["a", "b"], []))

    assert cursor.is_complete(CHECK_END)
    assert (cursor.confirmed_until, cursor.probed) == (CHECK_END, ())


def test_unknown_records_are_imported_from_confirmed_on() -> None:
    """When the days have shown all of them, the rest of the check's span is skipped."""
    cursor = check_pages(at_check(), (["a", "b", "c"], ["b", "c"]))
    assert cursor.window(CHECK_END) == Window(CONFIRMED, day(2014, 3, 4))
    assert next_request(cursor) == PageRequest(CONFIRMED, day(2014, 3, 4))

    cursor = read_pages(cursor, CHECK_END, ["b"])
    assert (cursor.current_day, cursor.is_complete(CHECK_END)) == (day(2014, 3, 4), False)

    cursor = read_pages(cursor, CHECK_END, ["b", "c"])
    assert (cursor.is_complete(CHECK_END), cursor.confirmed_until) == (True, CHECK_END)


def test_unknown_records_that_no_day_shows_are_older() -> None:
    """The vendor has listed them late, so that the days of the whole check are imported again."""
    cursor = check_pages(at_check(), (["late", "a", "new"], ["late", "new"]))

    cursor = read_pages(cursor, CHECK_END, [], ["new"], ["new"], ["new"])

    assert_gone_back(cursor, CHECK_START)
    assert cursor.until == CHECK_END


def test_days_after_a_check_end_with_the_check() -> None:
    """Later purchases are left to the next run, so that everything that was requested is confirmed."""
    later = CHECK_END + timedelta(hours=1)
    cursor = check_pages(at_check(), (["a", "b"], ["b"]))

    cursor = read_pages(cursor, later, [], [], [])
    assert cursor.window(later) == Window(day(2014, 3, 6), CHECK_END)

    cursor = read_pages(cursor, later, ["b"])
    assert (cursor.is_complete(later), cursor.confirmed_until) == (True, CHECK_END)


def test_pages_of_a_check_continue_each_other() -> None:
    keys = key_list(3 * PAGE_SIZE)
    first, second, third = keys[:50], keys[49:99], keys[98:110]

    cursor = check_pages(at_check(), (first, []))
    assert next_request(cursor) == PageRequest(CHECK_START, CHECK_END, 50, may_be_empty=False)
    cursor = check_pages(cursor, (second, second[-1:]))
    assert next_request(cursor) == PageRequest(CHECK_START, CHECK_END, 99, may_be_empty=False)
    cursor = check_pages(cursor, (third, third[-1:]))

    assert cursor.probed == (ProbedSpan(CHECK_START, CHECK_END, (second[-1], third[-1])),)
    assert next_request(cursor) == PageRequest(CONFIRMED, day(2014, 3, 4))


def test_pages_of_a_check_with_known_records_complete_it() -> None:
    keys = key_list(60)

    cursor = check_pages(at_check(), (keys[:50], []), (keys[49:], []))

    assert (cursor.is_complete(CHECK_END), cursor.confirmed_until) == (True, CHECK_END)


@pytest.mark.parametrize("keys", [[], ["other"]])
def test_page_that_contradicts_the_check_begins_it_again(keys: list[str]) -> None:
    cursor = check_pages(at_check(), (key_list(PAGE_SIZE), key_list(3)))

    reading = cursor.read_check(keys, [])

    assert reading.known_records is None
    again = reading.next_cursor
    assert again.window(CHECK_END) == at_check().window(CHECK_END)
    assert next_request(again) == next_request(at_check())
    assert (again.probed, again.confirmed_until) == (at_check().probed, CONFIRMED)
    assert again.restarts == 1


def test_check_with_over_100_unknown_records_imports_all_days() -> None:
    """It does not list them all, so that any of its days may have some."""
    keys = key_list(102)

    cursor = check_pages(
        at_check(), (keys[:50], keys[:50]), (keys[49:99], keys[50:99]), (keys[98:], keys[99:])
    )

    assert_gone_back(cursor, CHECK_START)
    assert cursor.until == CHECK_END


def test_check_with_100_unknown_records_lists_them_all() -> None:
    keys = key_list(100)
    cursor = check_pages(
        at_check(), (keys[:50], keys[:50]), (keys[49:99], keys[50:99]), (keys[98:], keys[99:])
    )

    assert cursor.probed == (ProbedSpan(CHECK_START, CHECK_END, tuple(keys)),)


def test_page_of_a_check_without_a_check_is_an_error() -> None:
    with pytest.raises(ValueError, match="No check is in progress"):
        ImportCursor(FIRST).read_check(["a"], [])


# The arguments of a step


@pytest.mark.parametrize(
    "cursor",
    [
        ImportCursor(FIRST),
        read_pages(at_probe(), NOW, ["a", "b"]),
        read_pages(at_probe(), NOW, ["a", *key_list(MAX_NEW_RECORDS)]),
        read_pages(ImportCursor(FIRST), NOW, [], key_list(PAGE_SIZE)),
        check_pages(at_check(), (key_list(PAGE_SIZE), key_list(3))),
    ],
    ids=["first", "after probe", "after full probe", "between pages", "between pages of a check"],
)
def test_cursor_as_json_is_the_same_cursor(cursor: ImportCursor) -> None:
    cursors = TypeAdapter(ImportCursor)

    assert cursors.validate_json(cursors.dump_json(cursor)) == cursor
