"""Pages of runs: list with filters, and one run with its statistics, retries and rate."""

from collections.abc import Iterator, Sequence
from datetime import date, datetime, timedelta
from itertools import pairwise
from typing import Annotated, Literal

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response

from accession.accounts.collections import list_collections
from accession.core.clock import utc_now
from accession.core.workflow import Workflow
from accession.db.engine import transaction
from accession.db.models import Run, RunState
from accession.runs.progress import estimate_progress
from accession.runs.run_days import MAX_DAYS, RunDayView, run_days
from accession.runs.samples import RunSampleView, run_retries, run_samples
from accession.runs.views import run_view, run_views
from accession.tasks.control import can_retry
from accession.web.pages.charts import DataPoint
from accession.web.pages.rendering import format_duration, non_empty_parameters, render
from accession.web.parameters import CursorId, FormCollection, RowId, collection_name, parse_collection_id
from accession.web.principal import Viewer

router = APIRouter(prefix="/runs", include_in_schema=False)

_PAGE_SIZE = 50
_DEFAULT_DAYS = 90
_DAY_RANGES = {30: "30 days", _DEFAULT_DAYS: "90 days", 365: "1 year", 1825: "5 years"}
_MAX_BARS = 366
_DAY_CHARTS = {
    "Runs": "runs",
    "Failed runs": "failed",
    "Records": "records_fetched",
    "New titles": "titles_new",
}


@router.get("")
def list_runs(
    request: Request,
    _: Viewer,
    collection: FormCollection = "",
    workflow: Annotated[Workflow | Literal[""], Query()] = "",
    state: Annotated[RunState | Literal[""], Query()] = "",
    before: CursorId = None,
) -> Response:
    """List runs, newest first."""
    with transaction() as session:
        runs = run_views(
            session,
            collection=collection_name(session, parse_collection_id(collection)),
            workflow=workflow or None,
            state=state or None,
            before_id=before,
            limit=_PAGE_SIZE + 1,
        )
        filters = non_empty_parameters(collection=collection, workflow=workflow, state=state)
        return render(
            request,
            "runs.html",
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


def _day_charts(totals: Sequence[RunDayView], today: date) -> dict[str, list[DataPoint]]:
    """Return the points of each chart by its title: days, also those without runs, or else weeks."""
    by_day = {total.day: total for total in totals}
    first = totals[0].day if totals else today
    days = [first + timedelta(days=number) for number in range((today - first).days + 1)]
    unit, step = ("day", 1) if len(days) <= _MAX_BARS else ("week", 7)
    return {
        f"{title} per {unit}": [
            DataPoint(
                f"{days[start]:%Y-%m-%d}",
                sum(getattr(by_day.get(day), name, 0) for day in days[start : start + step]),
            )
            for start in range(0, len(days), step)
        ]
        for title, name in _DAY_CHARTS.items()
    }


@router.get("/{run_id}")
def show_run(request: Request, _: Viewer, run_id: RowId) -> Response:
    """Show one run."""
    with transaction() as session:
        run = run_view(session, run_id)
        return render(
            request,
            "run.html",
            run=run,
            can_retry=can_retry(session, run_id),
            progress=estimate_progress(session, session.get_one(Run, run_id)),
            retries=run_retries(session, run_id),
            rates=list(_rates(run.started_at, run_samples(session, run_id))),
        )


def _rates(started_at: datetime, samples: Sequence[RunSampleView]) -> Iterator[DataPoint]:
    """Yield records per second between successive samples, labelled by the time since the start."""
    for previous, sample in pairwise([RunSampleView(started_at, 0, 0), *samples]):
        seconds = (sample.at - previous.at).total_seconds()
        if seconds > 0:
            records = sample.records_fetched - previous.records_fetched
            yield DataPoint(format_duration((sample.at - started_at).total_seconds()), records / seconds)
