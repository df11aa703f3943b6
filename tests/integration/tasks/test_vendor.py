"""Whose turn it is to ask the vendor, of all workers together; and answers that wait in the broker."""

import threading
import time
from contextlib import ExitStack
from typing import cast

import pytest
from sqlalchemy.orm import Session

from accession.core.settings import get_settings
from accession.db.models import Collection, LookedUpTitle
from tests.fixtures.factories import day, make_collection
from tests.fixtures.workers import (
    Broker,
    Chains,
    WatchedVendor,
    applied_titles,
    eventually,
    number_of,
    set_checkpoint,
    today_is,
)

TODAY = day(2024, 5, 20, 10)


@pytest.fixture
def at_most_two(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(get_settings(), "vendor_max_concurrency", 2)


def places(broker: Broker, collection_id: int = 1) -> dict[str, float]:
    """Who has a turn, and until when, in milliseconds."""
    taken = broker.redis.zrange(f"vendor:places:{collection_id}", 0, -1, withscores=True)
    return {name.decode(): score for name, score in cast(list[tuple[bytes, float]], taken)}


def takes_a_turn(
    collection_id: int, task_id: str
) -> tuple[threading.Thread, threading.Event, threading.Event]:
    """A thread that takes a turn and gives it back when it may; whether it has it, and when it may."""
    from accession.tasks.vendor import vendor_turn

    has_it, may_go = threading.Event(), threading.Event()
    turn = vendor_turn(collection_id, task_id)

    def ask() -> None:
        with turn():
            has_it.set()
            may_go.wait(10)

    thread = threading.Thread(target=ask)
    thread.start()
    return thread, has_it, may_go


def test_of_one_collection_no_more_requests_are_made_at_once_than_may_be(
    broker: Broker, at_most_two: None
) -> None:
    asking = [takes_a_turn(1, f"task-{n}") for n in range(3)]
    eventually(lambda: sum(has_it.is_set() for _, has_it, _ in asking) == 2, "two have their turns")
    waiting = next(has_it for _, has_it, _ in asking if not has_it.is_set())
    assert len(places(broker)) == 2

    next(may_go for _, has_it, may_go in asking if has_it.is_set()).set()
    eventually(waiting.is_set, "the third has its turn")
    for thread, _, may_go in asking:
        may_go.set()
        thread.join(10)
    assert places(broker) == {}


def test_another_collection_has_turns_of_its_own(broker: Broker, at_most_two: None) -> None:
    from accession.tasks.vendor import vendor_turn

    with ExitStack() as stack:
        for n, collection_id in enumerate((1, 1, 2, 2)):
            stack.enter_context(vendor_turn(collection_id, f"task-{n}")())
        assert [len(places(broker, n)) for n in (1, 2)] == [2, 2]


def test_a_task_that_begins_anew_gives_back_the_turns_of_the_worker_that_died(
    broker: Broker, at_most_two: None
) -> None:
    from accession.tasks.vendor import vendor_turn

    later = time.time() * 1000 + 60_000
    broker.redis.zadd("vendor:places:1", {"mine/a": later, "mine/b": later})

    with vendor_turn(1, "mine")(), vendor_turn(1, "another")():
        assert len(places(broker)) == 2


def test_the_turn_of_a_worker_that_died_expires(broker: Broker, at_most_two: None) -> None:
    from accession.tasks.vendor import vendor_turn

    now = time.time() * 1000
    broker.redis.zadd("vendor:places:1", {"dead/a": now - 1, "dead/b": now + 60_000})

    with vendor_turn(1, "mine")():
        assert sorted(name.partition("/")[0] for name in places(broker)) == ["dead", "mine"]
        assert "dead/b" in places(broker)


def test_a_turn_is_kept_for_as_long_as_a_request_may_take(
    broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    from accession.tasks.vendor import vendor_turn

    monkeypatch.setattr(get_settings(), "vendor_timeout_seconds", 20)
    with vendor_turn(1, "mine")():
        (until,) = places(broker).values()
        assert 59_000 < until - time.time() * 1000 <= 60_000
        assert 0 < broker.redis.pttl("vendor:places:1") <= 60_000


def test_a_turn_is_given_back_when_the_request_fails(broker: Broker) -> None:
    from accession.tasks.vendor import vendor_turn

    with pytest.raises(ZeroDivisionError), vendor_turn(1, "mine")():
        raise ZeroDivisionError
    assert places(broker) == {}


def test_between_two_requests_there_is_as_much_time_as_there_must_be(
    broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    from accession.tasks.vendor import vendor_turn

    monkeypatch.setattr(get_settings(), "vendor_max_requests_per_second", 20.0)
    began = time.monotonic()
    for n in range(5):
        with vendor_turn(1, f"task-{n}")():
            ended = time.monotonic()
    # The broker's clock tells milliseconds.
    assert ended - began >= 4 * 0.049


# Links


@pytest.mark.usefixtures("four_at_once")
def test_a_page_of_a_chain_whose_broker_lost_its_answers_asks_itself(
    collection: Collection, vendor: WatchedVendor, chains: Chains, broker: Broker
) -> None:
    set_checkpoint(collection.id, day(2024, 5, 1))
    vendor.sells(day(2024, 5, 3, 9), "abc")
    with today_is(TODAY):
        chains.start(collection)
        broker.deliver_next()
        assert len(vendor.requests) == 1, "the first page finds out whether the vendor lets us in"
        broker.deliver_next()
        kept = list(broker.redis.scan_iter("vendor:ahead:*"))
        assert 0 < max(map(broker.redis.pttl, kept)) <= 60_000
        broker.redis.delete(*kept)
        broker.deliver_next()
        broker.deliver_next("apply")
    assert len(kept) == 3
    assert applied_titles() == {"abc"}


def test_a_page_that_is_rolled_back_has_not_looked_up_its_titles(
    collection: Collection,
    vendor: WatchedVendor,
    chains: Chains,
    broker: Broker,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from accession.imports import purchases

    vendor.sells(day(2024, 5, 1, 9), "abc")
    set_checkpoint(collection.id, day(2024, 5, 1))
    with today_is(TODAY):
        chains.start(collection)
        message = broker.take()
        with monkeypatch.context() as patch:
            patch.setattr(purchases, "needs_apply", lambda *_: 1 / 0)
            assert isinstance(broker.deliver(message), ZeroDivisionError)
    assert number_of(LookedUpTitle) == 0


def test_a_newer_run_throws_away_what_the_older_has_remembered(
    session: Session, vendor: WatchedVendor, chains: Chains, broker: Broker
) -> None:
    collection = make_collection(session, "Birch Library")
    vendor.sells(day(2024, 5, 1, 9), "abc")
    set_checkpoint(collection.id, day(2024, 5, 1))
    with today_is(TODAY):
        chains.start(collection)
        broker.deliver_next()
        assert number_of(LookedUpTitle) == 1
        broker.clear()
        set_checkpoint(collection.id, day(2024, 5, 10))
        chains.start(collection)
        broker.deliver_next()
    assert number_of(LookedUpTitle) == 0
