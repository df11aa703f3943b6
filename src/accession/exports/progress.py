"""Progress reports of exports."""

from collections.abc import Callable, Iterable, Iterator
from typing import TypeAlias, TypeVar

Progress: TypeAlias = Callable[[int], None]
"""Function that is called with the number of titles done so far."""

T = TypeVar("T")

_INTERVAL = 500


def report_progress(items: Iterable[T], progress: Progress) -> Iterator[T]:
    """Yield the items and report their number to `progress`: after every 500th, and at the end."""
    done = 0
    for item in items:
        yield item
        done += 1
        if done % _INTERVAL == 0:
            progress(done)
    progress(done)
