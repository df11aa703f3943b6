"""Prefetched responses and looked-up titles of a run whose steps are delivered by hand."""

import pytest
from sqlalchemy.orm import Session

from accession.db.models import Collection, RunTitle
from tests.fixtures.broker import Broker
from tests.fixtures.factories import day, make_collection
from tests.fixtures.holdings import title_ids
from tests.fixtures.stored import count_rows, titles_with_metadata
from tests.fixtures.workers import ObservedVendor, RunStarter, travel_to

TODAY = day(2024, 5, 20, 10)
MAY_1 = "2024-05-01T00:00:00+00:00"


@pytest.mark.usefixtures("four_concurrent_requests", "days_one_by_one")
def test_page_is_requested_if_its_prefetched_response_is_lost(
    collection: Collection, vendor: ObservedVendor, run_starter: RunStarter, broker: Broker
) -> None:
    vendor.add_purchases(day(2024, 5, 3, 9), "abc")
    with travel_to(TODAY):
        run_starter.enqueue_step(collection, "the-task", current_day=MAY_1)
        broker.deliver_next()
        assert len(vendor.requests) == 1, "the first page does not prefetch: the credentials may be wrong"
        broker.deliver_next()
        cached = list(broker.redis.scan_iter("vendor:prefetch:*"))
        assert 0 < max(map(broker.redis.pttl, cached)) <= 60_000
        broker.redis.delete(*cached)
        broker.deliver_all()
        broker.deliver_next("apply")
    assert len(cached) == 3
    assert titles_with_metadata() == {"abc"}


@pytest.mark.usefixtures("days_one_by_one")
def test_rolled_back_page_records_no_looked_up_titles(
    collection: Collection,
    vendor: ObservedVendor,
    run_starter: RunStarter,
    broker: Broker,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from accession.imports import purchase_store

    vendor.add_purchases(day(2024, 5, 1, 9), "abc")
    with travel_to(TODAY):
        run_starter.enqueue_step(collection, "the-task", current_day=MAY_1)
        message = broker.pop()
        with monkeypatch.context() as patch:
            patch.setattr(purchase_store, "find_changed_titles", lambda *_: 1 / 0)
            assert isinstance(broker.deliver(message), ZeroDivisionError)
    assert count_rows(RunTitle) == 0


@pytest.mark.usefixtures("days_one_by_one")
def test_newer_run_deletes_looked_up_titles_of_older(
    session: Session, vendor: ObservedVendor, run_starter: RunStarter, broker: Broker
) -> None:
    collection = make_collection(session, "Birch Library")
    vendor.add_purchases(day(2024, 5, 1, 9), *title_ids(25))
    with travel_to(TODAY):
        run_starter.enqueue_step(collection, "the-older-run", current_day=MAY_1)
        broker.deliver_next()
        assert count_rows(RunTitle) == 25
        broker.clear()
        vendor.add_purchases(day(2024, 5, 19, 9), "new")
        newer = run_starter.start(collection)
        broker.deliver_next()
        run = run_starter.find(newer)
    assert run is not None
    assert run.state == "running"
    assert count_rows(RunTitle) == 0
