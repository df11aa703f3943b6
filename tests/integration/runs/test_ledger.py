"""Run ledger, checkpoints and swept batches."""

from datetime import datetime, timedelta
from typing import Any

import pytest
import time_machine
from sqlalchemy import func, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from accession.core.workflow import Workflow
from accession.db.engine import transaction
from accession.db.models import Collection, Run, RunState, Timestamp
from accession.runs.ledger import (
    RunCounters,
    active_runs,
    end_run,
    find_latest_run,
    find_run,
    get_or_create_checkpoint,
    is_active,
    lock_run,
    open_run,
    record_retry,
    record_step,
)
from tests.fixtures.factories import NOON, day, make_collection, run_concurrently

CURSOR = {"current_day": None, "offset": 1}
PURCHASES = Workflow.PURCHASES


@pytest.fixture
def run(session: Session, collection: Collection) -> Run:
    with time_machine.travel(NOON, tick=False):
        open_run(session, collection.id, PURCHASES, "task-1", CURSOR)
    session.commit()
    run = find_run(session, "task-1")
    assert run is not None
    return run


def store_step(run: Run, next_cursor: dict[str, Any] | None, **counts: int) -> None:
    record_step(run, RunCounters(**counts), since=day(2014, 1, 1), next_cursor=next_cursor)


def test_new_checkpoint_is_created_once_and_is_empty(session: Session, collection: Collection) -> None:
    checkpoint = get_or_create_checkpoint(session, collection, PURCHASES)
    session.commit()

    assert (checkpoint.service, checkpoint.service_type) == ("Bibliotheca Purchase Record Importer", "task")
    assert (checkpoint.finish, checkpoint.counter) == (None, None)
    assert get_or_create_checkpoint(session, collection, PURCHASES) is checkpoint


def test_checkpoint_belongs_to_one_collection(session: Session, collection: Collection) -> None:
    other = make_collection(session, "Birch Library")
    get_or_create_checkpoint(session, collection, PURCHASES).finish = NOON
    session.commit()

    assert get_or_create_checkpoint(session, other, PURCHASES).finish is None
    assert get_or_create_checkpoint(session, collection, PURCHASES).finish == NOON


def test_concurrent_checkpoint_requests_create_one(session: Session, collection: Collection) -> None:
    collection_id = collection.id
    session.commit()

    def request() -> None:
        with transaction() as other:
            get_or_create_checkpoint(other, other.get_one(Collection, collection_id), PURCHASES)

    run_concurrently(*[request] * 4)

    assert session.scalar(select(func.count()).select_from(Timestamp)) == 1


def test_run_starts_with_cursor_of_first_message(session: Session, run: Run) -> None:
    assert (run.state, run.cursor, run.workflow) == ("running", CURSOR, "purchases")
    assert run.started_at == run.updated_at == NOON
    assert (run.pages, run.records_fetched, run.since, run.finished_at, run.error) == (0, 0, None, None, None)
    assert is_active(run)


def test_redelivered_first_message_starts_one_run(session: Session, collection: Collection, run: Run) -> None:
    open_run(session, collection.id, PURCHASES, "task-1", {"offset": 51})
    session.commit()

    assert session.scalars(select(Run)).one().cursor == CURSOR


def test_newer_run_interrupts_only_run_of_same_collection(
    session: Session, collection: Collection, run: Run
) -> None:
    other = make_collection(session, "Birch Library")
    open_run(session, other.id, PURCHASES, "others", CURSOR)
    open_run(session, collection.id, PURCHASES, "task-2", CURSOR)
    session.commit()

    assert (run.state, run.error) == ("interrupted", "Its lock expired and a newer run replaced it.")
    assert run.finished_at is not None
    assert not is_active(run)
    assert [each.task_id for each in active_runs(session)] == ["others", "task-2"]


def test_ended_run_is_not_changed_by_newer_run(session: Session, collection: Collection, run: Run) -> None:
    end_run(run, RunState.FAILED, "access denied")
    session.commit()

    open_run(session, collection.id, PURCHASES, "task-2", CURSOR)
    session.commit()

    assert (run.state, run.error) == ("failed", "access denied")


def test_steps_add_counters_and_move_cursor(session: Session, run: Run) -> None:
    with time_machine.travel(NOON + timedelta(minutes=1), tick=False):
        store_step(
            run,
            {"offset": 51},
            records_fetched=50,
            records_stored=49,
            records_rejected=1,
            titles_new=40,
            titles_changed=2,
        )
    record_step(
        run,
        RunCounters(records_fetched=7, records_stored=7, titles_new=6, titles_changed=1, repairs=2),
        since=day(2020, 1, 1),
        next_cursor={"offset": 1},
    )
    session.commit()

    assert (run.pages, run.records_fetched, run.records_stored, run.records_rejected) == (2, 57, 56, 1)
    assert (run.titles_new, run.titles_changed, run.repairs) == (46, 3, 2)
    assert (run.state, run.cursor, run.finished_at) == ("running", {"offset": 1}, None)
    assert run.since == day(2014, 1, 1)


def test_unaccounted_record_is_refused_by_database(run: Run) -> None:
    with pytest.raises(IntegrityError, match="records_accounted_for"):
        store_step(run, {"offset": 51}, records_fetched=50, records_stored=48, records_rejected=1)


def test_last_step_ends_run(session: Session, run: Run) -> None:
    later = NOON + timedelta(hours=1)
    with time_machine.travel(later, tick=False):
        store_step(run, None, records_fetched=3, records_stored=3)
    session.commit()

    assert (run.state, run.error, run.records_fetched) == ("succeeded", None, 3)
    assert run.finished_at == run.updated_at == later


def test_retry_shows_error_until_next_step(session: Session, run: Run) -> None:
    with time_machine.travel(NOON + timedelta(minutes=5), tick=False):
        record_retry(run, "request timed out", retry=1)
    session.commit()
    assert (run.state, run.error, run.pages) == ("retrying", "request timed out", 0)
    assert run.updated_at == NOON + timedelta(minutes=5)
    assert is_active(run)

    store_step(run, {"offset": 51})
    session.commit()
    assert (run.state, run.error) == ("running", None)


@pytest.mark.parametrize("state", [RunState.FAILED, RunState.INTERRUPTED])
def test_run_ended_early_keeps_reason(session: Session, run: Run, state: RunState) -> None:
    end_run(run, state, "because")
    session.commit()

    assert (run.state, run.error) == (state.value, "because")
    assert isinstance(run.finished_at, datetime)
    assert active_runs(session) == []


def test_latest_run_is_newest_of_collection(session: Session, collection: Collection, run: Run) -> None:
    assert find_latest_run(session, collection.id, PURCHASES) is run
    open_run(session, collection.id, PURCHASES, "task-2", CURSOR)

    latest = find_latest_run(session, collection.id, PURCHASES)

    assert latest is not None
    assert latest.task_id == "task-2"
    assert find_latest_run(session, 4711, PURCHASES) is None


def test_locked_run_is_refreshed_and_exclusive(session: Session, run: Run) -> None:
    """The session has loaded the run before another transaction changed it."""
    assert run.pages == 0
    with transaction() as other:
        other_run = lock_run(other, "task-1")
        assert other_run is not None
        store_step(other_run, {"offset": 51})

    locked = lock_run(session, "task-1")

    assert locked is run
    assert locked.cursor == {"offset": 51}
    with transaction() as other:
        unlocked = select(Run).with_for_update(skip_locked=True)
        assert other.scalars(unlocked).all() == []


def test_unknown_task_has_no_run(session: Session) -> None:
    assert find_run(session, "nobody") is None
    assert lock_run(session, "nobody") is None
