"""Steps whose messages are delivered by hand: twice, late, out of order, and after a worker died."""

import threading
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any

import httpx
import pytest
import time_machine
from billiard.exceptions import SoftTimeLimitExceeded, WorkerLostError
from celery.exceptions import Retry
from celery.signals import task_failure
from redis.exceptions import ConnectionError as RedisConnectionError
from sqlalchemy import text
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from accession import __version__
from accession.core.clock import utc_now
from accession.core.settings import get_settings, use_settings
from accession.core.workflow import Workflow
from accession.db.engine import engine, transaction
from accession.db.models import Collection, LicensePool, PurchaseRecord, Run, RunState
from accession.runs.ledger import end_run, lock_run, open_run
from tests.fixtures.broker import Broker, Message, slot_name
from tests.fixtures.factories import day
from tests.fixtures.holdings import title_ids
from tests.fixtures.stored import (
    all_runs,
    checkpoint_finish,
    count_rows,
    outbox_row_ids,
    set_checkpoint,
    titles_with_metadata,
)
from tests.fixtures.waiting import wait_until
from tests.fixtures.workers import ObservedVendor, RunStarter, captured_logs, travel_to

TODAY = day(2014, 1, 4, 10)
STEP_TASK = "accession.tasks.purchases.import_purchase_records_by_collection"
# These fill a request for metadata, so that they are looked up with their page.
TITLES = title_ids(25)
ALREADY_PROCESSED = "step already processed, message was delivered twice"


def first_message(run_starter: RunStarter, broker: Broker, collection: Collection) -> Message:
    """Start a run and remove its first message from the broker."""
    run_starter.start(collection)
    return broker.pop()


def changed(message: Message, **changes: Any) -> Message:
    return Message(**(vars(message) | changes))


def test_step_enqueues_next_step_under_same_task_id(
    collection: Collection, vendor: ObservedVendor, run_starter: RunStarter, broker: Broker
) -> None:
    vendor.add_purchases(day(2014, 1, 1, 9), "t1", "t2")
    message = first_message(run_starter, broker, collection)
    with travel_to(TODAY):
        assert broker.deliver(message) is None
    (following,) = broker.messages()
    assert (following.task, following.id, following.args) == (STEP_TASK, message.id, [collection.id])
    assert following.kwargs == all_runs()[0].cursor
    assert following.kwargs["current_day"] == "2014-01-02T00:00:00Z"
    assert following.retries == 0


def test_apply_messages_contain_only_outbox_ids(
    collection: Collection, vendor: ObservedVendor, run_starter: RunStarter, broker: Broker
) -> None:
    vendor.add_purchases(day(2014, 1, 1, 9), *(f"t{number}" for number in range(50)))
    with travel_to(TODAY):
        broker.deliver(first_message(run_starter, broker, collection))
    (apply,) = broker.messages("apply")
    assert apply.task == "accession.tasks.apply.bibliographic_apply"
    assert (apply.args, apply.kwargs) == ([list(range(1, 51))], {})
    assert b"Title" not in broker.raw_messages("apply")[0]


def test_concurrent_deliveries_of_page_are_processed_once(
    collection: Collection, vendor: ObservedVendor, run_starter: RunStarter, broker: Broker
) -> None:
    vendor.add_purchases(day(2014, 1, 1, 9), *(f"t{number}" for number in range(10)))
    message = first_message(run_starter, broker, collection)
    barrier = threading.Barrier(2, timeout=60)
    results: list[Any] = []

    def deliver() -> None:
        barrier.wait()
        results.append(broker.deliver(message))

    with travel_to(TODAY), captured_logs() as lines:
        threads = [threading.Thread(target=deliver) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert results == [None, None]
    (run,) = all_runs()
    assert (run.pages, run.records_fetched, run.titles_new) == (1, 10, 10)
    assert [line["event"] for line in lines].count(ALREADY_PROCESSED) == 1
    assert len(broker.messages()) == 1


@pytest.mark.parametrize("redelivered", [False, True])
def test_page_redelivered_an_hour_later_is_ignored(
    redelivered: bool, collection: Collection, vendor: ObservedVendor, run_starter: RunStarter, broker: Broker
) -> None:
    """The run has continued meanwhile; a redelivered message may enqueue one more copy of the next step."""
    vendor.add_purchases(day(2014, 1, 1, 9), *(f"t{number}" for number in range(10)))
    message = first_message(run_starter, broker, collection)
    with travel_to(TODAY):
        broker.deliver(message)
        broker.deliver_next()
    (before,) = all_runs()
    requests, queued = len(vendor.requests), len(broker.messages())
    with travel_to(TODAY + timedelta(hours=1)):
        assert broker.deliver(message, redelivered=redelivered) is None
    (run,) = all_runs()
    assert (run.pages, run.cursor, run.records_fetched) == (before.pages, before.cursor, 10)
    assert (len(vendor.requests), len(broker.messages())) == (requests, queued + redelivered)
    assert (count_rows(PurchaseRecord), count_rows(LicensePool)) == (10, 10)
    assert all(message.kwargs == run.cursor for message in broker.messages())


class WorkerDied(BaseException):
    """Simulates the end of a worker process."""


@pytest.fixture
def worker_dies_at(
    collection: Collection,
    vendor: ObservedVendor,
    run_starter: RunStarter,
    broker: Broker,
    monkeypatch: pytest.MonkeyPatch,
) -> Callable[[str], Message]:
    """Return the message of a page whose worker died after the commit, in a function of `steps`."""
    from accession.tasks import steps

    def die(*_: Any) -> None:
        raise WorkerDied

    def deliver(function: str) -> Message:
        vendor.add_purchases(day(2014, 1, 1, 9), *TITLES)
        message = first_message(run_starter, broker, collection)
        with travel_to(TODAY), monkeypatch.context() as patch:
            patch.setattr(steps, function, die)
            with pytest.raises(WorkerDied):
                broker.deliver(message)
        assert (all_runs()[0].pages, broker.messages()) == (1, [])
        return message

    return deliver


@pytest.fixture
def committed_page(worker_dies_at: Callable[[str], Message]) -> Message:
    """The message of a page whose worker died after the commit, before it enqueued the next step."""
    return worker_dies_at("enqueue_step")


@pytest.fixture
def committed_unpublished_page(worker_dies_at: Callable[[str], Message], broker: Broker) -> Message:
    """The message of a page whose worker died after the commit, before it published the applies."""
    message = worker_dies_at("publish_split_applies")
    assert (outbox_row_ids(), broker.messages("apply")) == ([*range(1, 26)], [])
    return message


def test_redelivered_message_enqueues_the_next_step(
    committed_page: Message, vendor: ObservedVendor, broker: Broker
) -> None:
    with travel_to(TODAY):
        assert broker.deliver(committed_page, redelivered=True) is None
        assert [message.kwargs for message in broker.messages()] == [all_runs()[0].cursor]
        broker.deliver_all()
    (run,) = all_runs()
    assert (run.state, run.pages, run.records_fetched) == ("succeeded", 4, 25)
    assert len(vendor.marc_requests()) == 4
    assert broker.locks() == {}


@pytest.mark.parametrize("retries", [1, 4])
def test_retry_after_lost_child_enqueues_the_next_step(
    retries: int, committed_page: Message, broker: Broker
) -> None:
    """Celery counts a lost child as a retry, which is a new message and not marked as redelivered."""
    broker.deliver(changed(committed_page, retries=retries))
    assert [message.kwargs for message in broker.messages()] == [all_runs()[0].cursor]


@pytest.mark.parametrize("redelivery", [{"redelivered": True}, {"retries": 1}])
def test_redelivered_message_publishes_its_applies(
    redelivery: dict[str, Any], committed_unpublished_page: Message, broker: Broker
) -> None:
    message = changed(committed_unpublished_page, retries=redelivery.get("retries", 0))
    broker.deliver(message, redelivered=redelivery.get("redelivered", False))
    broker.deliver_next("apply")
    assert (outbox_row_ids(), titles_with_metadata()) == ([], {*TITLES})


def test_redelivered_last_page_publishes_its_applies(
    committed_unpublished_page: Message, collection: Collection, broker: Broker
) -> None:
    with transaction() as session:
        run = lock_run(session, committed_unpublished_page.id)
        assert run is not None
        end_run(run, RunState.SUCCEEDED)
    broker.deliver(committed_unpublished_page, redelivered=True)
    broker.deliver_next("apply")
    assert (outbox_row_ids(), titles_with_metadata(), broker.locks()) == ([], {*TITLES}, {})


def test_database_outage_after_commit_loses_no_apply(
    collection: Collection,
    vendor: ObservedVendor,
    run_starter: RunStarter,
    broker: Broker,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from accession.tasks import apply, steps

    outages = iter([True])

    def publish_split_applies(*outbox_ids: Sequence[int]) -> None:
        if next(outages, False):
            raise OperationalError("SELECT", {}, Exception("the server is unavailable"))
        apply.publish_split_applies(*outbox_ids)

    monkeypatch.setattr(steps, "publish_split_applies", publish_split_applies)
    monkeypatch.setattr("accession.tasks.outages._WAITS_SECONDS", (0.0,))
    vendor.add_purchases(day(2014, 1, 1, 9), *TITLES)
    with travel_to(TODAY):
        broker.deliver(first_message(run_starter, broker, collection))
    broker.deliver_next("apply")
    assert (outbox_row_ids(), titles_with_metadata()) == ([], {*TITLES})
    assert [message.kwargs for message in broker.messages()] == [all_runs()[0].cursor]


def test_time_limit_after_commit_does_not_end_the_run(
    collection: Collection,
    vendor: ObservedVendor,
    run_starter: RunStarter,
    broker: Broker,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from accession.tasks import steps

    def exceed_time_limit(*_: Any) -> None:
        raise SoftTimeLimitExceeded

    with travel_to(TODAY):
        message = first_message(run_starter, broker, collection)
        with monkeypatch.context() as patch:
            patch.setattr(steps, "publish_split_applies", exceed_time_limit)
            assert isinstance(broker.deliver(message), Retry)
        assert [message.retries for message in broker.messages()] == [1]
        broker.deliver_all()
    (run,) = all_runs()
    assert (run.state, run.pages) == ("succeeded", 4)


@pytest.mark.parametrize(("redelivered", "retries"), [(True, 0), (False, 1)], ids=["redelivered", "retry"])
def test_repeated_step_releases_its_leftover_slots(
    redelivered: bool, retries: int, collection: Collection, run_starter: RunStarter, broker: Broker
) -> None:
    message = first_message(run_starter, broker, collection)
    broker.redis.set(slot_name(collection, 3), f"{message.id}/a dead worker")
    with travel_to(TODAY):
        broker.deliver(changed(message, retries=retries), redelivered=redelivered)
    assert [*broker.redis.scan_iter("vendor:slots:*")] == []


def test_step_releases_leftover_slots_after_broker_outage(
    collection: Collection,
    vendor: ObservedVendor,
    run_starter: RunStarter,
    broker: Broker,
    app: Any,
    four_concurrent_requests: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    client = app.backend.client
    delete, outages = client.delete, iter([True])

    def fail_once(*names: str) -> Any:
        if next(outages, False):
            raise RedisConnectionError("Connection refused.")
        return delete(*names)

    monkeypatch.setattr(client, "delete", fail_once)
    monkeypatch.setattr("accession.tasks.outages._WAITS_SECONDS", (0.0,))
    with travel_to(TODAY):
        broker.deliver(first_message(run_starter, broker, collection))
    assert all_runs()[0].pages == 1
    assert next(outages, False) is False
    assert [*broker.redis.scan_iter("vendor:slots:*")] == []


def test_second_copy_of_step_enqueues_nothing(committed_page: Message, broker: Broker) -> None:
    """However often a message is redelivered, the run has one next step: the copies do not multiply."""
    with travel_to(TODAY):
        for _ in range(3):
            broker.deliver(committed_page, redelivered=True)
        assert len(broker.messages()) == 3
        for _ in range(3):
            broker.deliver_next()
        assert len(broker.messages()) == 1
    assert all_runs()[0].pages == 2


def test_redelivered_page_stores_no_task_result(committed_page: Message, broker: Broker) -> None:
    """Celery would use it as the run's result, and ignore a child process that is lost later."""
    broker.deliver(committed_page, redelivered=True)
    assert broker.result(committed_page.id) is None


def test_run_started_before_upgrade_continues(
    collection: Collection, vendor: ObservedVendor, run_starter: RunStarter, broker: Broker
) -> None:
    """Its cursor and its message lack the arguments that the upgrade added."""
    cursor = {"current_day": "2014-01-02T00:00:00+00:00", "offset": 1, "reset_timestamp": False}
    vendor.add_purchases(day(2014, 1, 2, 9), "t1")
    with transaction() as session:
        open_run(session, collection.id, Workflow.PURCHASES, "started-before", cursor)
    run_starter.enqueue_step(collection, "started-before", **cursor)
    with travel_to(TODAY):
        broker.deliver_next()
    (run,) = all_runs()
    assert (run.pages, run.records_stored) == (1, 1)
    assert run.cursor["current_day"] == "2014-01-03T00:00:00Z"


def test_message_of_newer_version_is_put_back_unchanged(
    collection: Collection, vendor: ObservedVendor, run_starter: RunStarter, broker: Broker
) -> None:
    sent = first_message(run_starter, broker, collection)
    newer = changed(sent, version="0.2.0", retries=2, kwargs={"argument_of_a_later_version": 1})
    with captured_logs() as logs:
        broker.deliver(newer)
    (put_back,) = broker.messages()
    assert put_back.eta is not None
    assert put_back == changed(newer, eta=put_back.eta)
    assert (vendor.marc_requests(), all_runs()[0].state) == ([], RunState.QUEUED)
    assert [log["event"] for log in logs] == ["message put back for a newer worker"]


@pytest.mark.parametrize("version", ["", "0.0.9", "0.1.0", "0.1.99"], ids=["none", "older", "same", "patch"])
def test_message_of_same_or_older_version_is_processed(
    version: str, collection: Collection, vendor: ObservedVendor, run_starter: RunStarter, broker: Broker
) -> None:
    message = first_message(run_starter, broker, collection)
    with travel_to(TODAY):
        broker.deliver(changed(message, version=version))
    assert all_runs()[0].pages == 1
    assert [following.version for following in broker.messages()] == [__version__]


@pytest.mark.parametrize("state", [RunState.SUCCEEDED, RunState.FAILED, RunState.INTERRUPTED])
def test_late_message_of_ended_run_is_ignored(
    state: RunState, committed_page: Message, vendor: ObservedVendor, broker: Broker
) -> None:
    with transaction() as session:
        run = lock_run(session, committed_page.id)
        assert run is not None
        end_run(run, state, "the reason")
    requests = len(vendor.requests)
    cursor = all_runs()[0].cursor
    for message in (
        committed_page,
        changed(committed_page, kwargs=cursor),
    ):
        assert broker.deliver(message, redelivered=True) is None
    assert (all_runs()[0].state, all_runs()[0].error, all_runs()[0].pages) == (state, "the reason", 1)
    assert (len(vendor.requests), broker.messages(), broker.locks()) == (requests, [], {})


def test_late_message_leaves_lock_of_newer_run(
    committed_page: Message,
    run_starter: RunStarter,
    collection: Collection,
    vendor: ObservedVendor,
    broker: Broker,
) -> None:
    vendor.add_purchases(day(2014, 1, 3, 9), "t2")
    lock = f"PurchaseRecordCollectionWorkflow:{collection.id}"
    broker.redis.delete(lock)
    with travel_to(TODAY):
        newer = first_message(run_starter, broker, collection)
        broker.deliver(newer)
        assert broker.deliver(committed_page, redelivered=True) is None
    assert broker.locks() == {lock: newer.id}
    older, run = all_runs()
    assert (older.state, older.error) == ("interrupted", "Its lock expired and a newer run replaced it.")
    assert run.state == "running"


def test_redelivery_during_last_commit_leaves_no_lock(
    committed_page: Message,
    broker: Broker,
    collection: Collection,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The redelivered message is checked while the first delivery is about to commit the last page."""
    from accession.tasks.lock import LockResult, TaskLock

    checks_lock, released = threading.Event(), threading.Event()
    acquire = TaskLock.acquire_or_extend

    def acquire_late(lock: TaskLock) -> LockResult:
        checks_lock.set()
        released.wait(60)
        return acquire(lock)

    monkeypatch.setattr(TaskLock, "acquire_or_extend", acquire_late)
    message = changed(committed_page, kwargs=all_runs()[0].cursor)
    second = threading.Thread(target=broker.deliver, args=(message,), kwargs={"redelivered": True})
    with Session(engine()) as first:
        run = lock_run(first, message.id)
        assert run is not None
        second.start()
        wait_until(
            lambda: checks_lock.is_set() or is_waiting_for_row_lock(), "the second delivery is being checked"
        )
        end_run(run, RunState.SUCCEEDED)
        first.commit()
        broker.redis.delete(f"PurchaseRecordCollectionWorkflow:{collection.id}")
        released.set()
    second.join(60)
    assert (all_runs()[0].state, broker.locks()) == ("succeeded", {})


def test_redelivered_first_message_after_run_leaves_no_lock(
    collection: Collection,
    run_starter: RunStarter,
    vendor: ObservedVendor,
    broker: Broker,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The first delivery completes the run between the second's checks of the ledger and of the lock."""
    from accession.tasks.lock import LockResult, TaskLock

    set_checkpoint(collection.id, utc_now() + timedelta(hours=1))
    message = first_message(run_starter, broker, collection)
    acquire = TaskLock.acquire_or_extend

    def acquire_late(lock: TaskLock) -> LockResult:
        monkeypatch.setattr(TaskLock, "acquire_or_extend", acquire)
        assert broker.deliver(message) == "done"
        return acquire(lock)

    monkeypatch.setattr(TaskLock, "acquire_or_extend", acquire_late)
    assert broker.deliver(message, redelivered=True) is None
    assert ([run.state for run in all_runs()], broker.locks()) == (["succeeded"], {})


def is_waiting_for_row_lock() -> bool:
    with transaction() as session:
        query = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
        return bool(session.scalar(text(query)))


def test_deleted_collection_stops_run_with_warning(
    committed_page: Message, collection: Collection, broker: Broker
) -> None:
    with transaction() as session:
        session.delete(session.get_one(Collection, collection.id))
    with captured_logs() as lines:
        assert broker.deliver(committed_page) == "stopped"
    assert [line["log_level"] for line in lines] == ["warning"]
    assert (all_runs(), broker.locks(), broker.messages()) == ([], {}, [])


def test_failed_page_is_rolled_back(
    collection: Collection, vendor: ObservedVendor, run_starter: RunStarter, broker: Broker
) -> None:
    """If the request for the metadata fails, no pool, record or checkpoint of the page is stored."""
    vendor.add_purchases(day(2014, 1, 3, 9), *TITLES)
    set_checkpoint(collection.id, day(2014, 1, 3))
    run_starter.enqueue_step(collection, "the-task", current_day="2014-01-03T00:00:00+00:00")

    def watch(request: httpx.Request) -> None:
        if "/items/" in request.url.path:
            vendor.responses.append(httpx.Response(200, text=""))

    vendor.on_request = watch
    with travel_to(TODAY):
        assert isinstance(broker.deliver(broker.pop()), Retry)
    assert (count_rows(PurchaseRecord), checkpoint_finish(collection.id)) == (0, day(2014, 1, 3))
    (run,) = all_runs()
    assert (run.state, run.pages, run.records_fetched) == ("retrying", 0, 0)


@pytest.fixture
def default_backoff() -> Any:
    """The default back-off of 60 s."""
    settings = get_settings()
    use_settings(settings.model_copy(update={"retry_backoff_seconds": 60.0}))
    yield
    use_settings(settings)


def retry_wait(broker: Broker, message: Message, response: httpx.Response, vendor: ObservedVendor) -> int:
    """Return after how many seconds the page is retried, having received `response`."""
    vendor.responses.append(response)
    with time_machine.travel(TODAY, tick=False):
        assert isinstance(broker.deliver(message), Retry)
        retry = broker.pop()
        assert retry.eta is not None
        assert (retry.id, retry.kwargs, retry.retries) == (message.id, message.kwargs, message.retries + 1)
        return round((retry.eta - TODAY) / timedelta(seconds=1))


@pytest.mark.usefixtures("default_backoff")
def test_retry_waits_double_and_fifth_fault_ends_run(
    collection: Collection, vendor: ObservedVendor, run_starter: RunStarter, broker: Broker
) -> None:
    message = first_message(run_starter, broker, collection)
    lock = f"PurchaseRecordCollectionWorkflow:{collection.id}"
    for retries, wait in enumerate((60, 120, 240, 480)):
        retry = changed(message, retries=retries)
        assert retry_wait(broker, retry, httpx.Response(502), vendor) == wait
        assert all_runs()[0].state == "retrying"
        assert broker.locks() == {lock: message.id}
        assert 6000 < broker.redis.ttl(lock) <= 7200
    vendor.responses.append(httpx.Response(502))
    broker.deliver(changed(message, retries=4))
    assert (all_runs()[0].state, broker.messages(), broker.locks()) == ("failed", [], {})


@pytest.mark.usefixtures("default_backoff")
@pytest.mark.parametrize(("retry_after", "wait"), [("300", 300), ("7", 60), ("86400", 900)])
def test_retry_waits_for_retry_after_within_bounds(
    retry_after: str,
    wait: int,
    collection: Collection,
    vendor: ObservedVendor,
    run_starter: RunStarter,
    broker: Broker,
) -> None:
    response = httpx.Response(429, headers={"Retry-After": retry_after})
    assert retry_wait(broker, first_message(run_starter, broker, collection), response, vendor) == wait


def test_child_lost_too_often_ends_the_run(committed_page: Message, app: Any, broker: Broker) -> None:
    """Celery's parent process reports a lost child, and a child that exceeded the hard time limit."""
    message = committed_page
    task = app.tasks[message.task]
    error = WorkerLostError("Worker exited prematurely: signal 9 (SIGKILL)")
    task_failure.send(sender=task, task_id=message.id, exception=error, args=message.args, kwargs={})
    (run,) = all_runs()
    assert run.state == "failed"
    assert run.error is not None
    assert "signal 9" in run.error
    assert broker.locks() == {}


def test_task_of_lost_child_is_retried_within_seconds(app: Any) -> None:
    """Celery's default delay is three minutes."""
    for name in (STEP_TASK, "accession.tasks.apply.bibliographic_apply"):
        assert app.tasks[name].default_retry_delay <= 5


def test_lock_is_released_if_ledger_write_fails(committed_page: Message, broker: Broker) -> None:
    with transaction() as session:
        session.execute(text(f"ALTER TABLE {Run.__tablename__} RENAME TO renamed_runs"))
    try:
        broker.deliver(committed_page)
        assert broker.locks() == {}
    finally:
        with transaction() as session:
            session.execute(text(f"ALTER TABLE renamed_runs RENAME TO {Run.__tablename__}"))


def test_window_end_is_the_same_for_all_its_pages(
    collection: Collection, vendor: ObservedVendor, run_starter: RunStarter, broker: Broker
) -> None:
    """If it moved, a purchase of the meantime could shift the records of the next page."""
    set_checkpoint(collection.id, day(2014, 1, 4))
    vendor.add_purchases(day(2014, 1, 4, 9), *(f"t{number}" for number in range(60)))
    run_starter.start(collection)
    for hour in (10, 11, 12):
        with travel_to(day(2014, 1, 4, hour)):
            broker.deliver_next()

    windows = [
        (page["offset"], page["startdate"][8:13], page["enddate"][8:13]) for page in vendor.marc_requests()
    ]
    assert windows == [("1", "04T00", "04T10"), ("50", "04T00", "04T10"), ("1", "04T10", "04T12")]
    assert (all_runs()[0].state, all_runs()[0].records_fetched) == ("succeeded", 60)
