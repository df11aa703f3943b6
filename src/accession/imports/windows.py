"""Choose the requests of a purchase import, and conclude from the responses up to when it is complete.

A window is a day by default, so that every title gets the day of its purchase: the vendor's records do not
carry it. Gaps (spans without purchases) are skipped by galloping search, also known as exponential search:
after some empty days a probe requests the rest of the month, after an empty month the rest of the year, and
after an empty year everything. An empty probe is skipped as a whole; one with purchases is narrowed down to
months and then days, until every record that it has listed is imported.

An empty body proves nothing, because the vendor also sends it while it is broken. Therefore each request
begins with a record that is already known, the anchor: the time span of the request starts before the
window, and its offset is the anchor's position. The anchor is then the first record of the response, also
when the window is empty. Any other first record means that records of the span were added, withdrawn or not
listed before: the import goes back to the start of the span.
"""

from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from enum import StrEnum
from itertools import accumulate

from accession.bibliotheca.client import MAX_ITEMS, PAGE_SIZE

EMPTY_DAYS_BEFORE_PROBE = 7
_MAX_EMPTY_DAYS_BEFORE_PROBE = 56
_MAX_LISTED_KEYS = 100
_MAX_PREFETCHED_RECORDS = 10
_MAX_EMPTY_WINDOWS = _MAX_EMPTY_DAYS_BEFORE_PROBE + 2


class Width(StrEnum):
    """The width of the windows whose records are stored."""

    DAY = "day"
    MONTH = "month"
    """Calendar months that have ended; days where a month has begun or is not over yet."""


@dataclass(frozen=True)
class Window:
    """The time span `[start, end)` in UTC whose records are to be imported.

    The records of a probe are not stored: it only lists what the span holds. A check is a probe of a span
    that has been imported, with records that are known.
    """

    start: datetime
    end: datetime
    is_probe: bool = False
    is_check: bool = False

    @property
    def is_month(self) -> bool:
        """Return whether the records' month is known, but not their day."""
        return not self.is_probe and self.end > _next_day(self.start)


@dataclass(frozen=True)
class PageRequest:
    """A request for a page of the records of `[start, end)` (UTC), from the 1-based `offset`.

    `may_be_empty` is False if a known record is at that offset.
    """

    start: datetime
    end: datetime
    offset: int = 1
    may_be_empty: bool = True


@dataclass(frozen=True)
class Anchor:
    """The last known record: `position` (1-based) in the time span from `span_start` (UTC), and its key."""

    span_start: datetime
    position: int
    key: str


@dataclass(frozen=True)
class ProbedSpan:
    """A time span whose probe had records: the keys of those not imported yet.

    `keys` is None if the probe's page was full, so that it did not list all records.
    """

    start: datetime
    end: datetime
    keys: tuple[str, ...] | None


@dataclass(frozen=True)
class PageReading:
    """Conclusions from one response.

    Attributes:
        next_cursor: where the import continues.
        known_records: number of records at the start of the page that are known already; None if the page
            does not continue the earlier ones, and the import goes back.
    """

    next_cursor: "ImportCursor"
    known_records: int | None


@dataclass(frozen=True)
class ImportCursor:
    """The position of an import between two pages.

    Attributes:
        current_day: start (UTC) of the current window: everything before has been requested.
        offset: number (1-based) of the window's next record.
        window_end: end of the window between two of its pages, else None. It stays the same for all pages:
            if it moved with the present, a new purchase could shift records to other offsets.
        confirmed: everything before (UTC) is known to be imported; None for `current_day`.
        anchor: the last record of this import, or None before the first.
        probed: spans to narrow down, each within the one before it.
        empty_windows: number of empty windows just before this one, up to a limit.
        days_before_probe: number of empty windows after which a probe is made. It doubles after a probe of a
            month whose page was full, as that tells little, and is reset by any other.
        setback: the furthest time (UTC) from which the import has gone back; None once `confirmed` is later.
        restarts: number of times that the import has gone back since `setback` was None.
        records: number of records read so far, those read again counted again.
        check_start: start of the check in progress; it ends at `window_end`.
        until: end of the import; None for the present. A check sets it, so that it confirms everything.
    """

    current_day: datetime
    offset: int = 1
    window_end: datetime | None = None
    confirmed: datetime | None = None
    anchor: Anchor | None = None
    probed: tuple[ProbedSpan, ...] = ()
    empty_windows: int = 0
    days_before_probe: int = EMPTY_DAYS_BEFORE_PROBE
    restarts: int = 0
    setback: datetime | None = None
    records: int = 0
    check_start: datetime | None = None
    until: datetime | None = None

    @property
    def confirmed_until(self) -> datetime:
        """Return the time (UTC) up to which everything is known to be imported."""
        return self.current_day if self.confirmed is None else self.confirmed

    @property
    def known_records(self) -> int:
        """Return the number of records of the next page that are known already: the anchor."""
        return 0 if self.anchor is None else 1

    def window(self, now: datetime, width: Width = Width.DAY) -> Window:
        """Return the window to import next; it ends at `now` (UTC) at the latest."""
        if self.window_end is not None and self.check_start is not None:
            return Window(self.check_start, self.window_end, is_probe=True, is_check=True)
        if self.window_end is not None:
            return Window(self.current_day, self.window_end)
        now = self._end(now)
        end, next_month = _next_day(self.current_day), _next_month(self.current_day)
        is_first_of_month = _next_month(self.current_day - _TICK) == self.current_day
        if width is Width.MONTH and is_first_of_month and next_month <= now:
            end = next_month
        for probe_end in self._probe_ends(now):
            # A probe up to the end of a probed span or beyond is known not to be empty.
            if end < probe_end and (not self.probed or probe_end < self.probed[-1].end):
                return Window(self.current_day, probe_end, is_probe=True)
        return Window(self.current_day, min(end, now))

    def _end(self, now: datetime) -> datetime:
        return now if self.until is None else min(self.until, now)

    def _probe_ends(self, now: datetime) -> Iterator[datetime]:
        """Yield the ends of possible probes, the latest first."""
        further = self.empty_windows - self.days_before_probe
        if further > 1:
            yield now
        if further > 0:
            yield min(_next_year(self.current_day), now)
        if further >= 0:
            yield min(_next_month(self.current_day), now)

    def request(self, window: Window) -> PageRequest:
        """Return the request for the next page of the window."""
        if self.anchor is None:
            return PageRequest(window.start, window.end, may_be_empty=not window.is_check)
        return PageRequest(self.anchor.span_start, window.end, self.anchor.position, may_be_empty=False)

    def read_page(self, window: Window, keys: Sequence[str], *, is_blank: bool = False) -> PageReading:
        """Conclude from the records' keys what is new, and where the import continues.

        `is_blank`: the body was empty. With an anchor that is an error of the vendor, so do not call this.
        """
        if self.anchor is not None and not self._is_continued_by(keys):
            return PageReading(self._restart(self.anchor.span_start, window.end), None)
        new_keys = tuple(keys[self.known_records :])
        is_full = len(keys) >= PAGE_SIZE
        if window.is_probe and new_keys:
            return PageReading(self._narrow(window, new_keys, is_full=is_full), self.known_records)
        span_start = window.start if self.anchor is None else self.anchor.span_start
        after_records = self._after_records(span_start, new_keys)
        if is_full:
            next_cursor = replace(after_records, offset=self.offset + len(new_keys), window_end=window.end)
        else:
            is_proof = not is_blank and span_start <= self.confirmed_until
            records = self.offset - 1 + len(new_keys)
            next_cursor = after_records._after_window(window, records, is_proof=is_proof)
        return PageReading(next_cursor, self.known_records)

    def _is_continued_by(self, keys: Sequence[str]) -> bool:
        return self.anchor is None or (len(keys) > 0 and keys[0] == self.anchor.key)

    def _next_anchor(self, span_start: datetime, new_keys: Sequence[str]) -> Anchor:
        position = 0 if self.anchor is None else self.anchor.position
        return Anchor(span_start, position + len(new_keys), new_keys[-1])

    def with_wide_windows(self) -> "ImportCursor":
        """Return the cursor as after many empty windows, so that it starts with the widest probe."""
        return replace(self, empty_windows=_MAX_EMPTY_WINDOWS)

    def begin_check(self, start: datetime, end: datetime) -> "ImportCursor":
        """Return the cursor at a check of `[start, end)`, which must hold known records."""
        return replace(
            self,
            offset=1,
            window_end=end,
            confirmed=self.confirmed_until,
            anchor=None,
            probed=(ProbedSpan(start, end, ()),),
            check_start=start,
            until=end,
        )

    def read_check(self, keys: Sequence[str], unknown_keys: Sequence[str]) -> PageReading:
        """Conclude from a page of a check which records are still to be imported.

        `unknown_keys` are those of the page's records that are not stored.
        """
        if self.check_start is None or self.window_end is None:
            raise ValueError("No check is in progress.")
        if not self._is_continued_by(keys):
            again = self._restart(self.confirmed_until, self.window_end)
            return PageReading(again.begin_check(self.check_start, self.window_end), None)
        (span,) = self.probed
        listed = (*(span.keys or ()), *unknown_keys)
        is_listed = span.keys is not None and len(listed) <= _MAX_LISTED_KEYS
        span = replace(span, keys=listed if is_listed else None)
        if len(keys) >= PAGE_SIZE:
            anchor = self._next_anchor(self.check_start, keys[self.known_records :])
            next_page = replace(self, probed=(span,), anchor=anchor, offset=anchor.position + 1)
            return PageReading(next_page, self.known_records)
        if span.keys is None:
            # Any day of the span may have records that are not listed.
            return PageReading(self._restart(span.start, self.window_end), self.known_records)
        ended = replace(
            self,
            probed=(span,),
            offset=1,
            window_end=None,
            anchor=None,
            check_start=None,
            current_day=self.confirmed_until if span.keys else self.current_day,
        )
        return PageReading(ended._after_probed_spans(), self.known_records)

    def _narrow(self, probe: Window, keys: tuple[str, ...], *, is_full: bool) -> "ImportCursor":
        span = ProbedSpan(probe.start, probe.end, None if is_full else keys)
        days = self.days_before_probe
        if not is_full:
            days = EMPTY_DAYS_BEFORE_PROBE
        elif probe.end <= _next_month(probe.start):
            # After a wider probe narrower ones follow.
            days = min(2 * days, _MAX_EMPTY_DAYS_BEFORE_PROBE)
        return replace(
            self,
            confirmed=self.confirmed_until,
            probed=(*self.probed, span),
            days_before_probe=days,
        )

    def _after_records(self, span_start: datetime, keys: tuple[str, ...]) -> "ImportCursor":
        if not keys:
            return replace(self, confirmed=self.confirmed_until)
        return replace(
            self,
            confirmed=self.confirmed_until,
            anchor=self._next_anchor(span_start, keys),
            probed=tuple(_without(span, keys) for span in self.probed),
            records=self.records + len(keys),
        )

    def _after_window(self, window: Window, records: int, *, is_proof: bool) -> "ImportCursor":
        """Return the cursor at the next window, after one with so many records.

        `is_proof`: the response proves that the span from `confirmed` on has no other records.
        """
        has_passed = is_proof and (self.setback is None or window.end > self.setback)
        cursor = replace(
            self,
            current_day=window.end,
            offset=1,
            window_end=None,
            confirmed=window.end if is_proof else self.confirmed,
            empty_windows=0 if records else min(self.empty_windows + 1, _MAX_EMPTY_WINDOWS),
            days_before_probe=EMPTY_DAYS_BEFORE_PROBE if window.is_probe else self.days_before_probe,
            restarts=0 if has_passed else self.restarts,
            setback=None if has_passed else self.setback,
        )
        if records and self.anchor is not None:
            # Without proof, the next request also has to show that there is nothing since `confirmed`.
            span_start = window.start if is_proof else self.confirmed_until
            cursor = replace(
                cursor,
                anchor=replace(self.anchor, span_start=span_start, position=records),
                probed=tuple(span for span in self.probed if span.keys is not None),
            )
        return cursor._after_probed_spans()

    def _after_probed_spans(self) -> "ImportCursor":
        """Skip the rest of probed spans of which every record is imported."""
        cursor = self
        while cursor.probed:
            span = cursor.probed[-1]
            if span.end <= cursor.current_day and span.keys:
                # The probe has listed records that the windows did not: one of both was wrong.
                return cursor._restart(span.start, span.end)
            if span.end > cursor.current_day and span.keys != ():
                break
            cursor = replace(cursor, probed=cursor.probed[:-1])
            if span.keys is not None:
                cursor = cursor._skip_to_end_of(span)
        return cursor

    def _skip_to_end_of(self, span: ProbedSpan) -> "ImportCursor":
        """Return the cursor at the end of a span of which every listed record is imported."""
        days = max(0, (span.end - self.current_day).days)
        is_confirmed = span.start <= self.confirmed_until
        return replace(
            self,
            current_day=max(span.end, self.current_day),
            confirmed=max(span.end, self.confirmed_until) if is_confirmed else self.confirmed,
            empty_windows=min(self.empty_windows + days, max(self.days_before_probe, self.empty_windows)),
        )

    def _restart(self, start: datetime, reached: datetime) -> "ImportCursor":
        """Return the cursor at `start`, from where on everything is requested again up to `reached`."""
        return ImportCursor(
            start,
            confirmed=min(start, self.confirmed_until),
            restarts=self.restarts + 1,
            setback=reached if self.setback is None else max(self.setback, reached),
            records=self.records,
            until=self.until,
        )

    def is_complete(self, now: datetime) -> bool:
        """Return whether everything before `now` (UTC) has been requested."""
        return self.window_end is None and self.current_day >= self._end(now)

    def upcoming_requests(self, now: datetime, width: Width = Width.DAY) -> Iterator[PageRequest]:
        """Yield the request of this cursor and those that follow if no further records come.

        Windows that end at `now` are left out, since they will be longer by the time they are due, and
        probes, as a record in a window before would make them needless. Only the first is certain to be
        needed: the others are of no use if they have more records than a page. There are fewer of them after
        a day with many.
        """
        cursor = self
        records = 1 if self.anchor is None else self.anchor.position
        for _ in range(1 + min(EMPTY_DAYS_BEFORE_PROBE, _MAX_PREFETCHED_RECORDS // records)):
            if cursor.is_complete(now):
                return
            window = cursor.window(now, width)
            if window.is_probe or window.end >= self._end(now):
                return
            yield cursor.request(window)
            # The rest of a span is skipped if this window has all records that the probe has listed.
            if any(span.keys for span in cursor.probed):
                return
            cursor = cursor._after_window(window, 0, is_proof=self.anchor is not None)


def count_requests(
    titles_by_day: Mapping[date, int], start: datetime, now: datetime, width: Width = Width.DAY
) -> int:
    """Return the number of requests of an import from `start` to `now` for so many titles per purchase day.

    Pages, probes and metadata requests for all titles are counted.
    """
    days = sorted(titles_by_day)
    cumulative = list(accumulate((titles_by_day[day] for day in days), initial=0))

    def keys_of_page(request: PageRequest) -> list[str]:
        first, last = (
            cumulative[bisect_left(days, moment.date())]
            for moment in (request.start, _next_day(request.end - _TICK))
        )
        first += request.offset - 1
        return [str(number) for number in range(first, min(last, first + PAGE_SIZE))]

    requests, cursor = 0, ImportCursor(start)
    while not cursor.is_complete(now):
        window = cursor.window(now, width)
        keys = keys_of_page(cursor.request(window))
        reading = cursor.read_page(window, keys, is_blank=not keys)
        if reading.known_records is None:
            raise AssertionError("a page does not continue the one before")
        new_titles = 0 if window.is_probe else len(keys) - reading.known_records
        requests += 1 + -(-new_titles // MAX_ITEMS)
        cursor = reading.next_cursor
    return requests


def _without(span: ProbedSpan, keys: Sequence[str]) -> ProbedSpan:
    """Remove each of the keys once from the span."""
    if not span.keys:
        return span
    remaining = list(span.keys)
    for key in keys:
        if key in remaining:
            remaining.remove(key)
    return replace(span, keys=tuple(remaining))


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
