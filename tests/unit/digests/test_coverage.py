"""Days that issues cover: each once, however late an issue is made or purchases are imported."""

from datetime import date, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from accession.digests.content import ONE_DAY, Period
from accession.digests.issues import Coverage, Covered, plan_coverage

SUNDAY = date(2024, 4, 28)


def days_of(period: Period | None) -> list[date]:
    return [] if period is None else [period.first + timedelta(days=n) for n in range(period.days)]


@pytest.mark.parametrize(
    ("imported_until", "purchases"),
    [
        (SUNDAY + ONE_DAY, Period(date(2024, 4, 22), SUNDAY)),
        (date(2024, 4, 24), Period(date(2024, 4, 22), date(2024, 4, 24))),
        (date(2024, 4, 21), None),
        (None, None),
    ],
)
def test_first_issue_covers_a_week(imported_until: date | None, purchases: Period | None) -> None:
    coverage = plan_coverage(Covered(), 7, SUNDAY, imported_until)
    assert coverage == Coverage(Period(date(2024, 4, 22), SUNDAY), purchases)


def test_issue_without_a_new_day_covers_nothing() -> None:
    covered = Covered(SUNDAY, SUNDAY)
    coverage = plan_coverage(covered, 1, SUNDAY, imported_until=SUNDAY + ONE_DAY)
    assert coverage == Coverage(None, None)
    assert covered.after(coverage) == covered


issues = st.lists(st.tuples(st.integers(0, 20), st.integers(0, 30)), min_size=1, max_size=20)


@given(issues=issues, days=st.sampled_from([1, 7]))
def test_each_day_is_covered_once(issues: list[tuple[int, int]], days: int) -> None:
    """Issues come some days after each other, and the import is some days behind each of them."""
    last, covered = SUNDAY, Covered()
    in_periods: list[date] = []
    in_purchases: list[date] = []
    for days_later, days_behind in issues:
        last += days_later * ONE_DAY
        issue = plan_coverage(covered, days, last, last - days_behind * ONE_DAY)
        in_periods += days_of(issue.period)
        in_purchases += days_of(issue.purchases)
        covered = covered.after(issue)
    first = SUNDAY + issues[0][0] * ONE_DAY - (days - 1) * ONE_DAY
    assert in_periods == days_of(Period(first, last))
    assert in_purchases == days_of(Period(first, in_purchases[-1]) if in_purchases else None)


@pytest.mark.parametrize(
    ("period", "text"),
    [
        (Period(SUNDAY, SUNDAY), "28 April 2024"),
        (Period(date(2024, 4, 22), SUNDAY), "22–28 April 2024"),
        (Period(date(2024, 4, 29), date(2024, 5, 5)), "29 April – 5 May 2024"),
        (Period(date(2024, 12, 30), date(2025, 1, 5)), "30 December 2024 – 5 January 2025"),
    ],
)
def test_period_is_written_as_people_do(period: Period, text: str) -> None:
    assert str(period) == text


def test_period_before_has_the_same_length() -> None:
    assert Period(date(2024, 4, 22), SUNDAY).before == Period(date(2024, 4, 15), date(2024, 4, 21))
