"""Quiet hours in local time, also where clocks change."""

from datetime import UTC, datetime, time, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from accession.core.errors import InvalidInput
from accession.notifications.quiet_hours import QuietHours, parse_quiet_hours, parse_time_zone

BERLIN = "Europe/Berlin"
MINUTES = st.times().map(lambda value: value.replace(second=0, microsecond=0))
ZONES = st.sampled_from(["UTC", BERLIN, "America/New_York", "Asia/Kolkata", "Australia/Lord_Howe"])
TIMES = st.datetimes(datetime(2024, 1, 1), datetime(2025, 12, 31), timezones=st.just(UTC))  # noqa: DTZ001


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


@pytest.mark.parametrize(
    ("now", "end"),
    [
        ("2024-07-01T19:59", "2024-07-01T19:59"),
        ("2024-07-01T20:00", "2024-07-02T05:00"),
        ("2024-07-01T23:30", "2024-07-02T05:00"),
        ("2024-07-02T04:59", "2024-07-02T05:00"),
        ("2024-07-02T05:00", "2024-07-02T05:00"),
        # Winter time: one hour later in UTC.
        ("2024-12-31T22:00", "2025-01-01T06:00"),
        # The nights on which the clocks change.
        ("2024-03-30T22:00", "2024-03-31T05:00"),
        ("2024-10-26T21:00", "2024-10-27T06:00"),
    ],
)
def test_quiet_hours_end_at_their_local_time(now: str, end: str) -> None:
    hours = parse_quiet_hours("22:00-07:00", BERLIN)
    assert hours.end_after(utc(now)) == utc(end)


@given(start=MINUTES, end=MINUTES, zone=ZONES, now=TIMES)
def test_end_of_quiet_hours_is_soon_and_at_the_end_time(
    start: time, end: time, zone: str, now: datetime
) -> None:
    if start == end:
        return
    ends_at = QuietHours(start, end, ZoneInfo(zone)).end_after(now)
    assert now <= ends_at <= now + timedelta(hours=26)
    if ends_at > now:
        local = ends_at.astimezone(ZoneInfo(zone))
        # An end within the hour that is left out in spring comes an hour later.
        later = (datetime.combine(local.date(), end) + timedelta(hours=1)).time()
        half_later = (datetime.combine(local.date(), end) + timedelta(minutes=30)).time()
        assert local.time() in (end, later, half_later)


@pytest.mark.parametrize("text", ["22-7", "22:00", "25:00-07:00", "07:00-07:00", "22:00-07:60", "now"])
def test_invalid_quiet_hours_are_rejected(text: str) -> None:
    with pytest.raises(InvalidInput, match="enter them as 22:00-07:00"):
        parse_quiet_hours(text, BERLIN)


@pytest.mark.parametrize("name", ["Mars/Base", "../etc/passwd", "\0"])
def test_unknown_time_zone_is_rejected(name: str) -> None:
    with pytest.raises(InvalidInput, match="is not a time zone"):
        parse_time_zone(name)
