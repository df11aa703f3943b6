"""Quiet hours: a daily span of local time in which no messages are sent, such as "22:00-07:00"."""

import re
from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from accession.core.errors import InvalidInput

_FORMAT = re.compile(r"(?P<start>([01]\d|2[0-3]):[0-5]\d)\s?[-–]\s?(?P<end>([01]\d|2[0-3]):[0-5]\d)")


@dataclass(frozen=True)
class QuietHours:
    """A daily span of local time. It ends on the next day if `end` is before `start`."""

    start: time
    end: time
    time_zone: ZoneInfo

    def end_after(self, now: datetime) -> datetime:
        """Return when the quiet hours that contain `now` end (UTC), or `now` if it is in none."""
        local = now.astimezone(self.time_zone)
        clock = local.time().replace(tzinfo=None)
        if self.start < self.end:
            is_quiet, ends_today = self.start <= clock < self.end, True
        else:
            is_quiet, ends_today = clock >= self.start or clock < self.end, clock < self.end
        if not is_quiet:
            return now
        day = local.date() if ends_today else local.date() + timedelta(days=1)
        end = datetime.combine(day, self.end, self.time_zone)
        # An hour of local time that occurs twice ends with its second occurrence.
        if end.astimezone(UTC) <= now:
            end = end.replace(fold=1)
        return max(now, end.astimezone(UTC))


def parse_quiet_hours(text: str, time_zone: str) -> QuietHours:
    """Parse a span such as "22:00-07:00" in a time zone such as Europe/Berlin.

    Raises:
        InvalidInput: it is not such a span, is empty, or the time zone is unknown.
    """
    match = _FORMAT.fullmatch(text.strip())
    if match is None or match["start"] == match["end"]:
        raise InvalidInput(f"The quiet hours {text!r} are invalid: enter them as 22:00-07:00.")
    return QuietHours(
        time.fromisoformat(match["start"]), time.fromisoformat(match["end"]), parse_time_zone(time_zone)
    )


def parse_time_zone(name: str) -> ZoneInfo:
    """Return the time zone.

    Raises:
        InvalidInput: there is none with this name.
    """
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise InvalidInput(f"{name!r} is not a time zone: enter one such as Europe/Berlin or UTC.") from None
