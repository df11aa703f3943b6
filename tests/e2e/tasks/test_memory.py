"""What a link leaves in its worker's memory when it is over: nothing."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from billiard.einfo import ExceptionInfo

from accession.db.models import Collection
from tests.fixtures.factories import day
from tests.fixtures.workers import Chains, WatchedVendor, today_is

DAYS = 20


@contextmanager
def garbage_left_lying() -> Iterator[None]:
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def copied_tracebacks() -> int:
    """How many copies there are of the tracebacks of exceptions with which tasks have ended: in a cycle with
    Celery's frames, and half a megabyte each."""
    return sum(type(thing) is ExceptionInfo for thing in gc.get_objects())


@pytest.mark.usefixtures("worker")
def test_links_leave_nothing_to_the_garbage_collector(
    collection: Collection, vendor: WatchedVendor, chains: Chains
) -> None:
    for number in range(1, DAYS + 1):
        vendor.sells(day(2014, 1, number, 9), f"t{number}")
    with today_is(day(2014, 1, DAYS, 10)), garbage_left_lying():
        before = copied_tracebacks()
        run = chains.imported(collection)
        assert copied_tracebacks() == before
    assert (run.state, run.pages) == ("succeeded", DAYS)
