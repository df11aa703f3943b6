"""Locks in Redis that belong to a task rather than to a process.

The holder is a task id, which Celery keeps over `replace()` and retries, so every process that runs a
link of the chain finds the lock its own. (redis-py's `Lock` knows its token only in the process that
took it, and forgets it on release.)
"""

from dataclasses import dataclass
from enum import StrEnum

from accession.catalog.ledger import LEASE
from accession.tasks.app import app

# The rows' own locks hold two applies apart, should one outlast this; a dead one's is soon gone.
TITLE_LOCK_SECONDS = 5 * 60

_HOLD = """
local holder = redis.call('get', KEYS[1])
if holder and holder ~= ARGV[1] then return 'by another' end
redis.call('set', KEYS[1], ARGV[1], 'px', ARGV[2])
return holder and 'still' or 'newly'
"""
_EXTEND = "return redis.call('get', KEYS[1]) == ARGV[1] and redis.call('pexpire', KEYS[1], ARGV[2]) or 0"
_RELEASE = "return redis.call('get', KEYS[1]) == ARGV[1] and redis.call('del', KEYS[1]) or 0"


class Held(StrEnum):
    """Who has the lock, after it was asked for."""

    NEWLY = "newly"
    """It was free, and is this holder's now."""
    STILL = "still"
    """It was this holder's, and is extended."""
    BY_ANOTHER = "by another"


@dataclass(frozen=True)
class TaskLock:
    """One lock as one holder sees it; it expires by itself after `seconds`."""

    name: str
    holder: str
    seconds: int

    def hold(self) -> Held:
        """Take the lock if it is free, extend it if it is this holder's.

        In one step: of two deliveries of one message the second must find the lock its own.
        """
        answer: bytes = app.backend.client.eval(_HOLD, 1, self.name, self.holder, self.seconds * 1000)
        return Held(answer.decode())

    def extend(self) -> bool:
        """Let the lock expire `seconds` from now; whether it is this holder's."""
        return bool(app.backend.client.eval(_EXTEND, 1, self.name, self.holder, self.seconds * 1000))

    def release(self) -> bool:
        """Give the lock back; whether it was this holder's. Another holder keeps it."""
        return bool(app.backend.client.eval(_RELEASE, 1, self.name, self.holder))

    def untouched_seconds(self) -> float:
        """How long ago the lock was last taken or extended; no end of it for one that never expires."""
        left: int = app.backend.client.pttl(self.name)
        return float("inf") if left < 0 else self.seconds - left / 1000

    def taken_by(self) -> str | None:
        """Who has the lock."""
        holder: bytes | None = app.backend.client.get(self.name)
        return None if holder is None else holder.decode()


def workflow_lock(key: str, collection_id: int, task_id: str) -> TaskLock:
    """The lock of one workflow for one collection."""
    return TaskLock(f"{key}:{collection_id}", task_id, int(LEASE.total_seconds()))
