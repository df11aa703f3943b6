"""Heartbeats of the workers and of Celery beat, kept in the broker.

A worker stays registered after its last heartbeat, until another one has taken over its messages.

Silence proves nothing if no worker at all could send a heartbeat: the broker was unavailable. It is counted
again from the first heartbeat after that, so that living workers can send theirs.

Times come from the broker's clock, because the clocks of two machines may differ.
"""

import re
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, cast

from redis.exceptions import RedisError

from accession.tasks.broker import broker_client

HEARTBEAT_SECONDS = 10
SCHEDULER_OVERDUE_SECONDS = 60
_WORKER_TTL_SECONDS = 30
# As long as a single worker is alive, the broker receives a heartbeat every ten seconds.
_OUTAGE_SECONDS = 15

WORKER_NAME = re.compile(r"accession-(?P<pid>\d+)@(?P<host>.+)")
"""The name of a worker: its process id, and the name of its machine."""

_WORKERS = "heartbeats:workers"
_SCHEDULER = "heartbeats:beat"
_OBSERVED_SINCE = "heartbeats:observed-since"

_RECORD_WORKER = f"""
local now = tonumber(redis.call('time')[1])
local latest = redis.call('zrange', KEYS[1], -1, -1, 'withscores')[2]
if latest and now - latest > {_OUTAGE_SECONDS} then redis.call('set', KEYS[2], now) end
redis.call('zadd', KEYS[1], now, ARGV[1])
"""
# A worker that has stopped has the time 0.
_LIST_SILENT_WORKERS = f"""{_RECORD_WORKER}
local limit = now - {_WORKER_TTL_SECONDS}
if tonumber(redis.call('get', KEYS[2]) or 0) > limit then limit = 0 end
return redis.call('zrangebyscore', KEYS[1], '-inf', limit)
"""
_UNREGISTER = f"""
local latest = redis.call('zscore', KEYS[1], ARGV[1])
if latest and redis.call('time')[1] - latest >= {_WORKER_TTL_SECONDS} then
    redis.call('zrem', KEYS[1], ARGV[1])
end
"""
_RECORD_TICK = "redis.call('set', KEYS[1], redis.call('time')[1])"
_LIST_WORKERS = f"""
local now = redis.call('time')[1]
local workers = redis.call('zrangebyscore', KEYS[1], '(' .. now - {_WORKER_TTL_SECONDS}, '+inf', 'withscores')
for index = 2, #workers, 2 do workers[index] = math.max(0, now - workers[index]) end
return workers
"""
_READ = f"""
local now = redis.call('time')[1]
local tick = redis.call('get', KEYS[2])
local workers = redis.call('zcount', KEYS[1], '(' .. now - {_WORKER_TTL_SECONDS}, '+inf')
return {{workers, tick and math.max(0, now - tick)}}
"""


@dataclass(frozen=True)
class Heartbeats:
    """The running workers, and the age of the scheduler's last tick.

    A worker counts as running for 30 seconds after its heartbeat. The age is None if no tick is recorded.
    """

    workers: int
    scheduler_tick_age_seconds: int | None

    @property
    def is_scheduler_overdue(self) -> bool:
        """Return True if the scheduler has not ticked for a minute: due tasks may not be published."""
        age = self.scheduler_tick_age_seconds
        return age is None or age > SCHEDULER_OVERDUE_SECONDS

    @property
    def scheduler_status(self) -> str:
        """Return a phrase for a user about the scheduler's last tick."""
        if self.scheduler_tick_age_seconds is None:
            return "no tick of the scheduler is recorded"
        return f"the scheduler's last tick was {self.scheduler_tick_age_seconds} seconds ago"


@dataclass(frozen=True)
class WorkerHeartbeat:
    """A running worker: its machine, its process id, and the time since its last heartbeat."""

    host: str
    pid: int
    age_seconds: int


def read_workers() -> list[WorkerHeartbeat]:
    """Return the running workers, by machine and process id.

    Raises:
        RedisError: the broker is unavailable.
    """
    reply = cast(list[Any], broker_client().eval(_LIST_WORKERS, 1, _WORKERS))
    workers = []
    for name, age in zip(_decode(reply[::2]), reply[1::2], strict=True):
        if (match := WORKER_NAME.fullmatch(name)) is not None:
            workers.append(WorkerHeartbeat(match["host"], int(match["pid"]), int(age)))
    return sorted(workers, key=lambda worker: (worker.host, worker.pid))


def read_heartbeats() -> Heartbeats:
    """Return the current heartbeats.

    Raises:
        RedisError: the broker is unavailable.
    """
    workers, tick_age = cast(list[Any], broker_client().eval(_READ, 2, _WORKERS, _SCHEDULER))
    return Heartbeats(workers, tick_age)


def record_worker_heartbeat(name: str) -> None:
    """Record that a worker is running; does nothing if the broker is unavailable."""
    with suppress(RedisError):
        broker_client().eval(_RECORD_WORKER, 2, _WORKERS, _OBSERVED_SINCE, name)


def record_worker_stop(name: str) -> None:
    """Record that a worker has stopped; if the broker is unavailable the heartbeat expires instead."""
    with suppress(RedisError):
        broker_client().zadd(_WORKERS, {name: 0})


def list_workers() -> list[str]:
    """Return the names of all registered workers, alive or not."""
    return _decode(broker_client().zrange(_WORKERS, 0, -1))


def list_silent_workers(observer: str) -> list[str]:
    """Record a heartbeat of one worker; return the others that have stopped or been silent for 30 seconds."""
    return _decode(broker_client().eval(_LIST_SILENT_WORKERS, 2, _WORKERS, _OBSERVED_SINCE, observer))


def unregister_worker(name: str) -> None:
    """Forget a worker whose messages have been taken over, unless it has sent a heartbeat meanwhile."""
    broker_client().eval(_UNREGISTER, 1, _WORKERS, name)


def _decode(names: object) -> list[str]:
    return [name.decode() for name in cast(list[bytes], names)]


def record_scheduler_tick() -> None:
    """Record that beat has checked its schedule; does nothing if the broker is unavailable."""
    with suppress(RedisError):
        broker_client().eval(_RECORD_TICK, 1, _SCHEDULER)
