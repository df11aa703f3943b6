"""Schedule of a periodic task by a cron expression, for beat.

Celery's own crontab omits the hour that the clock repeats in autumn.
"""

from datetime import datetime
from typing import Any

from celery.schedules import BaseSchedule, schedstate

from accession.core.cron import Cron


class CronSchedule(BaseSchedule):  # type: ignore[misc]
    """A schedule that is due at the times of a cron expression."""

    def __init__(self, cron: Cron, **options: Any) -> None:
        super().__init__(**options)
        self.cron = cron

    def is_due(self, last_run_at: datetime) -> schedstate:
        """Return whether a time has passed since the last run, and the seconds until the next time."""
        now = self.now()
        is_due = next(self.cron.occurrences(self.maybe_make_aware(last_run_at))) <= now
        next_time = next(self.cron.occurrences(now))
        return schedstate(is_due, (next_time - now).total_seconds())

    def __eq__(self, other: object) -> bool:
        return isinstance(other, CronSchedule) and self.cron == other.cron

    def __hash__(self) -> int:
        return hash(self.cron)

    def __reduce__(self) -> tuple[type["CronSchedule"], tuple[Cron]]:
        return type(self), (self.cron,)
