"""Locks in Redis that belong to a task rather than to a process.

The holder is a task id, by which all links of a chain go and all their retries, so every process that runs
one of them finds the lock its own. (redis-py's `Lock` knows its token only in the process that
took it, and forgets it on release.)
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from accession.runs.ledger import LEASE
from accession.tasks.app import app

# The rows' own locks hold two applies apart, should one outlast this; a dead one's is soon gone.
TITLE_LOCK_SECONDS = 5 * 60

_HOLD = """
local answers = {}
for number, name in ipairs(KEYS) do
    local holder = redis.call('get', name)
    if holder and holder ~= ARGV[1] then
        answers[number] = 'by another'
    else
        redis.call('set', name, ARGV[1], 'px', ARGV[2])
        answers[number] = holder and 'still' or 'newly'
    end
end
return answers
"""
_EXTEND = "return redis.call('get', KEYS[1]) == ARGV[1] and redis.call('pexpire', KEYS[1], ARGV[2]) or 0"
_RELEASE = """
local released = 0
for _, name in ipairs(KEYS) do
    if redis.call('get', name) == ARGV[1] then released = released + redis.call('del', name) end
end
return released
"""


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
        return hold_each([self.name], self.holder, self.seconds)[self.name]

    def extend(self) -> bool:
        """Let the lock expire `seconds` from now; whether it is this holder's."""
        return bool(app.backend.client.eval(_EXTEND, 1, self.name, self.holder, self.seconds * 1000))

    def release(self) -> bool:
        """Give the lock back; whether it was this holder's. Another holder keeps it."""
        return bool(release_each([self.name], self.holder))

    def untouched_seconds(self) -> float:
        """How long ago the lock was last taken or extended; no end of it for one that never expires."""
        left: int = app.backend.client.pttl(self.name)
        return float("inf") if left < 0 else self.seconds - left / 1000

    def taken_by(self) -> str | None:
        """Who has the lock."""
        holder: bytes | None = app.backend.client.get(self.name)
        return None if holder is None else holder.decode()


def hold_each(names: Sequence[str], holder: str, seconds: int) -> dict[str, Held]:
    """Take or extend each of these locks as `TaskLock.hold` does, in one step and one request; those that
    others have are left to them."""
    answers = app.backend.client.eval(_HOLD, len(names), *names, holder, seconds * 1000)
    return {name: Held(answer.decode()) for name, answer in zip(names, answers, strict=True)}


def release_each(names: Sequence[str], holder: str) -> int:
    """Give back those of these locks that are the holder's, in one request; how many there were."""
    released: int = app.backend.client.eval(_RELEASE, len(names), *names, holder)
    return released


def workflow_lock(key: str, collection_id: int, task_id: str) -> TaskLock:
    """The lock of one workflow for one collection."""
    return TaskLock(f"{key}:{collection_id}", task_id, int(LEASE.total_seconds()))
