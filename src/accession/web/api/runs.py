"""API endpoints `/runs` and `/status`: runs of workflows, and the state of each workflow."""

from datetime import timedelta
from typing import Annotated

from fastapi import APIRouter, Query

from accession.core.clock import utc_now
from accession.db.engine import transaction
from accession.db.models import RunState, StepOutcome
from accession.runs.failures import FailureGroup, group_failures
from accession.runs.health import collection_health
from accession.runs.run_days import MAX_DAYS, RunDayView, run_days
from accession.runs.run_details import (
    LineOrder,
    LogLevel,
    RunLogLineView,
    RunRequestsView,
    RunStepView,
    StepOrder,
    run_log,
    run_requests,
    run_steps,
)
from accession.runs.run_hours import RunHourView, run_hours
from accession.runs.run_summary import RunSummary, run_summary
from accession.runs.views import RunView, StatusView, run_view, run_views, status_views
from accession.web.api.openapi import problem_responses
from accession.web.api.schemas import Page
from accession.web.parameters import (
    NO_NUL,
    CollectionFilter,
    CursorId,
    Limit,
    Offset,
    RowId,
    Time,
    WorkflowFilter,
    collection_name,
)
from accession.web.principal import Viewer

router = APIRouter(tags=["runs"])


@router.get("/status")
def list_statuses(_: Viewer) -> list[StatusView]:
    """List the state of every workflow of every collection."""
    with transaction() as session:
        return status_views(session)


@router.get("/runs", responses=problem_responses(404))
def list_runs(
    _: Viewer,
    collection: CollectionFilter = None,
    workflow: WorkflowFilter = None,
    state: Annotated[RunState | None, Query(description="Only in this state.")] = None,
    ended_since: Annotated[Time | None, Query(description="Only runs that ended then or later.")] = None,
    ended_before: Annotated[Time | None, Query(description="Only runs that ended before then.")] = None,
    cursor: CursorId = None,
    limit: Limit = 50,
) -> Page[RunView]:
    """List runs, newest first."""
    with transaction() as session:
        runs = run_views(
            session,
            collection=collection_name(session, collection),
            workflow=workflow,
            state=state,
            ended_since=ended_since,
            ended_before=ended_before,
            before_id=cursor,
            limit=limit + 1,
        )
    return Page.in_id_order(limit, runs)


@router.get("/runs/days", responses=problem_responses(404))
def list_run_days(
    _: Viewer,
    collection: CollectionFilter = None,
    workflow: WorkflowFilter = None,
    days: Annotated[int, Query(ge=1, le=MAX_DAYS, description="Number of days, up to today.")] = 30,
) -> list[RunDayView]:
    """List the totals of the runs that ended on each day (UTC), oldest first.

    They include runs that have been deleted because of their age.
    """
    since = utc_now().date() - timedelta(days=days - 1)
    with transaction() as session:
        name = collection_name(session, collection)
        return run_days(session, since=since, collection=name, workflow=workflow)


@router.get("/runs/hours")
def list_run_hours(_: Viewer) -> list[RunHourView]:
    """List the totals of the runs that ended in each of the last 24 hours, oldest first."""
    with transaction() as session:
        return run_hours(session)


@router.get("/runs/failures")
def list_run_failures(_: Viewer) -> list[FailureGroup]:
    """List the causes for which workflows are failing or retrying, those of most collections first."""
    with transaction() as session:
        return group_failures(session, collection_health(session))


@router.get("/runs/{run_id:int}", responses=problem_responses(404))
def show_run(_: Viewer, run_id: RowId) -> RunSummary:
    """Return a run, what comes next, its retries with their reasons, and its progress over time."""
    with transaction() as session:
        return run_summary(session, run_id)


@router.get("/runs/{run_id:int}/steps", responses=problem_responses(404))
def list_run_steps(
    _: Viewer,
    run_id: RowId,
    order: Annotated[StepOrder, Query(description="The latest first, or the slowest.")] = StepOrder.LATEST,
    outcome: Annotated[StepOutcome | None, Query(description="Only with this outcome.")] = None,
    cursor: Offset = 0,
    limit: Limit = 50,
) -> Page[RunStepView]:
    """List the steps of a run that are kept: the latest, the slowest, and those that stored nothing."""
    with transaction() as session:
        run_view(session, run_id)
        steps = run_steps(session, run_id, order=order, outcome=outcome, offset=cursor, limit=limit + 1)
    return Page.at_offset(cursor, limit, steps)


@router.get("/runs/{run_id:int}/log", responses=problem_responses(404))
def list_run_log_lines(
    _: Viewer,
    run_id: RowId,
    level: Annotated[LogLevel, Query(description="Only of this level or a more severe one.")] = LogLevel.INFO,
    text: Annotated[
        str, Query(max_length=200, pattern=NO_NUL, description="Only with this text, in whatever case.")
    ] = "",
    order: Annotated[LineOrder, Query(description="The oldest first, or the latest.")] = LineOrder.OLDEST,
    cursor: Offset = 0,
    limit: Limit = 50,
) -> Page[RunLogLineView]:
    """List the log lines of a run that are kept: the first and the last, and warnings and errors."""
    with transaction() as session:
        run_view(session, run_id)
        lines = run_log(
            session, run_id, min_level=level, text=text, order=order, offset=cursor, limit=limit + 1
        )
    return Page.at_offset(cursor, limit, lines)


@router.get("/runs/{run_id:int}/requests", responses=problem_responses(404))
def list_run_requests(_: Viewer, run_id: RowId) -> list[RunRequestsView]:
    """List the requests of a run to the vendor, summed by endpoint and outcome."""
    with transaction() as session:
        run_view(session, run_id)
        return run_requests(session, run_id)
