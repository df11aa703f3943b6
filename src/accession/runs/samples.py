"""Samples and retries of a run, for its charts and lists."""

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import select
from sqlalchemy.orm import Session

from accession.db.models import RunRetry, RunSample


@dataclass(frozen=True)
class RunSampleView:
    """Counters of a run at one time (UTC), counted from its start."""

    at: datetime
    pages: int
    records_fetched: int


@dataclass(frozen=True)
class RunRetryView:
    """A retry of a step: scheduled at this time (UTC), for the `retry`-th time (from 1), and why."""

    at: datetime
    retry: int
    reason: str


def run_samples(session: Session, run_id: int) -> list[RunSampleView]:
    """Return the samples of a run, oldest first: none after seconds, a few hundred after a day."""
    query = select(RunSample.at, RunSample.pages, RunSample.records_fetched).where(RunSample.run_id == run_id)
    return [RunSampleView(*row) for row in session.execute(query.order_by(RunSample.at))]


def run_retries(session: Session, run_id: int) -> list[RunRetryView]:
    """Return the retries of a run, oldest first."""
    query = select(RunRetry.at, RunRetry.retry, RunRetry.reason).where(RunRetry.run_id == run_id)
    return [RunRetryView(*row) for row in session.execute(query.order_by(RunRetry.id))]
