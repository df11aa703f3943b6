"""How far a run has come, from its row in the ledger."""

from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from accession.catalog.ledger import Workflow
from accession.catalog.models import LicensePool, Run, RunState
from accession.clock import moment_of, utc_now


@dataclass(frozen=True)
class Progress:
    """The share (0 to 1) of its work that a run has done, and the moment (UTC) that it has reached, for
    a workflow that goes through time."""

    share: float
    reached: datetime | None = None


def progress_of(session: Session, run: Run) -> Progress:
    """How far the run has come; the rate of titles differs from year to year, so time is the measure of
    a workflow that goes through time, and titles are that of the sweep."""
    if run.workflow == Workflow.CIRCULATION:
        share = _share_of_titles(session, run.collection_id, run.cursor["offset"])
        reached = None
    else:
        text = run.cursor["current_day" if run.workflow == Workflow.PURCHASES else "start"]
        reached = moment_of(text) if text else None
        share = _share_of_time(run.since, reached)
    return Progress(1.0 if run.state == RunState.SUCCEEDED else share, reached)


def _share_of_titles(session: Session, collection_id: int, offset: int | None) -> float:
    if not offset:
        return 0.0
    done = func.count().filter(LicensePool.identifier_id <= offset)
    query = select(done, func.count()).where(LicensePool.collection_id == collection_id)
    titles_done, titles = session.execute(query).one()
    return float(titles_done / max(titles, 1))


def _share_of_time(since: datetime | None, reached: datetime | None) -> float:
    if since is None or reached is None:
        return 0.0
    return min(1.0, (reached - since) / max(utc_now() - since, timedelta(seconds=1)))
