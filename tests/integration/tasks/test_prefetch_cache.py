"""The prefetch cache, and runs with prefetched pages and looked-up titles, delivered step by step."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from celery.signals import worker_process_shutdown
from sqlalchemy.orm import Session

from accession.bibliotheca.outcomes import Endpoint, RequestOutcome
from accession.core.workflow import Workflow
from accession.db.models import Collection, RunTitle
from accession.imports.prefetch import Prefetcher, wait_for_prefetches
from accession.imports.vendor_api import vendor_api_for
from accession.imports.windows import PageRequest
from accession.runs.ledger import open_run
from accession.runs.run_details import run_requests
from tests.fixtures.broker import Broker
from tests.fixtures.factories import day, make_collection
from tests.fixtures.holdings import title_ids
from tests.fixtures.stored import all_runs, count_rows, titles_with_metadata
from tests.fixtures.waiting import wait_until
from tests.fixtures.workers import ObservedVendor, RunStarter, travel_to

TODAY = day(2024, 5, 20, 10)
DEADLINE_SECONDS = 60
MAY_1 = "2024-05-01T00:00:00+00:00"


def test_key_is_claimed_by_one_reader(broker: Broker) -> None:
    from accession.tasks.prefetch_cache import RedisPrefetchCache

    cache, other_delivery, other_run = map(RedisPrefetchCache, ("run", "run", "other"))

    assert cache.claim(["a", "b"]) == ["a", "b"]
    assert other_delivery.claim(["a", "b", "c"]) == ["c"]
    assert other_run.claim(["a"]) == ["a"]
    assert all(0 < broker.redis.pttl(key) <= 60_000 for key in broker.redis.scan_iter("vendor:*"))


def test_reader_waits_for_the_response_to_a_claimed_key(broker: Broker) -> None:
    from accession.tasks.prefetch_cache import RedisPrefetchCache

    cache = RedisPrefetchCache("run")
    cache.claim(["a"])
    with ThreadPoolExecutor(1) as threads:
        response = threads.submit(cache.take, "a")
        # The reader replaces the claim with nothing.
        wait_until(lambda: broker.redis.keys("vendor:*") == [], "the reader waits")
        assert not response.done()
        cache.put("a", b"the response")
        assert response.result() == b"the response"
    assert cache.take("a") is None, "it is used once"


def test_reader_waits_for_a_key_that_is_claimed_again(broker: Broker) -> None:
    """As when a message is delivered twice, and both deliveries prefetch."""
    from accession.tasks.prefetch_cache import RedisPrefetchCache

    cache = RedisPrefetchCache("run")
    cache.claim(["a"])
    with ThreadPoolExecutor(1) as threads:
        response = threads.submit(cache.take, "a")
        wait_until(
            lambda: cache.claim(["a"]) == ["a"], "the reader waits, and another delivery claims the key"
        )
        cache.put("a", b"the response")
        assert response.result() == b"the response"


def test_reader_does_not_wait_for_a_failed_response(broker: Broker) -> None:
    from accession.tasks.prefetch_cache import RedisPrefetchCache

    cache = RedisPrefetchCache("run")
    cache.claim(["a"])
    cache.put("a", None)
    assert cache.take("a") is None
    assert cache.take("free") is None


def test_reader_gives_up_a_response_whose_worker_died(
    broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    from accession.tasks import prefetch_cache

    monkeypatch.setattr(prefetch_cache, "PATIENCE_SECONDS", 0.01)
    cache = prefetch_cache.RedisPrefetchCache("run")
    cache.claim(["a"])
    assert cache.take("a") is None
    assert cache.claim(["a"]) == ["a"], "it can be requested again"


def test_stopped_worker_process_stores_what_it_prefetches(
    collection: Collection, vendor: ObservedVendor, broker: Broker
) -> None:
    from accession.tasks.prefetch_cache import RedisPrefetchCache

    may_respond = threading.Event()
    vendor.on_request = lambda _: assert_set(may_respond)
    cache = RedisPrefetchCache("run")
    Prefetcher(vendor_api_for(collection), cache, 4).prefetch(
        [PageRequest(day(2024, 5, 1), day(2024, 5, 2))], first_listed=0
    )
    with ThreadPoolExecutor(1) as threads:
        stop = threads.submit(end_worker_process)
        may_respond.set()
        stop.result()

    (key,) = broker.redis.scan_iter("vendor:prefetch:*")
    assert broker.redis.strlen(key) > 1, "the response is stored"


def test_stopped_process_counts_requests_of_its_threads(
    session: Session,
    collection: Collection,
    vendor: ObservedVendor,
    broker: Broker,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The counts of a request that ends while the process stops are stored, too."""
    from accession.tasks import process_shutdown
    from accession.tasks.metrics import read_worker_metrics
    from accession.tasks.prefetch_cache import RedisPrefetchCache
    from accession.tasks.step_recorder import StepRecording

    may_respond = threading.Event()
    vendor.on_request = lambda _: assert_set(may_respond)

    def respond_and_wait(seconds: float) -> None:
        may_respond.set()
        wait_for_prefetches(seconds)

    monkeypatch.setattr(process_shutdown, "wait_for_prefetches", respond_and_wait)
    open_run(session, collection.id, Workflow.PURCHASES, "the-task", {})
    session.commit()
    api = vendor_api_for(collection, count_request=StepRecording("the-task").count_request)
    page = PageRequest(day(2024, 5, 1), day(2024, 5, 2))
    Prefetcher(api, RedisPrefetchCache("the-task"), 4).prefetch([page], first_listed=0)
    end_worker_process()

    assert read_worker_metrics().requests[Endpoint.MARC, RequestOutcome.OK] == 1
    assert [each.requests for each in run_requests(session, all_runs()[0].id)] == [1]


def test_lost_broker_ends_a_prefetch_quietly(
    collection: Collection, vendor: ObservedVendor, broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The step that needs the page meets the same error, and waits for the broker."""
    from accession.tasks.app import app
    from accession.tasks.broker import redis_client
    from accession.tasks.prefetch_cache import RedisPrefetchCache
    from accession.tasks.rate_limiter import request_slot

    errors: list[object] = []
    monkeypatch.setattr(threading, "excepthook", errors.append)
    cache = RedisPrefetchCache("run")
    with monkeypatch.context() as patch:
        patch.setattr(app.backend, "client", redis_client("redis://127.0.0.1:9/0"))
        api = vendor_api_for(collection, request_slot(collection, "run"))
    page = PageRequest(day(2024, 5, 1), day(2024, 5, 2))
    Prefetcher(api, cache, 4).prefetch([page], first_listed=0)
    wait_for_prefetches(DEADLINE_SECONDS)
    assert errors == []
    assert vendor.requests == []
    (key,) = broker.redis.scan_iter("vendor:prefetch:*")
    assert broker.redis.get(key) == b"-", "nobody waits for the response"


def end_worker_process() -> None:
    """Do what Celery does before a process of a worker ends."""
    from accession.tasks.app import app

    app.loader.import_default_modules()
    worker_process_shutdown.send(None)


def assert_set(event: threading.Event) -> None:
    assert event.wait(DEADLINE_SECONDS)


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
        wait_for_prefetches(DEADLINE_SECONDS)
        cached = list(broker.redis.scan_iter("vendor:prefetch:*"))
        assert 0 < max(map(broker.redis.pttl, cached)) <= 60_000
        broker.redis.delete(*cached)
        broker.deliver_all()
        broker.deliver_next("apply")
    assert len(cached) == 4
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
