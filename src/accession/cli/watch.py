"""Watching chains to their end: a progress bar for each, read from the ledger."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime

from celery.result import AsyncResult
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TaskID, TextColumn, TimeRemainingColumn
from rich.text import Text
from sqlalchemy.orm import Session

from accession.catalog.outbox import count_pending_applies
from accession.cli.output import counted, error_console
from accession.core.sanitize import harmless
from accession.core.workflow import Workflow
from accession.db.engine import transaction
from accession.db.models import RunState
from accession.runs.ledger import find_run, is_active, latest_run
from accession.runs.progress import progress_of
from accession.tasks.app import app
from accession.tasks.chain import Outcome

_POLL_SECONDS = 0.25
_NOBODY_AFTER_SECONDS = 20
_RECORDS = {Workflow.PURCHASES: "records", Workflow.EVENTS: "events", Workflow.CIRCULATION: "titles"}


@dataclass(frozen=True)
class Chain:
    """A chain as it was last seen. `succeeded` is None while it is on its way."""

    workflow: Workflow
    collection_id: int
    name: str
    task_id: str
    asked_at: float = field(default_factory=time.monotonic)
    succeeded: bool | None = None
    share: float = 0.0
    reached: str = ""
    records: int = 0
    remark: str = ""


def watch(
    workflow: Workflow, names: Mapping[int, str], task_ids: Mapping[int, str], *, join: bool = False
) -> bool:
    """Show a progress bar for each collection until its run of the workflow has ended and all it found is
    applied; returns whether every run succeeded.

    Where another run is at work already, `join` shows that one in its place; otherwise the collection
    counts as failed, since what was asked for has not been done.
    """
    chains = [Chain(workflow, key, names[key], task_id) for key, task_id in task_ids.items()]
    with _progress(_RECORDS[workflow]) as progress:
        bars = {chain.collection_id: _add_bar(progress, chain) for chain in chains}
        while any(chain.succeeded is None for chain in chains):
            with transaction() as session:
                chains = [_look(session, chain, join) for chain in chains]
            for chain in chains:
                _show(progress, bars[chain.collection_id], chain)
            time.sleep(_POLL_SECONDS)
    for chain in chains:
        if not chain.succeeded:
            sentence = harmless(f"{chain.name}: {chain.remark}")
            error_console.print(sentence, style="red", markup=False, highlight=False, soft_wrap=True)
    return all(chain.succeeded for chain in chains)


def _look(session: Session, chain: Chain, join: bool) -> Chain:
    if chain.succeeded is not None:
        return chain
    run = find_run(session, chain.task_id)
    if run is None or run.state == RunState.QUEUED:
        return _look_at_message(session, chain, join)
    progress = progress_of(session, run)
    seen = replace(
        chain,
        records=run.records_fetched,
        reached=_shown(chain.workflow, progress.reached),
        share=progress.share,
        remark="",
    )
    if is_active(run):
        return replace(seen, remark=run.state if run.state == RunState.RETRYING else "")
    if run.state != RunState.SUCCEEDED:
        return replace(seen, succeeded=False, remark=f"{run.state}: {run.error}")
    if waiting := count_pending_applies(session, chain.collection_id):
        return replace(seen, remark=f"applying {counted(waiting, 'title')}")
    return replace(seen, succeeded=True, remark="done")


def _look_at_message(session: Session, chain: Chain, join: bool) -> Chain:
    """A chain that has no run has not begun, or was refused."""
    result = AsyncResult(chain.task_id, app=app)
    if not result.ready():
        late = time.monotonic() - chain.asked_at > _NOBODY_AFTER_SECONDS
        remark = "no worker has taken it yet: is `accession up` running?" if late else "waiting for a worker"
        return replace(chain, remark=remark)
    other = latest_run(session, chain.collection_id, chain.workflow)
    if result.result == Outcome.REFUSED and not join:
        remark = "another import is at work; start this one again when that has ended"
        return replace(chain, succeeded=False, remark=remark)
    if result.result == Outcome.REFUSED and other is not None:
        said = harmless(f"{chain.name}: an import is at work already; watching that one.")
        error_console.print(said, markup=False, highlight=False, soft_wrap=True)
        return replace(chain, task_id=other.task_id)
    return replace(chain, succeeded=False, remark=f"the import did not start: {result.result}")


def _shown(workflow: Workflow, reached: datetime | None) -> str:
    if reached is None:
        return ""
    return f"{reached:%Y-%m-%d}" if workflow is Workflow.PURCHASES else f"{reached:%Y-%m-%d %H:%M}"


class _Rate(ProgressColumn):
    """Records a second since the bar began."""

    def render(self, task: Task) -> Text:
        """The rate, once there is one."""
        if not task.elapsed or not task.fields["records"]:
            return Text("")
        return Text(f"{task.fields['records'] / task.elapsed:,.0f}/s")


def _progress(records: str) -> Progress:
    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=24),
        TextColumn("{task.fields[reached]}"),
        TextColumn(f"{{task.fields[records]:,}} {records}"),
        _Rate(),
        TimeRemainingColumn(compact=True),
        TextColumn("{task.fields[remark]}", markup=False),
        console=error_console,
    )


def _add_bar(progress: Progress, chain: Chain) -> TaskID:
    return progress.add_task(harmless(chain.name), total=1.0, reached="", records=0, remark=chain.remark)


def _show(progress: Progress, bar: TaskID, chain: Chain) -> None:
    progress.update(
        bar,
        completed=chain.share,
        reached=chain.reached,
        records=chain.records,
        remark="" if chain.succeeded is False else harmless(chain.remark),
    )
