"""Take over the work of workers that died, and resume work whose message was lost."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Any

import psutil
import structlog
from celery import bootsteps
from celery.utils.nodenames import gethostname
from kombu.exceptions import OperationalError as BrokerError
from redis.exceptions import RedisError
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from accession.core.clock import utc_now
from accession.core.errors import UserError
from accession.core.settings import get_settings
from accession.core.workflow import Workflow
from accession.db.engine import transaction
from accession.db.models import Run
from accession.runs.ledger import active_runs, find_run, is_active
from accession.runs.pauses import list_pauses
from accession.tasks.app import app, longest_step_seconds
from accession.tasks.apply import publish_lost_applies
from accession.tasks.deliveries import find_pending_work, own_keys
from accession.tasks.heartbeats import (
    HEARTBEAT_SECONDS,
    WORKER_NAME,
    list_silent_workers,
    list_workers,
    record_worker_stop,
    unregister_worker,
)
from accession.tasks.workflow_task import enqueue_step
from accession.tasks.workflows import STEP_TASKS

log = structlog.get_logger(__name__)

_DATABASE_WAIT_SECONDS = 2.0
_WORKER_PING_SECONDS = 1.0


class TakeOver(bootsteps.StartStopStep):  # type: ignore[misc]
    """A step of the worker's consumer that takes over the work of dead workers, and work that was lost.

    At each connection to the broker, the worker queues again what it had received over the one before, which
    cannot be acknowledged any more. Meanwhile the broker may have lost its data.
    """

    requires = ("celery.worker.consumer.tasks:Tasks",)

    def __init__(self, consumer: Any, **options: Any) -> None:
        super().__init__(consumer, **options)
        self._timer: Any = None

    def start(self, consumer: Any) -> None:
        """Take over before the first message is received, and then every few seconds."""
        requeue_messages_of(consumer.hostname)
        take_over_from_dead_workers(consumer.hostname)
        self._resume_lost_work(consumer)
        self._timer = consumer.timer.call_repeatedly(
            HEARTBEAT_SECONDS, _take_over_later, (consumer.hostname,)
        )

    def stop(self, consumer: Any) -> None:
        """Stop; called when the worker stops or loses the broker."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _resume_lost_work(self, consumer: Any) -> None:
        try:
            resume_lost_work()
        except OperationalError as error:
            log.warning("database unavailable, resuming runs later", reason=str(error).splitlines()[0])
            consumer.timer.call_after(_DATABASE_WAIT_SECONDS, self._resume_lost_work, (consumer,))


class OwnMessages(bootsteps.Step):  # type: ignore[misc]
    """A step of the worker that keeps the messages which it receives under keys of its own."""

    def __init__(self, worker: Any, **options: Any) -> None:
        super().__init__(worker, **options)
        configuration = worker.app.conf
        configuration.broker_transport_options = {
            **configuration.broker_transport_options,
            **own_keys(worker.hostname),
        }


app.steps["consumer"].add(TakeOver)
app.steps["worker"].add(OwnMessages)


def _take_over_later(observer: str) -> None:
    # The database may be slow, so that a child process asks it, and not the one that receives messages.
    with suppress(RedisError, BrokerError):
        if take_over_from_dead_workers(observer):
            resume_lost_work.delay()


def take_over_from_dead_workers(observer: str) -> Sequence[str]:
    """Queue again the messages of all workers that have died or stopped; return the names of these workers.

    A worker is dead if it has been silent for 30 seconds, or if it ran on this machine and has ended. The
    observer, in whose name this is done, is alive.
    """
    for worker in filter(_has_ended_here, list_workers()):
        record_worker_stop(worker)
    dead = list_silent_workers(observer)
    for worker in dead:
        messages = requeue_messages_of(worker)
        unregister_worker(worker)
        log.warning("took over from a worker that has ended", worker=worker, messages=messages)
    return dead


def _has_ended_here(worker: str) -> bool:
    match = WORKER_NAME.fullmatch(worker)
    return match is not None and match["host"] == gethostname() and not psutil.pid_exists(int(match["pid"]))


def requeue_messages_of(worker: str) -> int:
    """Queue again every message that a worker has received and not acknowledged; return their number.

    What is delivered twice, because the worker is alive after all, is processed once.
    """
    with (
        app.connection_for_write(transport_options=own_keys(worker)) as connection,
        connection.channel() as channel,
    ):
        for queue in app.amqp.queues.values():
            queue(channel).declare()
        tags = channel.client.zrange(channel.unacked_index_key, 0, -1)
        for tag in tags:
            channel.qos.restore_by_tag(tag, channel.client)
    return len(tags)


@app.task(ignore_result=True)  # type: ignore[untyped-decorator]
def resume_lost_work() -> int:
    """Queue again every step and apply for which the broker has no message; return the number of steps.

    The broker loses messages together with its data, or when a worker dies while it receives one. What is
    queued twice is processed once.
    """
    resumed = _enqueue_next_steps(_find_lost_runs)
    publish_lost_applies()
    return resumed


def _find_lost_runs(session: Session) -> Sequence[Run]:
    runs = _without_paused(session, active_runs(session))
    pending = find_pending_work().task_ids
    return [run for run in runs if run.task_id not in pending]


def _without_paused(session: Session, runs: Sequence[Run]) -> Sequence[Run]:
    """Return the runs of workflows that are not paused: the others resume after the pause."""
    paused = list_pauses(session)
    return [run for run in runs if (run.collection_id, run.workflow) not in paused]


@app.task(ignore_result=True)  # type: ignore[untyped-decorator]
def resume_stalled_runs() -> int:
    """Enqueue the next step of every stalled run; return how many runs there were.

    Their worker may be hung. If the step is processed after all, that is done once.
    """

    def find(session: Session) -> Sequence[Run]:
        return _without_paused(session, active_runs(session, stalled_since=stalled_since()))

    return _enqueue_next_steps(find)


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
        for key in channel.client.scan_iter("unacked*"):
            channel.client.delete(key)
        for task in STEP_TASKS.values():
            for lock in channel.client.scan_iter(f"{task.lock_key}:*"):
                channel.client.delete(lock)
