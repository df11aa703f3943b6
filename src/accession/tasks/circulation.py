"""The sweep's chain: a batch of titles is one link."""

import structlog
from sqlalchemy.orm import Session

from accession.core.workflow import Workflow
from accession.db.models import Collection, Run
from accession.imports.circulation import BibliothecaCirculationUpdater
from accession.imports.vendor import api_for
from accession.tasks.app import app
from accession.tasks.chain import FAN_OUT, ChainKind, ChainTask, Outcome, Step, run_link, start_everywhere
from accession.tasks.metrics import request_counter
from accession.tasks.vendor import vendor_turn

log = structlog.get_logger(__name__)

CIRCULATION = ChainKind(Workflow.CIRCULATION, "CirculationUpdateWorkflow")


@app.task(**FAN_OUT)  # type: ignore[untyped-decorator]
def circulation_update_all_collections() -> None:
    """Start the sweep of every collection."""
    start_everywhere(circulation_update_collection)


@app.task(bind=True, base=ChainTask, kind=CIRCULATION)  # type: ignore[untyped-decorator]
def circulation_update_collection(
    self: ChainTask, collection_id: int, *, offset: int | None = None
) -> Outcome | None:
    """Ask about one batch of titles, then send the next link until all have been asked about.

    `offset` is the id of an identifier, after which the batch begins; without it the checkpoint says
    where to go on.
    """

    def step(session: Session, collection: Collection, run: Run) -> Step:
        api = api_for(collection, vendor_turn(collection_id, self.request.id), request_counter())
        updater = BibliothecaCirculationUpdater(session, collection, api)
        begin = updater.get_offset() if offset is None else offset
        result = updater.update_batch(begin)
        log.info(
            "batch updated",
            offset=begin,
            titles=result.titles_asked,
            changed=result.titles_changed,
            gone=result.titles_gone,
        )
        next_arguments = None if result.next_offset is None else {"offset": result.next_offset}
        return Step(result.counters, next_arguments=next_arguments, outbox_ids=result.outbox_ids)

    return run_link(self, collection_id, {"offset": offset}, step)
