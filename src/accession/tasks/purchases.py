"""The purchases' chain: a page of a day's purchase records is one link."""

from datetime import datetime
from typing import Any

import structlog
from sqlalchemy.orm import Session

from accession.catalog.ledger import Counters, Workflow
from accession.catalog.models import Collection
from accession.clock import moment_of, utc_now, whole_second
from accession.imports.purchases import (
    DEFAULT_PURCHASE_RECORD_START_TIME,
    BibliothecaPurchaseRecordImporter,
    DayImportResult,
)
from accession.imports.vendor import api_for
from accession.tasks.app import app
from accession.tasks.chain import FAN_OUT, ChainKind, ChainTask, Outcome, Step, run_link, start_everywhere

log = structlog.get_logger(__name__)

PURCHASES = ChainKind(Workflow.PURCHASES, "PurchaseRecordCollectionWorkflow")


@app.task(**FAN_OUT)  # type: ignore[untyped-decorator]
def import_purchase_records_for_all_collections(force_reimport: bool = False) -> None:
    """Start the purchases' chain of every collection."""
    start_everywhere(import_purchase_records_by_collection, **start_arguments(force_reimport=force_reimport))


def start_arguments(*, force_reimport: bool) -> dict[str, Any]:
    """The arguments of a chain's first link: none, or those of a forced reimport."""
    if not force_reimport:
        return {}
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
        start = moment_of(current_day) if current_day else importer.get_start()
        if start >= now:
            log.info("already up to date", finish=start.isoformat())
            return Step(Counters(pages=0), since=start)
        cutoff = moment_of(window_end) if window_end else now
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
