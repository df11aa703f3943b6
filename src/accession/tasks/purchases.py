"""The purchases' chain: a page of purchase records is one link."""

from datetime import datetime
from typing import Any

import structlog
from sqlalchemy.orm import Session

from accession.core.clock import moment_of, utc_now, whole_second
from accession.core.settings import get_settings
from accession.core.workflow import Workflow
from accession.db.models import Collection, Run
from accession.imports.prefetch import Shelf
from accession.imports.purchases import (
    DEFAULT_PURCHASE_RECORD_START_TIME,
    BibliothecaPurchaseRecordImporter,
)
from accession.imports.vendor import api_for
from accession.imports.windows import Place, Width
from accession.runs.ledger import Counters
from accession.tasks.app import app
from accession.tasks.chain import FAN_OUT, ChainKind, ChainTask, Outcome, Step, run_link, start_everywhere
from accession.tasks.metrics import request_counter
from accession.tasks.vendor import AnswersAhead, vendor_turn

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
    empty: int = 0,
    sold_before: str | None = None,
) -> Outcome | None:
    """Import one page, then send the next link until the present is reached.

    `current_day` (ISO 8601) is used as it is; without it the checkpoint says where to start.
    `reset_timestamp` clears the checkpoint with the first page: a forced reimport. The others are where
    the import stands between two pages: see `accession.imports.windows.Place`.
    """
    arguments = {
        "current_day": current_day,
        "offset": offset,
        "reset_timestamp": reset_timestamp,
        "previous_page": previous_page,
        "window_end": window_end,
        "empty": empty,
        "sold_before": sold_before,
    }

    def step(session: Session, collection: Collection, run: Run) -> Step:
        api = api_for(collection, vendor_turn(collection_id, self.request.id), request_counter())
        # A vendor that refuses this account is asked once, not four times at once.
        shelf = AnswersAhead(self.request.id) if run.pages else Shelf()
        importer = BibliothecaPurchaseRecordImporter(session, collection, api, run, shelf)
        now = whole_second(utc_now())
        if reset_timestamp:
            importer.clear_checkpoint()
        start = moment_of(current_day) if current_day else importer.get_start()
        if start >= now:
            log.info("already up to date", finish=start.isoformat())
            return Step(Counters(pages=0), since=start)
        place = Place(start, offset, previous_page, _moment(window_end), empty, _moment(sold_before))
        page = importer.import_page(place, now, Width(get_settings().purchase_window))
        log.info(
            "page imported",
            day=page.window.start.date().isoformat(),
            until=page.window.end.date().isoformat(),
            offset=offset,
            records=page.records_fetched,
            rejected=page.records_rejected,
            new=page.titles_new,
        )
        return Step(page.counters, start, _next_arguments(page.next, now), page.outbox_ids)

    return run_link(self, collection_id, arguments, step)


def _next_arguments(place: Place, now: datetime) -> dict[str, Any] | None:
    """The arguments of the link that imports the page at `place`; none once the present is reached."""
    if place.window_end is None and place.current_day >= now:
        return None
    said = {
        name: value.isoformat() if isinstance(value, datetime) else value
        for name, value in vars(place).items()
    }
    return {"reset_timestamp": False, **said}


def _moment(text: str | None) -> datetime | None:
    return moment_of(text) if text else None
