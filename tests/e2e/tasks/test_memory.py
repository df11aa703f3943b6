"""Memory of a worker after its steps: nothing is left for the garbage collector."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from billiard.einfo import ExceptionInfo

from accession.db.models import Collection
from tests.fixtures.factories import day
from tests.fixtures.workers import ObservedVendor, RunStarter, travel_to

DAYS = 20


@contextmanager
def garbage_collection_disabled() -> Iterator[None]:
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def copied_tracebacks() -> int:
    """Return the number of traceback copies that Celery keeps: half a megabyte each, in reference cycles."""
    return sum(type(each) is ExceptionInfo for each in gc.get_objects())


@pytest.mark.usefixtures("worker", "days_one_by_one")
def test_steps_leave_no_traceback_copies_in_memory(
    collection: Collection, vendor: ObservedVendor, run_starter: RunStarter
) -> None:
    for number in range(1, DAYS + 1):
        vendor.add_purchases(day(2014, 1, number, 9), f"t{number}")
    with travel_to(day(2014, 1, DAYS, 10)), garbage_collection_disabled():
        before = copied_tracebacks()
        run = run_starter.run_to_end(collection)
        assert copied_tracebacks() == before
    assert (run.state, run.pages) == ("succeeded", DAYS)
