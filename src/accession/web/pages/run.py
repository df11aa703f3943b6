"""Page of one run: its state and outlook, steps, vendor requests, retries, log, and where the time went."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Annotated, Generic, Literal, TypeVar
from urllib.parse import urlencode

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response
from pydantic import BaseModel, Field
from sqlalchemy.orm import Session

from accession.core.clock import utc_now
from accession.db.engine import transaction
from accession.db.models import Run, StepOutcome
from accession.runs.detail_store import MAX_FIRST_LINES, MAX_LAST_LINES, MAX_STEPS
from accession.runs.progress import estimate_progress
from accession.runs.run_details import (
    LineOrder,
    LogLevel,
    RunLogLineView,
    RunStepView,
    RunTotalsView,
    StepOrder,
    run_log,
    run_requests,
    run_steps,
)
from accession.runs.run_summary import run_summary
from accession.runs.samples import RunSampleView
from accession.runs.views import RunView
from accession.tasks.control import can_retry
from accession.web.pages.charts import DataPoint
from accession.web.pages.rendering import format_seconds, render
from accession.web.parameters import NO_NUL, RowId
from accession.web.principal import Viewer

router = APIRouter(prefix="/runs", include_in_schema=False)

_STEPS_PER_PAGE, _LINES_PER_PAGE = 20, 50
_MAX_OFFSET = 10_000
_LEVELS = {LogLevel.INFO: "all levels", LogLevel.WARNING: "warnings and errors", LogLevel.ERROR: "errors"}
# Workers store details a second later, so that the page of a run that has ended may still change.
_SETTLING_TIME = timedelta(seconds=10)

_Row = TypeVar("_Row")


class RunFilter(BaseModel, frozen=True):
    """Filters of the lists of steps and log lines, and where each list begins, as in the address."""

    order: StepOrder = StepOrder.LATEST
    outcome: StepOutcome | Literal[""] = ""
    steps: Annotated[int, Field(ge=0, le=_MAX_OFFSET)] = 0
    level: LogLevel = LogLevel.INFO
    text: Annotated[str, Field(max_length=200, pattern=NO_NUL)] = ""
    lines: Annotated[int, Field(ge=0, le=_MAX_OFFSET)] = 0

    def others(self, *names: str) -> dict[str, object]:
        """Return the parameters that differ from their defaults, apart from these."""
        fields = {name: field for name, field in RunFilter.model_fields.items() if name not in names}
        return {
            name: value for name, field in fields.items() if (value := getattr(self, name)) != field.default
        }

    def query(self, fragment: str, **changes: object) -> str:
        """Return the query string, with some parameters changed, and the fragment of a part of the page."""
        return f"{urlencode(self.model_copy(update=changes).others())}#{fragment}"


@dataclass(frozen=True)
class ListPart(Generic[_Row]):
    """Some rows of a list, and the offsets of the parts before and after them; None where there are none."""

    rows: Sequence[_Row]
    offset: int
    previous: int | None
    next: int | None

    @staticmethod
    def of(rows: Sequence[_Row], offset: int, size: int) -> "ListPart[_Row]":
        """Return the part from the offset; a further row says that there is a next part."""
        previous = max(0, offset - size) if offset else None
        return ListPart(rows[:size], offset, previous, offset + size if len(rows) > size else None)


@dataclass(frozen=True)
class TimeShare:
    """A share of a run's duration: what the time was needed for, its seconds, and its fraction (0 to 1)."""

    name: str
    seconds: float
    fraction: float

    def describe(self) -> str:
        """Return the share for people."""
        return f"{self.name}: {format_seconds(self.seconds)} ({100 * self.fraction:.0f} %)"


@router.get("/{run_id}")
def show_run(request: Request, _: Viewer, run_id: RowId, shown: Annotated[RunFilter, Query()]) -> Response:
    """Show one run."""
    with transaction() as session:
        summary = run_summary(session, run_id)
        run, totals, now = summary.run, summary.totals, utc_now()
        shares = list(_time_shares(run, totals))
        steps, lines = _steps(session, run_id, shown), _log_lines(session, run_id, shown)
        return render(
            request,
            "run.html",
            run=run,
            now=now,
            shown=shown,
            levels=_LEVELS,
            outcomes=list(StepOutcome),
            is_live=run.finished_at is None or now - run.finished_at < _SETTLING_TIME,
            can_retry=can_retry(session, run_id),
            outlook=summary.outlook,
            progress=estimate_progress(session, session.get_one(Run, run_id)),
            totals=totals,
            shares=shares,
            share_points=[DataPoint(share.describe(), share.seconds) for share in shares],
            kept_steps=MAX_STEPS,
            kept_lines=MAX_FIRST_LINES + MAX_LAST_LINES,
            retries=summary.retries[::-1],
            requests=run_requests(session, run_id),
            rates=list(_rates(run.started_at, summary.samples)),
            steps=steps,
            lines=lines,
        )


def _steps(session: Session, run_id: int, shown: RunFilter) -> ListPart[RunStepView]:
    steps = run_steps(
        session,
        run_id,
        order=shown.order,
        outcome=shown.outcome or None,
        offset=shown.steps,
        limit=_STEPS_PER_PAGE + 1,
    )
    return ListPart.of(steps, shown.steps, _STEPS_PER_PAGE)


def _log_lines(session: Session, run_id: int, shown: RunFilter) -> ListPart[RunLogLineView]:
    lines = run_log(
        session,
        run_id,
        min_level=shown.level,
        text=shown.text,
        order=LineOrder.LATEST,
        offset=shown.lines,
        limit=_LINES_PER_PAGE + 1,
    )
    return ListPart.of(lines, shown.lines, _LINES_PER_PAGE)


def _time_shares(run: RunView, totals: RunTotalsView) -> Iterator[TimeShare]:
    """Yield what the duration of the run was needed for; nothing before a step was recorded."""
    duration = ((run.finished_at or run.updated_at) - run.started_at).total_seconds()
    between = max(0.0, duration - totals.fetch_seconds - totals.store_seconds)
    shares = {
        "Waiting for the vendor": totals.fetch_seconds,
        "Storing": totals.store_seconds,
        "Between steps": between,
    }
    total = sum(shares.values())
    if totals.steps and total:
        for name, seconds in shares.items():
            yield TimeShare(name, seconds, seconds / total)


def _rates(started_at: datetime, samples: Sequence[RunSampleView]) -> Iterator[DataPoint]:
    """Yield records per second between successive samples, labelled by the time since the start."""
    for previous, sample in pairwise([RunSampleView(started_at, 0, 0), *samples]):
        seconds = (sample.at - previous.at).total_seconds()
        if seconds > 0:
            records = sample.records_fetched - previous.records_fetched
            yield DataPoint(_format_elapsed(sample.at - started_at), records / seconds)


def _format_elapsed(elapsed: timedelta) -> str:
    """Return minutes and seconds such as "1:05", or hours, minutes and seconds such as "2:01:05"."""
    minutes, seconds = divmod(round(elapsed.total_seconds()), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
