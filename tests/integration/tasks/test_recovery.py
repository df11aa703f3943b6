"""Going on after everything was killed: nothing waits for a time-out, nothing is lost, nothing is doubled."""

from datetime import datetime, timedelta

import pytest
from sqlalchemy.orm import Session

from accession.accounts.collections import mark_for_deletion
from accession.core.workflow import Workflow
from accession.db.models import ApplyOutbox, Collection, PurchaseRecord
from tests.fixtures.factories import day
from tests.fixtures.workers import (
    Broker,
    Chains,
    WatchedVendor,
    applied_titles,
    checkpoint,
    number_of,
    running_worker,
    runs,
    today_is,
)

TODAY = day(2014, 1, 4, 10)
TITLES = tuple(f"t{number}" for number in range(60))


def take_and_die(broker: Broker, queue: str) -> None:
    """Take a message as a worker does that is killed before it acknowledges."""
    with broker.app.connection_for_read() as connection:
        channel = connection.channel()
        channel.do_restore = False
        assert channel.basic_get(queue) is not None


def resume() -> int:
    from accession.tasks.recovery import resume_interrupted_work

    return resume_interrupted_work()


def publish_left() -> int:
    from accession.tasks.apply import publish_left_applies

    published: int = publish_left_applies()
    return published


@pytest.fixture
def interrupted(collection: Collection, vendor: WatchedVendor, chains: Chains, broker: Broker) -> str:
    """A chain that has stored one of the two pages of its first day, and its task id."""
    vendor.sells(day(2014, 1, 1, 9), *TITLES)
    task_id = chains.start(collection)
    with today_is(TODAY):
        broker.deliver_next()
    assert (runs()[0].pages, number_of(ApplyOutbox)) == (1, 50)
    return task_id


def assert_all_went_well(chains: Chains, broker: Broker, task_id: str, vendor: WatchedVendor) -> None:
    with running_worker(broker.app):
        run = chains.ended(task_id)
    assert [found.task_id for found in runs()] == [task_id]
    assert (run.state, run.pages, run.records_fetched, run.titles_new) == ("succeeded", 5, 60, 60)
    assert len(vendor.marc_requests()) == 5
    assert number_of(PurchaseRecord) == 60
    assert applied_titles() == set(TITLES)
    assert (number_of(ApplyOutbox), broker.locks()) == (0, {})
    assert checkpoint(run.collection_id) >= TODAY  # type: ignore[operator]


def test_messages_that_a_dead_worker_held_are_given_back_at_once(
    interrupted: str, vendor: WatchedVendor, chains: Chains, broker: Broker
) -> None:
    with today_is(TODAY):
        take_and_die(broker, "default")
        take_and_die(broker, "apply")
        assert broker.unacknowledged() == 2
        assert resume() == 1
        assert broker.unacknowledged() == 0
        assert_all_went_well(chains, broker, interrupted, vendor)


def test_a_chain_whose_first_message_was_with_a_dead_worker_begins(
    collection: Collection, vendor: WatchedVendor, chains: Chains, broker: Broker
) -> None:
    vendor.sells(day(2014, 1, 1, 9), *TITLES)
    task_id = chains.start(collection)
    with today_is(TODAY):
        take_and_die(broker, "default")
        assert resume() == 1
        assert_all_went_well(chains, broker, task_id, vendor)


def test_runs_and_applies_go_on_also_when_the_broker_has_lost_everything(
    interrupted: str, vendor: WatchedVendor, chains: Chains, broker: Broker
) -> None:
    broker.redis.flushall()
    with today_is(TODAY):
        assert resume() == 1
        assert_all_went_well(chains, broker, interrupted, vendor)


def test_nothing_is_doubled_when_nothing_was_lost(
    interrupted: str, vendor: WatchedVendor, chains: Chains, broker: Broker
) -> None:
    with today_is(TODAY):
        assert [resume(), resume()] == [1, 1]
        assert_all_went_well(chains, broker, interrupted, vendor)


def test_a_worker_that_died_while_it_gave_messages_back_does_not_delay_that(
    interrupted: str, broker: Broker
) -> None:
    take_and_die(broker, "default")
    broker.redis.set("unacked_mutex", "a dead worker", ex=300)
    resume()
    assert broker.unacknowledged() == 0


def test_a_clock_that_was_set_back_meanwhile_does_not_matter(interrupted: str, broker: Broker) -> None:
    take_and_die(broker, "default")
    with today_is(TODAY):
        resume()
    assert broker.unacknowledged() == 0


def test_a_chain_begins_whose_first_message_the_broker_has_lost(
    collection: Collection, vendor: WatchedVendor, chains: Chains, broker: Broker
) -> None:
    """The ledger knows of it: it was written down before the message was sent."""
    vendor.sells(day(2014, 1, 1, 9), *TITLES)
    task_id = chains.start(collection)
    broker.redis.flushall()
    with today_is(TODAY):
        assert resume() == 1
        assert_all_went_well(chains, broker, task_id, vendor)


def test_a_run_that_is_silent_for_too_long_goes_on(
    interrupted: str, vendor: WatchedVendor, chains: Chains, broker: Broker
) -> None:
    """Its message is lost, and nobody starts Accession again: the schedule looks after it."""
    from accession.tasks.recovery import resume_silent_runs

    broker.clear()
    with today_is(TODAY + timedelta(minutes=20)):
        assert resume_silent_runs() == 0
    with today_is(TODAY + timedelta(minutes=40)):
        assert [resume_silent_runs(), resume_silent_runs()] == [1, 0]
        assert publish_left() == 50
        assert_all_went_well(chains, broker, interrupted, vendor)


# What the schedule should have begun


def start_missed() -> int:
    from accession.tasks.recovery import start_missed_runs

    started: int = start_missed_runs()
    return started


FOUR = day(2014, 1, 4, 4)


@pytest.fixture
def up_to_date(collection: Collection, chains: Chains, broker: Broker) -> None:
    """All workflows have run in the night of the third."""
    with running_worker(broker.app), today_is(day(2014, 1, 3, 5, 30)):
        for workflow in Workflow:
            chains.imported(collection, workflow)


def queued() -> list[str]:
    return [run.workflow for run in runs() if run.state == "queued"]


@pytest.mark.parametrize(
    ("now", "missed"),
    [
        (day(2014, 1, 3, 6, 5), []),
        (day(2014, 1, 3, 6, 15), ["events"]),
        (FOUR + timedelta(minutes=5), ["events"]),
        (FOUR + timedelta(minutes=15), ["purchases", "events"]),
        (FOUR + timedelta(minutes=75), ["purchases", "events", "circulation"]),
    ],
)
def test_a_run_whose_start_the_broker_has_lost_is_started_a_little_later(
    now: datetime, missed: list[str], up_to_date: None
) -> None:
    with today_is(now):
        assert [start_missed(), start_missed()] == [len(missed), 0]
    assert queued() == missed


def test_a_collection_that_was_just_added_waits_for_its_first_turn(
    collection: Collection, session: Session, broker: Broker
) -> None:
    collection.created_at = FOUR + timedelta(minutes=1)
    session.commit()
    with today_is(FOUR + timedelta(minutes=30)):
        assert start_missed() == 0
    with today_is(FOUR + timedelta(days=1, minutes=30)):
        assert start_missed() == 3


def test_a_collection_that_is_marked_for_deletion_has_missed_nothing(
    up_to_date: None, collection: Collection, session: Session
) -> None:
    mark_for_deletion(collection)
    session.commit()
    with today_is(FOUR + timedelta(days=2)):
        assert start_missed() == 0
