"""Chains that ask the vendor for several things at once, and for nothing twice."""

import threading

import httpx
import pytest

from accession.db.models import Collection, LookedUpTitle
from tests.fixtures.factories import day
from tests.fixtures.vendor import item
from tests.fixtures.workers import Broker, Chains, WatchedVendor, number_of, set_checkpoint, today_is

pytestmark = pytest.mark.usefixtures("worker")

TODAY = day(2024, 5, 20, 10)


@pytest.mark.usefixtures("four_at_once")
def test_a_chain_asks_the_vendor_four_things_at_once_and_never_five(
    collection: Collection, vendor: WatchedVendor, chains: Chains, broker: Broker
) -> None:
    seen: list[int] = []
    four = threading.Barrier(4, timeout=10)

    def watch(_: httpx.Request) -> None:
        if 1 <= len(seen) < 5 and not four.broken:
            four.wait()
        seen.append(broker.redis.zcard(f"vendor:places:{collection_id}"))

    collection_id = collection.id
    vendor.watch = watch
    vendor.sells(day(2024, 5, 9, 9), *(f"t{n}" for n in range(120)))
    set_checkpoint(collection.id, day(2024, 5, 1))
    with today_is(TODAY):
        run = chains.imported(collection)
    assert (run.state, run.records_stored, max(seen)) == ("succeeded", 120, 4)


@pytest.mark.usefixtures("four_at_once")
def test_answers_ahead_wait_in_the_broker_for_whichever_worker_gets_the_page(
    collection: Collection, vendor: WatchedVendor, chains: Chains, broker: Broker
) -> None:
    set_checkpoint(collection.id, day(2024, 5, 1))
    with today_is(TODAY):
        message_id = chains.start(collection)
        broker.settle()
        run = chains.ended(message_id)
    days = [asked["startdate"][:10] for asked in vendor.marc_requests()]
    assert run.state == "succeeded"
    assert sorted(days) == [*(f"2024-05-0{n}" for n in range(1, 9))]
    assert list(broker.redis.scan_iter("vendor:*")) == []


def test_a_title_that_a_run_meets_twice_is_looked_up_once(
    collection: Collection, vendor: WatchedVendor, chains: Chains
) -> None:
    vendor.sells(day(2024, 5, 2, 9), "one", "both")
    vendor.sells(day(2024, 5, 9, 9), "two", "both")
    set_checkpoint(collection.id, day(2024, 5, 1))
    with today_is(TODAY):
        assert chains.imported(collection).state == "succeeded"
        assert sorted(vendor.item_requests()) == [["one", "both"], ["two"]]
        assert number_of(LookedUpTitle) == 0

        vendor.items["both"] = item("both", title="A new title")
        chains.imported(collection, force=True)
    assert vendor.item_requests()[2:] == [["one", "both"], ["two"]], "another run asks anew"
