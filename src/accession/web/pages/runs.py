"""Pages of runs: list with filters, and totals per day."""

from collections.abc import Sequence
from datetime import date, datetime, timedelta
from typing import Annotated, Literal

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response

from accession.accounts.collections import list_collections
from accession.core.clock import utc_now
from accession.core.workflow import Workflow
from accession.db.engine import transaction
from accession.db.models import RunState
from accession.runs.run_days import MAX_DAYS, RunDayView, run_days
from accession.runs.views import run_views
from accession.web.pages.charts import DataPoint
from accession.web.pages.rendering import non_empty_parameters, render
from accession.web.parameters import (
    CursorId,
    FormCollection,
    FormTime,
    collection_name,
    parse_collection_id,
)
from accession.web.principal import Viewer

router = APIRouter(prefix="/runs", include_in_schema=False)

_PAGE_SIZE = 50
_DEFAULT_DAYS = 90
_DAY_RANGES = {30: "30 days", _DEFAULT_DAYS: "90 days", 365: "1 year", 1825: "5 years"}
_MAX_BARS = 366
_DAY_CHARTS = {
    "runs": "runs",
    "failed runs": "failed",
    "records": "records_fetched",
    "new titles": "titles_new",
}


@router.get("")
def list_runs(
    request: Request,
    _: Viewer,
    collection: FormCollection = "",
    workflow: Annotated[Workflow | Literal[""], Query()] = "",
    state: Annotated[RunState | Literal[""], Query()] = "",
    ended_since: FormTime = "",
    ended_before: FormTime = "",
    before: CursorId = None,
) -> Response:
    """List runs, newest first."""
    with transaction() as session:
        runs = run_views(
            session,
            collection=collection_name(session, parse_collection_id(collection)),
            workflow=workflow or None,
            state=state or None,
            ended_since=ended_since or None,
            ended_before=ended_before or None,
            before_id=before,
            limit=_PAGE_SIZE + 1,
        )
        times = {"ended_since": ended_since, "ended_before": ended_before}
        filters = non_empty_parameters(
            collection=collection,
            workflow=workflow,
            state=state,
            **{name: time.isoformat() for name, time in times.items() if isinstance(time, datetime)},
        )
        return render(
            request,
            "runs.html",
            times=times,
            runs=runs[:_PAGE_SIZE],
            collections=list_collections(session),
            workflows=list(Workflow),
            states=list(RunState),
            filters=filters,
            next_before=runs[_PAGE_SIZE - 1].id if len(runs) > _PAGE_SIZE else None,
        )


@router.get("/days")
def show_run_days(
    request: Request,
    _: Viewer,
    collection: FormCollection = "",
    workflow: Annotated[Workflow | Literal[""], Query()] = "",
    days: Annotated[int, Query(ge=1, le=MAX_DAYS)] = _DEFAULT_DAYS,
) -> Response:
    """Show the totals of the runs that ended on each day, also of runs that have been deleted."""
    today = utc_now().date()
    with transaction() as session:
        totals = run_days(
            session,
            since=today - timedelta(days=days - 1),
            collection=collection_name(session, parse_collection_id(collection)),
            workflow=workflow or None,
        )
        return render(
            request,
            "run_days.html",
            totals=totals,
            charts=_day_charts(totals, today),
            collections=list_collections(session),
            workflows=list(Workflow),
            ranges=_DAY_RANGES,
            filters={**non_empty_parameters(collection=collection, workflow=workflow), "days": days},
        )


def _day_charts(totals: Sequence[RunDayView], today: date) -> list[tuple[str, str, list[DataPoint]]]:
    """Return title, unit and points of each chart: days, also those without runs, or else weeks."""
    by_day = {total.day: total for total in totals}
    first = totals[0].day if totals else today
    days = [first + timedelta(days=number) for number in range((today - first).days + 1)]
    period, step = ("day", 1) if len(days) <= _MAX_BARS else ("week", 7)
    spans = [days[start : start + step] for start in range(0, len(days), step)]

    def points(name: str) -> list[DataPoint]:
        return [
            DataPoint(f"{span[0]:%Y-%m-%d}", sum(getattr(by_day.get(day), name, 0) for day in span))
            for span in spans
        ]

    return [(f"{unit.capitalize()} per {period}", unit, points(name)) for unit, name in _DAY_CHARTS.items()]
