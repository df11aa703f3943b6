"""Health of collections and their workflows, for the dashboard's overview and the API."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

from sqlalchemy import ARRAY, ColumnElement, Text, func, literal, select, true
from sqlalchemy.orm import InstrumentedAttribute, Session

from accession.accounts.collections import list_collections
from accession.bibliotheca.errors import problem_of
from accession.catalog.availability import SHOWN_COUNTS
from accession.catalog.outbox import count_pending_changes_by_collection
from accession.catalog.purchase_counts import recent_purchases
from accession.core.clock import utc_now
from accession.core.workflow import SCHEDULED_WORKFLOWS, Workflow
from accession.db.models import (
    ACTIVE_STATES,
    BEGUN_STATES,
    Collection,
    LicensePool,
    RejectedRecord,
    Run,
    RunState,
)
from accession.runs.pauses import PauseView, list_pauses
from accession.runs.progress import RunProgress, estimate_progress_of_runs
from accession.runs.schedules import Schedule, list_schedules
from accession.runs.views import (
    NEVER,
    NO_CHECKPOINT,
    displayed_state,
    find_latest_runs,
    list_checkpoints,
)

# Longest time from the scheduled start of a run to its success: a late start and all retries.
MAX_LATENESS = timedelta(hours=2)

# Cause of a workflow that is failing without a failed run.
_OVERDUE_CAUSE = "No run has succeeded since it was due; check that a worker and the scheduler are running."


class HealthState(StrEnum):
    """Health of a collection or of one of its workflows, worst first."""

    FAILING = "failing"
    """The last run failed or was interrupted, or the last success is too long ago."""
    RUNNING = "running"
    """A run is in progress or queued."""
    PAUSED = "paused"
    """A person has paused it, and no run is in progress."""
    NEW = "new"
    """Recently added; no run has succeeded yet."""
    HEALTHY = "healthy"


@dataclass(frozen=True)
class WorkflowHealth:
    """Health of one workflow of a collection.

    `checkpoint` and `unconfirmed_since` are those of `accession.runs.views.StatusView`. `run_id`, `state`,
    `started_at`, `error` and `records_fetched` are those of its latest run; `progress` is None unless that
    run is in progress. `pause` is None unless the workflow is paused. `next_start` is when the next scheduled
    run starts, a time in the past if it is due, and None for a workflow without a schedule.

    `is_overdue` tells whether the run that was to start after the last success should have succeeded by now.
    `cause` is why the workflow is failing or retrying, otherwise None. It names neither account nor URL, so
    that it is the same for all collections with one problem.
    """

    workflow: str
    health: HealthState
    state: str = NEVER
    run_id: int | None = None
    checkpoint: datetime | None = None
    unconfirmed_since: datetime | None = None
    last_success: datetime | None = None
    started_at: datetime | None = None
    error: str | None = None
    records_fetched: int = 0
    progress: RunProgress | None = None
    pause: PauseView | None = None
    next_start: datetime | None = None
    is_overdue: bool = False
    cause: str | None = None


@dataclass(frozen=True)
class CollectionHealth:
    """Health of a collection, which was added at `created_at`.

    `purchases` are the numbers of purchases in each of the last 24 months, oldest first; `rejected` is the
    number of open rejected records; `problem` describes what is failing. A workflow without a schedule is
    listed if it has a run, and does not affect `health` and `problem`.
    """

    id: int
    name: str
    created_at: datetime
    health: HealthState
    titles: int
    rejected: int
    pending_updates: int
    purchases: tuple[int, ...]
    workflows: tuple[WorkflowHealth, ...]
    problem: str | None = None


@dataclass(frozen=True)
class CopyTotals:
    """Copies of all titles of a collection, and the holds on them."""

    owned: int
    available: int
    reserved: int
    holds: int


def sum_copies(session: Session, collection_id: int) -> CopyTotals:
    """Return the collection's copies and holds, summed over its titles."""
    sums = select(*(func.coalesce(func.sum(count), 0) for count in SHOWN_COUNTS.values()))
    row: Any = session.execute(sums.where(LicensePool.collection_id == collection_id)).one()
    return CopyTotals(*row)


def collection_health(session: Session, collection_id: int | None = None) -> list[CollectionHealth]:
    """Return the health of every collection, or of one: failing collections first, then by name."""
    collections = [
        collection
        for collection in list_collections(session)
        if collection_id is None or collection.id == collection_id
    ]
    workflows = workflow_health(session, collections)
    titles = _count_by_collection(session, LicensePool.collection_id)
    rejected = _count_by_collection(
        session, RejectedRecord.collection_id, RejectedRecord.resolved_at.is_(None)
    )
    pending, purchases = count_pending_changes_by_collection(session), recent_purchases(session)
    views = [
        CollectionHealth(
            id=collection.id,
            name=collection.name,
            created_at=collection.created_at,
            health=_worst_health(workflows[collection.id]),
            titles=titles.get(collection.id, 0),
            rejected=rejected.get(collection.id, 0),
            pending_updates=pending.get(collection.id, 0),
            purchases=purchases[collection.id],
            workflows=workflows[collection.id],
            problem=_describe_problem(workflows[collection.id]),
        )
        for collection in collections
    ]
    return sorted(views, key=lambda view: (view.health is not HealthState.FAILING, view.name.casefold()))


def workflow_health(
    session: Session, collections: Sequence[Collection]
) -> dict[int, tuple[WorkflowHealth, ...]]:
    """Return the health of each workflow, by collection id.

    A workflow without a schedule is left out for collections that have no run of it.
    """
    runs, successes, checkpoints, pauses = (
        find_latest_runs(session),
        last_successes(session),
        list_checkpoints(session),
        list_pauses(session),
    )
    schedules = {(each.collection_id, each.workflow.value): each for each in list_schedules(session)}
    begun = [run for run in runs.values() if run.state in BEGUN_STATES]
    progress = estimate_progress_of_runs(session, begun)

    def health_of(collection: Collection, workflow: Workflow) -> WorkflowHealth:
        key = (collection.id, workflow.value)
        run, success, pause = runs.get(key), successes.get(key), pauses.get(key)
        checkpoint = checkpoints.get((collection.id, workflow.service), NO_CHECKPOINT)
        schedule = schedules.get(key)
        is_overdue = schedule is not None and _is_overdue(schedule, success or collection.created_at)
        state = NEVER if run is None else displayed_state(run)
        health = _health_state(state, pause, success, is_overdue=is_overdue)
        view = WorkflowHealth(
            workflow=workflow.value,
            health=health,
            state=state,
            checkpoint=checkpoint.complete_until,
            unconfirmed_since=checkpoint.unconfirmed_since,
            pause=pause,
            next_start=None if schedule is None else schedule.next_start,
            is_overdue=is_overdue,
            cause=_cause(collection.name, health, state, None if run is None else run.error),
        )
        if run is None:
            return view
        return replace(
            view,
            run_id=run.id,
            last_success=success,
            started_at=run.started_at,
            error=run.error,
            records_fetched=run.records_fetched,
            progress=progress.get(run.id),
        )

    return {
        collection.id: tuple(
            health_of(collection, workflow)
            for workflow in Workflow
            if workflow in SCHEDULED_WORKFLOWS or (collection.id, workflow.value) in runs
        )
        for collection in collections
    }


def last_successes(session: Session) -> dict[tuple[int, str], datetime]:
    """Return when the last successful run ended, by collection id and workflow."""
    workflows = func.unnest(literal(list(Workflow), ARRAY(Text))).table_valued("workflow", name="workflows")
    workflows = workflows.render_derived()
    # One index lookup for each pair, because the ledger keeps all runs and grows without limit.
    last = (
        select(Run.finished_at)
        .where(Run.collection_id == Collection.id, Run.workflow == workflows.c.workflow)
        .where(Run.state == RunState.SUCCEEDED)
        .order_by(Run.id.desc())
        .limit(1)
        .scalar_subquery()
    )
    query = select(Collection.id, workflows.c.workflow, last).select_from(Collection).join(workflows, true())
    rows = session.execute(query)
    return {(collection_id, workflow): at for collection_id, workflow, at in rows if at is not None}


def _is_overdue(schedule: Schedule, last_success: datetime) -> bool:
    """Return whether the run that was to start after the last success should have succeeded by now."""
    latest = utc_now() - MAX_LATENESS
    return last_success < latest and schedule.next_start_after(last_success) < latest


def _health_state(
    state: str, pause: PauseView | None, last_success: datetime | None, *, is_overdue: bool
) -> HealthState:
    if state in ACTIVE_STATES:
        return HealthState.RUNNING
    if pause is not None:
        return HealthState.PAUSED
    if state in (RunState.FAILED, RunState.INTERRUPTED) or is_overdue:
        return HealthState.FAILING
    return HealthState.NEW if last_success is None else HealthState.HEALTHY


def _cause(collection: str, health: HealthState, state: str, error: str | None) -> str | None:
    if health is HealthState.FAILING and state not in (RunState.FAILED, RunState.INTERRUPTED):
        return _OVERDUE_CAUSE
    if health is HealthState.FAILING or state == RunState.RETRYING:
        return f"The last run was {state}." if error is None else problem_of(error, collection)
    return None


def _worst_health(workflows: tuple[WorkflowHealth, ...]) -> HealthState:
    states = {workflow.health for workflow in workflows if workflow.workflow in SCHEDULED_WORKFLOWS}
    if HealthState.HEALTHY in states:
        states.discard(HealthState.NEW)
    return next(state for state in HealthState if state in states)


def _describe_problem(workflows: tuple[WorkflowHealth, ...]) -> str | None:
    """Return one sentence for each failing workflow, None without any."""
    sentences = [
        f"{workflow.workflow}: {_failure_reason(workflow)}"
        for workflow in workflows
        if workflow.health is HealthState.FAILING and workflow.workflow in SCHEDULED_WORKFLOWS
    ]
    return " ".join(sentences) or None


def _failure_reason(workflow: WorkflowHealth) -> str:
    if workflow.state in (RunState.FAILED, RunState.INTERRUPTED):
        return workflow.cause or ""
    if workflow.last_success is None:
        return (
            "no run has succeeded since the collection was added: check that a worker and the scheduler "
            "are running."
        )
    return f"no run has succeeded since {workflow.last_success:%Y-%m-%d %H:%M} UTC."


def _count_by_collection(
    session: Session, collection_id: InstrumentedAttribute[int], *where: ColumnElement[bool]
) -> dict[int, int]:
    query = select(collection_id, func.count()).where(*where).group_by(collection_id)
    return dict(session.execute(query).all())
