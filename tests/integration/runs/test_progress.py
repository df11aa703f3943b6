"""Estimated progress of runs."""

from datetime import datetime, timedelta
from typing import Any

import pytest
import time_machine
from sqlalchemy.orm import Session

from accession.core.clock import parse_datetime
from accession.core.workflow import SCHEDULED_WORKFLOWS, Workflow
from accession.db.models import Collection, Run, RunState
from accession.runs.ledger import RunCounters, end_run, find_run, open_run, record_step
from accession.runs.progress import RunProgress, estimate_progress
from tests.fixtures.factories import NOON, day, make_collection, make_pool

YEAR = timedelta(days=365)
FIRST_CURSORS: dict[Workflow, dict[str, Any]] = {
    Workflow.PURCHASES: {"current_day": None, "offset": 1},
    Workflow.EVENTS: {"start": None, "slice_seconds": 300},
    Workflow.CIRCULATION: {"offset": None},
}


def start_run(session: Session, collection: Collection, workflow: Workflow) -> Run:
    open_run(session, collection.id, workflow, "task-1", FIRST_CURSORS[workflow])
    run = find_run(session, "task-1")
    assert run is not None
    return run


@pytest.mark.parametrize("workflow", SCHEDULED_WORKFLOWS)
def test_progress_is_zero_at_start_and_one_at_end(
    session: Session, collection: Collection, workflow: Workflow
) -> None:
    with time_machine.travel(NOON, tick=False):
        run = start_run(session, collection, workflow)
    assert estimate_progress(session, run) == RunProgress(0.0)

    end_run(run, RunState.SUCCEEDED)
    assert estimate_progress(session, run).fraction == 1.0


@pytest.mark.parametrize(
    ("workflow", "cursor"),
    [
        (Workflow.PURCHASES, {"current_day": (NOON - YEAR).isoformat(), "offset": 51}),
        (Workflow.EVENTS, {"start": (NOON - YEAR).isoformat(), "slice_seconds": 600}),
    ],
)
def test_progress_is_fraction_of_time_span(
    session: Session, collection: Collection, workflow: Workflow, cursor: dict[str, Any]
) -> None:
    with time_machine.travel(NOON, tick=False):
        run = start_run(session, collection, workflow)
        record_step(run, RunCounters(), since=NOON - 4 * YEAR, next_cursor=cursor)
        assert estimate_progress(session, run) == RunProgress(0.75, NOON - YEAR)


def test_remaining_time_is_estimated_from_rate(session: Session, collection: Collection) -> None:
    with time_machine.travel(NOON - timedelta(seconds=30), tick=False):
        run = start_run(session, collection, Workflow.EVENTS)
    with time_machine.travel(NOON, tick=False):
        counters = RunCounters(records_fetched=60, records_stored=60)
        record_step(
            run,
            counters,
            since=NOON - 4 * YEAR,
            next_cursor={"start": (NOON - YEAR).isoformat(), "slice_seconds": 300},
        )
        assert estimate_progress(session, run) == RunProgress(
            0.75, NOON - YEAR, records_per_second=2.0, remaining_seconds=10.0
        )


def test_progress_of_circulation_is_fraction_of_titles(session: Session, collection: Collection) -> None:
    pools = [make_pool(session, collection, f"title-{n}") for n in range(4)]
    make_pool(session, make_collection(session, "Birch Library"), "another")
    with time_machine.travel(NOON, tick=False):
        run = start_run(session, collection, Workflow.CIRCULATION)
        record_step(run, RunCounters(), since=None, next_cursor={"offset": pools[0].identifier_id})

    assert estimate_progress(session, run) == RunProgress(0.25)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2024-05-01T12:00:00+00:00", NOON),
        ("2024-05-01T14:00:00+02:00", NOON),
        ("2024-05-01T12:00:00", NOON),
        ("2024-05-01", day(2024, 5, 1)),
    ],
)
def test_parse_datetime_without_zone_is_utc(text: str, expected: datetime) -> None:
    assert parse_datetime(text) == expected
