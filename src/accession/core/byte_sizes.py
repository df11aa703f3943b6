"""Sizes in bytes, for people."""

from rich.filesize import decimal


def format_bytes(size: int) -> str:
    """Return a size such as "12.3 MB"; a negative one has a minus sign."""
    return f"-{decimal(-size)}" if size < 0 else decimal(size)


def format_growth(bytes_per_day: float | None) -> str:
    """Return a growth such as "12.3 MB per day"; nothing if it is unknown."""
    return "" if bytes_per_day is None else f"{format_bytes(round(bytes_per_day))} per day"
