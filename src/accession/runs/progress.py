"""Progress of runs, estimated from their rows in the ledger."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import ARRAY, Integer, func, literal, select
from sqlalchemy.orm import Session

from accession.core.clock import parse_datetime, utc_now
from accession.core.workflow import Workflow
from accession.db.models import BEGUN_STATES, LicensePool, Run, RunState


@dataclass(frozen=True)
class RunProgress:
    """Progress of a run.

    `fraction` (0 to 1) is the part of the work that is done; `reached` the time (UTC) up to which a workflow
    that goes through time has imported. `records_per_second` and `remaining_seconds`, which assumes the same
    speed for the rest, are None where they cannot be calculated.
    """

    fraction: float
    reached: datetime | None = None
    records_per_second: float | None = None
    remaining_seconds: float | None = None


def estimate_progress(session: Session, run: Run) -> RunProgress:
    """Return the progress of a run."""
    return estimate_progress_of_runs(session, [run])[run.id]


def estimate_progress_of_runs(session: Session, runs: Sequence[Run]) -> dict[int, RunProgress]:
    """Return the progress of each run by its id.

    Purchases and events are measured by the time span that is done, as the number of records per year is not
    known beforehand; circulation is measured by the number of titles, a verification by that of months.
    """
    offsets = {
        run.collection_id: run.cursor["offset"]
        for run in runs
        if run.workflow == Workflow.CIRCULATION and run.cursor["offset"]
    }
    swept_fractions = _swept_fractions(session, offsets) if offsets else {}
    return {run.id: _progress(run, swept_fractions.get(run.collection_id, 0.0)) for run in runs}


def _progress(run: Run, swept_fraction: float) -> RunProgress:
    reached = None
    if run.workflow == Workflow.CIRCULATION:
        fraction = swept_fraction
    elif run.workflow == Workflow.VERIFICATION:
        fraction = _verified_fraction(run)
    else:
        text = run.cursor.get("start" if run.workflow == Workflow.EVENTS else "current_day")
        reached = parse_datetime(text) if text else None
        until = run.cursor.get("until") if run.workflow == Workflow.BACKFILL else None
        fraction = _time_fraction(run.since, reached, parse_datetime(until) if until else utc_now())
    if run.state == RunState.SUCCEEDED:
        return RunProgress(1.0, reached)
    seconds = (run.updated_at - run.started_at).total_seconds()
    if run.state not in BEGUN_STATES or seconds <= 0:
        return RunProgress(fraction, reached)
    return RunProgress(
        fraction,
        reached,
        records_per_second=run.records_fetched / seconds,
        remaining_seconds=seconds * (1 - fraction) / fraction if fraction else None,
    )


def _swept_fractions(session: Session, offsets: Mapping[int, int]) -> dict[int, float]:
    """Return, by collection id, the fraction of the collection's titles up to its offset."""
    sweeps = func.unnest(
        literal(list(offsets), ARRAY(Integer)), literal(list(offsets.values()), ARRAY(Integer))
    ).table_valued("collection_id", "offset", name="sweeps")
    sweeps = sweeps.render_derived()
    done = func.count().filter(LicensePool.identifier_id <= sweeps.c.offset)
    query = select(LicensePool.collection_id, done, func.count()).join(
        sweeps, LicensePool.collection_id == sweeps.c.collection_id
    )
    rows = session.execute(query.group_by(LicensePool.collection_id))
    return {collection_id: titles_done / titles for collection_id, titles_done, titles in rows}


def _verified_fraction(run: Run) -> float:
    # The first step has no position yet.
    total = run.cursor.get("total")
    return 1 - len(run.cursor["months"]) / total if total else 0.0


def _time_fraction(since: datetime | None, reached: datetime | None, end: datetime) -> float:
    if since is None or reached is None:
        return 0.0
    return max(0.0, min(1.0, (reached - since) / max(end - since, timedelta(seconds=1))))
