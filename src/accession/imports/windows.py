"""Choose the time windows that a purchase import requests, and skip long spans without purchases.

A window is a day by default, so that every title gets the day of its purchase: the vendor's records do
not carry it. Gaps (spans without purchases) are skipped by galloping search, also known as exponential
search: after some empty days a probe requests the rest of the month, after an empty month the rest of the
year. An empty probe is skipped as a whole; one with purchases is narrowed down to months and then days.
"""

from bisect import bisect_left
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from enum import StrEnum
from itertools import accumulate

from accession.bibliotheca.client import MAX_ITEMS, PAGE_SIZE

EMPTY_DAYS_BEFORE_PROBE = 7


class Width(StrEnum):
    """The width of the windows whose records are stored."""

    DAY = "day"
    MONTH = "month"
    """Calendar months that have ended; days where a month has begun or is not over yet."""


@dataclass(frozen=True)
class Window:
    """The time span `[start, end)` in UTC of one request for purchase records.

    The records of a probe are not stored: it only tells whether the span holds any.
    """

    start: datetime
    end: datetime
    is_probe: bool = False

    @property
    def is_month(self) -> bool:
        """Return whether the records' month is known, but not their day."""
        return not self.is_probe and self.end > _next_day(self.start)


@dataclass(frozen=True)
class ImportCursor:
    """The position of an import between two pages.

    `current_day` (UTC) is the start of the current window and `offset` (1-based) that of its next page.
    `window_end` and `previous_page` (a fingerprint of its records) are set between two pages of a window.
    The end stays the same for all pages: if it moved with the present, a new purchase could shift
    records to offsets that have already been read. `empty_windows` counts the empty windows just
    before this one, up to one more than a probe needs. `next_sale_bound`, where known, is a time before
    which at least one purchase follows `current_day`.
    """

    current_day: datetime
    offset: int = 1
    previous_page: str | None = None
    window_end: datetime | None = None
    empty_windows: int = 0
    next_sale_bound: datetime | None = None

    def window(self, now: datetime, width: Width = Width.DAY) -> Window:
        """Return the window to request next; it ends at `now` (UTC) at the latest."""
        if self.window_end is not None:
            return Window(self.current_day, self.window_end)
        next_day, next_month = _next_day(self.current_day), _next_month(self.current_day)
        is_first_of_month = _next_month(self.current_day - _TICK) == self.current_day
        if width is Width.MONTH and is_first_of_month and next_month <= now:
            return Window(self.current_day, next_month)
        for probe_end in self._probe_ends(next_month):
            end = min(probe_end, now)
            # A probe up to the bound or beyond is known not to be empty.
            if end > next_day and (self.next_sale_bound is None or end < self.next_sale_bound):
                return Window(self.current_day, end, is_probe=True)
        return Window(self.current_day, min(next_day, now))

    def _probe_ends(self, next_month: datetime) -> Iterator[datetime]:
        if self.empty_windows > EMPTY_DAYS_BEFORE_PROBE:
            yield _next_year(self.current_day)
        if self.empty_windows >= EMPTY_DAYS_BEFORE_PROBE:
            yield next_month

    def after_page(
        self, window: Window, fingerprint: str, *, is_full: bool, has_records: bool
    ) -> "ImportCursor":
        """Return the cursor after a page: at the window's next page, or at the next window.

        `has_records` says whether the window has any records, on this page or an earlier one.
        """
        if is_full:
            return replace(
                self,
                offset=self.offset + PAGE_SIZE,
                previous_page=fingerprint,
                window_end=window.end,
            )
        return self._after_window(window, has_records=has_records)

    def after_probe(self, window: Window, *, has_records: bool) -> "ImportCursor":
        """Return the cursor after a probe: past an empty one, else at the same day with a sale bound."""
        if has_records:
            return replace(self, next_sale_bound=window.end)
        return self._after_window(window, has_records=False)

    def _after_window(self, window: Window, *, has_records: bool) -> "ImportCursor":
        if has_records:
            return ImportCursor(window.end)
        bound = self.next_sale_bound
        return ImportCursor(
            window.end,
            empty_windows=min(self.empty_windows + 1, EMPTY_DAYS_BEFORE_PROBE + 1),
            next_sale_bound=bound if bound is not None and bound > window.end else None,
        )

    def upcoming_windows(self, now: datetime, width: Width = Width.DAY) -> Iterator[Window]:
        """Yield the windows that follow this one in any case, whether they hold purchases or not.

        Windows that end at `now` are left out, since they will be longer by the time they are due. At most
        seven are looked at: a purchase found in one of them could change which probe comes after them.
        """
        cursor, window = self, self.window(now, width)
        for _ in range(EMPTY_DAYS_BEFORE_PROBE):
            if window.is_probe:
                return
            cursor = cursor._after_window(window, has_records=False)
            window = cursor.window(now, width)
            if not window.is_probe and window.end < now:
                yield window


def count_requests(
    titles_by_day: Mapping[date, int], start: datetime, now: datetime, width: Width = Width.DAY
) -> int:
    """Return the number of requests of an import from `start` to `now` for so many titles per purchase day.

    Pages, probes and metadata requests for all titles are counted; repeated requests after a blank
    response are not.
    """
    days = sorted(titles_by_day)
    cumulative = list(accumulate((titles_by_day[day] for day in days), initial=0))

    def titles_in(window: Window) -> int:
        first, last = (
            bisect_left(days, moment.date()) for moment in (window.start, _next_day(window.end - _TICK))
        )
        return cumulative[last] - cumulative[first]

    requests, cursor = 0, ImportCursor(start)
    while cursor.current_day < now:
        window = cursor.window(now, width)
        titles = titles_in(window)
        requests += 1
        if window.is_probe:
            cursor = cursor.after_probe(window, has_records=titles > 0)
            continue
        full_pages, rest = divmod(titles, PAGE_SIZE)
        requests += full_pages + full_pages * -(-PAGE_SIZE // MAX_ITEMS) + -(-rest // MAX_ITEMS)
        cursor = cursor.after_page(window, "", is_full=False, has_records=titles > 0)
    return requests


_TICK = timedelta.resolution


def _next_day(moment: datetime) -> datetime:
    midnight = moment.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    return midnight + timedelta(days=1)


def _next_month(moment: datetime) -> datetime:
    # 28 days after the 4th of any month lies in the next month.
    fourth = moment.astimezone(UTC).replace(day=4, hour=0, minute=0, second=0, microsecond=0)
    return (fourth + timedelta(days=28)).replace(day=1)


def _next_year(moment: datetime) -> datetime:
    return _next_month(moment.astimezone(UTC).replace(month=12))
