"""The one place that asks what time it is."""

from datetime import UTC, datetime


def utc_now() -> datetime:
    """The present moment in UTC."""
    return datetime.now(UTC)


def whole_second(moment: datetime) -> datetime:
    """`moment` without its fraction of a second: the vendor's dates carry none."""
    return moment.replace(microsecond=0)
