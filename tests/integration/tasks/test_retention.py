"""The task that deletes old rows and records the sizes of the tables."""

from datetime import timedelta

import time_machine
from sqlalchemy import select
from sqlalchemy.orm import Session

from accession.core.workflow import Workflow
from accession.db.models import Collection, Run, TableSize
from accession.runs.ledger import RunCounters, find_run, open_run, record_step
from tests.fixtures.broker import Broker, Message
from tests.fixtures.factories import NOON


def deliver_pruning(broker: Broker) -> object:
    from accession.tasks.retention import prune_old_rows as task

    return broker.deliver(Message(task.name, "task-id", [], {}, 0, None))


def test_task_deletes_old_rows_and_records_sizes(
    session: Session, collection: Collection, broker: Broker
) -> None:
    for number in range(3):
        with time_machine.travel(NOON + timedelta(days=number), tick=False):
            open_run(session, collection.id, Workflow.EVENTS, f"task-{number}", {})
            run = find_run(session, f"task-{number}")
            assert run is not None
            record_step(run, RunCounters(), since=None, next_cursor=None)
    session.commit()
    with time_machine.travel(NOON + timedelta(days=91, minutes=1), tick=False):
        assert deliver_pruning(broker) == 2
        assert deliver_pruning(broker) == 0

    assert session.scalars(select(Run.task_id)).all() == ["task-2"]
    recorded = session.scalars(
        select(TableSize.name).where(TableSize.day == (NOON + timedelta(days=91)).date())
    )
    assert "runs" in recorded.all()
