"""A worker whose heartbeats have stopped is noticed, unless the broker is what has fallen silent."""

import socket
import threading

import pytest
from pydantic import SecretStr
from redis import Redis

from accession.core.settings import get_settings, use_settings
from accession.local import worker_watch
from accession.local.worker_watch import WorkerWatch
from accession.tasks.heartbeats import record_worker_heartbeat, record_worker_stop

PID = 4711
NAME = f"accession-{PID}@{socket.gethostname()}"


class Clock:
    """A clock that moves only when its time is set."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(worker_watch, "monotonic", clock)
    return clock


@pytest.fixture
def watch(queues: Redis) -> WorkerWatch:
    return WorkerWatch()


def is_stuck_after(seconds: int, watch: WorkerWatch, clock: Clock) -> bool:
    """Return whether the worker counts as stuck after so many seconds of regular looks."""
    is_stuck = False
    for _ in range(0, seconds, 10):
        clock.now += 10
        is_stuck = watch.is_stuck(PID)
        for thread in threading.enumerate():
            if thread.name == "worker-watch":
                thread.join()
    return is_stuck


def test_worker_without_heartbeats_is_stuck_after_a_minute(watch: WorkerWatch, clock: Clock) -> None:
    record_worker_heartbeat(NAME)
    assert not is_stuck_after(100, watch, clock)
    record_worker_stop(NAME)

    assert not is_stuck_after(60, watch, clock)
    assert is_stuck_after(20, watch, clock)
    record_worker_heartbeat(NAME)
    assert not is_stuck_after(20, watch, clock)


def test_worker_that_never_sent_a_heartbeat_is_starting(watch: WorkerWatch, clock: Clock) -> None:
    assert not is_stuck_after(300, watch, clock)


def test_heartbeats_of_another_machine_do_not_count(watch: WorkerWatch, clock: Clock) -> None:
    record_worker_heartbeat(NAME)
    is_stuck_after(20, watch, clock)
    record_worker_stop(NAME)
    record_worker_heartbeat(f"accession-{PID}@elsewhere.example")

    assert is_stuck_after(90, watch, clock)


def test_unavailable_broker_makes_no_worker_stuck(watch: WorkerWatch, clock: Clock) -> None:
    record_worker_heartbeat(NAME)
    is_stuck_after(20, watch, clock)
    before = get_settings()
    use_settings(before.model_copy(update={"redis_url": SecretStr("redis://127.0.0.1:9/0")}))
    try:
        assert not is_stuck_after(300, watch, clock)
    finally:
        use_settings(before)
    record_worker_stop(NAME)

    assert not is_stuck_after(60, watch, clock), "time begins again"
    assert is_stuck_after(30, watch, clock)
