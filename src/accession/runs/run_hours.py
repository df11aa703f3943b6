"""Runs that ended in each of the last hours, and the active ones."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from accession.accounts.collections import is_of_collection
from accession.core.clock import utc_now
from accession.core.workflow import Workflow
from accession.db.models import Run, RunState

HOURS = 24
"""Number of hours that are listed, the present one included."""

# In the order of the fields.
_END_STATES = (RunState.SUCCEEDED, RunState.FAILED, RunState.INTERRUPTED, RunState.CANCELLED)
_ORDER = [workflow.value for workflow in Workflow]


@dataclass(frozen=True)
class RunHourView:
    """Runs of a workflow that ended in the hour from `hour` (UTC) on, and the sums of their counters."""

    hour: datetime
    workflow: str
    succeeded: int
    failed: int
    interrupted: int
    cancelled: int
    records_fetched: int
    titles_new: int

    @property
    def runs(self) -> int:
        """Return the number of runs."""
        return self.succeeded + self.failed + self.interrupted + self.cancelled

    @property
    def failures(self) -> int:
        """Return the number of runs that failed or were interrupted."""
        return self.failed + self.interrupted


def run_hours(session: Session, collection_ids: Sequence[int] | None = None) -> list[RunHourView]:
    """Return the hours of the last day in which runs ended, oldest first, then by workflow.

    They are those of these collections, or of all in use.
    """
    hour = func.date_trunc("hour", Run.finished_at, "UTC")
    counts = (func.count().filter(Run.state == state) for state in _END_STATES)
    sums = (func.sum(Run.records_fetched), func.sum(Run.titles_new))
    query = select(hour, Run.workflow, *counts, *sums).where(Run.finished_at >= last_hours()[0])
    if collection_ids is None:
        query = query.where(is_of_collection(Run.collection_id, None))
    else:
        query = query.where(Run.collection_id.in_(collection_ids))
    rows = session.execute(query.group_by(hour, Run.workflow))
    views = (RunHourView(start, workflow, *map(int, numbers)) for start, workflow, *numbers in rows)
    return sorted(views, key=lambda view: (view.hour, _ORDER.index(view.workflow)))


def last_hours() -> list[datetime]:
    """Return the starts of the last hours (UTC), the present one last."""
    now = utc_now().replace(minute=0, second=0, microsecond=0)
    return [now - timedelta(hours=number) for number in reversed(range(HOURS))]
