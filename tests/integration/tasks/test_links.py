"""Single links, delivered by hand: twice, late, out of turn, and after every kind of death in between."""

import threading
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any

import httpx
import pytest
from billiard.exceptions import SoftTimeLimitExceeded, WorkerLostError
from celery.exceptions import Retry
from celery.signals import task_failure
from sqlalchemy import text
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from accession.core.clock import utc_now
from accession.core.settings import get_settings, use_settings
from accession.core.workflow import Workflow
from accession.db.engine import engine, transaction
from accession.db.models import Collection, LicensePool, PurchaseRecord, Run, RunState
from accession.runs.ledger import end_run, lock_run, open_run
from tests.fixtures.factories import day
from tests.fixtures.workers import (
    Broker,
    Chains,
    Message,
    WatchedVendor,
    applied_titles,
    checkpoint,
    eventually,
    logged,
    number_of,
    rows_left,
    runs,
    set_checkpoint,
    today_is,
)

TODAY = day(2014, 1, 4, 10)
PAGE = "accession.tasks.purchases.import_purchase_records_by_collection"
ALREADY_DONE = "this page is done already; the message was delivered twice"


def first_message(chains: Chains, broker: Broker, collection: Collection) -> Message:
    """A chain's first message, taken from the broker."""
    chains.start(collection)
    return broker.take()


def delivered_again(message: Message, **changes: Any) -> Message:
    return Message(**(vars(message) | changes))


def test_a_link_sends_the_next_under_the_same_task_id_after_its_commit(
    collection: Collection, vendor: WatchedVendor, chains: Chains, broker: Broker
) -> None:
    vendor.sells(day(2014, 1, 1, 9), "t1", "t2")
    message = first_message(chains, broker, collection)
    with today_is(TODAY):
        assert broker.deliver(message) is None
    (following,) = broker.messages()
    assert (following.task, following.id, following.args) == (PAGE, message.id, [collection.id])
    assert following.kwargs == runs()[0].cursor
    assert following.kwargs["current_day"] == "2014-01-02T00:00:00+00:00"
    assert following.retries == 0


def test_messages_of_the_apply_name_outbox_rows_and_nothing_of_what_is_in_them(
    collection: Collection, vendor: WatchedVendor, chains: Chains, broker: Broker
) -> None:
    vendor.sells(day(2014, 1, 1, 9), *(f"t{number}" for number in range(50)))
    with today_is(TODAY):
        broker.deliver(first_message(chains, broker, collection))
    (apply,) = broker.messages("apply")
    assert apply.task == "accession.tasks.apply.bibliographic_apply"
    assert (apply.args, apply.kwargs) == ([list(range(1, 51))], {})
    assert b"Title" not in broker.raw_messages("apply")[0]


def test_two_deliveries_of_one_page_at_once_have_one_effect(
    collection: Collection, vendor: WatchedVendor, chains: Chains, broker: Broker
) -> None:
    vendor.sells(day(2014, 1, 1, 9), *(f"t{number}" for number in range(10)))
    message = first_message(chains, broker, collection)
    both = threading.Barrier(2, timeout=10)
    answers: list[Any] = []

    def deliver() -> None:
        both.wait()
        answers.append(broker.deliver(message))

    with today_is(TODAY), logged() as lines:
        threads = [threading.Thread(target=deliver) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert answers == [None, None]
    (run,) = runs()
    assert (run.pages, run.records_fetched, run.titles_new) == (1, 10, 10)
    assert len(vendor.marc_requests()) == 1
    assert [line["event"] for line in lines].count(ALREADY_DONE) == 1
    assert len(broker.messages()) == 1


@pytest.mark.parametrize("redelivered", [False, True])
def test_a_page_that_is_delivered_again_an_hour_later_has_no_further_effect(
    redelivered: bool, collection: Collection, vendor: WatchedVendor, chains: Chains, broker: Broker
) -> None:
    """In between the chain has gone on; all that may follow is one more copy of the link that is next."""
    vendor.sells(day(2014, 1, 1, 9), *(f"t{number}" for number in range(10)))
    message = first_message(chains, broker, collection)
    with today_is(TODAY):
        broker.deliver(message)
        broker.deliver_next()
    (before,) = runs()
    asked, waiting = len(vendor.requests), len(broker.messages())
    with today_is(TODAY + timedelta(hours=1)):
        assert broker.deliver(message, redelivered=redelivered) is None
    (run,) = runs()
    assert (run.pages, run.cursor, run.records_fetched) == (before.pages, before.cursor, 10)
    assert (len(vendor.requests), len(broker.messages())) == (asked, waiting + redelivered)
    assert (number_of(PurchaseRecord), number_of(LicensePool)) == (10, 10)
    assert all(link.kwargs == run.cursor for link in broker.messages())


class Died(BaseException):
    """Stands for the end of a process."""


@pytest.fixture
def dies_at(
    collection: Collection,
    vendor: WatchedVendor,
    chains: Chains,
    broker: Broker,
    monkeypatch: pytest.MonkeyPatch,
) -> Callable[[str], Message]:
    """The message of a page that is stored, but whose worker died when it was to call this."""
    from accession.tasks import chain

    def die(*_: Any) -> None:
        raise Died

    def at(call: str) -> Message:
        vendor.sells(day(2014, 1, 1, 9), "t1")
        message = first_message(chains, broker, collection)
        with today_is(TODAY), monkeypatch.context() as patch:
            patch.setattr(chain, call, die)
            with pytest.raises(Died):
                broker.deliver(message)
        assert (runs()[0].pages, broker.messages()) == (1, [])
        return message

    return at


@pytest.fixture
def page_committed_and_nothing_sent(dies_at: Callable[[str], Message]) -> Message:
    """The message of a page that is stored, but whose worker died before it sent the next link."""
    return dies_at("send_link")


@pytest.fixture
def page_committed_and_nothing_published(dies_at: Callable[[str], Message], broker: Broker) -> Message:
    """The message of a page that is stored, but whose worker died before it published what it had found."""
    message = dies_at("publish_applies")
    assert (rows_left(), broker.messages("apply")) == ([1], [])
    return message


def test_a_message_that_comes_back_after_its_page_was_stored_sends_the_expected_link(
    page_committed_and_nothing_sent: Message, vendor: WatchedVendor, broker: Broker
) -> None:
    with today_is(TODAY):
        assert broker.deliver(page_committed_and_nothing_sent, redelivered=True) is None
        assert [message.kwargs for message in broker.messages()] == [runs()[0].cursor]
        while broker.messages():
            broker.deliver_next()
    (run,) = runs()
    assert (run.state, run.pages, run.records_fetched) == ("succeeded", 4, 1)
    assert len(vendor.marc_requests()) == 4
    assert broker.locks() == {}


@pytest.mark.parametrize("retries", [1, 4])
def test_so_does_the_retry_of_a_page_whose_worker_child_was_lost(
    retries: int, page_committed_and_nothing_sent: Message, broker: Broker
) -> None:
    """Celery counts a lost child as a retry, which is a new message and not marked as delivered again."""
    broker.deliver(delivered_again(page_committed_and_nothing_sent, retries=retries))
    assert [message.kwargs for message in broker.messages()] == [runs()[0].cursor]


@pytest.mark.parametrize("comes_back", [{"redelivered": True}, {"retries": 1}])
def test_a_message_that_comes_back_publishes_what_its_page_had_found(
    comes_back: dict[str, Any], page_committed_and_nothing_published: Message, broker: Broker
) -> None:
    message = delivered_again(page_committed_and_nothing_published, retries=comes_back.get("retries", 0))
    broker.deliver(message, redelivered=comes_back.get("redelivered", False))
    broker.deliver_next("apply")
    assert (rows_left(), applied_titles()) == ([], {"t1"})


def test_so_does_that_of_the_last_page(
    page_committed_and_nothing_published: Message, collection: Collection, broker: Broker
) -> None:
    with transaction() as session:
        run = lock_run(session, page_committed_and_nothing_published.id)
        assert run is not None
        end_run(run, RunState.SUCCEEDED)
    broker.deliver(page_committed_and_nothing_published, redelivered=True)
    broker.deliver_next("apply")
    assert (rows_left(), applied_titles(), broker.locks()) == ([], {"t1"}, {})


def test_a_database_that_goes_away_just_after_the_commit_keeps_no_title_waiting(
    collection: Collection,
    vendor: WatchedVendor,
    chains: Chains,
    broker: Broker,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from accession.tasks import apply, chain, outages

    went_away = iter([True])

    def publish_applies(outbox_ids: Sequence[int]) -> None:
        if next(went_away, False):
            raise OperationalError("SELECT", {}, Exception("the server is gone"))
        apply.publish_applies(outbox_ids)

    monkeypatch.setattr(chain, "publish_applies", publish_applies)
    monkeypatch.setattr(outages, "_WAITS_SECONDS", (0.0,))
    vendor.sells(day(2014, 1, 1, 9), "t1")
    with today_is(TODAY):
        broker.deliver(first_message(chains, broker, collection))
    broker.deliver_next("apply")
    assert (rows_left(), applied_titles()) == ([], {"t1"})
    assert [message.kwargs for message in broker.messages()] == [runs()[0].cursor]


def test_a_page_whose_time_is_over_just_after_its_commit_is_followed_by_the_next(
    collection: Collection,
    vendor: WatchedVendor,
    chains: Chains,
    broker: Broker,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from accession.tasks import chain

    def time_is_over(*_: Any) -> None:
        raise SoftTimeLimitExceeded

    with today_is(TODAY):
        message = first_message(chains, broker, collection)
        with monkeypatch.context() as patch:
            patch.setattr(chain, "publish_applies", time_is_over)
            assert isinstance(broker.deliver(message), Retry)
        assert [again.retries for again in broker.messages()] == [1]
        while broker.messages():
            broker.deliver_next()
    (run,) = runs()
    assert (run.state, run.pages) == ("succeeded", 4)


def test_a_copy_of_a_link_that_comes_second_ends_there(
    page_committed_and_nothing_sent: Message, broker: Broker
) -> None:
    """However often the first message comes back, each of its copies stops behind the one that was first."""
    with today_is(TODAY):
        for _ in range(3):
            broker.deliver(page_committed_and_nothing_sent, redelivered=True)
        assert len(broker.messages()) == 3
        for _ in range(3):
            broker.deliver_next()
        assert len(broker.messages()) == 1
    assert runs()[0].pages == 2


def test_a_page_that_was_delivered_twice_stores_no_result_for_the_chain(
    page_committed_and_nothing_sent: Message, broker: Broker
) -> None:
    """Celery would take it for the chain's, and a child lost later for one that had finished its task."""
    broker.deliver(page_committed_and_nothing_sent, redelivered=True)
    assert broker.result(page_committed_and_nothing_sent.id) is None


def test_a_run_that_began_before_an_upgrade_goes_on_after_it(
    collection: Collection, vendor: WatchedVendor, chains: Chains, broker: Broker
) -> None:
    """Its cursor and its message lack the arguments that are new."""
    cursor = {"current_day": "2014-01-02T00:00:00+00:00", "offset": 1, "reset_timestamp": False}
    vendor.sells(day(2014, 1, 2, 9), "t1")
    with transaction() as session:
        open_run(session, collection.id, Workflow.PURCHASES, "begun-before", cursor)
    chains.send(collection, "begun-before", **cursor)
    with today_is(TODAY):
        broker.deliver_next()
    (run,) = runs()
    assert (run.pages, run.records_stored) == (1, 1)
    assert run.cursor["current_day"] == "2014-01-03T00:00:00+00:00"


@pytest.mark.parametrize("state", [RunState.SUCCEEDED, RunState.FAILED, RunState.INTERRUPTED])
def test_a_late_message_of_a_run_that_has_ended_does_nothing(
    state: RunState, page_committed_and_nothing_sent: Message, vendor: WatchedVendor, broker: Broker
) -> None:
    with transaction() as session:
        run = lock_run(session, page_committed_and_nothing_sent.id)
        assert run is not None
        end_run(run, state, "why")
    asked = len(vendor.requests)
    cursor = runs()[0].cursor
    for message in (
        page_committed_and_nothing_sent,
        delivered_again(page_committed_and_nothing_sent, kwargs=cursor),
    ):
        assert broker.deliver(message, redelivered=True) is None
    assert (runs()[0].state, runs()[0].error, runs()[0].pages) == (state, "why", 1)
    assert (len(vendor.requests), broker.messages(), broker.locks()) == (asked, [], {})


def test_a_late_message_leaves_a_newer_run_its_lock(
    page_committed_and_nothing_sent: Message, chains: Chains, collection: Collection, broker: Broker
) -> None:
    lock = f"PurchaseRecordCollectionWorkflow:{collection.id}"
    broker.redis.delete(lock)
    with today_is(TODAY):
        newer = first_message(chains, broker, collection)
        broker.deliver(newer)
        assert broker.deliver(page_committed_and_nothing_sent, redelivered=True) is None
    assert broker.locks() == {lock: newer.id}
    older, run = runs()
    assert (older.state, older.error) == ("interrupted", "Its lock had expired, and a newer run took over.")
    assert run.state == "running"


def test_a_second_delivery_that_meets_the_end_of_its_run_leaves_no_lock_and_no_other_state(
    page_committed_and_nothing_sent: Message,
    broker: Broker,
    collection: Collection,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It looks at run and lock while the last page, delivered a first time, is about to be committed."""
    from accession.tasks.lock import Held, TaskLock

    looks_at_lock, released = threading.Event(), threading.Event()
    hold = TaskLock.hold

    def late_look(lock: TaskLock) -> Held:
        looks_at_lock.set()
        released.wait(10)
        return hold(lock)

    monkeypatch.setattr(TaskLock, "hold", late_look)
    message = delivered_again(page_committed_and_nothing_sent, kwargs=runs()[0].cursor)
    second = threading.Thread(target=broker.deliver, args=(message,), kwargs={"redelivered": True})
    with Session(engine()) as first:
        run = lock_run(first, message.id)
        assert run is not None
        second.start()
        eventually(lambda: looks_at_lock.is_set() or waiting_for_a_row(), "the second delivery is there")
        end_run(run, RunState.SUCCEEDED)
        first.commit()
        broker.redis.delete(f"PurchaseRecordCollectionWorkflow:{collection.id}")
        released.set()
    second.join(10)
    assert (runs()[0].state, broker.locks()) == ("succeeded", {})


def test_a_second_first_message_that_comes_behind_the_whole_run_leaves_no_lock(
    collection: Collection,
    chains: Chains,
    vendor: WatchedVendor,
    broker: Broker,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The first delivery does it all between the second's looks at the ledger and at the lock."""
    from accession.tasks.lock import Held, TaskLock

    set_checkpoint(collection.id, utc_now() + timedelta(hours=1))
    message = first_message(chains, broker, collection)
    hold = TaskLock.hold

    def late_look(lock: TaskLock) -> Held:
        monkeypatch.setattr(TaskLock, "hold", hold)
        assert broker.deliver(message) == "done"
        return hold(lock)

    monkeypatch.setattr(TaskLock, "hold", late_look)
    assert broker.deliver(message, redelivered=True) is None
    assert ([run.state for run in runs()], broker.locks()) == (["succeeded"], {})


def waiting_for_a_row() -> bool:
    with transaction() as session:
        query = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
        return bool(session.scalar(text(query)))


def test_a_deleted_collection_ends_the_chain_with_a_warning(
    page_committed_and_nothing_sent: Message, collection: Collection, broker: Broker
) -> None:
    with transaction() as session:
        session.delete(session.get_one(Collection, collection.id))
    with logged() as lines:
        assert broker.deliver(page_committed_and_nothing_sent) == "stopped"
    assert [line["log_level"] for line in lines] == ["warning"]
    assert (runs(), broker.locks(), broker.messages()) == ([], {}, [])


def test_a_page_that_fails_leaves_nothing_of_itself(
    collection: Collection, vendor: WatchedVendor, chains: Chains, broker: Broker
) -> None:
    """The records are there, the look-up of their metadata fails: no pool, no record, no checkpoint."""
    vendor.sells(day(2014, 1, 3, 9), "t1")
    set_checkpoint(collection.id, day(2014, 1, 3))

    def watch(request: httpx.Request) -> None:
        if "/items/" in request.url.path:
            vendor.answers.append(httpx.Response(200, text=""))

    vendor.watch = watch
    with today_is(TODAY):
        assert isinstance(broker.deliver(first_message(chains, broker, collection)), Retry)
    assert (number_of(PurchaseRecord), checkpoint(collection.id)) == (0, day(2014, 1, 3))
    (run,) = runs()
    assert (run.state, run.pages, run.records_fetched) == ("retrying", 0, 0)


@pytest.fixture
def patient_settings() -> Any:
    """The settings with the back-off of the real world."""
    settings = get_settings()
    use_settings(settings.model_copy(update={"retry_backoff_seconds": 60.0}))
    yield
    use_settings(settings)


def waits(broker: Broker, message: Message, answer: httpx.Response, vendor: WatchedVendor) -> int:
    """How many seconds after `answer` the page is tried again."""
    vendor.answers.append(answer)
    with today_is(TODAY):
        assert isinstance(broker.deliver(message), Retry)
        again = broker.take()
        assert again.eta is not None
        assert (again.id, again.kwargs, again.retries) == (message.id, message.kwargs, message.retries + 1)
        return round((again.eta - TODAY) / timedelta(seconds=1))


@pytest.mark.usefixtures("patient_settings")
def test_retries_wait_twice_as_long_each_time_and_the_fifth_fault_ends_the_run(
    collection: Collection, vendor: WatchedVendor, chains: Chains, broker: Broker
) -> None:
    message = first_message(chains, broker, collection)
    lock = f"PurchaseRecordCollectionWorkflow:{collection.id}"
    for retries, wait in enumerate((60, 120, 240, 480)):
        again = delivered_again(message, retries=retries)
        assert waits(broker, again, httpx.Response(502), vendor) == wait
        assert runs()[0].state == "retrying"
        assert broker.locks() == {lock: message.id}
        assert 7190 < broker.redis.ttl(lock) <= 7200
    vendor.answers.append(httpx.Response(502))
    broker.deliver(delivered_again(message, retries=4))
    assert (runs()[0].state, broker.messages(), broker.locks()) == ("failed", [], {})


@pytest.mark.usefixtures("patient_settings")
@pytest.mark.parametrize(("asked_for", "wait"), [("300", 300), ("7", 60), ("86400", 900)])
def test_a_retry_waits_as_long_as_the_vendor_asks_within_bounds(
    asked_for: str,
    wait: int,
    collection: Collection,
    vendor: WatchedVendor,
    chains: Chains,
    broker: Broker,
) -> None:
    answer = httpx.Response(429, headers={"Retry-After": asked_for})
    assert waits(broker, first_message(chains, broker, collection), answer, vendor) == wait


def test_a_child_that_is_lost_too_often_ends_the_run_though_it_can_say_nothing(
    page_committed_and_nothing_sent: Message, app: Any, broker: Broker
) -> None:
    """Celery's parent process reports it; the same holds for the time limit that kills."""
    message = page_committed_and_nothing_sent
    task = app.tasks[message.task]
    error = WorkerLostError("Worker exited prematurely: signal 9 (SIGKILL)")
    task_failure.send(sender=task, task_id=message.id, exception=error, args=message.args, kwargs={})
    (run,) = runs()
    assert run.state == "failed"
    assert run.error is not None
    assert "signal 9" in run.error
    assert broker.locks() == {}


def test_a_lost_child_is_followed_soon(app: Any) -> None:
    """Celery would wait for three minutes."""
    for name in (PAGE, "accession.tasks.apply.bibliographic_apply"):
        assert app.tasks[name].default_retry_delay <= 5


def test_the_lock_is_released_also_when_the_ledger_cannot_be_written(
    page_committed_and_nothing_sent: Message, broker: Broker
) -> None:
    with transaction() as session:
        session.execute(text(f"ALTER TABLE {Run.__tablename__} RENAME TO elsewhere"))
    try:
        broker.deliver(page_committed_and_nothing_sent)
        assert broker.locks() == {}
    finally:
        with transaction() as session:
            session.execute(text(f"ALTER TABLE elsewhere RENAME TO {Run.__tablename__}"))


def test_the_end_of_a_window_does_not_move_from_page_to_page(
    collection: Collection, vendor: WatchedVendor, chains: Chains, broker: Broker
) -> None:
    """A vendor that sorts the newest first would otherwise shift what is still to be read."""
    set_checkpoint(collection.id, day(2014, 1, 4))
    vendor.sells(day(2014, 1, 4, 9), *(f"t{number}" for number in range(60)))
    chains.start(collection)
    for hour in (10, 11, 12):
        with today_is(day(2014, 1, 4, hour)):
            broker.deliver_next()

    asked = [
        (page["offset"], page["startdate"][8:13], page["enddate"][8:13]) for page in vendor.marc_requests()
    ]
    assert asked == [("1", "04T00", "04T10"), ("51", "04T00", "04T10"), ("1", "04T10", "04T12")]
    assert (runs()[0].state, runs()[0].records_fetched) == ("succeeded", 60)
