"""Celery tasks of the event import; one step imports a slice of time."""

from datetime import timedelta

import structlog
from sqlalchemy.orm import Session

from accession.bibliotheca.client import BibliothecaAPI
from accession.core.clock import parse_datetime, truncate_to_second, utc_now
from accession.core.workflow import Workflow
from accession.db.models import Collection, Run
from accession.imports.events import OVERLAP, SLICE_SIZE, BibliothecaEventImporter
from accession.runs.ledger import RunCounters
from accession.tasks.app import app
from accession.tasks.step_recorder import StepSpan
from accession.tasks.steps import RunOutcome, StepResult, run_step
from accession.tasks.workflow_task import FAN_OUT_OPTIONS, WorkflowTask, start_for_all_collections

log = structlog.get_logger(__name__)

_SLICE_SECONDS = int(SLICE_SIZE.total_seconds())


@app.task(**FAN_OUT_OPTIONS)  # type: ignore[untyped-decorator]
def import_all_collections() -> None:
    """Start an event import for every collection."""
    start_for_all_collections(import_collection)


@app.task(  # type: ignore[untyped-decorator]
    bind=True, base=WorkflowTask, workflow=Workflow.EVENTS, lock_key="ImportCollectionWorkflow"
)
def import_collection(
    self: WorkflowTask, collection_id: int, *, start: str | None = None, slice_seconds: int = _SLICE_SECONDS
) -> RunOutcome | None:
    """Import one slice of events, then enqueue the next until five minutes before now.

    `start` (ISO 8601) is the start of the slice; by default it is read from the checkpoint.
    `slice_seconds` is the slice's maximum length.
    """

    def step(session: Session, collection: Collection, run: Run, api: BibliothecaAPI) -> StepResult:
        importer = BibliothecaEventImporter(session, collection, api, run)
        cutoff = truncate_to_second(utc_now()) - OVERLAP
        begin = truncate_to_second(parse_datetime(start)) if start else importer.get_start(cutoff)
        if begin >= cutoff:
            log.info("already up to date", start=begin.isoformat())
            return StepResult(RunCounters(pages=0), since=begin)
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
        span = StepSpan(begin, result.slice_end)
        return StepResult(result.counters, begin, None if done else next_arguments, result.outbox_ids, span)

    return run_step(self, collection_id, {"start": start, "slice_seconds": slice_seconds}, step)
