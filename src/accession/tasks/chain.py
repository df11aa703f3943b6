"""A chain: a task that sends itself again page after page, under one lock and one ledger row.

`run_link` is all that a workflow's task needs. Each link

1. opens one transaction, locks the run's row, and finds its collection still there and the chain's
   lock its own (`_enter`);
2. checks that the cursor it was sent is the cursor expected, so that a message delivered twice writes
   once, and runs its step (`_do_page`); the commit takes the page and the ledger together;
3. publishes what has to be applied, and then sends the next link, or releases the lock.

A message is acknowledged after all that. Whatever dies or fails in between, the message comes back, as
the same or as a retry: before the commit it does its page; after it, it finds the cursor moved on, and
sends the expected link once more.
"""

from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any
from uuid import uuid4

import structlog
from billiard.exceptions import SoftTimeLimitExceeded
from celery import Task
from celery.signals import task_failure
from sqlalchemy import select
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from accession.bibliotheca.errors import RETRYABLE, RemoteIntegrationException
from accession.core.errors import UserError
from accession.core.settings import get_settings
from accession.core.workflow import Workflow
from accession.db.engine import transaction
from accession.db.models import Collection, Run, RunState
from accession.runs.ledger import (
    SUPERSEDED,
    Counters,
    end_run,
    find_run,
    forget_queued_run,
    is_active,
    lock_run,
    note_retry,
    open_run,
    queue_runs,
    record_page,
)
from accession.tasks.app import LOST_CHILD_WAIT_SECONDS, MAX_RETRIES, MAX_RETRY_AFTER_SECONDS, app
from accession.tasks.apply import publish_applies, publish_applies_of
from accession.tasks.lock import Held, TaskLock, workflow_lock
from accession.tasks.outages import outlast_outages

log = structlog.get_logger(__name__)

_RETRIED = (*RETRYABLE, SoftTimeLimitExceeded)
# What a person has to put right: no bug of ours, so no traceback.
_EXPECTED = (RemoteIntegrationException, UserError)


class Outcome(StrEnum):
    """How a link ended, as the task's result; a link that is followed by another has no result."""

    DONE = "done"
    REFUSED = "refused"
    """Another chain is at work for this collection."""
    STOPPED = "stopped"
    """The collection is gone, or a newer run has the work."""


@dataclass(frozen=True)
class Step:
    """What a step did and what comes next: the arguments of the next link, or None at the end.

    `since` is where in time (UTC) the step began, for a workflow that goes through time.
    """

    counters: Counters
    since: datetime | None = None
    next_arguments: Mapping[str, Any] | None = None
    outbox_ids: tuple[int, ...] = ()


@dataclass(frozen=True)
class ChainKind:
    """What tells one workflow's chains from another's."""

    workflow: Workflow
    lock_key: str

    def lock(self, collection_id: int, task_id: str) -> TaskLock:
        """The lock that makes the chain the only one for its collection."""
        return workflow_lock(self.lock_key, collection_id, task_id)


class ChainTask(Task):  # type: ignore[misc]
    """The promises every chain makes: which errors are retried, how often, and after how long."""

    abstract = True
    kind: ChainKind
    autoretry_for = _RETRIED
    max_retries = MAX_RETRIES
    default_retry_delay = LOST_CHILD_WAIT_SECONDS
    throws = _EXPECTED

    def retry(self, *args: Any, exc: BaseException | None = None, **options: Any) -> Any:
        """Try again after the back-off, doubled for each retry, or after what the vendor asked for."""
        wait = get_settings().retry_backoff_seconds * 2**self.request.retries
        asked_for = min(getattr(exc, "retry_after", None) or 0, MAX_RETRY_AFTER_SECONDS)
        # Celery throws a task away whose retry it cannot publish.
        outlast_outages(lambda _: app.backend.client.ping())
        return super().retry(*args, exc=exc, countdown=max(wait, asked_for), **options)


# What starts chains: the task that the schedule calls.
FAN_OUT: Mapping[str, Any] = {
    "ignore_result": True,
    "max_retries": MAX_RETRIES,
    "default_retry_delay": LOST_CHILD_WAIT_SECONDS,
}


def start_everywhere(task: ChainTask, **arguments: Any) -> None:
    """Start the chain of every collection in use."""

    def start(_: bool) -> None:
        with transaction() as session:
            query = select(Collection.id).where(Collection.marked_for_deletion_at.is_(None))
            collection_ids = session.scalars(query.order_by(Collection.id)).all()
        start_chains(task, collection_ids, **arguments)

    outlast_outages(start)


def start_chains(task: ChainTask, collection_ids: Iterable[int], **arguments: Any) -> dict[int, str]:
    """Queue a chain for each collection; returns the task id, and so the run, of each.

    The ledger has them before the broker does: should that lose their messages, they are sent again.
    """
    task_ids = {collection_id: str(uuid4()) for collection_id in collection_ids}
    with transaction() as session:
        queue_runs(session, task.kind.workflow, task_ids, arguments)
    for collection_id, task_id in task_ids.items():
        send_link(task, collection_id, task_id, arguments)
    return task_ids


def run_link(
    task: ChainTask,
    collection_id: int,
    arguments: Mapping[str, Any],
    step: Callable[[Session, Collection, Run], Step],
) -> Outcome | None:
    """Run one link of a chain: `step` in its transaction, with everything around it.

    `arguments` are the keyword arguments this link was sent with, and its cursor. Returns None when another
    link follows under the same task id, or the message was delivered twice: neither stores a result, which
    would count as the whole chain's. While the database or the broker is away it waits. A retryable
    error leaves lock and run in place while retries are left; any other error ends both
    (`_end_failed_run`).
    """

    def link(begun_before: bool) -> Outcome | None:
        try:
            with transaction() as session:
                done = _do_page(task, session, collection_id, arguments, step)
        except _RETRIED as error:
            if task.request.retries < task.max_retries:
                _note_retry(task, collection_id, error)
            raise
        if isinstance(done, Outcome):
            return done
        if done is None:
            _after_second_delivery(task, collection_id, came_back=begun_before)
            _store_no_result(task)
            return None
        publish_applies(done.outbox_ids)
        if done.next_arguments is not None:
            send_link(task, collection_id, task.request.id, done.next_arguments)
            _store_no_result(task)
            return None
        task.kind.lock(collection_id, task.request.id).release()
        log.info("the run is complete")
        return Outcome.DONE

    with structlog.contextvars.bound_contextvars(
        workflow=task.kind.workflow.value, collection=collection_id, run=task.request.id
    ):
        try:
            return outlast_outages(link)
        finally:
            structlog.contextvars.unbind_contextvars("page")


def _store_no_result(task: ChainTask) -> None:
    # Celery's `replace` does the like by an exception, of which the worker's parent gets 60 KB each time.
    task.request.ignore_result = True


def _do_page(
    task: ChainTask,
    session: Session,
    collection_id: int,
    arguments: Mapping[str, Any],
    step: Callable[[Session, Collection, Run], Step],
) -> Step | Outcome | None:
    """Run the step and move the ledger on; an outcome when the chain must stop before it, None for a
    message delivered twice."""
    entered = _enter(task, session, collection_id, arguments)
    if entered is None or isinstance(entered, Outcome):
        return entered
    run, collection = entered
    # A run that began before a release lacks the arguments that this one has added.
    if {**arguments, **run.cursor} != arguments:
        log.warning("this page is done already; the message was delivered twice")
        return None
    structlog.contextvars.bind_contextvars(page=run.pages + 1)
    done = step(session, collection, run)
    record_page(run, done.counters, since=done.since, next_cursor=done.next_arguments)
    return done


def _enter(
    task: ChainTask, session: Session, collection_id: int, arguments: Mapping[str, Any]
) -> tuple[Run, Collection] | Outcome | None:
    """Make sure that the run, the collection and the lock are this chain's; else say why to stop, None for a
    run that has ended.

    The run's row stays locked until the transaction ends.
    """
    task_id = task.request.id
    lock = task.kind.lock(collection_id, task_id)
    run = lock_run(session, task_id)
    collection = session.get(Collection, collection_id)
    if collection is None or collection.marked_for_deletion_at is not None:
        log.warning("the collection is deleted or marked for deletion; the chain stops")
        if run is not None and is_active(run):
            end_run(run, RunState.INTERRUPTED, "The collection is marked for deletion.")
        forget_queued_run(session, task_id)
        lock.release()
        return Outcome.STOPPED
    if run is not None and not is_active(run):
        log.warning("a message of a run that has ended", state=run.state)
        lock.release()
        return None
    held = lock.hold()
    if held is Held.BY_ANOTHER:
        if run is None:
            log.warning("another run is at work for this collection", held_by=lock.taken_by())
            forget_queued_run(session, task_id)
            return Outcome.REFUSED
        log.warning("workflow lock lost to a newer run; the chain stops", held_by=lock.taken_by())
        end_run(run, RunState.INTERRUPTED, SUPERSEDED)
        return Outcome.STOPPED
    if held is Held.NEWLY and run is not None:
        log.warning("workflow lock expired between invocations")
    run = run or _opened_run(task, session, collection, arguments)
    return None if run is None else (run, collection)


def _opened_run(
    task: ChainTask, session: Session, collection: Collection, arguments: Mapping[str, Any]
) -> Run | None:
    """A new run, committed by itself, so that the ledger also knows of one whose first page fails; None when
    another delivery of this first message has done it all meanwhile, or the collection is gone."""
    with transaction() as own:
        open_run(own, collection.id, task.kind.workflow, task.request.id, arguments)
    run = lock_run(session, task.request.id)
    if run is None or not is_active(run):
        task.kind.lock(collection.id, task.request.id).release()
        return None
    return run


def _after_second_delivery(task: ChainTask, collection_id: int, *, came_back: bool) -> None:
    """After a page that is done already.

    When the message came back, or is a retry, or is begun again after an outage, whoever did the page may
    have died or failed since its commit: what there is to apply is published again, which does no harm where
    it is under way, and the expected link is sent once more. Whichever copy of that comes second is none of
    these, and ends without sending anything.
    """
    if came_back or task.request.delivery_info.get("redelivered") or task.request.retries:
        publish_applies_of(collection_id)
        with transaction() as session:
            run = find_run(session, task.request.id)
            expected = dict(run.cursor) if run is not None and is_active(run) else None
        if expected is not None:
            send_link(task, collection_id, task.request.id, expected)


def send_link(task: ChainTask, collection_id: int, task_id: str, arguments: Mapping[str, Any]) -> None:
    """Send a link of the chain that goes by `task_id`."""
    task.apply_async((collection_id,), dict(arguments), task_id=task_id)


def _note_retry(task: ChainTask, collection_id: int, error: BaseException) -> None:
    log.warning("the page will be tried again", retry=task.request.retries + 1, reason=_reason(error))
    task.kind.lock(collection_id, task.request.id).extend()
    # The database itself may be what failed: the retry matters more than the note of it.
    with suppress(OperationalError), transaction() as session:
        run = lock_run(session, task.request.id)
        if run is not None and is_active(run):
            note_retry(run, _reason(error), retry=task.request.retries + 1)


def _reason(error: BaseException) -> str:
    if isinstance(error, _EXPECTED):
        return str(error)
    return f"{type(error).__name__}: {error}"


@task_failure.connect  # type: ignore[untyped-decorator]
def _end_failed_run(sender: Any, task_id: str, exception: BaseException, args: Any, **_: Any) -> None:
    """Close the run and free the lock, whatever ended the chain: an error that is not retried, the last
    retry, a child lost too often, the time limit. Celery says so in the child or in its parent."""
    if not isinstance(sender, ChainTask):
        return
    page = None
    try:
        with transaction() as session:
            run = lock_run(session, task_id)
            if run is not None and is_active(run):
                page = run.pages + 1
                end_run(run, RunState.FAILED, _reason(exception))
    finally:
        sender.kind.lock(args[0], task_id).release()
    log.error(
        "the run has failed",
        workflow=sender.kind.workflow.value,
        collection=args[0],
        run=task_id,
        page=page,
        reason=_reason(exception),
    )
