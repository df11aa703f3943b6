"""Failures of all collections, grouped by their cause."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import ARRAY, Integer, Text, func, literal, select
from sqlalchemy.orm import Session

from accession.core.workflow import SCHEDULED_WORKFLOWS
from accession.db.models import Run, RunState
from accession.runs.health import CollectionHealth, WorkflowHealth
from accession.runs.overview import cause_id

_GENERAL_ADVICE = "Retry now; if that does not help, open the run for the complete error."


@dataclass(frozen=True)
class Failure:
    """A workflow of a collection that is failing or retrying.

    `since` is when the first run after the last success started; without such a run, when the last success
    ended or, if there is none, when the collection was added. `run_id` is the latest run.
    """

    collection_id: int
    collection: str
    workflow: str
    state: str
    since: datetime
    run_id: int | None


@dataclass(frozen=True)
class FailureGroup:
    """Failures with one cause.

    `id` selects their collections in lists. `cause` says what failed and why, `advice` what to do. `since` is
    when the first of them began, `collections` the number of collections.
    """

    id: str
    cause: str
    advice: str
    since: datetime
    collections: int
    failures: tuple[Failure, ...]


def group_failures(session: Session, collections: Sequence[CollectionHealth]) -> list[FailureGroup]:
    """Return the failures of these collections by cause, those of most collections first."""
    first_runs = _find_first_failed_runs(session, collections)
    by_cause: defaultdict[str, list[Failure]] = defaultdict(list)
    for collection in collections:
        for workflow in _failing_workflows(collection):
            first = first_runs.get((collection.id, workflow.workflow))
            failure = Failure(
                collection_id=collection.id,
                collection=collection.name,
                workflow=workflow.workflow,
                state=workflow.state,
                since=first or workflow.last_success or collection.created_at,
                run_id=workflow.run_id,
            )
            by_cause[workflow.cause or ""].append(failure)
    groups = [_group(cause, failures) for cause, failures in by_cause.items()]
    return sorted(groups, key=lambda group: (-group.collections, group.since, group.cause))


def _group(cause: str, failures: Sequence[Failure]) -> FailureGroup:
    # Errors end with what to do, after a semicolon.
    problem, _, advice = cause.partition("; ")
    return FailureGroup(
        id=cause_id(cause),
        cause=f"{problem.removesuffix('.')}.",
        advice=f"{advice[:1].upper()}{advice[1:].removesuffix('.')}." if advice else _GENERAL_ADVICE,
        since=min(failure.since for failure in failures),
        collections=len({failure.collection_id for failure in failures}),
        failures=tuple(failures),
    )


def _failing_workflows(collection: CollectionHealth) -> Iterable[WorkflowHealth]:
    return (
        workflow
        for workflow in collection.workflows
        if workflow.cause is not None and workflow.workflow in SCHEDULED_WORKFLOWS
    )


def _find_first_failed_runs(
    session: Session, collections: Sequence[CollectionHealth]
) -> dict[tuple[int, str], datetime]:
    """Return when the first run after the last success started, by collection id and workflow."""
    keys = [(each.id, workflow.workflow) for each in collections for workflow in _failing_workflows(each)]
    if not keys:
        return {}
    arrays = (
        literal([collection_id for collection_id, _ in keys], ARRAY(Integer)),
        literal([workflow for _, workflow in keys], ARRAY(Text)),
    )
    pairs = func.unnest(*arrays).table_valued("collection_id", "workflow", name="failing").render_derived()
    is_of_pair = (Run.collection_id == pairs.c.collection_id) & (Run.workflow == pairs.c.workflow)
    # Two index lookups for each pair, because the ledger is long.
    last_success = select(func.max(Run.id)).where(is_of_pair, Run.state == RunState.SUCCEEDED)
    first = select(Run.started_at).where(
        is_of_pair, Run.id > func.coalesce(last_success.correlate(pairs).scalar_subquery(), 0)
    )
    first_start = first.order_by(Run.id).limit(1).correlate(pairs).scalar_subquery()
    rows = session.execute(select(pairs.c.collection_id, pairs.c.workflow, first_start))
    return {(collection_id, workflow): at for collection_id, workflow, at in rows if at is not None}
