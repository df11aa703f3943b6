"""The run ledger and the checkpoints."""

from datetime import datetime, timedelta
from typing import Any

import pytest
import time_machine
from sqlalchemy import func, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from accession.catalog.ledger import (
    Counters,
    Workflow,
    active_runs,
    end_run,
    find_run,
    is_active,
    last_swept,
    latest_run,
    lock_run,
    note_retry,
    note_swept,
    open_run,
    record_page,
    timestamp,
)
from accession.catalog.models import Collection, Run, RunState, SweptBatch, Timestamp
from accession.database import transaction
from tests.making import NOON, day, make_collection, side_by_side

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


def page(run: Run, next_cursor: dict[str, Any] | None, **counts: int) -> None:
    record_page(run, Counters(**counts), since=day(2014, 1, 1), next_cursor=next_cursor)


# The checkpoint


def test_a_checkpoint_is_made_once_and_says_nothing_yet(session: Session, collection: Collection) -> None:
    made = timestamp(session, collection, PURCHASES)
    session.commit()

    assert (made.service, made.service_type) == ("Bibliotheca Purchase Record Importer", "task")
    assert (made.finish, made.counter) == (None, None)
    assert timestamp(session, collection, PURCHASES) is made


def test_a_checkpoint_is_one_collections_own(session: Session, collection: Collection) -> None:
    other = make_collection(session, "Birch Library")
    timestamp(session, collection, PURCHASES).finish = NOON
    session.commit()

    assert timestamp(session, other, PURCHASES).finish is None
    assert timestamp(session, collection, PURCHASES).finish == NOON


def test_two_that_ask_for_a_checkpoint_at_once_get_the_same(session: Session, collection: Collection) -> None:
    collection_id = collection.id
    session.commit()

    def ask() -> None:
        with transaction() as mine:
            timestamp(mine, mine.get_one(Collection, collection_id), PURCHASES)

    side_by_side(*[ask] * 4)

    assert session.scalar(select(func.count()).select_from(Timestamp)) == 1


# Runs


def test_a_run_starts_with_the_cursor_of_its_first_message(session: Session, run: Run) -> None:
    assert (run.state, run.cursor, run.workflow) == ("running", CURSOR, "purchases")
    assert run.started_at == run.updated_at == NOON
    assert (run.pages, run.records_fetched, run.since, run.finished_at, run.error) == (0, 0, None, None, None)
    assert is_active(run)


def test_a_first_message_delivered_twice_starts_one_run(
    session: Session, collection: Collection, run: Run
) -> None:
    open_run(session, collection.id, PURCHASES, "task-1", {"offset": 51})
    session.commit()

    assert session.scalars(select(Run)).one().cursor == CURSOR


def test_a_newer_run_interrupts_the_one_that_lost_its_lock_and_no_other(
    session: Session, collection: Collection, run: Run
) -> None:
    other = make_collection(session, "Birch Library")
    open_run(session, other.id, PURCHASES, "others", CURSOR)
    open_run(session, collection.id, PURCHASES, "task-2", CURSOR)
    session.commit()

    assert (run.state, run.error) == ("interrupted", "Its lock had expired, and a newer run took over.")
    assert run.finished_at is not None
    assert not is_active(run)
    assert [each.task_id for each in active_runs(session)] == ["others", "task-2"]


def test_a_run_that_has_ended_stays_as_it_ended(session: Session, collection: Collection, run: Run) -> None:
    end_run(run, RunState.FAILED, "the vendor refused")
    session.commit()

    open_run(session, collection.id, PURCHASES, "task-2", CURSOR)
    session.commit()

    assert (run.state, run.error) == ("failed", "the vendor refused")


def test_pages_add_up_and_move_the_cursor_on(session: Session, run: Run) -> None:
    with time_machine.travel(NOON + timedelta(minutes=1), tick=False):
        page(
            run,
            {"offset": 51},
            records_fetched=50,
            records_stored=49,
            records_rejected=1,
            titles_new=40,
            titles_changed=2,
        )
    record_page(
        run,
        Counters(records_fetched=7, records_stored=7, titles_new=6, titles_changed=1, repairs=2),
        since=day(2020, 1, 1),
        next_cursor={"offset": 1},
    )
    session.commit()

    assert (run.pages, run.records_fetched, run.records_stored, run.records_rejected) == (2, 57, 56, 1)
    assert (run.titles_new, run.titles_changed, run.repairs) == (46, 3, 2)
    assert (run.state, run.cursor, run.finished_at) == ("running", {"offset": 1}, None)
    assert run.since == day(2014, 1, 1)


def test_a_record_that_is_neither_stored_nor_rejected_is_not_taken_by_the_ledger(
    session: Session, run: Run
) -> None:
    page(run, {"offset": 51}, records_fetched=50, records_stored=48, records_rejected=1)

    with pytest.raises(IntegrityError, match="records_kept"):
        session.commit()


def test_the_last_page_ends_the_run(session: Session, run: Run) -> None:
    later = NOON + timedelta(hours=1)
    with time_machine.travel(later, tick=False):
        page(run, None, records_fetched=3, records_stored=3)
    session.commit()

    assert (run.state, run.error, run.records_fetched) == ("succeeded", None, 3)
    assert run.finished_at == run.updated_at == later


def test_a_retry_shows_why_until_the_page_is_done(session: Session, run: Run) -> None:
    with time_machine.travel(NOON + timedelta(minutes=5), tick=False):
        note_retry(run, "the vendor did not answer")
    session.commit()
    assert (run.state, run.error, run.pages) == ("retrying", "the vendor did not answer", 0)
    assert run.updated_at == NOON + timedelta(minutes=5)
    assert is_active(run)

    page(run, {"offset": 51})
    session.commit()
    assert (run.state, run.error) == ("running", None)


@pytest.mark.parametrize("state", [RunState.FAILED, RunState.INTERRUPTED])
def test_a_run_that_ends_early_says_why(session: Session, run: Run, state: RunState) -> None:
    end_run(run, state, "because")
    session.commit()

    assert (run.state, run.error) == (state.value, "because")
    assert isinstance(run.finished_at, datetime)
    assert active_runs(session) == []


def test_the_newest_run_of_a_collection_is_its_latest(
    session: Session, collection: Collection, run: Run
) -> None:
    assert latest_run(session, collection.id, PURCHASES) is run
    open_run(session, collection.id, PURCHASES, "task-2", CURSOR)

    latest = latest_run(session, collection.id, PURCHASES)

    assert latest is not None
    assert latest.task_id == "task-2"
    assert latest_run(session, 4711, PURCHASES) is None


def test_a_batch_takes_the_place_of_those_that_began_in_it(session: Session, collection: Collection) -> None:
    def swept(after_id: int, last_id: int | None, told: list[int], at: datetime) -> None:
        note_swept(session, collection, after_id=after_id, last_id=last_id, told=told, at=at)

    swept(0, 3, [1, 2, 3], NOON)
    swept(3, 6, [4, 5, 6], NOON)
    swept(6, None, [7], NOON)

    later = NOON + timedelta(days=1)
    swept(0, 4, [1, 2, 4], later)  # 3 had no answer this time.
    assert last_swept(session, collection, range(1, 9)) == {1: later, 2: later, 4: later, 7: NOON}
    swept(4, None, [5, 7], later)

    assert last_swept(session, collection, range(1, 9)) == dict.fromkeys((1, 2, 4, 5, 7), later)
    assert session.scalars(select(SweptBatch.after_id).order_by(SweptBatch.after_id)).all() == [0, 4]


def test_a_batch_leaves_the_next_one_and_those_of_other_collections(
    session: Session, collection: Collection
) -> None:
    other = make_collection(session, "Birch Library")
    for owner in (collection, other):
        note_swept(session, owner, after_id=0, last_id=3, told=[1, 2, 3], at=NOON)
        note_swept(session, owner, after_id=3, last_id=None, told=[4], at=NOON)

    later = NOON + timedelta(days=1)
    note_swept(session, collection, after_id=0, last_id=3, told=[1, 2, 3], at=later)

    assert last_swept(session, collection, range(1, 5)) == {1: later, 2: later, 3: later, 4: NOON}
    assert last_swept(session, other, range(1, 5)) == dict.fromkeys(range(1, 5), NOON)
    note_swept(session, collection, after_id=0, last_id=None, told=[1], at=later)
    assert last_swept(session, collection, range(1, 5)) == {1: later}
    assert last_swept(session, other, range(1, 5)) == dict.fromkeys(range(1, 5), NOON)


@pytest.mark.parametrize("later_first", [False, True])
def test_of_two_sweeps_of_a_title_the_latest_counts(
    session: Session, collection: Collection, later_first: bool
) -> None:
    """Between two sweeps the titles have come to lie in other batches."""
    later = NOON + timedelta(days=1)
    batches = [(2, 9, NOON, [5, 6]), (0, 2, later, [5]), (9, 12, later, [6])]
    for after_id, last_id, at, told in reversed(batches) if later_first else batches:
        note_swept(session, collection, after_id=after_id, last_id=last_id, told=told, at=at)

    assert last_swept(session, collection, [5, 6, 7]) == {5: later, 6: later}
    assert last_swept(session, collection, []) == {}


def test_a_locked_run_is_as_it_is_now_and_nobody_elses(session: Session, run: Run) -> None:
    """The session has seen the run before; another transaction has moved it on since."""
    assert run.pages == 0
    with transaction() as other:
        theirs = lock_run(other, "task-1")
        assert theirs is not None
        page(theirs, {"offset": 51})

    locked = lock_run(session, "task-1")

    assert locked is run
    assert locked.cursor == {"offset": 51}
    with transaction() as other:
        free = select(Run).with_for_update(skip_locked=True)
        assert other.scalars(free).all() == []


def test_there_is_no_run_of_an_unknown_task(session: Session) -> None:
    assert find_run(session, "nobody") is None
    assert lock_run(session, "nobody") is None
