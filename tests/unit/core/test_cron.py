"""Cron expressions in a time zone, above all in the nights of daylight saving time."""

from contextlib import suppress
from datetime import UTC, date, datetime, time, timedelta
from itertools import islice, pairwise
from zoneinfo import ZoneInfo

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from accession.core.cron import Cron
from accession.core.errors import InvalidInput
from tests.fixtures.factories import day

BERLIN = ZoneInfo("Europe/Berlin")
SPRING, AUTUMN = date(2024, 3, 31), date(2024, 10, 27)
HOUR = timedelta(hours=1)

zones = st.sampled_from(
    ["Europe/Berlin", "America/New_York", "Australia/Sydney", "Africa/Cairo", "Asia/Kolkata", "UTC"]
)
seconds = st.integers(0, 10 * 365 * 24 * 60 * 60)
moments = seconds.map(lambda number: day(2020, 1, 1) + timedelta(seconds=number))
times_of_day = st.times().map(lambda value: value.replace(second=0, microsecond=0))
lists = st.sampled_from
expressions = st.builds(
    "{} {} {} {} {}".format,
    lists(["*", "*/7", "*/15", "0", "30", "5,35", "10-20"]),
    lists(["*", "*/2", "*/5", "0", "1", "2", "3", "1-4", "2,14"]),
    lists(["*", "1", "31", "25-31", "*/9", "L"]),
    lists(["*", "3", "10", "MAR,OCT"]),
    lists(["*", "0", "SUN", "1-5", "1#1"]),
)


def first(cron: Cron, after: datetime, number: int) -> list[datetime]:
    return list(islice(cron.occurrences(after), number))


def local_times(cron: Cron, after: datetime, number: int) -> list[str]:
    return [f"{each.astimezone(BERLIN):%m-%d %H:%M %Z}" for each in first(cron, after, number)]


def test_daily_time_missing_in_spring_occurs_after_the_gap() -> None:
    cron = Cron("30 2 * * *", "Europe/Berlin")
    assert local_times(cron, day(2024, 3, 29, 12), 3) == [
        "03-30 02:30 CET",
        "03-31 03:00 CEST",
        "04-01 02:30 CEST",
    ]


def test_daily_time_repeated_in_autumn_occurs_once() -> None:
    cron = Cron("30 2 * * *", "Europe/Berlin")
    assert local_times(cron, day(2024, 10, 25, 12), 3) == [
        "10-26 02:30 CEST",
        "10-27 02:30 CEST",
        "10-28 02:30 CET",
    ]


def test_hourly_occurs_in_both_hours_of_autumn() -> None:
    cron = Cron("0 * * * *", "Europe/Berlin")
    assert local_times(cron, day(2024, 10, 26, 23, 30), 4) == [
        "10-27 02:00 CEST",
        "10-27 02:00 CET",
        "10-27 03:00 CET",
        "10-27 04:00 CET",
    ]


def test_hourly_omits_the_missing_hour_of_spring() -> None:
    cron = Cron("0 * * * *", "Europe/Berlin")
    assert local_times(cron, day(2024, 3, 30, 23, 30), 3) == [
        "03-31 01:00 CET",
        "03-31 03:00 CEST",
        "03-31 04:00 CEST",
    ]


@given(times_of_day, moments)
@example(time(2, 30), datetime(2024, 10, 27, 1, 10, tzinfo=UTC))
@example(time(2, 0), datetime(2024, 3, 30, 12, tzinfo=UTC))
def test_daily_occurs_once_on_each_local_day(at: time, after: datetime) -> None:
    cron = Cron(f"{at.minute} {at.hour} * * *", "Europe/Berlin")
    occurrences = [each.astimezone(BERLIN) for each in first(cron, after, 400)]
    days = [each.date() for each in occurrences]
    assert all(later - earlier == timedelta(days=1) for earlier, later in pairwise(days))
    for occurrence in occurrences:
        is_in_gap = occurrence.month == 3 and occurrence.time() != at
        assert occurrence.time() == (time(3) if is_in_gap else at)
        assert not is_in_gap or at.hour == 2


@given(st.integers(0, 59), zones, moments)
def test_hourly_occurs_in_every_hour_of_real_time(minute: int, zone: str, after: datetime) -> None:
    occurrences = first(Cron(f"{minute} * * * *", zone), after, 200)
    assert after < occurrences[0] <= after + HOUR
    assert all(later - earlier == HOUR for earlier, later in pairwise(occurrences))


@given(expressions, zones, moments, st.timedeltas(timedelta(0), timedelta(days=3)))
@example("30 2 * * *", "Europe/Berlin", datetime(2024, 10, 27, 0, 10, tzinfo=UTC), HOUR)
def test_next_occurrence_does_not_depend_on_the_begin(
    expression: str, zone: str, after: datetime, step: timedelta
) -> None:
    """Whoever looks at any time between two occurrences finds the same next one."""
    cron = Cron(expression, zone)
    following = first(cron, after, 3)
    assert following == sorted(set(following))
    assert following[0] > after
    for earlier, later in pairwise([after, *following]):
        assert first(cron, min(earlier + step, later - timedelta(seconds=1)), 1) == [later]


@given(expressions, zones, moments, st.timedeltas(timedelta(0), timedelta(minutes=2)))
def test_remembered_occurrence_is_the_next_one(
    expression: str, zone: str, after: datetime, delay: timedelta
) -> None:
    """It is remembered by the minute, but the moments of a minute may be before and after it."""
    cron = Cron(expression, zone)
    for moment in (after, after + delay):
        assert cron.next_occurrence(moment) == next(cron.occurrences(moment))


@given(expressions, zones)
def test_every_expression_is_described_in_words(expression: str, zone: str) -> None:
    assert Cron(expression, zone).description[0].isupper()


@pytest.mark.parametrize(
    ("expression", "reason"),
    [
        ("", "it must have five fields"),
        ("0 4 * *", "it must have five fields"),
        ("0 0 4 * * *", "it must have five fields"),
        ("0 4 1" + ",1" * 50 + " * *", "it is too long"),
        ("60 4 * * *", "bad minute"),
        ("0 24 * * *", "bad hour"),
        ("0 4 31 2 *", "bad day-of-month"),
        ("0 4 */20 * 1L", "it never occurs"),
    ],
)
def test_invalid_expression_is_rejected_with_the_reason(expression: str, reason: str) -> None:
    with pytest.raises(InvalidInput, match=rf"is invalid \({reason}\): enter minute, hour"):
        Cron(expression, "UTC")


@given(st.text("0123456789*/,-#LWSUNa ²", max_size=30).map("0 4 {}".format))
def test_any_text_is_valid_or_rejected(expression: str) -> None:
    with suppress(InvalidInput):
        assert next(Cron(expression, "Europe/Berlin").occurrences(day(2024, 1, 1)))


@pytest.mark.parametrize("name", ["Mars/Olympus", "", "../etc/passwd", "Europe"])
def test_unknown_time_zone_is_rejected(name: str) -> None:
    with pytest.raises(InvalidInput, match="is not a time zone: enter one such as Europe/Berlin"):
        Cron("0 4 * * *", name)
