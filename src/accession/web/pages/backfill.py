"""Page that imports the purchases of a range of days again."""

from datetime import date
from typing import Annotated, Literal

from fastapi import APIRouter, Form, Query, Request
from fastapi.responses import Response

from accession.accounts.collections import get_collection
from accession.core.clock import utc_now
from accession.core.errors import InvalidInput
from accession.db.engine import transaction
from accession.imports.backfill import count_backfill_requests
from accession.imports.purchases import DEFAULT_PURCHASE_RECORD_START_TIME
from accession.runs.ledger import find_run
from accession.tasks.backfill import start_backfill
from accession.web.pages.rendering import redirect, render
from accession.web.parameters import RowId
from accession.web.principal import Operator

router = APIRouter(prefix="/collections/{collection_id}/backfill", include_in_schema=False)

_Day = Annotated[date | Literal[""], Query()]


@router.get("")
def confirm_backfill(
    request: Request, _: Operator, collection_id: RowId, first_day: _Day = "", last_day: _Day = ""
) -> Response:
    """Show what the import of the days costs, and ask for confirmation."""
    requests, error = None, None
    with transaction() as session:
        collection = get_collection(session, collection_id)
        if isinstance(first_day, date) and isinstance(last_day, date):
            try:
                requests = count_backfill_requests(session, collection, first_day, last_day)
            except InvalidInput as invalid:
                error = str(invalid)
        elif first_day or last_day:
            error = "The number of requests is unknown without both days: enter a first and a last day."
        return render(
            request,
            "backfill.html",
            status=422 if error else 200,
            collection=collection,
            first_day=first_day,
            last_day=last_day,
            earliest=DEFAULT_PURCHASE_RECORD_START_TIME.date(),
            today=utc_now().date(),
            requests=requests,
            error=error,
        )


@router.post("")
def backfill(
    operator: Operator,
    collection_id: RowId,
    first_day: Annotated[date, Form()],
    last_day: Annotated[date, Form()],
) -> Response:
    """Start the import of the days, and show its run."""
    task_ids = start_backfill(operator.actor, collection_id, first_day, last_day)
    with transaction() as session:
        run = find_run(session, task_ids[collection_id])
        path = f"/collections/{collection_id}" if run is None else f"/runs/{run.id}"
    return redirect(path, "Run queued: backfill.")
