"""Tests of parsing times of a person's time zone."""

from datetime import datetime

import pytest

from accession.core.clock import parse_local_datetime
from tests.fixtures.factories import day


@pytest.mark.parametrize(
    ("text", "utc"),
    [
        ("2026-01-15T06:00", day(2026, 1, 15, 5)),
        ("2026-07-15 06:00", day(2026, 7, 15, 4)),
        ("2026-07-15", day(2026, 7, 14, 22)),
        ("2026-07-15T06:00Z", day(2026, 7, 15, 6)),
        ("2026-07-15T06:00-05:00", day(2026, 7, 15, 11)),
    ],
)
def test_time_without_offset_is_local(text: str, utc: datetime) -> None:
    assert parse_local_datetime(text, "Europe/Berlin") == utc


def test_repeated_and_skipped_hours_have_one_meaning() -> None:
    """02:30 occurs twice as clocks are set back, and not at all as they are set forward."""
    assert parse_local_datetime("2026-10-25T02:30", "Europe/Berlin") == day(2026, 10, 25, 0, 30)
    assert parse_local_datetime("2026-03-29T02:30", "Europe/Berlin") == day(2026, 3, 29, 1, 30)


def test_text_that_is_no_time_is_rejected() -> None:
    with pytest.raises(ValueError, match="Invalid isoformat"):
        parse_local_datetime("tomorrow", "Europe/Berlin")
