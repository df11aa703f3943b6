"""API endpoints `/runs` and `/status`: runs of workflows, and the state of each workflow."""

from dataclasses import dataclass
from http import HTTPStatus

from fastapi import APIRouter

from accession.accounts.collections import collection_ids_in_use
from accession.core.workflow import Workflow
from accession.db.engine import transaction
from accession.db.models import RunState
from accession.runs.samples import RunRetryView, RunSampleView, run_retries, run_samples
from accession.runs.views import RunView, StatusView, run_view, run_views, status_views
from accession.tasks.workflows import start_workflow
from accession.web.api.collections import NewRun
from accession.web.api.schemas import Page, StartedRuns, problem_responses
from accession.web.parameters import CollectionFilter, CursorId, Limit, RowId, collection_name
from accession.web.principal import Operator, Viewer

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


@router.post("/runs", status_code=HTTPStatus.ACCEPTED, responses=problem_responses(403, 409, 503))
def start_runs(_: Operator, new: NewRun) -> StartedRuns:
    """Start a run of a workflow for every collection."""
    with transaction() as session:
        collection_ids = collection_ids_in_use(session)
    return StartedRuns(
        task_ids=start_workflow(new.workflow, collection_ids, force_reimport=new.force_reimport)
    )


@router.get("/runs/{run_id}", responses=problem_responses(404))
def show_run(_: Viewer, run_id: RowId) -> RunDetails:
    """Return a run, its retries with their reasons, and its progress over time."""
    with transaction() as session:
        return RunDetails(
            run_view(session, run_id), run_retries(session, run_id), run_samples(session, run_id)
        )
