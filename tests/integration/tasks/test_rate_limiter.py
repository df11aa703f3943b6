"""The rate limiter: request slots that all workers share."""

import threading
import time
from contextlib import ExitStack
from types import SimpleNamespace
from typing import Any, cast

import pytest

from accession.core.settings import get_settings
from accession.db.models import Collection
from tests.fixtures.broker import Broker, sent_commands, slot_name
from tests.fixtures.factories import day
from tests.fixtures.waiting import wait_until

TODAY = day(2024, 5, 20, 10)


@pytest.fixture
def two_slots(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(get_settings(), "vendor_max_concurrency", 2)


def make_collection(library_id: str = "alder", account_id: str = "alder", **values: Any) -> Collection:
    return Collection(
        library_id=library_id, account_id=account_id, base_url="https://vendor.example", **values
    )


ALDER = make_collection()


def slots(broker: Broker) -> dict[str, str]:
    """Return the holder of each slot in use."""
    names = list(broker.redis.scan_iter("vendor:slots:*"))
    return {name.decode(): cast(bytes, broker.redis.get(name)).decode() for name in names}


def slot(number: int) -> str:
    return slot_name(ALDER, number)


def hold_slot(
    collection: Collection, task_id: str
) -> tuple[threading.Thread, threading.Event, threading.Event]:
    """Start a thread that acquires a slot; return it, and the events "acquired" and "may release"."""
    from accession.tasks.rate_limiter import request_slot

    acquired, may_release = threading.Event(), threading.Event()
    slot = request_slot(collection, task_id)

    def hold() -> None:
        with slot():
            acquired.set()
            may_release.wait(60)

    thread = threading.Thread(target=hold)
    thread.start()
    return thread, acquired, may_release


def test_request_slots_limit_concurrency_of_an_account(broker: Broker, two_slots: None) -> None:
    holders = [hold_slot(ALDER, f"task-{n}") for n in range(3)]
    wait_until(lambda: sum(acquired.is_set() for _, acquired, _ in holders) == 2, "two slots are acquired")
    waiting = next(acquired for _, acquired, _ in holders if not acquired.is_set())
    assert len(slots(broker)) == 2

    next(may_release for _, acquired, may_release in holders if acquired.is_set()).set()
    wait_until(waiting.is_set, "the third slot is acquired")
    for thread, _, may_release in holders:
        may_release.set()
        thread.join(60)
    assert slots(broker) == {}


def test_each_account_has_its_own_request_slots(broker: Broker, two_slots: None) -> None:
    from accession.tasks.rate_limiter import request_slot

    others = (make_collection("birch"), make_collection(account_id="birch"))
    with ExitStack() as stack:
        for n, collection in enumerate((ALDER, *others) * 2):
            stack.enter_context(request_slot(collection, f"task-{n}")())
        assert len(slots(broker)) == 6


def test_collections_of_an_account_share_its_slots(broker: Broker, two_slots: None) -> None:
    second = make_collection()
    holders = [hold_slot(each, f"task-{n}") for n, each in enumerate((ALDER, second, ALDER))]
    wait_until(lambda: sum(acquired.is_set() for _, acquired, _ in holders) == 2, "two slots are acquired")
    assert len(slots(broker)) == 2
    for thread, _, may_release in holders:
        may_release.set()
        thread.join(60)
    assert all(acquired.is_set() for _, acquired, _ in holders)


def test_limit_of_the_account_overrides_the_settings(broker: Broker, two_slots: None) -> None:
    from accession.tasks.rate_limiter import request_slot

    hold = request_slot(make_collection(vendor_max_concurrency=3), "mine")
    with hold(), hold(), hold():
        assert sorted(slots(broker)) == [slot(0), slot(1), slot(2)]


def test_leftover_slots_of_a_task_are_released(broker: Broker, two_slots: None) -> None:
    from accession.tasks.rate_limiter import release_leftover_slots

    broker.redis.set(slot(0), "mine/before", px=60_000)
    broker.redis.set(slot(1), "other/before", px=60_000)
    release_leftover_slots(ALDER, "mine")
    assert slots(broker) == {slot(1): "other/before"}


def test_slot_of_dead_worker_expires(broker: Broker, two_slots: None) -> None:
    from accession.tasks.rate_limiter import request_slot

    broker.redis.set(slot(1), "dead/before", px=60_000)
    with request_slot(ALDER, "mine")():
        assert [holder.partition("/")[0] for _, holder in sorted(slots(broker).items())] == ["mine", "dead"]
        assert 0 < broker.redis.pttl(slot(0)) <= 3000 * get_settings().vendor_timeout_seconds


def test_slot_expires_after_the_longest_request(broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    from accession.tasks.rate_limiter import request_slot

    # Three times the timeout; a large value, so that the time the test takes does not matter.
    monkeypatch.setattr(get_settings(), "vendor_timeout_seconds", 20_000)
    with request_slot(ALDER, "mine")():
        assert 59_000_000 < broker.redis.pttl(slot(0)) <= 60_000_000


def test_expired_slot_of_another_is_not_released(broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    from accession.tasks.rate_limiter import request_slot

    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr("accession.tasks.rate_limiter.time", SimpleNamespace(monotonic=lambda: clock.now))
    with request_slot(ALDER, "mine")():
        broker.redis.set(slot(0), "another/delivery", px=60_000)
        clock.now = 3 * get_settings().vendor_timeout_seconds
    assert slots(broker) == {slot(0): "another/delivery"}


def test_requests_of_a_step_use_one_command_each(broker: Broker) -> None:
    """Slots that are taken at the same time are different from the start."""
    from accession.tasks.rate_limiter import request_slot

    hold = request_slot(ALDER, "mine")
    with sent_commands(broker) as commands, hold(), hold(), hold(), hold():
        pass
    assert commands == {"set": 4, "del": 4}


def test_slot_is_released_after_failed_request(broker: Broker) -> None:
    from accession.tasks.rate_limiter import request_slot

    with pytest.raises(ZeroDivisionError), request_slot(ALDER, "mine")():
        raise ZeroDivisionError
    assert slots(broker) == {}


@pytest.mark.parametrize("own_rate", [None, 1 / 10_000])
def test_requests_keep_the_minimum_interval(
    own_rate: float | None, broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rate is that of the settings, or of the account."""
    from accession.tasks.rate_limiter import request_slot

    waits: list[float] = []

    def end_interval(seconds: float) -> None:
        waits.append(seconds)
        (last_request,) = broker.redis.scan_iter("vendor:last-request:*")
        broker.redis.delete(last_request)

    clock = SimpleNamespace(sleep=end_interval, monotonic=time.monotonic)
    monkeypatch.setattr("accession.tasks.rate_limiter.time", clock)
    default_rate = 1 / 10_000 if own_rate is None else 1000
    monkeypatch.setattr(get_settings(), "vendor_max_requests_per_second", default_rate)
    collection = make_collection(vendor_max_requests_per_second=own_rate)
    for n in range(3):
        with request_slot(collection, f"task-{n}")():
            assert len(waits) == n
    assert all(9000 < seconds <= 10_000 for seconds in waits)
