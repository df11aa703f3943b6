"""The run ledger and the checkpoints."""

import random
from datetime import datetime, timedelta
from typing import Any

import pytest
import time_machine
from sqlalchemy import func, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from accession.accounts.collections import mark_for_deletion
from accession.catalog.sweeps import last_swept_at, record_swept
from accession.core.workflow import Workflow
from accession.db.engine import transaction
from accession.db.models import Collection, Run, RunState, SweptBatch, Timestamp
from accession.runs.ledger import (
    RunCounters,
    active_runs,
    end_run,
    find_run,
    is_active,
    list_last_starts,
    find_latest_run,
    lock_run,
    record_retry,
    open_run,
    record_step,
    get_or_create_checkpoint,
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


def page(run: Run, next_cursor: dict[str, Any] | None, **counts: int) -> None:
    record_step(run, RunCounters(**counts), since=day(2014, 1, 1), next_cursor=next_cursor)


# The checkpoint


def test_a_checkpoint_is_made_once_and_says_nothing_yet(session: Session, collection: Collection) -> None:
    made = get_or_create_checkpoint(session, collection, PURCHASES)
    session.commit()

    assert (made.service, made.service_type) == ("Bibliotheca Purchase Record Importer", "task")
    assert (made.finish, made.counter) == (None, None)
    assert get_or_create_checkpoint(session, collection, PURCHASES) is made


def test_a_checkpoint_is_one_collections_own(session: Session, collection: Collection) -> None:
    other = make_collection(session, "Birch Library")
    get_or_create_checkpoint(session, collection, PURCHASES).finish = NOON
    session.commit()

    assert get_or_create_checkpoint(session, other, PURCHASES).finish is None
    assert get_or_create_checkpoint(session, collection, PURCHASES).finish == NOON


def test_two_that_ask_for_a_checkpoint_at_once_get_the_same(session: Session, collection: Collection) -> None:
    collection_id = collection.id
    session.commit()

    def ask() -> None:
        with transaction() as mine:
            get_or_create_checkpoint(mine, mine.get_one(Collection, collection_id), PURCHASES)

    run_concurrently(*[ask] * 4)

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

    assert (run.state, run.error) == ("interrupted", "Its lock expired and a newer run replaced it.")
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


def test_a_record_that_is_neither_stored_nor_rejected_is_not_taken_by_the_ledger(
    session: Session, run: Run
) -> None:
    with time_machine.travel(NOON, tick=False):
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
        record_retry(run, "the vendor did not answer", retry=1)
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
    assert find_latest_run(session, collection.id, PURCHASES) is run
    open_run(session, collection.id, PURCHASES, "task-2", CURSOR)

    latest = find_latest_run(session, collection.id, PURCHASES)

    assert latest is not None
    assert latest.task_id == "task-2"
    assert find_latest_run(session, 4711, PURCHASES) is None


def test_a_batch_takes_the_place_of_those_that_began_in_it(session: Session, collection: Collection) -> None:
    def swept(after_id: int, last_id: int | None, told: list[int], at: datetime) -> None:
        record_swept(session, collection, after_id=after_id, last_id=last_id, identifier_ids=told, at=at)

    swept(0, 3, [1, 2, 3], NOON)
    swept(3, 6, [4, 5, 6], NOON)
    swept(6, None, [7], NOON)

    later = NOON + timedelta(days=1)
    swept(0, 4, [1, 2, 4], later)  # 3 had no answer this time.
    assert last_swept_at(session, collection, range(1, 9)) == {1: later, 2: later, 4: later, 7: NOON}
    swept(4, None, [5, 7], later)

    assert last_swept_at(session, collection, range(1, 9)) == dict.fromkeys((1, 2, 4, 5, 7), later)
    assert session.scalars(select(SweptBatch.after_id).order_by(SweptBatch.after_id)).all() == [0, 4]


def test_a_batch_leaves_the_next_one_and_those_of_other_collections(
    session: Session, collection: Collection
) -> None:
    other = make_collection(session, "Birch Library")
    for owner in (collection, other):
        record_swept(session, owner, after_id=0, last_id=3, identifier_ids=[1, 2, 3], at=NOON)
        record_swept(session, owner, after_id=3, last_id=None, identifier_ids=[4], at=NOON)

    later = NOON + timedelta(days=1)
    record_swept(session, collection, after_id=0, last_id=3, identifier_ids=[1, 2, 3], at=later)

    assert last_swept_at(session, collection, range(1, 5)) == {1: later, 2: later, 3: later, 4: NOON}
    assert last_swept_at(session, other, range(1, 5)) == dict.fromkeys(range(1, 5), NOON)
    record_swept(session, collection, after_id=0, last_id=None, identifier_ids=[1], at=later)
    assert last_swept_at(session, collection, range(1, 5)) == {1: later}
    assert last_swept_at(session, other, range(1, 5)) == dict.fromkeys(range(1, 5), NOON)


@pytest.mark.parametrize("seed", range(5))
def test_of_all_sweeps_of_a_title_the_latest_counts(
    session: Session, collection: Collection, seed: int
) -> None:
    """Between two sweeps titles are added, and come to lie in other batches; of some there is no answer."""
    dice = random.Random(seed)
    held, told_at = set[int](), dict[int, dict[int, datetime]]()
    for days in range(6):
        held |= set(dice.sample(range(1, 40), 8))
        at, after_id = NOON + timedelta(days=days), 0
        last_id: int | None = 0
        while last_id is not None:
            batch = sorted(title for title in held if title > after_id)[:5]
            last_id = batch[-1] if len(batch) == 5 else None
            told = [title for title in batch if dice.random() < 0.8]
            record_swept(session, collection, after_id=after_id, last_id=last_id, identifier_ids=told, at=at)
            over = [begun for begun in told_at if after_id <= begun and (last_id is None or begun < last_id)]
            for begun in over:
                del told_at[begun]
            told_at[after_id] = dict.fromkeys(told, at)

            known = sorted((at, title) for batch in told_at.values() for title, at in batch.items())
            assert last_swept_at(session, collection, range(45)) == {title: at for at, title in known}
            after_id = last_id or 0


def test_nothing_is_known_of_no_title(session: Session, collection: Collection) -> None:
    record_swept(session, collection, after_id=0, last_id=None, identifier_ids=[1], at=NOON)

    assert last_swept_at(session, collection, []) == {}


@pytest.mark.parametrize("workflow", Workflow)
def test_a_workflow_was_last_started_with_its_newest_run_or_else_when_the_collection_was_added(
    session: Session, collection: Collection, workflow: Workflow
) -> None:
    other, gone = (make_collection(session, name) for name in ("Birch Library", "Gone Library"))
    mark_for_deletion(gone)
    begun = {
        (collection, workflow): [NOON, NOON + timedelta(hours=1)],
        (other, next(each for each in Workflow if each is not workflow)): [NOON],
        (gone, workflow): [NOON],
    }
    for (owner, kind), moments in begun.items():
        for moment in moments:
            with time_machine.travel(moment, tick=False):
                open_run(session, owner.id, kind, f"{owner.name} {kind} {moment}", CURSOR)

    assert list_last_starts(session, workflow) == {
        collection.id: NOON + timedelta(hours=1),
        other.id: other.created_at,
    }


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
