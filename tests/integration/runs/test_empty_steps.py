"""Tests of recording a step of an empty window: run and checkpoint move together, or not at all."""

from collections.abc import Callable
from datetime import datetime, timedelta

import pytest
from sqlalchemy.orm import Session

from accession.core.workflow import Workflow
from accession.db.engine import transaction
from accession.db.models import Collection, Run
from accession.runs.checkpoints import CheckpointMove, advance_checkpoint
from accession.runs.empty_steps import record_empty_step
from accession.runs.ledger import RunCounters, find_run, get_or_create_checkpoint, open_run
from tests.fixtures.factories import day

MAY_1, MAY_2, MAY_3, MAY_4 = (day(2024, 5, number) for number in range(1, 5))
CURSOR = {"current_day": MAY_1.isoformat()}
NEXT_CURSOR = {"current_day": MAY_2.isoformat()}


@pytest.fixture
def run(session: Session, collection: Collection) -> Run:
    open_run(session, collection.id, Workflow.PURCHASES, "the-task", CURSOR)
    run = find_run(session, "the-task")
    assert run is not None
    return run


def record(session: Session, run: Run, start: datetime = MAY_1, end: datetime = MAY_2) -> bool:
    move = CheckpointMove(start, end, start, end)
    return record_empty_step(session, run, RunCounters(), move, since=start, next_cursor=NEXT_CURSOR)


def checkpoint(session: Session, collection: Collection) -> tuple[datetime | None, datetime | None]:
    row = get_or_create_checkpoint(session, collection, Workflow.PURCHASES)
    return row.finish, row.confirmed


def stored_run(session: Session) -> Run:
    session.expire_all()
    run = find_run(session, "the-task")
    assert run is not None
    return run


def test_step_moves_run_and_new_checkpoint(session: Session, collection: Collection, run: Run) -> None:
    assert record(session, run)
    assert checkpoint(session, collection) == (MAY_2, MAY_2)
    stored = stored_run(session)
    assert (stored.cursor, stored.pages, stored.since) == (NEXT_CURSOR, 1, MAY_1)


def test_step_moves_present_checkpoint(session: Session, collection: Collection, run: Run) -> None:
    move = CheckpointMove(MAY_1, MAY_2, MAY_1, MAY_2)
    advance_checkpoint(session, collection.id, Workflow.PURCHASES, move)
    assert record(session, run, MAY_2, MAY_3)
    assert checkpoint(session, collection) == (MAY_3, MAY_3)


def test_step_after_a_gap_leaves_checkpoint(session: Session, collection: Collection, run: Run) -> None:
    move = CheckpointMove(MAY_1, MAY_2, MAY_1, MAY_2)
    advance_checkpoint(session, collection.id, Workflow.PURCHASES, move)
    assert record(session, run, MAY_3, MAY_4)
    assert checkpoint(session, collection) == (MAY_2, MAY_2)
    assert stored_run(session).cursor == NEXT_CURSOR


def process_step(run: Run, collection: Collection) -> None:
    """Process the step by another delivery, at the same time of the clock."""
    run.pages, run.cursor = run.pages + 1, {"current_day": MAY_4.isoformat()}


def write_run(run: Run, collection: Collection) -> None:
    run.updated_at += timedelta(seconds=1)


def mark_for_deletion(run: Run, collection: Collection) -> None:
    collection.marked_for_deletion_at = run.updated_at


@pytest.mark.parametrize("change", [process_step, write_run, mark_for_deletion])
def test_step_of_changed_run_writes_nothing(
    change: Callable[[Run, Collection], None], session: Session, collection: Collection, run: Run
) -> None:
    session.commit()
    session.refresh(run)
    with transaction() as other:
        changed = other.get_one(Run, run.id)
        change(changed, other.get_one(Collection, run.collection_id))
        expected = (changed.pages, dict(changed.cursor), changed.updated_at)

    assert not record(session, run)

    assert checkpoint(session, collection) == (None, None)
    stored = stored_run(session)
    assert (stored.pages, stored.cursor, stored.updated_at) == expected
