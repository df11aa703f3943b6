"""The events' chain: a slice of time is one link."""

from datetime import timedelta

import structlog
from sqlalchemy.orm import Session

from accession.core.clock import moment_of, utc_now, whole_second
from accession.core.workflow import Workflow
from accession.db.models import Collection, Run
from accession.imports.events import OVERLAP, SLICE_SIZE, BibliothecaEventImporter
from accession.imports.vendor import api_for
from accession.runs.ledger import Counters
from accession.tasks.app import app
from accession.tasks.chain import FAN_OUT, ChainKind, ChainTask, Outcome, Step, run_link, start_everywhere
from accession.tasks.metrics import request_counter
from accession.tasks.vendor import vendor_turn

log = structlog.get_logger(__name__)

EVENTS = ChainKind(Workflow.EVENTS, "ImportCollectionWorkflow")
_SLICE_SECONDS = int(SLICE_SIZE.total_seconds())


@app.task(**FAN_OUT)  # type: ignore[untyped-decorator]
def import_all_collections() -> None:
    """Start the events' chain of every collection."""
    start_everywhere(import_collection)


@app.task(bind=True, base=ChainTask, kind=EVENTS)  # type: ignore[untyped-decorator]
def import_collection(
    self: ChainTask, collection_id: int, *, start: str | None = None, slice_seconds: int = _SLICE_SECONDS
) -> Outcome | None:
    """Import one slice of events, then send the next link until five minutes ago is reached.

    `start` (ISO 8601) is used as it is; without it the checkpoint says where to start. `slice_seconds` is
    how wide this slice may be.
    """

    def step(session: Session, collection: Collection, run: Run) -> Step:
        api = api_for(collection, vendor_turn(collection_id, self.request.id), request_counter())
        importer = BibliothecaEventImporter(session, collection, api, run)
        cutoff = whole_second(utc_now()) - OVERLAP
        begin = whole_second(moment_of(start)) if start else importer.get_start(cutoff)
        if begin >= cutoff:
            log.info("already up to date", start=begin.isoformat())
            return Step(Counters(pages=0), since=begin)
        result = importer.import_time_slice(begin, cutoff, timedelta(seconds=slice_seconds))
        log.info(
            "slice imported",
            start=begin.isoformat(),
            end=result.slice_end.isoformat(),
            events=result.events_fetched,
            new=result.events_new,
            rejected=result.events_rejected,
        )
        next_arguments = {
            "start": result.slice_end.isoformat(),
            "slice_seconds": int(result.next_slice_size.total_seconds()),
        }
        done = result.slice_end >= cutoff
        return Step(result.counters, begin, None if done else next_arguments, result.outbox_ids)

    return run_link(self, collection_id, {"start": start, "slice_seconds": slice_seconds}, step)
