"""What the workflows have done, run by run."""

from collections.abc import Iterator, Sequence
from datetime import datetime
from itertools import pairwise
from typing import Annotated, Literal

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response

from accession.accounts.collections import collections_in_use
from accession.core.workflow import Workflow
from accession.db.engine import transaction
from accession.db.models import Run, RunState
from accession.runs.progress import progress_of
from accession.runs.samples import RunSample, run_retries, run_samples
from accession.runs.views import run_view, run_views
from accession.web.access import Viewer
from accession.web.api.answers import LARGEST_ID, Id
from accession.web.lists import Chosen, chosen, name_of
from accession.web.pages.charts import Point
from accession.web.pages.rendering import duration, query_of, render

router = APIRouter(prefix="/runs", include_in_schema=False)

_PAGE = 50


@router.get("")
def list_runs(
    request: Request,
    _: Viewer,
    collection: Chosen = "",
    workflow: Annotated[Workflow | Literal[""], Query()] = "",
    state: Annotated[RunState | Literal[""], Query()] = "",
    before: Annotated[int | None, Query(ge=1, le=LARGEST_ID)] = None,
) -> Response:
    """Runs, newest first."""
    with transaction() as session:
        found = run_views(
            session,
            collection=name_of(session, chosen(collection)),
            workflow=workflow or None,
            state=state or None,
            before_id=before,
            limit=_PAGE + 1,
        )
        filters = query_of(collection=collection, workflow=workflow, state=state)
        return render(
            request,
            "runs.html",
            runs=found[:_PAGE],
            collections=collections_in_use(session),
            workflows=list(Workflow),
            states=list(RunState),
            filters=filters,
            older=found[_PAGE - 1].id if len(found) > _PAGE else None,
        )


@router.get("/{run_id}")
def show_run(request: Request, _: Viewer, run_id: Id) -> Response:
    """One run."""
    with transaction() as session:
        view = run_view(session, run_id)
        return render(
            request,
            "run.html",
            run=view,
            progress=progress_of(session, session.get_one(Run, run_id)),
            retries=run_retries(session, run_id),
            rates=list(_rates(view.started_at, run_samples(session, run_id))),
        )


def _rates(started_at: datetime, samples: Sequence[RunSample]) -> Iterator[Point]:
    """Records a second between each two samples, by how long after the start that was."""
    for before, after in pairwise([RunSample(started_at, 0, 0), *samples]):
        seconds = (after.at - before.at).total_seconds()
        if seconds > 0:
            records = after.records_fetched - before.records_fetched
            yield Point(duration((after.at - started_at).total_seconds()), records / seconds)
