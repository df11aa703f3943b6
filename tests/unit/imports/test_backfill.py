"""Property-based test of the windows of a backfill, with a model of the vendor."""

from datetime import date, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from accession.imports.backfill import first_backfill_cursor
from accession.imports.windows import Width, midnight
from tests.fixtures.factories import day
from tests.fixtures.model_vendor import ModelImport, ModelVendor

FIRST, NOW = day(2014, 1, 1), day(2015, 1, 10, 12)
DAYS = st.dates(date(2014, 1, 1), NOW.date())
TIMES = st.builds(lambda hours: FIRST + timedelta(hours=hours), st.integers(0, 370 * 24))


@given(
    times=st.lists(TIMES, max_size=80),
    days=st.tuples(DAYS, DAYS),
    width=st.sampled_from([Width.DAY, Width.MONTH]),
)
def test_backfill_stores_exactly_the_purchases_of_its_days(
    times: list[datetime], days: tuple[date, date], width: Width
) -> None:
    first_day, last_day = sorted(days)
    end = min(midnight(last_day + timedelta(days=1)), NOW)
    purchases = [(moment, f"t{number}") for number, moment in enumerate(times)]
    backfill = ModelImport(ModelVendor(purchases), NOW, width)
    steps = list(backfill.steps(first_backfill_cursor(first_day, last_day, NOW)))
    assert all(step.request.end <= end for step in steps)
    within = {key for moment, key in purchases if midnight(first_day) <= moment < end}
    assert {key for step in steps for key in step.keys_to_store} == within
