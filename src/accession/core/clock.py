"""Clock of the program. All times are in UTC."""

from datetime import UTC, datetime
from zoneinfo import ZoneInfo


def utc_now() -> datetime:
    """Return the current time in UTC."""
    return datetime.now(UTC)


def truncate_to_second(time: datetime) -> datetime:
    """Return `time` without fractions of a second, which the vendor's dates cannot express."""
    return time.replace(microsecond=0)


def parse_datetime(text: str) -> datetime:
    """Parse an ISO 8601 date and time; without a time zone it is in UTC."""
    time = datetime.fromisoformat(text)
    return time.replace(tzinfo=UTC) if time.tzinfo is None else time


def parse_local_datetime(text: str, time_zone: str) -> datetime:
    """Parse an ISO 8601 date and time, and return it in UTC; without a time zone it is of `time_zone`.

    A time that occurs twice, when clocks are set back, is the first of both.

    Raises:
        ValueError: the text is not a date and time.
    """
    time = datetime.fromisoformat(text)
    local = time.replace(tzinfo=ZoneInfo(time_zone)) if time.tzinfo is None else time
    return local.astimezone(UTC)
