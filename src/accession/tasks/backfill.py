"""Celery task of a backfill of past purchases; one step imports a page."""

from datetime import date
from typing import Any

import structlog
from pydantic import TypeAdapter
from sqlalchemy.orm import Session

from accession.accounts.collections import get_collection
from accession.auth.audit import Actor, AuditAction, record
from accession.bibliotheca.client import BibliothecaAPI
from accession.core.clock import truncate_to_second, utc_now
from accession.core.settings import get_settings
from accession.core.workflow import Workflow
from accession.db.engine import transaction
from accession.db.models import Collection, Run
from accession.imports.backfill import PurchaseBackfiller, check_days, first_backfill_cursor
from accession.imports.windows import ImportCursor
from accession.tasks.app import app
from accession.tasks.prefetch_cache import RedisPrefetchCache
from accession.tasks.step_recorder import StepSpan
from accession.tasks.steps import RunOutcome, StepResult, run_step
from accession.tasks.verification import write_cursor
from accession.tasks.workflow_task import WorkflowTask, start_requested_runs

log = structlog.get_logger(__name__)

_cursors = TypeAdapter(ImportCursor)


def start_backfill(actor: Actor, collection_id: int, first_day: date, last_day: date) -> dict[int, str]:
    """Queue an import of the purchases from the first to the last day; return its task id by collection id.

    Raises:
        InvalidInput: the days cannot be imported.
        NotFound: there is no collection with this id.
        UserError: backfills are paused for the collection.
    """
    check_days(first_day, last_day)
    days = {"first_day": first_day.isoformat(), "last_day": last_day.isoformat()}
    with transaction() as session:
        name = get_collection(session, collection_id).name
        record(session, actor, AuditAction.RUN_BACKFILL, name, days)
    return start_requested_runs(backfill_purchases_by_collection, [collection_id], **days)


@app.task(  # type: ignore[untyped-decorator]
    bind=True, base=WorkflowTask, workflow=Workflow.BACKFILL, lock_key="PurchaseBackfillWorkflow"
)
def backfill_purchases_by_collection(
    self: WorkflowTask, collection_id: int, *, first_day: str, last_day: str, **position: Any
) -> RunOutcome | None:
    """Import one page of the days from the first to the last (ISO 8601), then enqueue the next.

    `position` are the fields of `accession.imports.windows.ImportCursor`; the first step has none.
    """
    days = {"first_day": first_day, "last_day": last_day}

    def step(session: Session, collection: Collection, run: Run, api: BibliothecaAPI) -> StepResult:
        now = truncate_to_second(utc_now())
        does_prefetch = run.pages and get_settings().vendor_max_concurrency > 1
        prefetch_cache = RedisPrefetchCache(self.request.id) if does_prefetch else None
        if position:
            cursor = _cursors.validate_python(position)
        else:
            cursor = first_backfill_cursor(date.fromisoformat(first_day), date.fromisoformat(last_day), now)
        page = PurchaseBackfiller(session, collection, api, run, prefetch_cache).import_page(cursor, now)
        log.info(
            "page imported",
            day=page.day_start.date().isoformat(),
            until=page.day_end.date().isoformat(),
            offset=cursor.offset,
            records=page.records_fetched,
            in_part=page.records_in_part,
            rejected=page.records_rejected,
            new=page.titles_new,
        )
        is_complete = page.next_cursor.is_complete(now)
        next_arguments = None if is_complete else {**days, **write_cursor(page.next_cursor)}
        span = StepSpan(page.day_start, page.day_end, cursor.offset)
        return StepResult(page.counters, cursor.current_day, next_arguments, page.outbox_ids, span)

    return run_step(self, collection_id, {**days, **position}, step)
