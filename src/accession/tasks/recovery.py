"""Going on with chains whose message is lost, or is with a worker that is no more."""

import math
from datetime import datetime, timedelta

import structlog

from accession.catalog.ledger import Workflow, active_runs
from accession.clock import utc_now
from accession.database import transaction
from accession.settings import get_settings
from accession.tasks.app import app, longest_wait_seconds
from accession.tasks.apply import publish_left_applies
from accession.tasks.chain import send_link
from accession.tasks.workflows import CHAINS

log = structlog.get_logger(__name__)


def resume_interrupted_work() -> int:
    """Afterwards every message that a dead worker held is queued again, and so is the expected link of
    every run that has not ended, and every apply. Returns the number of runs that go on.

    Only for a broker that no live worker is using. A link that is queued twice that way writes once.
    """
    _give_back_unacknowledged()
    sent = _send_expected_links(silent_since=None)
    publish_left_applies(every_row=True)
    return sent


@app.task(ignore_result=True)  # type: ignore[untyped-decorator]
def resume_silent_runs() -> int:
    """Send the expected link of every run that has not moved for longer than any page or retry may take;
    returns how many.

    A broker can lose a message, with its data or in the moment in which a worker that dies takes it.
    Should the message still be somewhere, the link writes once all the same.
    """
    return _send_expected_links(
        silent_since=utc_now() - timedelta(seconds=longest_wait_seconds(get_settings()))
    )


def _send_expected_links(*, silent_since: datetime | None) -> int:
    with transaction() as session:
        runs = active_runs(session, silent_since=silent_since)
        waiting = [(run.workflow, run.collection_id, run.task_id, run.cursor) for run in runs]
        for run in runs:
            run.updated_at = utc_now()
    for workflow, collection_id, task_id, cursor in waiting:
        log.warning("an interrupted run goes on", run=task_id, collection=collection_id)
        send_link(CHAINS[Workflow(workflow)], collection_id, task_id, cursor)
    return len(waiting)


def _give_back_unacknowledged() -> None:
    """Have kombu treat the visibility timeout of every unacknowledged message as over."""
    # Over since ever, for the clock may have been set back since a message was taken.
    options = app.conf.broker_transport_options | {"visibility_timeout": -math.inf}
    with app.connection_for_write(transport_options=options) as connection, connection.channel() as channel:
        for queue in app.amqp.queues.values():
            queue(channel).declare()
        # A worker killed while it looked for timed-out messages has left this for five minutes.
        channel.client.delete(channel.unacked_mutex_key)
        while (left := channel.client.hlen(channel.unacked_key)) > 0:
            channel.qos.restore_visible(num=1000, interval=1)
            if channel.client.hlen(channel.unacked_key) >= left:
                raise RuntimeError(f"the broker keeps {left} unacknowledged messages that cannot be restored")
