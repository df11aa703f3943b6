"""Time spans of a verification: every month is in one, each has purchases, and the oldest are due first."""

from collections import Counter
from datetime import UTC, date, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from accession.imports.verification_spans import (
    FIRST_MONTH,
    VerificationSpan,
    count_pages,
    count_requests,
    make_span,
    months_between,
    next_month,
    plan_spans,
    select_due,
    widen_day,
    widen_span,
)

END = date(2024, 7, 12)
NOW = datetime(2024, 8, 15, 5, tzinfo=UTC)

purchase_days = st.sets(st.dates(FIRST_MONTH, END - timedelta(days=1)), min_size=1, max_size=60)


def span_months(spans: list[VerificationSpan]) -> list[str]:
    return [f"{span.start:%Y-%m} to {span.end:%Y-%m-%d}" for span in spans]


def test_months_without_purchases_belong_to_a_neighbour() -> None:
    days = [date(2024, 2, 29), date(2024, 3, 1), date(2024, 3, 31), date(2024, 6, 30)]

    spans = plan_spans(days, END)

    assert span_months(spans) == [
        "2014-01 to 2024-03-01",
        "2024-03 to 2024-06-01",
        "2024-06 to 2024-07-12",
    ]
    assert spans[-1].months == (date(2024, 6, 1),), "July is not over"
    assert (spans[1].start_time, spans[1].end_time) == (
        datetime(2024, 3, 1, tzinfo=UTC),
        datetime(2024, 6, 1, tzinfo=UTC),
    )


@pytest.mark.parametrize("days", [[], [END], [date(2024, 8, 1)]])
def test_without_earlier_purchases_there_are_no_spans(days: list[date]) -> None:
    assert plan_spans(days, END) == []


@given(purchase_days)
def test_spans_cover_all_days_once_and_have_purchases(days: set[date]) -> None:
    spans = plan_spans(days, END)

    assert (spans[0].start, spans[-1].end) == (FIRST_MONTH, END)
    assert [span.end for span in spans[:-1]] == [span.start for span in spans[1:]]
    assert all(any(span.start <= day < span.end for day in days) for span in spans)
    months = [month for span in spans for month in span.months]
    assert months == [month for month in months_between(FIRST_MONTH, END) if next_month(month) <= END]


@pytest.mark.parametrize(
    ("purchases", "pages"), [(0, 1), (1, 1), (49, 1), (50, 2), (98, 2), (99, 3), (148, 4), (20_000, 409)]
)
def test_pages_overlap_by_one_record(purchases: int, pages: int) -> None:
    assert count_pages(purchases) == pages


@given(purchase_days, st.integers(1, 120))
def test_requests_are_the_pages_of_months_and_days(days: set[date], purchases: int) -> None:
    spans = plan_spans(days, END)
    by_day = dict.fromkeys(days, purchases)
    by_month = Counter(day.replace(day=1) for day in days)

    months = count_requests(spans, by_day)
    with_days = count_requests(spans, by_day, with_days=True)

    assert months == sum(count_pages(number * purchases) for number in by_month.values())
    assert with_days - months == len(days) * count_pages(purchases)


# Wider spans


@given(purchase_days, st.data())
def test_wider_spans_reach_all_others(days: set[date], data: st.DataObject) -> None:
    spans = plan_spans(days, END)
    span = data.draw(st.sampled_from(spans))
    for _ in range(10):
        wider = widen_span(span, spans)
        assert wider.start <= span.start
        assert wider.end >= span.end
        span = wider

    assert (span.start, span.end) == (FIRST_MONTH, END)


@given(purchase_days, st.data())
def test_wider_spans_of_a_day_begin_or_end_with_it(days: set[date], data: st.DataObject) -> None:
    ordered = sorted(days)
    day = data.draw(st.sampled_from(ordered))
    next_day = day + timedelta(days=1)
    span = make_span(day, next_day)
    reached = {span.start, span.end - timedelta(days=1)}
    for _ in range(20):
        span = widen_day(span, day, ordered)
        assert span.start == day or span.end == next_day
        reached |= {span.start, span.end - timedelta(days=1)}

    assert {ordered[0], ordered[-1]} <= reached


# Due spans


def due_on(
    spans: list[VerificationSpan],
    purchases: dict[date, int],
    verified_at: dict[date, datetime],
    now: datetime,
    budget: int,
) -> list[VerificationSpan]:
    """Return the spans that are due, and record their verification."""
    due = select_due(spans, purchases, verified_at, now=now, budget=budget)
    verified_at.update({month: now for span in due for month in span.months})
    return due


def test_spans_are_due_oldest_first_until_the_budget_is_used() -> None:
    purchases = {date(2024, month, 5): 60 if month == 3 else 1 for month in range(1, 7)}
    spans = plan_spans(purchases, END)
    verified_at: dict[date, datetime] = {}

    due = [due_on(spans, purchases, verified_at, NOW + timedelta(days=n), budget=2) for n in range(5)]

    assert [[f"{span.start:%Y-%m}" for span in each] for each in due] == [
        ["2014-01", "2024-02"],
        ["2024-03"],
        ["2024-04", "2024-05"],
        ["2024-06"],
        [],
    ]


def test_span_above_the_budget_is_due_alone() -> None:
    purchases = {date(2024, 1, 5): 1, date(2024, 2, 5): 500, date(2024, 3, 5): 1}
    spans = plan_spans(purchases, END)
    verified_at: dict[date, datetime] = {}

    due = [due_on(spans, purchases, verified_at, NOW, budget=5) for _ in range(3)]

    assert [[f"{span.start:%Y-%m}" for span in each] for each in due] == [
        ["2014-01"],
        ["2024-02"],
        ["2024-03"],
    ]


def test_new_months_come_before_those_verified_before() -> None:
    purchases = {date(2024, 4, 5): 1, date(2024, 5, 5): 1, date(2024, 6, 5): 1}
    spans = plan_spans(purchases, END)
    long_ago = NOW - timedelta(days=60)
    verified_at = {month: long_ago for span in spans[:2] for month in span.months}

    due = select_due(spans, purchases, verified_at, now=NOW, budget=2)

    assert [span.start for span in due] == [date(2024, 6, 1), FIRST_MONTH]


def test_differing_spans_are_due_besides_the_budget() -> None:
    purchases = {date(2024, month, 5): 1 for month in range(1, 7)}
    spans = plan_spans(purchases, END)
    verified_at = {month: NOW for span in spans for month in span.months if month > date(2024, 2, 1)}

    due = select_due(
        spans, purchases, verified_at, now=NOW, budget=1, differing_days={date(2024, 5, 1), date(2024, 4, 9)}
    )

    assert [f"{span.start:%Y-%m}" for span in due] == ["2024-04", "2024-05", "2014-01"]


@given(
    st.dictionaries(st.dates(FIRST_MONTH, END - timedelta(days=1)), st.integers(1, 200), min_size=1),
    st.integers(1, 8),
)
@settings(deadline=None)
def test_every_month_is_verified_again_and_again(purchases: dict[date, int], budget: int) -> None:
    spans = plan_spans(purchases, END)
    verified_at: dict[date, datetime] = {}
    days = 28 + 2 * len(spans)
    times = Counter[date]()
    for number in range(2 * days):
        due = due_on(spans, purchases, verified_at, NOW + timedelta(days=number), budget)
        assert len(due) <= 1 or count_requests(due, purchases) <= budget
        times.update(month for span in due for month in span.months)

    assert min(times[month] for span in spans for month in span.months) >= 2


def test_a_history_of_ten_years_is_verified_once_a_month() -> None:
    purchases = {month + timedelta(days=4): 10 for month in months_between(FIRST_MONTH, END)}
    spans = plan_spans(purchases, date(2024, 7, 1))
    verified_at: dict[date, datetime] = {}
    requests = 0
    for number in range(100):
        now = NOW + timedelta(days=number)
        requests += count_requests(due_on(spans, purchases, verified_at, now, budget=5), purchases)
        if number >= 28:
            oldest = min(verified_at[month] for span in spans for month in span.months)
            assert now - oldest <= timedelta(days=31)

    assert requests <= 5 * 100
