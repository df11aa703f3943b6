"""How far a run has come, as a person sees it."""

from datetime import datetime, timedelta
from typing import Any

import pytest
import time_machine
from sqlalchemy.orm import Session

from accession.core.clock import parse_datetime
from accession.core.workflow import Workflow
from accession.db.models import Collection, Run, RunState
from accession.runs.ledger import RunCounters, end_run, find_run, open_run, record_step
from accession.runs.progress import RunProgress, estimate_progress
from tests.fixtures.factories import NOON, day, make_collection, make_pool

YEAR = timedelta(days=365)
BEFORE_THE_FIRST_PAGE: dict[Workflow, dict[str, Any]] = {
    Workflow.PURCHASES: {"current_day": None, "offset": 1},
    Workflow.EVENTS: {"start": None, "slice_seconds": 300},
    Workflow.CIRCULATION: {"offset": None},
}


def started(session: Session, collection: Collection, workflow: Workflow) -> Run:
    open_run(session, collection.id, workflow, "task-1", BEFORE_THE_FIRST_PAGE[workflow])
    run = find_run(session, "task-1")
    assert run is not None
    return run


@pytest.mark.parametrize("workflow", Workflow)
def test_before_its_first_page_nothing_is_done_and_at_its_end_all_is(
    session: Session, collection: Collection, workflow: Workflow
) -> None:
    with time_machine.travel(NOON, tick=False):
        run = started(session, collection, workflow)
    assert estimate_progress(session, run) == RunProgress(0.0)

    end_run(run, RunState.SUCCEEDED)
    assert estimate_progress(session, run).share == 1.0


@pytest.mark.parametrize(
    ("workflow", "cursor"),
    [
        (Workflow.PURCHASES, {"current_day": (NOON - YEAR).isoformat(), "offset": 51}),
        (Workflow.EVENTS, {"start": (NOON - YEAR).isoformat(), "slice_seconds": 600}),
    ],
)
def test_a_run_through_time_is_as_far_as_the_time_it_has_covered(
    session: Session, collection: Collection, workflow: Workflow, cursor: dict[str, Any]
) -> None:
    with time_machine.travel(NOON, tick=False):
        run = started(session, collection, workflow)
        record_step(run, RunCounters(), since=NOON - 4 * YEAR, next_cursor=cursor)
        assert estimate_progress(session, run) == RunProgress(0.75, NOON - YEAR)


def test_what_is_left_is_told_from_what_was_done(session: Session, collection: Collection) -> None:
    with time_machine.travel(NOON - timedelta(seconds=30), tick=False):
        run = started(session, collection, Workflow.EVENTS)
    with time_machine.travel(NOON, tick=False):
        counters = RunCounters(records_fetched=60, records_stored=60)
        record_step(
            run,
            counters,
            since=NOON - 4 * YEAR,
            next_cursor={"start": (NOON - YEAR).isoformat(), "slice_seconds": 300},
        )
        assert estimate_progress(session, run) == RunProgress(0.75, NOON - YEAR, per_second=2.0, seconds_left=10.0)


def test_a_sweep_is_as_far_as_the_titles_it_has_asked_about(session: Session, collection: Collection) -> None:
    pools = [make_pool(session, collection, f"title-{n}") for n in range(4)]
    make_pool(session, make_collection(session, "Birch Library"), "another")
    with time_machine.travel(NOON, tick=False):
        run = started(session, collection, Workflow.CIRCULATION)
        record_step(run, RunCounters(), since=None, next_cursor={"offset": pools[0].identifier_id})

    assert estimate_progress(session, run) == RunProgress(0.25)


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2024-05-01T12:00:00+00:00", NOON),
        ("2024-05-01T14:00:00+02:00", NOON),
        ("2024-05-01T12:00:00", NOON),
        ("2024-05-01", day(2024, 5, 1)),
    ],
)
def test_a_moment_that_names_no_zone_is_in_utc(text: str, moment: datetime) -> None:
    assert parse_datetime(text) == moment
