"""Resume runs whose message was lost, or is held by a worker that died."""

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import Any

import structlog
from celery import bootsteps
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from accession.core.clock import utc_now
from accession.core.errors import UserError
from accession.core.settings import get_settings
from accession.core.workflow import SCHEDULED_WORKFLOWS, Workflow
from accession.db.engine import transaction
from accession.db.models import Run
from accession.runs.ledger import active_runs, find_run, is_active, list_last_starts
from accession.tasks.app import app, longest_step_seconds
from accession.tasks.apply import publish_stale_applies
from accession.tasks.workflow_task import enqueue_step, start_runs
from accession.tasks.workflows import STEP_TASKS, schedule_of

log = structlog.get_logger(__name__)

_DATABASE_WAIT_SECONDS = 2.0
_WORKER_PING_SECONDS = 1.0
# The message that starts a workflow may be queued behind others.
_MISSED_AFTER = timedelta(minutes=10)


def resume_interrupted_work() -> int:
    """Queue again everything that may have been interrupted; return the number of active runs.

    This is every message that a worker has taken, the next step of every active run, and every apply. What
    is queued twice because its worker is alive is processed once.
    """
    _requeue_unacknowledged()
    resumed = _enqueue_next_steps(active_runs)
    publish_stale_applies(every_row=True)
    return resumed


class ResumeRunsOnConnect(bootsteps.StartStopStep):  # type: ignore[misc]
    """A step of the worker's consumer that resumes interrupted work at each connection to the broker.

    The worker may replace one that died. If the connection was lost, the broker may have lost its data, and
    the worker has dropped the messages that it kept for a later retry.
    """

    requires = ("celery.worker.consumer.tasks:Tasks",)

    def start(self, consumer: Any) -> None:
        """Resume before the first message is taken, or as soon as the database is available."""
        try:
            resume_interrupted_work()
        except OperationalError as error:
            log.warning("database unavailable, resuming runs later", reason=str(error).splitlines()[0])
            consumer.timer.call_after(_DATABASE_WAIT_SECONDS, self.start, (consumer,))


app.steps["consumer"].add(ResumeRunsOnConnect)


@app.task(ignore_result=True)  # type: ignore[untyped-decorator]
def resume_stalled_runs() -> int:
    """Enqueue the next step of every stalled run; return how many runs there were.

    The broker can lose a message: together with its data, or while a dying worker takes it. If the message
    was not lost after all, the step is still processed once.
    """
    return _enqueue_next_steps(lambda session: active_runs(session, stalled_since=stalled_since()))


@app.task(ignore_result=True)  # type: ignore[untyped-decorator]
def start_missed_runs() -> int:
    """Start the scheduled runs that are ten minutes overdue; return how many.

    The broker can lose the message that starts a workflow, and then the ledger has no run to resume.
    """
    return sum(_start_missed(workflow) for workflow in SCHEDULED_WORKFLOWS)


def _start_missed(workflow: Workflow) -> int:
    schedule = schedule_of(workflow)
    with transaction() as session:
        start_times = list_last_starts(session, workflow)
    missed = [
        collection_id
        for collection_id, started_at in start_times.items()
        if schedule.remaining_estimate(started_at) < -_MISSED_AFTER
    ]
    if missed:
        log.warning("starting missed runs", workflow=workflow.value, collections=missed)
    return len(start_runs(STEP_TASKS[workflow], missed))


def resume_run(task_id: str) -> bool:
    """Enqueue the next step of a run; return False if the run has ended."""

    def find(session: Session) -> Sequence[Run]:
        run = find_run(session, task_id)
        return [run] if run is not None and is_active(run) else []

    return bool(_enqueue_next_steps(find))


def stalled_since() -> datetime:
    """Return the time (UTC) since when a run must have moved not to count as stalled.

    No step or retry may take longer than that.
    """
    return utc_now() - timedelta(seconds=longest_step_seconds(get_settings()))


def _enqueue_next_steps(find: Callable[[Session], Sequence[Run]]) -> int:
    with transaction() as session:
        runs = find(session)
        steps = [(run.workflow, run.collection_id, run.task_id, run.cursor) for run in runs]
        for run in runs:
            run.updated_at = utc_now()
    for workflow, collection_id, task_id, cursor in steps:
        log.warning("resuming run", run=task_id, collection=collection_id)
        enqueue_step(STEP_TASKS[Workflow(workflow)], collection_id, task_id, cursor)
    return len(steps)


def _requeue_unacknowledged() -> None:
    """Queue again every message that a worker has taken and not acknowledged.

    kombu does this after the visibility timeout, which must be longer than the longest wait for a retry.
    """
    with app.connection_for_write() as connection, connection.channel() as channel:
        for queue in app.amqp.queues.values():
            queue(channel).declare()
        for tag in channel.client.zrange(channel.unacked_index_key, 0, -1):
            channel.qos.restore_by_tag(tag, channel.client)


def ensure_no_workers() -> None:
    """Check that no worker is running.

    Raises:
        UserError: at least one worker answers.
    """
    if replies := app.control.ping(timeout=_WORKER_PING_SECONDS):
        names = ", ".join(sorted(name for reply in replies for name in reply))
        raise UserError(f"Workers are running ({names}): stop all of them first; nothing was changed.")


def discard_queued_work() -> None:
    """Delete all messages, queued or unacknowledged, and all workflow locks.

    For replacing the ledger, as in a restore: the message of a run that the new ledger does not have would
    start that run at the message's cursor, and move the checkpoint beyond what is stored. The active runs
    of the new ledger are resumed when a worker connects.

    Raises:
        UserError: a worker is running, which may hold such a message.
    """
    ensure_no_workers()
    with app.connection_for_write() as connection, connection.channel() as channel:
        for queue in app.amqp.queues.values():
            bound_queue = queue(channel)
            bound_queue.declare()
            bound_queue.purge()
        channel.client.delete(channel.unacked_key, channel.unacked_index_key)
        for task in STEP_TASKS.values():
            for lock in channel.client.scan_iter(f"{task.lock_key}:*"):
                channel.client.delete(lock)
