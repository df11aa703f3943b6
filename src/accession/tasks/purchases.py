"""Celery tasks of the purchase import; one step imports a page of purchase records."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime
from typing import Any

import structlog
from pydantic import TypeAdapter
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
from accession.imports.windows import EMPTY_DAYS_BEFORE_PROBE, ImportCursor, Width
from accession.runs.ledger import RunCounters
from accession.tasks.app import app
from accession.tasks.metrics import request_counter
from accession.tasks.prefetch_cache import RedisPrefetchCache
from accession.tasks.rate_limiter import request_slot
from accession.tasks.steps import RunOutcome, StepResult, run_step
from accession.tasks.workflow_task import FAN_OUT_OPTIONS, WorkflowTask, start_for_all_collections

log = structlog.get_logger(__name__)

_cursors = TypeAdapter(ImportCursor)


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
    window_end: str | None = None,
    confirmed: str | None = None,
    anchor: dict[str, Any] | None = None,
    probed: Sequence[dict[str, Any]] = (),
    empty_windows: int = 0,
    days_before_probe: int = EMPTY_DAYS_BEFORE_PROBE,
    restarts: int = 0,
    setback: str | None = None,
    records: int = 0,
    check_start: str | None = None,
    until: str | None = None,
) -> RunOutcome | None:
    """Import one page, then enqueue the next until now is reached.

    `current_day` (ISO 8601) is the start of the window; by default it is read from the checkpoint.
    `reset_timestamp` clears the checkpoint with the first page, for a forced reimport. The other arguments
    are the fields of `accession.imports.windows.ImportCursor`.
    """
    position = {
        "offset": offset,
        "window_end": window_end,
        "confirmed": confirmed,
        "anchor": anchor,
        "probed": list(probed),
        "empty_windows": empty_windows,
        "days_before_probe": days_before_probe,
        "restarts": restarts,
        "setback": setback,
        "records": records,
        "check_start": check_start,
        "until": until,
    }
    arguments = {"current_day": current_day, "reset_timestamp": reset_timestamp, **position}

    def step(session: Session, collection: Collection, run: Run) -> StepResult:
        api = vendor_api_for(collection, request_slot(collection_id, self.request.id), request_counter())
        # The first page does not prefetch, so wrong credentials cause one failed request and not four.
        prefetch_cache = RedisPrefetchCache(self.request.id) if run.pages else None
        importer = BibliothecaPurchaseRecordImporter(session, collection, api, run, prefetch_cache)
        now = truncate_to_second(utc_now())
        if reset_timestamp:
            importer.clear_checkpoint()
        if current_day:
            cursor = _cursors.validate_python({"current_day": parse_datetime(current_day), **position})
        else:
            cursor = importer.first_cursor(now)
        start = cursor.current_day
        if start >= now:
            log.info("already up to date", finish=start.isoformat())
            return StepResult(RunCounters(pages=0), since=start)
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
    if cursor.is_complete(now):
        return None
    fields = json.loads(json.dumps(asdict(cursor), default=datetime.isoformat))
    return {"reset_timestamp": False, **fields}
