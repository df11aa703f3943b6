"""Which span of time the import of purchases asks for next, and what it learns from the answer.

A day is the unit, so that each title keeps the day of its purchase, which the vendor's records do not
carry. Where nothing was sold for a while the import leaps: it asks once for a wide window, and goes on
behind it when that is empty; when it is not, the import comes nearer to what was sold in it by narrower
ones, and at last by days.
"""

from bisect import bisect_left
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from enum import StrEnum
from itertools import accumulate

from accession.bibliotheca.client import MOST_ITEMS, PAGE_SIZE

QUIET_DAYS = 7


class Width(StrEnum):
    """How wide the windows are whose records are stored."""

    DAY = "day"
    MONTH = "month"
    """Calendar months where a whole one is past and begins the window; days elsewhere."""


@dataclass(frozen=True)
class Window:
    """The span `[start, end)`, in UTC. Of a `leap` nothing is stored: it is asked for to learn whether
    anything was sold."""

    start: datetime
    end: datetime
    leap: bool = False

    @property
    def is_month(self) -> bool:
        """Whether its records are known to be of a month, and not of which day."""
        return not self.leap and self.end > _next_day(self.start)


@dataclass(frozen=True)
class Place:
    """Where an import stands between two pages.

    The next window starts with `current_day` (UTC). In its midst `window_end` is the end that it began with
    (were it moved on from page to page, a purchase made meanwhile could shift the others to offsets that
    have been read already), `offset` (1-based) is the next page's, and `previous_page` the fingerprint of
    the page before. `empty` counts the windows just before that held nothing, as far as that matters.
    Where `sold_before` is known, something was sold between `current_day` and then.
    """

    current_day: datetime
    offset: int = 1
    previous_page: str | None = None
    window_end: datetime | None = None
    empty: int = 0
    sold_before: datetime | None = None

    def window(self, now: datetime, width: Width = Width.DAY) -> Window:
        """The window to ask for; no part of it lies behind `now` (UTC)."""
        if self.window_end is not None:
            return Window(self.current_day, self.window_end)
        day, month = min(_next_day(self.current_day), now), _next_month(self.current_day)
        if (
            width is Width.MONTH
            and _next_month(self.current_day - _MOMENT) == self.current_day
            and month <= now
        ):
            return Window(self.current_day, month)
        for end in self._leaps(month):
            until = min(end, now)
            if until > day and (self.sold_before is None or until < self.sold_before):
                return Window(self.current_day, until, leap=True)
        return Window(self.current_day, day)

    def _leaps(self, month: datetime) -> Iterator[datetime]:
        if self.empty > QUIET_DAYS:
            yield _next_year(self.current_day)
        if self.empty >= QUIET_DAYS:
            yield month

    def after_page(self, window: Window, fingerprint: str, *, full: bool, sold: bool) -> "Place":
        """The place behind a page of the window: its next page after a full one, else the next window.

        `sold` says whether the page held records, or any before it in the window did.
        """
        if full:
            return replace(
                self,
                offset=self.offset + PAGE_SIZE,
                previous_page=fingerprint,
                window_end=window.end,
            )
        return self._behind(window, sold=sold)

    def after_leap(self, window: Window, *, sold: bool) -> "Place":
        """The place behind an empty leap; the same one, with what is known now, when something was sold."""
        return replace(self, sold_before=window.end) if sold else self._behind(window, sold=False)

    def _behind(self, window: Window, *, sold: bool) -> "Place":
        known = None if sold or (self.sold_before or window.end) <= window.end else self.sold_before
        empty = 0 if sold else min(self.empty + 1, QUIET_DAYS + 1)
        return Place(window.end, empty=empty, sold_before=known)

    def windows_ahead(self, now: datetime, width: Width = Width.DAY) -> Iterator[Window]:
        """The windows that will be asked for after the present one, whatever is sold in it and in them.

        None is cut off by `now`: by the time it is its turn, more of it would be past. Nor is any more than
        seven away, before which something may be sold, and the next leap then be another.
        """
        place, window = self, self.window(now, width)
        for _ in range(QUIET_DAYS):
            if window.leap:
                return
            place = place._behind(window, sold=False)
            window = place.window(now, width)
            if not window.leap and window.end < now:
                yield window


def requests_of(sold: Mapping[date, int], start: datetime, now: datetime, width: Width = Width.DAY) -> int:
    """How many requests an import from `start` to `now` makes of a vendor that has sold so many titles on
    each day: pages, leaps, and look-ups of all titles, without second looks at blank answers."""
    days = sorted(sold)
    until = list(accumulate((sold[day] for day in days), initial=0))

    def within(window: Window) -> int:
        first, last = (
            bisect_left(days, moment.date()) for moment in (window.start, _next_day(window.end - _MOMENT))
        )
        return until[last] - until[first]

    requests, place = 0, Place(start)
    while place.current_day < now:
        window = place.window(now, width)
        titles = within(window)
        requests += 1
        if window.leap:
            place = place.after_leap(window, sold=titles > 0)
            continue
        full, rest = divmod(titles, PAGE_SIZE)
        requests += full + full * -(-PAGE_SIZE // MOST_ITEMS) + -(-rest // MOST_ITEMS)
        place = place.after_page(window, "", full=False, sold=titles > 0)
    return requests


_MOMENT = timedelta.resolution


def _next_day(moment: datetime) -> datetime:
    midnight = moment.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    return midnight + timedelta(days=1)


def _next_month(moment: datetime) -> datetime:
    # Twenty-eight days after its 4th every month has ended, and the next has not.
    day = moment.astimezone(UTC).replace(day=4, hour=0, minute=0, second=0, microsecond=0)
    return (day + timedelta(days=28)).replace(day=1)


def _next_year(moment: datetime) -> datetime:
    return _next_month(moment.astimezone(UTC).replace(month=12))
