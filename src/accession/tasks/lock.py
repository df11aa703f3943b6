"""Locks in Redis that belong to a task rather than to a process.

The holder is a task id, which Celery keeps over `replace()` and retries, so every process that runs a
link of the chain finds the lock its own. (redis-py's `Lock` knows its token only in the process that
took it, and forgets it on release.)
"""

from dataclasses import dataclass

from accession.catalog.ledger import LEASE
from accession.tasks.app import app

TITLE_LOCK_SECONDS = 20 * 60

_EXTEND = "return redis.call('get', KEYS[1]) == ARGV[1] and redis.call('pexpire', KEYS[1], ARGV[2]) or 0"
_RELEASE = "return redis.call('get', KEYS[1]) == ARGV[1] and redis.call('del', KEYS[1]) or 0"


@dataclass(frozen=True)
class TaskLock:
    """One lock as one holder sees it; it expires by itself after `seconds`."""

    name: str
    holder: str
    seconds: int

    def take(self) -> bool:
        """Take the lock if nobody has it; whether it was free."""
        return bool(app.backend.client.set(self.name, self.holder, nx=True, px=self.seconds * 1000))

    def extend(self) -> bool:
        """Let the lock expire `seconds` from now; whether it is this holder's."""
        return bool(app.backend.client.eval(_EXTEND, 1, self.name, self.holder, self.seconds * 1000))

    def release(self) -> bool:
        """Give the lock back; whether it was this holder's. Another holder keeps it."""
        return bool(app.backend.client.eval(_RELEASE, 1, self.name, self.holder))

    def taken_by(self) -> str | None:
        """Who has the lock."""
        holder: bytes | None = app.backend.client.get(self.name)
        return None if holder is None else holder.decode()


def workflow_lock(key: str, collection_id: int, task_id: str) -> TaskLock:
    """The lock of one workflow for one collection."""
    return TaskLock(f"{key}:{collection_id}", task_id, int(LEASE.total_seconds()))
