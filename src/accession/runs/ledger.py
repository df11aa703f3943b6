"""Run ledger and checkpoints: the state of every run, and how far each workflow is complete."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import and_, bindparam, delete, exists, func, select, union_all, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session, object_session
from sqlalchemy.orm.attributes import set_committed_value

from accession.core.clock import utc_now
from accession.core.workflow import Workflow
from accession.db.models import (
    ACTIVE_STATES,
    BEGUN_STATES,
    Collection,
    ListedRecord,
    Run,
    RunRetry,
    RunSample,
    RunState,
    RunTitle,
    RunTotals,
    Timestamp,
    table_of,
)
from accession.runs.run_days import add_to_run_days
from accession.runs.run_events import store_run_event

SERVICE_TYPE = "task"

SUPERSEDED = "Its lock expired and a newer run replaced it."

# Longest time between two steps: then the lock expires, and the run counts as interrupted.
LEASE = timedelta(hours=2)

# The interval between samples grows with the run's age, so that a run of any length has a few hundred.
_MIN_SAMPLE_INTERVAL = timedelta(seconds=1)
_SAMPLES_PER_RUN_TIME = 100


@dataclass(frozen=True)
class RunCounters:
    """Counters of a step, or of several.

    A record is a purchase record, an event, or a requested title; a page is a page of purchase records, a
    slice of events, or a batch of titles. Every fetched record is either stored (now or before) or rejected;
    the database enforces it.
    """

    records_fetched: int = 0
    records_stored: int = 0
    records_rejected: int = 0
    titles_new: int = 0
    titles_changed: int = 0
    repairs: int = 0
    """Documents that were well-formed XML only after a repair."""
    pages: int = 1
    restarts: int = 0
    """Times that an import went back, because the vendor's pages contradicted each other."""


_COUNTER_NAMES = tuple(field.name for field in fields(RunCounters))


# Built once: each step of a run executes it.
_CHECKPOINT = (
    select(Timestamp)
    .filter_by(**{name: bindparam(name) for name in ("collection_id", "service", "service_type")})
    # `advance_checkpoint` changes the row without the session's knowledge.
    .execution_options(populate_existing=True)
)


def checkpoint_key(collection_id: int, workflow: Workflow) -> dict[str, Any]:
    """Return the columns that identify the collection's checkpoint for `workflow`."""
    return {"collection_id": collection_id, "service": workflow.service, "service_type": SERVICE_TYPE}


def get_or_create_checkpoint(session: Session, collection: Collection, workflow: Workflow) -> Timestamp:
    """Return the collection's checkpoint for `workflow`; a new one has neither `finish` nor `counter`."""
    key = checkpoint_key(collection.id, workflow)
    if (checkpoint := session.scalars(_CHECKPOINT, key).one_or_none()) is not None:
        return checkpoint
    session.execute(insert(Timestamp).values(key).on_conflict_do_nothing())
    return session.scalars(_CHECKPOINT, key).one()


def find_checkpoint_time(session: Session, collection: Collection, workflow: Workflow) -> datetime | None:
    """Return the time (UTC) up to which everything has been requested; None before the first step."""
    key = checkpoint_key(collection.id, workflow)
    return session.scalar(select(Timestamp.finish).filter_by(**key))


def find_confirmed_time(session: Session, collection: Collection, workflow: Workflow) -> datetime | None:
    """Return the time (UTC) up to which everything is known to be imported; None before the first step."""
    key = checkpoint_key(collection.id, workflow)
    query = select(func.coalesce(Timestamp.confirmed, Timestamp.finish)).filter_by(**key)
    return session.scalar(query)


def find_run(session: Session, task_id: str) -> Run | None:
    """Return the run with this task id."""
    return session.scalars(select(Run).filter_by(task_id=task_id)).one_or_none()


def find_latest_run(session: Session, collection_id: int, workflow: Workflow) -> Run | None:
    """Return the collection's newest run of a workflow."""
    query = select(Run).filter_by(collection_id=collection_id, workflow=workflow.value)
    return session.scalars(query.order_by(Run.id.desc()).limit(1)).one_or_none()


# Built once: each step of a run executes it.
_LOCKED_RUN = (
    select(Run)
    .where(Run.task_id == bindparam("task_id"), Run.state != RunState.QUEUED)
    # The row keeps its key, so that others may refer to it meanwhile: workers store details of the run.
    .with_for_update(key_share=True)
    .execution_options(populate_existing=True)
)


def lock_run(session: Session, task_id: str) -> Run | None:
    """Lock a begun run until the transaction ends, and return its present state; None if there is none."""
    return session.scalars(_LOCKED_RUN, {"task_id": task_id}).one_or_none()


_RUN_AND_COLLECTION = (
    select(Run, Collection)
    .join(Collection, Collection.id == Run.collection_id)
    .where(Run.task_id == bindparam("task_id"), Run.state != RunState.QUEUED)
    .execution_options(populate_existing=True)
)


def find_run_and_collection(session: Session, task_id: str) -> tuple[Run, Collection] | None:
    """Return a begun run and its collection; None if there is no such run."""
    row = session.execute(_RUN_AND_COLLECTION, {"task_id": task_id}).one_or_none()
    return None if row is None else (row[0], row[1])


# Tables instead of classes, and all columns in one statement: each step of a run executes these statements,
# and the session's own take twice the CPU time.
_RUN_TABLE = table_of(Run)
_RUN_COLUMNS = [column for column in _RUN_TABLE.columns if not column.primary_key]
_COLLECTION_TABLE = table_of(Collection)
_IS_THE_RUN = _RUN_TABLE.c.id == bindparam("run_id")
_IS_UNCHANGED = and_(
    _IS_THE_RUN,
    # A step changes both. To compare cursors would cost more: that of a search has thousands of characters.
    _RUN_TABLE.c.updated_at == bindparam("updated_at_as_read"),
    _RUN_TABLE.c.pages == bindparam("pages_as_read"),
    exists().where(
        _COLLECTION_TABLE.c.id == _RUN_TABLE.c.collection_id,
        _COLLECTION_TABLE.c.marked_for_deletion_at.is_(None),
    ),
)
_LOCKED_UNCHANGED_RUN = select(_RUN_TABLE.c.id).where(_IS_UNCHANGED).with_for_update(key_share=True)
_SAVE = (
    update(_RUN_TABLE)
    # Not the names of columns: SQLAlchemy would also set those of other tables within the statement.
    .values({column.name: bindparam(f"new_run_{column.name}", type_=column.type) for column in _RUN_COLUMNS})
)
_SAVED_RUN = _SAVE.where(_IS_THE_RUN)
SAVED_UNCHANGED_RUN = _SAVE.where(_IS_UNCHANGED).returning(_RUN_TABLE.c.id)
"""Saves a run that is as it was when it was read; has the parameters `parameters_as_read`, `take_changes`."""


def lock_unchanged_run(session: Session, run: Run) -> bool:
    """Lock the run until the transaction ends; return False if it is not as it was when it was read.

    It has changed if it has been written since, or if its collection has been marked for deletion. If another
    transaction had locked the run, the collection is as it was before the wait for that.
    """
    return session.connection().scalar(_LOCKED_UNCHANGED_RUN, parameters_as_read(run)) is not None


def parameters_as_read(run: Run) -> dict[str, Any]:
    """Return the parameters by which a statement recognises that the run has not been written since."""
    return {"run_id": run.id, "updated_at_as_read": run.updated_at, "pages_as_read": run.pages}


def queue_runs(
    session: Session, workflow: Workflow, task_ids: Mapping[int, str], arguments: Mapping[str, Any]
) -> None:
    """Record a queued run with these arguments for each collection (task ids by collection id).

    Call it before sending the messages, which the broker can lose.
    """
    rows = [
        _new_run(collection_id, workflow, task_id, arguments, RunState.QUEUED)
        for collection_id, task_id in task_ids.items()
    ]
    if rows:
        session.execute(insert(Run).values(rows))


def delete_queued_run(session: Session, task_id: str) -> None:
    """Delete a run that is still queued, because it may not begin."""
    session.execute(delete(Run).where(Run.task_id == task_id, Run.state == RunState.QUEUED))


def open_run(
    session: Session, collection_id: int, workflow: Workflow, task_id: str, cursor: Mapping[str, Any]
) -> None:
    """Set a queued run to running, or add a running one. A redelivered first message changes nothing.

    Other begun runs of the same workflow and collection have lost their lock: they are marked as interrupted,
    so that they stop if another message of theirs arrives.
    """
    others = select(Run).where(
        Run.collection_id == collection_id,
        Run.workflow == workflow.value,
        Run.state.in_(BEGUN_STATES),
        Run.task_id != task_id,
    )
    for other in session.scalars(others.with_for_update()):
        end_run(other, RunState.INTERRUPTED, SUPERSEDED)
    row = _new_run(collection_id, workflow, task_id, cursor, RunState.RUNNING)
    statement = insert(Run).values(row)
    new_values = {name: statement.excluded[name] for name in ("state", "cursor", "started_at", "updated_at")}
    session.execute(
        statement.on_conflict_do_update(
            index_elements=["task_id"], set_=new_values, where=Run.state == RunState.QUEUED
        )
    )


def _new_run(
    collection_id: int, workflow: Workflow, task_id: str, cursor: Mapping[str, Any], state: RunState
) -> dict[str, Any]:
    now = utc_now()
    return {
        "collection_id": collection_id,
        "workflow": workflow.value,
        "task_id": task_id,
        "state": state.value,
        "cursor": dict(cursor),
        "started_at": now,
        "updated_at": now,
    }


def record_step(
    run: Run, counters: RunCounters, *, since: datetime | None, next_cursor: Mapping[str, Any] | None
) -> None:
    """Add the counters of a step and move the cursor; without a next cursor the run has succeeded."""
    add_counters(run, counters, since)
    if next_cursor is None:
        end_run(run, RunState.SUCCEEDED)
    else:
        move_cursor(run, next_cursor)
        if is_sample_due(run, run.updated_at):
            _store_sample(run, run.updated_at)
        _save(run)


def add_counters(run: Run, counters: RunCounters, since: datetime | None) -> None:
    """Add the counters of a step to the run, which has no error any more; nothing is sent."""
    run.pages += counters.pages
    run.records_fetched += counters.records_fetched
    run.records_stored += counters.records_stored
    run.records_rejected += counters.records_rejected
    run.titles_new += counters.titles_new
    run.titles_changed += counters.titles_changed
    run.repairs += counters.repairs
    run.restarts += counters.restarts
    run.since = run.since or since
    run.error = None


def move_cursor(run: Run, next_cursor: Mapping[str, Any]) -> None:
    """Move the run's cursor to its next step; nothing is sent."""
    run.state = RunState.RUNNING.value
    run.cursor = dict(next_cursor)
    run.updated_at = utc_now()


def _save(run: Run) -> None:
    """Write the run's row."""
    if (session := object_session(run)) is not None:
        session.connection().execute(_SAVED_RUN, {"run_id": run.id, **take_changes(run)})


def take_changes(run: Run) -> dict[str, Any]:
    """Return the parameters of a statement that saves the run; its session then has nothing to write."""
    values = {column.name: getattr(run, column.name) for column in _RUN_COLUMNS}
    for name, value in values.items():
        set_committed_value(run, name, value)
    return {f"new_run_{name}": value for name, value in values.items()}


def is_sample_due(run: Run, now: datetime) -> bool:
    """Return whether a sample of the run's counters has to be stored with a step at this time (UTC)."""
    interval = max(_MIN_SAMPLE_INTERVAL, (now - run.started_at) / _SAMPLES_PER_RUN_TIME)
    return now - (run.sampled_at or run.started_at) >= interval


def _store_sample(run: Run, at: datetime) -> None:
    if (session := object_session(run)) is not None:
        sample = {"pages": run.pages, "records_fetched": run.records_fetched}
        statement = insert(RunSample).values(run_id=run.id, at=at, **sample)
        # Not by the session, which would first write the run: its row is written at the end.
        session.connection().execute(
            statement.on_conflict_do_update(index_elements=["run_id", "at"], set_=sample)
        )
        run.sampled_at = at


def record_retry(run: Run, reason: str, *, retry: int) -> None:
    """Record that a step failed for this reason and will be retried for the `retry`-th time (from 1)."""
    run.state, run.error, run.updated_at = RunState.RETRYING.value, reason, utc_now()
    if (session := object_session(run)) is not None:
        session.add(RunRetry(run_id=run.id, at=run.updated_at, retry=retry, reason=reason))


def end_run(run: Run, state: RunState, error: str | None = None) -> None:
    """End the run in this state, and add its counters to the totals, also to those of the day."""
    was_active, session = is_active(run), object_session(run)
    run.state, run.error = state.value, error
    run.finished_at = run.updated_at = utc_now()
    if run.sampled_at is not None:
        _store_sample(run, run.finished_at)
    if session is not None:
        session.execute(delete(RunTitle).where(RunTitle.run_id == run.id, ~RunTitle.is_pending))
        session.execute(delete(ListedRecord).where(ListedRecord.run_id == run.id))
        if was_active:
            _add_to_totals(session, run)
            add_to_run_days(session, run)
            store_run_event(session, run)


def _add_to_totals(session: Session, run: Run) -> None:
    counters = select(Run.workflow, *(getattr(Run, name) for name in _COUNTER_NAMES)).where(Run.id == run.id)
    statement = insert(RunTotals).from_select(["workflow", *_COUNTER_NAMES], counters)
    sums = {name: getattr(RunTotals, name) + statement.excluded[name] for name in _COUNTER_NAMES}
    session.execute(statement.on_conflict_do_update(index_elements=["workflow"], set_=sums))


def sum_run_counters(session: Session) -> dict[Workflow, RunCounters]:
    """Return the counters of each workflow, summed over all runs that ever were.

    The sums never decrease, and include active runs and runs whose rows were deleted.
    """
    ended = select(RunTotals.workflow, *(getattr(RunTotals, name) for name in _COUNTER_NAMES))
    active = select(Run.workflow, *(getattr(Run, name) for name in _COUNTER_NAMES))
    # One statement, so that a run that ends meanwhile is counted exactly once.
    both = union_all(ended, active.where(Run.state.in_(ACTIVE_STATES))).subquery()
    sums = select(both.c.workflow, *(func.sum(both.c[name]) for name in _COUNTER_NAMES)).group_by(
        both.c.workflow
    )
    totals = {
        workflow: RunCounters(**dict(zip(_COUNTER_NAMES, map(int, values), strict=True)))
        for workflow, *values in session.execute(sums)
    }
    return {workflow: totals.get(workflow.value, RunCounters(pages=0)) for workflow in Workflow}


def lock_active_runs(
    session: Session, collection_ids: Iterable[int], workflows: Iterable[Workflow]
) -> Sequence[Run]:
    """Lock the active runs of these collections and workflows until the transaction ends, and return them.

    A step that is being stored is awaited.
    """
    query = select(Run).where(Run.state.in_(ACTIVE_STATES))
    query = query.where(Run.collection_id.in_(collection_ids), Run.workflow.in_(workflows))
    # In one order, so that no two transactions wait for each other.
    query = query.order_by(Run.id).with_for_update().execution_options(populate_existing=True)
    return session.scalars(query).all()


def find_latest_retry(session: Session, run: Run) -> int:
    """Return the number of the run's latest retry (from 1); 0 without any."""
    query = select(RunRetry.retry).filter_by(run_id=run.id).order_by(RunRetry.id.desc()).limit(1)
    return session.scalar(query) or 0


def is_active(run: Run) -> bool:
    """Return whether the run has not ended."""
    return run.state in ACTIVE_STATES


def active_runs(session: Session, *, stalled_since: datetime | None = None) -> Sequence[Run]:
    """Return the active runs, oldest first; with `stalled_since` those without a step since then."""
    query = select(Run).where(Run.state.in_(ACTIVE_STATES))
    if stalled_since is not None:
        query = query.where(Run.updated_at < stalled_since)
    return session.scalars(query.order_by(Run.id)).all()
