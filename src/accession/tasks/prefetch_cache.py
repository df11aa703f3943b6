"""Redis cache of prefetched vendor responses, for whichever worker processes their page."""

import time
import zlib
from collections.abc import Sequence
from contextlib import suppress
from typing import cast

from redis import Redis
from redis.exceptions import RedisError

from accession.imports.prefetch import PrefetchCache
from accession.tasks.app import app

# The vendor would still give the same response; a failed page is retried after a minute.
_EXPIRY_MS = 60_000

PATIENCE_SECONDS = 10
"""A page is requested again if its prefetched response takes longer, or its worker has died."""
_MIN_POLL_SECONDS, _MAX_POLL_SECONDS = 0.0005, 0.005

# No compressed response has one byte.
_CLAIM, _NO_RESPONSE = b"?", b"-"


class RedisPrefetchCache(PrefetchCache):
    """The prefetched responses of one run: a key each, which has a placeholder until the response comes."""

    def __init__(self, task_id: str) -> None:
        self._client: Redis = app.backend.client
        self._task_id = task_id

    def claim(self, names: Sequence[str]) -> Sequence[str]:
        """Claim those of the names that are free, and return them."""
        return [name for name in names if self._client.set(self._key(name), _CLAIM, nx=True, px=_EXPIRY_MS)]

    def put(self, name: str, response: bytes | None) -> None:
        """Store a response for a minute, or that there is none; skipped if the broker is unavailable."""
        value = _NO_RESPONSE if response is None else zlib.compress(response, level=1)
        with suppress(RedisError):
            self._client.set(self._key(name), value, px=_EXPIRY_MS)

    def take(self, name: str) -> bytes | None:
        """Return the response to the request of this name and free the name; None if there is none.

        Waits 10 seconds for a response that is on its way.
        """
        deadline, pause = time.monotonic() + PATIENCE_SECONDS, _MIN_POLL_SECONDS
        value = self._pop(name)
        # Another delivery of the message may claim the name again meanwhile.
        is_claimed = value == _CLAIM
        while is_claimed and value in (None, _CLAIM) and time.monotonic() < deadline:
            time.sleep(pause)
            pause = min(2 * pause, _MAX_POLL_SECONDS)
            value = self._pop(name)
        return None if value is None or value in (_CLAIM, _NO_RESPONSE) else zlib.decompress(value)

    def _pop(self, name: str) -> bytes | None:
        return cast(bytes | None, self._client.getdel(self._key(name)))

    def _key(self, name: str) -> str:
        return f"vendor:prefetch:{self._task_id}:{name}"
