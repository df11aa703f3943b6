"""Options of digests: their schedule, above all in the nights of daylight saving time, and their checks."""

from datetime import datetime
from itertools import islice
from zoneinfo import ZoneInfo

import pytest

from accession.core.errors import InvalidInput
from accession.digests.options import MAX_RECIPIENTS, DigestOptions, Frequency, Weekday
from tests.fixtures.factories import day

BERLIN = ZoneInfo("Europe/Berlin")


def local_times(options: DigestOptions, after: datetime, number: int) -> list[str]:
    times = islice(options.cron.occurrences(after), number)
    return [f"{each.astimezone(BERLIN):%a %m-%d %H:%M %Z}" for each in times]


def test_daily_digest_of_spring_night_is_made_once() -> None:
    options = DigestOptions(Frequency.DAILY, time="02:30", time_zone="Europe/Berlin")
    assert local_times(options, day(2024, 3, 29, 12), 3) == [
        "Sat 03-30 02:30 CET",
        "Sun 03-31 03:00 CEST",
        "Mon 04-01 02:30 CEST",
    ]


def test_daily_digest_of_autumn_night_is_made_once() -> None:
    options = DigestOptions(Frequency.DAILY, time="02:30", time_zone="Europe/Berlin")
    assert local_times(options, day(2024, 10, 25, 12), 3) == [
        "Sat 10-26 02:30 CEST",
        "Sun 10-27 02:30 CEST",
        "Mon 10-28 02:30 CET",
    ]


def test_weekly_digest_keeps_its_local_time() -> None:
    options = DigestOptions(Frequency.WEEKLY, Weekday.SUNDAY, "02:00", "Europe/Berlin")
    assert local_times(options, day(2024, 3, 20), 3) == [
        "Sun 03-24 02:00 CET",
        "Sun 03-31 03:00 CEST",
        "Sun 04-07 02:00 CEST",
    ]


@pytest.mark.parametrize("weekday", Weekday)
def test_weekly_digest_is_made_on_its_day(weekday: Weekday) -> None:
    options = DigestOptions(weekday=weekday, time_zone="UTC")
    (occurrence,) = islice(options.cron.occurrences(day(2024, 4, 24)), 1)
    assert f"{occurrence:%A %H:%M}".lower() == f"{weekday} 07:00"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (DigestOptions(time="7:00"), "The time '7:00' of the digest is invalid: enter it as 07:00."),
        (DigestOptions(time="24:00"), "The time '24:00'"),
        (DigestOptions(time_zone="Berlin"), "'Berlin' is not a time zone"),
        (DigestOptions(recipients=("ann",)), "The recipient 'ann' is invalid"),
        (DigestOptions(recipients=("a@b.example\nBcc: c@d.example",)), "is invalid"),
        (DigestOptions(recipients=("a@b.example,c@d.example",)), "is invalid"),
        (DigestOptions(max_titles=0), "cannot list 0 titles per section: enter 1 to 200"),
        (
            DigestOptions(recipients=tuple(f"a{n}@b.example" for n in range(MAX_RECIPIENTS + 1))),
            "has 51 recipients: enter at most 50",
        ),
    ],
)
def test_invalid_option_is_rejected(options: DigestOptions, message: str) -> None:
    with pytest.raises(InvalidInput) as error:
        options.checked()
    assert message in str(error.value)


def test_repeated_and_empty_recipients_are_left_out() -> None:
    options = DigestOptions(recipients=(" a@b.example ", "", "a@b.example", "c@d.example"), time_zone="UTC")
    assert options.checked().recipients == ("a@b.example", "c@d.example")
