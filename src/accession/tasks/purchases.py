"""Celery tasks of the purchase import; one step imports a page of purchase records."""

from datetime import datetime
from typing import Any

import structlog
from sqlalchemy.orm import Session

from accession.core.clock import parse_datetime, truncate_to_second, utc_now
from accession.core.settings import get_settings
from accession.core.workflow import Workflow
from accession.db.models import Collection, Run
from accession.imports.purchases import (
    DEFAULT_PURCHASE_RECORD_START_TIME,
    BibliothecaPurchaseRecordImporter,
)
from accession.imports.vendor_api import vendor_api_for
from accession.imports.windows import ImportCursor, Width
from accession.runs.ledger import RunCounters
from accession.tasks.app import app
from accession.tasks.metrics import request_counter
from accession.tasks.prefetch_cache import RedisPrefetchCache
from accession.tasks.rate_limiter import request_slot
from accession.tasks.steps import RunOutcome, StepResult, run_step
from accession.tasks.workflow_task import FAN_OUT_OPTIONS, WorkflowTask, start_for_all_collections

log = structlog.get_logger(__name__)


@app.task(**FAN_OUT_OPTIONS)  # type: ignore[untyped-decorator]
def import_purchase_records_for_all_collections(force_reimport: bool = False) -> None:
    """Start a purchase import for every collection."""
    start_for_all_collections(
        import_purchase_records_by_collection, **start_arguments(force_reimport=force_reimport)
    )


def start_arguments(*, force_reimport: bool) -> dict[str, Any]:
    """Return the arguments of a run's first step: none, or those of a forced reimport."""
    if not force_reimport:
        return {}
    return {"current_day": DEFAULT_PURCHASE_RECORD_START_TIME.isoformat(), "reset_timestamp": True}


@app.task(  # type: ignore[untyped-decorator]
    bind=True, base=WorkflowTask, workflow=Workflow.PURCHASES, lock_key="PurchaseRecordCollectionWorkflow"
)
def import_purchase_records_by_collection(
    self: WorkflowTask,
    collection_id: int,
    *,
    current_day: str | None = None,
    offset: int = 1,
    reset_timestamp: bool = False,
    previous_page: str | None = None,
    window_end: str | None = None,
    empty_windows: int = 0,
    next_sale_bound: str | None = None,
) -> RunOutcome | None:
    """Import one page, then enqueue the next until now is reached.

    `current_day` (ISO 8601) is the start of the window; by default it is read from the checkpoint.
    `reset_timestamp` clears the checkpoint with the first page, for a forced reimport. The other arguments
    are the fields of `accession.imports.windows.ImportCursor`.
    """
    arguments = {
        "current_day": current_day,
        "offset": offset,
        "reset_timestamp": reset_timestamp,
        "previous_page": previous_page,
        "window_end": window_end,
        "empty_windows": empty_windows,
        "next_sale_bound": next_sale_bound,
    }

    def step(session: Session, collection: Collection, run: Run) -> StepResult:
        api = vendor_api_for(collection, request_slot(collection_id, self.request.id), request_counter())
        # The first page does not prefetch, so wrong credentials cause one failed request and not four.
        prefetch_cache = RedisPrefetchCache(self.request.id) if run.pages else None
        importer = BibliothecaPurchaseRecordImporter(session, collection, api, run, prefetch_cache)
        now = truncate_to_second(utc_now())
        if reset_timestamp:
            importer.clear_checkpoint()
        start = parse_datetime(current_day) if current_day else importer.get_start()
        if start >= now:
            log.info("already up to date", finish=start.isoformat())
            return StepResult(RunCounters(pages=0), since=start)
        cursor = ImportCursor(
            start,
            offset,
            previous_page,
            _parse_optional(window_end),
            empty_windows,
            _parse_optional(next_sale_bound),
        )
        page = importer.import_day(cursor, now, Width(get_settings().purchase_window))
        log.info(
            "page imported",
            day=page.day_start.date().isoformat(),
            until=page.day_end.date().isoformat(),
            offset=offset,
            records=page.records_fetched,
            rejected=page.records_rejected,
            new=page.titles_new,
        )
        return StepResult(page.counters, start, _next_arguments(page.next_cursor, now), page.outbox_ids)

    return run_step(self, collection_id, arguments, step)


def _next_arguments(cursor: ImportCursor, now: datetime) -> dict[str, Any] | None:
    """Return the arguments of the next step, or None once the present is reached."""
    if cursor.window_end is None and cursor.current_day >= now:
        return None
    fields = {
        name: value.isoformat() if isinstance(value, datetime) else value
        for name, value in vars(cursor).items()
    }
    return {"reset_timestamp": False, **fields}


def _parse_optional(text: str | None) -> datetime | None:
    return parse_datetime(text) if text else None
