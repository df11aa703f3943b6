"""Choose the requests of a purchase import, and conclude from the responses up to when it is complete.

A window is a day by default, so that every title gets the day of its purchase: the vendor's records do not
carry it. Gaps (spans without purchases) are skipped by galloping search, also known as exponential search:
after some empty days a probe requests the rest of the month, after an empty month the rest of the year, and
after an empty year everything. An empty probe is skipped as a whole; one with purchases is narrowed down by
halves to days, until every record that it has listed is imported. A budget limits the probes, so that an
import makes hardly more requests than one per day and page.

An empty body proves nothing, because the vendor also sends it while it is broken. Therefore requests begin
with a record that is already known, the anchor: the time span of the request starts before the window, and
its offset is the anchor's position. The anchor is then the first record of the response, also when the
window is empty. Any other first record means that records of the span were added, withdrawn or not listed
before: the import goes back to the day of the record before the anchor.

If an empty body may have hidden records before the anchor, the request begins with the first records after
that, and lists all of them up to the anchor again, unless they are many. Otherwise a record that is withdrawn
at the same time could make up for a hidden one.

The anchor takes a place of the page, so that 49 records fill it. Days after one with many purchases are
therefore requested without it: a day with records needs no other proof. A later request with the anchor
confirms the empty ones. After an import goes back, it uses the anchor for all requests.
"""

from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, time, timedelta
from enum import StrEnum
from itertools import accumulate

from accession.bibliotheca.client import PAGE_SIZE
from accession.imports.day_search import DayRange, DaySearch, content_key, plain_key
from accession.imports.lookup_plan import PendingLookups

EMPTY_DAYS_BEFORE_PROBE = 7
_MAX_EMPTY_WINDOWS = EMPTY_DAYS_BEFORE_PROBE + 2
_MAX_LISTED_KEYS = 100
# A span with a record listed for every few days is requested day by day.
_MIN_DAYS_PER_LISTED_KEY = 6

# The budget is in twentieths of a request. Each day adds what its request costs, and 5% more.
REQUEST_COST = 20
_EARNED_PER_DAY = 21
INITIAL_BUDGET = 5 * REQUEST_COST
_MAX_BUDGET = 20 * REQUEST_COST
# With less, no days are prefetched whose pages may be useless: the rest is for probes.
_MIN_PREFETCH_BUDGET = 3 * REQUEST_COST

# After a window with more records than this, windows are requested without the anchor for some time. A page
# that is prefetched with an earlier anchor has room for five windows with so many.
_MANY_RECORDS = 9
_MAX_USELESS_PAGES = 3
_TIME_WITHOUT_ANCHOR = timedelta(days=100)
_MAX_UNCONFIRMED = timedelta(days=30)
_MAX_PREFETCHED_RECORDS = 10
# The number of known records that a request lists again, at most: the rest of the page is for new ones. A
# request lists a full page of them if the budget covers another request, or if the import has gone back.
_MAX_ANCHOR_KEYS = 24

# The last days are requested one by one, and so are a few days for which a search saves nothing.
_DAYS_ONE_BY_ONE = timedelta(days=2)
_MIN_SEARCHED_DAYS = 8


class Width(StrEnum):
    """The width of the windows whose records are stored."""

    ADAPTIVE = "adaptive"
    """Wide windows, which are divided until the days are known: see `accession.imports.day_search`."""
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


def page_request(requested: DayRange) -> PageRequest:
    """Return the request of a search for a range of days."""
    return PageRequest(
        midnight(requested.start), midnight(requested.end), requested.offset, requested.may_be_empty
    )


@dataclass(frozen=True)
class Anchor:
    """The last known record: `position` (1-based) in the time span from `span_start` (UTC), and its key.

    `earlier_keys` are the keys of known records just before it, which a request lists again if an empty body
    may have hidden records before one of them: with the anchor alone, a record that is withdrawn meanwhile
    could make up for a hidden one.

    `earlier_start` is the start of the span of the anchor before. If the record is not where it was, its day
    is in doubt from there on: it may have appeared after the windows before `span_start` were requested.
    """

    span_start: datetime
    position: int
    key: str
    earlier_start: datetime | None = None
    earlier_keys: tuple[str, ...] = ()

    @property
    def keys(self) -> tuple[str, ...]:
        """Return the keys of the known records with which the response to a request begins."""
        return (*self.earlier_keys, self.key)

    @property
    def offset(self) -> int:
        """Return the position (1-based) of the first of them."""
        return self.position - len(self.earlier_keys)

    def followed_by(self, keys: Sequence[str], max_keys: int) -> "Anchor":
        """Return the anchor after further records, before which an empty body may have hidden others.

        If there are more than `max_keys`, they are too many to be listed again.
        """
        known = (*self.keys, *keys)
        earlier_keys = known[:-1] if len(known) <= max_keys else ()
        position = self.position + len(keys)
        return replace(self, position=position, key=known[-1], earlier_keys=earlier_keys)

    @property
    def earliest_start(self) -> datetime:
        """Return where the import goes back to if the record is not where it was."""
        return self.span_start if self.earlier_start is None else self.earlier_start


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
        budget: what may be spent on probes, in twentieths of a request. It can be negative.
        without_anchor_until: time (UTC) until which windows are requested without the anchor, or None.
        stale_until: end (UTC) of the days whose pages may have been prefetched with an earlier anchor, or
            None.
        setback: the furthest time (UTC) from which the import went back; None if it never did.
        restarts: number of times that the import went back before `confirmed` was later than `setback`.
        records: number of records read so far, those read again counted again.
        check_start: start of the check in progress; it ends at `window_end`.
        until: end of the import; None for the present. A check sets it, so that it confirms everything.
        search: the search for the days of past purchases, in progress or the last one.
    """

    current_day: datetime
    offset: int = 1
    window_end: datetime | None = None
    confirmed: datetime | None = None
    anchor: Anchor | None = None
    probed: tuple[ProbedSpan, ...] = ()
    empty_windows: int = 0
    budget: int = INITIAL_BUDGET
    without_anchor_until: datetime | None = None
    stale_until: datetime | None = None
    restarts: int = 0
    setback: datetime | None = None
    records: int = 0
    check_start: datetime | None = None
    until: datetime | None = None
    search: DaySearch | None = None

    @property
    def confirmed_until(self) -> datetime:
        """Return the time (UTC) up to which everything is known to be imported."""
        return self.current_day if self.confirmed is None else self.confirmed

    def known_records(self, window: Window) -> int:
        """Return the number of records of the window's next page that are known already."""
        anchor = self._anchor_of(window)
        return 0 if anchor is None else len(anchor.keys)

    def _anchor_of(self, window: Window) -> Anchor | None:
        """Return the anchor, or None if the window's next page is requested without it."""
        needs_anchor = window.is_probe or self.window_end is not None or not self._goes_without_anchor()
        return self.anchor if needs_anchor else None

    def _goes_without_anchor(self) -> bool:
        # With the anchor, the response would also have records that empty windows since then have hidden.
        follows_gap = self.empty_windows > 0 and self.confirmed_until < self.current_day
        return follows_gap or self._prefers_no_anchor()

    def _prefers_no_anchor(self) -> bool:
        is_recently_confirmed = self.current_day - self.confirmed_until < _MAX_UNCONFIRMED
        return is_recently_confirmed and self._had_many_records()

    def _had_many_records(self) -> bool:
        return self.without_anchor_until is not None and self.current_day < self.without_anchor_until

    def window(self, now: datetime, width: Width = Width.DAY) -> Window:
        """Return the window to import next; it ends at `now` (UTC) at the latest."""
        if self.window_end is not None and self.check_start is not None:
            return Window(self.check_start, self.window_end, is_probe=True, is_check=True)
        if self.window_end is not None:
            return Window(self.current_day, self.window_end)
        now = self._end(now)
        end = _next_day(self.current_day)
        # The month begins with this day.
        if width is Width.MONTH and _next_month(self.current_day - _TICK) == self.current_day:
            next_month = _next_month(self.current_day)
            end = next_month if next_month <= now else end
        for probe_end in self._probe_ends(now):
            # A probe up to the end of a probed span or beyond is known not to be empty.
            if end < probe_end and (not self.probed or probe_end < self.probed[-1].end):
                return Window(self.current_day, probe_end, is_probe=True)
        return Window(self.current_day, min(end, now))

    def _end(self, now: datetime) -> datetime:
        return now if self.until is None else min(self.until, now)

    def _probe_ends(self, now: datetime) -> Iterator[datetime]:
        """Yield the ends of possible probes, the latest first."""
        if self.budget < REQUEST_COST:
            return
        if self.probed and self.probed[-1].keys:
            days = (self.probed[-1].end - self.current_day).days
            if days > _MIN_DAYS_PER_LISTED_KEY * len(self.probed[-1].keys):
                yield _next_day(self.current_day + timedelta(days=(days - 1) // 2))
            return
        further = self.empty_windows - EMPTY_DAYS_BEFORE_PROBE
        if further > 1:
            yield now
        if further > 0:
            yield min(_next_year(self.current_day), now)
        if further >= 0:
            yield min(_next_month(self.current_day), now)

    def current_search(self, now: datetime, width: Width) -> DaySearch | None:
        """Return the search that continues here; None if the next day is requested by itself."""
        if width is not Width.ADAPTIVE:
            return None
        if self.search is not None and not self.search.is_complete:
            return self.search
        start, end = self.confirmed_until.date(), (now - _DAYS_ONE_BY_ONE).date()
        is_between_days = self.window_end is None and self.until is None and not self.probed
        # The next request with the anchor confirms the days before; a search would make another one for them.
        is_unconfirmed = self.anchor is not None and self.confirmed_until < self.current_day
        is_again = self.setback is not None and self.current_day < self.setback
        is_rest = self.search is not None and (start < self.search.others_until or self.search.is_dense)
        is_short = (end - start).days < _MIN_SEARCHED_DAYS
        if not is_between_days or is_unconfirmed or is_again or is_rest or is_short:
            return None
        return DaySearch.begin(start, end, 0 if self.search is None else self.search.failures)

    def after_search(self, search: DaySearch, records: int) -> "ImportCursor":
        """Return the cursor after a page of the search with so many new records."""
        if not search.spans:
            return self._after_empty_page(search)
        anchor, last = None, search.spans[-1]
        if search.is_complete and last.is_day:
            anchor = Anchor(midnight(last.start), len(last.keys), plain_key(last.keys[-1]))
        current_day = midnight(search.imported_until)
        earned = _EARNED_PER_DAY * max(0, (current_day - self.current_day).days)
        # Requests for the single days would include the same full pages.
        cost = 0 if records >= PAGE_SIZE - 1 else REQUEST_COST
        # A search does not lower the budget below its initial value, so that days after it can be probed.
        minimum = min(self.budget, INITIAL_BUDGET)
        return replace(
            self,
            current_day=current_day,
            confirmed=None,
            anchor=anchor,
            empty_windows=0,
            budget=max(self._budget_after(cost - earned), minimum),
            records=self.records + records,
            search=search,
        )

    def _after_empty_page(self, search: DaySearch) -> "ImportCursor":
        """Return the cursor after a search without records so far; later requests confirm its days."""
        is_empty = search.is_complete and search.days_until is None
        start = midnight(search.start)
        return replace(
            self,
            current_day=midnight(search.listed_until) if search.is_complete else start,
            confirmed=start,
            # Days that are not confirmed count as empty windows.
            empty_windows=_MAX_EMPTY_WINDOWS if is_empty else 1,
            search=search,
        )

    def after_contradiction(self, search: DaySearch) -> "ImportCursor":
        """Return the cursor where the days of the search, which has failed, are requested one by one."""
        start = midnight(search.imported_until)
        imported = replace(self, current_day=start, confirmed=None)
        return replace(imported._restart(start, midnight(search.listed_until)), search=search)

    def request(self, window: Window) -> PageRequest:
        """Return the request for the next page of the window."""
        anchor = self._anchor_of(window)
        if anchor is None:
            return PageRequest(window.start, window.end, may_be_empty=not window.is_check)
        return PageRequest(anchor.span_start, window.end, anchor.offset, may_be_empty=False)

    def control_request(self, window: Window) -> PageRequest | None:
        """Return a request for a span with records before the anchor, or None if none is known.

        If the vendor sends them, and nothing from the anchor on, then the anchor is not there any more.
        """
        if self.anchor is None or (self.anchor.earlier_start is None and self.anchor.offset == 1):
            return None
        return PageRequest(self.anchor.earliest_start, window.end, may_be_empty=False)

    @property
    def first_listed(self) -> int:
        """Return the number (1-based) of the record with which responses begin, among those read so far."""
        return self.records if self.anchor is None else self.records - len(self.anchor.earlier_keys)

    def skip_known(self, window: Window, page: PageRequest, first: int, keys: Sequence[str]) -> int | None:
        """Return how many records of a prefetched page to leave out to get the window's next page.

        `page` is its request, and `first` was `first_listed` then. A page that was requested with an earlier
        anchor begins with known records and those that have been read since. Return None if the page is of
        no use: it proves less than the window's own request would, or it is full.

        Such a page does not tell the day of new records: they may have appeared in a day whose page was
        requested before. The window's own request begins at the day of the last known record, and so also
        shows that this one is of that day.
        """
        request = self.request(window)
        if page == request:
            return 0
        proves_less = page.may_be_empty or page.start > request.start
        # Records that empty windows have hidden would come with those of the window.
        follows_gap = request.may_be_empty and self.confirmed_until < window.start
        index = self.records - first
        if self.anchor is None or proves_less or follows_gap or not 0 < index < len(keys) < PAGE_SIZE:
            return None
        skipped = self.first_listed - first
        if skipped < 0 or (*keys[skipped : index + 1],) != self.anchor.keys:
            return None
        if page.start < request.start and index + 1 < len(keys):
            return None
        return index + 1 if request.may_be_empty else skipped

    def read_page(self, window: Window, keys: Sequence[str], *, is_blank: bool = False) -> PageReading:
        """Conclude from the records' keys what is new, and where the import continues.

        `is_blank`: the body was empty. With an anchor that is an error of the vendor, so do not call this.
        """
        anchor = self._anchor_of(window)
        if anchor is not None and not _begins_with(anchor, keys):
            return PageReading(self._restart(anchor.earliest_start, window.end), None)
        known_records = self.known_records(window)
        new_keys = tuple(keys[known_records:])
        is_full = len(keys) >= PAGE_SIZE
        if is_full and not new_keys:
            # The page has the known records in their order, and no room for others. The next page begins
            # with the last of them.
            proven = replace(self, confirmed=self.confirmed_until, anchor=self._next_anchor(window, ()))
            return PageReading(proven._spend(REQUEST_COST), known_records)
        if window.is_probe and new_keys:
            return PageReading(self._narrow(window, new_keys, is_full=is_full), known_records)
        after_records = self._after_records(window, new_keys)
        if is_full:
            is_needless = anchor is not None and self.offset == 1
            next_cursor = replace(
                after_records._spend(REQUEST_COST if is_needless else 0),
                offset=self.offset + len(new_keys),
                window_end=window.end,
            )
        else:
            is_proof = not is_blank and self.request(window).start <= self.confirmed_until
            records = self.offset - 1 + len(new_keys)
            next_cursor = after_records._after_window(window, records, is_proof=is_proof)
        return PageReading(next_cursor, known_records)

    def _next_anchor(self, window: Window, new_keys: Sequence[str]) -> Anchor:
        anchor, count = self.anchor, len(new_keys)
        if anchor is not None and self._anchor_of(window) is not None:
            return Anchor(anchor.span_start, anchor.position + count, [anchor.key, *new_keys][-1])
        key = new_keys[-1]
        if window.start <= self.confirmed_until:
            return Anchor(window.start, count, key, None if anchor is None else anchor.span_start)
        # The next request with the anchor also has to show that there is nothing since `confirmed`.
        is_affordable = self.budget >= REQUEST_COST or self.setback is not None
        max_keys = PAGE_SIZE if is_affordable else _MAX_ANCHOR_KEYS
        if anchor is not None:
            return anchor.followed_by(new_keys, max_keys)
        return Anchor(self.confirmed_until, 1, new_keys[0]).followed_by(new_keys[1:], max_keys)

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

    def end_with_check(self) -> "ImportCursor":
        """Return the cursor at a check of what follows the anchor, up to the end of what was requested.

        Raises:
            ValueError: there is no anchor.
        """
        if self.anchor is None:
            raise ValueError("A check at the end needs an anchor.")
        return replace(self.begin_check(self.anchor.span_start, self.current_day), anchor=self.anchor)

    def read_check(self, keys: Sequence[str], unknown_keys: Sequence[str]) -> PageReading:
        """Conclude from a page of a check which records are still to be imported.

        `unknown_keys` are those of the page's records that are not stored.
        """
        if self.check_start is None or self.window_end is None:
            raise ValueError("No check is in progress.")
        window = Window(self.check_start, self.window_end, is_probe=True, is_check=True)
        known_records = self.known_records(window)
        if self.anchor is not None and not _begins_with(self.anchor, keys):
            if self.offset == 1:
                return PageReading(self._restart(self.anchor.earliest_start, self.window_end), None)
            again = self._restart(self.confirmed_until, self.window_end)
            return PageReading(again.begin_check(self.check_start, self.window_end), None)
        (span,) = self.probed
        listed = (*(span.keys or ()), *unknown_keys)
        is_listed = span.keys is not None and len(listed) <= _MAX_LISTED_KEYS
        span = replace(span, keys=listed if is_listed else None)
        if len(keys) >= PAGE_SIZE:
            anchor = self._next_anchor(window, keys[known_records:])
            next_page = replace(self, probed=(span,), anchor=anchor, offset=anchor.position + 1)
            return PageReading(next_page, known_records)
        if span.keys is None:
            # Any day of the span may have records that are not listed.
            return PageReading(self._restart(span.start, self.window_end), known_records)
        ended = replace(
            self,
            probed=(span,),
            offset=1,
            window_end=None,
            anchor=None,
            check_start=None,
            current_day=self.confirmed_until if span.keys else self.current_day,
        )
        return PageReading(ended._after_probed_spans(), known_records)

    def _narrow(self, probe: Window, keys: tuple[str, ...], *, is_full: bool) -> "ImportCursor":
        # With the anchor, the probe has also listed records that empty windows before it have hidden.
        start = probe.start if self.anchor is None else self.confirmed_until
        span = ProbedSpan(start, probe.end, None if is_full else keys)
        cursor = replace(self, confirmed=self.confirmed_until, probed=(*self.probed, span))
        return cursor._spend(REQUEST_COST)

    def _after_records(self, window: Window, keys: tuple[str, ...]) -> "ImportCursor":
        if not keys:
            return replace(self, confirmed=self.confirmed_until)
        cursor = self if self.offset > 1 else self._pay_for_prefetched_page(window)
        return replace(
            cursor,
            confirmed=self.confirmed_until,
            anchor=self._next_anchor(window, keys),
            probed=tuple(_without(span, keys) for span in self.probed),
            records=self.records + len(keys),
        )

    def _pay_for_prefetched_page(self, window: Window) -> "ImportCursor":
        """Charge the budget for the window's page if it may have been prefetched with an earlier anchor.

        Such a page is requested again, because it does not tell the day of the window's records.
        """
        is_stale = self.stale_until is not None and window.end <= self.stale_until
        cursor = self._spend(REQUEST_COST) if is_stale else self
        days = 0 if self._prefetches_without_anchor else self._max_prefetched()
        return replace(cursor, stale_until=window.end + timedelta(days=days)) if days else cursor

    def _after_window(self, window: Window, records: int, *, is_proof: bool) -> "ImportCursor":
        """Return the cursor at the next window, after one with so many records.

        `is_proof`: the response proves that the span from `confirmed` on has no other records.
        """
        has_passed = is_proof and (self.setback is None or window.end > self.setback)
        days = max(1, (window.end - window.start).days)
        earned = _EARNED_PER_DAY * days
        cursor = replace(
            self,
            current_day=window.end,
            offset=1,
            window_end=None,
            confirmed=window.end if is_proof else self.confirmed,
            empty_windows=0 if records else min(self.empty_windows + 1, _MAX_EMPTY_WINDOWS),
            budget=self._budget_after(REQUEST_COST - earned),
            restarts=0 if has_passed else self.restarts,
            search=self.search and self.search.after_days(days, records),
        )
        if records > _MANY_RECORDS and self.setback is None:
            cursor = cursor._go_without_anchor()
        if records and cursor.probed:
            cursor = replace(cursor, probed=tuple(span for span in cursor.probed if span.keys is not None))
        anchor = self.anchor
        if records and is_proof and anchor is not None and anchor.span_start < window.start:
            cursor = replace(cursor, anchor=Anchor(window.start, records, anchor.key, anchor.span_start))
        return cursor._after_probed_spans()

    def _spend(self, cost: int) -> "ImportCursor":
        return replace(self, budget=self._budget_after(cost))

    def _budget_after(self, cost: int) -> int:
        return max(-_MAX_BUDGET, min(_MAX_BUDGET, self.budget - cost))

    def _go_without_anchor(self) -> "ImportCursor":
        # Pages that are prefetched with the anchor may be useless now.
        cursor = self if self._had_many_records() else self._spend(_MAX_USELESS_PAGES * REQUEST_COST)
        return replace(cursor, without_anchor_until=self.current_day + _TIME_WITHOUT_ANCHOR)

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
            empty_windows=min(self.empty_windows + days, max(EMPTY_DAYS_BEFORE_PROBE, self.empty_windows)),
            search=self.search and self.search.after_days(days, 0),
        )._spend(-_EARNED_PER_DAY * days)

    def _restart(self, start: datetime, reached: datetime) -> "ImportCursor":
        """Return the cursor at `start`, from where on everything is requested again up to `reached`.

        It starts earlier where a check has listed records that are not imported yet.
        """
        if self.until is not None and self.check_start is None:
            start = min([start, *(span.start for span in self.probed if span.keys)])
        return ImportCursor(
            start,
            confirmed=min(start, self.confirmed_until),
            budget=self.budget,
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
        needed: the others with an anchor are of no use if they have more records than a page, or if they and
        a window before have records. There are fewer of them after a day with many records, and none right
        after a day with any.
        """
        cursor = self
        for number in range(1 + self._max_prefetched()):
            if cursor.is_complete(now):
                return
            window = cursor.window(now, width)
            anchor = cursor._anchor_of(window)
            if window.is_probe or window.end >= self._end(now):
                return
            # A record in a window before could make this one a window with the anchor.
            if number and self.anchor and not anchor and not cursor._prefers_no_anchor():
                return
            yield cursor.request(window)
            # The rest of a span is skipped if this window has all records that the probe has listed.
            if any(span.keys for span in cursor.probed):
                return
            cursor = cursor._after_window(window, cursor.offset - 1, is_proof=anchor is not None)

    @property
    def _prefetches_without_anchor(self) -> bool:
        return self.anchor is None or self._prefers_no_anchor()

    def _max_prefetched(self) -> int:
        if self.anchor is None or self._prefetches_without_anchor:
            return EMPTY_DAYS_BEFORE_PROBE
        if self.empty_windows == 0 or self.budget < _MIN_PREFETCH_BUDGET:
            return 0
        return min(EMPTY_DAYS_BEFORE_PROBE, _MAX_PREFETCHED_RECORDS // self.anchor.position)


def count_requests(
    titles_by_day: Mapping[date, int], start: datetime, now: datetime, width: Width = Width.DAY
) -> int:
    """Return the number of requests of an import from `start` to `now` for so many titles per purchase day.

    Pages, probes, a check at the end and metadata requests for all titles are counted.
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

    pages = lookups = 0
    listed: set[str] = set()
    has_skipped = False
    pending, cursor = PendingLookups(), ImportCursor(start)
    while not cursor.is_complete(now):
        search = cursor.current_search(now, width)
        if search is not None:
            keys = [content_key(key, "") for key in keys_of_page(page_request(next(search.requests(1))))]
            listing = search.read_page(keys, is_blank=not keys)
            new_keys = {plain_key(key) for key in listing.new_keys} - listed
            cursor = cursor.after_search(listing.search, len(new_keys))
        else:
            window = cursor.window(now, width)
            keys = keys_of_page(cursor.request(window))
            reading = cursor.read_page(window, keys, is_blank=not keys)
            if reading.known_records is None:
                raise AssertionError("a page does not continue the one before")
            new_keys = set() if window.is_probe else {*keys[reading.known_records :]} - listed
            cursor = reading.next_cursor
            has_skipped = bool(new_keys) and window.end < cursor.current_day
        pages += 1
        listed |= new_keys
        plan = pending.plan(pages, len(new_keys), is_last=cursor.is_complete(now))
        lookups += plan.requests
        pending = plan.remaining
    is_confirmed = cursor.confirmed_until >= cursor.current_day and not has_skipped
    has_check = cursor.anchor is not None and not is_confirmed
    return pages + lookups + has_check


def _without(span: ProbedSpan, keys: Sequence[str]) -> ProbedSpan:
    """Remove each of the keys once from the span."""
    if not span.keys:
        return span
    remaining = list(span.keys)
    for key in keys:
        if key in remaining:
            remaining.remove(key)
    return replace(span, keys=tuple(remaining))


def _begins_with(anchor: Anchor, keys: Sequence[str]) -> bool:
    return (*keys[: len(anchor.keys)],) == anchor.keys


_TICK = timedelta.resolution


def midnight(day: date) -> datetime:
    """Return the start of a day (UTC)."""
    return datetime.combine(day, time(), UTC)


def _next_day(moment: datetime) -> datetime:
    midnight = moment.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    return midnight + timedelta(days=1)


def _next_month(moment: datetime) -> datetime:
    # 28 days after the 4th of any month lies in the next month.
    fourth = moment.astimezone(UTC).replace(day=4, hour=0, minute=0, second=0, microsecond=0)
    return (fourth + timedelta(days=28)).replace(day=1)


def _next_year(moment: datetime) -> datetime:
    return _next_month(moment.astimezone(UTC).replace(month=12))
