"""Runs per day: added up as runs end, by collection and workflow."""

from datetime import date, timedelta

import time_machine
from sqlalchemy.orm import Session

from accession.accounts.collections import mark_for_deletion
from accession.core.workflow import Workflow
from accession.db.models import Collection, RunState
from accession.runs.ledger import RunCounters, end_run, find_run, open_run, record_step
from accession.runs.run_days import run_days
from tests.fixtures.factories import NOON, make_collection

DAY = timedelta(days=1)


def finish_run(
    session: Session,
    collection: Collection,
    workflow: Workflow = Workflow.EVENTS,
    state: RunState = RunState.SUCCEEDED,
    days: int = 0,
) -> None:
    """Add and commit a run of 60 seconds and ten records, of which one was rejected."""
    task_id = f"{collection.id} {workflow} {state} {days}"
    with time_machine.travel(NOON + days * DAY, tick=False) as clock:
        open_run(session, collection.id, workflow, task_id, {})
        run = find_run(session, task_id)
        assert run is not None
        clock.shift(60)
        record_step(run, RunCounters(10, 9, 1, 3, 2), since=None, next_cursor={"offset": 51})
        end_run(run, state)
        session.commit()


def test_runs_of_a_day_are_added_up(session: Session, collection: Collection) -> None:
    for state in (RunState.SUCCEEDED, RunState.FAILED, RunState.INTERRUPTED, RunState.CANCELLED):
        finish_run(session, collection, state=state)

    (day,) = run_days(session, since=NOON.date())
    assert (day.day, day.runs) == (date(2024, 5, 1), 4)
    assert (day.succeeded, day.failed, day.interrupted, day.cancelled) == (1, 1, 1, 1)
    assert (day.seconds, day.pages, day.records_fetched, day.records_stored) == (240, 4, 40, 36)
    assert (day.records_rejected, day.titles_new, day.titles_changed, day.repairs) == (4, 12, 8, 0)


def test_days_are_filtered_by_collection_and_workflow(session: Session, collection: Collection) -> None:
    other = make_collection(session, "Birch Library")
    finish_run(session, collection)
    finish_run(session, collection, Workflow.PURCHASES)
    finish_run(session, other)

    def count_runs(collection: str | None = None, workflow: Workflow | None = None) -> int:
        days = run_days(session, since=NOON.date(), collection=collection, workflow=workflow)
        return sum(day.runs for day in days)

    assert count_runs() == 3
    assert count_runs("Alder Library") == 2
    assert count_runs(workflow=Workflow.EVENTS) == 2
    assert count_runs("Alder Library", Workflow.PURCHASES) == 1
    assert count_runs("Elm Library") == 0


def test_days_are_in_order_and_begin_at_the_given_one(session: Session, collection: Collection) -> None:
    for days in (2, 0, 1):
        finish_run(session, collection, days=days)

    listed = run_days(session, since=(NOON + DAY).date())
    assert [day.day for day in listed] == [(NOON + days * DAY).date() for days in (1, 2)]


def test_removed_collection_is_left_out(session: Session, collection: Collection) -> None:
    finish_run(session, collection)
    mark_for_deletion(collection)
    session.commit()

    assert run_days(session, since=NOON.date()) == []
