"""Control of workflows by a person: run now, retry now, cancel, pause and resume, for any collections.

Command line, API and dashboard call these functions. Each takes ids of collections and workflows, does what
is possible, and reports what it has left out and why.

A run is cancelled at once: its row is locked, which waits for a step that is being stored, and its state
becomes `cancelled`. A step that is still waiting for the vendor finds that before it writes, and stores
nothing (`accession.tasks.steps`). So no step is stored in part, and the next run continues at the checkpoint.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from typing import Any
from uuid import uuid4

import structlog
from sqlalchemy.orm import Session

from accession.accounts.collections import get_collection, list_collections
from accession.auth.audit import Actor, AuditAction, record, record_run_start
from accession.core.clock import utc_now
from accession.core.errors import UserError
from accession.core.workflow import SCHEDULED_WORKFLOWS, Workflow
from accession.db.engine import transaction
from accession.db.models import ACTIVE_STATES, Run, RunState
from accession.runs.diagnostics import has_active_run
from accession.runs.health import HealthState, WorkflowHealth, workflow_health
from accession.runs.ledger import (
    end_run,
    find_latest_retry,
    find_latest_run,
    find_run,
    lock_active_runs,
    queue_runs,
)
from accession.runs.pauses import (
    EndedPause,
    check_pause,
    delete_expired_pauses,
    delete_pauses,
    is_paused,
    store_pauses,
)
from accession.runs.views import displayed_state, run_view
from accession.tasks.workflow_task import enqueue_step
from accession.tasks.workflows import STEP_TASKS, check_start, start_workflow

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class ControlledWorkflow:
    """A workflow of a collection that an action was applied to; `task_id` is that of its run, if any."""

    collection_id: int
    collection: str
    workflow: Workflow
    task_id: str | None = None


@dataclass(frozen=True)
class SkippedWorkflow:
    """A workflow of a collection that an action was not applied to."""

    collection_id: int
    collection: str
    workflow: Workflow
    reason: str


@dataclass(frozen=True)
class ControlResult:
    """Workflows that an action was applied to, and those that it left out."""

    done: tuple[ControlledWorkflow, ...]
    skipped: tuple[SkippedWorkflow, ...] = ()

    def describe(self, noun: str, participle: str) -> str:
        """Return a sentence such as "2 runs queued, 1 skipped (a run is active).", for "run" and "queued"."""
        number = len(self.done)
        parts = [f"{number:,} {noun}{'' if number == 1 else 's'} {participle}"]
        reasons = Counter(each.reason for each in self.skipped)
        parts += [f"{count:,} skipped ({reason})" for reason, count in sorted(reasons.items())]
        return ", ".join(parts) + "."


@dataclass(frozen=True)
class _Target:
    """A workflow of a collection, and its health when the action began."""

    workflow: ControlledWorkflow
    health: WorkflowHealth


def run_now(
    actor: Actor,
    collection_ids: Iterable[int],
    workflows: Sequence[Workflow],
    *,
    force_reimport: bool = False,
) -> ControlResult:
    """Queue a run of each workflow for each collection, unless it is paused or has an active run.

    Raises:
        InvalidInput: a workflow cannot be started like that.
        NotFound: there is no collection with one of the ids.
    """
    for workflow in workflows:
        check_start(workflow, force_reimport=force_reimport)
    with transaction() as session:
        targets, skipped = _select(session, collection_ids, workflows, _reason_not_to_start)
        for target in targets:
            started = target.workflow
            record_run_start(
                session, actor, started.workflow, started.collection, force_reimport=force_reimport
            )
    started_runs = _start([target.workflow for target in targets], force_reimport=force_reimport)
    return ControlResult(started_runs, skipped)


def retry_now(
    actor: Actor, collection_ids: Iterable[int], workflows: Sequence[Workflow] = SCHEDULED_WORKFLOWS
) -> ControlResult:
    """Continue the workflows whose latest run did not succeed, or which had no success for too long.

    A retrying run makes its next attempt at once; otherwise a run is queued, which continues at the
    checkpoint. Healthy workflows, and those that are paused or running, are skipped.

    Raises:
        NotFound: there is no collection with one of the ids.
    """
    with transaction() as session:
        targets, skipped = _select(session, collection_ids, workflows, _reason_not_to_retry)
        _record(session, actor, AuditAction.RUN_RETRY, [target.workflow for target in targets])
    retrying = [target for target in targets if target.health.state == RunState.RETRYING]
    attempts = tuple(_attempt_now(target) for target in retrying)
    started = _start([target.workflow for target in targets if target not in retrying])
    return ControlResult((*attempts, *started), skipped)


def cancel_runs(
    actor: Actor, collection_ids: Iterable[int], workflows: Sequence[Workflow] = tuple(Workflow)
) -> ControlResult:
    """Cancel the active runs of these collections and workflows.

    Raises:
        NotFound: there is no collection with one of the ids.
    """
    with transaction() as session:
        names = _find_names(session, collection_ids)
        runs = lock_active_runs(session, collection_ids, workflows)
        cancelled = _cancel(runs, names, f"Cancelled by {actor.name}.")
        _record(session, actor, AuditAction.RUN_CANCEL, cancelled)
    _release_locks(cancelled)
    return ControlResult(cancelled)


def cancel_run(actor: Actor, run_id: int) -> None:
    """Cancel one run.

    Raises:
        NotFound: there is no such run.
        UserError: the run has ended.
    """
    with transaction() as session:
        run = _find_run(session, run_id, locks=True)
        if run.state not in ACTIVE_STATES:
            raise UserError(f"Run {run_id} has {run.state} already: there is nothing to cancel.")
        names = _find_names(session, [run.collection_id])
        cancelled = _cancel([run], names, f"Cancelled by {actor.name}.")
        _record(session, actor, AuditAction.RUN_CANCEL, cancelled)
    _release_locks(cancelled)


def can_retry(session: Session, run_id: int) -> bool:
    """Return whether `retry_run` accepts the run."""
    run = session.get_one(Run, run_id)
    workflow = Workflow(run.workflow)
    is_latest = find_latest_run(session, run.collection_id, workflow) is run
    if not is_latest or is_paused(session, run.collection_id, workflow):
        return False
    has_failed = displayed_state(run) in (RunState.FAILED, RunState.CANCELLED, RunState.INTERRUPTED)
    return run.state == RunState.RETRYING or (has_failed and workflow in SCHEDULED_WORKFLOWS)


def retry_run(actor: Actor, run_id: int) -> int:
    """Make the next attempt of a retrying run at once, or continue an ended one at the checkpoint.

    Returns the id of the run that continues: this one, or a new one.

    Raises:
        NotFound: there is no such run.
        UserError: the run cannot be retried.
    """
    with transaction() as session:
        run = _find_run(session, run_id)
        workflow, collection_id = Workflow(run.workflow), run.collection_id
        if not can_retry(session, run_id):
            raise UserError(
                f"Run {run_id} was not retried, because only the latest run of a workflow can be, if it is "
                "retrying or has not succeeded and the workflow is not paused: start a new run."
            )
    result = retry_now(actor, [collection_id], [workflow])
    with transaction() as session:
        continued = [find_run(session, each.task_id) for each in result.done if each.task_id is not None]
        return next((run.id for run in continued if run is not None), run_id)


def pause_workflows(
    actor: Actor,
    collection_ids: Iterable[int],
    workflows: Sequence[Workflow] = tuple(Workflow),
    *,
    reason: str,
    until: datetime | None = None,
    cancels_runs: bool = False,
) -> ControlResult:
    """Pause workflows of collections until a time (UTC), or until a person resumes them.

    No run starts meanwhile. An active run continues to its end, because a pause is often for the future;
    before maintenance of the vendor `cancels_runs` cancels it. A queued run has not begun and is always
    cancelled. After the pause another run takes the place of a cancelled one.

    Raises:
        InvalidInput: the reason is empty, or the end is over.
        NotFound: there is no collection with one of the ids.
    """
    with transaction() as session:
        result, release_locks = pause_in_transaction(
            session,
            actor,
            collection_ids,
            workflows,
            reason=reason,
            until=until,
            cancels_runs=cancels_runs,
        )
    release_locks()
    return result


def pause_in_transaction(
    session: Session,
    actor: Actor,
    collection_ids: Iterable[int],
    workflows: Sequence[Workflow],
    *,
    reason: str,
    until: datetime | None,
    cancels_runs: bool = False,
) -> tuple[ControlResult, Callable[[], None]]:
    """Pause workflows as `pause_workflows` does, in the session's transaction.

    Returns:
        The result, and a function to be called after the commit: it releases the locks of cancelled runs.

    Raises:
        InvalidInput: the reason is empty, or the end is over.
        NotFound: there is no collection with one of the ids.
    """
    reason = check_pause(reason, until)
    names = _find_names(session, collection_ids)
    active = lock_active_runs(session, collection_ids, workflows)
    stopped = [run for run in active if cancels_runs or run.state == RunState.QUEUED]
    cancelled = _cancel(stopped, names, f"Paused by {actor.name}: {reason}")
    keys = [(collection_id, workflow) for collection_id in names for workflow in dict.fromkeys(workflows)]
    stopped_keys = {(each.collection_id, each.workflow) for each in cancelled}
    store_pauses(session, keys, reason=reason, until=until, stopped=stopped_keys)
    paused = tuple(ControlledWorkflow(key, names[key], workflow) for key, workflow in keys)
    details = {"reason": reason, "until": until, "cancel_runs": cancels_runs}
    _record(session, actor, AuditAction.COLLECTION_PAUSE, paused, **details)
    return ControlResult(paused), partial(_release_locks, cancelled)


def resume_workflows(
    actor: Actor, collection_ids: Iterable[int], workflows: Sequence[Workflow] = tuple(Workflow)
) -> ControlResult:
    """End pauses; where a pause has cancelled a run, another one is queued.

    Raises:
        NotFound: there is no collection with one of the ids.
    """
    with transaction() as session:
        result, enqueue = resume_in_transaction(session, actor, collection_ids, workflows)
    enqueue()
    return result


def resume_in_transaction(
    session: Session, actor: Actor, collection_ids: Iterable[int], workflows: Sequence[Workflow]
) -> tuple[ControlResult, Callable[[], None]]:
    """End pauses as `resume_workflows` does, in the session's transaction.

    Returns:
        The result, and a function to be called after the commit: it publishes the queued runs.

    Raises:
        NotFound: there is no collection with one of the ids.
    """
    names = _find_names(session, collection_ids)
    ended = delete_pauses(session, collection_ids, workflows)
    resumed = tuple(
        ControlledWorkflow(pause.collection_id, names[pause.collection_id], pause.workflow) for pause in ended
    )
    _record(session, actor, AuditAction.COLLECTION_RESUME, resumed)
    return ControlResult(resumed), partial(_enqueue, _queue_stopped(session, ended))


def end_expired_pauses() -> None:
    """Delete the pauses whose end has come, and queue a run where one was cancelled for the pause."""
    with transaction() as session:
        ended = delete_expired_pauses(session)
        queued = _queue_stopped(session, ended)
    for pause in ended:
        log.info("pause ended", collection=pause.collection_id, workflow=pause.workflow.value)
    _enqueue(queued)


def find_failing_collections(session: Session) -> list[int]:
    """Return the ids of the collections with a scheduled workflow that is failing or retrying."""
    return [
        collection_id
        for collection_id, workflows in workflow_health(session, list_collections(session)).items()
        if any(
            each.health is HealthState.FAILING or each.state == RunState.RETRYING
            for each in workflows
            if each.workflow in SCHEDULED_WORKFLOWS
        )
    ]


def _queue_stopped(session: Session, pauses: Sequence[EndedPause]) -> dict[str, EndedPause]:
    """Queue a run of each scheduled workflow of which the pause has cancelled one, unless a run is active.

    The runs are committed together with the end of the pauses, so none is lost. Returns the pauses by the
    task ids of the runs.
    """
    stopped = {
        str(uuid4()): pause
        for pause in pauses
        if pause.has_stopped_run
        and pause.workflow in SCHEDULED_WORKFLOWS
        and not has_active_run(session, pause.collection_id, pause.workflow)
    }
    for task_id, pause in stopped.items():
        queue_runs(session, pause.workflow, {pause.collection_id: task_id}, {})
    return stopped


def _enqueue(queued: Mapping[str, EndedPause]) -> None:
    for task_id, pause in queued.items():
        enqueue_step(STEP_TASKS[pause.workflow], pause.collection_id, task_id, {})


def _select(
    session: Session,
    collection_ids: Iterable[int],
    workflows: Sequence[Workflow],
    reason_to_skip: Callable[[WorkflowHealth], str | None],
) -> tuple[list[_Target], tuple[SkippedWorkflow, ...]]:
    """Divide the workflows of the collections into those to act on, and those to skip with the reason."""
    collections = [get_collection(session, each) for each in sorted(set(collection_ids))]
    health_by_collection = workflow_health(session, collections)
    targets, skipped = [], []
    for collection in collections:
        health = {each.workflow: each for each in health_by_collection[collection.id]}
        for workflow in dict.fromkeys(workflows):
            state = health.get(workflow) or WorkflowHealth(workflow, HealthState.NEW)
            if (reason := reason_to_skip(state)) is None:
                target = ControlledWorkflow(collection.id, collection.name, workflow)
                targets.append(_Target(target, state))
            else:
                skipped.append(SkippedWorkflow(collection.id, collection.name, workflow, reason))
    return targets, tuple(skipped)


def _reason_not_to_start(health: WorkflowHealth) -> str | None:
    if health.pause is not None:
        return "paused"
    return "a run is active" if health.state in ACTIVE_STATES else None


def _reason_not_to_retry(health: WorkflowHealth) -> str | None:
    if health.state == RunState.RETRYING and health.pause is None:
        return None
    is_due = health.state == RunState.CANCELLED or health.health is HealthState.FAILING
    return _reason_not_to_start(health) or (None if is_due else "nothing to retry")


def _start(
    targets: Iterable[ControlledWorkflow], *, force_reimport: bool = False
) -> tuple[ControlledWorkflow, ...]:
    """Queue a run of each workflow, and return the runs."""
    by_workflow: defaultdict[Workflow, list[ControlledWorkflow]] = defaultdict(list)
    for target in targets:
        by_workflow[target.workflow].append(target)
    started: list[ControlledWorkflow] = []
    for workflow, of_workflow in by_workflow.items():
        ids = [target.collection_id for target in of_workflow]
        task_ids = start_workflow(workflow, ids, force_reimport=force_reimport)
        started += [
            replace(target, task_id=task_ids[target.collection_id])
            for target in of_workflow
            if target.collection_id in task_ids
        ]
    return tuple(started)


def _attempt_now(target: _Target) -> ControlledWorkflow:
    """Publish the next attempt of a retrying run, unless it has been made meanwhile.

    The delayed message of the attempt stays in the broker. When it is delivered, either the cursor has moved
    on, and it is ignored, or the run has failed again, and it is one more attempt.
    """
    workflow, collection_id = target.workflow.workflow, target.workflow.collection_id
    with transaction() as session:
        runs = lock_active_runs(session, [collection_id], [workflow])
        retrying = [run for run in runs if run.state == RunState.RETRYING]
        steps = [(run.task_id, dict(run.cursor), find_latest_retry(session, run)) for run in retrying]
        for run in retrying:
            run.state, run.updated_at = RunState.RUNNING.value, utc_now()
    for task_id, cursor, retry in steps:
        enqueue_step(STEP_TASKS[workflow], collection_id, task_id, cursor, retries=retry)
    return replace(target.workflow, task_id=steps[0][0] if steps else None)


def _find_run(session: Session, run_id: int, *, locks: bool = False) -> Run:
    """Return the run, with `locks` after locking it until the transaction ends.

    Raises:
        NotFound: there is none with this id, or its collection is marked for deletion.
    """
    run_view(session, run_id)
    return session.get_one(Run, run_id, with_for_update=locks, populate_existing=True)


def _find_names(session: Session, collection_ids: Iterable[int]) -> dict[int, str]:
    return {each: get_collection(session, each).name for each in sorted(set(collection_ids))}


def _cancel(runs: Iterable[Run], names: Mapping[int, str], reason: str) -> tuple[ControlledWorkflow, ...]:
    """Cancel locked runs, and return them."""
    cancelled = []
    for run in runs:
        end_run(run, RunState.CANCELLED, reason)
        name = names[run.collection_id]
        cancelled.append(ControlledWorkflow(run.collection_id, name, Workflow(run.workflow), run.task_id))
    return tuple(cancelled)


def _release_locks(cancelled: Iterable[ControlledWorkflow]) -> None:
    """Release the workflow locks of cancelled runs, so that the next runs can start."""
    for run in cancelled:
        if run.task_id is not None:
            STEP_TASKS[run.workflow].lock_for(run.collection_id, run.task_id).release()


def _record(
    session: Session,
    actor: Actor,
    action: AuditAction,
    targets: Iterable[ControlledWorkflow],
    **details: Any,
) -> None:
    """Record an action in the audit log: one entry for each collection."""
    workflows: defaultdict[str, list[str]] = defaultdict(list)
    for target in targets:
        workflows[target.collection].append(target.workflow.value)
    for collection, names in workflows.items():
        record(session, actor, action, collection, {"workflows": names, **details})
