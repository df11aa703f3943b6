"""Has Celery's worker and beat give their signs of life."""

from typing import Any

from celery import bootsteps
from celery.beat import PersistentScheduler

from accession.tasks.app import app
from accession.tasks.heartbeats import HEARTBEAT_SECONDS, forget_worker, note_tick, note_worker


class AliveWhileConnected(bootsteps.StartStopStep):  # type: ignore[misc]
    """Has a worker say that it is there while it takes messages."""

    requires = ("celery.worker.consumer.tasks:Tasks",)

    def __init__(self, consumer: Any, **options: Any) -> None:
        super().__init__(consumer, **options)
        self._repeated: Any = None

    def start(self, consumer: Any) -> None:
        """Once it is connected to the broker, at first or again."""
        note_worker(consumer.hostname)
        self._repeated = consumer.timer.call_repeatedly(HEARTBEAT_SECONDS, note_worker, (consumer.hostname,))

    def stop(self, consumer: Any) -> None:
        """When it ends, or has lost the broker."""
        if self._repeated is not None:
            self._repeated.cancel()
            self._repeated = None
            forget_worker(consumer.hostname)


app.steps["consumer"].add(AliveWhileConnected)


class Scheduler(PersistentScheduler):  # type: ignore[misc]
    """The scheduler that `beat_scheduler` names: beat is there when it looks at its schedule, which it may
    not do though its process is there."""

    def tick(self, *args: Any, **options: Any) -> Any:
        """Send what is due; the seconds until the next look."""
        wait = super().tick(*args, **options)
        note_tick()
        return wait
