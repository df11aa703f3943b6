"""Tests of the windows of a purchase import: complete coverage and few requests across gaps."""

from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from accession.imports.windows import ImportCursor, Width, Window
from tests.fixtures.factories import day

FIRST = day(2014, 1, 1)
NOW = day(2016, 3, 9, 10, 30)
SPAN = int((NOW - FIRST).total_seconds())

moments = st.integers(0, SPAN - 1).map(lambda seconds: FIRST + timedelta(seconds=seconds))
purchase_times = st.lists(moments, max_size=40)
widths = st.sampled_from(Width)
starts = st.one_of(st.just(FIRST), moments)


def simulate(
    purchases: Iterable[datetime], start: datetime, now: datetime = NOW, width: Width = Width.DAY
) -> Iterator[tuple[ImportCursor, Window, bool]]:
    """Yield the steps of an import whose windows fit on a page: cursor, window, and if it has records."""
    purchases = sorted(purchases)
    cursor = ImportCursor(start)
    for _ in range(5000):
        if cursor.current_day >= now:
            return
        window = cursor.window(now, width)
        has_records = any(window.start <= moment < window.end for moment in purchases)
        yield cursor, window, has_records
        if window.is_probe:
            cursor = cursor.after_probe(window, has_records=has_records)
        else:
            cursor = cursor.after_page(window, "page", is_full=False, has_records=has_records)
    pytest.fail("the import does not end")


def windows_of(
    purchases: Iterable[datetime], start: datetime, now: datetime = NOW, width: Width = Width.DAY
) -> list[Window]:
    return [window for _, window, _ in simulate(purchases, start, now, width)]


@given(purchase_times, starts, widths)
def test_windows_cover_every_moment_exactly_once(
    purchases: list[datetime], start: datetime, width: Width
) -> None:
    """A probe with records covers nothing: its span is requested again in narrower windows."""
    covered_until = start
    for _, window, has_records in simulate(purchases, start, NOW, width):
        assert window.start == covered_until
        assert window.start < window.end <= NOW
        if not window.is_probe or not has_records:
            covered_until = window.end
    assert covered_until == NOW


@given(purchase_times, starts, widths)
def test_stored_window_is_within_a_day_or_a_whole_month(
    purchases: list[datetime], start: datetime, width: Width
) -> None:
    for window in windows_of(purchases, start, NOW, width):
        last_moment = window.end - timedelta.resolution
        if window.is_month:
            assert width is Width.MONTH
            assert window.start.replace(day=1, hour=0, minute=0, second=0) == window.start
            assert (window.end.day, window.end.hour, last_moment.month) == (1, 0, window.start.month)
        elif not window.is_probe:
            assert window.start.date() == last_moment.date()


@given(purchase_times, starts, widths)
def test_upcoming_windows_are_all_requested_later(
    purchases: list[datetime], start: datetime, width: Width
) -> None:
    upcoming = set[Window]()
    for cursor, window, _ in simulate(purchases, start, NOW, width):
        upcoming.discard(window)
        upcoming |= set(cursor.upcoming_windows(NOW, width))
    assert upcoming == set()


@given(purchase_times)
@settings(max_examples=50)
def test_probe_never_covers_a_known_purchase(purchases: list[datetime]) -> None:
    """A probe with records is followed by narrower windows until the purchase is found."""
    next_sale_bound = FIRST
    for _, window, has_records in simulate(purchases, FIRST):
        if window.is_probe:
            assert window.end < next_sale_bound or window.start >= next_sale_bound
        if window.is_probe and has_records:
            next_sale_bound = window.end
        elif has_records:
            next_sale_bound = window.start


def test_probes_gallop_over_a_gap_by_month_then_by_year() -> None:
    windows = windows_of([], FIRST, day(2016, 2, 3, 4))

    assert [(window.start, window.end) for window in windows[:7]] == [
        (day(2014, 1, n), day(2014, 1, n + 1)) for n in range(1, 8)
    ]
    assert windows[7:] == [
        Window(day(2014, 1, 8), day(2014, 2, 1), is_probe=True),
        Window(day(2014, 2, 1), day(2015, 1, 1), is_probe=True),
        Window(day(2015, 1, 1), day(2016, 1, 1), is_probe=True),
        Window(day(2016, 1, 1), day(2016, 2, 3, 4), is_probe=True),
    ]


def test_probe_with_records_is_narrowed_by_months_then_days() -> None:
    windows = windows_of([day(2014, 4, 3, 12)], FIRST, day(2014, 5, 1))

    assert windows[7:] == [
        Window(day(2014, 1, 8), day(2014, 2, 1), is_probe=True),
        Window(day(2014, 2, 1), day(2014, 5, 1), is_probe=True),
        Window(day(2014, 2, 1), day(2014, 3, 1), is_probe=True),
        Window(day(2014, 3, 1), day(2014, 4, 1), is_probe=True),
        *(Window(day(2014, 4, n), day(2014, 4, n + 1)) for n in range(1, 11)),
        Window(day(2014, 4, 11), day(2014, 5, 1), is_probe=True),
    ]


def test_weekly_purchases_are_imported_without_probes() -> None:
    windows = windows_of((FIRST + timedelta(days=7 * week) for week in range(200)), FIRST)

    assert len(windows) == (NOW - FIRST).days + 1
    assert not any(window.is_probe for window in windows)


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
def test_daily_import_requests_rest_of_yesterday_and_today(width: Width) -> None:
    assert windows_of([], day(2024, 2, 29, 4), day(2024, 3, 1, 4), width) == [
        Window(day(2024, 2, 29, 4), day(2024, 3, 1)),
        Window(day(2024, 3, 1), day(2024, 3, 1, 4)),
    ]


def test_window_end_stays_the_same_for_all_pages() -> None:
    cursor = ImportCursor(day(2024, 3, 1))
    window = cursor.window(day(2024, 3, 1, 4))

    second_page = cursor.after_page(window, "fingerprint", is_full=True, has_records=True)

    assert second_page == ImportCursor(day(2024, 3, 1), 51, "fingerprint", day(2024, 3, 1, 4))
    assert second_page.window(day(2024, 3, 2, 4)) == window
    next_window = second_page.after_page(window, "another", is_full=False, has_records=True)
    assert next_window == ImportCursor(day(2024, 3, 1, 4))


def test_seven_years_before_the_first_purchase_cost_little() -> None:
    purchases = [day(2021, 6, 17, 9) + timedelta(days=n) for n in range(60)]
    windows = windows_of(purchases, FIRST, day(2021, 9, 1))
    windows_before = [window for window in windows if window.end <= purchases[0]]

    # At most 150 requests, even if each window is requested twice because its response was blank.
    assert 2 * len(windows_before) <= 150
    assert len(windows_before) == 7 + 1 + 7 + 5 + 16


def test_window_end_is_in_utc() -> None:
    local_time = datetime.fromisoformat("2024-03-01T00:30:00+02:00")
    window = ImportCursor(local_time).window(NOW.replace(year=2025))

    assert window.end == day(2024, 3, 1)
    assert window.end.tzinfo is UTC
