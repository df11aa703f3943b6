"""Signs of life of workers and beat, in the broker, for whoever has to know whether they are there.

Moments are told by the broker's clock: those of two machines need not agree.
"""

from contextlib import suppress
from dataclasses import dataclass
from typing import Any, cast

from redis.exceptions import RedisError

from accession.tasks.broker import quick_broker

HEARTBEAT_SECONDS = 10
BEAT_OVERDUE_SECONDS = 60
_GONE_AFTER_SECONDS = 30

_WORKERS = "heartbeats:workers"
_BEAT = "heartbeats:beat"

_NOTE_WORKER = f"""
local now = redis.call('time')[1]
redis.call('zremrangebyscore', KEYS[1], '-inf', now - {_GONE_AFTER_SECONDS})
redis.call('zadd', KEYS[1], now, ARGV[1])
"""
_NOTE_TICK = "redis.call('set', KEYS[1], redis.call('time')[1])"
_READ = f"""
local now = redis.call('time')[1]
local tick = redis.call('get', KEYS[2])
local workers = redis.call('zcount', KEYS[1], '(' .. now - {_GONE_AFTER_SECONDS}, '+inf')
return {{workers, tick and math.max(0, now - tick)}}
"""


@dataclass(frozen=True)
class Heartbeats:
    """How many workers have given a sign of life in the last half minute, and how long ago beat last looked
    at its schedule; None when it never has."""

    workers: int
    beat_silent_seconds: int | None

    @property
    def beat_is_overdue(self) -> bool:
        """Whether what is due may not be sent."""
        return self.beat_silent_seconds is None or self.beat_silent_seconds > BEAT_OVERDUE_SECONDS

    @property
    def beat_in_words(self) -> str:
        """What to tell a person of beat."""
        if self.beat_silent_seconds is None:
            return "it has never looked at its schedule"
        return f"it looked at its schedule {self.beat_silent_seconds} seconds ago"


def read_heartbeats() -> Heartbeats:
    """Who is there. Raises `RedisError` when the broker does not answer."""
    workers, silent = cast(list[Any], quick_broker().eval(_READ, 2, _WORKERS, _BEAT))
    return Heartbeats(workers, silent)


def note_worker(name: str) -> None:
    """The worker is there; a broker that is away misses it."""
    with suppress(RedisError):
        quick_broker().eval(_NOTE_WORKER, 1, _WORKERS, name)


def forget_worker(name: str) -> None:
    """The worker is no longer there; a broker that is away finds out by itself."""
    with suppress(RedisError):
        quick_broker().zrem(_WORKERS, name)


def note_tick() -> None:
    """Beat has looked at its schedule; a broker that is away misses it."""
    with suppress(RedisError):
        quick_broker().eval(_NOTE_TICK, 1, _BEAT)
