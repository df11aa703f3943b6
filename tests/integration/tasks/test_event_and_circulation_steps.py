"""Steps of the event import and the sweep delivered by hand, and all three workflows at once."""

from datetime import timedelta

import pytest
from sqlalchemy import select
from sqlalchemy.orm import Session

from accession.core.workflow import SCHEDULED_WORKFLOWS, Workflow
from accession.db.engine import transaction
from accession.db.models import ApplyOutbox, CirculationEvent, Collection
from tests.fixtures.broker import Broker
from tests.fixtures.factories import day
from tests.fixtures.stored import add_holdings, all_runs, copy_counts, count_rows, set_checkpoint
from tests.fixtures.vendor import item
from tests.fixtures.workers import ObservedVendor, RunStarter, travel_to

NOW = day(2024, 5, 1, 12)
MINUTE = timedelta(minutes=1)
EVENTS, CIRCULATION, PURCHASES = Workflow.EVENTS, Workflow.CIRCULATION, Workflow.PURCHASES
LOCK_KEYS = {
    PURCHASES: "PurchaseRecordCollectionWorkflow",
    EVENTS: "ImportCollectionWorkflow",
    CIRCULATION: "CirculationUpdateWorkflow",
}


def test_slice_delivered_twice_is_processed_once(
    collection: Collection, vendor: ObservedVendor, run_starter: RunStarter, broker: Broker
) -> None:
    vendor.add_event(NOW - 20 * MINUTE, "PURCHASE", "abc")
    set_checkpoint(collection.id, NOW - 20 * MINUTE, EVENTS)
    run_starter.start(collection, EVENTS)
    message = broker.pop()

    with travel_to(NOW):
        broker.deliver(message)
        broker.deliver(message)
        broker.deliver(broker.pop())

    (run,) = all_runs()
    assert (run.pages, run.records_fetched, len(vendor.event_requests())) == (2, 1, 2)
    assert run.cursor["start"] == "2024-05-01T11:50:00+00:00"
    assert (count_rows(CirculationEvent), copy_counts()) == (1, {"abc": (1, 1, 0)})


def test_count_changes_have_a_separate_apply_message(
    session: Session, collection: Collection, vendor: ObservedVendor, run_starter: RunStarter, broker: Broker
) -> None:
    add_holdings(session, vendor, collection, "metadata", "counts")
    run_starter.start(collection, CIRCULATION)
    broker.deliver_next()
    broker.deliver_next("apply")
    vendor.items["metadata"] = item("metadata", title="Another title", owned=2, available=1)
    vendor.items["counts"] = item("counts", title="Title counts", owned=7, available=7)

    run_starter.start(collection, CIRCULATION)
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
    assert copy_counts() == {"metadata": (2, 1, 0), "counts": (7, 7, 0)}
    assert count_rows(ApplyOutbox) == 0


def test_invalid_counts_of_a_title_do_not_block_others(
    session: Session, collection: Collection, vendor: ObservedVendor, run_starter: RunStarter, broker: Broker
) -> None:
    add_holdings(session, vendor, collection, "bad", "good")
    run_starter.start(collection, CIRCULATION)
    broker.deliver_next()
    broker.deliver_next("apply")
    for name in ("bad", "good"):
        vendor.items[name] = item(name, title=f"Title {name}", owned=7, available=7)
    run_starter.start(collection, CIRCULATION)
    broker.deliver_next()
    with transaction() as other:
        row = other.scalars(select(ApplyOutbox).order_by(ApplyOutbox.license_pool_id)).first()
        assert row is not None
        row.data = {"circulation": {**row.data["circulation"], "licenses_owned": "many"}}

    broker.deliver_next("apply")
    for _ in range(2):
        broker.deliver_next("apply")

    assert copy_counts() == {"bad": (2, 1, 0), "good": (7, 7, 0)}
    assert count_rows(ApplyOutbox) == 1


def test_three_workflows_run_at_once_under_own_locks(
    session: Session, collection: Collection, vendor: ObservedVendor, run_starter: RunStarter, broker: Broker
) -> None:
    add_holdings(session, vendor, collection, *(f"t{number:02}" for number in range(30)))
    set_checkpoint(collection.id, NOW - timedelta(days=2), EVENTS)
    started = {workflow: run_starter.start(collection, workflow) for workflow in SCHEDULED_WORKFLOWS}

    with travel_to(NOW):
        for _ in SCHEDULED_WORKFLOWS:
            broker.deliver_next()
        assert broker.locks() == {
            f"{LOCK_KEYS[workflow]}:{collection.id}": started[workflow] for workflow in SCHEDULED_WORKFLOWS
        }
        assert {(run.workflow, run.state) for run in all_runs()} == {
            (workflow.value, "running") for workflow in SCHEDULED_WORKFLOWS
        }
        broker.deliver_all()

    assert {(run.workflow, run.state) for run in all_runs()} == {
        (workflow.value, "succeeded") for workflow in SCHEDULED_WORKFLOWS
    }
    assert broker.locks() == {}


@pytest.mark.parametrize("workflow", [EVENTS, CIRCULATION])
def test_second_start_of_same_workflow_is_refused(
    session: Session,
    collection: Collection,
    vendor: ObservedVendor,
    run_starter: RunStarter,
    broker: Broker,
    workflow: Workflow,
) -> None:
    add_holdings(session, vendor, collection, *(f"t{number:02}" for number in range(30)))
    set_checkpoint(collection.id, NOW - timedelta(days=1), EVENTS)
    with travel_to(NOW):
        first = run_starter.start(collection, workflow)
        broker.deliver_next()
        next_step = broker.pop()
        second = run_starter.start(collection, workflow)
        assert broker.deliver_next() == "refused"
        assert broker.lock_holder(f"{LOCK_KEYS[workflow]}:{collection.id}") == first
        assert run_starter.find(second) is None
        broker.deliver(next_step)
        broker.deliver_all()

    assert [(run.task_id, run.state) for run in all_runs()] == [(first, "succeeded")]


def test_runs_resume_after_broker_lost_its_data(
    session: Session, collection: Collection, vendor: ObservedVendor, run_starter: RunStarter, broker: Broker
) -> None:
    from accession.tasks.recovery import resume_lost_work

    add_holdings(session, vendor, collection, *(f"t{number:02}" for number in range(30)))
    set_checkpoint(collection.id, NOW - timedelta(days=2), EVENTS)
    with travel_to(NOW):
        for workflow in SCHEDULED_WORKFLOWS:
            run_starter.start(collection, workflow)
        for _ in SCHEDULED_WORKFLOWS:
            broker.deliver_next()
        broker.redis.flushall()

        assert resume_lost_work() == 3
        broker.deliver_all()

    assert [(run.workflow, run.state) for run in all_runs()] == [
        (workflow.value, "succeeded") for workflow in SCHEDULED_WORKFLOWS
    ]
    assert len(vendor.item_requests()) == 2, "no batch is requested twice"
