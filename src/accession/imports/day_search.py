"""Find the days of past purchases with few requests, each of which divides two time spans.

The vendor's records do not carry the day of the purchase, so a day is known only from the windows that list
the record. To request each day is safe and slow. This search requests wide windows instead, and divides them:

- A request beyond the last window lists the records of a new span of days, usually about forty.
- A request from the middle of one span to the middle of a later one divides both. Of the records that are
  known to be in the first span, those that the response has are in its second half and the others in its
  first half; in the other span it is the opposite. So a request answers two questions.
- A span of one day is resolved: its records were purchased on that day.

The vendor lists the records of a day before those of later ones. The first listed record therefore tells how
the first span is divided, and the last one how the other is. If the page is full, it divides the first only.

A record is identified by its title and its content; a title that is listed twice counts twice. A response
that contradicts what is known means that the vendor has changed its list meanwhile, or does not keep its
word. Then the days are requested one by one. So are days with many records, for which it costs no more.

An empty body proves nothing (see `accession.imports.windows`). A request is therefore chosen so that a record
is known to be in it. Where that is not possible, an empty body leads to another request.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import date, timedelta
from itertools import chain, islice, takewhile

from accession.bibliotheca.client import PAGE_SIZE

# The records of a new span: with more, it often has a second page, with fewer, there are more spans.
_NEW_RECORDS = 40
# Fewer records in spans to divide do not keep the concurrent requests busy.
_MAX_OPEN_RECORDS = 80
_MIN_OPEN_SPANS = 5
# With more records, no new span is requested to keep the concurrent requests busy: the cursor stays small.
_MAX_RECORDS_AHEAD = 300
# A request beyond the last span may also list this many known records, to divide a span with them.
_MAX_KNOWN_RECORDS = 8
_MIN_WIDTH = 4
# With more records a day, days are requested one by one, because that needs no more requests.
_MAX_DENSITY = 14
# The maximum number of records of a new span. A span with more is requested again with fewer days, or day by
# day if it is narrow.
_MAX_NEW_RECORDS = 800
_MAX_NARROW_DAYS = 8
# A wide span with a full page is also requested again if fewer records than this were expected.
_FEW_RECORDS = 10
# The number of days requested one by one, at first. It doubles with each further failure.
_DAYS_ONE_BY_ONE = 14
_MAX_DOUBLINGS = 8
_MAX_GROWTH = 4
# The density changes slowly, because the records of one span are few, and those of one day even fewer.
_OLD_SHARE = 0.6
_OLD_SHARE_PER_DAY = 20 / 21
_MAX_PLANNED = 8
_MAX_PARTNERS = 8
# Stored days that are kept at the start, as records that are known to be listed.
_KEPT_DAYS = 2
# Resolved days are stored together, about as many records at once as a page has.
_STORED_RECORDS = PAGE_SIZE
_DAY = timedelta(days=1)
_HASH_LENGTH = 12


class ContradictionError(Exception):
    """A response contradicts what earlier ones have listed."""


def content_key(key: str, content_hash: str) -> str:
    """Return the key of a record in a search, which differs when its content does."""
    return f"{key}:{content_hash[:_HASH_LENGTH]}"


def plain_key(key: str) -> str:
    """Return the key of a record without its content."""
    return key.rpartition(":")[0]


@dataclass(frozen=True)
class DaySpan:
    """The days `[start, end)` (UTC), and the keys of all records that they have, in the vendor's order."""

    start: date
    end: date
    keys: tuple[str, ...]

    @property
    def is_day(self) -> bool:
        """Return whether the day of the records is known."""
        return self.end - self.start == _DAY

    @property
    def middle(self) -> date:
        """Return where to divide the span."""
        return self.start + (self.end - self.start) // _DAY // 2 * _DAY


@dataclass(frozen=True)
class DayRange:
    """A request for the records of the days `[start, end)` (UTC), from the `offset` (1-based).

    `may_be_empty` is False if a known record is in it.
    """

    start: date
    end: date
    offset: int = 1
    may_be_empty: bool = False


@dataclass(frozen=True)
class RangeReading:
    """Conclusions from one page of a range.

    Attributes:
        search: the search after the page.
        new_keys: keys of records that no earlier page has listed; a key occurs once for each of them.
        days: spans of one day whose records are to be stored now.
    """

    search: "DaySearch"
    new_keys: tuple[str, ...] = ()
    days: tuple[DaySpan, ...] = ()


@dataclass(frozen=True)
class _KnownSpans:
    """The known spans of a range: where it begins, the keys of those in it, and where it ends."""

    first: DaySpan | None
    whole: tuple[str, ...]
    last: DaySpan | None


@dataclass(frozen=True)
class _Parts:
    """Parts of a range: the keys of its records by the known span that they are of.

    Attributes:
        first: those of the span in which the range begins.
        last: those of the span in which it ends, or of the days after the last span; None if unknown.
    """

    first: tuple[str, ...]
    last: tuple[str, ...] | None


@dataclass(frozen=True)
class DaySearch:
    """The state of a search between two pages.

    Attributes:
        start: start of the search (UTC), before which everything is imported.
        imported_until: the day before which every record is stored with its day.
        listed_until: end of the days of which all records are known.
        end: end of the days to search.
        spans: the spans that have records, in order, without those at the start that are stored. Days
            between them have none.
        planned: the next requests; they do not depend on each other.
        read: keys of the pages of the first planned request that have been read.
        width: days of the next new span.
        density: recent number of records a day, also of the days requested one by one after the search.
        too_wide_until: end of the latest new span that was too wide; None if none was.
        days_until: end of the days that are requested one by one after the search, because they have many
            records or the vendor's responses contradict each other; None without such days.
        failures: number of recent searches that have ended so.
    """

    start: date
    imported_until: date
    listed_until: date
    end: date
    spans: tuple[DaySpan, ...] = ()
    planned: tuple[DayRange, ...] = ()
    read: tuple[str, ...] = ()
    width: int = _MIN_WIDTH
    density: float = 0.0
    too_wide_until: date | None = None
    days_until: date | None = None
    failures: int = 0

    @classmethod
    def begin(cls, start: date, end: date, failures: int = 0) -> "DaySearch":
        """Return a search of the days `[start, end)`, after so many recent ones that have failed."""
        width = 1 if failures else _MIN_WIDTH
        return cls(start, start, start, end, width=width, failures=failures)._plan()

    @property
    def is_complete(self) -> bool:
        """Return whether there is nothing more to request in this way."""
        return not self.planned

    @property
    def is_dense(self) -> bool:
        """Return whether recent days have had so many records that another search is too early.

        The limit is half of the density that ends a search, so that the next one does not end at once.
        """
        return self.density >= _MAX_DENSITY / 2

    @property
    def others_until(self) -> date:
        """Return the end of the days that other requests import after the search."""
        return self.listed_until if self.days_until is None else self.days_until

    @property
    def keys(self) -> frozenset[str]:
        """Return the keys of the records that are not stored with their day, and of the pages in progress."""
        undated = (span.keys for span in self.spans if span.start >= self.imported_until)
        return frozenset(chain(self.read, *undated))

    def control_range(self) -> DayRange | None:
        """Return a range outside of the next request that has known records."""
        requested = self.planned[0]
        for span in self.spans:
            if span.end <= requested.start or span.start >= requested.end:
                return DayRange(span.start, span.end)
        return None

    def requests(self, limit: int) -> Iterator[DayRange]:
        """Yield the next request and those that can be made with it, at most `limit`."""
        if not self.planned:
            return
        first = self.planned[0]
        if self.read:
            first = replace(first, offset=first.offset + len(self.read) - 1, may_be_empty=False)
        yield first
        yield from islice(self.planned, 1, limit)

    def read_page(self, keys: Sequence[str], *, is_blank: bool = False) -> RangeReading:
        """Conclude from the next page of the first planned request; `is_blank`: the body was empty.

        Raises:
            ContradictionError: the page contradicts the earlier ones.
        """
        search, new_keys = self._conclude(keys, is_blank=is_blank)
        days = search._resolved_days()
        if not search.is_complete and sum(len(day.keys) for day in days) < _STORED_RECORDS:
            return RangeReading(search._with_imported(days), new_keys)
        return RangeReading(search._with_imported(), new_keys, days)

    def fail(self) -> RangeReading:
        """Return the ended search, after which the days are requested one by one for some time."""
        ended = replace(self._with_imported()._stop(self.listed_until), spans=(), planned=(), read=())
        return RangeReading(ended, days=self._resolved_days())

    def after_days(self, days: int, records: int) -> "DaySearch":
        """Return the search with the density after days that had so many records."""
        # The first days alone show a density.
        old_share = _OLD_SHARE_PER_DAY**days if self.density else 0.0
        density = old_share * self.density + (1 - old_share) * records / max(1, days)
        # A day with very many records would count for months.
        return replace(self, density=min(density, 2 * _MAX_DENSITY))

    def _resolved_days(self) -> tuple[DaySpan, ...]:
        """Return the days before the first span that is not resolved whose records are not stored yet."""
        resolved = takewhile(lambda span: span.is_day, self.spans)
        return tuple(span for span in resolved if span.start >= self.imported_until)

    def _with_imported(self, remaining: Sequence[DaySpan] = ()) -> "DaySearch":
        """Return the search after the resolved days are stored, but for the `remaining` ones."""
        if not self.spans:
            return replace(self, imported_until=self.start)
        unresolved = (span for span in self.spans if not span.is_day)
        first = next(chain(remaining, unresolved), None)
        imported_until = self.listed_until if first is None else first.start
        stored = sum(span.start < imported_until for span in self.spans)
        spans = self.spans[max(0, stored - _KEPT_DAYS) :]
        return replace(self, imported_until=imported_until, spans=spans)

    def _conclude(self, keys: Sequence[str], *, is_blank: bool) -> "tuple[DaySearch, tuple[str, ...]]":
        """Return the search after the next page, and the keys of the new records."""
        requested = self.planned[0]
        proves_nothing = is_blank or (not keys and requested.offset > 1)
        if proves_nothing and (self.read or not requested.may_be_empty):
            # Known records should begin the page: they have been withdrawn.
            raise ContradictionError
        if proves_nothing:
            return self._after_blank(requested), ()
        listed = self._join_pages(keys)
        is_full = len(keys) >= PAGE_SIZE
        known_spans = self._known_in(requested)
        parts = self._tell_apart(requested, known_spans, listed, is_full=is_full)
        if parts is None:
            return self._after_ambiguous_page(requested, known_spans, listed), ()
        new_keys: tuple[str, ...] = ()
        if requested.end > self.listed_until and parts.last is not None:
            known = len(listed) - len(parts.last)
            new_keys = parts.last[max(0, len(self.read) - known) :]
            if is_full:
                return self._after_full_page(requested, listed, len(parts.last)), new_keys
        return self._divide(requested, known_spans, parts)._plan(), new_keys

    def _join_pages(self, keys: Sequence[str]) -> tuple[str, ...]:
        """Return the keys of all pages of the request so far."""
        if not self.read:
            return tuple(keys)
        if not keys or keys[0] != self.read[-1]:
            raise ContradictionError
        return (*self.read, *keys[1:])

    def _known_in(self, requested: DayRange) -> _KnownSpans:
        known = [span for span in self.spans if span.end > requested.start and span.start < requested.end]
        first = known[0] if known and known[0].start < requested.start else None
        last = known[-1] if known and known[-1].end > requested.end else None
        whole = tuple(key for span in known if span not in (first, last) for key in span.keys)
        return _KnownSpans(first, whole, last)

    def _tell_apart(
        self, requested: DayRange, known_spans: _KnownSpans, listed: tuple[str, ...], *, is_full: bool
    ) -> _Parts | None:
        """Tell of which spans the listed records are; None if there are several possibilities.

        Raises:
            ContradictionError: there are other records, or some are missing.
        """
        is_beyond = requested.end > self.listed_until
        of_first = known_spans.first.keys if known_spans.first else ()
        of_last = known_spans.last.keys if known_spans.last else ()
        possible = []
        for skipped in range(len(of_first) + 1):
            known = (*of_first[skipped:], *known_spans.whole)
            before_offset = of_last[: max(0, requested.offset - 1 - len(known))]
            known = known[requested.offset - 1 :]
            rest = (*before_offset, *listed[len(known) :])
            is_listed = listed[: len(known)] == (known[: len(listed)] if is_full else known)
            if is_listed and (is_beyond or rest == of_last[: len(rest)]):
                is_last_known = is_beyond or not is_full or len(rest) == len(of_last)
                possible.append(_Parts(of_first[skipped:], rest if is_last_known else None))
        if not possible:
            raise ContradictionError
        return possible[0] if len(possible) == 1 else None

    def _after_ambiguous_page(
        self, requested: DayRange, known_spans: _KnownSpans, listed: tuple[str, ...]
    ) -> "DaySearch":
        other: DayRange | None = None
        if requested.end > self.listed_until:
            other = self._plain_beyond()
        elif known_spans.first is not None and known_spans.last is not None:
            other = self._single(self.spans.index(known_spans.first))
        # If no other request helps, the number of records on all pages leaves no doubt.
        return replace(self, planned=(other or requested, *self.planned[1:]), read=() if other else listed)

    def _after_blank(self, requested: DayRange) -> "DaySearch":
        skipped = self._skip_planned()
        if requested.end > self.listed_until:
            # Nothing is known yet. The next request starts here too.
            grown = min(self.width * _MAX_GROWTH, (self.end - self.start).days)
            return replace(skipped, listed_until=requested.end, width=grown)._plan()
        last = next(span for span in self.spans if requested.end <= span.end)
        if requested.start < last.start:
            other = DayRange(requested.start, last.end)
        elif requested.end == last.end and len(last.keys) > 1:
            # If the second half of the span has no records, the span's last record is in the first half.
            other = DayRange(last.start, requested.start, len(last.keys), may_be_empty=True)
        elif requested.end < last.end and requested.offset == 1:
            other = DayRange(requested.end, last.end, may_be_empty=True)
        else:
            # Neither half has shown the span's last record, which may have been withdrawn.
            other = DayRange(last.start, last.end, len(last.keys))
        return replace(skipped, planned=(other, *skipped.planned))

    def _after_full_page(self, requested: DayRange, listed: tuple[str, ...], new_records: int) -> "DaySearch":
        days = (requested.end - self.listed_until).days
        is_narrow = days <= _MAX_NARROW_DAYS
        is_unexpected = not is_narrow and days * self.density < _FEW_RECORDS
        if new_records > _MAX_NEW_RECORDS or is_unexpected:
            skipped = self._skip_planned()
            if is_narrow:
                return skipped.after_days(days, new_records)._stop(requested.end)._plan()
            return replace(skipped, width=days // _MAX_GROWTH, too_wide_until=requested.end)._plan()
        return replace(self, read=listed)

    def _stop(self, day: date) -> "DaySearch":
        """Return the search that ends when its spans are resolved, for days after `day` to be requested."""
        days = _DAYS_ONE_BY_ONE << min(self.failures, _MAX_DOUBLINGS)
        return replace(self, days_until=day + days * _DAY, failures=self.failures + 1)

    @property
    def _beyond(self) -> date:
        """Return the start of the next new span."""
        return self.listed_until if self.spans else self.start

    def _skip_planned(self) -> "DaySearch":
        return replace(self, planned=self.planned[1:], read=())

    def _divide(self, requested: DayRange, known_spans: _KnownSpans, parts: _Parts) -> "DaySearch":
        """Return the search after the last page of the next request."""
        spans: list[DaySpan] = []
        for span in self.spans:
            if span == known_spans.first:
                spans += _halves(span, requested.start, len(span.keys) - len(parts.first))
            elif span == known_spans.last and parts.last is not None:
                spans += _halves(span, requested.end, len(parts.last))
            else:
                spans.append(span)
        search = replace(self._skip_planned(), spans=tuple(spans))
        if requested.end <= self.listed_until or parts.last is None:
            return search
        return search._extend(requested, parts.last)

    def _extend(self, requested: DayRange, keys: tuple[str, ...]) -> "DaySearch":
        """Return the search after a new span with these records."""
        start = self._beyond
        days = (requested.end - start).days
        density = len(keys) / days
        if keys and self.density:
            density = _OLD_SHARE * self.density + (1 - _OLD_SHARE) * density
        width = min(int(_NEW_RECORDS / density), days * _MAX_GROWTH) if density else days * _MAX_GROWTH
        extended = replace(
            self,
            start=self.start if keys or self.spans else requested.end,
            listed_until=requested.end,
            spans=(*self.spans, DaySpan(start, requested.end, keys)) if keys else self.spans,
            width=max(_MIN_WIDTH, width),
            density=density if keys else self.density / 2,
        )
        if len(keys) >= _MAX_DENSITY * (days if self.failures else max(days, _MIN_WIDTH)):
            return replace(extended, density=self.after_days(days, len(keys)).density)._stop(requested.end)
        return replace(extended, failures=max(0, self.failures - 1))

    def _plan(self) -> "DaySearch":
        """Return the search with as many planned requests as there can be."""
        search = self
        while len(search.planned) < _MAX_PLANNED:
            beyond = search._next_beyond()
            requested = None if search._has_open_records else beyond
            requested = requested or search._next_pair() or search._next_single()
            if requested is None and not (search.planned and search._has_many_records):
                requested = beyond
            if requested is None:
                break
            search = replace(search, planned=(*search.planned, requested))
        return search

    @property
    def _has_open_records(self) -> bool:
        """Return whether there are enough spans to divide, so that new ones are not necessary yet."""
        sizes = [len(span.keys) for span in self.spans if not span.is_day]
        return len(sizes) >= _MIN_OPEN_SPANS or sum(sizes) >= _MAX_OPEN_RECORDS

    @property
    def _has_many_records(self) -> bool:
        """Return whether there are enough records whose days are to be found first."""
        return sum(len(span.keys) for span in self.spans) >= _MAX_RECORDS_AHEAD

    def _next_beyond(self) -> DayRange | None:
        """Return a request for a new span, if there are more days and no other one is planned."""
        if self.days_until is not None or self.listed_until >= self.end:
            return None
        if any(requested.end > self.listed_until for requested in self.planned):
            return None
        for index in reversed(self._free_spans()):
            known = sum(len(span.keys) for span in self.spans[index:])
            if index + 1 < len(self.spans) and known <= _MAX_KNOWN_RECORDS:
                return self._beyond_from(self.spans[index].middle, known)
        return self._plain_beyond()

    def _plain_beyond(self) -> DayRange:
        """Return a request for a new span that divides no other."""
        if not self.spans:
            return replace(self._beyond_from(self.start, 0), may_be_empty=True)
        last = self.spans[-1]
        return replace(self._beyond_from(last.start, 1), offset=len(last.keys))

    def _beyond_from(self, start: date, known_records: int) -> DayRange:
        width = self.width
        if self.too_wide_until is not None and self.too_wide_until > self.listed_until:
            width = min(width, max(_MIN_WIDTH, (self.too_wide_until - self.listed_until).days * 3 // 4))
        days = max(1, width * (_NEW_RECORDS - known_records) // _NEW_RECORDS)
        return DayRange(start, min(self.listed_until + days * _DAY, self.end))

    def _next_pair(self) -> DayRange | None:
        """Return a request that divides the first span which can be divided, and another one."""
        free = self._free_spans()
        for number, first in enumerate(free):
            pairs = [self._pair(first, second) for second in free[number + 1 : number + 1 + _MAX_PARTNERS]]
            best = min(filter(None, pairs), key=lambda pair: pair[0], default=None)
            if best is not None:
                return best[1]
        return None

    def _pair(self, first: int, second: int) -> tuple[float, DayRange] | None:
        """Return a request that divides both spans, with the number of further requests to expect.

        None if the response could not tell their records apart.
        """
        one, other = self.spans[first], self.spans[second]
        between = sum(len(span.keys) for span in self.spans[first + 1 : second])
        if not between and not {*one.keys}.isdisjoint(other.keys):
            return None
        sizes = len(one.keys), len(other.keys)
        expected = between + sum(sizes) / 2
        # A full page divides the first span only.
        cost = 0.0 if between + sum(sizes) < PAGE_SIZE else max(0, min(1, (expected - 25) / 25))
        if not between:
            # An empty body, after which another request is necessary.
            cost += 1.5 / 2 ** sum(min(size, 4) for size in sizes)
        return cost, DayRange(one.middle, other.middle, may_be_empty=not between)

    def _next_single(self) -> DayRange | None:
        """Return a request that divides one span, if nothing else is planned."""
        if self.planned:
            return None
        return next(map(self._single, self._free_spans()), None)

    def _single(self, index: int) -> DayRange:
        """Return a request that divides this span and no other."""
        span = self.spans[index]
        if len(span.keys) >= PAGE_SIZE - 1:
            # The first page of the second half shows where the span is divided, whatever its length.
            is_last = index + 1 == len(self.spans)
            end = span.end if is_last else self.spans[index + 1].end
            return DayRange(span.middle, end, may_be_empty=is_last)
        if not index:
            return DayRange(span.start, span.middle, may_be_empty=True)
        before = self.spans[index - 1]
        return DayRange(before.start, span.middle, len(before.keys))

    def _free_spans(self) -> list[int]:
        """Return the indexes of the spans of several days that no planned request divides."""
        ends = [moment for requested in self.planned for moment in (requested.start, requested.end)]
        return [
            index
            for index, span in enumerate(self.spans)
            if not span.is_day and not any(span.start < moment < span.end for moment in ends)
        ]


def _halves(span: DaySpan, day: date, records: int) -> Iterator[DaySpan]:
    """Yield the parts of a span that have records: before a day, with the first so many, and from it on."""
    parts = DaySpan(span.start, day, span.keys[:records]), DaySpan(day, span.end, span.keys[records:])
    return (part for part in parts if part.keys)
