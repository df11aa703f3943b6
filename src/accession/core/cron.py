"""Cron expressions in a time zone."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from cronsim import CronSim, CronSimError

from accession.core.errors import InvalidInput

MAX_LENGTH = 100
_FIELDS = 5
_FIRST_YEAR = datetime(2000, 1, 1, tzinfo=UTC)


def time_zone(name: str) -> ZoneInfo:
    """Return the time zone of this name.

    Raises:
        InvalidInput: there is none.
    """
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise InvalidInput(f"{name!r} is not a time zone: enter one such as Europe/Berlin or UTC.") from None


@dataclass(frozen=True)
class Cron:
    """A cron expression of five fields, evaluated in a time zone, as Debian's cron does.

    A time of day that the clock skips in spring occurs right after the change of the clock, and one that it
    repeats in autumn occurs once. An expression whose minute or hour begins with `*` occurs in every hour of
    real time instead.

    Raises:
        InvalidInput: the expression or the time zone is invalid.
    """

    expression: str
    time_zone: str

    def __post_init__(self) -> None:
        time_zone(self.time_zone)
        try:
            if len(self.expression) > MAX_LENGTH:
                raise CronSimError("it is too long")
            if len(self.expression.split()) != _FIELDS:
                raise CronSimError("it must have five fields")
            next(CronSim(self.expression, _FIRST_YEAR))
        except CronSimError as error:
            raise _invalid_expression(self.expression, str(error)) from None
        except StopIteration:
            raise _invalid_expression(self.expression, "it never occurs") from None

    @property
    def description(self) -> str:
        """Return the expression in words, such as "At 02:30 every day"."""
        return CronSim(self.expression, _FIRST_YEAR).explain()

    def next_occurrence(self, after: datetime) -> datetime:
        """Return the first time (UTC) after a time at which the expression occurs."""
        # It is the same for all times of a minute: lists of many collections ask for it again and again.
        return _next_occurrence(self, after.astimezone(UTC).replace(second=0, microsecond=0))

    def occurrences(self, after: datetime) -> Iterator[datetime]:
        """Yield the times (UTC) after a time at which the expression occurs, in ascending order."""
        for occurrence in CronSim(self.expression, after.astimezone(ZoneInfo(self.time_zone))):
            utc = occurrence.astimezone(UTC)
            # In the repeated hour of autumn, CronSim begins with the first of the two.
            if utc > after:
                yield utc


@lru_cache(maxsize=8192)
def _next_occurrence(cron: Cron, time: datetime) -> datetime:
    return next(cron.occurrences(time))


def _invalid_expression(expression: str, reason: str) -> InvalidInput:
    return InvalidInput(
        f"The cron expression {expression[:MAX_LENGTH]!r} is invalid ({reason[0].lower()}{reason[1:]}): "
        "enter minute, hour, day of month, month and day of week, such as 30 2 * * *."
    )
