"""Celery tasks of the purchase import; one step imports a page of purchase records."""

from collections.abc import Mapping, Sequence
from typing import Any

import structlog
from pydantic import TypeAdapter
from sqlalchemy.orm import Session

from accession.accounts.limits import max_concurrency
from accession.bibliotheca.client import BibliothecaAPI
from accession.core.clock import parse_datetime, truncate_to_second, utc_now
from accession.core.settings import get_settings
from accession.core.workflow import Workflow
from accession.db.models import Collection, Run
from accession.imports.purchases import (
    DEFAULT_PURCHASE_RECORD_START_TIME,
    BibliothecaPurchaseRecordImporter,
)
from accession.imports.verification import (
    PurchaseVerifier,
    VerificationCursor,
    begin_due_verification,
)
from accession.imports.windows import INITIAL_BUDGET, ImportCursor, Width
from accession.runs.ledger import RunCounters
from accession.tasks.app import app
from accession.tasks.prefetch_cache import RedisPrefetchCache
from accession.tasks.step_recorder import StepSpan
from accession.tasks.steps import RunOutcome, StepResult, run_step
from accession.tasks.verification import read_cursor, span_of, write_cursor
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
    budget: int = INITIAL_BUDGET,
    without_anchor_until: str | None = None,
    stale_until: str | None = None,
    restarts: int = 0,
    setback: str | None = None,
    records: int = 0,
    check_start: str | None = None,
    until: str | None = None,
    search: dict[str, Any] | None = None,
    verification: dict[str, Any] | None = None,
) -> RunOutcome | None:
    """Import one page, then enqueue the next until now is reached.

    `current_day` (ISO 8601) is the start of the window; by default it is read from the checkpoint.
    `reset_timestamp` clears the checkpoint with the first page, for a forced reimport. The other arguments
    are the fields of `accession.imports.windows.ImportCursor`. A run with a check of the recent purchases
    then verifies past months: `verification` is the position of that
    (`accession.imports.verification.VerificationCursor`).
    """
    position = {
        "offset": offset,
        "window_end": window_end,
        "confirmed": confirmed,
        "anchor": anchor,
        "probed": list(probed),
        "empty_windows": empty_windows,
        "budget": budget,
        "without_anchor_until": without_anchor_until,
        "stale_until": stale_until,
        "restarts": restarts,
        "setback": setback,
        "records": records,
        "check_start": check_start,
        "until": until,
        "search": search,
    }
    arguments = {
        "current_day": current_day,
        "reset_timestamp": reset_timestamp,
        **position,
        "verification": verification,
    }

    def step(session: Session, collection: Collection, run: Run, api: BibliothecaAPI) -> StepResult:
        # The first page does not prefetch, so wrong credentials cause one failed request and not four.
        does_prefetch = run.pages and max_concurrency(collection) > 1
        prefetch_cache = RedisPrefetchCache(self.request.id) if does_prefetch else None
        importer = BibliothecaPurchaseRecordImporter(session, collection, api, run, prefetch_cache)
        now = truncate_to_second(utc_now())
        if verification is not None:
            verification_cursor = read_cursor(verification)
            verified = PurchaseVerifier(session, collection, api, run).verify_page(verification_cursor, now)
            next_arguments = _arguments_of_verification(arguments, verified.next_cursor)
            span = span_of(verification_cursor)
            return StepResult(verified.counters, None, next_arguments, verified.outbox_ids, span)
        if current_day:
            cursor = _cursors.validate_python({"current_day": parse_datetime(current_day), **position})
        else:
            cursor = importer.first_cursor(now)
        start = cursor.current_day
        if start >= now:
            log.info("already up to date", finish=start.isoformat())
            return StepResult(RunCounters(pages=0), since=start)
        width = Width(get_settings().purchase_window)
        page = importer.import_day(cursor, now, width, clears_checkpoint=reset_timestamp)
        log.info(
            "page imported",
            day=page.day_start.date().isoformat(),
            until=page.day_end.date().isoformat(),
            offset=offset,
            records=page.records_fetched,
            in_part=page.records_in_part,
            rejected=page.records_rejected,
            new=page.titles_new,
        )
        next_arguments = _arguments_of_import(page.next_cursor)
        if page.next_cursor.is_complete(now):
            has_checked = page.next_cursor.until is not None
            due = begin_due_verification(session, collection) if has_checked else None
            next_arguments = None if due is None else _arguments_of_verification(next_arguments, due)
        span = StepSpan(page.day_start, page.day_end, offset)
        return StepResult(
            page.counters, start, next_arguments, page.outbox_ids, span, checkpoint_move=page.checkpoint_move
        )

    return run_step(self, collection_id, arguments, step)


def _arguments_of_import(cursor: ImportCursor) -> dict[str, Any]:
    """Return the arguments of the next step of the import."""
    return {"reset_timestamp": False, **write_cursor(cursor), "verification": None}


def _arguments_of_verification(
    arguments: Mapping[str, Any], cursor: VerificationCursor
) -> dict[str, Any] | None:
    """Return the arguments of the next step of the verification, or None once it is complete."""
    return None if cursor.is_complete else {**arguments, "verification": write_cursor(cursor)}
