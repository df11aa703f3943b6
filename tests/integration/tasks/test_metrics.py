"""The counters of all workers, queue depths, and the heartbeats of workers and scheduler."""

from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from celery.beat import Scheduler
from pydantic import SecretStr
from redis import Redis
from redis.exceptions import ConnectionError as RedisConnectionError
from sqlalchemy.orm import Session

from accession.bibliotheca.outcomes import Endpoint, RequestOutcome
from accession.core.settings import get_settings, use_settings
from accession.core.workflow import SCHEDULED_WORKFLOWS
from accession.db.models import Collection
from tests.fixtures.broker import Broker
from tests.fixtures.factories import day, run_concurrently
from tests.fixtures.heartbeats import record_heartbeats
from tests.fixtures.stored import add_holdings, add_outbox_rows, publish, set_checkpoint
from tests.fixtures.waiting import wait_until
from tests.fixtures.workers import ObservedVendor, RunStarter, running_worker, travel_to

TODAY = day(2024, 5, 20, 10)


@pytest.fixture
def broker_unavailable(broker: Broker) -> Iterator[None]:
    """The settings name an address where no broker is listening."""
    before = get_settings()
    use_settings(before.model_copy(update={"redis_url": SecretStr("redis://127.0.0.1:9/0")}))
    yield
    use_settings(before)


# Counts


def test_requests_of_many_threads_are_added(broker: Broker) -> None:
    from accession.tasks.metrics import count_request, read_worker_metrics, store_counted_requests

    def count_requests() -> None:
        for _ in range(20):
            count_request(Endpoint.MARC, RequestOutcome.OK, 0.15)
        count_request(Endpoint.ITEMS, RequestOutcome.TIMEOUT, 121.0)

    for _ in range(2):
        run_concurrently(*[count_requests] * 2)
        store_counted_requests()
    counts = read_worker_metrics()

    assert {key: number for key, number in counts.requests.items() if number} == {
        ("marc", "ok"): 80,
        ("items", "timeout"): 4,
    }
    marc, items = counts.latency[Endpoint.MARC], counts.latency[Endpoint.ITEMS]
    assert (marc.requests, round(marc.seconds, 6)) == ((0, 0, 0, 80, *[0] * 9), 12.0)
    assert (items.requests, items.seconds) == ((*[0] * 12, 4), 484.0)


@pytest.mark.parametrize(("seconds", "bucket"), [(0.0, 0), (0.02, 0), (0.0201, 1), (120.0, 11), (120.1, 12)])
def test_upper_bound_belongs_to_its_bucket(broker: Broker, seconds: float, bucket: int) -> None:
    from accession.tasks.metrics import count_request, read_worker_metrics, store_counted_requests

    count_request(Endpoint.EVENTS, RequestOutcome.OK, seconds)
    store_counted_requests()

    assert read_worker_metrics().latency[Endpoint.EVENTS].requests.index(1) == bucket


def test_run_counts_its_requests_and_applies(
    collection: Collection, vendor: ObservedVendor, run_starter: RunStarter, broker: Broker
) -> None:
    from accession.tasks.metrics import read_worker_metrics, store_counted_requests

    vendor.add_purchases(day(2024, 5, 19, 9), "abc")
    set_checkpoint(collection.id, day(2024, 5, 19))
    with travel_to(TODAY):
        run_starter.start(collection)
        broker.deliver_all()
        broker.deliver_all("apply")
    store_counted_requests()
    counts = read_worker_metrics()

    requests = {endpoint: number for (endpoint, _), number in counts.requests.items() if number}
    assert requests == {"marc": len(vendor.marc_requests()), "items": len(vendor.item_requests())}
    assert counts.applied == {"metadata": 1, "counts": 1}


def test_apply_that_writes_nothing_is_not_counted(
    session: Session, collection: Collection, broker: Broker
) -> None:
    from accession.tasks.metrics import read_worker_metrics

    for _ in range(2):
        publish(add_outbox_rows(session, collection, "abc"))
        broker.deliver_next("apply")

    assert read_worker_metrics().applied == {"metadata": 1, "counts": 1}


def test_unavailable_broker_loses_counts_without_error(broker_unavailable: None) -> None:
    from accession.tasks.heartbeats import (
        read_heartbeats,
        record_scheduler_tick,
        record_worker_heartbeat,
        record_worker_stop,
    )
    from accession.tasks.metrics import (
        count_applied,
        count_request,
        read_worker_metrics,
        store_counted_requests,
    )

    count_request(Endpoint.MARC, RequestOutcome.OK, 0.1)
    store_counted_requests()
    count_applied(metadata=1, counts=1)
    record_worker_heartbeat("alder")
    record_worker_stop("alder")
    record_scheduler_tick()

    for read in (read_worker_metrics, read_heartbeats):
        with pytest.raises(RedisConnectionError):
            read()


def test_requests_are_stored_within_a_second(broker: Broker) -> None:
    from accession.tasks.metrics import count_request, read_worker_metrics

    count_request(Endpoint.MARC, RequestOutcome.SERVER_ERROR, 0.1)

    key = (Endpoint.MARC, RequestOutcome.SERVER_ERROR)
    wait_until(lambda: read_worker_metrics().requests[key] == 1, "the request is stored")


# Queues


def test_queue_depth_separates_waiting_and_unacknowledged(
    session: Session, collection: Collection, vendor: ObservedVendor, run_starter: RunStarter, broker: Broker
) -> None:
    from accession.tasks.metrics import QueueDepth, queue_depths

    add_holdings(session, vendor, collection, "abc")
    for workflow in SCHEDULED_WORKFLOWS:
        run_starter.start(collection, workflow)
    publish(add_outbox_rows(session, collection, "abc"))
    record_heartbeats(broker.redis, "alder", "birch")
    broker.receive("default", worker="alder")
    for queue in ("default", "apply"):
        broker.receive(queue, worker="birch")
    depths = queue_depths(["default", "apply"])

    assert depths == {"default": QueueDepth(1, 2), "apply": QueueDepth(0, 1)}


# Heartbeats


def test_running_worker_has_a_heartbeat(broker: Broker) -> None:
    from accession.tasks.heartbeats import read_heartbeats

    assert read_heartbeats().workers == 0
    with running_worker(broker.app):
        assert read_heartbeats().workers == 1
    assert read_heartbeats().workers == 0


def test_worker_heartbeat_expires_after_thirty_seconds(broker: Broker) -> None:
    from accession.tasks.heartbeats import read_heartbeats, record_worker_heartbeat

    for name in ("alder", "birch", "alder"):
        record_worker_heartbeat(name)
    move_heartbeat(broker.redis, "birch", timedelta(hours=1))
    assert read_heartbeats().workers == 2
    move_heartbeat(broker.redis, "alder", timedelta(seconds=-31))
    assert read_heartbeats().workers == 1


def move_heartbeat(redis: Redis, name: str, difference: timedelta) -> None:
    """Change the time of a worker's heartbeat."""
    redis.zincrby("heartbeats:workers", difference.total_seconds(), name)


@pytest.mark.parametrize(("age", "overdue"), [(None, True), (0, False), (60, False), (61, True)])
def test_scheduler_is_overdue_after_a_minute(age: int | None, overdue: bool) -> None:
    from accession.tasks.heartbeats import Heartbeats

    assert Heartbeats(workers=1, scheduler_tick_age_seconds=age).is_scheduler_overdue is overdue


def test_scheduler_tick_has_an_age(broker: Broker) -> None:
    from accession.tasks.heartbeats import read_heartbeats, record_scheduler_tick

    record_scheduler_tick()
    broker.redis.incrby("heartbeats:beat", -70)

    assert (read_heartbeats().scheduler_tick_age_seconds or 0) >= 70


def test_scheduler_tick_is_recorded(broker: Broker, tmp_path: Path) -> None:
    from accession.tasks import heartbeat_steps
    from accession.tasks.heartbeats import read_heartbeats

    scheduler = heartbeat_steps.Scheduler(app=broker.app, schedule_filename=str(tmp_path / "schedule"))
    assert read_heartbeats().scheduler_tick_age_seconds is None
    assert 0 <= scheduler.tick() <= 10, "it ticks again within ten seconds"
    assert read_heartbeats().scheduler_tick_age_seconds is not None
    scheduler.close()


def test_second_scheduler_publishes_nothing(broker: Broker, tmp_path: Path) -> None:
    """It publishes what is due after the first has ended, and nothing from before.

    A task that is due each minute of the clock comes before those that are due a minute after the last time.
    """
    start = day(2024, 5, 1, 4)
    first, second = (new_scheduler(broker, tmp_path / name) for name in ("first", "second"))
    for seconds in (30, 90):
        for scheduler in (first, second):
            tick_until_idle(scheduler, start + timedelta(seconds=seconds))
    published = published_tasks(broker).count("start_due_runs")
    assert published == 2
    first.close()
    tick_until_idle(second, start + timedelta(seconds=100))
    assert published_tasks(broker).count("start_due_runs") == published
    tick_until_idle(second, start + timedelta(seconds=150))
    assert published_tasks(broker).count("start_due_runs") == published + 1
    second.close()


def new_scheduler(broker: Broker, file: Path) -> Scheduler:
    from accession.tasks import heartbeat_steps

    with travel_to(day(2024, 5, 1, 3, 58)):
        return heartbeat_steps.Scheduler(app=broker.app, schedule_filename=str(file))


def tick_until_idle(scheduler: Scheduler, now: datetime) -> None:
    with travel_to(now):
        while scheduler.tick() == 0:
            pass


def published_tasks(broker: Broker) -> list[str]:
    return [message.task.rpartition(".")[2] for message in broker.messages()]
