"""Summary of a run: its state, what comes next, sums over its steps, retries and samples."""

from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from accession.bibliotheca.errors import problem_of
from accession.core.settings import get_settings
from accession.core.workflow import Workflow
from accession.db.models import Collection, Run, RunRetry, RunState, RunStep, StepOutcome
from accession.runs.ledger import find_latest_run
from accession.runs.pauses import PauseView, list_pauses
from accession.runs.run_details import RunTotalsView, run_totals
from accession.runs.samples import RunRetryView, RunSampleView, run_retries, run_samples
from accession.runs.schedules import list_schedules
from accession.runs.views import RunView, run_view


@dataclass(frozen=True)
class RunOutlook:
    """Cause of a failure, and what comes next.

    Attributes:
        cause: Why the run failed, was cancelled or is retrying, without account and URL; None if it did not.
        attempts: Number of times that its last step was attempted; 0 if nothing failed.
        next_attempt_at: When a retrying run makes its next attempt (UTC): then, or later if the vendor asks
            for it. None for others.
        latest_run_id: The latest run of the workflow, if it is another one.
        next_start: When the next scheduled run starts (UTC); None without a schedule.
        pause: The pause of the workflow, or None.
    """

    cause: str | None
    attempts: int
    next_attempt_at: datetime | None
    latest_run_id: int | None
    next_start: datetime | None
    pause: PauseView | None


@dataclass(frozen=True)
class RunSummary:
    """A run, what comes after it, sums over its steps, and its retries and samples, both oldest first."""

    run: RunView
    outlook: RunOutlook
    totals: RunTotalsView
    retries: list[RunRetryView]
    samples: list[RunSampleView]


def run_summary(session: Session, run_id: int) -> RunSummary:
    """Return the summary of a run.

    Raises:
        NotFound: there is none with this id, or its collection is marked for deletion.
    """
    return RunSummary(
        run_view(session, run_id),
        _outlook(session, run_id),
        run_totals(session, run_id),
        run_retries(session, run_id),
        run_samples(session, run_id),
    )


def backoff_seconds(retries: int) -> float:
    """Return how long after the failure the next attempt follows, if the step was retried so often before."""
    delay: float = get_settings().retry_backoff_seconds * 2**retries
    return delay


def _outlook(session: Session, run_id: int) -> RunOutlook:
    run = session.get_one(Run, run_id)
    workflow = Workflow(run.workflow)
    latest = find_latest_run(session, run.collection_id, workflow)
    schedules = list_schedules(session, run.collection_id)
    return RunOutlook(
        cause=_cause(session, run),
        attempts=_attempts(session, run),
        next_attempt_at=_next_attempt(session, run) if run.state == RunState.RETRYING else None,
        latest_run_id=None if latest is None or latest is run else latest.id,
        next_start=next((each.next_start for each in schedules if each.workflow is workflow), None),
        pause=list_pauses(session).get((run.collection_id, run.workflow)),
    )


def _cause(session: Session, run: Run) -> str | None:
    if run.error is None:
        return None
    return problem_of(run.error, session.get_one(Collection, run.collection_id).name)


def _attempts(session: Session, run: Run) -> int:
    query = select(func.count()).where(
        RunStep.run_id == run.id,
        RunStep.number == run.pages + 1,
        RunStep.outcome.in_([StepOutcome.RETRIED.value, StepOutcome.FAILED.value]),
    )
    return session.scalar(query) or 0


def _next_attempt(session: Session, run: Run) -> datetime | None:
    query = select(RunRetry.at, RunRetry.retry).where(RunRetry.run_id == run.id)
    row = session.execute(query.order_by(RunRetry.id.desc()).limit(1)).one_or_none()
    if row is None:
        return None
    at, retry = row
    return at + timedelta(seconds=backoff_seconds(retry - 1))
