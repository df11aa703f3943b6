"""TODO."""

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import select
from sqlalchemy.orm import Session

from accession.db.models import Retry, Sample


@dataclass(frozen=True)
class RunSample:
    """What a run had done at a moment (UTC), from its beginning: pages, and records fetched."""

    at: datetime
    pages: int
    records_fetched: int


@dataclass(frozen=True)
class RunRetry:
    """That a page was to be tried again, for the `retry`th time (from 1), and why."""

    at: datetime
    retry: int
    reason: str


def run_samples(session: Session, run_id: int) -> list[RunSample]:
    """The samples of a run, oldest first; a run of some seconds has none, one of a day a few hundred."""
    query = select(Sample.at, Sample.pages, Sample.records_fetched).where(Sample.run_id == run_id)
    return [RunSample(*row) for row in session.execute(query.order_by(Sample.at))]


def run_retries(session: Session, run_id: int) -> list[RunRetry]:
    """The retries of a run, oldest first."""
    query = select(Retry.at, Retry.retry, Retry.reason).where(Retry.run_id == run_id)
    return [RunRetry(*row) for row in session.execute(query.order_by(Retry.id))]
