"""Prefetched pages and looked-up titles of a run: several requests at once, and none twice."""

import itertools
import threading

import httpx
import pytest

from accession.db.models import Collection, RunTitle
from tests.fixtures.broker import Broker
from tests.fixtures.factories import day
from tests.fixtures.stored import count_rows, set_checkpoint
from tests.fixtures.vendor import item
from tests.fixtures.workers import ObservedVendor, RunStarter, travel_to

pytestmark = pytest.mark.usefixtures("worker")

TODAY = day(2024, 5, 20, 10)


@pytest.mark.usefixtures("four_concurrent_requests", "days_one_by_one")
def test_run_has_at_most_four_requests_in_flight(
    collection: Collection, vendor: ObservedVendor, run_starter: RunStarter, broker: Broker
) -> None:
    in_flight: list[int] = []
    arrivals = itertools.count()
    barrier = threading.Barrier(4, timeout=60)

    def on_request(_: httpx.Request) -> None:
        if 1 <= next(arrivals) <= 4:
            barrier.wait()
        in_flight.append(len(list(broker.redis.scan_iter("vendor:slots:*"))))

    vendor.on_request = on_request
    vendor.add_purchases(day(2024, 5, 9, 9), *(f"t{n}" for n in range(120)))
    set_checkpoint(collection.id, day(2024, 5, 1))
    with travel_to(TODAY):
        run = run_starter.run_to_end(collection)
    assert (run.state, run.records_stored, max(in_flight)) == ("succeeded", 120, 4)


@pytest.mark.usefixtures("four_concurrent_requests", "days_one_by_one")
def test_prefetched_responses_are_used_and_removed(
    collection: Collection, vendor: ObservedVendor, run_starter: RunStarter, broker: Broker
) -> None:
    with travel_to(TODAY):
        run_starter.enqueue_step(collection, "the-task", current_day="2024-05-01T00:00:00+00:00")
        run = run_starter.wait_for("the-task")
    days = [query["startdate"][:10] for query in vendor.marc_requests()]
    assert run.state == "succeeded"
    assert sorted(days) == [*(f"2024-05-0{n}" for n in range(1, 9))]
    assert list(broker.redis.scan_iter("vendor:*")) == []


def test_title_met_twice_in_a_run_is_looked_up_once(
    collection: Collection, vendor: ObservedVendor, run_starter: RunStarter
) -> None:
    vendor.add_purchases(day(2024, 5, 2, 9), "one", "both")
    vendor.add_purchases(day(2024, 5, 9, 9), "two", "both")
    set_checkpoint(collection.id, day(2024, 5, 1))
    with travel_to(TODAY):
        assert run_starter.run_to_end(collection).state == "succeeded"
        assert [sorted(ids) for ids in vendor.item_requests()] == [["both", "one", "two"]]
        assert count_rows(RunTitle) == 0

        vendor.items["both"] = item("both", title="A new title")
        run_starter.run_to_end(collection, force=True)
    assert [sorted(ids) for ids in vendor.item_requests()[1:]] == [["both", "one", "two"]], (
        "another run requests them again"
    )
