"""Which tasks are each workflow's: its chain for one collection, and the start of all chains."""

from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta

from celery import Task
from celery.schedules import BaseSchedule

from accession.core.clock import utc_now, whole_second
from accession.core.errors import Unusable
from accession.core.workflow import Workflow
from accession.tasks import circulation, events, purchases
from accession.tasks.app import app
from accession.tasks.chain import ChainTask, start_chains

CHAINS: Mapping[Workflow, ChainTask] = {
    Workflow.PURCHASES: purchases.import_purchase_records_by_collection,
    Workflow.EVENTS: events.import_collection,
    Workflow.CIRCULATION: circulation.circulation_update_collection,
}

FAN_OUTS: Mapping[Workflow, Task] = {
    Workflow.PURCHASES: purchases.import_purchase_records_for_all_collections,
    Workflow.EVENTS: events.import_all_collections,
    Workflow.CIRCULATION: circulation.circulation_update_all_collections,
}


def schedule_of(workflow: Workflow) -> BaseSchedule:
    """When beat starts all chains of the workflow."""
    (schedule,) = (
        entry["schedule"]
        for entry in app.conf.beat_schedule.values()
        if entry["task"] == FAN_OUTS[workflow].name
    )
    return schedule


def next_start(workflow: Workflow) -> datetime:
    """When beat starts all chains of the workflow the next time (UTC)."""
    now = utc_now()
    # Some microseconds have gone by until the schedule looks at its own clock.
    return whole_second(now + schedule_of(workflow).remaining_estimate(now) + timedelta(seconds=0.5))


def start_workflow(
    workflow: Workflow, collection_ids: Iterable[int], *, force_reimport: bool = False
) -> dict[int, str]:
    """Queue the workflow's chain for each collection; the task id, and so the run, of each.

    Raises `Unusable` for a reimport of anything but purchases: nothing else begins in the past.
    """
    if force_reimport and workflow is not Workflow.PURCHASES:
        raise Unusable(f"Only purchases can be imported again from 2014 on, not {workflow}: leave it out.")
    arguments = purchases.start_arguments(force_reimport=force_reimport)
    return start_chains(CHAINS[workflow], collection_ids, **arguments)
