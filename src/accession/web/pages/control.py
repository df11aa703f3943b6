"""Actions on the workflows of selected collections, and on a run: run, retry, cancel, pause and resume."""

from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Form, Query, Request
from fastapi.responses import RedirectResponse, Response

from accession.accounts.collections import get_collection
from accession.core.clock import parse_local_datetime
from accession.core.errors import InvalidInput
from accession.core.settings import get_settings
from accession.core.workflow import SCHEDULED_WORKFLOWS, Workflow
from accession.db.engine import transaction
from accession.runs.pauses import MAX_REASON_LENGTH
from accession.tasks.control import (
    cancel_run,
    cancel_runs,
    find_failing_collections,
    pause_workflows,
    resume_workflows,
    retry_now,
    retry_run,
    run_now,
)
from accession.web.pages.rendering import redirect, render
from accession.web.parameters import MAX_ID, FormField, RowId
from accession.web.principal import Operator

router = APIRouter(include_in_schema=False)

_MAX_COLLECTIONS = 5000
_CollectionId = Annotated[int, Query(ge=1, le=MAX_ID)]
_FormCollections = Annotated[list[_CollectionId], Form(max_length=_MAX_COLLECTIONS)]
_FormWorkflow = Annotated[Workflow | Literal[""], Form()]
# The page to return to.
_Origin = Annotated[Literal["overview", "collection"], Form()]


@router.post("/control/run")
def run(
    operator: Operator,
    collections: _FormCollections = [],  # noqa: B006
    workflow: _FormWorkflow = "",
    origin: _Origin = "overview",
) -> Response:
    """Start runs of a workflow, or of all, for the selected collections."""
    if not collections:
        return _nothing_selected()
    result = run_now(operator.actor, collections, _workflows(workflow, SCHEDULED_WORKFLOWS))
    return _return_to(origin, collections, result.describe("run", "queued"))


@router.post("/control/retry")
def retry(
    operator: Operator,
    collections: _FormCollections = [],  # noqa: B006
    workflow: _FormWorkflow = "",
    origin: _Origin = "overview",
) -> Response:
    """Retry the failed and retrying runs of the selected collections now."""
    if not collections:
        return _nothing_selected()
    result = retry_now(operator.actor, collections, _workflows(workflow, SCHEDULED_WORKFLOWS))
    return _return_to(origin, collections, result.describe("run", "retried"))


@router.post("/control/retry-failing")
def retry_failing(operator: Operator) -> Response:
    """Retry the failed and retrying runs of all collections now."""
    with transaction() as session:
        failing = find_failing_collections(session)
    result = retry_now(operator.actor, failing)
    return redirect("/", result.describe("run", "retried"))


@router.post("/control/cancel")
def cancel(
    operator: Operator,
    collections: _FormCollections = [],  # noqa: B006
    workflow: _FormWorkflow = "",
    origin: _Origin = "overview",
) -> Response:
    """Cancel the active runs of the selected collections."""
    if not collections:
        return _nothing_selected()
    result = cancel_runs(operator.actor, collections, _workflows(workflow, tuple(Workflow)))
    return _return_to(origin, collections, result.describe("run", "cancelled"))


@router.get("/control/pause")
def show_pause(
    request: Request,
    _: Operator,
    collections: Annotated[list[_CollectionId], Query(max_length=_MAX_COLLECTIONS)] = [],  # noqa: B006
    workflow: Annotated[Workflow | Literal[""], Query()] = "",
    origin: Annotated[Literal["overview", "collection"], Query()] = "overview",
) -> Response:
    """Show the form that pauses workflows of the selected collections."""
    if not collections:
        return _nothing_selected()
    return _pause_form(request, collections, {"workflow": workflow, "origin": origin})


@router.post("/control/pause")
def pause(
    request: Request,
    operator: Operator,
    collections: _FormCollections = [],  # noqa: B006
    workflow: _FormWorkflow = "",
    origin: _Origin = "overview",
    reason: FormField = "",
    until: FormField = "",
    time_zone: Annotated[Literal["UTC", ""], Form()] = "",
    cancel_runs: Annotated[bool, Form()] = False,
) -> Response:
    """Pause a workflow, or all, of the selected collections, or show the form again with the error."""
    if not collections:
        return _nothing_selected()
    try:
        result = pause_workflows(
            operator.actor,
            collections,
            _workflows(workflow, tuple(Workflow)),
            reason=reason,
            until=_parse_end(until, time_zone or get_settings().time_zone),
            cancels_runs=cancel_runs,
        )
    except InvalidInput as error:
        values = {
            "workflow": workflow,
            "origin": origin,
            "reason": reason,
            "until": until,
            "time_zone": time_zone,
            "cancel_runs": cancel_runs,
        }
        return _pause_form(request, collections, values, error=str(error))
    return _return_to(origin, collections, result.describe("workflow", "paused"))


@router.post("/control/resume")
def resume(
    operator: Operator,
    collections: _FormCollections = [],  # noqa: B006
    workflow: _FormWorkflow = "",
    origin: _Origin = "overview",
) -> Response:
    """End the pauses of the selected collections."""
    if not collections:
        return _nothing_selected()
    result = resume_workflows(operator.actor, collections, _workflows(workflow, tuple(Workflow)))
    return _return_to(origin, collections, result.describe("workflow", "resumed"))


@router.post("/runs/{run_id}/cancel")
def cancel_one(operator: Operator, run_id: RowId) -> Response:
    """Cancel a run."""
    cancel_run(operator.actor, run_id)
    return redirect(f"/runs/{run_id}", "Run cancelled.")


@router.post("/runs/{run_id}/retry")
def retry_one(operator: Operator, run_id: RowId) -> Response:
    """Retry a run now."""
    return redirect(f"/runs/{retry_run(operator.actor, run_id)}", "Run is retried now.")


def _workflows(workflow: Workflow | Literal[""], default: tuple[Workflow, ...]) -> tuple[Workflow, ...]:
    return (workflow,) if isinstance(workflow, Workflow) else default


def _nothing_selected() -> RedirectResponse:
    return redirect("/", "Select at least one collection.")


def _return_to(origin: str, collections: list[int], message: str) -> RedirectResponse:
    return redirect(f"/collections/{collections[0]}" if origin == "collection" else "/", message)


def _parse_end(text: str, time_zone: str) -> datetime | None:
    if not text.strip():
        return None
    try:
        return parse_local_datetime(text.strip(), time_zone)
    except ValueError:
        raise InvalidInput(
            f"The end of the pause {text!r} is no date and time: enter one such as 2026-12-01 06:00."
        ) from None


def _pause_form(
    request: Request, collections: list[int], values: Mapping[str, Any], error: str | None = None
) -> Response:
    with transaction() as session:
        names = {each: get_collection(session, each).name for each in collections}
    defaults = {"reason": "", "until": "", "time_zone": "", "cancel_runs": False}
    return render(
        request,
        "pause.html",
        status=422 if error else 200,
        names=names,
        workflows=SCHEDULED_WORKFLOWS,
        local_zone=get_settings().time_zone,
        max_length=MAX_REASON_LENGTH,
        values={**defaults, **values},
        error=error,
    )
