"""The purchases' chain: a page of a day's purchase records is one link."""

from collections.abc import Iterable
from datetime import datetime
from typing import Any
from uuid import uuid4

import structlog
from sqlalchemy import select
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from accession.catalog.ledger import Counters, Workflow
from accession.catalog.models import Collection
from accession.clock import utc_now, whole_second
from accession.database import transaction
from accession.imports.purchases import (
    DEFAULT_PURCHASE_RECORD_START_TIME,
    BibliothecaPurchaseRecordImporter,
    DayImportResult,
)
from accession.imports.vendor import api_for
from accession.tasks.app import MAX_RETRIES, app
from accession.tasks.chain import ChainKind, ChainTask, Outcome, Step, run_link

log = structlog.get_logger(__name__)

PURCHASES = ChainKind(Workflow.PURCHASES, "PurchaseRecordCollectionWorkflow")


@app.task(  # type: ignore[untyped-decorator]
    ignore_result=True,
    autoretry_for=(OperationalError,),
    max_retries=MAX_RETRIES,
    retry_backoff=60,
    retry_jitter=False,
)
def import_purchase_records_for_all_collections(force_reimport: bool = False) -> None:
    """Start the purchases' chain of every collection."""
    with transaction() as session:
        query = select(Collection.id).where(Collection.marked_for_deletion_at.is_(None))
        collection_ids = session.scalars(query.order_by(Collection.id)).all()
    start_imports(collection_ids, force_reimport=force_reimport)


def start_imports(collection_ids: Iterable[int], *, force_reimport: bool) -> dict[int, str]:
    """Queue a chain for each collection; returns the task id, and so the run, of each."""
    arguments = _forced_start() if force_reimport else {}
    task_ids = {collection_id: str(uuid4()) for collection_id in collection_ids}
    for collection_id, task_id in task_ids.items():
        import_purchase_records_by_collection.apply_async((collection_id,), arguments, task_id=task_id)
    return task_ids


def _forced_start() -> dict[str, Any]:
    return {"current_day": DEFAULT_PURCHASE_RECORD_START_TIME.isoformat(), "reset_timestamp": True}


@app.task(bind=True, base=ChainTask, kind=PURCHASES)  # type: ignore[untyped-decorator]
def import_purchase_records_by_collection(
    self: ChainTask,
    collection_id: int,
    *,
    current_day: str | None = None,
    offset: int = 1,
    reset_timestamp: bool = False,
    previous_page: str | None = None,
    window_end: str | None = None,
) -> Outcome:
    """Import one page, then replace itself with the next until the present is reached.

    `current_day` (ISO 8601) is used as it is; without it the checkpoint says where to start. `offset`
    is 1-based. `reset_timestamp` clears the checkpoint with the first page: a forced reimport.
    `previous_page` is the fingerprint of the page before in the same window, and `window_end` the end
    that this window began with: were it moved on from page to page, a purchase made meanwhile could
    shift the others to offsets that have been read already.
    """
    arguments = {
        "current_day": current_day,
        "offset": offset,
        "reset_timestamp": reset_timestamp,
        "previous_page": previous_page,
        "window_end": window_end,
    }

    def step(session: Session, collection: Collection) -> Step:
        importer = BibliothecaPurchaseRecordImporter(session, collection, api_for(collection))
        now = whole_second(utc_now())
        if reset_timestamp:
            importer.clear_checkpoint()
        start = datetime.fromisoformat(current_day) if current_day else importer.get_start()
        if start >= now:
            log.info("already up to date", finish=start.isoformat())
            return Step(Counters(pages=0), since=start)
        cutoff = datetime.fromisoformat(window_end) if window_end else now
        page = importer.import_day(start, cutoff, offset, previous_page)
        log.info(
            "page imported",
            day=page.day_start.date().isoformat(),
            offset=offset,
            records=page.records_fetched,
            rejected=page.records_rejected,
            new=page.titles_new,
        )
        return Step(page.counters, start, _next_arguments(page, now), page.outbox_ids)

    return run_link(self, collection_id, arguments, step)


def _next_arguments(page: DayImportResult, now: datetime) -> dict[str, Any] | None:
    """The next page of the window, or the next window; nothing once the present is reached."""
    window_goes_on = page.next_offset is not None
    if not window_goes_on and page.day_end >= now:
        return None
    return {
        "current_day": (page.day_start if window_goes_on else page.day_end).isoformat(),
        "offset": page.next_offset or 1,
        "reset_timestamp": False,
        "previous_page": page.page_fingerprint if window_goes_on else None,
        "window_end": page.day_end.isoformat() if window_goes_on else None,
    }
