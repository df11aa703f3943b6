"""TODO."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from datetime import datetime
from typing import Any

from sqlalchemy import (
    ARRAY,
    ColumnElement,
    Select,
    Text,
    func,
    literal,
    select,
    true,
)
from sqlalchemy.orm import Session

from accession.accounts.collections import collections_in_use, in_use
from accession.catalog.outbox import applies_pending
from accession.core.clock import utc_now
from accession.core.errors import NotFound
from accession.core.workflow import Workflow
from accession.db.models import ACTIVE_STATES, BEGUN_STATES, Collection, Run, RunState, Timestamp
from accession.runs.ledger import LEASE, SERVICE_TYPE

NEVER = "never"


# What of a link's arguments says where the run is; the rest is between one link and the next.
_CURSOR: Mapping[str, Sequence[str]] = {
    Workflow.PURCHASES: ("current_day", "offset"),
    Workflow.EVENTS: ("start",),
    Workflow.CIRCULATION: ("offset",),
}


@dataclass(frozen=True)
class StatusView:
    """Where one workflow stands for one collection: its checkpoint and its latest run."""

    collection: str
    workflow: str
    state: str = NEVER
    checkpoint: datetime | None = None
    cursor: Mapping[str, Any] | None = None
    pages: int = 0
    records_fetched: int = 0
    records_stored: int = 0
    records_rejected: int = 0
    titles_new: int = 0
    titles_changed: int = 0
    applies_pending: int = 0
    started_at: datetime | None = None
    finished_at: datetime | None = None
    error: str | None = None


@dataclass(frozen=True)
class RunView:
    """One run of the ledger. `cursor` is where it will go on, None once it has ended."""

    id: int
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
    started_at: datetime
    updated_at: datetime
    finished_at: datetime | None
    error: str | None


_OF_THE_RUN = {field.name for field in fields(StatusView)} & {field.name for field in fields(RunView)}


def status_views(session: Session) -> list[StatusView]:
    """Every workflow of every collection in use."""
    runs, finishes, pending = latest_runs(session), checkpoints(session), applies_pending(session)
    return [
        _status_view(
            collection,
            workflow,
            runs.get((collection.id, workflow.value)),
            finishes.get((collection.id, workflow.service)),
            pending.get(collection.id, 0),
        )
        for collection in collections_in_use(session)
        for workflow in Workflow
    ]


def checkpoints(session: Session) -> dict[tuple[int, str], datetime | None]:
    """Up to where each service is complete, by collection id and service."""
    query = select(Timestamp.collection_id, Timestamp.service, Timestamp.finish)
    rows = session.execute(query.where(Timestamp.service_type == SERVICE_TYPE))
    return {(collection_id, service): finish for collection_id, service, finish in rows}


def latest_runs(session: Session) -> dict[tuple[int, str], Run]:
    """The newest run of each collection and workflow; but one that waits to begin does not hide the one at
    work, for which it may be refused."""
    every = func.unnest(literal(list(Workflow), ARRAY(Text))).table_valued("workflow", name="every")
    every = every.render_derived()
    # One by one, each found by an index: the ledger keeps every run there ever was.
    mine = select(Run.id).where(Run.collection_id == Collection.id, Run.workflow == every.c.workflow)
    latest = mine.order_by(Run.id.desc()).limit(1).scalar_subquery()
    newest = select(latest).select_from(Collection).join(every, true())
    at_work = select(Run).where(Run.state.in_(BEGUN_STATES)).order_by(Run.id)
    runs = [*session.scalars(select(Run).where(Run.id.in_(newest))), *session.scalars(at_work)]
    return {(run.collection_id, run.workflow): run for run in runs}


def _status_view(
    collection: Collection,
    workflow: Workflow,
    run: Run | None,
    checkpoint: datetime | None,
    applies_pending: int,
) -> StatusView:
    unrun = StatusView(
        collection.name, workflow.value, checkpoint=checkpoint, applies_pending=applies_pending
    )
    if run is None:
        return unrun
    view = _run_view(run, collection.name)
    return replace(unrun, **{name: getattr(view, name) for name in _OF_THE_RUN})


def run_views(
    session: Session,
    *,
    collection: str | None = None,
    workflow: str | None = None,
    state: str | None = None,
    before_id: int | None = None,
    limit: int | None = None,
) -> list[RunView]:
    """The runs of collections in use, newest first; those before the run `before_id`, where that is given."""
    query = _runs().where(in_use(Run.collection_id, collection))
    if workflow is not None:
        query = query.where(Run.workflow == workflow)
    if state is not None:
        query = query.where(_is_shown_as(state))
    if before_id is not None:
        query = query.where(Run.id < before_id)
    rows = session.execute(query.order_by(Run.id.desc()).limit(limit))
    return [_run_view(run, name) for run, name in rows]


def shown_state(run: Run) -> str:
    """The run's state; one that has been silent for too long counts as interrupted."""
    silent = run.state in BEGUN_STATES and run.updated_at < utc_now() - LEASE
    return RunState.INTERRUPTED.value if silent else run.state


def run_view(session: Session, run_id: int) -> RunView:
    """One run; raises `NotFound` when there is none of that number in a collection in use."""
    query = _runs().where(in_use(Run.collection_id, None), Run.id == run_id)
    found = session.execute(query).one_or_none()
    if found is None:
        raise NotFound(f"There is no run {run_id}: see `accession runs list`.")
    run, name = found
    return _run_view(run, name)


def _runs() -> Select[Run, str]:
    return select(Run, Collection.name).join(Collection, Run.collection_id == Collection.id)


def _is_shown_as(state: str) -> ColumnElement[bool]:
    """That a run has the state that its view shows."""
    silent = Run.updated_at < utc_now() - LEASE
    if state in BEGUN_STATES:
        return (Run.state == state) & ~silent
    if state == RunState.INTERRUPTED:
        return (Run.state == state) | Run.state.in_(BEGUN_STATES) & silent
    return Run.state == state


def _run_view(run: Run, collection: str) -> RunView:
    active = run.state in ACTIVE_STATES
    return RunView(
        id=run.id,
        collection=collection,
        workflow=run.workflow,
        state=shown_state(run),
        cursor={name: run.cursor.get(name) for name in _CURSOR[run.workflow]} if active else None,
        pages=run.pages,
        records_fetched=run.records_fetched,
        records_stored=run.records_stored,
        records_rejected=run.records_rejected,
        titles_new=run.titles_new,
        titles_changed=run.titles_changed,
        repairs=run.repairs,
        started_at=run.started_at,
        updated_at=run.updated_at,
        finished_at=run.finished_at,
        error=run.error,
    )


def runs_at_work(session: Session) -> dict[Workflow, int]:
    """How many runs of each workflow have begun and not ended."""
    query = select(Run.workflow, func.count()).where(Run.state.in_(BEGUN_STATES)).group_by(Run.workflow)
    found = dict(session.execute(query).all())
    return {workflow: found.get(workflow.value, 0) for workflow in Workflow}
