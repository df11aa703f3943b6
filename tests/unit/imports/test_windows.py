"""Tests of the cursor of a purchase import: every record is read once, with few requests across gaps."""

import random
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from itertools import chain, pairwise, repeat

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter

from accession.bibliotheca.client import PAGE_SIZE
from accession.imports.windows import (
    EMPTY_DAYS_BEFORE_PROBE,
    Anchor,
    ImportCursor,
    PageRequest,
    ProbedSpan,
    Width,
    Window,
)
from tests.fixtures.factories import day
from tests.fixtures.model_vendor import (
    ContradictoryPages,
    ModelImport,
    ModelVendor,
    Step,
    key_list,
    purchases_of,
)

FIRST = day(2014, 1, 1)
NOW = day(2016, 3, 9, 10, 30)
SPAN = int((NOW - FIRST).total_seconds())
DAYS_OF_SALES = 500
MAX_NEW_RECORDS = PAGE_SIZE - 1

# Without the deadline and the check that fail on a slow machine.
property_test = settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.too_slow])

moments = st.integers(0, SPAN - 1).map(lambda seconds: FIRST + timedelta(seconds=seconds))
starts = st.one_of(st.just(FIRST), moments)
widths = st.sampled_from(Width)
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
@given(sales_lists, st.sampled_from([1, 3, 10_000]), starts, widths, shares, seeds)
def test_healthy_vendor_each_record_is_read_once(
    sales: list[tuple[datetime, int]],
    titles: int,
    start: datetime,
    width: Width,
    empty_bodies: float,
    seed: int,
) -> None:
    """Keys repeat if there are fewer titles than purchases."""
    keys = key_list(titles)
    purchases = [
        (moment, keys[number % titles]) for number, (moment, _) in enumerate(sorted(purchases_of(sales)))
    ]
    vendor = ModelVendor(purchases, empty_bodies=random_flags(empty_bodies, seed))
    model = ModelImport(vendor, NOW, width)

    requests = []
    for step in model.steps(ImportCursor(start)):
        assert not step.is_restart
        requests.append((step.window, step.cursor.offset))
    assert len(requests) == len(set(requests))

    expected = expected_dates(purchases, width, start)
    assert purchase_dates(model) == expected
    if expected or not empty_bodies:
        assert model.confirmed == NOW


@property_test
@given(sales_lists, starts, widths)
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
            covered_until = step.window.start
        else:
            covered_until = step.window.end if step.reading.next_cursor.offset == 1 else step.window.start
    assert is_covered(NOW)


@property_test
@given(sales_lists, starts, widths, shares, seeds)
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
@given(sales_lists, starts, widths)
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


def _is_between_pages(step: Step) -> bool:
    cursor = step.reading.next_cursor
    return cursor.window_end is not None and cursor.check_start is None and not step.is_restart


# Number of requests


def count_steps(sales: Iterable[tuple[datetime, int]], days: int, empty_bodies: Iterator[bool]) -> int:
    vendor = ModelVendor(purchases_of(sales), empty_bodies=empty_bodies)
    model = ModelImport(vendor, FIRST + timedelta(days=days))
    return sum(1 for _ in model.steps(ImportCursor(FIRST)))


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


# Days with exactly 49 records are left out: the anchor takes one place of the page, so that they fill it, and
# the import requests another page to see if there are more.
small_sizes = st.integers(1, MAX_NEW_RECORDS - 1)
sales_patterns = st.one_of(
    st.builds(random_sales, st.floats(0.005, 1), small_sizes, seeds),
    st.builds(periodic_sales, st.integers(1, 70), small_sizes, seeds),
    st.builds(seasonal_sales, st.integers(1, 90), small_sizes, seeds),
).map(lambda sales: [sale for sale in sales if sale[0] < FIRST + timedelta(days=DAYS_OF_SALES)])


@property_test
@given(sales_patterns, shares, seeds)
def test_import_requests_hardly_more_than_one_page_per_day(
    sales: list[tuple[datetime, int]], empty_bodies: float, seed: int
) -> None:
    requests = count_steps(sales, DAYS_OF_SALES, random_flags(empty_bodies, seed))

    assert requests <= 1.05 * DAYS_OF_SALES + 10


@pytest.mark.parametrize("sizes", [(48, 1), (1, 1), (48, 48)])
def test_two_useless_probes_per_month_are_the_most(sizes: tuple[int, int]) -> None:
    """Purchases on the 8th and the last of each month are the worst case that is known."""
    days = [FIRST + timedelta(days=number) for number in range(2000)]
    last_days = [before for before, after in pairwise(days) if after.day == 1]
    sales = [
        *((moment, sizes[0]) for moment in days if moment.day == 8),
        *((moment, sizes[1]) for moment in last_days),
    ]

    assert count_steps(sales, 2000, repeat(True)) <= 1.07 * 2000


def test_day_that_fills_a_page_needs_another() -> None:
    """The anchor takes one place of each page but the first, so that 49 records fill it."""
    sales = [(FIRST + timedelta(days=number), MAX_NEW_RECORDS) for number in range(4)]

    windows = windows_of([moment for moment, count in sales for _ in range(count)], FIRST, day(2014, 1, 5))

    assert [window.start.day for window in windows] == [1, 2, 2, 3, 3, 4, 4]


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


def test_import_goes_back_only_to_the_day_of_the_anchor() -> None:
    cursor = read_pages(ImportCursor(FIRST), NOW, ["a"], ["a", "b", "c"], ["c"])
    assert cursor.confirmed_until == day(2014, 1, 4)

    cursor = read_pages(cursor, NOW, ["b"])

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
    assert next_window == ImportCursor(
        now, confirmed=now, anchor=Anchor(day(2024, 3, 1), PAGE_SIZE + 1, "another"), records=PAGE_SIZE + 1
    )


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


def test_probe_with_records_is_narrowed_by_months_then_days() -> None:
    """When the record that the probes have listed is imported, the rest of their span is skipped."""
    windows = windows_of([FIRST, day(2014, 4, 3, 12)], FIRST, day(2014, 5, 2))

    assert windows[8:] == [
        Window(day(2014, 1, 9), day(2014, 2, 1), is_probe=True),
        Window(day(2014, 2, 1), day(2014, 5, 2), is_probe=True),
        Window(day(2014, 2, 1), day(2014, 3, 1), is_probe=True),
        Window(day(2014, 3, 1), day(2014, 4, 1), is_probe=True),
        Window(day(2014, 4, 1), day(2014, 5, 1), is_probe=True),
        *(Window(day(2014, 4, n), day(2014, 4, n + 1)) for n in (1, 2, 3)),
    ]


def at_probe(width: int = EMPTY_DAYS_BEFORE_PROBE) -> ImportCursor:
    """Return a cursor at the probe of 8 to 31 January, with a record of 1 January as anchor."""
    return ImportCursor(
        day(2014, 1, 8), anchor=Anchor(FIRST, 1, "a"), empty_windows=width, days_before_probe=width
    )


def test_probe_with_records_stores_and_confirms_nothing() -> None:
    cursor = read_pages(at_probe(), NOW, ["a", "b", "c"])

    assert cursor == replace(
        at_probe(),
        confirmed=day(2014, 1, 8),
        probed=(ProbedSpan(day(2014, 1, 8), day(2014, 2, 1), ("b", "c")),),
    )
    assert next_request(cursor) == PageRequest(FIRST, day(2014, 1, 9), 1, may_be_empty=False)


def test_rest_of_a_probed_span_is_skipped() -> None:
    cursor = read_pages(at_probe(), NOW, ["a", "b", "c"], ["a", "b"], ["b"])
    assert cursor.current_day == day(2014, 1, 10)

    cursor = read_pages(cursor, NOW, ["b", "c"])

    assert (cursor.current_day, cursor.confirmed_until, cursor.probed) == (
        day(2014, 2, 1),
        day(2014, 2, 1),
        (),
    )
    assert cursor.anchor == Anchor(day(2014, 1, 10), 1, "c")


def test_listed_record_that_no_day_shows_goes_back() -> None:
    """The record was withdrawn in the meantime, or listed for another time: the span is imported again."""
    pages = [["a", "b"], *[["a"]] * 24]

    cursor = read_pages(at_probe(), NOW, *pages)

    assert_gone_back(cursor, day(2014, 1, 8))


def test_span_with_a_title_listed_twice_needs_both_records() -> None:
    cursor = read_pages(at_probe(), NOW, ["a", "b", "b"], ["a", "b"])
    assert cursor.probed[-1].keys == ("b",)

    cursor = read_pages(cursor, NOW, ["b", "b"])

    assert (cursor.current_day, cursor.probed) == (day(2014, 2, 1), ())


@pytest.mark.parametrize(("width", "next_width"), [(7, 14), (14, 28), (28, 56), (56, 56)])
def test_full_probe_doubles_the_days_before_the_next(width: int, next_width: int) -> None:
    """A full probe has not listed all records, so that its span cannot be skipped."""
    cursor = read_pages(at_probe(width), NOW, ["a", *key_list(MAX_NEW_RECORDS)])

    assert cursor.days_before_probe == next_width
    assert cursor.probed == (ProbedSpan(day(2014, 1, 8), day(2014, 2, 1), None),)


def test_probe_that_lists_all_records_resets_the_days() -> None:
    cursor = read_pages(at_probe(28), NOW, ["a", "b"])

    assert cursor.days_before_probe == EMPTY_DAYS_BEFORE_PROBE


def test_after_a_full_probe_the_next_comes_after_14_days() -> None:
    moments = [FIRST, *[day(2014, 1, 10, 12)] * MAX_NEW_RECORDS, day(2014, 1, 30)]

    windows = windows_of(moments, FIRST, day(2014, 2, 1))

    assert [window for window in windows if window.is_probe] == [
        Window(day(2014, 1, 9), day(2014, 2, 1), is_probe=True),
        Window(day(2014, 1, 25), day(2014, 2, 1), is_probe=True),
    ]


@pytest.mark.parametrize("width", Width)
def test_run_with_wide_windows_requests_everything_at_once(width: Width) -> None:
    cursor = ImportCursor(FIRST).with_wide_windows()

    assert cursor.window(NOW, width) == Window(FIRST, NOW, is_probe=True)


def test_widest_probe_with_records_is_narrowed_by_years() -> None:
    cursor = ImportCursor(FIRST).with_wide_windows()
    assert read_pages(cursor, NOW, []).is_complete(NOW)

    narrowed = read_pages(cursor, NOW, ["a"])

    assert narrowed.window(NOW) == Window(FIRST, day(2015, 1, 1), is_probe=True)


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
