"""Celery's scheduler, which also says that it is there."""

from typing import Any

from celery.beat import PersistentScheduler

from accession.tasks.heartbeats import note_tick


class Scheduler(PersistentScheduler):  # type: ignore[misc]
    """The scheduler that `beat_scheduler` names: beat is there when it has looked at its schedule, not when
    its process is."""

    def tick(self, *args: Any, **options: Any) -> Any:
        """Send what is due; the seconds until the next look."""
        wait = super().tick(*args, **options)
        note_tick()
        return wait
