"""Celery extensions (a bootstep and a scheduler) that record the heartbeats of workers and beat."""

from contextlib import suppress
from typing import Any
from uuid import uuid4

import structlog
from celery import bootsteps
from celery.beat import PersistentScheduler
from redis.exceptions import RedisError

from accession.tasks.app import app
from accession.tasks.heartbeats import (
    HEARTBEAT_SECONDS,
    record_scheduler_tick,
    record_worker_heartbeat,
    record_worker_stop,
)
from accession.tasks.lock import LockResult, TaskLock

log = structlog.get_logger(__name__)

_LOCK_SECONDS = 30


class WorkerHeartbeat(bootsteps.StartStopStep):  # type: ignore[misc]
    """A step of the worker's consumer that records a heartbeat while the worker accepts messages."""

    requires = ("celery.worker.consumer.tasks:Tasks",)

    def __init__(self, consumer: Any, **options: Any) -> None:
        super().__init__(consumer, **options)
        self._timer: Any = None

    def start(self, consumer: Any) -> None:
        """Start the heartbeat; called at each connection to the broker."""
        record_worker_heartbeat(consumer.hostname)
        self._timer = consumer.timer.call_repeatedly(
            HEARTBEAT_SECONDS, record_worker_heartbeat, (consumer.hostname,)
        )

    def stop(self, consumer: Any) -> None:
        """Stop the heartbeat; called when the worker stops or loses the broker."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
            record_worker_stop(consumer.hostname)


app.steps["consumer"].add(WorkerHeartbeat)


class Scheduler(PersistentScheduler):  # type: ignore[misc]
    """Beat's scheduler, of which one publishes at a time; its ticks are recorded.

    Any further one that is started by mistake keeps the same schedule and publishes nothing. It takes over
    when the first has stopped, or has been silent for half a minute; runs that were due meanwhile are started
    late (`accession.tasks.schedules`).
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        self._lock = TaskLock("Scheduler", str(uuid4()), _LOCK_SECONDS)
        self._is_active = True
        super().__init__(*args, **options)

    def tick(self, *args: Any, **options: Any) -> Any:
        """Publish what is due, and return the seconds until the next tick."""
        self._find_whether_active()
        wait = super().tick(*args, **options)
        if self._is_active:
            record_scheduler_tick()
        return wait

    def _find_whether_active(self) -> None:
        # If the broker is unavailable, the active scheduler waits for it to publish what is due.
        with suppress(RedisError):
            is_active = self._lock.acquire_or_extend() is not LockResult.HELD_BY_OTHER
            if self._is_active and not is_active:
                log.warning("another scheduler is running, this one publishes nothing")
            self._is_active = is_active

    def apply_entry(self, entry: Any, producer: Any = None) -> None:
        """Publish a task that is due."""
        if self._is_active:
            super().apply_entry(entry, producer=producer)

    def close(self) -> None:
        """Save the schedule, and let another scheduler publish."""
        super().close()
        with suppress(RedisError):
            self._lock.release()
