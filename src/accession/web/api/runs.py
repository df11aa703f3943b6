"""API endpoints `/runs` and `/status`: runs of workflows, and the state of each workflow."""

from dataclasses import dataclass
from datetime import timedelta
from typing import Annotated

from fastapi import APIRouter, Query

from accession.core.clock import utc_now
from accession.core.workflow import Workflow
from accession.db.engine import transaction
from accession.db.models import RunState
from accession.runs.run_days import MAX_DAYS, RunDayView, run_days
from accession.runs.samples import RunRetryView, RunSampleView, run_retries, run_samples
from accession.runs.views import RunView, StatusView, run_view, run_views, status_views
from accession.web.api.schemas import Page, problem_responses
from accession.web.parameters import CollectionFilter, CursorId, Limit, RowId, collection_name
from accession.web.principal import Viewer

router = APIRouter(tags=["runs"])


@dataclass(frozen=True)
class RunDetails:
    """A run, its retries, and samples of its progress, both oldest first."""

    run: RunView
    retries: list[RunRetryView]
    samples: list[RunSampleView]


@router.get("/status")
def status(_: Viewer) -> list[StatusView]:
    """List the state of every workflow of every collection."""
    with transaction() as session:
        return status_views(session)


@router.get("/runs", responses=problem_responses(404))
def list_runs(
    _: Viewer,
    collection: CollectionFilter = None,
    workflow: Workflow | None = None,
    state: RunState | None = None,
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
            before_id=cursor,
            limit=limit + 1,
        )
    return Page(items=runs[:limit], next=str(runs[limit - 1].id) if len(runs) > limit else None)


@router.get("/runs/days", responses=problem_responses(404))
def list_run_days(
    _: Viewer,
    collection: CollectionFilter = None,
    workflow: Workflow | None = None,
    days: Annotated[int, Query(ge=1, le=MAX_DAYS, description="Number of days, up to today.")] = 30,
) -> list[RunDayView]:
    """List the totals of the runs that ended on each day (UTC), oldest first.

    They include runs that have been deleted because of their age.
    """
    since = utc_now().date() - timedelta(days=days - 1)
    with transaction() as session:
        name = collection_name(session, collection)
        return run_days(session, since=since, collection=name, workflow=workflow)


@router.get("/runs/{run_id}", responses=problem_responses(404))
def show_run(_: Viewer, run_id: RowId) -> RunDetails:
    """Return a run, its retries with their reasons, and its progress over time."""
    with transaction() as session:
        return RunDetails(
            run_view(session, run_id), run_retries(session, run_id), run_samples(session, run_id)
        )
