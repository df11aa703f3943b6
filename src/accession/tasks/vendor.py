"""What workers share about the vendor: whose turn it is to ask, and answers that wait for their page."""

import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import cast
from uuid import uuid4

from redis import Redis

from accession.core.settings import get_settings
from accession.imports.prefetch import Shelf
from accession.tasks.app import app

# The vendor would still say the same; a page that has failed is tried again after a minute.
_ANSWER_KEPT_MS = 60_000
_LOOK_AGAIN_MS = 5

# Takes a place and returns 0; or takes none and returns after how many milliseconds to try again.
_TAKE_PLACE = f"""
local said = redis.call('time')
local now = said[1] * 1000 + math.floor(said[2] / 1000)
redis.call('zremrangebyscore', KEYS[1], '-inf', now)
if redis.call('zcard', KEYS[1]) >= tonumber(ARGV[2]) then return {_LOOK_AGAIN_MS} end
if ARGV[4] ~= '' then
  local left = redis.call('pttl', KEYS[2])
  if left > 0 then return left end
  redis.call('set', KEYS[2], ARGV[1], 'px', ARGV[4])
end
redis.call('zadd', KEYS[1], now + ARGV[3], ARGV[1])
redis.call('pexpire', KEYS[1], ARGV[3])
return 0
"""


def vendor_turn(collection_id: int, task_id: str) -> Callable[[], AbstractContextManager[None]]:
    """The context within which a task may make one request for the collection.

    It is entered when the vendor has fewer requests of the collection than `vendor_max_concurrency`, and has
    got the last no shorter ago than `vendor_max_requests_per_second` allows, of all workers together. The
    places of a worker that died expire, and those of this task are given back now: it has begun anew.
    """
    # A thread of its own would get a connection of its own from Celery.
    client: Redis = app.backend.client
    places, last = f"vendor:places:{collection_id}", f"vendor:last:{collection_id}"
    taken = cast(list[bytes], client.zrange(places, 0, -1))
    left = [name for name in taken if name.startswith(f"{task_id}/".encode())]
    if left:
        client.zrem(places, *left)

    @contextmanager
    def turn() -> Iterator[None]:
        name = f"{task_id}/{uuid4()}"
        while wait_ms := client.eval(_TAKE_PLACE, 2, places, last, name, *_bounds()):
            time.sleep(int(wait_ms) / 1000)
        try:
            yield
        finally:
            client.zrem(places, name)

    return turn


def _bounds() -> tuple[int, int, int | str]:
    """How many requests at once, how long one may take and how long it is to the next, in milliseconds."""
    settings = get_settings()
    # Connecting, and twice the timeout for the whole of an answer.
    longest = 3 * settings.vendor_timeout_seconds
    rate = settings.vendor_max_requests_per_second
    return settings.vendor_max_concurrency, round(longest * 1000), "" if rate is None else round(1000 / rate)


class AnswersAhead(Shelf):
    """The answers that a run has asked for ahead of their pages, in the broker, for whichever worker gets
    the page."""

    def __init__(self, task_id: str) -> None:
        self._client: Redis = app.backend.client
        self._task_id = task_id

    def take(self, name: str) -> bytes | None:
        """The answer to the question of this name, which is gone then."""
        found = cast(bytes | None, self._client.getdel(self._key(name)))
        return None if found is None else zlib.decompress(found)

    def lay(self, name: str, answer: bytes) -> None:
        """Keep an answer for a minute."""
        self._client.set(self._key(name), zlib.compress(answer, level=1), px=_ANSWER_KEPT_MS)

    def missing(self, names: Sequence[str]) -> Sequence[str]:
        """Those of the names under which no answer lies."""
        with self._client.pipeline(transaction=False) as asked:
            for name in names:
                asked.exists(self._key(name))
            there = asked.execute()
        return [name for name, is_there in zip(names, there, strict=True) if not is_there]

    def _key(self, name: str) -> str:
        return f"vendor:ahead:{self._task_id}:{name}"
