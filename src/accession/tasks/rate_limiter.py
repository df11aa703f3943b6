"""Rate limiter of vendor requests, shared by all workers through Redis."""

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import cast
from uuid import uuid4

from redis import Redis

from accession.core.settings import get_settings
from accession.tasks.app import app

_POLL_MS = 5

# KEYS: the collection's slots (sorted set: slot id -> expiry), the time of its last request.
# ARGV: slot id, maximum of slots, expiry in ms, minimum interval between requests in ms ('' for none).
# Acquires a slot and returns 0, or returns after how many milliseconds to try again.
_ACQUIRE_SLOT = f"""
local time = redis.call('time')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call('zremrangebyscore', KEYS[1], '-inf', now)
if redis.call('zcard', KEYS[1]) >= tonumber(ARGV[2]) then return {_POLL_MS} end
if ARGV[4] ~= '' then
  local left = redis.call('pttl', KEYS[2])
  if left > 0 then return left end
  redis.call('set', KEYS[2], ARGV[1], 'px', ARGV[4])
end
redis.call('zadd', KEYS[1], now + ARGV[3], ARGV[1])
redis.call('pexpire', KEYS[1], ARGV[3])
return 0
"""


def request_slot(collection_id: int, task_id: str) -> Callable[[], AbstractContextManager[None]]:
    """Return a context manager that holds one of the collection's request slots.

    Entering it waits until the collection has fewer than `vendor_max_concurrency` requests in flight and
    its last request is as long ago as `vendor_max_requests_per_second` demands, counting all workers. The
    slots of a dead worker expire; those that an earlier delivery of this task left are released now.
    """
    # Celery would open a new connection in each thread; this one is shared.
    client: Redis = app.backend.client
    slots, last_request = f"vendor:slots:{collection_id}", f"vendor:last-request:{collection_id}"
    taken = cast(list[bytes], client.zrange(slots, 0, -1))
    leftover = [slot for slot in taken if slot.startswith(f"{task_id}/".encode())]
    if leftover:
        client.zrem(slots, *leftover)

    @contextmanager
    def acquire() -> Iterator[None]:
        slot = f"{task_id}/{uuid4()}"
        while wait_ms := client.eval(_ACQUIRE_SLOT, 2, slots, last_request, slot, *_limits()):
            time.sleep(int(wait_ms) / 1000)
        try:
            yield
        finally:
            client.zrem(slots, slot)

    return acquire


def _limits() -> tuple[int, int, int | str]:
    """Return the number of slots, a slot's expiry and the interval between requests, both in milliseconds."""
    settings = get_settings()
    # Connecting, and twice the timeout for reading the whole response.
    longest_request = 3 * settings.vendor_timeout_seconds
    rate = settings.vendor_max_requests_per_second
    interval = "" if rate is None else round(1000 / rate)
    return settings.vendor_max_concurrency, round(longest_request * 1000), interval
