"""Watch runs until they end: one progress bar per collection, read from the run ledger."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime

from celery.result import AsyncResult
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TaskID, TextColumn, TimeRemainingColumn
from rich.text import Text
from sqlalchemy.orm import Session

from accession.bibliotheca.errors import problem_of
from accession.catalog.outbox import count_pending_changes
from accession.cli.output import count_noun, error_console
from accession.core.sanitize import sanitize
from accession.core.workflow import Workflow
from accession.db.engine import transaction
from accession.db.models import RunState
from accession.runs.ledger import find_latest_run, find_run, is_active
from accession.runs.progress import estimate_progress
from accession.tasks.app import app
from accession.tasks.steps import RunOutcome

_POLL_SECONDS = 0.25
_NO_WORKER_HINT_SECONDS = 20
_RECORD_NOUNS = {
    Workflow.PURCHASES: "records",
    Workflow.EVENTS: "events",
    Workflow.CIRCULATION: "titles",
    Workflow.VERIFICATION: "records imported",
    Workflow.BACKFILL: "records",
}


@dataclass(frozen=True)
class WatchedRun:
    """A run as of the last poll.

    `succeeded` is None until the run has ended and its changes are applied. `share` is the completed part
    of the work, from 0 to 1.
    """

    workflow: Workflow
    collection_id: int
    name: str
    task_id: str
    queued_at: float = field(default_factory=time.monotonic)
    succeeded: bool | None = None
    share: float = 0.0
    reached: str = ""
    records: int = 0
    remark: str = ""


def watch(
    workflow: Workflow, names: Mapping[int, str], task_ids: Mapping[int, str], *, join: bool = False
) -> bool:
    """Show a progress bar per collection until its run has ended and its changes are applied.

    `names` and `task_ids` are by collection id. If another run of the workflow is already active for a
    collection, `join` watches that run instead; without `join` the collection counts as failed.

    Returns whether every run succeeded.
    """
    runs = [WatchedRun(workflow, key, names[key], task_id) for key, task_id in task_ids.items()]
    with _progress(_RECORD_NOUNS[workflow]) as progress:
        bars = {run.collection_id: _add_bar(progress, run) for run in runs}
        while True:
            with transaction() as session:
                runs = [_poll(session, run, join) for run in runs]
            for run in runs:
                _update_bar(progress, bars[run.collection_id], run)
            if all(run.succeeded is not None for run in runs):
                break
            time.sleep(_POLL_SECONDS)
    for run in runs:
        if not run.succeeded:
            message = sanitize(f"{run.name}: {run.remark}")
            error_console.print(message, style="red", markup=False, highlight=False, soft_wrap=True)
    return all(run.succeeded for run in runs)


def _poll(session: Session, watched: WatchedRun, join: bool) -> WatchedRun:
    if watched.succeeded is not None:
        return watched
    run = find_run(session, watched.task_id)
    if run is None or run.state == RunState.QUEUED:
        return _poll_task(session, watched, join)
    progress = estimate_progress(session, run)
    polled = replace(
        watched,
        records=run.records_fetched,
        reached=_format_reached(watched.workflow, progress.reached),
        share=progress.fraction,
        remark="",
    )
    if is_active(run):
        return replace(polled, remark=run.state if run.state == RunState.RETRYING else "")
    if run.state != RunState.SUCCEEDED:
        reason = problem_of(run.error or "", watched.name)
        remark = f"{run.state}: {reason} See: accession runs show {run.id}"
        return replace(polled, succeeded=False, remark=remark)
    if pending := count_pending_changes(session, watched.collection_id):
        return replace(polled, remark=f"applying {count_noun(pending, 'title')}")
    return replace(polled, succeeded=True, remark="done")


def _poll_task(session: Session, watched: WatchedRun, join: bool) -> WatchedRun:
    """Poll the Celery task of a run that has not started, or was refused."""
    result = AsyncResult(watched.task_id, app=app)
    if not result.ready():
        is_late = time.monotonic() - watched.queued_at > _NO_WORKER_HINT_SECONDS
        remark = "no worker has started it: is `accession up` running?" if is_late else "waiting for a worker"
        return replace(watched, remark=remark)
    active = find_latest_run(session, watched.collection_id, watched.workflow)
    if result.result == RunOutcome.REFUSED and not join:
        remark = "not started, because another run is active: retry when it has ended"
        return replace(watched, succeeded=False, remark=remark)
    if result.result == RunOutcome.REFUSED and active is not None:
        message = sanitize(f"{watched.name}: another run is already active; watching that one.")
        error_console.print(message, markup=False, highlight=False, soft_wrap=True)
        return replace(watched, task_id=active.task_id)
    return replace(watched, succeeded=False, remark=f"the run did not start: {result.result}")


def _format_reached(workflow: Workflow, reached: datetime | None) -> str:
    if reached is None:
        return ""
    is_daily = workflow in (Workflow.PURCHASES, Workflow.BACKFILL)
    return f"{reached:%Y-%m-%d}" if is_daily else f"{reached:%Y-%m-%d %H:%M}"


class _RateColumn(ProgressColumn):
    """Records per second since the bar started."""

    def render(self, task: Task) -> Text:
        """Return the rate, or an empty text before the first record."""
        if not task.elapsed or not task.fields["records"]:
            return Text("")
        return Text(f"{task.fields['records'] / task.elapsed:,.0f}/s")


def _progress(record_noun: str) -> Progress:
    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=24),
        TextColumn("{task.fields[reached]}"),
        TextColumn(f"{{task.fields[records]:,}} {record_noun}"),
        _RateColumn(),
        TimeRemainingColumn(compact=True),
        TextColumn("{task.fields[remark]}", markup=False),
        console=error_console,
    )


def _add_bar(progress: Progress, run: WatchedRun) -> TaskID:
    return progress.add_task(sanitize(run.name), total=1.0, reached="", records=0, remark=run.remark)


def _update_bar(progress: Progress, bar: TaskID, run: WatchedRun) -> None:
    progress.update(
        bar,
        completed=run.share,
        reached=run.reached,
        records=run.records,
        remark="" if run.succeeded is False else sanitize(run.remark),
    )
