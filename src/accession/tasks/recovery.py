"""Going on with work whose message is lost, or is with a worker that is no more."""

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
from accession.core.workflow import Workflow
from accession.db.engine import transaction
from accession.db.models import Run
from accession.runs.ledger import active_runs, find_run, is_active, last_started
from accession.tasks.app import app, longest_wait_seconds
from accession.tasks.apply import publish_left_applies
from accession.tasks.chain import send_link, start_chains
from accession.tasks.workflows import CHAINS, schedule_of

log = structlog.get_logger(__name__)

_DATABASE_WAIT_SECONDS = 2.0
_WORKER_ANSWERS_WITHIN_SECONDS = 1.0
# The message that starts all chains may wait its turn behind others.
_MISSED_AFTER = timedelta(minutes=10)


def resume_interrupted_work() -> int:
    """Afterwards every message that a worker had taken is queued again, and so is the expected link of
    every run that has not ended, and every apply. Returns the number of runs that go on.

    What is queued twice that way, because its worker lives, is done once.
    """
    _give_back_unacknowledged()
    sent = _send_expected_links(active_runs)
    publish_left_applies(every_row=True)
    return sent


class ResumeWhenConnected(bootsteps.StartStopStep):  # type: ignore[misc]
    """Has a worker resume interrupted work whenever it has connected to the broker.

    It may be the one that takes the place of a worker that died. Or the connection was lost: then the
    broker may have lost its data, and the worker has forgotten the messages that waited in it for a retry.
    """

    requires = ("celery.worker.consumer.tasks:Tasks",)

    def start(self, consumer: Any) -> None:
        """Before the first message is taken; once the database is there, if it is away."""
        try:
            resume_interrupted_work()
        except OperationalError as error:
            log.warning("the database is away; interrupted work waits", reason=str(error).splitlines()[0])
            consumer.timer.call_after(_DATABASE_WAIT_SECONDS, self.start, (consumer,))


app.steps["consumer"].add(ResumeWhenConnected)


@app.task(ignore_result=True)  # type: ignore[untyped-decorator]
def resume_silent_runs() -> int:
    """Send the expected link of every run that has not moved for longer than any page or retry may take;
    returns how many.

    A broker can lose a message, with its data or in the moment in which a worker that dies takes it.
    Should the message still be somewhere, the link writes once all the same.
    """
    return _send_expected_links(lambda session: active_runs(session, silent_since=silent_since()))


@app.task(ignore_result=True)  # type: ignore[untyped-decorator]
def start_missed_runs() -> int:
    """Start every run that the schedule should have begun and that has not begun for a while; returns how
    many.

    The message that starts all chains can be lost as any other, and no ledger knows of it.
    """
    return sum(_start_missed(workflow) for workflow in Workflow)


def _start_missed(workflow: Workflow) -> int:
    schedule = schedule_of(workflow)
    with transaction() as session:
        last = last_started(session, workflow)
    missed = [
        collection_id
        for collection_id, moment in last.items()
        if schedule.remaining_estimate(moment) < -_MISSED_AFTER
    ]
    if missed:
        log.warning("runs that were missed are started", workflow=workflow.value, collections=missed)
    return len(start_chains(CHAINS[workflow], missed))


def send_expected_link(task_id: str) -> bool:
    """Send the expected link of one run; whether it had not ended."""

    def one(session: Session) -> Sequence[Run]:
        run = find_run(session, task_id)
        return [run] if run is not None and is_active(run) else []

    return bool(_send_expected_links(one))


def silent_since() -> datetime:
    """A run that has not moved since then has been silent for longer than any page or retry may take."""
    return utc_now() - timedelta(seconds=longest_wait_seconds(get_settings()))


def _send_expected_links(find: Callable[[Session], Sequence[Run]]) -> int:
    with transaction() as session:
        runs = find(session)
        waiting = [(run.workflow, run.collection_id, run.task_id, run.cursor) for run in runs]
        for run in runs:
            run.updated_at = utc_now()
    for workflow, collection_id, task_id, cursor in waiting:
        log.warning("an interrupted run goes on", run=task_id, collection=collection_id)
        send_link(CHAINS[Workflow(workflow)], collection_id, task_id, cursor)
    return len(waiting)


def _give_back_unacknowledged() -> None:
    """Queue every message again that a worker has taken and not acknowledged.

    kombu would do so when the visibility timeout is over, which must be longer than any wait for a retry.
    """
    with app.connection_for_write() as connection, connection.channel() as channel:
        for queue in app.amqp.queues.values():
            queue(channel).declare()
        for tag in channel.client.zrange(channel.unacked_index_key, 0, -1):
            channel.qos.restore_by_tag(tag, channel.client)


def refuse_workers() -> None:
    """Raise `UserError` when a worker answers."""
    if answers := app.control.ping(timeout=_WORKER_ANSWERS_WITHIN_SECONDS):
        names = ", ".join(sorted(name for answer in answers for name in answer))
        raise UserError(f"Workers are running ({names}): stop every one first; nothing was changed.")


def forget_queued_work() -> None:
    """Afterwards no message waits, none comes back from a worker that is no more, and no workflow is locked.

    For when the ledger becomes another: a message of a run that this one does not know would begin it
    where the message says, and set the checkpoint beyond what is stored. Runs of the new ledger go on when
    a worker connects. Raises `UserError` when a worker answers, which might hold such a message.
    """
    refuse_workers()
    with app.connection_for_write() as connection, connection.channel() as channel:
        for queue in app.amqp.queues.values():
            bound = queue(channel)
            bound.declare()
            bound.purge()
        channel.client.delete(channel.unacked_key, channel.unacked_index_key)
        for chain in CHAINS.values():
            for lock in channel.client.scan_iter(f"{chain.kind.lock_key}:*"):
                channel.client.delete(lock)
