"""Process a workflow step by step: each task message is one step of a run.

`run_step` wraps a workflow's step function. For each message it

1. checks that the collection still exists, that the run is active and holds the workflow lock
   (`_check_preconditions`), and that the message's arguments are the run's cursor, so that a message
   delivered twice is processed once;
2. calls the step function, which first fetches what it needs. No transaction is open meanwhile, however long
   the vendor takes to respond;
3. before the first write, opens a transaction, locks the run's row and checks that nothing has changed since
   (`_lock_unchanged`). What the step writes and the ledger are committed together. A step that has nothing
   to write but its progress does all this in one statement (`accession.runs.empty_steps`);
4. publishes the step's changes for the apply, then either enqueues the next step under the same task id or
   releases the lock.

The message is acknowledged after that. If a worker dies before the commit, the broker delivers the message
again and the step is processed then. If it dies after the commit, the redelivered message finds that the
cursor has moved on, and enqueues the next step once more (`_handle_redelivery`).
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from functools import partial
from typing import Any

import structlog
from celery.signals import task_failure
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from accession.accounts.collections import get_collection
from accession.bibliotheca.client import BibliothecaAPI
from accession.catalog.outbox import split_by_metadata
from accession.core.clock import utc_now
from accession.core.errors import NotFound
from accession.core.workflow import Workflow
from accession.db.engine import LateTransaction, late_transaction, transaction
from accession.db.models import Collection, Run, RunState
from accession.imports.vendor_api import vendor_api_for
from accession.notifications.events import record_run_failure
from accession.runs.checkpoints import CheckpointMove, advance_checkpoint
from accession.runs.empty_steps import record_empty_step
from accession.runs.ledger import (
    SUPERSEDED,
    RunCounters,
    delete_queued_run,
    end_run,
    find_run,
    find_run_and_collection,
    is_active,
    is_sample_due,
    lock_active_runs,
    lock_run,
    lock_unchanged_run,
    open_run,
    record_retry,
    record_step,
)
from accession.runs.pauses import is_paused, record_stopped_run
from accession.tasks.apply import publish_applies_of, publish_split_applies
from accession.tasks.lock import LockResult
from accession.tasks.outages import retry_while_unavailable
from accession.tasks.rate_limiter import release_leftover_slots, request_slot
from accession.tasks.step_recorder import NO_SPAN, StepRecording, StepSpan, recorded_step
from accession.tasks.workflow_task import EXPECTED_ERRORS, RETRIED_ERRORS, WorkflowTask, enqueue_step

log = structlog.get_logger(__name__)


class RunOutcome(StrEnum):
    """Outcome of a run, stored as its task's result."""

    DONE = "done"
    REFUSED = "refused"
    """Another run of the workflow holds the lock for this collection."""
    STOPPED = "stopped"
    """The collection was deleted, or a newer run took over."""
    PAUSED = "paused"
    """The workflow was paused before the run began."""


@dataclass(frozen=True)
class StepResult:
    """Result of a step, and the arguments of the next one; None when the run is complete.

    `since` is the start of the time span (UTC) that the step covered, if the workflow goes through time.
    `span` is what was requested, for people. `checkpoint_move` is left to be made if the step wrote nothing.
    """

    counters: RunCounters
    since: datetime | None = None
    next_arguments: Mapping[str, Any] | None = None
    outbox_ids: tuple[int, ...] = ()
    span: StepSpan = NO_SPAN
    checkpoint_move: CheckpointMove | None = None


_Applies = tuple[Sequence[int], Sequence[int]]
StepFunction = Callable[[Session, Collection, Run, BibliothecaAPI], StepResult]


@dataclass(frozen=True)
class _Ready:
    """The run may process a step."""

    run: Run
    collection: Collection


@dataclass(frozen=True)
class _Processed:
    """The step was processed now.

    `applies` are the outbox rows to apply: those with metadata, and those with counts only.
    """

    result: StepResult
    applies: _Applies


@dataclass(frozen=True)
class _AlreadyProcessed:
    """An earlier delivery of the message was processed, or the run has ended."""


@dataclass(frozen=True)
class _MustStop:
    """The run must not process any more steps."""

    outcome: RunOutcome


class _RunChanged(Exception):
    """The run has ended or moved on, or its collection was deleted, since the preconditions were checked."""


def run_step(
    task: WorkflowTask, collection_id: int, arguments: Mapping[str, Any], step: StepFunction
) -> RunOutcome | None:
    """Process one step of a run and enqueue the next, or end the run.

    `arguments` are the keyword arguments of this message: the run's cursor. Returns None while the run
    continues; then no task result is stored, since the result of this task id is that of the whole run.

    While the database or the broker is unavailable it waits. A retryable error keeps run and lock while
    retries are left; any other error ends the run and releases the lock (`_end_failed_run`).
    """

    def process(is_repeat: bool) -> RunOutcome | None:
        try:
            try:
                processing = _process_step(task, collection_id, arguments, step, is_repeat=is_repeat)
            except _RunChanged:
                # The preconditions, which are not met any more, determine what to do.
                processing = _process_step(task, collection_id, arguments, step, is_repeat=is_repeat)
        except RETRIED_ERRORS as error:
            if task.request.retries < task.max_retries:
                _record_retry(task, collection_id, error)
            raise
        match processing:
            case _MustStop(outcome):
                return outcome
            case _AlreadyProcessed():
                _handle_redelivery(task, collection_id, is_repeat=is_repeat)
                _store_no_result(task)
                return None
            case _Processed(result, applies):
                publish_split_applies(*applies)
                if result.next_arguments is None:
                    task.lock_for(collection_id, task.request.id).release()
                    log.info("run completed")
                    return RunOutcome.DONE
                enqueue_step(task, collection_id, task.request.id, result.next_arguments)
                _store_no_result(task)
                return None

    with structlog.contextvars.bound_contextvars(
        workflow=task.workflow.value, collection=collection_id, run=task.request.id
    ):
        try:
            return retry_while_unavailable(process)
        finally:
            structlog.contextvars.unbind_contextvars("page")


def _store_no_result(task: WorkflowTask) -> None:
    # Celery's `Task.replace` does this with an exception, which costs a 60 KB message to the parent process.
    task.request.ignore_result = True


def _process_step(
    task: WorkflowTask,
    collection_id: int,
    arguments: Mapping[str, Any],
    step: StepFunction,
    *,
    is_repeat: bool,
) -> _Processed | _AlreadyProcessed | _MustStop:
    task_id = task.request.id
    recorded = recorded_step(task_id, is_last_attempt=task.request.retries >= task.max_retries)
    with recorded as recording, late_transaction() as session:
        check = _check_preconditions(task, session, collection_id, arguments)
        if not isinstance(check, _Ready):
            return check
        run, cursor = check.run, check.run.cursor
        # The cursor of a run that began before an upgrade lacks the arguments that the upgrade added.
        if {**arguments, **cursor} != arguments:
            log.warning("step already processed, message was delivered twice")
            return _AlreadyProcessed()
        structlog.contextvars.bind_contextvars(page=run.pages + 1)
        if is_repeat or _had_earlier_delivery(task):
            release_leftover_slots(check.collection, task_id)
        recording.begin(run.pages + 1)
        session.on_begin = partial(_lock_unchanged, session, run, recording)
        slot = recording.measured(request_slot(check.collection, task_id))
        api = vendor_api_for(check.collection, slot, recording.count_request)
        result = step(session, check.collection, run, api)
        recording.records, recording.span = result.counters.records_fetched, result.span
        return _Processed(result, _store_step(task, session, run, result, recording))


def _store_step(
    task: WorkflowTask, session: LateTransaction, run: Run, result: StepResult, recording: StepRecording
) -> _Applies:
    """Record the step in the ledger, and return the outbox rows to apply."""
    move, next_cursor = result.checkpoint_move, result.next_arguments
    run.worker = task.request.hostname
    if move is not None and next_cursor is not None and not is_sample_due(run, utc_now()):
        recording.begin_storing()
        is_recorded = record_empty_step(
            session, run, result.counters, move, since=result.since, next_cursor=next_cursor
        )
        _discard_unless(is_recorded, recording)
        return (), ()
    session.begin_writing()
    if move is not None:
        advance_checkpoint(session, run.collection_id, task.workflow, move)
    with session.no_autoflush:
        applies = split_by_metadata(session, result.outbox_ids)
    record_step(run, result.counters, since=result.since, next_cursor=next_cursor)
    return applies


def _lock_unchanged(session: Session, run: Run, recording: StepRecording) -> None:
    """Lock the run's row until the transaction ends: of two deliveries, the second waits for the first.

    Raises:
        _RunChanged: the run has been written since it was read, or its collection is marked for deletion.
    """
    recording.begin_storing()
    _discard_unless(lock_unchanged_run(session, run), recording)


def _discard_unless(is_unchanged: bool, recording: StepRecording) -> None:
    """Discard the step if the run was changed.

    Raises:
        _RunChanged: it was.
    """
    if not is_unchanged:
        recording.is_discarded = True
        raise _RunChanged


def _check_preconditions(
    task: WorkflowTask, session: Session, collection_id: int, arguments: Mapping[str, Any]
) -> _Ready | _AlreadyProcessed | _MustStop:
    """Check that the run is active, its collection exists and the workflow lock is held by this run."""
    task_id = task.request.id
    lock = task.lock_for(collection_id, task_id)
    row = find_run_and_collection(session, task_id)
    run = None if row is None else row[0]
    try:
        # As a rule the session has it now, so that this needs no statement.
        collection = get_collection(session, collection_id)
    except NotFound:
        log.warning("run stopped, the collection is deleted or marked for deletion")
        _interrupt_run(task_id, "The collection is marked for deletion.")
        lock.release()
        return _MustStop(RunOutcome.STOPPED)
    if run is not None and not is_active(run):
        log.warning("message of an ended run ignored", state=run.state)
        lock.release()
        return _AlreadyProcessed()
    if run is None and is_paused(session, collection_id, task.workflow):
        log.warning("run not started, the workflow is paused")
        _cancel_for_pause(task_id, collection_id, task.workflow)
        lock.release()
        return _MustStop(RunOutcome.PAUSED)
    is_extended = run is not None and lock.extend()
    lock_result = LockResult.EXTENDED if is_extended else lock.acquire_or_extend()
    if lock_result is LockResult.HELD_BY_OTHER:
        return _refuse_or_stop(task_id, has_begun=run is not None, held_by=lock.current_holder())
    if lock_result is LockResult.ACQUIRED and run is not None:
        log.warning("workflow lock expired between invocations")
    if run is None:
        run = _open_run(task, session, collection_id, arguments)
        if run is None or not is_active(run):
            # Another delivery has processed the whole run meanwhile, or the collection was deleted.
            lock.release()
            return _AlreadyProcessed()
    return _Ready(run, collection)


def _refuse_or_stop(task_id: str, *, has_begun: bool, held_by: str | None) -> _MustStop:
    """Stop a run that has lost the workflow lock; refuse one that has not begun."""
    if has_begun:
        log.warning("run stopped, workflow lock lost to a newer run", held_by=held_by)
    else:
        log.warning("run refused, another run holds the workflow lock", held_by=held_by)
    _interrupt_run(task_id, SUPERSEDED)
    return _MustStop(RunOutcome.STOPPED if has_begun else RunOutcome.REFUSED)


def _interrupt_run(task_id: str, reason: str) -> None:
    """Mark a begun run as interrupted, or delete it if it is still queued."""
    with transaction() as session:
        run = lock_run(session, task_id)
        if run is not None and is_active(run):
            end_run(run, RunState.INTERRUPTED, reason)
        delete_queued_run(session, task_id)


def _cancel_for_pause(task_id: str, collection_id: int, workflow: Workflow) -> None:
    """Cancel a run that was queued while the pause was being stored; another one starts after the pause."""
    with transaction() as session:
        for run in lock_active_runs(session, [collection_id], [workflow]):
            if run.task_id == task_id:
                end_run(run, RunState.CANCELLED, "The workflow is paused.")
                record_stopped_run(session, collection_id, workflow)


def _open_run(
    task: WorkflowTask, session: Session, collection_id: int, arguments: Mapping[str, Any]
) -> Run | None:
    """Open the run in the ledger and return it; the ledger has it even if its first step fails."""
    with transaction() as separate:
        open_run(separate, collection_id, task.workflow, task.request.id, arguments)
    return find_run(session, task.request.id)


def _handle_redelivery(task: WorkflowTask, collection_id: int, *, is_repeat: bool) -> None:
    """Publish again what the worker that processed the step may not have published.

    It may have died or failed after its commit if the message was redelivered, is a retry, or was repeated
    after an outage (`is_repeat`). Publishing twice is harmless: outbox rows are applied once, and a second
    copy of the next step finds its cursor moved on. A message delivered twice for no such reason publishes
    nothing, so copies do not multiply.
    """
    if not (is_repeat or _had_earlier_delivery(task)):
        return
    publish_applies_of(collection_id)
    with transaction() as session:
        run = find_run(session, task.request.id)
        cursor = dict(run.cursor) if run is not None and is_active(run) else None
    if cursor is not None:
        enqueue_step(task, collection_id, task.request.id, cursor)


def _had_earlier_delivery(task: WorkflowTask) -> bool:
    return bool(task.request.delivery_info.get("redelivered") or task.request.retries)


def _record_retry(task: WorkflowTask, collection_id: int, error: BaseException) -> None:
    retry = task.request.retries + 1
    log.warning("retry scheduled", retry=retry, reason=_reason(error))
    task.lock_for(collection_id, task.request.id).extend()
    # If the database is what failed, the retry must be scheduled all the same.
    with suppress(OperationalError), transaction() as session:
        run = lock_run(session, task.request.id)
        if run is not None and is_active(run):
            record_retry(run, _reason(error), retry=retry)


def _reason(error: BaseException) -> str:
    if isinstance(error, EXPECTED_ERRORS):
        return str(error)
    return f"{type(error).__name__}: {error}"


@task_failure.connect  # type: ignore[untyped-decorator]
def _end_failed_run(sender: Any, task_id: str, exception: BaseException, args: Any, **_: Any) -> None:
    """Mark the run as failed and release its lock.

    Celery calls this in the child, or in the parent process if the child was killed or exceeded the hard
    time limit.
    """
    if not isinstance(sender, WorkflowTask):
        return
    page = None
    try:
        with transaction() as session:
            run = lock_run(session, task_id)
            if run is not None and is_active(run):
                page = run.pages + 1
                end_run(run, RunState.FAILED, _reason(exception))
                record_run_failure(session, run, _reason(exception), exception)
    finally:
        sender.lock_for(args[0], task_id).release()
    log.error(
        "run failed",
        workflow=sender.workflow.value,
        collection=args[0],
        run=task_id,
        page=page,
        reason=_reason(exception),
    )
