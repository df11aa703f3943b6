"""Which windows are asked for: every moment once, deserts as few times as can be, and nothing in vain."""

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from accession.imports.windows import Place, Width, Window
from tests.fixtures.factories import day

FIRST = day(2014, 1, 1)
NOW = day(2016, 3, 9, 10, 30)
SPAN = int((NOW - FIRST).total_seconds())

moments = st.integers(0, SPAN - 1).map(lambda seconds: FIRST + timedelta(seconds=seconds))
sales = st.lists(moments, max_size=40)
widths = st.sampled_from(Width)
starts = st.one_of(st.just(FIRST), moments)


def walk(
    sold: Iterable[datetime], start: datetime, now: datetime = NOW, width: Width = Width.DAY
) -> list[Window]:
    """The windows of an import, one page each, of a vendor that has sold something at these moments."""
    sold = sorted(sold)
    place, asked = Place(start), []
    while place.current_day < now:
        window = place.window(now, width)
        asked.append(window)
        found = any(window.start <= moment < window.end for moment in sold)
        if window.leap:
            place = place.after_leap(window, sold=found)
        else:
            place = place.after_page(window, "page", full=False, sold=found)
        assert len(asked) < 5000, "it does not come to an end"
    return asked


def stored(windows: Iterable[Window]) -> list[Window]:
    return [window for window in windows if not window.leap]


@given(sales, starts, widths)
def test_every_moment_is_in_one_window_that_is_stored_or_in_an_empty_one(
    sold: list[datetime], start: datetime, width: Width
) -> None:
    reached = start
    for window in walk(sold, start, NOW, width):
        assert window.start == reached
        empty = not any(window.start <= moment < window.end for moment in sold)
        assert window.start < window.end <= NOW
        if not window.leap or empty:
            reached = window.end
    assert reached == NOW


@given(sales, starts, widths)
def test_a_stored_window_is_within_a_day_or_is_a_whole_month_that_is_past(
    sold: list[datetime], start: datetime, width: Width
) -> None:
    for window in stored(walk(sold, start, NOW, width)):
        last = window.end - timedelta.resolution
        if window.is_month:
            assert width is Width.MONTH
            assert window.start.replace(day=1, hour=0, minute=0, second=0) == window.start
            assert (window.end.day, window.end.hour, last.month) == (1, 0, window.start.month)
        else:
            assert window.start.date() == last.date()


@given(sales, starts, widths)
def test_what_is_asked_for_ahead_is_asked_for_in_its_turn(
    sold: list[datetime], start: datetime, width: Width
) -> None:
    place, ahead = Place(start), set[Window]()
    while place.current_day < NOW:
        window = place.window(NOW, width)
        ahead.discard(window)
        ahead |= set(place.windows_ahead(NOW, width))
        found = any(window.start <= moment < window.end for moment in sold)
        if window.leap:
            place = place.after_leap(window, sold=found)
        else:
            place = place.after_page(window, "page", full=False, sold=found)
    assert ahead == set()


@given(sales)
@settings(max_examples=50)
def test_no_window_is_known_to_hold_something_and_leapt_over_in_vain(sold: list[datetime]) -> None:
    """A leap that finds something is followed by narrower windows until that is found."""
    known_until = FIRST
    for window in walk(sold, FIRST):
        found = any(window.start <= moment < window.end for moment in sold)
        if window.leap:
            assert window.end < known_until or window.start >= known_until
        if window.leap and found:
            known_until = window.end
        elif found:
            known_until = window.start


def test_after_seven_empty_days_the_rest_of_the_month_is_asked_for_and_then_that_of_the_year() -> None:
    windows = walk([], FIRST, day(2016, 2, 3, 4))

    assert [(w.start, w.end) for w in windows[:7]] == [
        (day(2014, 1, n), day(2014, 1, n + 1)) for n in range(1, 8)
    ]
    assert windows[7:] == [
        Window(day(2014, 1, 8), day(2014, 2, 1), leap=True),
        Window(day(2014, 2, 1), day(2015, 1, 1), leap=True),
        Window(day(2015, 1, 1), day(2016, 1, 1), leap=True),
        Window(day(2016, 1, 1), day(2016, 2, 3, 4), leap=True),
    ]


def test_a_leap_that_finds_something_comes_nearer_by_months_and_then_by_days() -> None:
    windows = walk([day(2014, 4, 3, 12)], FIRST, day(2014, 5, 1))

    assert windows[7:] == [
        Window(day(2014, 1, 8), day(2014, 2, 1), leap=True),
        Window(day(2014, 2, 1), day(2014, 5, 1), leap=True),
        Window(day(2014, 2, 1), day(2014, 3, 1), leap=True),
        Window(day(2014, 3, 1), day(2014, 4, 1), leap=True),
        *(Window(day(2014, 4, n), day(2014, 4, n + 1)) for n in range(1, 11)),
        Window(day(2014, 4, 11), day(2014, 5, 1), leap=True),
    ]


def test_days_with_something_in_every_week_are_all_asked_for_one_by_one() -> None:
    windows = walk((FIRST + timedelta(days=7 * week) for week in range(200)), FIRST)

    assert len(windows) == (NOW - FIRST).days + 1
    assert not any(window.leap for window in windows)


def test_a_month_that_is_past_is_one_window_where_months_are_meant() -> None:
    assert walk([], day(2014, 1, 30, 5), day(2014, 4, 3, 4), Width.MONTH) == [
        Window(day(2014, 1, 30, 5), day(2014, 1, 31)),
        Window(day(2014, 1, 31), day(2014, 2, 1)),
        Window(day(2014, 2, 1), day(2014, 3, 1)),
        Window(day(2014, 3, 1), day(2014, 4, 1)),
        Window(day(2014, 4, 1), day(2014, 4, 2)),
        Window(day(2014, 4, 2), day(2014, 4, 3)),
        Window(day(2014, 4, 3), day(2014, 4, 3, 4)),
    ]


@pytest.mark.parametrize("width", Width)
def test_the_daily_import_asks_for_the_rest_of_yesterday_and_what_of_today_is_past(width: Width) -> None:
    assert walk([], day(2024, 2, 29, 4), day(2024, 3, 1, 4), width) == [
        Window(day(2024, 2, 29, 4), day(2024, 3, 1)),
        Window(day(2024, 3, 1), day(2024, 3, 1, 4)),
    ]


def test_in_the_midst_of_a_window_its_end_stays() -> None:
    place = Place(day(2024, 3, 1))
    window = place.window(day(2024, 3, 1, 4))

    inside = place.after_page(window, "a page", full=True, sold=True)

    assert inside == Place(day(2024, 3, 1), 51, "a page", day(2024, 3, 1, 4))
    assert inside.window(day(2024, 3, 2, 4)) == window
    assert inside.after_page(window, "another", full=False, sold=True) == Place(day(2024, 3, 1, 4))


def test_a_library_that_bought_first_in_2021_pays_little_for_the_seven_years_before() -> None:
    sold = [day(2021, 6, 17, 9) + timedelta(days=n) for n in range(60)]
    before = [window for window in walk(sold, FIRST, day(2021, 9, 1)) if window.end <= sold[0]]

    # Were each of them answered by a blank, and so asked for twice, they would be 150 at the most.
    assert 2 * len(before) <= 150
    assert len(before) == 7 + 1 + 7 + 5 + 16


def test_the_end_of_a_window_is_in_utc() -> None:
    here = datetime.fromisoformat("2024-03-01T00:30:00+02:00")
    assert Place(here).window(NOW.replace(year=2025)).end == day(2024, 3, 1)
    assert Place(here).window(NOW.replace(year=2025)).end.tzinfo is UTC
