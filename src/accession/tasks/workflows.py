"""Which tasks are each workflow's: its chain for one collection, and the start of all chains."""

from collections.abc import Mapping

from celery import Task

from accession.catalog.ledger import Workflow
from accession.tasks import circulation, events, purchases
from accession.tasks.chain import ChainTask

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
