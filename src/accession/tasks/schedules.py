"""The Celery task that starts the runs that are due by the schedules of the collections."""

from uuid import uuid4

import structlog

from accession.core.clock import utc_now
from accession.db.engine import transaction
from accession.runs.ledger import queue_runs
from accession.runs.schedules import take_due_starts
from accession.tasks.app import app
from accession.tasks.control import end_expired_pauses
from accession.tasks.workflow_task import enqueue_step
from accession.tasks.workflows import STEP_TASKS

log = structlog.get_logger(__name__)


@app.task(ignore_result=True)  # type: ignore[untyped-decorator]
def start_due_runs() -> int:
    """Start the runs that are due by their schedules; return how many.

    Each occurrence of a schedule is started once, however many schedulers and workers there are: the run is
    committed to the ledger together with the record that it is started, before its message is published. A
    message that the broker loses is published again (`accession.tasks.recovery.resume_lost_work`).
    """
    with transaction() as session:
        starts = {str(uuid4()): schedule for schedule in take_due_starts(session)}
        for task_id, schedule in starts.items():
            queue_runs(session, schedule.workflow, {schedule.collection_id: task_id}, {})
    for task_id, schedule in starts.items():
        late_seconds = round((utc_now() - schedule.next_start).total_seconds())
        log.info(
            "scheduled run queued",
            workflow=schedule.workflow.value,
            collection=schedule.collection_id,
            run=task_id,
            late_seconds=late_seconds,
        )
        enqueue_step(STEP_TASKS[schedule.workflow], schedule.collection_id, task_id, {})
    end_expired_pauses()
    return len(starts)
