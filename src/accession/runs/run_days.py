"""Runs per day, collection and workflow: added up when a run ends, and kept when its row is deleted."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from accession.accounts.collections import is_of_collection
from accession.core.workflow import Workflow
from accession.db.models import ACTIVE_STATES, Run, RunDay, RunState, RunSums

MAX_DAYS = 3660
"""Maximum number of days that are listed at once."""

_END_STATES = tuple(state for state in RunState if state not in ACTIVE_STATES)
_COUNTERS = tuple(RunSums.__annotations__)
_KEY = ("day", "collection_id", "workflow")
_SUMS = (*map(str, _END_STATES), "seconds", *_COUNTERS)


@dataclass(frozen=True)
class RunDayView:
    """Runs that ended on a day (UTC), and the sums of their durations and counters."""

    day: date
    succeeded: int
    failed: int
    interrupted: int
    cancelled: int
    seconds: float
    pages: int
    records_fetched: int
    records_stored: int
    records_rejected: int
    titles_new: int
    titles_changed: int
    repairs: int
    restarts: int

    @property
    def runs(self) -> int:
        """Return the number of runs."""
        return self.succeeded + self.failed + self.interrupted + self.cancelled


def add_to_run_days(session: Session, run: Run) -> None:
    """Add a run that has just ended to its day."""
    finished_at = run.finished_at or run.updated_at
    row: Mapping[str, Any] = {
        "day": finished_at.date(),
        "collection_id": run.collection_id,
        "workflow": run.workflow,
        **{state.value: int(run.state == state) for state in _END_STATES},
        "seconds": (finished_at - run.started_at).total_seconds(),
        **{name: getattr(run, name) for name in _COUNTERS},
    }
    statement = insert(RunDay).values(row)
    sums = {name: getattr(RunDay, name) + statement.excluded[name] for name in _SUMS}
    session.execute(statement.on_conflict_do_update(index_elements=_KEY, set_=sums))


def run_days(
    session: Session, *, since: date, collection: str | None = None, workflow: Workflow | None = None
) -> list[RunDayView]:
    """Return the days from `since` on that have ended runs, oldest first.

    They are those of one collection or of all in use, and of one workflow or of all.
    """
    sums = (func.sum(getattr(RunDay, name)) for name in _SUMS)
    query = select(RunDay.day, *sums).where(
        RunDay.day >= since, is_of_collection(RunDay.collection_id, collection)
    )
    if workflow is not None:
        query = query.where(RunDay.workflow == workflow)
    rows = session.execute(query.group_by(RunDay.day).order_by(RunDay.day))
    return [_view(row) for row in rows]


def _view(row: Any) -> RunDayView:
    day, *values = row
    sums = dict(zip(_SUMS, values, strict=True))
    seconds = float(sums.pop("seconds"))
    return RunDayView(day=day, seconds=seconds, **{name: int(value) for name, value in sums.items()})
