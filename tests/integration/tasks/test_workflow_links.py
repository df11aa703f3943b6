"""The events' chain and the sweep's, link by link, and all three workflows beside each other."""

from datetime import timedelta

import pytest
from sqlalchemy import select
from sqlalchemy.orm import Session

from accession.core.workflow import Workflow
from accession.db.engine import transaction
from accession.db.models import ApplyOutbox, CirculationEvent, Collection
from tests.fixtures.factories import day
from tests.fixtures.vendor import item
from tests.fixtures.workers import (
    Broker,
    Chains,
    WatchedVendor,
    counts,
    hold,
    number_of,
    runs,
    set_checkpoint,
    today_is,
)

NOW = day(2024, 5, 1, 12)
MINUTE = timedelta(minutes=1)
EVENTS, CIRCULATION, PURCHASES = Workflow.EVENTS, Workflow.CIRCULATION, Workflow.PURCHASES
LOCK_KEYS = {
    PURCHASES: "PurchaseRecordCollectionWorkflow",
    EVENTS: "ImportCollectionWorkflow",
    CIRCULATION: "CirculationUpdateWorkflow",
}


def test_a_slice_that_is_delivered_twice_counts_once(
    collection: Collection, vendor: WatchedVendor, chains: Chains, broker: Broker
) -> None:
    vendor.tells(NOW - 20 * MINUTE, "PURCHASE", "abc")
    set_checkpoint(collection.id, NOW - 20 * MINUTE, EVENTS)
    chains.start(collection, EVENTS)
    message = broker.take()

    with today_is(NOW):
        broker.deliver(message)
        broker.deliver(message)
        broker.deliver(broker.take())

    (run,) = runs()
    assert (run.pages, run.records_fetched, len(vendor.event_requests())) == (2, 1, 2)
    assert run.cursor["start"] == "2024-05-01T11:50:00+00:00"
    assert (number_of(CirculationEvent), counts()) == (1, {"abc": (1, 1, 0)})


def test_counts_alone_are_a_message_of_their_own_on_the_queue_apply(
    session: Session, collection: Collection, vendor: WatchedVendor, chains: Chains, broker: Broker
) -> None:
    hold(session, vendor, collection, "described", "counted")
    chains.start(collection, CIRCULATION)
    broker.deliver_next()
    broker.deliver_next("apply")
    vendor.items["described"] = item("described", title="Another title", owned=2, available=1)
    vendor.items["counted"] = item("counted", title="Title counted", owned=7, available=7)

    chains.start(collection, CIRCULATION)
    broker.deliver_next()

    messages = broker.messages("apply")
    assert sorted(message.task.rpartition(".")[2] for message in messages) == [
        "bibliographic_apply",
        "circulation_apply",
    ]
    assert [len(message.args[0]) for message in messages] == [1, 1]
    assert b"Another title" not in b"".join(broker.raw_messages("apply"))
    for _ in messages:
        broker.deliver_next("apply")
    assert counts() == {"described": (2, 1, 0), "counted": (7, 7, 0)}
    assert number_of(ApplyOutbox) == 0


def test_one_title_whose_counts_cannot_be_stored_does_not_keep_the_others_from_it(
    session: Session, collection: Collection, vendor: WatchedVendor, chains: Chains, broker: Broker
) -> None:
    hold(session, vendor, collection, "bad", "good")
    chains.start(collection, CIRCULATION)
    broker.deliver_next()
    broker.deliver_next("apply")
    for name in ("bad", "good"):
        vendor.items[name] = item(name, title=f"Title {name}", owned=7, available=7)
    chains.start(collection, CIRCULATION)
    broker.deliver_next()
    with transaction() as mine:
        row = mine.scalars(select(ApplyOutbox).order_by(ApplyOutbox.license_pool_id)).first()
        assert row is not None
        row.data = {"circulation": {**row.data["circulation"], "licenses_owned": "many"}}

    broker.deliver_next("apply")
    for _ in range(2):
        broker.deliver_next("apply")

    assert counts() == {"bad": (2, 1, 0), "good": (7, 7, 0)}
    assert number_of(ApplyOutbox) == 1


def test_all_three_run_at_once_for_one_collection_each_under_its_own_lock(
    session: Session, collection: Collection, vendor: WatchedVendor, chains: Chains, broker: Broker
) -> None:
    hold(session, vendor, collection, *(f"t{number:02}" for number in range(30)))
    set_checkpoint(collection.id, NOW - timedelta(days=2), EVENTS)
    set_checkpoint(collection.id, NOW - timedelta(days=2), PURCHASES)
    started = {workflow: chains.start(collection, workflow) for workflow in Workflow}

    with today_is(NOW):
        for _ in Workflow:
            broker.deliver_next()
        assert broker.locks() == {
            f"{LOCK_KEYS[workflow]}:{collection.id}": started[workflow] for workflow in Workflow
        }
        assert {(run.workflow, run.state) for run in runs()} == {
            (workflow.value, "running") for workflow in Workflow
        }
        while broker.messages():
            broker.deliver_next()

    assert {(run.workflow, run.state) for run in runs()} == {
        (workflow.value, "succeeded") for workflow in Workflow
    }
    assert broker.locks() == {}


@pytest.mark.parametrize("workflow", [EVENTS, CIRCULATION])
def test_a_second_start_of_the_same_workflow_is_refused(
    session: Session,
    collection: Collection,
    vendor: WatchedVendor,
    chains: Chains,
    broker: Broker,
    workflow: Workflow,
) -> None:
    hold(session, vendor, collection, *(f"t{number:02}" for number in range(30)))
    set_checkpoint(collection.id, NOW - timedelta(days=1), EVENTS)
    with today_is(NOW):
        first = chains.start(collection, workflow)
        broker.deliver_next()
        following = broker.take()
        second = chains.start(collection, workflow)
        assert broker.deliver_next() == "refused"
        assert broker.holder(f"{LOCK_KEYS[workflow]}:{collection.id}") == first
        assert chains.run(second) is None
        broker.deliver(following)
        while broker.messages():
            broker.deliver_next()

    assert [(run.task_id, run.state) for run in runs()] == [(first, "succeeded")]


def test_runs_of_every_workflow_go_on_when_the_broker_has_lost_everything(
    session: Session, collection: Collection, vendor: WatchedVendor, chains: Chains, broker: Broker
) -> None:
    from accession.tasks.recovery import resume_interrupted_work

    hold(session, vendor, collection, *(f"t{number:02}" for number in range(30)))
    for workflow in (EVENTS, PURCHASES):
        set_checkpoint(collection.id, NOW - timedelta(days=2), workflow)
    with today_is(NOW):
        for workflow in Workflow:
            chains.start(collection, workflow)
        for _ in Workflow:
            broker.deliver_next()
        broker.redis.flushall()

        assert resume_interrupted_work() == 3
        while broker.messages():
            broker.deliver_next()

    assert [(run.workflow, run.state) for run in runs()] == [
        (workflow.value, "succeeded") for workflow in Workflow
    ]
    assert len(vendor.item_requests()) == 2, "no batch is asked about twice"
