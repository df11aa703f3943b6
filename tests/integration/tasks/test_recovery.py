"""Recovery after killed workers and lost messages: nothing is lost, duplicated or delayed."""

import os
import subprocess
from collections.abc import Sequence
from datetime import timedelta
from typing import cast

import pytest
from celery.utils.nodenames import anon_nodename, gethostname

from accession.db.models import ApplyOutbox, Collection, PurchaseRecord
from tests.fixtures.broker import Broker
from tests.fixtures.factories import day
from tests.fixtures.stored import all_runs, checkpoint_finish, count_rows, titles_with_metadata
from tests.fixtures.workers import ObservedVendor, RunStarter, running_worker, travel_to

TODAY = day(2014, 1, 4, 10)
TITLES = tuple(f"t{number}" for number in range(60))


OBSERVER = "accession-1@alder"


def take_and_die(broker: Broker, queue: str, *, worker: str = "accession-1@birch") -> None:
    """Receive a message as a worker whose last heartbeat was half a minute ago; another one is alive."""
    broker.receive(queue, worker=worker)
    set_heartbeat(broker, OBSERVER, seconds_ago=0)
    set_heartbeat(broker, worker, seconds_ago=31)


def set_heartbeat(broker: Broker, worker: str, *, seconds_ago: int) -> None:
    from accession.tasks.heartbeats import record_worker_heartbeat

    record_worker_heartbeat(worker)
    broker.redis.zincrby("heartbeats:workers", -seconds_ago, worker)


def pass_seconds(broker: Broker, seconds: int) -> None:
    """Let time pass in which no worker sends a heartbeat."""
    for worker in cast(list[bytes], broker.redis.zrange("heartbeats:workers", 0, -1)):
        broker.redis.zincrby("heartbeats:workers", -seconds, worker)
    if broker.redis.exists("heartbeats:observed-since"):
        broker.redis.decrby("heartbeats:observed-since", seconds)


def take_over(*, by: str = OBSERVER) -> Sequence[str]:
    from accession.tasks.recovery import take_over_from_dead_workers

    return take_over_from_dead_workers(by)


def resume() -> int:
    from accession.tasks.recovery import resume_lost_work

    resumed: int = resume_lost_work()
    return resumed


def publish_stale() -> int:
    from accession.tasks.apply import publish_stale_applies

    published: int = publish_stale_applies()
    return published


@pytest.fixture
def interrupted(
    collection: Collection, vendor: ObservedVendor, run_starter: RunStarter, broker: Broker
) -> str:
    """The task id of a run that has committed one of the two pages of its first day."""
    vendor.add_purchases(day(2014, 1, 1, 9), *TITLES)
    task_id = run_starter.start(collection)
    with travel_to(TODAY):
        broker.deliver_next()
    assert (all_runs()[0].pages, count_rows(ApplyOutbox)) == (1, 50)
    return task_id


def assert_run_completes(broker: Broker, task_id: str, vendor: ObservedVendor) -> None:
    broker.deliver_all()
    broker.deliver_all("apply")
    assert_complete(broker, task_id, vendor)


def assert_worker_completes_run(broker: Broker, task_id: str, vendor: ObservedVendor) -> None:
    with running_worker(broker.app):
        RunStarter(broker).wait_for(task_id)
    assert_complete(broker, task_id, vendor)


def assert_complete(broker: Broker, task_id: str, vendor: ObservedVendor) -> None:
    (run,) = all_runs()
    assert run.task_id == task_id
    assert (run.state, run.pages, run.records_fetched, run.titles_new) == ("succeeded", 5, 60, 60)
    assert len(vendor.marc_requests()) == 5
    assert count_rows(PurchaseRecord) == 60
    assert titles_with_metadata() == set(TITLES)
    assert (count_rows(ApplyOutbox), broker.locks()) == (0, {})
    assert checkpoint_finish(run.collection_id) >= TODAY  # type: ignore[operator]


def test_messages_of_dead_worker_are_queued_again(
    interrupted: str, vendor: ObservedVendor, broker: Broker
) -> None:
    with travel_to(TODAY):
        take_and_die(broker, "default")
        take_and_die(broker, "apply")
        assert broker.unacknowledged() == 2
        assert [take_over(), take_over()] == [["accession-1@birch"], []]
        assert (broker.unacknowledged(), resume()) == (0, 0)
        assert_worker_completes_run(broker, interrupted, vendor)


def test_messages_of_living_workers_are_left_to_them(interrupted: str, broker: Broker) -> None:
    set_heartbeat(broker, OBSERVER, seconds_ago=0)
    set_heartbeat(broker, "accession-1@birch", seconds_ago=25)
    broker.receive("default", worker="accession-1@birch")
    set_heartbeat(broker, "accession-2@birch", seconds_ago=31)
    assert take_over() == ["accession-2@birch"]
    assert (broker.unacknowledged(), resume()) == (1, 0)


def test_silent_worker_does_not_take_over_from_itself(interrupted: str, broker: Broker) -> None:
    """Its machine was suspended for a while."""
    take_and_die(broker, "default")
    assert take_over(by="accession-1@birch") == []
    assert broker.unacknowledged() == 1


def test_workers_that_return_after_outage_keep_messages(interrupted: str, broker: Broker) -> None:
    """While the broker is unavailable, no worker can send a heartbeat."""
    for worker in (OBSERVER, "accession-1@birch"):
        set_heartbeat(broker, worker, seconds_ago=0)
    broker.receive("default", worker="accession-1@birch")
    pass_seconds(broker, 40)
    assert take_over() == []
    pass_seconds(broker, 10)
    set_heartbeat(broker, "accession-1@birch", seconds_ago=0)
    for _ in range(2):
        assert take_over() == []
        pass_seconds(broker, 10)
    assert take_over() == []
    assert (broker.unacknowledged(), resume()) == (1, 0)


def test_worker_that_does_not_return_after_outage_is_dead(interrupted: str, broker: Broker) -> None:
    for worker in (OBSERVER, "accession-1@birch"):
        set_heartbeat(broker, worker, seconds_ago=0)
    broker.receive("default", worker="accession-1@birch")
    pass_seconds(broker, 40)
    for _ in range(3):
        assert take_over() == []
        pass_seconds(broker, 10)
    assert take_over() == ["accession-1@birch"]
    assert broker.unacknowledged() == 0


def test_stopped_worker_is_taken_over_at_once_after_outage(interrupted: str, broker: Broker) -> None:
    from accession.tasks.heartbeats import record_worker_stop

    broker.receive("default", worker="accession-1@birch")
    set_heartbeat(broker, OBSERVER, seconds_ago=40)
    record_worker_stop("accession-1@birch")
    assert take_over() == ["accession-1@birch"]


def test_worker_that_returns_during_take_over_stays_known(interrupted: str, broker: Broker) -> None:
    from accession.tasks.heartbeats import list_silent_workers, list_workers, unregister_worker

    take_and_die(broker, "default")
    (silent,) = list_silent_workers(OBSERVER)
    set_heartbeat(broker, silent, seconds_ago=0)
    unregister_worker(silent)
    assert set(list_workers()) == {OBSERVER, silent}


def test_worker_that_ended_on_this_machine_is_known_at_once(interrupted: str, broker: Broker) -> None:
    ended = subprocess.Popen(["true"])
    ended.wait()
    host = gethostname()
    for pid in (ended.pid, os.getpid()):
        worker = f"accession-{pid}@{host}"
        set_heartbeat(broker, worker, seconds_ago=0)
    broker.receive("default", worker=f"accession-{ended.pid}@{host}")
    assert take_over() == [f"accession-{ended.pid}@{host}"]
    assert broker.unacknowledged() == 0


def test_run_starts_if_dead_worker_had_first_message(
    collection: Collection, vendor: ObservedVendor, run_starter: RunStarter, broker: Broker
) -> None:
    vendor.add_purchases(day(2014, 1, 1, 9), *TITLES)
    task_id = run_starter.start(collection)
    with travel_to(TODAY):
        take_and_die(broker, "default")
        take_over()
        assert_run_completes(broker, task_id, vendor)


def test_running_worker_takes_over_from_dead_one(
    interrupted: str, vendor: ObservedVendor, broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("accession.tasks.recovery.HEARTBEAT_SECONDS", 0.05)
    with travel_to(TODAY), running_worker(broker.app):
        take_and_die(broker, "apply")
        RunStarter(broker).wait_for(interrupted)
        broker.wait_until_idle()
    assert_complete(broker, interrupted, vendor)


def test_worker_queues_again_what_its_predecessor_received(
    interrupted: str, vendor: ObservedVendor, broker: Broker
) -> None:
    """The messages of a connection that was lost cannot be acknowledged any more."""
    with travel_to(TODAY):
        broker.receive("default", worker=anon_nodename())
        assert_worker_completes_run(broker, interrupted, vendor)


def test_runs_and_applies_resume_after_broker_data_loss(
    interrupted: str, vendor: ObservedVendor, run_starter: RunStarter, broker: Broker
) -> None:
    broker.redis.flushall()
    with travel_to(TODAY):
        assert [resume(), resume()] == [1, 0]
        assert_worker_completes_run(broker, interrupted, vendor)


def test_intact_run_is_not_resumed(interrupted: str, vendor: ObservedVendor, broker: Broker) -> None:
    with travel_to(TODAY):
        assert resume() == 0
        assert_run_completes(broker, interrupted, vendor)


def test_leftover_restore_mutex_does_not_delay_requeue(interrupted: str, broker: Broker) -> None:
    take_and_die(broker, "default")
    broker.redis.set("unacked_mutex:accession-1@birch", "dead-worker", ex=300)
    take_over()
    assert broker.unacknowledged() == 0


def test_messages_are_requeued_after_clock_was_set_back(interrupted: str, broker: Broker) -> None:
    take_and_die(broker, "default")
    with travel_to(TODAY):
        take_over()
    assert broker.unacknowledged() == 0


def test_run_starts_if_broker_lost_first_message(
    collection: Collection, vendor: ObservedVendor, run_starter: RunStarter, broker: Broker
) -> None:
    """The run is committed to the ledger before its message is published."""
    vendor.add_purchases(day(2014, 1, 1, 9), *TITLES)
    task_id = run_starter.start(collection)
    broker.redis.flushall()
    with travel_to(TODAY):
        assert resume() == 1
        assert_run_completes(broker, task_id, vendor)


def test_stalled_run_is_resumed(
    interrupted: str, vendor: ObservedVendor, run_starter: RunStarter, broker: Broker
) -> None:
    """Its message is lost and no worker is restarted; a scheduled task resumes the run."""
    from accession.tasks.recovery import resume_stalled_runs

    broker.clear()
    with travel_to(TODAY + timedelta(minutes=20)):
        assert resume_stalled_runs() == 0
    with travel_to(TODAY + timedelta(minutes=40)):
        assert [resume_stalled_runs(), resume_stalled_runs()] == [1, 0]
        assert publish_stale() == 50
        assert_run_completes(broker, interrupted, vendor)
