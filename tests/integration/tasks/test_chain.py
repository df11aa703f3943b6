"""The chain of purchases, carried by a real worker: where it starts, how it goes on, where it ends."""

from datetime import datetime, timedelta

import httpx
import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session

from accession.core.clock import utc_now
from accession.db.engine import transaction
from accession.db.models import ApplyOutbox, Collection, LicensePool, PurchaseRecord, RejectedRecord, Run
from accession.runs.samples import run_retries
from tests.fixtures.factories import ACCOUNT_KEY, day, make_collection
from tests.fixtures.vendor import marc
from tests.fixtures.workers import (
    Broker,
    Chains,
    WatchedVendor,
    applied_titles,
    checkpoint,
    logged,
    number_of,
    runs,
    set_checkpoint,
    today_is,
)

pytestmark = pytest.mark.usefixtures("worker")

BAD_GATEWAY = 502
TODAY = day(2014, 1, 4, 10)


def windows(vendor: WatchedVendor) -> list[tuple[str, str]]:
    return [(asked["startdate"], asked["offset"]) for asked in vendor.marc_requests()]


def lock_name(collection: Collection) -> str:
    return f"PurchaseRecordCollectionWorkflow:{collection.id}"


def summary(run: Run) -> tuple[str, int, int, int, int]:
    return run.state, run.pages, run.records_fetched, run.records_rejected, run.titles_new


def test_the_first_run_replaces_itself_from_2014_to_now_under_one_task_id(
    collection: Collection, vendor: WatchedVendor, chains: Chains, broker: Broker
) -> None:
    vendor.sells(day(2014, 1, 1, 9), "a1", "a2")
    vendor.sells(day(2014, 1, 3, 23, 59), "b1")
    vendor.sells(day(2014, 1, 4, 9), "c1")
    vendor.sold.append((day(2014, 1, 4, 9), marc()))
    with today_is(TODAY), logged() as lines:
        task_id = chains.start(collection)
        run = chains.ended(task_id)
    assert windows(vendor) == [(f"2014-01-0{number}T00:00:00", "1") for number in (1, 2, 3, 4)]
    assert summary(run) == ("succeeded", 4, 5, 1, 4)
    assert {line["run"] for line in lines if line["event"] == "page imported"} == {task_id}
    assert [found.task_id for found in runs()] == [task_id]
    reached = checkpoint(collection.id)
    assert reached is not None
    assert TODAY <= reached < TODAY + timedelta(minutes=1)
    assert reached.isoformat().startswith(vendor.marc_requests()[-1]["enddate"])
    assert run.since == day(2014, 1, 1)
    assert applied_titles() == {"a1", "a2", "b1", "c1"}
    assert (number_of(ApplyOutbox), number_of(RejectedRecord)) == (0, 1)
    assert broker.result(task_id) == "done"
    assert broker.locks() == {}


def test_the_checkpoint_stays_at_the_start_of_a_day_until_its_last_page_is_in(
    collection: Collection, vendor: WatchedVendor, chains: Chains
) -> None:
    vendor.sells(day(2014, 1, 2, 9), *(f"t{number}" for number in range(120)))
    seen: list[datetime | None] = []
    collection_id = collection.id

    def watch(request: httpx.Request) -> None:
        if request.url.path.endswith("/data/marc"):
            seen.append(checkpoint(collection_id))

    vendor.watch = watch
    with today_is(TODAY):
        run = chains.imported(collection)
    assert windows(vendor)[1:4] == [("2014-01-02T00:00:00", offset) for offset in ("1", "51", "101")]
    assert seen == [None, day(2014, 1, 2), day(2014, 1, 2), day(2014, 1, 2), day(2014, 1, 3), day(2014, 1, 4)]
    assert summary(run) == ("succeeded", 6, 120, 0, 120)


def test_a_run_goes_on_from_the_checkpoint(
    collection: Collection, vendor: WatchedVendor, chains: Chains
) -> None:
    set_checkpoint(collection.id, day(2014, 1, 3, 17))
    with today_is(TODAY):
        run = chains.imported(collection)
    assert windows(vendor) == [("2014-01-03T17:00:00", "1"), ("2014-01-04T00:00:00", "1")]
    assert (run.state, run.since) == ("succeeded", day(2014, 1, 3, 17))


def test_a_collection_that_is_up_to_date_succeeds_without_a_request(
    collection: Collection, vendor: WatchedVendor, chains: Chains
) -> None:
    ahead = utc_now().replace(microsecond=0) + timedelta(hours=1)
    set_checkpoint(collection.id, ahead)
    with logged() as lines:
        run = chains.imported(collection)
    assert (run.state, run.pages, run.records_fetched, vendor.requests) == ("succeeded", 0, 0, [])
    assert checkpoint(collection.id) == ahead
    assert "already up to date" in [line["event"] for line in lines]


def test_a_day_that_is_given_is_used_as_it_is_whatever_the_checkpoint_says(
    collection: Collection, vendor: WatchedVendor, chains: Chains
) -> None:
    set_checkpoint(collection.id, day(2014, 1, 4))
    with today_is(TODAY):
        chains.send(collection, "given", current_day="2014-01-03T06:00:00+00:00")
        chains.ended("given")
    assert windows(vendor)[0] == ("2014-01-03T06:00:00", "1")


def test_a_forced_reimport_begins_in_2014_and_clears_the_checkpoint_with_its_first_page(
    collection: Collection, vendor: WatchedVendor, chains: Chains
) -> None:
    set_checkpoint(collection.id, day(2030, 1, 1))
    seen: list[datetime | None] = []
    collection_id = collection.id
    vendor.watch = lambda request: seen.append(checkpoint(collection_id))
    with today_is(day(2014, 1, 3, 10)):
        run = chains.imported(collection, force=True)
    assert windows(vendor)[0] == ("2014-01-01T00:00:00", "1")
    assert seen == [day(2030, 1, 1), day(2014, 1, 2), day(2014, 1, 3)]
    assert (run.state, run.pages) == ("succeeded", 3)


def test_a_forced_reimport_whose_first_page_fails_leaves_the_checkpoint(
    collection: Collection, vendor: WatchedVendor, chains: Chains
) -> None:
    set_checkpoint(collection.id, day(2014, 1, 3))
    vendor.answers.append(httpx.Response(401))
    with today_is(TODAY):
        run = chains.imported(collection, force=True)
    assert (run.state, run.pages) == ("failed", 0)
    assert checkpoint(collection.id) == day(2014, 1, 3)


def test_an_unchanged_collection_is_imported_again_without_anything_to_apply(
    collection: Collection, vendor: WatchedVendor, chains: Chains
) -> None:
    vendor.sells(day(2014, 1, 2, 9), "t1", "t2")
    with today_is(TODAY):
        first = chains.imported(collection)
        again = chains.imported(collection, force=True)
    assert summary(first) == ("succeeded", 4, 2, 0, 2)
    assert (again.records_fetched, again.titles_new, again.titles_changed) == (2, 0, 0)
    assert (number_of(LicensePool), number_of(PurchaseRecord)) == (2, 2)


def test_a_second_start_is_refused_politely_and_leaves_the_other_its_lock(
    collection: Collection, vendor: WatchedVendor, chains: Chains, broker: Broker
) -> None:
    broker.redis.set(lock_name(collection), "another")
    with logged() as lines:
        task_id = chains.start(collection)
        broker.settle()
    assert broker.result(task_id) == "refused"
    assert (runs(), vendor.requests) == ([], [])
    assert broker.locks() == {lock_name(collection): "another"}
    assert [(line["log_level"], line["held_by"]) for line in lines] == [("warning", "another")]


def test_a_lock_that_expired_in_mid_chain_and_is_free_is_taken_again(
    collection: Collection, vendor: WatchedVendor, chains: Chains, broker: Broker
) -> None:
    lock = lock_name(collection)
    vendor.watch = lambda request: len(vendor.requests) == 1 and broker.redis.delete(lock)
    with today_is(TODAY), logged() as lines:
        run = chains.imported(collection)
    assert (run.state, run.pages) == ("succeeded", 4)
    assert [line["event"] for line in lines if line["log_level"] == "warning"] == [
        "workflow lock expired between invocations"
    ]
    assert broker.locks() == {}


def test_a_chain_that_lost_its_lock_to_a_newer_run_stops_before_it_writes(
    collection: Collection, vendor: WatchedVendor, chains: Chains, broker: Broker
) -> None:
    lock = lock_name(collection)
    vendor.watch = lambda request: len(vendor.requests) == 1 and broker.redis.set(lock, "newer")
    with today_is(TODAY), logged() as lines:
        task_id = chains.start(collection)
        run = chains.ended(task_id)
    assert (run.state, run.pages, len(vendor.requests)) == ("interrupted", 2, 2)
    assert run.error == "Its lock had expired, and a newer run took over."
    assert checkpoint(collection.id) == day(2014, 1, 3)
    assert broker.result(task_id) == "stopped"
    assert broker.locks() == {lock: "newer"}
    assert [line["held_by"] for line in lines if line["log_level"] == "warning"] == ["newer"]


def test_a_page_that_meets_a_vendor_fault_runs_again_under_the_same_lock(
    collection: Collection, vendor: WatchedVendor, chains: Chains, broker: Broker
) -> None:
    vendor.sells(day(2014, 1, 2, 9), "t1")
    fault = httpx.Response(BAD_GATEWAY)
    lock = lock_name(collection)
    seen: list[tuple[str | None, str, bool]] = []

    def watch(request: httpx.Request) -> None:
        run = runs()[0]
        seen.append((broker.holder(lock), run.state, run.error is not None))
        if len(seen) == 2:
            vendor.answers.append(fault)

    vendor.watch = watch
    with today_is(TODAY), logged() as lines:
        task_id = chains.start(collection)
        run = chains.ended(task_id)
    assert windows(vendor)[1:3] == [("2014-01-02T00:00:00", "1")] * 2
    assert [state for _, state, _ in seen[:4]] == ["running", "running", "retrying", "retrying"]
    assert [has_error for _, _, has_error in seen[:5]] == [False, False, True, True, False]
    assert {holder for holder, _, _ in seen} == {task_id}
    assert summary(run) == ("succeeded", 4, 1, 0, 1)
    assert run.error is None
    assert applied_titles() == {"t1"}
    warnings = [line for line in lines if line["log_level"] == "warning"]
    assert [line["retry"] for line in warnings] == [1]
    assert "502" in warnings[0]["reason"]
    with transaction() as session:
        assert [(each.retry, each.reason) for each in run_retries(session, run.id)] == [
            (1, warnings[0]["reason"])
        ]


def test_a_page_whose_connection_to_the_database_is_cut_runs_again(
    collection: Collection, vendor: WatchedVendor, chains: Chains
) -> None:
    vendor.sells(day(2014, 1, 2, 9), "t1")
    cut = text(
        "SELECT pg_terminate_backend(pid) FROM pg_locks "
        "WHERE relation = 'runs'::regclass AND pid <> pg_backend_pid()"
    )

    def watch(request: httpx.Request) -> None:
        if len(vendor.requests) == 2:
            with transaction() as session:
                session.execute(cut)

    vendor.watch = watch
    with today_is(TODAY):
        run = chains.imported(collection)
    assert windows(vendor)[1:3] == [("2014-01-02T00:00:00", "1")] * 2
    assert summary(run) == ("succeeded", 4, 1, 0, 1)
    assert applied_titles() == {"t1"}


def test_after_the_last_retry_the_run_has_failed_and_the_next_goes_on_from_the_last_whole_page(
    collection: Collection, vendor: WatchedVendor, chains: Chains, broker: Broker
) -> None:
    vendor.sells(day(2014, 1, 2, 9), *(f"t{number}" for number in range(60)))
    faults = [httpx.Response(BAD_GATEWAY) for _ in range(5)]

    def watch(request: httpx.Request) -> None:
        if request.url.params.get("offset") == "51" and faults:
            vendor.answers.append(faults.pop())

    vendor.watch = watch
    with today_is(TODAY):
        run = chains.imported(collection)
        assert windows(vendor)[2:] == [("2014-01-02T00:00:00", "51")] * 5
        assert (run.state, run.pages, run.records_fetched) == ("failed", 2, 50)
        assert run.error is not None
        assert "502 Bad Gateway" in run.error
        assert run.cursor["offset"] == 51
        assert run.finished_at is not None
        assert broker.locks() == {}
        assert checkpoint(collection.id) == day(2014, 1, 2)
        vendor.requests.clear()
        again = chains.imported(collection)
    assert windows(vendor)[0] == ("2014-01-02T00:00:00", "1")
    assert (again.state, again.records_fetched, again.titles_new) == ("succeeded", 60, 10)
    assert number_of(PurchaseRecord) == 60
    assert len(applied_titles()) == 60


def test_wrong_credentials_end_the_run_at_once_and_are_logged_as_expected(
    collection: Collection,
    vendor: WatchedVendor,
    chains: Chains,
    broker: Broker,
    caplog: pytest.LogCaptureFixture,
) -> None:
    vendor.answers.append(httpx.Response(401))
    with logged() as lines:
        run = chains.imported(collection)
    assert (run.state, len(vendor.requests)) == ("failed", 1)
    assert run.error is not None
    assert run.error.startswith('Collection "Alder Library": the vendor refused the credentials')
    assert broker.locks() == {}
    assert [line["reason"] for line in lines if line["event"] == "the run has failed"] == [run.error]
    assert not [record for record in caplog.records if record.exc_info]


def test_an_unexpected_error_ends_the_run_with_its_name_and_a_traceback(
    collection: Collection,
    vendor: WatchedVendor,
    chains: Chains,
    broker: Broker,
    caplog: pytest.LogCaptureFixture,
) -> None:
    vendor.answers.append(ArithmeticError("a bug of ours"))
    run = chains.imported(collection)
    assert (run.state, run.error) == ("failed", "ArithmeticError: a bug of ours")
    assert len(vendor.requests) == 1
    assert broker.locks() == {}
    assert [record.levelname for record in caplog.records if record.exc_info] == ["ERROR"]


def test_an_account_key_that_cannot_be_decrypted_fails_the_run_with_what_to_do(
    collection: Collection, vendor: WatchedVendor, chains: Chains, caplog: pytest.LogCaptureFixture
) -> None:
    with transaction() as session:
        session.get_one(Collection, collection.id).account_key_encrypted = b"another key's"
    run = chains.imported(collection)
    assert run.state == "failed"
    assert run.error is not None
    assert run.error.startswith('The account key of collection "Alder Library"')
    assert not [record for record in caplog.records if record.exc_info]


def test_a_collection_that_is_marked_for_deletion_in_mid_chain_ends_it(
    collection: Collection, vendor: WatchedVendor, chains: Chains, broker: Broker
) -> None:
    collection_id = collection.id

    def watch(request: httpx.Request) -> None:
        if len(vendor.requests) == 1:
            with transaction() as session:
                session.get_one(Collection, collection_id).marked_for_deletion_at = utc_now()

    vendor.watch = watch
    with today_is(TODAY), logged() as lines:
        task_id = chains.start(collection)
        run = chains.ended(task_id)
    assert (run.state, run.error) == ("interrupted", "The collection is marked for deletion.")
    assert (run.pages, len(vendor.requests)) == (2, 2)
    assert broker.result(task_id) == "stopped"
    assert [line["log_level"] for line in lines if "marked for deletion" in line["event"]] == ["warning"]
    assert broker.locks() == {}


def test_a_vendor_that_repeats_a_page_ends_the_window_with_a_warning(
    collection: Collection, vendor: WatchedVendor, chains: Chains
) -> None:
    vendor.repeats_pages = True
    vendor.sells(day(2014, 1, 2, 9), *(f"t{number}" for number in range(50)))
    with today_is(TODAY), logged() as lines:
        run = chains.imported(collection)
    assert windows(vendor)[1:4] == [
        ("2014-01-02T00:00:00", "1"),
        ("2014-01-02T00:00:00", "51"),
        ("2014-01-03T00:00:00", "1"),
    ]
    assert (run.state, run.titles_new) == ("succeeded", 50)
    assert [line["offset"] for line in lines if line["log_level"] == "warning"] == [51]


def test_other_workflows_and_other_collections_do_not_stand_in_the_way(
    collection: Collection, vendor: WatchedVendor, chains: Chains, broker: Broker
) -> None:
    others = {
        f"CirculationUpdateWorkflow:{collection.id}": "c",
        f"ImportCollectionWorkflow:{collection.id}": "e",
        f"PurchaseRecordCollectionWorkflow:{collection.id + 1}": "p",
    }
    broker.redis.mset(others)
    with today_is(TODAY):
        assert chains.imported(collection).state == "succeeded"
    assert broker.locks() == others


def test_the_fan_out_starts_every_collection_that_is_not_on_its_way_out(
    session: Session, collection: Collection, vendor: WatchedVendor, broker: Broker
) -> None:
    from accession.tasks.purchases import import_purchase_records_for_all_collections as fan_out

    birch = make_collection(session, "Birch Library").id
    make_collection(session, "Cedar Library").marked_for_deletion_at = utc_now()
    session.commit()
    set_checkpoint(collection.id, day(2014, 1, 4))
    with today_is(TODAY):
        fan_out.delay()
        broker.settle()
        assert {run.collection_id: run.since for run in runs()} == {
            collection.id: day(2014, 1, 4),
            birch: day(2014, 1, 1),
        }
        fan_out.delay(force_reimport=True)
        broker.settle()
    assert [run.since for run in runs()[2:]] == [day(2014, 1, 1)] * 2
    assert {run.state for run in runs()} == {"succeeded"}


def test_a_schedule_that_fires_twice_starts_one_chain(
    collection: Collection, vendor: WatchedVendor, broker: Broker
) -> None:
    from accession.tasks.purchases import import_purchase_records_for_all_collections as fan_out

    with today_is(TODAY):
        fan_out.delay()
        fan_out.delay()
        broker.settle()
    assert [(run.state, run.pages) for run in runs()] == [("succeeded", 4)]
    assert len(windows(vendor)) == 4


def test_the_broker_never_sees_an_account_key(
    collection: Collection, vendor: WatchedVendor, chains: Chains, broker: Broker
) -> None:
    vendor.sells(day(2014, 1, 2, 9), "t1")
    seen: list[bytes] = []

    def watch(request: httpx.Request) -> None:
        if len(seen) == 1:
            vendor.answers.append(httpx.Response(BAD_GATEWAY))
        seen.append(broker.everything())

    vendor.watch = watch
    with today_is(TODAY):
        task_id = chains.start(collection)
        chains.ended(task_id)
    seen.append(broker.everything())
    assert any(b"import_purchase_records_by_collection" in found for found in seen)
    assert task_id.encode() in seen[-1]
    assert ACCOUNT_KEY.encode() not in b"".join(seen)
