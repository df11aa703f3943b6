"""The tasks of each workflow, and starting a workflow on request."""

from collections.abc import Iterable, Mapping

from celery import Task

from accession.core.errors import InvalidInput
from accession.core.workflow import Workflow
from accession.tasks import backfill, circulation, events, purchases, verification
from accession.tasks.workflow_task import WorkflowTask, start_requested_runs

STEP_TASKS: Mapping[Workflow, WorkflowTask] = {
    Workflow.PURCHASES: purchases.import_purchase_records_by_collection,
    Workflow.EVENTS: events.import_collection,
    Workflow.CIRCULATION: circulation.circulation_update_collection,
    Workflow.VERIFICATION: verification.verify_purchases_by_collection,
    Workflow.BACKFILL: backfill.backfill_purchases_by_collection,
}
"""The task that processes a run's steps for one collection."""

FAN_OUT_TASKS: Mapping[Workflow, Task] = {
    Workflow.PURCHASES: purchases.import_purchase_records_for_all_collections,
    Workflow.EVENTS: events.import_all_collections,
    Workflow.CIRCULATION: circulation.circulation_update_all_collections,
}
"""The task that starts a run of a scheduled workflow for every collection at once."""


def start_workflow(
    workflow: Workflow, collection_ids: Iterable[int], *, force_reimport: bool = False
) -> dict[int, str]:
    """Queue a run for each collection; return the task id of each run by collection id.

    Raises:
        InvalidInput: see `check_start`.
        UserError: the workflow is paused for all of the collections.
    """
    check_start(workflow, force_reimport=force_reimport)
    if workflow is Workflow.VERIFICATION:
        return verification.start_verification(collection_ids)
    arguments = purchases.start_arguments(force_reimport=force_reimport)
    return start_requested_runs(STEP_TASKS[workflow], collection_ids, **arguments)


def check_start(workflow: Workflow, *, force_reimport: bool) -> None:
    """Check that `start_workflow` can start this workflow.

    Raises:
        InvalidInput: `force_reimport` was requested for another workflow than purchases, or a backfill, which
            needs a range of days.
    """
    if force_reimport and workflow is not Workflow.PURCHASES:
        raise InvalidInput(
            f"Only purchases can be imported again from 2014, not {workflow}: leave out the forced reimport."
        )
    if workflow is Workflow.BACKFILL:
        raise InvalidInput(
            "A backfill needs a first and a last day: use `accession import purchases --from DAY --to DAY`."
        )
