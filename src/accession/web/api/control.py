"""API endpoints that control the workflows of several collections: run, retry, cancel, pause and resume."""

from http import HTTPStatus

from fastapi import APIRouter
from pydantic import Field
from sqlalchemy.orm import Session

from accession.accounts.collections import collection_ids_in_use
from accession.core.workflow import SCHEDULED_WORKFLOWS, Workflow
from accession.db.engine import transaction
from accession.runs.pauses import MAX_REASON_LENGTH
from accession.runs.views import RunView, run_view
from accession.tasks import control
from accession.tasks.control import ControlResult, SkippedWorkflow
from accession.web.api.collections import NewRun
from accession.web.api.openapi import problem_responses
from accession.web.api.schemas import Body, Choice, StartedRuns
from accession.web.parameters import NO_NUL, CollectionId, RowId, Time
from accession.web.principal import Operator

router = APIRouter(tags=["control"])


class CollectionSelection(Body):
    """Collections to act on: those with these ids, all, or those that are failing."""

    collection_ids: list[CollectionId] | None = Field(
        None, min_length=1, description="Ids of collections; null for all."
    )
    failing: bool = Field(False, description="Only those with a failing or retrying workflow.")

    def select_ids(self, session: Session) -> list[int]:
        """Return the ids of the selected collections."""
        ids = list(collection_ids_in_use(session)) if self.collection_ids is None else self.collection_ids
        failing = set(control.find_failing_collections(session)) if self.failing else set(ids)
        return [each for each in ids if each in failing]


class WorkflowSelection(CollectionSelection):
    """Workflows of collections to act on."""

    workflows: list[Choice[Workflow]] | None = Field(
        None, min_length=1, description="Workflows; null for all."
    )


class NewRuns(NewRun, CollectionSelection):
    """Runs to start."""


class StartedAndSkippedRuns(StartedRuns):
    """Runs that were queued, and the workflows that are paused or have an active run."""

    skipped: list[SkippedWorkflow]


class NewPause(WorkflowSelection):
    """A pause of workflows."""

    reason: str = Field(min_length=1, max_length=MAX_REASON_LENGTH, pattern=NO_NUL)
    until: Time | None = Field(
        None, description="End of the pause, with a time zone; null until it is resumed."
    )
    cancel_runs: bool = Field(
        False, description="Also cancel active runs; they are started again after the pause."
    )


@router.post("/runs", status_code=HTTPStatus.ACCEPTED, responses=problem_responses(404))
def start_runs(operator: Operator, new: NewRuns) -> StartedAndSkippedRuns:
    """Start a run of a workflow for some collections, or for all. Paused and active workflows are skipped."""
    with transaction() as session:
        ids = new.select_ids(session)
    result = control.run_now(operator.actor, ids, [new.workflow], force_reimport=new.force_reimport)
    task_ids = {run.collection_id: run.task_id for run in result.done if run.task_id is not None}
    return StartedAndSkippedRuns(task_ids=task_ids, skipped=list(result.skipped))


@router.post("/runs/retry", status_code=HTTPStatus.ACCEPTED, responses=problem_responses(404))
def retry_runs(operator: Operator, selection: WorkflowSelection) -> ControlResult:
    """Continue failed runs at their checkpoints, and start the next attempt of retrying runs at once."""
    with transaction() as session:
        ids = selection.select_ids(session)
    return control.retry_now(operator.actor, ids, selection.workflows or SCHEDULED_WORKFLOWS)


@router.post("/runs/cancel", responses=problem_responses(404))
def cancel_runs(operator: Operator, selection: WorkflowSelection) -> ControlResult:
    """Cancel active runs. What they have imported is kept, and the next runs continue there."""
    with transaction() as session:
        ids = selection.select_ids(session)
    return control.cancel_runs(operator.actor, ids, selection.workflows or tuple(Workflow))


@router.post(
    "/runs/{run_id:int}/retry", status_code=HTTPStatus.ACCEPTED, responses=problem_responses(404, 409)
)
def retry_run(operator: Operator, run_id: RowId) -> RunView:
    """Start the next attempt of a retrying run at once, or continue a failed one at its checkpoint.

    Returns the run that continues: this one, or a new one.
    """
    continued_id = control.retry_run(operator.actor, run_id)
    with transaction() as session:
        return run_view(session, continued_id)


@router.post("/runs/{run_id:int}/cancel", responses=problem_responses(404, 409))
def cancel_run(operator: Operator, run_id: RowId) -> RunView:
    """Cancel an active run. What it has imported is kept, and the next run continues there."""
    control.cancel_run(operator.actor, run_id)
    with transaction() as session:
        return run_view(session, run_id)


@router.post("/collections/pause", responses=problem_responses(404))
def pause_workflows(operator: Operator, new: NewPause) -> ControlResult:
    """Pause workflows: no run starts until the end of the pause, or until they are resumed."""
    with transaction() as session:
        ids = new.select_ids(session)
    return control.pause_workflows(
        operator.actor,
        ids,
        new.workflows or tuple(Workflow),
        reason=new.reason,
        until=new.until,
        cancels_runs=new.cancel_runs,
    )


@router.post("/collections/resume", responses=problem_responses(404))
def resume_workflows(operator: Operator, selection: WorkflowSelection) -> ControlResult:
    """End pauses. Runs that were due or cancelled during a pause start now."""
    with transaction() as session:
        ids = selection.select_ids(session)
    return control.resume_workflows(operator.actor, ids, selection.workflows or tuple(Workflow))
