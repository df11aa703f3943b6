"""The rate limiter: request slots that all workers share."""

import threading
import time
from contextlib import ExitStack
from types import SimpleNamespace
from typing import cast

import pytest

from accession.core.settings import get_settings
from tests.fixtures.broker import Broker, sent_commands
from tests.fixtures.factories import day
from tests.fixtures.waiting import wait_until

TODAY = day(2024, 5, 20, 10)


@pytest.fixture
def two_slots(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(get_settings(), "vendor_max_concurrency", 2)


def slots(broker: Broker, collection_id: int = 1) -> dict[str, str]:
    """Return the holder of each slot in use."""
    names = list(broker.redis.scan_iter(f"vendor:slots:{collection_id}:*"))
    return {name.decode(): cast(bytes, broker.redis.get(name)).decode() for name in names}


def slot(number: int) -> str:
    return f"vendor:slots:1:{number}"


def hold_slot(collection_id: int, task_id: str) -> tuple[threading.Thread, threading.Event, threading.Event]:
    """Start a thread that acquires a slot; return it, and the events "acquired" and "may release"."""
    from accession.tasks.rate_limiter import request_slot

    acquired, may_release = threading.Event(), threading.Event()
    slot = request_slot(collection_id, task_id)

    def hold() -> None:
        with slot():
            acquired.set()
            may_release.wait(60)

    thread = threading.Thread(target=hold)
    thread.start()
    return thread, acquired, may_release


def test_request_slots_limit_concurrency_of_a_collection(broker: Broker, two_slots: None) -> None:
    holders = [hold_slot(1, f"task-{n}") for n in range(3)]
    wait_until(lambda: sum(acquired.is_set() for _, acquired, _ in holders) == 2, "two slots are acquired")
    waiting = next(acquired for _, acquired, _ in holders if not acquired.is_set())
    assert len(slots(broker)) == 2

    next(may_release for _, acquired, may_release in holders if acquired.is_set()).set()
    wait_until(waiting.is_set, "the third slot is acquired")
    for thread, _, may_release in holders:
        may_release.set()
        thread.join(60)
    assert slots(broker) == {}


def test_each_collection_has_its_own_request_slots(broker: Broker, two_slots: None) -> None:
    from accession.tasks.rate_limiter import request_slot

    with ExitStack() as stack:
        for n, collection_id in enumerate((1, 1, 2, 2)):
            stack.enter_context(request_slot(collection_id, f"task-{n}")())
        assert [len(slots(broker, n)) for n in (1, 2)] == [2, 2]


def test_leftover_slots_of_a_task_are_released(broker: Broker, two_slots: None) -> None:
    from accession.tasks.rate_limiter import release_leftover_slots

    broker.redis.set(slot(0), "mine/before", px=60_000)
    broker.redis.set(slot(1), "other/before", px=60_000)
    release_leftover_slots(1, "mine")
    assert slots(broker) == {slot(1): "other/before"}


def test_slot_of_dead_worker_expires(broker: Broker, two_slots: None) -> None:
    from accession.tasks.rate_limiter import request_slot

    broker.redis.set(slot(1), "dead/before", px=60_000)
    with request_slot(1, "mine")():
        assert [holder.partition("/")[0] for _, holder in sorted(slots(broker).items())] == ["mine", "dead"]
        assert 0 < broker.redis.pttl(slot(0)) <= 3000 * get_settings().vendor_timeout_seconds


def test_slot_expires_after_the_longest_request(broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    from accession.tasks.rate_limiter import request_slot

    # Three times the timeout; a large value, so that the time the test takes does not matter.
    monkeypatch.setattr(get_settings(), "vendor_timeout_seconds", 20_000)
    with request_slot(1, "mine")():
        assert 59_000_000 < broker.redis.pttl(slot(0)) <= 60_000_000


def test_expired_slot_of_another_is_not_released(broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    from accession.tasks.rate_limiter import request_slot

    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr("accession.tasks.rate_limiter.time", SimpleNamespace(monotonic=lambda: clock.now))
    with request_slot(1, "mine")():
        broker.redis.set(slot(0), "another/delivery", px=60_000)
        clock.now = 3 * get_settings().vendor_timeout_seconds
    assert slots(broker) == {slot(0): "another/delivery"}


def test_requests_of_a_step_use_one_command_each(broker: Broker) -> None:
    """Slots that are taken at the same time are different from the start."""
    from accession.tasks.rate_limiter import request_slot

    hold = request_slot(1, "mine")
    with sent_commands(broker) as commands, hold(), hold(), hold(), hold():
        pass
    assert commands == {"set": 4, "del": 4}


def test_slot_is_released_after_failed_request(broker: Broker) -> None:
    from accession.tasks.rate_limiter import request_slot

    with pytest.raises(ZeroDivisionError), request_slot(1, "mine")():
        raise ZeroDivisionError
    assert slots(broker) == {}


def test_requests_keep_the_minimum_interval(broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    from accession.tasks.rate_limiter import request_slot

    waits: list[float] = []

    def end_interval(seconds: float) -> None:
        waits.append(seconds)
        broker.redis.delete("vendor:last-request:1")

    clock = SimpleNamespace(sleep=end_interval, monotonic=time.monotonic)
    monkeypatch.setattr("accession.tasks.rate_limiter.time", clock)
    monkeypatch.setattr(get_settings(), "vendor_max_requests_per_second", 1 / 10_000)
    for n in range(3):
        with request_slot(1, f"task-{n}")():
            assert len(waits) == n
    assert all(9000 < seconds <= 10_000 for seconds in waits)
