"""Finding locks and runs that have lost each other."""

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import select

from accession.core.workflow import Workflow
from accession.db.engine import transaction
from accession.db.models import ACTIVE_STATES, BEGUN_STATES, Run
from accession.runs.ledger import active_runs
from accession.tasks.app import app
from accession.tasks.lock import TaskLock
from accession.tasks.recovery import silent_since
from accession.tasks.workflows import CHAINS

# A chain takes its lock a moment before its run begins, and gives it back a moment after that has ended.
_MOMENT_SECONDS = 60


@dataclass(frozen=True)
class StrayLock:
    """A workflow's lock that no run at work holds: until it expires nobody else can begin."""

    workflow: Workflow
    collection_id: int
    lock: TaskLock


@dataclass(frozen=True)
class LocklessRun:
    """A run that has begun and been silent, and whose lock is gone or another's."""

    workflow: Workflow
    collection_id: int
    task_id: str
    silent_since: datetime


def stray_locks() -> list[StrayLock]:
    """The workflow locks whose holder is not the task of a run at work of that workflow and collection."""
    held = [
        StrayLock(workflow, int(number), lock)
        for workflow, chain in CHAINS.items()
        for name in sorted(app.backend.client.scan_iter(f"{chain.kind.lock_key}:*"))
        if (number := name.decode().rpartition(":")[2]).isdigit()
        and (lock := _as_it_is_held(chain.kind.lock(int(number), ""))) is not None
        and lock.untouched_seconds() > _MOMENT_SECONDS
    ]
    query = select(Run.workflow, Run.collection_id, Run.task_id).where(Run.state.in_(ACTIVE_STATES))
    with transaction() as session:
        at_work = {tuple(row) for row in session.execute(query)}
    return [
        found
        for found in held
        if (found.workflow.value, found.collection_id, found.lock.holder) not in at_work
    ]


def _as_it_is_held(lock: TaskLock) -> TaskLock | None:
    holder = lock.taken_by()
    return None if holder is None else TaskLock(lock.name, holder, lock.seconds)


def lockless_runs() -> list[LocklessRun]:
    """The begun runs that have been silent for longer than any page or retry may take, without their lock.

    One that waits to begin has no lock yet, and one that moves takes it again with its next page.
    """
    with transaction() as session:
        silent = [
            LocklessRun(Workflow(run.workflow), run.collection_id, run.task_id, run.updated_at)
            for run in active_runs(session, silent_since=silent_since())
            if run.state in BEGUN_STATES
        ]
    return [
        run
        for run in silent
        if CHAINS[run.workflow].kind.lock(run.collection_id, run.task_id).taken_by() != run.task_id
    ]
