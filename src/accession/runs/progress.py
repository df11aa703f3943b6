"""How far runs have come, from their rows in the ledger."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import ARRAY, Integer, func, literal, select
from sqlalchemy.orm import Session

from accession.core.clock import moment_of, utc_now
from accession.core.workflow import Workflow
from accession.db.models import BEGUN_STATES, LicensePool, Run, RunState


@dataclass(frozen=True)
class Progress:
    """The share (0 to 1) of its work that a run has done, and the moment (UTC) that it has reached, for
    a workflow that goes through time. `per_second` are records, and `seconds_left` what the rest will take
    if it goes on like that; both None where that cannot be told."""

    share: float
    reached: datetime | None = None
    per_second: float | None = None
    seconds_left: float | None = None


def progress_of(session: Session, run: Run) -> Progress:
    """How far the run has come."""
    return progress_of_each(session, [run])[run.id]


def progress_of_each(session: Session, runs: Sequence[Run]) -> dict[int, Progress]:
    """How far each of the runs has come, by its id.

    The rate of titles differs from year to year, so time is the measure of a workflow that goes through time,
    and titles are that of the sweep.
    """
    sweeps = {
        run.collection_id: run.cursor["offset"]
        for run in runs
        if run.workflow == Workflow.CIRCULATION and run.cursor["offset"]
    }
    swept = _swept(session, sweeps) if sweeps else {}
    return {run.id: _progress(run, swept.get(run.collection_id, 0.0)) for run in runs}


def _progress(run: Run, swept: float) -> Progress:
    reached = None
    if run.workflow == Workflow.CIRCULATION:
        share = swept
    else:
        text = run.cursor["current_day" if run.workflow == Workflow.PURCHASES else "start"]
        reached = moment_of(text) if text else None
        share = _share_of_time(run.since, reached)
    if run.state == RunState.SUCCEEDED:
        return Progress(1.0, reached)
    seconds = (run.updated_at - run.started_at).total_seconds()
    if run.state not in BEGUN_STATES or seconds <= 0:
        return Progress(share, reached)
    return Progress(
        share,
        reached,
        per_second=run.records_fetched / seconds,
        seconds_left=seconds * (1 - share) / share if share else None,
    )


def _swept(session: Session, offsets: Mapping[int, int]) -> dict[int, float]:
    """The share of each collection's titles up to the offset."""
    at_work = func.unnest(
        literal(list(offsets), ARRAY(Integer)), literal(list(offsets.values()), ARRAY(Integer))
    ).table_valued("collection_id", "offset", name="at_work")
    at_work = at_work.render_derived()
    done = func.count().filter(LicensePool.identifier_id <= at_work.c.offset)
    query = select(LicensePool.collection_id, done, func.count()).join(
        at_work, LicensePool.collection_id == at_work.c.collection_id
    )
    rows = session.execute(query.group_by(LicensePool.collection_id))
    return {collection_id: titles_done / titles for collection_id, titles_done, titles in rows}


def _share_of_time(since: datetime | None, reached: datetime | None) -> float:
    if since is None or reached is None:
        return 0.0
    return min(1.0, (reached - since) / max(utc_now() - since, timedelta(seconds=1)))
