"""Redis cache of prefetched vendor responses, for whichever worker processes their page."""

import zlib
from collections.abc import Sequence
from typing import cast

from redis import Redis

from accession.imports.prefetch import PrefetchCache
from accession.tasks.app import app

# The vendor would still give the same response; a failed page is retried after a minute.
_EXPIRY_MS = 60_000


class RedisPrefetchCache(PrefetchCache):
    """The prefetched responses of one run, which expire after a minute."""

    def __init__(self, task_id: str) -> None:
        self._client: Redis = app.backend.client
        self._task_id = task_id

    def pop(self, name: str) -> bytes | None:
        """Return the response to the request of this name and delete it; None if there is none."""
        compressed = cast(bytes | None, self._client.getdel(self._key(name)))
        return None if compressed is None else zlib.decompress(compressed)

    def put(self, name: str, response: bytes) -> None:
        """Store a response for a minute."""
        self._client.set(self._key(name), zlib.compress(response, level=1), px=_EXPIRY_MS)

    def missing(self, names: Sequence[str]) -> Sequence[str]:
        """Return those of the names that have no response."""
        # As a rule none has one, which is one command instead of one for each.
        if not names or not self._client.exists(*map(self._key, names)):
            return names
        with self._client.pipeline(transaction=False) as pipeline:
            for name in names:
                pipeline.exists(self._key(name))
            results = pipeline.execute()
        return [name for name, is_cached in zip(names, results, strict=True) if not is_cached]

    def _key(self, name: str) -> str:
        return f"vendor:prefetch:{self._task_id}:{name}"
