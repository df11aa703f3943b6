"""Find workflow locks without a run, and runs without their lock."""

from dataclasses import dataclass
from datetime import datetime

from accession.core.workflow import Workflow
from accession.db.engine import transaction
from accession.db.models import BEGUN_STATES
from accession.runs.ledger import active_runs
from accession.tasks.app import app
from accession.tasks.lock import TaskLock
from accession.tasks.recovery import stalled_since
from accession.tasks.workflows import STEP_TASKS

# A run acquires its lock shortly before it is opened, and releases it shortly after it has ended.
_GRACE_SECONDS = 60


@dataclass(frozen=True)
class OrphanedLock:
    """A workflow lock that no active run holds; until it expires no run can start."""

    workflow: Workflow
    collection_id: int
    lock: TaskLock


@dataclass(frozen=True)
class RunWithoutLock:
    """A stalled run whose lock has expired or is held by another run; `updated_at` is in UTC."""

    workflow: Workflow
    collection_id: int
    task_id: str
    updated_at: datetime


def find_orphaned_locks() -> list[OrphanedLock]:
    """Return the workflow locks whose holder is no active run of that workflow and collection."""
    locks = [
        OrphanedLock(workflow, int(number), lock)
        for workflow, task in STEP_TASKS.items()
        for name in sorted(app.backend.client.scan_iter(f"{task.lock_key}:*"))
        if (number := name.decode().rpartition(":")[2]).isdigit()
        and (lock := _with_current_holder(task.lock_for(int(number), ""))) is not None
        and lock.seconds_since_extended() > _GRACE_SECONDS
    ]
    with transaction() as session:
        active = {(run.workflow, run.collection_id, run.task_id) for run in active_runs(session)}
    return [
        orphan
        for orphan in locks
        if (orphan.workflow.value, orphan.collection_id, orphan.lock.holder) not in active
    ]


def _with_current_holder(lock: TaskLock) -> TaskLock | None:
    holder = lock.current_holder()
    return None if holder is None else TaskLock(lock.name, holder, lock.seconds)


def find_runs_without_lock() -> list[RunWithoutLock]:
    """Return the stalled runs that do not hold their lock.

    A queued run has no lock yet, and a run that moves acquires it again with its next step.
    """
    with transaction() as session:
        stalled = [
            RunWithoutLock(Workflow(run.workflow), run.collection_id, run.task_id, run.updated_at)
            for run in active_runs(session, stalled_since=stalled_since())
            if run.state in BEGUN_STATES
        ]
    return [
        run
        for run in stalled
        if STEP_TASKS[run.workflow].lock_for(run.collection_id, run.task_id).current_holder() != run.task_id
    ]
