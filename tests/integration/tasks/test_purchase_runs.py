"""Runs of the purchase import in a real worker: start, retries, locks and end."""

from datetime import date, datetime, timedelta

import httpx
import pytest
from sqlalchemy import select, text
from sqlalchemy.orm import Session

from accession.auth.audit import Actor, ActorKind
from accession.core.clock import utc_now
from accession.db.engine import transaction
from accession.db.models import (
    ApplyOutbox,
    Collection,
    LicensePool,
    NotificationEvent,
    PurchaseRecord,
    RejectedRecord,
    Run,
)
from accession.notifications.kinds import EventKind
from accession.runs.samples import run_retries
from tests.fixtures.broker import Broker
from tests.fixtures.factories import ACCOUNT_KEY, day, make_collection
from tests.fixtures.holdings import title_ids
from tests.fixtures.purchases import requested_pages, stored_purchases
from tests.fixtures.stored import (
    all_runs,
    checkpoint_confirmed,
    checkpoint_finish,
    count_rows,
    set_checkpoint,
    titles_with_metadata,
)
from tests.fixtures.vendor import marc
from tests.fixtures.workers import ObservedVendor, RunStarter, captured_logs, travel_to

pytestmark = pytest.mark.usefixtures("worker")

BAD_GATEWAY = 502
TODAY = day(2014, 1, 4, 10)


def lock_name(collection: Collection) -> str:
    return f"PurchaseRecordCollectionWorkflow:{collection.id}"


def summary(run: Run) -> tuple[str, int, int, int, int]:
    return run.state, run.pages, run.records_fetched, run.records_rejected, run.titles_new


def test_first_run_imports_from_2014_under_one_task_id(
    collection: Collection, vendor: ObservedVendor, run_starter: RunStarter, broker: Broker
) -> None:
    vendor.add_purchases(day(2014, 1, 1, 9), "a1", "a2")
    vendor.add_purchases(day(2014, 1, 3, 23, 59), "b1")
    vendor.add_purchases(day(2014, 1, 4, 9), "c1")
    vendor.purchases.append((day(2014, 1, 4, 9), marc()))
    with travel_to(TODAY), captured_logs() as lines:
        task_id = run_starter.start(collection)
        run = run_starter.wait_for(task_id)
    assert requested_pages(vendor) == [
        ("01-01", "01-02", "1"),
        ("01-01", "01-03", "2"),
        ("01-01", "01-04", "2"),
        ("01-03", "01-04", "1"),
    ]
    assert summary(run) == ("succeeded", 4, 5, 1, 4)
    assert {line["run"] for line in lines if line["event"] == "page imported"} == {task_id}
    assert [each.task_id for each in all_runs()] == [task_id]
    finish = checkpoint_finish(collection.id)
    assert finish is not None
    assert finish >= TODAY
    assert finish.isoformat().startswith(vendor.marc_requests()[-1]["enddate"])
    assert run.since == day(2014, 1, 1)
    assert titles_with_metadata() == {"a1", "a2", "b1", "c1"}
    assert (count_rows(ApplyOutbox), count_rows(RejectedRecord)) == (0, 1)
    assert broker.result(task_id) == "done"
    assert broker.locks() == {}


def test_checkpoint_moves_after_the_last_page_of_a_day(
    collection: Collection, vendor: ObservedVendor, run_starter: RunStarter
) -> None:
    vendor.add_purchases(day(2014, 1, 2, 9), *(f"t{number}" for number in range(120)))
    checkpoints: list[datetime | None] = []
    collection_id = collection.id

    def on_request(request: httpx.Request) -> None:
        if request.url.path.endswith("/data/marc"):
            checkpoints.append(checkpoint_finish(collection_id))

    vendor.on_request = on_request
    with travel_to(TODAY):
        run = run_starter.run_to_end(collection)
    assert requested_pages(vendor)[1:4] == [("01-02", "01-03", offset) for offset in ("1", "50", "99")]
    assert checkpoints == [
        None,
        day(2014, 1, 2),
        day(2014, 1, 2),
        day(2014, 1, 2),
        day(2014, 1, 3),
        day(2014, 1, 4),
    ]
    assert summary(run) == ("succeeded", 6, 120, 0, 120)


def test_run_starts_at_the_checkpoint(
    collection: Collection, vendor: ObservedVendor, run_starter: RunStarter
) -> None:
    set_checkpoint(collection.id, day(2014, 1, 3, 17))
    with travel_to(TODAY):
        run = run_starter.run_to_end(collection)
    assert vendor.marc_requests()[0]["startdate"] == "2014-01-03T17:00:00"
    assert (run.state, run.since) == ("succeeded", day(2014, 1, 3, 17))


def test_up_to_date_collection_needs_no_request(
    collection: Collection, vendor: ObservedVendor, run_starter: RunStarter
) -> None:
    future = utc_now().replace(microsecond=0) + timedelta(hours=1)
    set_checkpoint(collection.id, future)
    with captured_logs() as lines:
        run = run_starter.run_to_end(collection)
    assert (run.state, run.pages, run.records_fetched, vendor.requests) == ("succeeded", 0, 0, [])
    assert checkpoint_finish(collection.id) == future
    assert "already up to date" in [line["event"] for line in lines]


def test_current_day_argument_overrides_the_checkpoint(
    collection: Collection, vendor: ObservedVendor, run_starter: RunStarter
) -> None:
    set_checkpoint(collection.id, day(2014, 1, 4))
    with travel_to(TODAY):
        run_starter.enqueue_step(collection, "the-task", current_day="2014-01-03T06:00:00+00:00")
        run_starter.wait_for("the-task")
    assert vendor.marc_requests()[0]["startdate"] == "2014-01-03T06:00:00"


def test_forced_reimport_starts_in_2014_and_clears_checkpoint(
    collection: Collection, vendor: ObservedVendor, run_starter: RunStarter
) -> None:
    set_checkpoint(collection.id, day(2030, 1, 1))
    checkpoints: list[datetime | None] = []
    collection_id = collection.id
    vendor.on_request = lambda request: checkpoints.append(checkpoint_finish(collection_id))
    with travel_to(day(2014, 1, 3, 10)):
        run = run_starter.run_to_end(collection, force=True)
    assert vendor.marc_requests()[0]["startdate"] == "2014-01-01T00:00:00"
    assert checkpoints == [day(2030, 1, 1), day(2014, 1, 2), day(2014, 1, 3)]
    assert (run.state, run.pages) == ("succeeded", 3)


def test_failed_forced_reimport_keeps_the_checkpoint(
    collection: Collection, vendor: ObservedVendor, run_starter: RunStarter
) -> None:
    set_checkpoint(collection.id, day(2014, 1, 3))
    vendor.responses.append(httpx.Response(401))
    with travel_to(TODAY):
        run = run_starter.run_to_end(collection, force=True)
    assert (run.state, run.pages) == ("failed", 0)
    assert checkpoint_finish(collection.id) == day(2014, 1, 3)


def test_reimport_of_unchanged_collection_applies_nothing(
    collection: Collection, vendor: ObservedVendor, run_starter: RunStarter
) -> None:
    vendor.add_purchases(day(2014, 1, 2, 9), "t1", "t2")
    with travel_to(TODAY):
        first = run_starter.run_to_end(collection)
        second = run_starter.run_to_end(collection, force=True)
    assert summary(first) == ("succeeded", 4, 2, 0, 2)
    assert (second.records_fetched, second.titles_new, second.titles_changed) == (2, 0, 0)
    assert (count_rows(LicensePool), count_rows(PurchaseRecord)) == (2, 2)


def test_second_start_is_refused_with_warning(
    collection: Collection, vendor: ObservedVendor, run_starter: RunStarter, broker: Broker
) -> None:
    broker.redis.set(lock_name(collection), "other-task")
    with captured_logs() as lines:
        task_id = run_starter.start(collection)
        broker.wait_until_idle()
    assert broker.result(task_id) == "refused"
    assert (all_runs(), vendor.requests) == ([], [])
    assert broker.locks() == {lock_name(collection): "other-task"}
    assert [(line["log_level"], line["held_by"]) for line in lines] == [("warning", "other-task")]


def test_expired_lock_is_acquired_again(
    collection: Collection, vendor: ObservedVendor, run_starter: RunStarter, broker: Broker
) -> None:
    lock = lock_name(collection)
    vendor.on_request = lambda request: len(vendor.requests) == 1 and broker.redis.delete(lock)
    with travel_to(TODAY), captured_logs() as lines:
        run = run_starter.run_to_end(collection)
    assert (run.state, run.pages) == ("succeeded", 4)
    assert [line["event"] for line in lines if line["log_level"] == "warning"] == [
        "workflow lock expired between invocations"
    ]
    assert broker.locks() == {}


def test_run_that_lost_its_lock_stops_before_it_writes(
    collection: Collection, vendor: ObservedVendor, run_starter: RunStarter, broker: Broker
) -> None:
    lock = lock_name(collection)
    vendor.on_request = lambda request: len(vendor.requests) == 1 and broker.redis.set(lock, "newer")
    with travel_to(TODAY), captured_logs() as lines:
        task_id = run_starter.start(collection)
        run = run_starter.wait_for(task_id)
    assert (run.state, run.pages, len(vendor.requests)) == ("interrupted", 2, 2)
    assert run.error == "Its lock expired and a newer run replaced it."
    assert checkpoint_finish(collection.id) == day(2014, 1, 3)
    assert broker.result(task_id) == "stopped"
    assert broker.locks() == {lock: "newer"}
    assert [line["held_by"] for line in lines if line["log_level"] == "warning"] == ["newer"]


def test_vendor_fault_is_retried_under_the_same_lock(
    collection: Collection, vendor: ObservedVendor, run_starter: RunStarter, broker: Broker
) -> None:
    vendor.add_purchases(day(2014, 1, 2, 9), *title_ids(25))
    fault = httpx.Response(BAD_GATEWAY)
    lock = lock_name(collection)
    observed: list[tuple[str | None, str, bool]] = []

    def on_request(request: httpx.Request) -> None:
        run = all_runs()[0]
        observed.append((broker.lock_holder(lock), run.state, run.error is not None))
        if len(observed) == 2:
            vendor.responses.append(fault)

    vendor.on_request = on_request
    with travel_to(TODAY), captured_logs() as lines:
        task_id = run_starter.start(collection)
        run = run_starter.wait_for(task_id)
    assert requested_pages(vendor)[1:3] == [("01-02", "01-03", "1")] * 2
    assert [state for _, state, _ in observed[:4]] == ["running", "running", "retrying", "retrying"]
    assert [has_error for _, _, has_error in observed[:5]] == [False, False, True, True, False]
    assert {holder for holder, _, _ in observed} == {task_id}
    assert summary(run) == ("succeeded", 4, 25, 0, 25)
    assert run.error is None
    assert titles_with_metadata() == {*title_ids(25)}
    warnings = [line for line in lines if line["log_level"] == "warning"]
    assert [line["retry"] for line in warnings] == [1]
    assert "502" in warnings[0]["reason"]
    with transaction() as session:
        assert [(each.retry, each.reason) for each in run_retries(session, run.id)] == [
            (1, warnings[0]["reason"])
        ]


def test_page_is_repeated_after_database_connection_loss(
    collection: Collection, vendor: ObservedVendor, run_starter: RunStarter
) -> None:
    vendor.add_purchases(day(2014, 1, 2, 9), *title_ids(25))
    # No transaction of the worker is open.
    terminate = text("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE state = 'idle'")

    def on_request(request: httpx.Request) -> None:
        if len(vendor.requests) == 2:
            with transaction() as session:
                session.execute(terminate)

    vendor.on_request = on_request
    with travel_to(TODAY):
        run = run_starter.run_to_end(collection)
    assert requested_pages(vendor)[1:3] == [("01-02", "01-03", "1")] * 2
    assert summary(run) == ("succeeded", 4, 25, 0, 25)
    assert titles_with_metadata() == {*title_ids(25)}


def test_failed_run_is_followed_by_one_from_the_checkpoint(
    collection: Collection, vendor: ObservedVendor, run_starter: RunStarter, broker: Broker
) -> None:
    vendor.add_purchases(day(2014, 1, 2, 9), *(f"t{number}" for number in range(60)))
    faults = [httpx.Response(BAD_GATEWAY) for _ in range(5)]

    def on_request(request: httpx.Request) -> None:
        if request.url.params.get("offset") == "50" and faults:
            vendor.responses.append(faults.pop())

    vendor.on_request = on_request
    with travel_to(TODAY):
        run = run_starter.run_to_end(collection)
        assert requested_pages(vendor)[2:] == [("01-02", "01-03", "50")] * 5
        assert (run.state, run.pages, run.records_fetched) == ("failed", 2, 50)
        assert run.error is not None
        assert "502 Bad Gateway" in run.error
        assert run.cursor["offset"] == 51
        assert run.finished_at is not None
        assert broker.locks() == {}
        assert checkpoint_finish(collection.id) == day(2014, 1, 2)
        vendor.requests.clear()
        second = run_starter.run_to_end(collection)
    assert requested_pages(vendor)[0] == ("12-04", "01-04", "1"), "a check of the recent purchases"
    assert requested_pages(vendor)[2] == ("01-02", "01-03", "1")
    assert (second.state, second.records_fetched, second.titles_new) == ("succeeded", 60, 10)
    assert count_rows(PurchaseRecord) == 60
    assert len(titles_with_metadata()) == 60


def test_wrong_credentials_fail_run_without_traceback(
    collection: Collection,
    vendor: ObservedVendor,
    run_starter: RunStarter,
    broker: Broker,
    caplog: pytest.LogCaptureFixture,
) -> None:
    vendor.responses.append(httpx.Response(401))
    with captured_logs() as lines:
        run = run_starter.run_to_end(collection)
    assert (run.state, len(vendor.requests)) == ("failed", 1)
    assert run.error is not None
    assert run.error.startswith('Collection "Alder Library": the vendor refused the credentials')
    assert broker.locks() == {}
    assert [line["reason"] for line in lines if line["event"] == "run failed"] == [run.error]
    assert not [record for record in caplog.records if record.exc_info]


def test_failed_run_is_stored_for_notifications_once(
    session: Session, collection: Collection, vendor: ObservedVendor, run_starter: RunStarter
) -> None:
    """Its retries are not: one failure is one event."""
    vendor.responses += [httpx.Response(BAD_GATEWAY)] * 5
    run = run_starter.wait_for(run_starter.start(collection))
    vendor.responses.append(httpx.Response(401))
    rejected = run_starter.wait_for(run_starter.start(collection))
    events = session.scalars(select(NotificationEvent).order_by(NotificationEvent.id)).all()
    assert [(event.kind, event.run_id, event.reason) for event in events] == [
        (EventKind.RUN_FAILED, run.id, run.error),
        (EventKind.CREDENTIALS_REJECTED, rejected.id, rejected.error),
    ]
    assert events[0].subject == "Alder Library, purchases"
    assert "Alder" not in events[0].cause


def test_unexpected_error_fails_run_with_traceback(
    collection: Collection,
    vendor: ObservedVendor,
    run_starter: RunStarter,
    broker: Broker,
    caplog: pytest.LogCaptureFixture,
) -> None:
    vendor.responses.append(ArithmeticError("a bug"))
    run = run_starter.run_to_end(collection)
    assert (run.state, run.error) == ("failed", "ArithmeticError: a bug")
    assert len(vendor.requests) == 1
    assert broker.locks() == {}
    assert [record.levelname for record in caplog.records if record.exc_info] == ["ERROR"]


def test_undecryptable_account_key_fails_run_with_hint(
    collection: Collection, vendor: ObservedVendor, run_starter: RunStarter, caplog: pytest.LogCaptureFixture
) -> None:
    with transaction() as session:
        session.get_one(Collection, collection.id).account_key_encrypted = b"encrypted with another key"
    run = run_starter.run_to_end(collection)
    assert run.state == "failed"
    assert run.error is not None
    assert run.error.startswith('The account key of collection "Alder Library"')
    assert not [record for record in caplog.records if record.exc_info]


def test_collection_marked_for_deletion_stops_its_run(
    collection: Collection, vendor: ObservedVendor, run_starter: RunStarter, broker: Broker
) -> None:
    collection_id = collection.id

    def on_request(request: httpx.Request) -> None:
        if len(vendor.requests) == 1:
            with transaction() as session:
                session.get_one(Collection, collection_id).marked_for_deletion_at = utc_now()

    vendor.on_request = on_request
    with travel_to(TODAY), captured_logs() as lines:
        task_id = run_starter.start(collection)
        run = run_starter.wait_for(task_id)
    assert (run.state, run.error) == ("interrupted", "The collection is marked for deletion.")
    assert (run.pages, len(vendor.requests)) == (1, 2)
    assert broker.result(task_id) == "stopped"
    assert [line["log_level"] for line in lines if "marked for deletion" in line["event"]] == ["warning"]
    assert broker.locks() == {}


def test_vendor_that_ignores_offsets_fails_the_run(
    collection: Collection, vendor: ObservedVendor, run_starter: RunStarter, broker: Broker
) -> None:
    """Titles would be missing without notice otherwise; they are imported once the vendor is repaired."""
    vendor.add_purchases(day(2014, 1, 3, 9), *(f"t{number}" for number in range(60)))
    vendor.is_repeating_pages = True
    with travel_to(TODAY), captured_logs() as lines:
        run = run_starter.run_to_end(collection)
        assert run.state == "failed"
        assert run.error is not None
        assert "the vendor's pages contradict each other" in run.error
        restarts = [line for line in lines if line["event"].startswith("page does not continue")]
        assert len(restarts) == 25, "20 and the five attempts of the last"
        assert broker.locks() == {}
        assert checkpoint_finish(collection.id) == checkpoint_confirmed(collection.id) == day(2014, 1, 3)
        assert run.titles_new == 50
        vendor.is_repeating_pages = False
        assert run_starter.run_to_end(collection).titles_new == 10
    assert count_rows(PurchaseRecord) == 60


# Empty bodies and checks


def test_run_after_failure_repeats_unconfirmed_days(
    session: Session, collection: Collection, vendor: ObservedVendor, run_starter: RunStarter
) -> None:
    """The vendor has hidden a purchase behind an empty body before it failed."""
    vendor.sends_empty_bodies = True
    vendor.add_purchases(day(2014, 1, 2, 9), "hidden")
    vendor.responses.extend([httpx.Response(200)] * 3)
    vendor.responses.extend([httpx.Response(BAD_GATEWAY)] * 5)
    with travel_to(TODAY):
        first = run_starter.run_to_end(collection)
        assert (first.state, first.pages) == ("failed", 3)
        assert checkpoint_finish(collection.id) == day(2014, 1, 4)
        assert checkpoint_confirmed(collection.id) == day(2014, 1, 1)
        second = run_starter.run_to_end(collection)
    assert (second.state, second.since, second.titles_new) == ("succeeded", day(2014, 1, 1), 1)
    assert stored_purchases(session) == [("hidden", date(2014, 1, 2))]


def test_empty_body_after_a_record_is_retried(
    collection: Collection, vendor: ObservedVendor, run_starter: RunStarter
) -> None:
    vendor.sends_empty_bodies = True
    vendor.add_purchases(day(2014, 1, 2, 9), "t1")
    vendor.add_purchases(day(2014, 1, 3, 9), "t2")
    bodies = [httpx.Response(200)] * 2

    def on_request(request: httpx.Request) -> None:
        if request.url.params.get("enddate") == "2014-01-04T00:00:00" and bodies:
            vendor.responses.append(bodies.pop())

    vendor.on_request = on_request
    with travel_to(TODAY):
        run = run_starter.run_to_end(collection)
    assert requested_pages(vendor)[2:5] == [("01-01", "01-04", "1")] * 3
    assert summary(run) == ("succeeded", 4, 2, 0, 2)


def import_first_time(
    collection: Collection, vendor: ObservedVendor, run_starter: RunStarter, *, titles: int
) -> None:
    """Import so many purchases of one day; then the vendor sends empty bodies."""
    vendor.add_purchases(day(2014, 1, 2, 9), *title_ids(titles))
    with travel_to(TODAY):
        run_starter.run_to_end(collection)
    vendor.sends_empty_bodies = True
    vendor.requests.clear()


def test_daily_run_without_new_purchases_is_one_request(
    collection: Collection, vendor: ObservedVendor, run_starter: RunStarter
) -> None:
    import_first_time(collection, vendor, run_starter, titles=40)
    tomorrow = TODAY + timedelta(days=1)
    with travel_to(tomorrow):
        run = run_starter.run_to_end(collection)
    assert (run.state, run.pages, len(vendor.requests)) == ("succeeded", 1, 1)
    confirmed = checkpoint_confirmed(collection.id)
    assert confirmed is not None
    assert confirmed >= tomorrow
    assert checkpoint_finish(collection.id) == confirmed


def test_daily_run_with_many_recent_purchases_ends(
    collection: Collection, vendor: ObservedVendor, run_starter: RunStarter
) -> None:
    """Its check has three pages, and time passes meanwhile."""
    import_first_time(collection, vendor, run_starter, titles=120)
    with travel_to(TODAY + timedelta(days=1)) as clock:
        vendor.on_request = lambda request: clock.shift(timedelta(seconds=2))
        run = run_starter.run_to_end(collection)
    assert (run.state, run.pages) == ("succeeded", 3)
    assert [offset for *_, offset in requested_pages(vendor)] == ["1", "50", "99"]


def test_daily_run_finds_new_and_late_purchases(
    session: Session, collection: Collection, vendor: ObservedVendor, run_starter: RunStarter
) -> None:
    vendor.sends_empty_bodies = True
    vendor.add_purchases(day(2014, 1, 2, 9), "t1")
    with travel_to(TODAY):
        run_starter.run_to_end(collection)
    vendor.add_purchases(day(2014, 1, 3, 9), "late")
    vendor.add_purchases(day(2014, 1, 5, 9), "new")
    with travel_to(TODAY + timedelta(days=1)):
        run = run_starter.run_to_end(collection)
    assert (run.state, run.titles_new) == ("succeeded", 2)
    assert stored_purchases(session) == [
        ("late", date(2014, 1, 3)),
        ("new", date(2014, 1, 5)),
        ("t1", date(2014, 1, 2)),
    ]


def test_collection_without_purchases_needs_one_request(
    session: Session, collection: Collection, vendor: ObservedVendor, run_starter: RunStarter
) -> None:
    vendor.sends_empty_bodies = True
    with travel_to(TODAY):
        run_starter.run_to_end(collection)
    assert checkpoint_confirmed(collection.id) == day(2014, 1, 1)
    vendor.requests.clear()
    with travel_to(TODAY + timedelta(days=1)):
        run = run_starter.run_to_end(collection)
    assert (run.state, run.since, requested_pages(vendor)) == (
        "succeeded",
        day(2014, 1, 1),
        [("01-01", "01-05", "1")],
    )
    vendor.add_purchases(day(2014, 1, 3, 9), "first")
    with travel_to(TODAY + timedelta(days=2)):
        run_starter.run_to_end(collection)
    assert stored_purchases(session) == [("first", date(2014, 1, 3))]


# Collections and schedules


def test_locks_of_other_runs_do_not_interfere(
    collection: Collection, vendor: ObservedVendor, run_starter: RunStarter, broker: Broker
) -> None:
    others = {
        f"CirculationUpdateWorkflow:{collection.id}": "c",
        f"ImportCollectionWorkflow:{collection.id}": "e",
        f"PurchaseRecordCollectionWorkflow:{collection.id + 1}": "p",
    }
    broker.redis.mset(others)
    with travel_to(TODAY):
        assert run_starter.run_to_end(collection).state == "succeeded"
    assert broker.locks() == others


def test_fan_out_starts_a_run_per_collection_in_use(
    session: Session, collection: Collection, vendor: ObservedVendor, broker: Broker
) -> None:
    from accession.tasks.purchases import import_purchase_records_for_all_collections as fan_out

    birch = make_collection(session, "Birch Library").id
    make_collection(session, "Cedar Library").marked_for_deletion_at = utc_now()
    session.commit()
    set_checkpoint(collection.id, day(2014, 1, 4))
    with travel_to(TODAY):
        fan_out.delay()
        broker.wait_until_idle()
        assert {run.collection_id: run.since for run in all_runs()} == {
            collection.id: day(2014, 1, 4),
            birch: day(2014, 1, 1),
        }
        fan_out.delay(force_reimport=True)
        broker.wait_until_idle()
    assert [run.since for run in all_runs()[2:]] == [day(2014, 1, 1)] * 2
    assert {run.state for run in all_runs()} == {"succeeded"}


def test_schedule_that_fires_twice_starts_one_run(
    collection: Collection, vendor: ObservedVendor, broker: Broker
) -> None:
    from accession.tasks.purchases import import_purchase_records_for_all_collections as fan_out

    with travel_to(TODAY):
        fan_out.delay()
        fan_out.delay()
        broker.wait_until_idle()
    assert [(run.state, run.pages) for run in all_runs()] == [("succeeded", 4)]
    assert len(vendor.marc_requests()) == 4


def test_broker_never_contains_an_account_key(
    collection: Collection, vendor: ObservedVendor, run_starter: RunStarter, broker: Broker
) -> None:
    vendor.add_purchases(day(2014, 1, 2, 9), "t1")
    dumps: list[bytes] = []

    def on_request(request: httpx.Request) -> None:
        if len(dumps) == 1:
            vendor.responses.append(httpx.Response(BAD_GATEWAY))
        dumps.append(broker.dump())

    vendor.on_request = on_request
    with travel_to(TODAY):
        task_id = run_starter.start(collection)
        run_starter.wait_for(task_id)
    dumps.append(broker.dump())
    assert any(b"import_purchase_records_by_collection" in dump for dump in dumps)
    assert task_id.encode() in dumps[-1]
    assert ACCOUNT_KEY.encode() not in b"".join(dumps)


def test_repeatedly_cancelled_import_stores_each_purchase_once(
    session: Session,
    collection: Collection,
    vendor: ObservedVendor,
    run_starter: RunStarter,
    days_one_by_one: None,
) -> None:
    """A run is cancelled at every fifth request, and another one is started when it has ended."""
    from accession.tasks.control import cancel_runs

    ann, collection_id = Actor(ActorKind.USER, "ann", "192.0.2.1"), collection.id
    for number in range(1, 11):
        vendor.add_purchases(day(2014, 1, number, 9), f"t{number:02}a", f"t{number:02}b")

    def cancel_every_fifth(_: httpx.Request) -> None:
        if len(vendor.requests) % 5 == 4:
            cancel_runs(ann, [collection_id])

    vendor.on_request = cancel_every_fifth
    with travel_to(day(2014, 1, 12, 10)):
        states = [run_starter.run_to_end(collection).state]
        while states[-1] == "cancelled" and len(states) < 60:
            states.append(run_starter.run_to_end(collection).state)
    assert (states[-1], states.count("cancelled") > 2) == ("succeeded", True)
    expected = [(f"t{number:02}{half}", date(2014, 1, number)) for number in range(1, 11) for half in "ab"]
    assert stored_purchases(session) == expected
    assert titles_with_metadata() == {title for title, _ in expected}
