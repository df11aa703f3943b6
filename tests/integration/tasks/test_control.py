"""Control by a person: cancel, run now, retry now, pause and resume; messages are delivered by hand."""

from collections.abc import Callable
from datetime import datetime, timedelta

import httpx
import pytest
import time_machine
from celery.exceptions import Retry
from sqlalchemy.orm import Session

from accession.auth.audit import Actor, ActorKind, AuditAction, AuditFilter, audit_entries
from accession.core.errors import InvalidInput, NotFound, UserError
from accession.core.workflow import SCHEDULED_WORKFLOWS, Workflow
from accession.db.engine import engine, transaction
from accession.db.models import Collection, PurchaseRecord, WorkflowPause
from accession.runs.health import HealthState, collection_health
from accession.runs.ledger import RunCounters, lock_run, record_step
from accession.runs.pauses import list_pauses, store_pauses
from accession.runs.views import status_views
from tests.fixtures.broker import Broker, Message
from tests.fixtures.factories import BackgroundThread, day, make_collection, wait_for_blocked
from tests.fixtures.stored import all_runs, checkpoint_finish, count_rows
from tests.fixtures.workers import ObservedVendor, RunStarter, captured_logs, travel_to

TODAY = day(2014, 1, 4, 10)
ANN = Actor(ActorKind.USER, "ann", "192.0.2.1")
OTHER_WORKFLOWS = [workflow for workflow in Workflow if workflow is not Workflow.PURCHASES]


@pytest.fixture
def started(
    collection: Collection, vendor: ObservedVendor, run_starter: RunStarter, broker: Broker
) -> Collection:
    """A collection whose import has a purchase on each of three days; its first message is queued."""
    for number in (1, 2, 3):
        vendor.add_purchases(day(2014, 1, number, 9), f"t{number}")
    run_starter.start(collection)
    return collection


def states() -> list[str]:
    return [run.state for run in all_runs()]


def audited(action: AuditAction) -> list[tuple[str, str]]:
    """Return actor and subject of each entry of the audit log with this action."""
    with transaction() as session:
        return [
            (each.actor, each.subject) for each in audit_entries(session, AuditFilter(action=action), limit=9)
        ]


def health_of(collection: Collection, workflow: Workflow = Workflow.PURCHASES) -> HealthState:
    with transaction() as session:
        (view,) = collection_health(session, collection.id)
        return next(each.health for each in view.workflows if each.workflow == workflow)


def cancel(collection_id: int) -> None:
    from accession.tasks.control import cancel_runs

    cancel_runs(ANN, [collection_id])


def retry(collection: Collection) -> list[str | None]:
    """Retry all workflows of the collection; return the task ids of those that were retried."""
    from accession.tasks.control import retry_now

    return [each.task_id for each in retry_now(ANN, [collection.id]).done]


def pause(
    collection: Collection, *workflows: Workflow, until: datetime | None = None, cancels_runs: bool = False
) -> None:
    from accession.tasks.control import pause_workflows

    pause_workflows(
        ANN,
        [collection.id],
        workflows or tuple(Workflow),
        reason="vendor maintenance",
        until=until,
        cancels_runs=cancels_runs,
    )


def resume(collection: Collection) -> None:
    from accession.tasks.control import resume_workflows

    resume_workflows(ANN, [collection.id])


# Cancel


@pytest.mark.usefixtures("days_one_by_one")
def test_run_after_cancelled_one_starts_at_checkpoint(
    started: Collection, vendor: ObservedVendor, run_starter: RunStarter, broker: Broker
) -> None:
    with travel_to(TODAY):
        broker.deliver_next()
        cancel(started.id)
        broker.deliver_all()
        assert checkpoint_finish(started.id) == day(2014, 1, 2)
        assert (states(), len(vendor.marc_requests()), broker.locks()) == (["cancelled"], 1, {})
        assert all_runs()[0].error == "Cancelled by ann."
        run_starter.start(started)
        broker.deliver_all()
    assert states() == ["cancelled", "succeeded"]
    assert [run.records_fetched for run in all_runs()] == [1, 2]
    assert count_rows(PurchaseRecord) == 3
    assert audited(AuditAction.RUN_CANCEL) == [("ann", started.name)]


def test_step_that_waits_for_vendor_at_cancel_stores_nothing(
    started: Collection, vendor: ObservedVendor, broker: Broker
) -> None:
    collection_id = started.id
    vendor.on_request = lambda _: cancel(collection_id)
    with travel_to(TODAY):
        broker.deliver_next()
    (run,) = all_runs()
    assert (run.state, run.pages, checkpoint_finish(started.id)) == ("cancelled", 0, None)
    assert (count_rows(PurchaseRecord), broker.messages(), broker.locks()) == (0, [], {})


def test_step_that_is_stored_at_cancel_is_completed(started: Collection, broker: Broker) -> None:
    with travel_to(TODAY):
        broker.deliver_next()
    with Session(engine()) as step:
        run = lock_run(step, all_runs()[0].task_id)
        assert run is not None
        collection_id = started.id
        with engine().connect() as connection:
            thread = BackgroundThread(lambda: cancel(collection_id))
            wait_for_blocked(connection, 1)
        record_step(run, RunCounters(records_fetched=5, records_stored=5), since=None, next_cursor=run.cursor)
        step.commit()
        thread.finish()
    (cancelled,) = all_runs()
    assert (cancelled.state, cancelled.pages, cancelled.records_fetched) == ("cancelled", 2, 6)


def test_cancelled_queued_run_never_begins(
    started: Collection, vendor: ObservedVendor, broker: Broker
) -> None:
    cancel(started.id)
    broker.deliver_all()
    assert (states(), vendor.requests, broker.locks()) == (["cancelled"], [], {})


def test_delayed_retry_of_cancelled_run_is_ignored(
    started: Collection, vendor: ObservedVendor, broker: Broker
) -> None:
    vendor.responses.append(httpx.Response(502))
    with travel_to(TODAY):
        assert isinstance(broker.deliver_next(), Retry)
        cancel(started.id)
        broker.deliver_all()
    assert (states(), len(vendor.requests), broker.locks()) == (["cancelled"], 1, {})


def test_cancelled_run_is_no_failure(started: Collection) -> None:
    with travel_to(TODAY):
        cancel(started.id)
    assert health_of(started) is HealthState.NEW


def test_cancel_of_ended_run_is_refused(started: Collection, broker: Broker) -> None:
    from accession.tasks.control import cancel_run

    with travel_to(TODAY):
        broker.deliver_all()
    with pytest.raises(UserError, match="has succeeded already"):
        cancel_run(ANN, all_runs()[0].id)
    with pytest.raises(NotFound, match="There is no run 99"):
        cancel_run(ANN, 99)


# Run now


def test_run_now_skips_paused_and_active_workflows(
    started: Collection, session: Session, broker: Broker
) -> None:
    from accession.tasks.control import run_now

    other = make_collection(session, "Birch Library")
    pause(other, Workflow.EVENTS)
    result = run_now(ANN, [started.id, other.id], [Workflow.PURCHASES, Workflow.EVENTS])
    assert {(each.collection, each.workflow) for each in result.done} == {
        (other.name, Workflow.PURCHASES),
        (started.name, Workflow.EVENTS),
    }
    assert [(each.collection, each.reason) for each in result.skipped] == [
        (started.name, "a run is active"),
        (other.name, "paused"),
    ]
    assert (
        result.describe("run", "queued") == "2 runs queued, 1 skipped (a run is active), 1 skipped (paused)."
    )
    assert [message.id for message in broker.messages()[1:]] == [each.task_id for each in result.done]


def test_start_of_paused_workflow_is_refused(collection: Collection, broker: Broker) -> None:
    from accession.tasks.verification import start_verification
    from accession.tasks.workflows import start_workflow

    pause(collection)
    starts: list[Callable[[], object]] = [
        lambda: start_workflow(Workflow.EVENTS, [collection.id]),
        lambda: start_verification([collection.id]),
    ]
    for start in starts:
        with pytest.raises(UserError, match=r'paused for "Alder Library" \(vendor maintenance\): resume it'):
            start()
    assert (all_runs(), broker.messages()) == ([], [])


# Retry now


def failed_attempt(vendor: ObservedVendor, broker: Broker) -> Message:
    """Let the next step fail, and return the delayed message of its next attempt."""
    vendor.responses.append(httpx.Response(502))
    assert isinstance(broker.deliver_next(), Retry)
    return broker.pop()


def test_retrying_run_makes_next_attempt_at_once(
    started: Collection, vendor: ObservedVendor, broker: Broker
) -> None:
    with travel_to(TODAY):
        delayed = failed_attempt(vendor, broker)
        assert retry(started) == [delayed.id]
        (message,) = broker.messages()
        assert (message.eta, message.retries, message.kwargs) == (None, 1, all_runs()[0].cursor)
        assert (states(), retry(started)) == (["running"], [])
        broker.deliver_all()
        broker.deliver(delayed)
    assert (states(), broker.messages()) == (["succeeded"], [])
    assert audited(AuditAction.RUN_RETRY) == [("ann", started.name)]


def test_attempt_that_fails_again_counts_as_retry(
    started: Collection, vendor: ObservedVendor, broker: Broker
) -> None:
    with travel_to(TODAY):
        failed_attempt(vendor, broker)
        retry(started)
        assert failed_attempt(vendor, broker).retries == 2
    assert states() == ["retrying"]


@pytest.mark.usefixtures("days_one_by_one")
def test_failed_run_is_continued_at_checkpoint(
    started: Collection, vendor: ObservedVendor, broker: Broker
) -> None:
    with travel_to(TODAY):
        broker.deliver_next()
        vendor.responses.append(httpx.Response(403))
        broker.deliver_all()
        assert states() == ["failed"]
        retry(started)
        broker.deliver_all()
    assert states() == ["failed", "succeeded"]
    assert [run.records_fetched for run in all_runs()] == [1, 2]


def test_healthy_collection_is_not_retried(started: Collection, broker: Broker) -> None:
    with travel_to(TODAY):
        broker.deliver_all()
        assert (retry(started), broker.messages()) == ([], [])


def test_failing_and_retrying_collections_are_found(
    started: Collection, session: Session, vendor: ObservedVendor, broker: Broker, run_starter: RunStarter
) -> None:
    from accession.tasks.control import find_failing_collections

    make_collection(session, "Birch Library")
    other = make_collection(session, "Cedar Library")
    run_starter.start(other)
    with travel_to(TODAY):
        vendor.responses += [httpx.Response(502), httpx.Response(403)]
        broker.deliver_next()
        broker.deliver_next()
        assert sorted(states()) == ["failed", "retrying"]
        assert find_failing_collections(session) == [started.id, other.id]


def test_only_latest_run_is_retried(started: Collection, vendor: ObservedVendor, broker: Broker) -> None:
    from accession.tasks.control import retry_run

    vendor.responses.append(httpx.Response(403))
    with travel_to(TODAY):
        broker.deliver_next()
        continued_id = retry_run(ANN, all_runs()[0].id)
        first, second = all_runs()
        assert continued_id == second.id
        assert (first.state, second.state) == ("failed", "queued")
        for run in (first, second):
            with pytest.raises(UserError, match=f"Run {run.id} was not retried"):
                retry_run(ANN, run.id)


# Pause and resume


def test_paused_collection_is_left_out_of_start_for_all(
    collection: Collection, session: Session, broker: Broker
) -> None:
    from accession.tasks.purchases import import_purchase_records_for_all_collections

    other = make_collection(session, "Birch Library")
    pause(collection)
    import_purchase_records_for_all_collections()
    assert [run.collection_id for run in all_runs()] == [other.id]


def test_run_queued_before_pause_is_cancelled_and_later_started(
    started: Collection, vendor: ObservedVendor, broker: Broker
) -> None:
    with travel_to(TODAY):
        pause(started)
        broker.deliver_all()
        assert (states(), vendor.requests) == (["cancelled"], [])
        assert all_runs()[0].error == "Paused by ann: vendor maintenance"
        resume(started)
        broker.deliver_all()
    assert states() == ["cancelled", "succeeded"]


def test_run_queued_during_pause_does_not_begin(
    started: Collection, session: Session, vendor: ObservedVendor, broker: Broker
) -> None:
    """A schedule may have read the pauses just before the pause was committed."""
    keys = [(started.id, Workflow.PURCHASES)]
    store_pauses(session, keys, reason="vendor maintenance", until=None, stopped=set())
    session.commit()
    with captured_logs() as lines:
        assert broker.deliver_next() == "paused"
    assert (states(), vendor.requests, broker.locks()) == (["cancelled"], [], {})
    assert [line["event"] for line in lines] == ["run not started, the workflow is paused"]
    resume(started)
    assert states() == ["cancelled", "queued"]


def test_active_run_continues_during_pause(started: Collection, broker: Broker) -> None:
    with travel_to(TODAY):
        broker.deliver_next()
        pause(started)
        broker.deliver_all()
    assert states() == ["succeeded"]


def test_pause_that_cancels_runs_restarts_them_on_resume(
    started: Collection, vendor: ObservedVendor, broker: Broker
) -> None:
    with travel_to(TODAY):
        broker.deliver_next()
        pause(started, cancels_runs=True)
        pause(started)
        broker.deliver_all()
        assert (states(), broker.locks()) == (["cancelled"], {})
        resume(started)
        broker.deliver_all()
    assert states() == ["cancelled", "succeeded"]
    assert audited(AuditAction.COLLECTION_RESUME) == [("ann", started.name)]


def test_cancelled_run_is_started_once_when_pause_is_over(started: Collection, broker: Broker) -> None:
    from accession.tasks.schedules import start_due_runs

    end = TODAY + timedelta(hours=1)
    with travel_to(TODAY):
        pause(started, until=end, cancels_runs=True)
        start_due_runs()
        broker.deliver_all()
        assert states() == ["cancelled"]
    with travel_to(end):
        start_due_runs()
        start_due_runs()
        queued = [message.task.rpartition(".")[2] for message in broker.messages()]
    assert queued.count("import_purchase_records_by_collection") == 1
    assert count_rows(WorkflowPause) == 0


def test_lost_step_of_paused_workflow_waits_for_resume(
    started: Collection, vendor: ObservedVendor, broker: Broker
) -> None:
    from accession.tasks.recovery import resume_lost_work, resume_stalled_runs

    with travel_to(TODAY):
        broker.deliver_next()
        broker.clear()
        pause(started)
    with travel_to(TODAY + timedelta(hours=1)):
        assert (resume_lost_work(), resume_stalled_runs(), broker.messages()) == (0, 0, [])
        resume(started)
        assert resume_lost_work() == 1


def test_paused_workflow_is_shown_with_reason_and_end(collection: Collection) -> None:
    with time_machine.travel(TODAY, tick=False):
        pause(collection, Workflow.PURCHASES, until=TODAY + timedelta(hours=2))
        assert health_of(collection) is HealthState.PAUSED
        assert health_of(collection, Workflow.EVENTS) is not HealthState.PAUSED
        with transaction() as session:
            pauses = {view.workflow: view.pause for view in status_views(session)}
    shown = pauses["purchases"]
    assert shown is not None
    assert (shown.reason, shown.since, shown.until) == (
        "vendor maintenance",
        TODAY,
        TODAY + timedelta(hours=2),
    )
    assert {workflow for workflow, each in pauses.items() if each is None} >= {"events", "circulation"}


def test_pause_without_reason_or_with_past_end_is_refused(collection: Collection) -> None:
    from accession.tasks.control import pause_workflows

    for reason, until, message in (
        (" \n", None, "needs a reason"),
        ("x" * 201, None, "at most 200 characters"),
        ("vendor maintenance", TODAY, "2014-01-04 10:00 UTC, is over"),
    ):
        with pytest.raises(InvalidInput, match=message):
            pause_workflows(ANN, [collection.id], reason=reason, until=until)
    with transaction() as session:
        assert list_pauses(session) == {}


def test_second_pause_replaces_reason_and_end(collection: Collection) -> None:
    from accession.tasks.control import pause_workflows

    pause(collection, until=None)
    pause_workflows(ANN, [collection.id], SCHEDULED_WORKFLOWS, reason="moved to another system")
    with transaction() as session:
        reasons = {workflow: each.reason for (_, workflow), each in list_pauses(session).items()}
    assert reasons["purchases"] == "moved to another system"
    assert reasons["verification"] == "vendor maintenance"
    assert audited(AuditAction.COLLECTION_PAUSE) == [("ann", collection.name)] * 2


def test_workflow_named_twice_is_paused_and_started_once(collection: Collection, broker: Broker) -> None:
    from accession.tasks.control import pause_workflows, resume_workflows, run_now

    twice = [Workflow.EVENTS, Workflow.EVENTS]
    paused = pause_workflows(ANN, [collection.id], twice, reason="vendor maintenance")
    resume_workflows(ANN, [collection.id], twice)
    result = run_now(ANN, [collection.id], twice)

    assert len(paused.done) == len(result.done) == 1
    assert [message.id for message in broker.messages()] == [each.task_id for each in result.done]
