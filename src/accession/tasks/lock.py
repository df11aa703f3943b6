"""Redis locks that are held by a task id instead of a process.

All steps of a run and all their retries have one task id, so whichever process runs them holds the lock.
(redis-py's `Lock` keeps its token in the process that acquired it, and loses it on release.)
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from accession.runs.ledger import LEASE
from accession.tasks.app import app

# Row locks keep two applies apart if one takes longer; the lock of a dead worker expires soon.
TITLE_LOCK_SECONDS = 5 * 60

_ACQUIRE_OR_EXTEND = """
local results = {}
for number, name in ipairs(KEYS) do
    local holder = redis.call('get', name)
    if holder and holder ~= ARGV[1] then
        results[number] = 'held by other'
    else
        redis.call('set', name, ARGV[1], 'px', ARGV[2])
        results[number] = holder and 'extended' or 'acquired'
    end
end
return results
"""
_RELEASE = """
local released = 0
for _, name in ipairs(KEYS) do
    if redis.call('get', name) == ARGV[1] then released = released + redis.call('del', name) end
end
return released
"""


class LockResult(StrEnum):
    """Result of trying to acquire a lock."""

    ACQUIRED = "acquired"
    EXTENDED = "extended"
    """This holder had the lock already."""
    HELD_BY_OTHER = "held by other"


@dataclass(frozen=True)
class TaskLock:
    """A lock as seen by one holder; it expires `seconds` after it was last acquired or extended."""

    name: str
    holder: str
    seconds: int

    def acquire_or_extend(self) -> LockResult:
        """Acquire the lock if it is free, or extend it if this holder has it.

        This is one atomic operation: two deliveries of one message must both find the lock theirs.
        """
        return acquire_or_extend_each([self.name], self.holder, self.seconds)[self.name]

    def extend(self) -> bool:
        """Reset the lock's expiry; return False if this holder does not have it.

        Call it only for a lock that this holder has acquired before. If another holder has it now, the expiry
        is reset all the same: each step calls this, and to compare first would take four commands.
        """
        holder: bytes | None = app.backend.client.getex(self.name, px=self.seconds * 1000)
        return holder == self.holder.encode()

    def release(self) -> bool:
        """Release the lock; return False, without effect, if this holder does not have it."""
        return bool(release_each([self.name], self.holder))

    def seconds_since_extended(self) -> float:
        """Return how long ago the lock was acquired or extended; infinity if it never expires."""
        left: int = app.backend.client.pttl(self.name)
        return float("inf") if left < 0 else self.seconds - left / 1000

    def current_holder(self) -> str | None:
        """Return the task id that holds the lock, whoever that is."""
        holder: bytes | None = app.backend.client.get(self.name)
        return None if holder is None else holder.decode()


def acquire_or_extend_each(names: Sequence[str], holder: str, seconds: int) -> dict[str, LockResult]:
    """Acquire or extend several locks in one request; locks of other holders are left alone."""
    results = app.backend.client.eval(_ACQUIRE_OR_EXTEND, len(names), *names, holder, seconds * 1000)
    return {name: LockResult(result.decode()) for name, result in zip(names, results, strict=True)}


def release_each(names: Sequence[str], holder: str) -> int:
    """Release those of the locks that the holder has, in one request; return how many."""
    released: int = app.backend.client.eval(_RELEASE, len(names), *names, holder)
    return released


def workflow_lock(key: str, collection_id: int, task_id: str) -> TaskLock:
    """Return the lock of one workflow for one collection."""
    return TaskLock(f"{key}:{collection_id}", task_id, int(LEASE.total_seconds()))
