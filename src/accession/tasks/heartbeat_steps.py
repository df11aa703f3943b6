"""Celery extensions (a bootstep and a scheduler) that record the heartbeats of workers and beat."""

from typing import Any

from celery import bootsteps
from celery.beat import PersistentScheduler

from accession.tasks.app import app
from accession.tasks.heartbeats import (
    HEARTBEAT_SECONDS,
    record_scheduler_tick,
    record_worker_heartbeat,
    record_worker_stop,
)


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
    """Beat's scheduler, which records each tick: a hung beat process has no ticks."""

    def tick(self, *args: Any, **options: Any) -> Any:
        """Publish what is due, and return the seconds until the next tick."""
        wait = super().tick(*args, **options)
        record_scheduler_tick()
        return wait
