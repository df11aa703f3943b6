"""Locks that belong to a task: only their holder extends and releases them, and they expire."""

import pytest

from accession.core.clock import utc_now
from tests.fixtures.workers import Broker

pytestmark = pytest.mark.usefixtures("broker")


def test_a_lock_has_one_holder_who_alone_extends_and_releases_it(broker: Broker) -> None:
    from accession.tasks.lock import Held, TaskLock

    mine, theirs = TaskLock("Work:1", "mine", 60), TaskLock("Work:1", "theirs", 60)
    assert mine.taken_by() is None
    assert mine.hold() is Held.NEWLY
    assert mine.hold() is Held.STILL
    assert theirs.hold() is Held.BY_ANOTHER
    assert not theirs.extend()
    assert not theirs.release()
    assert theirs.taken_by() == "mine"
    assert mine.extend()
    assert mine.release()
    assert not mine.release()
    assert not mine.extend()
    assert theirs.hold() is Held.NEWLY
    assert broker.locks() == {"Work:1": "theirs"}


def test_of_several_locks_each_is_held_and_released_as_one_alone_would_be(broker: Broker) -> None:
    from accession.tasks.lock import Held, TaskLock, hold_each, release_each

    TaskLock("Work:1", "mine", 5).hold()
    TaskLock("Work:2", "theirs", 60).hold()
    names = ["Work:1", "Work:2", "Work:3"]
    assert hold_each(names, "mine", 60) == {
        "Work:1": Held.STILL,
        "Work:2": Held.BY_ANOTHER,
        "Work:3": Held.NEWLY,
    }
    assert broker.locks() == {"Work:1": "mine", "Work:2": "theirs", "Work:3": "mine"}
    assert all(50_000 < broker.redis.pttl(name) <= 60_000 for name in names)
    assert release_each(names, "mine") == 2
    assert broker.locks() == {"Work:2": "theirs"}
    assert (hold_each([], "mine", 60), release_each([], "mine")) == ({}, 0)


def test_a_lock_expires_and_extending_it_begins_its_time_anew(broker: Broker) -> None:
    from accession.tasks.lock import TaskLock, workflow_lock

    def milliseconds_left(lock: TaskLock) -> int:
        return broker.redis.pttl(lock.name)

    lock = workflow_lock("PurchaseRecordCollectionWorkflow", 7, "task")
    two_hours = 2 * 60 * 60 * 1000
    assert (lock.name, lock.holder) == ("PurchaseRecordCollectionWorkflow:7", "task")
    other = workflow_lock("PurchaseRecordCollectionWorkflow", 7, "other")
    for look in (lock.hold, lock.hold, lock.extend):
        look()
        assert two_hours - 10_000 < milliseconds_left(lock) <= two_hours
        broker.redis.pexpire(lock.name, 5000)
        other.hold()
        other.extend()
        assert milliseconds_left(lock) <= 5000
    broker.redis.pexpireat(lock.name, int(utc_now().timestamp() * 1000) - 1)
    assert not lock.extend()
    assert lock.taken_by() is None
