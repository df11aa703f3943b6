"""Locks that are held by a task: only the holder extends and releases them, and they expire."""

import pytest

from accession.core.clock import utc_now
from tests.fixtures.broker import Broker

pytestmark = pytest.mark.usefixtures("broker")


def test_only_the_holder_acquires_and_releases_a_lock(broker: Broker) -> None:
    from accession.tasks.lock import LockResult, TaskLock

    mine, theirs = TaskLock("Work:1", "mine", 60), TaskLock("Work:1", "theirs", 60)
    assert mine.current_holder() is None
    assert mine.acquire_or_extend() is LockResult.ACQUIRED
    assert mine.acquire_or_extend() is LockResult.EXTENDED
    assert theirs.acquire_or_extend() is LockResult.HELD_BY_OTHER
    assert not theirs.extend()
    assert not theirs.release()
    assert theirs.current_holder() == "mine"
    assert mine.extend()
    assert mine.release()
    assert not mine.release()
    assert not mine.extend()
    assert theirs.acquire_or_extend() is LockResult.ACQUIRED
    assert broker.locks() == {"Work:1": "theirs"}


def test_several_locks_are_acquired_and_released_together(broker: Broker) -> None:
    from accession.tasks.lock import LockResult, TaskLock, acquire_or_extend_each, release_each

    TaskLock("Work:1", "mine", 5).acquire_or_extend()
    TaskLock("Work:2", "theirs", 6000).acquire_or_extend()
    names = ["Work:1", "Work:2", "Work:3"]
    assert acquire_or_extend_each(names, "mine", 6000) == {
        "Work:1": LockResult.EXTENDED,
        "Work:2": LockResult.HELD_BY_OTHER,
        "Work:3": LockResult.ACQUIRED,
    }
    assert broker.locks() == {"Work:1": "mine", "Work:2": "theirs", "Work:3": "mine"}
    assert all(5_000_000 < broker.redis.pttl(name) <= 6_000_000 for name in names)
    assert release_each(names, "mine") == 2
    assert broker.locks() == {"Work:2": "theirs"}
    assert (acquire_or_extend_each([], "mine", 60), release_each([], "mine")) == ({}, 0)


def test_lock_expires_unless_it_is_extended(broker: Broker) -> None:
    from accession.tasks.lock import TaskLock, workflow_lock

    def milliseconds_left(lock: TaskLock) -> int:
        return broker.redis.pttl(lock.name)

    lock = workflow_lock("PurchaseRecordCollectionWorkflow", 7, "mine")
    two_hours = 2 * 60 * 60 * 1000
    assert (lock.name, lock.holder) == ("PurchaseRecordCollectionWorkflow:7", "mine")
    other = workflow_lock("PurchaseRecordCollectionWorkflow", 7, "other")
    for extend in (lock.acquire_or_extend, lock.acquire_or_extend, lock.extend):
        extend()
        assert two_hours - 1_000_000 < milliseconds_left(lock) <= two_hours
        broker.redis.pexpire(lock.name, 500_000)
        other.acquire_or_extend()
        assert milliseconds_left(lock) <= 500_000
    broker.redis.pexpireat(lock.name, int(utc_now().timestamp() * 1000) - 1)
    assert not lock.extend()
    assert lock.current_holder() is None
