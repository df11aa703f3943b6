"""The run ledger and the checkpoints: where every chain stands, and how far each workflow is complete."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import delete, func, select, union_all
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session, object_session

from accession.core.clock import utc_now
from accession.core.workflow import Workflow
from accession.db.models import (
    ACTIVE_STATES,
    BEGUN_STATES,
    Collection,
    LookedUpTitle,
    Retry,
    Run,
    RunState,
    RunTotals,
    Sample,
    Timestamp,
)

SERVICE_TYPE = "task"


SUPERSEDED = "Its lock had expired, and a newer run took over."


# How long a chain may be silent: its lock expires then, and its run counts as interrupted.
LEASE = timedelta(hours=2)


# A run is sampled at most so often, and ever less often: one of a minute and one of a day both draw a curve.
_SHORTEST_STEP = timedelta(seconds=1)


_STEPS_SO_FAR = 100


@dataclass(frozen=True)
class Counters:
    """What one page, or a run of pages, has met: records of the vendor, titles of the collection.

    A record is a purchase record, an event, or a title that was asked about; a page is a page of
    purchase records, a slice, or a batch. Each record fetched is either stored, which it may have been
    before, or rejected: the ledger takes no others.
    """

    records_fetched: int = 0
    records_stored: int = 0
    records_rejected: int = 0
    titles_new: int = 0
    titles_changed: int = 0
    repairs: int = 0
    """Documents that were well-formed XML only after a repair."""
    pages: int = 1


_COUNTED = tuple(field.name for field in fields(Counters))


def timestamp(session: Session, collection: Collection, workflow: Workflow) -> Timestamp:
    """The collection's checkpoint for `workflow`, made without a `finish` when there is none yet."""
    key = {"collection_id": collection.id, "service": workflow.service, "service_type": SERVICE_TYPE}
    query = select(Timestamp).filter_by(**key)
    if (found := session.scalars(query).one_or_none()) is not None:
        return found
    session.execute(insert(Timestamp).values(key).on_conflict_do_nothing())
    return session.scalars(query).one()


def find_run(session: Session, task_id: str) -> Run | None:
    """The run of the chain with this task id."""
    return session.scalars(select(Run).filter_by(task_id=task_id)).one_or_none()


def latest_run(session: Session, collection_id: int, workflow: Workflow) -> Run | None:
    """The collection's newest run of a workflow."""
    query = select(Run).filter_by(collection_id=collection_id, workflow=workflow.value)
    return session.scalars(query.order_by(Run.id.desc()).limit(1)).one_or_none()


def last_started(session: Session, workflow: Workflow) -> dict[int, datetime]:
    """When the newest run of the workflow was to begin, of each collection in use; when it was added, where
    there was none."""
    moment = select(Run.started_at).where(Run.collection_id == Collection.id, Run.workflow == workflow.value)
    newest = moment.order_by(Run.id.desc()).limit(1).scalar_subquery()
    query = (
        select(Collection.id, func.coalesce(newest, Collection.created_at))
        .where(Collection.marked_for_deletion_at.is_(None))
        .order_by(Collection.id)
    )
    return dict(session.execute(query).all())


def lock_run(session: Session, task_id: str) -> Run | None:
    """The run of the chain, once it has begun, locked until the transaction ends, as it is now."""
    query = select(Run).filter_by(task_id=task_id).where(Run.state != RunState.QUEUED).with_for_update()
    return session.scalars(query.execution_options(populate_existing=True)).one_or_none()


def queue_runs(
    session: Session, workflow: Workflow, task_ids: Mapping[int, str], arguments: Mapping[str, Any]
) -> None:
    """Note that a chain with these arguments is to begin for each collection, before its message is sent:
    a broker can lose that."""
    rows = [
        _new_run(collection_id, workflow, task_id, arguments, RunState.QUEUED)
        for collection_id, task_id in task_ids.items()
    ]
    if rows:
        session.execute(insert(Run).values(rows))


def forget_queued_run(session: Session, task_id: str) -> None:
    """A chain that may not begin leaves nothing in the ledger."""
    session.execute(delete(Run).where(Run.task_id == task_id, Run.state == RunState.QUEUED))


def open_run(
    session: Session, collection_id: int, workflow: Workflow, task_id: str, cursor: Mapping[str, Any]
) -> None:
    """Begin a chain's row, queued or not; a first message delivered twice begins one.

    Any other run of the same work that still counts as begun has lost its lock: it is marked
    interrupted, so that it stops should a message of it still turn up.
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
    begun = {name: statement.excluded[name] for name in ("state", "cursor", "started_at", "updated_at")}
    session.execute(
        statement.on_conflict_do_update(
            index_elements=["task_id"], set_=begun, where=Run.state == RunState.QUEUED
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


def record_page(
    run: Run, counters: Counters, *, since: datetime | None, next_cursor: Mapping[str, Any] | None
) -> None:
    """Count a step and move the cursor on; without a next cursor the run has succeeded."""
    run.pages += counters.pages
    run.records_fetched += counters.records_fetched
    run.records_stored += counters.records_stored
    run.records_rejected += counters.records_rejected
    run.titles_new += counters.titles_new
    run.titles_changed += counters.titles_changed
    run.repairs += counters.repairs
    run.since = run.since or since
    run.error = None
    if next_cursor is None:
        end_run(run, RunState.SUCCEEDED)
    else:
        run.state = RunState.RUNNING.value
        run.cursor = dict(next_cursor)
        run.updated_at = utc_now()
        if _is_sample_due(run, run.updated_at):
            _take_sample(run, run.updated_at)


def _is_sample_due(run: Run, now: datetime) -> bool:
    step = max(_SHORTEST_STEP, (now - run.started_at) / _STEPS_SO_FAR)
    return now - (run.sampled_at or run.started_at) >= step


def _take_sample(run: Run, at: datetime) -> None:
    if (session := object_session(run)) is not None:
        taken = {"pages": run.pages, "records_fetched": run.records_fetched}
        statement = insert(Sample).values(run_id=run.id, at=at, **taken)
        session.execute(statement.on_conflict_do_update(index_elements=["run_id", "at"], set_=taken))
        run.sampled_at = at


def note_retry(run: Run, reason: str, *, retry: int) -> None:
    """Show that the page at hand met a fault and will be tried again, for the `retry`th time (from 1)."""
    run.state, run.error, run.updated_at = RunState.RETRYING.value, reason, utc_now()
    if (session := object_session(run)) is not None:
        session.add(Retry(run_id=run.id, at=run.updated_at, retry=retry, reason=reason))


def end_run(run: Run, state: RunState, error: str | None = None) -> None:
    """Close the row: nothing of this chain will write any more. What it has counted joins the totals."""
    at_work, session = is_active(run), object_session(run)
    run.state, run.error = state.value, error
    run.finished_at = run.updated_at = utc_now()
    if run.sampled_at is not None:
        _take_sample(run, run.finished_at)
    if session is not None:
        session.execute(delete(LookedUpTitle).where(LookedUpTitle.run_id == run.id))
        if at_work:
            _add_to_totals(session, run)


def _add_to_totals(session: Session, run: Run) -> None:
    of_the_run = select(Run.workflow, *(getattr(Run, name) for name in _COUNTED)).where(Run.id == run.id)
    statement = insert(RunTotals).from_select(["workflow", *_COUNTED], of_the_run)
    added = {name: getattr(RunTotals, name) + statement.excluded[name] for name in _COUNTED}
    session.execute(statement.on_conflict_do_update(index_elements=["workflow"], set_=added))


def run_totals(session: Session) -> dict[Workflow, Counters]:
    """What all runs of each workflow have counted, those at work and those whose rows are gone included.

    It never becomes less, and takes as long however many runs there were.
    """
    ended = select(RunTotals.workflow, *(getattr(RunTotals, name) for name in _COUNTED))
    at_work = select(Run.workflow, *(getattr(Run, name) for name in _COUNTED))
    # In one statement: a run that ends meanwhile is in one of the two.
    both = union_all(ended, at_work.where(Run.state.in_(ACTIVE_STATES))).subquery()
    sums = select(both.c.workflow, *(func.sum(both.c[name]) for name in _COUNTED)).group_by(both.c.workflow)
    found = {
        workflow: Counters(**dict(zip(_COUNTED, map(int, counted), strict=True)))
        for workflow, *counted in session.execute(sums)
    }
    return {workflow: found.get(workflow.value, Counters(pages=0)) for workflow in Workflow}


def is_active(run: Run) -> bool:
    """Whether the chain still has work to do."""
    return run.state in ACTIVE_STATES


def active_runs(session: Session, *, silent_since: datetime | None = None) -> Sequence[Run]:
    """Every run that has not ended, oldest first; with `silent_since` those that have not moved since."""
    query = select(Run).where(Run.state.in_(ACTIVE_STATES))
    if silent_since is not None:
        query = query.where(Run.updated_at < silent_since)
    return session.scalars(query.order_by(Run.id)).all()
