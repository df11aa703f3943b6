"""Locks that belong to a task: only their holder extends and releases them, and they expire."""

import pytest

from accession.clock import utc_now
from tests.tasks.conftest import Broker

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
