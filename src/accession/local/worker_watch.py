"""Notice a worker that has stopped sending heartbeats although its process lives.

Its connection to the broker may have died without being closed, for example.
"""

import socket
import threading
from contextlib import suppress
from time import monotonic

from redis.exceptions import RedisError

from accession.tasks.broker import BrokerUnavailable
from accession.tasks.heartbeats import read_workers

_CHECK_SECONDS = 10.0
_SILENCE_SECONDS = 60.0


class WorkerWatch:
    """The heartbeats of this machine's workers, as the broker has them.

    They are read in the background. While the broker does not respond, no worker counts as silent.
    """

    def __init__(self) -> None:
        self._host = socket.gethostname()
        self._lock = threading.Lock()
        self._check: threading.Thread | None = None
        self._started_at = -_CHECK_SECONDS
        self._checked_at: float | None = None
        self._last_heard: dict[int, float] = {}

    def is_stuck(self, pid: int) -> bool:
        """Return whether a worker that has sent heartbeats has sent none for a minute."""
        now = monotonic()
        if now - self._started_at >= _CHECK_SECONDS and (self._check is None or not self._check.is_alive()):
            self._started_at = now
            self._check = threading.Thread(target=self._read_heartbeats, name="worker-watch", daemon=True)
            self._check.start()
        with self._lock:
            if self._checked_at is None or now - self._checked_at > 2 * _CHECK_SECONDS:
                # Nothing is known about the time since then.
                self._last_heard = dict.fromkeys(self._last_heard, now)
            last_heard = self._last_heard.get(pid)
            return last_heard is not None and now - last_heard > _SILENCE_SECONDS

    def _read_heartbeats(self) -> None:
        with suppress(RedisError, BrokerUnavailable):
            pids = [worker.pid for worker in read_workers() if worker.host == self._host]
            with self._lock:
                self._checked_at = monotonic()
                self._last_heard |= dict.fromkeys(pids, self._checked_at)
