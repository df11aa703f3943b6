"""Find the days of past purchases with few requests, each of which divides two time spans.

The vendor's records do not carry the day of the purchase, so a day is known only from the windows that list
the record. To request each day is safe and slow. This search requests wide windows instead, and divides them:

- A request beyond the last window lists the records of a new span of days, usually about forty.
- A request from the middle of one span to the middle of a later one divides both. Of the records that are
  known to be in the first span, those that the response has are in its second half and the others in its
  first half; in the other span it is the opposite. So a request answers two questions.
- A span of one day is resolved: its records were purchased on that day.

A record is identified by its title and its content, and each span has a multiset of them: a title that is
listed twice counts twice. A response that contradicts what is known means that the vendor has changed its
list meanwhile, or does not keep its word. Then the days are requested one by one.

An empty body proves nothing (see `accession.imports.windows`). A request is therefore chosen so that a record
is known to be in it. Where that is not possible, an empty body leads to another request.
"""

from collections import Counter
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
# A request beyond the last span may also list this many known records, to divide a span with them.
_MAX_KNOWN_RECORDS = 12
# A range with more records would often have a second page.
_MAX_EXPECTED_RECORDS = 45
# A new span with more records is requested again, narrower.
_MAX_NEW_RECORDS = 150
_MAX_GROWTH = 4
# The density changes slowly, because the records of one span are few.
_OLD_SHARE = 0.6
_MAX_PLANNED = 8
_MAX_PARTNERS = 8
# Resolved days that are kept at the start, as records that are known to be listed.
_KEPT_DAYS = 2
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
    """A request for the records of the days `[start, end)` (UTC), from the 1-based `offset`.

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
        days: spans of one day which the page has resolved.
    """

    search: "DaySearch"
    new_keys: tuple[str, ...] = ()
    days: tuple[DaySpan, ...] = ()


@dataclass(frozen=True)
class DaySearch:
    """The state of a search between two pages.

    Attributes:
        start: start of the search (UTC), before which everything is imported.
        listed_until: end of the days of which all records are known.
        end: end of the days to search.
        spans: the spans that have records, in order, without those at the start that are resolved. Days
            between them have none.
        planned: the next requests; they do not depend on each other.
        read: keys of the pages of the first planned request that have been read.
        width: days of the next new span.
        density: recent number of records a day.
        is_dense: whether the day after `listed_until` has too many records for a search.
    """

    start: date
    listed_until: date
    end: date
    spans: tuple[DaySpan, ...] = ()
    planned: tuple[DayRange, ...] = ()
    read: tuple[str, ...] = ()
    width: int = 1
    density: float = 0.0
    is_dense: bool = False

    @classmethod
    def begin(cls, start: date, end: date) -> "DaySearch":
        """Return a search of the days `[start, end)`."""
        return cls(start, start, end)._plan()

    @property
    def is_complete(self) -> bool:
        """Return whether there is nothing more to request in this way."""
        return not self.planned

    @property
    def imported_until(self) -> date:
        """Return the day before which every record is known with its day."""
        if not self.spans:
            return self.start
        return next((span.start for span in self.spans if not span.is_day), self.listed_until)

    @property
    def keys(self) -> frozenset[str]:
        """Return the keys of the records whose days are not known, and of the pages in progress."""
        undated = (span.keys for span in self.spans if not span.is_day)
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
        requested = self.planned[0]
        if is_blank:
            return RangeReading(self._after_blank(requested))
        listed = self._join_pages(requested, keys)
        is_full = len(keys) >= PAGE_SIZE
        known = Counter(key for span in self._known_in(requested) for key in span.keys)
        new_keys: tuple[str, ...] = ()
        if requested.end > self.listed_until:
            new_before = Counter(self.read) - known
            new_keys = tuple((Counter(listed) - known - new_before).elements())
        if is_full:
            new_records = (Counter(listed) - known).total()
            return RangeReading(self._after_full_page(requested, listed, new_records), new_keys)
        divided = self._divide(requested, listed)
        if divided is None:
            other = (
                self._plain_beyond() if requested.end > self.listed_until else self._single(requested.start)
            )
            return RangeReading(replace(self, planned=(other, *self.planned[1:]), read=()))
        days = tuple(span for span in divided.spans if span.is_day and span not in self.spans)
        return RangeReading(divided._forget_resolved()._plan(), new_keys, days)

    def _join_pages(self, requested: DayRange, keys: Sequence[str]) -> tuple[str, ...]:
        """Return the keys of all pages of the request so far."""
        if self.read:
            if not keys or keys[0] != self.read[-1]:
                raise ContradictionError
            return (*self.read, *keys[1:])
        return tuple(keys)

    def _known_in(self, requested: DayRange) -> Sequence[DaySpan]:
        """Return the spans of which the range has a part, without the records that the offset skips."""
        known, skipped = [], requested.offset - 1
        for span in self.spans:
            if span.end > requested.start and span.start < requested.end:
                keys = span.keys[skipped:]
                skipped = max(0, skipped - len(span.keys))
                if keys:
                    known.append(replace(span, keys=keys))
        return known

    def _after_blank(self, requested: DayRange) -> "DaySearch":
        skipped = self._skip_planned()
        if requested.end > self.listed_until:
            # Nothing is known yet. The next request starts here too.
            grown = min(self.width * _MAX_GROWTH, (self.end - self.start).days)
            return replace(skipped, listed_until=requested.end, width=grown)._plan()
        following = next(span for span in self.spans if span.start < requested.end < span.end)
        certain = DayRange(requested.start, following.end)
        return replace(skipped, planned=(certain, *skipped.planned))

    def _after_full_page(self, requested: DayRange, listed: tuple[str, ...], new_records: int) -> "DaySearch":
        if requested.end <= self.listed_until:
            if len(listed) > sum(len(span.keys) for span in self._known_in(requested)):
                raise ContradictionError
            return replace(self, read=listed)
        if new_records <= _MAX_NEW_RECORDS:
            return replace(self, read=listed)
        narrower = replace(self._skip_planned(), width=max(1, self.width // _MAX_GROWTH))
        return replace(narrower, is_dense=requested.end - self.listed_until <= _DAY)._plan()

    @property
    def _beyond(self) -> date:
        """Return the start of the next new span."""
        return self.listed_until if self.spans else self.start

    def _skip_planned(self) -> "DaySearch":
        return replace(self, planned=self.planned[1:], read=())

    def _divide(self, requested: DayRange, listed: tuple[str, ...]) -> "DaySearch | None":
        """Return the search after a complete response; None if it is ambiguous."""
        known = self._known_in(requested)
        first = known[0] if known and known[0].start < requested.start else None
        last = known[-1] if known and known[-1].end > requested.end else None
        whole = tuple(key for span in known if span not in (first, last) for key in span.keys)
        is_beyond = requested.end > self.listed_until
        parts = _attribute(
            listed, first.keys if first else (), whole, None if is_beyond else last.keys if last else ()
        )
        if parts is None:
            return None
        of_first, of_last = parts
        spans: list[DaySpan] = []
        for span in self.spans:
            if first is not None and span.start == first.start:
                spans += _halves(span, requested.start, _rest(span.keys, end=of_first), of_first)
            elif last is not None and span.start == last.start:
                spans += _halves(span, requested.end, of_last, _rest(span.keys, start=of_last))
            else:
                spans.append(span)
        search = replace(self._skip_planned(), spans=tuple(spans))
        return search._extend(requested, of_last) if is_beyond else search

    def _extend(self, requested: DayRange, keys: tuple[str, ...]) -> "DaySearch":
        """Return the search after a new span with these records."""
        start = self._beyond
        days = (requested.end - start).days
        density = len(keys) / days
        if keys and self.density:
            density = _OLD_SHARE * self.density + (1 - _OLD_SHARE) * density
        width = min(int(_NEW_RECORDS / density), days * _MAX_GROWTH) if density else days * _MAX_GROWTH
        return replace(
            self,
            start=self.start if keys or self.spans else requested.end,
            listed_until=requested.end,
            spans=(*self.spans, DaySpan(start, requested.end, keys)) if keys else self.spans,
            width=max(1, width),
            density=density if keys else self.density / 2,
        )

    def _forget_resolved(self) -> "DaySearch":
        """Return the search without the resolved days at its start, but for the last ones."""
        resolved = len(list(takewhile(lambda span: span.is_day, self.spans)))
        return replace(self, spans=self.spans[max(0, resolved - _KEPT_DAYS) :])

    def _plan(self) -> "DaySearch":
        """Return the search with as many planned requests as there can be."""
        search = self
        while len(search.planned) < _MAX_PLANNED:
            requested = search._next_beyond() or search._next_pair() or search._next_single()
            if requested is None:
                break
            search = replace(search, planned=(*search.planned, requested))
        return search

    def _next_beyond(self) -> DayRange | None:
        """Return a request for a new span, if there should be one now."""
        if self.is_dense or self.listed_until >= self.end:
            return None
        if any(requested.end > self.listed_until for requested in self.planned):
            return None
        sizes = [len(span.keys) for span in self.spans if not span.is_day]
        if len(self.spans) > 1 and (len(sizes) >= _MIN_OPEN_SPANS or sum(sizes) >= _MAX_OPEN_RECORDS):
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
        days = max(1, self.width * (_NEW_RECORDS - known_records) // _NEW_RECORDS)
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
        # A second page.
        cost = 0.0 if between + sum(sizes) < PAGE_SIZE else max(0, min(1, (expected - 25) / 25))
        if not between:
            # An empty body, after which another request is necessary.
            cost += 1.5 / 2 ** sum(min(size, 4) for size in sizes)
        return cost, DayRange(one.middle, other.middle, may_be_empty=not between)

    def _next_single(self) -> DayRange | None:
        """Return a request that divides one span, if nothing else is planned."""
        free = self._free_spans()
        if self.planned or not free or len(self.spans) == 1:
            return None
        return self._single(self.spans[free[0]].middle)

    def _single(self, middle: date) -> DayRange:
        """Return a request that divides the span with this middle, and no other."""
        index = next(n for n, span in enumerate(self.spans) if span.start < middle < span.end)
        if index:
            before = self.spans[index - 1]
            return DayRange(before.start, middle, offset=len(before.keys))
        return DayRange(middle, self.spans[index + 1].end)

    def _free_spans(self) -> list[int]:
        """Return the indexes of the spans of several days that no planned request divides."""
        ends = [moment for requested in self.planned for moment in (requested.start, requested.end)]
        return [
            index
            for index, span in enumerate(self.spans)
            if not span.is_day and not any(span.start < moment < span.end for moment in ends)
        ]


def _attribute(
    listed: tuple[str, ...], first: tuple[str, ...], whole: tuple[str, ...], last: tuple[str, ...] | None
) -> tuple[tuple[str, ...], tuple[str, ...]] | None:
    """Tell which of the listed records are of the first span of a range, and which of its last one.

    Args:
        listed: all records of the range.
        first: records of the span in which the range begins.
        whole: records of the spans between, which are all in the range.
        last: records of the span in which the range ends; None if it ends after the last span, so that
            further records are new.

    Returns:
        The records of the first span, and those of the last one or the new ones; None if that is ambiguous.

    Raises:
        ContradictionError: there are other records, or some are missing.
    """
    # The vendor lists the records of a day before those of later ones.
    matches = []
    for size in range(min(len(first), len(listed) - len(whole)) + 1):
        end = size + len(whole)
        if listed[:size] == first[len(first) - size :] and listed[size:end] == whole:
            rest = listed[end:]
            if last is None or rest == last[: len(rest)]:
                matches.append((listed[:size], rest))
    if matches:
        return matches[0] if len(matches) == 1 else None
    return _attribute_without_order(listed, first, whole, last)


def _attribute_without_order(
    listed: tuple[str, ...], first: tuple[str, ...], whole: tuple[str, ...], last: tuple[str, ...] | None
) -> tuple[tuple[str, ...], tuple[str, ...]] | None:
    """Attribute records by their keys alone, for a vendor that does not keep their order."""
    rest = Counter(listed)
    rest.subtract(whole)
    if any(number < 0 for number in rest.values()):
        raise ContradictionError
    of_first = rest & Counter(first)
    others = rest - of_first
    if last is None:
        return None if of_first else ((), _select(listed, others))
    if others - Counter(last):
        raise ContradictionError
    if not of_first.keys().isdisjoint(last):
        return None
    return _select(listed, of_first), _select(listed, others)


def _halves(span: DaySpan, cut: date, first: tuple[str, ...], second: tuple[str, ...]) -> Iterator[DaySpan]:
    """Yield the parts of a span that have records."""
    parts = DaySpan(span.start, cut, first), DaySpan(cut, span.end, second)
    return (part for part in parts if part.keys)


def _rest(
    keys: tuple[str, ...], *, start: tuple[str, ...] = (), end: tuple[str, ...] = ()
) -> tuple[str, ...]:
    """Return the keys without those at the start and at the end, or wherever else they are."""
    if (*start, *keys[len(start) : len(keys) - len(end)], *end) == keys:
        return keys[len(start) : len(keys) - len(end)]
    return _select(keys, Counter(keys) - Counter((*start, *end)))


def _select(keys: Sequence[str], selected_keys: Counter[str]) -> tuple[str, ...]:
    """Return the selected keys in their order."""
    left = selected_keys.copy()
    selected = []
    for key in keys:
        if left[key] > 0:
            left[key] -= 1
            selected.append(key)
    return tuple(selected)
