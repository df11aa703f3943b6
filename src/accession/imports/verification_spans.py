"""Divide a collection's history into the time spans that are verified with one listing each.

An empty body proves nothing, so each span has at least one stored purchase: it is a calendar month with
purchases, together with the months without any after it. The first span also has the months before the first
purchase.
"""

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta

from accession.bibliotheca.client import PAGE_SIZE

FIRST_MONTH = date(2014, 1, 1)
"""The vendor has no purchases before this month."""

_ONE_DAY = timedelta(days=1)

# A month is verified again after about a month.
_MIN_INTERVAL = timedelta(days=28)

_NEVER = datetime.min.replace(tzinfo=UTC)


@dataclass(frozen=True)
class VerificationSpan:
    """Calendar months that are verified together: `[start, end)`, in days.

    `months` are the first days of the months that the span covers completely.
    """

    start: date
    end: date
    months: tuple[date, ...]

    @property
    def start_time(self) -> datetime:
        """Return the start (UTC) of the first day."""
        return datetime.combine(self.start, time(), UTC)

    @property
    def end_time(self) -> datetime:
        """Return the start (UTC) of the day after the last."""
        return datetime.combine(self.end, time(), UTC)


def next_month(month: date) -> date:
    """Return the first day of the month after the one of this day."""
    return date(month.year + month.month // 12, month.month % 12 + 1, 1)


def months_between(first: date, end: date) -> list[date]:
    """Return the first days of the months from the one of `first` up to `end` (exclusive)."""
    months = [first.replace(day=1)]
    while (month := next_month(months[-1])) < end:
        months.append(month)
    return months if months[0] < end else []


def plan_spans(purchase_days: Iterable[date], end: date) -> list[VerificationSpan]:
    """Return the spans from January 2014 up to `end` (exclusive), oldest first; none without purchases."""
    starts = sorted({day.replace(day=1) for day in purchase_days if day < end})
    if not starts:
        return []
    starts[0] = min(starts[0], FIRST_MONTH)
    return [make_span(start, span_end) for start, span_end in zip(starts, [*starts[1:], end], strict=True)]


def make_span(start: date, end: date) -> VerificationSpan:
    """Return the span `[start, end)`."""
    months = months_between(start, end)
    return VerificationSpan(
        start, end, tuple(month for month in months if start <= month and next_month(month) <= end)
    )


def select_due(
    spans: Sequence[VerificationSpan],
    purchases_by_day: Mapping[date, int],
    verified_at: Mapping[date, datetime],
    *,
    now: datetime,
    budget: int,
    differing_days: Collection[date] = (),
) -> list[VerificationSpan]:
    """Return the spans that were verified longest ago, as many as `budget` requests allow but at least one.

    Before them come the spans of `differing_days`, which are known to differ, whatever their number.

    `verified_at` has the time (UTC) of the latest verification of each month. A span whose months have all
    been verified in the last four weeks is left out, and those never verified come first.
    """
    differing = [span for span in spans if any(span.start <= day < span.end for day in differing_days)]
    ages = [
        (min((verified_at.get(month, _NEVER) for month in span.months), default=now), span)
        for span in spans
        if span not in differing
    ]
    due = [(oldest, span.start, span) for oldest, span in ages if now - oldest >= _MIN_INTERVAL]
    selected: list[VerificationSpan] = []
    requests = 0
    for _, _, span in sorted(due, key=lambda each: each[:2]):
        requests += count_requests([span], purchases_by_day)
        if selected and requests > budget:
            break
        selected.append(span)
    return differing + selected


def widen_span(span: VerificationSpan, spans: Sequence[VerificationSpan]) -> VerificationSpan:
    """Return a span about twice as wide, by those of `spans` before it or, failing that, after it.

    It is the same span if there are no others.
    """
    covered = [number for number, each in enumerate(spans) if span.start <= each.start < span.end]
    first, last = (covered[0], covered[-1]) if covered else (0, len(spans) - 1)
    if first:
        first = max(0, first - len(covered))
    else:
        last = min(len(spans) - 1, last + len(covered))
    return make_span(min(span.start, spans[first].start), max(span.end, spans[last].end))


def widen_day(span: VerificationSpan, day: date, days: Sequence[date]) -> VerificationSpan:
    """Return a span with about twice as many of the `days` with purchases before a day; it ends with it.

    If there are no more before it, the span begins with the day, and has those after it. It is the same span
    if there are no others.
    """
    covered = sum(span.start <= each < span.end for each in days) or 1
    earlier = [each for each in days if each < span.start]
    if earlier and span.end == day + _ONE_DAY:
        return make_span(earlier[max(0, len(earlier) - covered)], span.end)
    later = [each for each in days if each >= max(span.end, day + _ONE_DAY)]
    if not later:
        return span
    return make_span(day, later[min(covered, len(later)) - 1] + _ONE_DAY)


def count_pages(purchases: int) -> int:
    """Return the number of requests that list so many purchases; pages overlap by one record."""
    return max(0, purchases - 1) // (PAGE_SIZE - 1) + 1


def count_requests(
    spans: Sequence[VerificationSpan], purchases_by_day: Mapping[date, int], *, with_days: bool = False
) -> int:
    """Return the number of requests for verifying these spans, if the vendor has the stored purchases.

    The spans do not overlap, and each has purchases. `with_days` adds the requests for each day with
    purchases.
    """
    ordered = sorted(spans, key=lambda span: span.start)
    starts = [span.start for span in ordered]
    days_of_span = defaultdict(list)
    for day, purchases in purchases_by_day.items():
        index = bisect_right(starts, day) - 1
        if index >= 0 and day < ordered[index].end:
            days_of_span[index].append(purchases)
    requests = sum(count_pages(sum(days)) for days in days_of_span.values())
    if with_days:
        requests += sum(count_pages(day) for days in days_of_span.values() for day in days)
    return requests
