"""The one place that asks what time it is."""

from datetime import UTC, datetime


def utc_now() -> datetime:
    """The present moment in UTC."""
    return datetime.now(UTC)


def whole_second(moment: datetime) -> datetime:
    """`moment` without its fraction of a second: the vendor's dates carry none."""
    return moment.replace(microsecond=0)


def moment_of(text: str) -> datetime:
    """The moment in `text` (ISO 8601), in UTC where it names no zone."""
    moment = datetime.fromisoformat(text)
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment
