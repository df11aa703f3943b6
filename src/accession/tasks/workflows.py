"""The tasks and the schedule of each workflow, and starting a workflow on request."""

from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta

from celery import Task
from celery.schedules import BaseSchedule

from accession.core.clock import truncate_to_second, utc_now
from accession.core.errors import InvalidInput
from accession.core.workflow import Workflow
from accession.tasks import circulation, events, purchases, verification
from accession.tasks.app import app
from accession.tasks.workflow_task import WorkflowTask, start_runs

STEP_TASKS: Mapping[Workflow, WorkflowTask] = {
    Workflow.PURCHASES: purchases.import_purchase_records_by_collection,
    Workflow.EVENTS: events.import_collection,
    Workflow.CIRCULATION: circulation.circulation_update_collection,
    Workflow.VERIFICATION: verification.verify_purchases_by_collection,
}
"""The task that processes a run's steps for one collection."""

FAN_OUT_TASKS: Mapping[Workflow, Task] = {
    Workflow.PURCHASES: purchases.import_purchase_records_for_all_collections,
    Workflow.EVENTS: events.import_all_collections,
    Workflow.CIRCULATION: circulation.circulation_update_all_collections,
}
"""The task that starts a run of a scheduled workflow for every collection."""


def schedule_of(workflow: Workflow) -> BaseSchedule:
    """Return beat's schedule for a scheduled workflow."""
    (schedule,) = (
        entry["schedule"]
        for entry in app.conf.beat_schedule.values()
        if entry["task"] == FAN_OUT_TASKS[workflow].name
    )
    return schedule


def next_start(workflow: Workflow) -> datetime:
    """Return when beat starts a scheduled workflow next (UTC)."""
    now = utc_now()
    # The schedule reads its own clock some microseconds later; without rounding a second would be missing.
    return truncate_to_second(now + schedule_of(workflow).remaining_estimate(now) + timedelta(seconds=0.5))


def start_workflow(
    workflow: Workflow, collection_ids: Iterable[int], *, force_reimport: bool = False
) -> dict[int, str]:
    """Queue a run for each collection; return the task id of each run by collection id.

    Raises:
        InvalidInput: `force_reimport` was requested for another workflow than purchases.
    """
    if force_reimport and workflow is not Workflow.PURCHASES:
        raise InvalidInput(
            f"Only purchases can be imported again from 2014, not {workflow}: leave out the forced reimport."
        )
    if workflow is Workflow.VERIFICATION:
        return verification.start_verification(collection_ids)
    arguments = purchases.start_arguments(force_reimport=force_reimport)
    return start_runs(STEP_TASKS[workflow], collection_ids, **arguments)
