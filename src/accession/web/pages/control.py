"""Actions on the workflows of selected collections, and on a run: run, retry, cancel, pause and resume."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Form, Request
from fastapi.responses import RedirectResponse, Response

from accession.accounts.collections import get_collection
from accession.auth.audit import Actor
from accession.core.clock import parse_local_datetime
from accession.core.errors import InvalidInput
from accession.core.settings import get_settings
from accession.core.workflow import SCHEDULED_WORKFLOWS, Workflow
from accession.db.engine import transaction
from accession.runs.health import collection_health
from accession.runs.pauses import MAX_REASON_LENGTH
from accession.tasks.control import (
    ControlResult,
    cancel_run,
    cancel_runs,
    pause_workflows,
    resume_workflows,
    retry_now,
    retry_run,
    run_now,
)
from accession.web.collection_list import OverviewAddress
from accession.web.pages.rendering import redirect, render
from accession.web.parameters import CollectionId, FormField, RowId
from accession.web.principal import Operator

router = APIRouter(include_in_schema=False)

_MAX_COLLECTIONS = 5000


@dataclass(frozen=True)
class _Selection:
    """The collections that a form selects, the workflow (None: all), and the page to return to."""

    collections: Sequence[int]
    workflow: Workflow | None
    return_path: str
    fields: Mapping[str, str]
    """Fields with which another form selects the same, apart from the collections."""

    def workflows(self, default: Sequence[Workflow]) -> Sequence[Workflow]:
        """Return the selected workflow, or the default."""
        return default if self.workflow is None else (self.workflow,)


def _read_selection(
    collections: Annotated[list[CollectionId], Form(max_length=_MAX_COLLECTIONS)] = [],  # noqa: B006
    workflow: Annotated[Workflow | Literal[""], Form()] = "",
    origin: Annotated[Literal["overview", "collection"], Form()] = "overview",
    scope: Annotated[Literal["selected", "matching"], Form()] = "selected",
    query: Annotated[str, Form(max_length=2000)] = "",
    return_query: Annotated[str | None, Form(max_length=2000)] = None,
) -> _Selection:
    """Return what the form selects: the collections in it, or all that the address of the overview selects.

    `query` is the query string of that address, and `return_query` that of the page to return to, if it is
    another one.
    """
    address = OverviewAddress.parse(query)
    return_address = address if return_query is None else OverviewAddress.parse(return_query)
    if scope == "matching":
        with transaction() as session:
            matching = address.to_query().select(collection_health(session))
            collections = [collection.id for collection in matching]
    is_of_collection = origin == "collection" and collections
    return _Selection(
        collections=collections,
        workflow=workflow or None,
        return_path=f"/collections/{collections[0]}" if is_of_collection else return_address.own_path,
        fields={"workflow": workflow, "origin": origin, "query": query},
    )


_FormSelection = Annotated[_Selection, Depends(_read_selection)]


@router.post("/control/run")
def run(operator: Operator, selection: _FormSelection) -> Response:
    """Start runs of a workflow, or of all, for the selected collections."""
    return _apply(run_now, operator.actor, selection, SCHEDULED_WORKFLOWS, "run", "queued")


@router.post("/control/retry")
def retry(operator: Operator, selection: _FormSelection) -> Response:
    """Retry the failed and retrying runs of the selected collections now."""
    return _apply(retry_now, operator.actor, selection, SCHEDULED_WORKFLOWS, "run", "retried")


@router.post("/control/cancel")
def cancel(operator: Operator, selection: _FormSelection) -> Response:
    """Cancel the active runs of the selected collections."""
    return _apply(cancel_runs, operator.actor, selection, tuple(Workflow), "run", "cancelled")


@router.post("/control/resume")
def resume(operator: Operator, selection: _FormSelection) -> Response:
    """End the pauses of the selected collections."""
    return _apply(resume_workflows, operator.actor, selection, tuple(Workflow), "workflow", "resumed")


@router.post("/control/pause/form")
def show_pause(request: Request, _: Operator, selection: _FormSelection) -> Response:
    """Show the form that pauses workflows of the selected collections."""
    return _pause_form(request, selection, {}) if selection.collections else _nothing_selected(selection)


@router.post("/control/pause")
def pause(
    request: Request,
    operator: Operator,
    selection: _FormSelection,
    reason: FormField = "",
    until: FormField = "",
    time_zone: Annotated[Literal["UTC", ""], Form()] = "",
    cancel_runs: Annotated[bool, Form()] = False,
) -> Response:
    """Pause a workflow, or all, of the selected collections, or show the form again with the error."""
    if not selection.collections:
        return _nothing_selected(selection)
    try:
        result = pause_workflows(
            operator.actor,
            selection.collections,
            selection.workflows(tuple(Workflow)),
            reason=reason,
            until=_parse_end(until, time_zone or get_settings().time_zone),
            cancels_runs=cancel_runs,
        )
    except InvalidInput as error:
        values = {"reason": reason, "until": until, "time_zone": time_zone, "cancel_runs": cancel_runs}
        return _pause_form(request, selection, values, error=str(error))
    return redirect(selection.return_path, result.describe("workflow", "paused"))


@router.post("/runs/{run_id}/cancel")
def cancel_one(operator: Operator, run_id: RowId) -> Response:
    """Cancel a run."""
    cancel_run(operator.actor, run_id)
    return redirect(f"/runs/{run_id}", "Run cancelled.")


@router.post("/runs/{run_id}/retry")
def retry_one(operator: Operator, run_id: RowId) -> Response:
    """Retry a run now."""
    return redirect(f"/runs/{retry_run(operator.actor, run_id)}", "Run is retried now.")


def _apply(
    action: Callable[[Actor, Sequence[int], Sequence[Workflow]], ControlResult],
    actor: Actor,
    selection: _Selection,
    default: Sequence[Workflow],
    noun: str,
    participle: str,
) -> RedirectResponse:
    """Apply an action to the selection, and return to its page with the result in words."""
    if not selection.collections:
        return _nothing_selected(selection)
    result = action(actor, selection.collections, selection.workflows(default))
    return redirect(selection.return_path, result.describe(noun, participle))


def _nothing_selected(selection: _Selection) -> RedirectResponse:
    return redirect(selection.return_path, "Select at least one collection.")


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
    request: Request, selection: _Selection, values: Mapping[str, Any], error: str | None = None
) -> Response:
    with transaction() as session:
        names = {each: get_collection(session, each).name for each in selection.collections}
    defaults = {"reason": "", "until": "", "time_zone": "", "cancel_runs": False}
    return render(
        request,
        "pause.html",
        status=422 if error else 200,
        names=names,
        workflows=SCHEDULED_WORKFLOWS,
        local_zone=get_settings().time_zone,
        max_length=MAX_REASON_LENGTH,
        values={**selection.fields, **defaults, **values},
        return_path=selection.return_path,
        error=error,
    )
