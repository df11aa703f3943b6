"""Storing the details of runs.

Workers store what they have recorded about once a second, for several runs and steps at once. The number of
rows of a run is limited.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from math import fsum
from typing import Any

from sqlalchemy import ColumnElement, Delete, Text, any_, bindparam, delete, func, or_, select, tuple_
from sqlalchemy.dialects.postgresql import ARRAY, Insert
from sqlalchemy.orm import Session
from sqlalchemy.sql.dml import ReturningInsert

from accession.db.bulk import (
    array_parameters,
    in_array_parameter,
    insert_missing_statement,
    insert_statement,
)
from accession.db.models import (
    Run,
    RunLogLine,
    RunRequests,
    RunStep,
    RunStepTotals,
    StepOutcome,
    table_of,
)
from accession.runs.run_details import LogLevel, RunLogLineView, RunStepView, RunTotalsView

# A run keeps its latest and slowest steps, and the latest of those that stored nothing: 150 rows at most.
MAX_LATEST_STEPS, MAX_SLOWEST_STEPS, MAX_UNSTORED_STEPS = 100, 25, 25
# It keeps its first and last log lines, and its first and last warnings and errors: 200 rows at most.
MAX_FIRST_LINES, MAX_LAST_LINES, MAX_FIRST_WARNINGS, MAX_LAST_WARNINGS = 25, 75, 50, 50

MAX_STEPS = MAX_LATEST_STEPS + MAX_SLOWEST_STEPS + MAX_UNSTORED_STEPS


@dataclass
class RecordedDetails:
    """Details of one run that a worker has not stored yet."""

    steps: list[RunStepView] = field(default_factory=list)
    lines: list[RunLogLineView] = field(default_factory=list)
    requests: list[tuple[str, str, float]] = field(default_factory=list)
    """Endpoint, outcome and duration in seconds of each request."""
    slot_seconds: float = 0.0

    def totals(self) -> RunTotalsView:
        """Return the sums."""
        fetch_seconds = fsum(step.fetch_seconds for step in self.steps)
        return RunTotalsView(
            len(self.steps),
            fetch_seconds,
            fsum(step.seconds for step in self.steps) - fetch_seconds,
            self.slot_seconds,
            len(self.lines),
        )


_TOTAL_NAMES = ("steps", "fetch_seconds", "store_seconds", "slot_seconds", "log_lines")
_REQUEST_KEY = ("run_id", "endpoint", "outcome")

# Built once, as all statements here: a worker executes them every second.
_LOCKED_RUNS = (
    select(Run.task_id, Run.id)
    .where(Run.task_id == any_(bindparam("task_ids", type_=ARRAY(Text))))
    .order_by(Run.id)
    # They cannot be deleted meanwhile, but their steps can be stored.
    .with_for_update(read=True, key_share=True)
)


def store_run_details(session: Session, recorded: Mapping[str, RecordedDetails]) -> None:
    """Add what was recorded about runs, by their task ids; runs that do not exist are left out."""
    ids = session.execute(_LOCKED_RUNS, {"task_ids": list(recorded)}).all()
    details = {run_id: recorded[task_id] for task_id, run_id in ids}
    if not details:
        return
    # First, and in the order of the ids: until the end of the transaction no other one adds to these runs.
    totals = _add_totals(session, details)
    if steps := [{"run_id": id_, **vars(step)} for id_, each in details.items() for step in each.steps]:
        session.execute(insert_missing_statement(table_of(RunStep), *steps[0]), array_parameters(steps))
        _delete_surplus(session, _surplus_steps(), totals, "steps", MAX_STEPS)
    if lines := [{"run_id": id_, **vars(line)} for id_, each in details.items() for line in each.lines]:
        session.execute(insert_statement(table_of(RunLogLine), *lines[0]), array_parameters(lines))
        _delete_surplus(session, _surplus_lines(), totals, "log_lines", MAX_FIRST_LINES + MAX_LAST_LINES)
    if requests := _request_rows(details):
        session.execute(_add_requests(), array_parameters(requests))


def _add_totals(session: Session, details: Mapping[int, RecordedDetails]) -> dict[int, RunTotalsView]:
    """Add to the totals of each run, and return the new ones."""
    rows = [{"run_id": run_id, **vars(each.totals())} for run_id, each in details.items()]
    result = session.execute(_add_to_totals(), array_parameters(rows))
    return {run_id: RunTotalsView(*sums) for run_id, *sums in result}


@cache
def _add_to_totals() -> ReturningInsert[*tuple[Any, ...]]:
    table = table_of(RunStepTotals)
    statement = insert_statement(table, "run_id", *_TOTAL_NAMES)
    sums = {name: table.c[name] + statement.excluded[name] for name in _TOTAL_NAMES}
    return statement.on_conflict_do_update(index_elements=["run_id"], set_=sums).returning(
        table.c.run_id, *(table.c[name] for name in _TOTAL_NAMES)
    )


def _request_rows(details: Mapping[int, RecordedDetails]) -> list[dict[str, Any]]:
    durations: dict[tuple[int, str, str], list[float]] = {}
    for run_id, each in details.items():
        for endpoint, outcome, seconds in each.requests:
            durations.setdefault((run_id, endpoint, outcome), []).append(seconds)
    return [
        {
            **dict(zip(_REQUEST_KEY, key, strict=True)),
            "requests": len(each),
            "seconds": sum(each),
            "max_seconds": max(each),
        }
        for key, each in durations.items()
    ]


@cache
def _add_requests() -> Insert:
    table = table_of(RunRequests)
    statement = insert_statement(table, *_REQUEST_KEY, "requests", "seconds", "max_seconds")
    new = statement.excluded
    sums = {name: table.c[name] + new[name] for name in ("requests", "seconds")}
    slowest = {"max_seconds": func.greatest(table.c.max_seconds, new.max_seconds)}
    return statement.on_conflict_do_update(index_elements=list(_REQUEST_KEY), set_=sums | slowest)


def _delete_surplus(
    session: Session, statement: Delete, totals: Mapping[int, RunTotalsView], name: str, limit: int
) -> None:
    """Delete the surplus rows of the runs whose total `name` exceeds the limit."""
    run_ids = [run_id for run_id, each in totals.items() if getattr(each, name) > limit]
    if run_ids:
        session.connection().execute(statement, {"run_ids": run_ids})


@cache
def _surplus_steps() -> Delete:
    """Return the DELETE of steps that are neither among the latest nor among the slowest ones."""
    is_stored = RunStep.outcome == StepOutcome.STORED.value
    latest = (RunStep.number.desc(), RunStep.started_at.desc())
    key = (RunStep.run_id, RunStep.number, RunStep.started_at)
    ranked = (
        select(
            *key,
            is_stored.label("is_stored"),
            _rank(RunStep.run_id, order=latest).label("latest"),
            _rank(RunStep.run_id, order=(RunStep.seconds.desc(), *latest)).label("slowest"),
            _rank(RunStep.run_id, is_stored, order=latest).label("latest_alike"),
        )
        .where(in_array_parameter(RunStep.run_id, "run_ids"))
        .subquery()
    )
    surplus = select(ranked.c.run_id, ranked.c.number, ranked.c.started_at).where(
        ranked.c.latest > MAX_LATEST_STEPS,
        ranked.c.slowest > MAX_SLOWEST_STEPS,
        or_(ranked.c.is_stored, ranked.c.latest_alike > MAX_UNSTORED_STEPS),
    )
    return delete(table_of(RunStep)).where(tuple_(*key).in_(surplus))


@cache
def _surplus_lines() -> Delete:
    """Return the DELETE of the lines in the middle of each log."""
    is_warning = RunLogLine.level.in_([level.value for level in LogLevel if level is not LogLevel.INFO])
    key = (RunLogLine.run_id, RunLogLine.id)
    up, down = (RunLogLine.id.asc(),), (RunLogLine.id.desc(),)
    ranked = (
        select(
            *key,
            is_warning.label("is_warning"),
            _rank(RunLogLine.run_id, order=up).label("first"),
            _rank(RunLogLine.run_id, order=down).label("last"),
            _rank(RunLogLine.run_id, is_warning, order=up).label("first_alike"),
            _rank(RunLogLine.run_id, is_warning, order=down).label("last_alike"),
        )
        .where(in_array_parameter(RunLogLine.run_id, "run_ids"))
        .subquery()
    )
    is_surplus_warning = (ranked.c.first_alike > MAX_FIRST_WARNINGS) & (
        ranked.c.last_alike > MAX_LAST_WARNINGS
    )
    surplus = select(ranked.c.run_id, ranked.c.id).where(
        ranked.c.first > MAX_FIRST_LINES,
        ranked.c.last > MAX_LAST_LINES,
        or_(~ranked.c.is_warning, is_surplus_warning),
    )
    return delete(table_of(RunLogLine)).where(tuple_(*key).in_(surplus))


def _rank(*group: Any, order: Sequence[Any]) -> ColumnElement[int]:
    return func.row_number().over(partition_by=group, order_by=order)
