"""Runs and workflow status as they are listed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from datetime import date, datetime
from typing import Any

from sqlalchemy import ARRAY, ColumnElement, Select, Text, func, literal, select, true
from sqlalchemy.orm import Session, aliased

from accession.accounts.collections import is_of_collection, list_collections
from accession.catalog.outbox import count_pending_changes_by_collection
from accession.core.clock import utc_now
from accession.core.errors import NotFound
from accession.core.workflow import SCHEDULED_WORKFLOWS, Workflow
from accession.db.models import ACTIVE_STATES, BEGUN_STATES, Collection, Run, RunState, Timestamp
from accession.runs.ledger import LEASE, SERVICE_TYPE
from accession.runs.pauses import PauseView, list_pauses
from accession.runs.schedules import find_next_starts

# State of a workflow that has no run.
NEVER = "never"

# The arguments of a step that show its position; the others are internal.
_CURSOR_FIELDS: Mapping[str, Sequence[str]] = {
    Workflow.PURCHASES: ("current_day", "offset"),
    Workflow.EVENTS: ("start",),
    Workflow.CIRCULATION: ("offset",),
    Workflow.VERIFICATION: ("start", "end"),
    Workflow.BACKFILL: ("current_day", "offset"),
}


@dataclass(frozen=True)
class CheckpointView:
    """A checkpoint; see `StatusView`."""

    complete_until: datetime | None
    unconfirmed_since: datetime | None


NO_CHECKPOINT = CheckpointView(None, None)


@dataclass(frozen=True)
class StatusView:
    """Status of one workflow of one collection: its checkpoint and its latest run.

    `checkpoint` is the time (UTC) up to which the workflow is complete. `unconfirmed_since` is the same time
    if later requests were made whose responses prove nothing, else None. `pause` is None unless the workflow
    is paused. `next_start` is when the next scheduled run starts, a time in the past if it is due, and None
    for a workflow without a schedule.
    """

    collection: str
    workflow: str
    state: str = NEVER
    checkpoint: datetime | None = None
    unconfirmed_since: datetime | None = None
    cursor: Mapping[str, Any] | None = None
    pages: int = 0
    records_fetched: int = 0
    records_stored: int = 0
    records_rejected: int = 0
    titles_new: int = 0
    titles_changed: int = 0
    pending_updates: int = 0
    pause: PauseView | None = None
    next_start: datetime | None = None
    started_at: datetime | None = None
    finished_at: datetime | None = None
    error: str | None = None


@dataclass(frozen=True)
class RunView:
    """A run of the ledger.

    `cursor` is the position of its next step, None when it has ended. `worker` is the name of the worker that
    processed the latest step. `first_day` and `last_day` are those of a backfill, else None.
    """

    id: int
    collection_id: int
    collection: str
    workflow: str
    state: str
    cursor: Mapping[str, Any] | None
    pages: int
    records_fetched: int
    records_stored: int
    records_rejected: int
    titles_new: int
    titles_changed: int
    repairs: int
    restarts: int
    started_at: datetime
    updated_at: datetime
    finished_at: datetime | None
    error: str | None
    worker: str | None
    first_day: date | None = None
    last_day: date | None = None


_SHARED_FIELDS = {field.name for field in fields(StatusView)} & {field.name for field in fields(RunView)}


def status_views(session: Session) -> list[StatusView]:
    """Return the status of every workflow of every collection that is not marked for deletion.

    A workflow without a schedule is left out for collections that have no run of it.
    """
    runs, checkpoints, pending, pauses, next_starts = (
        find_latest_runs(session),
        list_checkpoints(session),
        count_pending_changes_by_collection(session),
        list_pauses(session),
        find_next_starts(session),
    )
    return [
        replace(
            _status_view(
                collection,
                workflow,
                runs.get((collection.id, workflow.value)),
                checkpoints.get((collection.id, workflow.service), NO_CHECKPOINT),
            ),
            pending_updates=pending.get(collection.id, 0),
            pause=pauses.get((collection.id, workflow.value)),
            next_start=next_starts.get((collection.id, workflow.value)),
        )
        for collection in list_collections(session)
        for workflow in Workflow
        if workflow in SCHEDULED_WORKFLOWS or (collection.id, workflow.value) in runs
    ]


def list_checkpoints(session: Session) -> dict[tuple[int, str], CheckpointView]:
    """Return the checkpoints by collection id and service."""
    query = select(Timestamp.collection_id, Timestamp.service, Timestamp.finish, Timestamp.confirmed)
    rows = session.execute(query.where(Timestamp.service_type == SERVICE_TYPE))
    return {
        (collection_id, service): _checkpoint_view(finish, confirmed)
        for collection_id, service, finish, confirmed in rows
    }


def _checkpoint_view(finish: datetime | None, confirmed: datetime | None) -> CheckpointView:
    if finish is None or confirmed is None or confirmed >= finish:
        return CheckpointView(finish, None)
    return CheckpointView(confirmed, confirmed)


def find_latest_runs(session: Session) -> dict[tuple[int, str], Run]:
    """Return the latest run by collection id and workflow.

    A begun run takes precedence over a newer queued one, which may be refused because of it.
    """
    workflows = func.unnest(literal(list(Workflow), ARRAY(Text))).table_valued("workflow", name="workflows")
    workflows = workflows.render_derived()
    # One index lookup for each pair, because the ledger is long. A list of ids would be joined to all of it.
    runs_of_pair = select(Run).where(Run.collection_id == Collection.id, Run.workflow == workflows.c.workflow)
    latest = runs_of_pair.order_by(Run.id.desc()).limit(1).lateral("latest")
    newest = select(aliased(Run, latest)).select_from(Collection).join(workflows, true()).join(latest, true())
    begun = select(Run).where(Run.state.in_(BEGUN_STATES)).order_by(Run.id)
    runs = [*session.scalars(newest), *session.scalars(begun)]
    return {(run.collection_id, run.workflow): run for run in runs}


def _status_view(
    collection: Collection,
    workflow: Workflow,
    run: Run | None,
    checkpoint: CheckpointView,
) -> StatusView:
    without_run = StatusView(
        collection.name,
        workflow.value,
        checkpoint=checkpoint.complete_until,
        unconfirmed_since=checkpoint.unconfirmed_since,
    )
    if run is None:
        return without_run
    view = _run_view(run, collection.name)
    return replace(without_run, **{name: getattr(view, name) for name in _SHARED_FIELDS})


def run_views(
    session: Session,
    *,
    collection: str | None = None,
    workflow: str | None = None,
    state: str | None = None,
    ended_since: datetime | None = None,
    ended_before: datetime | None = None,
    before_id: int | None = None,
    limit: int | None = None,
) -> list[RunView]:
    """Return the matching runs, newest first; `before_id` continues an earlier listing."""
    query = _runs().where(is_of_collection(Run.collection_id, collection))
    if workflow is not None:
        query = query.where(Run.workflow == workflow)
    if state is not None:
        query = query.where(_has_displayed_state(state))
    if ended_since is not None:
        query = query.where(Run.finished_at >= ended_since)
    if ended_before is not None:
        query = query.where(Run.finished_at < ended_before)
    if before_id is not None:
        query = query.where(Run.id < before_id)
    rows = session.execute(query.order_by(Run.id.desc()).limit(limit))
    return [_run_view(run, name) for run, name in rows]


def displayed_state(run: Run) -> str:
    """Return the run's state; a run without a step for too long (`LEASE`) counts as interrupted."""
    is_stalled = run.state in BEGUN_STATES and run.updated_at < utc_now() - LEASE
    return RunState.INTERRUPTED.value if is_stalled else run.state


def run_view(session: Session, run_id: int) -> RunView:
    """Return one run.

    Raises:
        NotFound: there is none with this id, or its collection is marked for deletion.
    """
    query = _runs().where(is_of_collection(Run.collection_id, None), Run.id == run_id)
    row = session.execute(query).one_or_none()
    if row is None:
        raise NotFound(
            f"There is no run {run_id}, or it was deleted because of its age: see `accession runs list`."
        )
    run, name = row
    return _run_view(run, name)


def _runs() -> Select[Run, str]:
    return select(Run, Collection.name).join(Collection, Run.collection_id == Collection.id)


def _has_displayed_state(state: str) -> ColumnElement[bool]:
    """Return the condition that `displayed_state` of a run is `state`."""
    is_stalled = Run.updated_at < utc_now() - LEASE
    if state in BEGUN_STATES:
        return (Run.state == state) & ~is_stalled
    if state == RunState.INTERRUPTED:
        return (Run.state == state) | Run.state.in_(BEGUN_STATES) & is_stalled
    return Run.state == state


def _run_view(run: Run, collection: str) -> RunView:
    active = run.state in ACTIVE_STATES
    return RunView(
        id=run.id,
        collection_id=run.collection_id,
        collection=collection,
        workflow=run.workflow,
        state=displayed_state(run),
        cursor={name: run.cursor.get(name) for name in _CURSOR_FIELDS[run.workflow]} if active else None,
        pages=run.pages,
        records_fetched=run.records_fetched,
        records_stored=run.records_stored,
        records_rejected=run.records_rejected,
        titles_new=run.titles_new,
        titles_changed=run.titles_changed,
        repairs=run.repairs,
        restarts=run.restarts,
        started_at=run.started_at,
        updated_at=run.updated_at,
        finished_at=run.finished_at,
        error=run.error,
        worker=run.worker,
        **{
            name: date.fromisoformat(run.cursor[name])
            for name in ("first_day", "last_day")
            if run.workflow == Workflow.BACKFILL
        },
    )


def count_running_runs(session: Session) -> dict[Workflow, int]:
    """Return the number of runs in progress of each workflow."""
    query = select(Run.workflow, func.count()).where(Run.state.in_(BEGUN_STATES)).group_by(Run.workflow)
    counts = dict(session.execute(query).all())
    return {workflow: counts.get(workflow.value, 0) for workflow in Workflow}
