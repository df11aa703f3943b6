"""How each collection stands, at a glance: what the dashboard's first page and the API show of it."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

from sqlalchemy import ARRAY, ColumnElement, Text, func, literal, select, true
from sqlalchemy.orm import InstrumentedAttribute, Session

from accession.accounts.collections import collections_in_use
from accession.catalog.outbox import applies_pending
from accession.catalog.purchase_counts import recent_purchases
from accession.core.clock import utc_now
from accession.core.workflow import Workflow
from accession.db.models import (
    ACTIVE_STATES,
    BEGUN_STATES,
    Collection,
    LicensePool,
    RejectedRecord,
    Run,
    RunState,
)
from accession.runs.progress import Progress, progress_of_each
from accession.runs.views import NEVER, checkpoints, latest_runs, shown_state

# Past its schedule's interval by as long as a run that is started late, and its retries, may take.
_LATE_AFTER: Mapping[Workflow, timedelta] = {
    Workflow.PURCHASES: timedelta(hours=26),
    Workflow.EVENTS: timedelta(hours=3),
    Workflow.CIRCULATION: timedelta(hours=26),
}


class Standing(StrEnum):
    """How a collection, or a workflow of it, stands; those that need a person come first."""

    TROUBLE = "trouble"
    """A run has failed or was interrupted, or none has succeeded for longer than the schedule allows."""
    WORKING = "working"
    """A run is at work, or waits for a worker."""
    NEW = "new"
    """It was added not long ago, and nothing has succeeded yet."""
    WELL = "well"


@dataclass(frozen=True)
class WorkflowOverview:
    """Where one workflow stands for a collection. `checkpoint` is up to where it is complete, `run_id` its
    latest run, `state` that run's, and `error` what that says. `progress` is of a run at work."""

    workflow: str
    standing: Standing
    state: str = NEVER
    run_id: int | None = None
    checkpoint: datetime | None = None
    last_success: datetime | None = None
    started_at: datetime | None = None
    error: str | None = None
    records_fetched: int = 0
    progress: Progress | None = None


@dataclass(frozen=True)
class CollectionOverview:
    """A collection at a glance. `purchases` are those of each of the last 24 months, oldest first;
    `rejected` the rejected records that nobody has resolved; `trouble` says what needs a person."""

    id: int
    name: str
    standing: Standing
    titles: int
    rejected: int
    applies_pending: int
    purchases: tuple[int, ...]
    workflows: tuple[WorkflowOverview, ...]
    trouble: str | None = None


@dataclass(frozen=True)
class Copies:
    """The copies of all titles of a collection, and the holds on them."""

    owned: int
    available: int
    reserved: int
    holds: int


def copies_of(session: Session, collection_id: int) -> Copies:
    """The collection's copies, summed."""
    counts = (
        LicensePool.licenses_owned,
        LicensePool.licenses_available,
        LicensePool.licenses_reserved,
        LicensePool.patrons_in_hold_queue,
    )
    sums = select(*(func.coalesce(func.sum(count), 0) for count in counts))
    row: Any = session.execute(sums.where(LicensePool.collection_id == collection_id)).one()
    return Copies(*row)


def collection_overviews(session: Session, collection_id: int | None = None) -> list[CollectionOverview]:
    """Every collection in use, or the one: those in trouble first, and then by name."""
    collections = [
        found for found in collections_in_use(session) if collection_id is None or found.id == collection_id
    ]
    workflows = _workflows(session, collections)
    titles = _counted(session, LicensePool.collection_id)
    rejected = _counted(session, RejectedRecord.collection_id, RejectedRecord.resolved_at.is_(None))
    pending, purchases = applies_pending(session), recent_purchases(session)
    views = [
        CollectionOverview(
            id=found.id,
            name=found.name,
            standing=_worst(workflows[found.id]),
            titles=titles.get(found.id, 0),
            rejected=rejected.get(found.id, 0),
            applies_pending=pending.get(found.id, 0),
            purchases=purchases[found.id],
            workflows=workflows[found.id],
            trouble=_trouble(workflows[found.id]),
        )
        for found in collections
    ]
    return sorted(views, key=lambda view: (view.standing is not Standing.TROUBLE, view.name.casefold()))


def _workflows(session: Session, collections: list[Collection]) -> dict[int, tuple[WorkflowOverview, ...]]:
    runs, successes, finishes = latest_runs(session), _last_successes(session), checkpoints(session)
    progress = progress_of_each(session, [run for run in runs.values() if run.state in BEGUN_STATES])

    def overview(collection: Collection, workflow: Workflow) -> WorkflowOverview:
        key = (collection.id, workflow.value)
        run, success = runs.get(key), successes.get(key)
        checkpoint = finishes.get((collection.id, workflow.service))
        if run is None:
            standing = _standing(workflow, NEVER, success, collection.created_at)
            return WorkflowOverview(workflow.value, standing, checkpoint=checkpoint)
        state = shown_state(run)
        return WorkflowOverview(
            workflow=workflow.value,
            standing=_standing(workflow, state, success, collection.created_at),
            state=state,
            run_id=run.id,
            checkpoint=checkpoint,
            last_success=success,
            started_at=run.started_at,
            error=run.error,
            records_fetched=run.records_fetched,
            progress=progress.get(run.id),
        )

    return {found.id: tuple(overview(found, workflow) for workflow in Workflow) for found in collections}


def _last_successes(session: Session) -> dict[tuple[int, str], datetime]:
    """When the last run that succeeded ended, of each collection and workflow where one did."""
    every = func.unnest(literal(list(Workflow), ARRAY(Text))).table_valued("workflow", name="every")
    every = every.render_derived()
    # One by one, each found by an index: the ledger keeps every run there ever was.
    last = (
        select(Run.finished_at)
        .where(Run.collection_id == Collection.id, Run.workflow == every.c.workflow)
        .where(Run.state == RunState.SUCCEEDED)
        .order_by(Run.id.desc())
        .limit(1)
        .scalar_subquery()
    )
    query = select(Collection.id, every.c.workflow, last).select_from(Collection).join(every, true())
    rows = session.execute(query)
    return {(collection_id, workflow): at for collection_id, workflow, at in rows if at is not None}


def _standing(workflow: Workflow, state: str, success: datetime | None, added: datetime) -> Standing:
    if state in (RunState.FAILED, RunState.INTERRUPTED):
        return Standing.TROUBLE
    if state in ACTIVE_STATES:
        return Standing.WORKING
    if utc_now() - (success or added) > _LATE_AFTER[workflow]:
        return Standing.TROUBLE
    return Standing.NEW if success is None else Standing.WELL


def _worst(workflows: tuple[WorkflowOverview, ...]) -> Standing:
    standings = {workflow.standing for workflow in workflows}
    if Standing.WELL in standings:
        standings.discard(Standing.NEW)
    return next(standing for standing in Standing if standing in standings)


def _trouble(workflows: tuple[WorkflowOverview, ...]) -> str | None:
    """What needs a person, as one sentence for each workflow concerned."""
    words = [
        f"{workflow.workflow}: {_why(workflow)}"
        for workflow in workflows
        if workflow.standing is Standing.TROUBLE
    ]
    return " ".join(words) or None


def _why(workflow: WorkflowOverview) -> str:
    if workflow.state in (RunState.FAILED, RunState.INTERRUPTED):
        return workflow.error or f"the last run was {workflow.state}."
    if workflow.last_success is None:
        return "no run has succeeded since the collection was added; see that worker and schedule run."
    return f"no run has succeeded since {workflow.last_success:%Y-%m-%d %H:%M} UTC."


def _counted(
    session: Session, collection_id: InstrumentedAttribute[int], *where: ColumnElement[bool]
) -> dict[int, int]:
    query = select(collection_id, func.count()).where(*where).group_by(collection_id)
    return dict(session.execute(query).all())
