"""`/api/v1/runs` and `/api/v1/status`: what the workflows have done, and where each stands."""

from dataclasses import dataclass
from http import HTTPStatus
from typing import Annotated

from fastapi import APIRouter, Query

from accession.accounts.collections import collections_in_use
from accession.core.workflow import Workflow
from accession.db.engine import transaction
from accession.db.models import RunState
from accession.runs.samples import RunRetry, RunSample, run_retries, run_samples
from accession.runs.views import RunView, StatusView, run_view, run_views, status_views
from accession.tasks.workflows import start_workflow
from accession.web.access import Operator, Viewer
from accession.web.api.answers import LARGEST_ID, CollectionId, Id, Limit, Page, Started, problems, started
from accession.web.api.collections import NewImport
from accession.web.lists import name_of

router = APIRouter(tags=["runs"])


@dataclass(frozen=True)
class RunDetails:
    """A run with its retries, and how far it was when: both oldest first."""

    run: RunView
    retries: list[RunRetry]
    samples: list[RunSample]


@router.get("/status")
def status(_: Viewer) -> list[StatusView]:
    """Where every workflow of every collection stands."""
    with transaction() as session:
        return status_views(session)


@router.get("/runs", responses=problems(404))
def list_runs(
    _: Viewer,
    collection: CollectionId = None,
    workflow: Workflow | None = None,
    state: RunState | None = None,
    cursor: Annotated[
        int | None, Query(ge=1, le=LARGEST_ID, description="`next` of the page before.")
    ] = None,
    limit: Limit = 50,
) -> Page[RunView]:
    """Runs, newest first."""
    with transaction() as session:
        found = run_views(
            session,
            collection=name_of(session, collection),
            workflow=workflow,
            state=state,
            before_id=cursor,
            limit=limit + 1,
        )
    return Page(items=found[:limit], next=str(found[limit - 1].id) if len(found) > limit else None)


@router.post("/runs", status_code=HTTPStatus.ACCEPTED, responses=problems(403, 409, 503))
def start_runs(_: Operator, new: NewImport) -> Started:
    """Start a workflow of every collection."""
    with transaction() as session:
        collection_ids = [collection.id for collection in collections_in_use(session)]
    return started(start_workflow(new.workflow, collection_ids, force_reimport=new.force_reimport))


@router.get("/runs/{run_id}", responses=problems(404))
def show_run(_: Viewer, run_id: Id) -> RunDetails:
    """A run, its retries with their reasons, and its rate over time."""
    with transaction() as session:
        return RunDetails(
            run_view(session, run_id), run_retries(session, run_id), run_samples(session, run_id)
        )
