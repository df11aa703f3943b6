"""Celery tasks of the circulation sweep; one step updates a batch of titles."""

import structlog
from sqlalchemy.orm import Session

from accession.bibliotheca.client import BibliothecaAPI
from accession.core.workflow import Workflow
from accession.db.models import Collection, Run
from accession.imports.circulation import BibliothecaCirculationUpdater
from accession.tasks.app import app
from accession.tasks.step_recorder import StepSpan
from accession.tasks.steps import RunOutcome, StepResult, run_step
from accession.tasks.workflow_task import FAN_OUT_OPTIONS, WorkflowTask, start_for_all_collections

log = structlog.get_logger(__name__)


@app.task(**FAN_OUT_OPTIONS)  # type: ignore[untyped-decorator]
def circulation_update_all_collections() -> None:
    """Start a sweep of every collection."""
    start_for_all_collections(circulation_update_collection)


@app.task(  # type: ignore[untyped-decorator]
    bind=True, base=WorkflowTask, workflow=Workflow.CIRCULATION, lock_key="CirculationUpdateWorkflow"
)
def circulation_update_collection(
    self: WorkflowTask, collection_id: int, *, offset: int | None = None
) -> RunOutcome | None:
    """Update one batch of titles, then enqueue the next until the last title is done.

    `offset` is the identifier id after which the batch starts; by default it is read from the checkpoint.
    """

    def step(session: Session, collection: Collection, run: Run, api: BibliothecaAPI) -> StepResult:
        updater = BibliothecaCirculationUpdater(session, collection, api)
        begin = updater.get_offset() if offset is None else offset
        result = updater.update_batch(begin)
        log.info(
            "batch updated",
            offset=begin,
            titles=result.titles_requested,
            changed=result.titles_changed,
            withdrawn=result.titles_withdrawn,
        )
        next_arguments = None if result.next_offset is None else {"offset": result.next_offset}
        return StepResult(result.counters, None, next_arguments, result.outbox_ids, StepSpan(offset=begin))

    return run_step(self, collection_id, {"offset": offset}, step)
