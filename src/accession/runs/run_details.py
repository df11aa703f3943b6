"""Details of runs: their steps, the requests to the vendor, and the lines of the log about them.

Totals count all steps and lines of a run. Of a long run only some are kept (`runs.detail_store`).
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from datetime import datetime, time, timedelta
from enum import StrEnum
from typing import Any

from sqlalchemy import Text, asc, case, cast, desc, or_, select
from sqlalchemy.orm import Session

from accession.db.models import RunLogLine, RunRequests, RunStep, RunStepTotals, StepOutcome


class LogLevel(StrEnum):
    """Level of a log line that is kept, the least severe first."""

    INFO = "info"
    WARNING = "warning"
    ERROR = "error"
    CRITICAL = "critical"


class StepOrder(StrEnum):
    """Order in which steps are listed."""

    LATEST = "latest"
    SLOWEST = "slowest"


class LineOrder(StrEnum):
    """Order in which log lines are listed."""

    OLDEST = "oldest"
    LATEST = "latest"


@dataclass(frozen=True)
class RunStepView:
    """A step of a run, or an attempt at one.

    Attributes:
        number: Number of the page, slice or batch within the run, from 1.
        started_at: When it began (UTC).
        outcome: Whether it was stored.
        seconds: Its duration.
        fetch_seconds: The part of it before the first write: requests to the vendor, and waiting for them.
        requests: Number of requests that it made, also those of prefetching.
        records: Number of records that it fetched.
        window_start: Start of its time span (UTC); None without one.
        window_end: End of its time span (UTC); None without one.
        offset: Position of its first record in the span, from 1, or the id of the last title before a batch.
    """

    number: int
    started_at: datetime
    outcome: StepOutcome
    seconds: float
    fetch_seconds: float
    requests: int = 0
    records: int = 0
    window_start: datetime | None = None
    window_end: datetime | None = None
    offset: int | None = None

    @property
    def store_seconds(self) -> float:
        """Return how long it took to store what was fetched."""
        return self.seconds - self.fetch_seconds

    def describe_span(self) -> str:
        """Return the time span (UTC) and the position for people; empty without either."""
        if self.window_start is None:
            return f"after title {self.offset:,}" if self.offset else ""
        span = _format_span(self.window_start, self.window_end or self.window_start)
        return span if self.offset in (None, 0, 1) else f"{span}, from record {self.offset:,}"


def _format_span(start: datetime, end: datetime) -> str:
    """Return whole days as days, the last one included, and other spans with times."""
    if start.time() == end.time() == time():
        last = max(start, end - timedelta(days=1))
        return f"{start:%Y-%m-%d}" if last == start else f"{start:%Y-%m-%d} to {last:%Y-%m-%d}"
    if start.date() == end.date():
        return f"{start:%Y-%m-%d %H:%M} to {end:%H:%M}"
    return f"{start:%Y-%m-%d %H:%M} to {end:%Y-%m-%d %H:%M}"


@dataclass(frozen=True)
class RunLogLineView:
    """A line of the log about a run.

    `page` is the number of the step that it is about, None if it is about none; `fields` has the other fields
    of the line.
    """

    at: datetime
    level: str
    event: str
    page: int | None = None
    fields: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class RunRequestsView:
    """The requests of a run to one of the vendor's endpoints with one outcome, and their durations."""

    endpoint: str
    outcome: str
    requests: int
    seconds: float
    max_seconds: float

    @property
    def mean_seconds(self) -> float:
        """Return the average duration."""
        return self.seconds / self.requests


@dataclass(frozen=True)
class RunTotalsView:
    """Sums over all steps of a run.

    Attributes:
        steps: Number of steps, also of attempts that stored nothing.
        fetch_seconds: Time before the first write of each step: requests, and waiting for them.
        store_seconds: Time of storing what was fetched.
        slot_seconds: Time that requests waited for the account's limits, summed over requests that waited at
            the same time.
        log_lines: Number of log lines.
    """

    steps: int = 0
    fetch_seconds: float = 0.0
    store_seconds: float = 0.0
    slot_seconds: float = 0.0
    log_lines: int = 0


def run_totals(session: Session, run_id: int) -> RunTotalsView:
    """Return the sums over all steps of a run; zeros before the first was recorded."""
    query = select(*(getattr(RunStepTotals, each.name) for each in fields(RunTotalsView)))
    row = session.execute(query.where(RunStepTotals.run_id == run_id)).one_or_none()
    return RunTotalsView() if row is None else RunTotalsView(*row)


def run_steps(
    session: Session,
    run_id: int,
    *,
    order: StepOrder = StepOrder.LATEST,
    outcome: StepOutcome | None = None,
    offset: int = 0,
    limit: int | None = None,
) -> list[RunStepView]:
    """Return the steps of a run that are kept."""
    columns = (getattr(RunStep, each.name) for each in fields(RunStepView))
    query = select(*columns).where(RunStep.run_id == run_id)
    if outcome is not None:
        query = query.where(RunStep.outcome == outcome)
    slowest = [RunStep.seconds.desc()] if order is StepOrder.SLOWEST else []
    query = query.order_by(*slowest, RunStep.number.desc(), RunStep.started_at.desc())
    rows = session.execute(query.offset(offset).limit(limit))
    return [_step_view(*row) for row in rows]


def _step_view(number: int, started_at: datetime, outcome: str, *others: Any) -> RunStepView:
    return RunStepView(number, started_at, StepOutcome(outcome), *others)


def run_log(
    session: Session,
    run_id: int,
    *,
    min_level: LogLevel = LogLevel.INFO,
    text: str = "",
    order: LineOrder = LineOrder.OLDEST,
    offset: int = 0,
    limit: int | None = None,
) -> list[RunLogLineView]:
    """Return the log lines of a run that are kept, of this level or a more severe one.

    `text` is in the event or in a field, in whatever case.
    """
    columns = (getattr(RunLogLine, each.name) for each in fields(RunLogLineView))
    query = select(*columns).where(RunLogLine.run_id == run_id, RunLogLine.level.in_(_levels_from(min_level)))
    if text:
        searched = (RunLogLine.event, cast(RunLogLine.fields, Text))
        matches = (column.icontains(text, autoescape=True) for column in searched)
        query = query.where(or_(*matches))
    # Workers store their lines separately, so that the ids of a run are not always in the order of time.
    direction = desc if order is LineOrder.LATEST else asc
    query = query.order_by(direction(RunLogLine.at), direction(RunLogLine.id))
    rows = session.execute(query.offset(offset).limit(limit))
    return [RunLogLineView(*row) for row in rows]


def _levels_from(level: LogLevel) -> Iterable[str]:
    levels = tuple(LogLevel)
    return levels[levels.index(level) :]


def run_requests(session: Session, run_id: int) -> list[RunRequestsView]:
    """Return the requests of a run by endpoint and outcome, successful ones first."""
    columns = (getattr(RunRequests, each.name) for each in fields(RunRequestsView))
    is_ok = case((RunRequests.outcome == "ok", 0), else_=1)
    query = select(*columns).where(RunRequests.run_id == run_id)
    rows = session.execute(query.order_by(RunRequests.endpoint, is_ok, RunRequests.outcome))
    return [RunRequestsView(*row) for row in rows]
