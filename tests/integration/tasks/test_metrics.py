"""What workers count together, and how they and beat say that they are there."""

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from pydantic import SecretStr
from redis import Redis
from redis.exceptions import ConnectionError as RedisAway
from sqlalchemy.orm import Session

from accession.bibliotheca.client import Endpoint, Outcome
from accession.core.settings import get_settings, use_settings
from accession.core.workflow import Workflow
from accession.db.models import Collection
from tests.fixtures.factories import day, side_by_side
from tests.fixtures.workers import (
    Broker,
    Chains,
    WatchedVendor,
    found,
    hold,
    publish,
    running_worker,
    set_checkpoint,
    today_is,
)

TODAY = day(2024, 5, 20, 10)


@pytest.fixture
def no_broker(broker: Broker) -> Iterator[None]:
    """For a while nothing listens where the broker should be."""
    before = get_settings()
    use_settings(before.model_copy(update={"redis_url": SecretStr("redis://127.0.0.1:9/0")}))
    yield
    use_settings(before)


# Counts


def test_requests_of_many_threads_add_up(broker: Broker) -> None:
    from accession.tasks.metrics import read_counts, request_counter

    count = request_counter()

    def some() -> None:
        for _ in range(20):
            count(Endpoint.MARC, Outcome.OK, 0.15)
        count(Endpoint.ITEMS, Outcome.TIMEOUT, 121.0)

    side_by_side(*[some] * 4)
    counts = read_counts()

    assert {key: number for key, number in counts.requests.items() if number} == {
        ("marc", "ok"): 80,
        ("items", "timeout"): 4,
    }
    marc, items = counts.latency[Endpoint.MARC], counts.latency[Endpoint.ITEMS]
    assert (marc.requests, round(marc.seconds, 6)) == ((0, 0, 0, 80, *[0] * 9), 12.0)
    assert (items.requests, items.seconds) == ((*[0] * 12, 4), 484.0)


@pytest.mark.parametrize(("seconds", "bucket"), [(0.0, 0), (0.02, 0), (0.0201, 1), (120.0, 11), (120.1, 12)])
def test_a_bound_belongs_to_its_bucket(broker: Broker, seconds: float, bucket: int) -> None:
    from accession.tasks.metrics import read_counts, request_counter

    request_counter()(Endpoint.EVENTS, Outcome.OK, seconds)

    assert read_counts().latency[Endpoint.EVENTS].requests.index(1) == bucket


def test_a_chain_counts_what_it_asks_and_what_it_applies(
    collection: Collection, vendor: WatchedVendor, chains: Chains, broker: Broker
) -> None:
    from accession.tasks.metrics import read_counts

    vendor.sells(day(2024, 5, 19, 9), "abc")
    set_checkpoint(collection.id, day(2024, 5, 19))
    with today_is(TODAY):
        chains.start(collection)
        while broker.messages() or broker.messages("apply"):
            broker.deliver_next("default" if broker.messages() else "apply")
    counts = read_counts()

    asked = {endpoint: number for (endpoint, _), number in counts.requests.items() if number}
    assert asked == {"marc": len(vendor.marc_requests()), "items": len(vendor.item_requests())}
    assert counts.applied == {"described": 1, "counts": 1}


def test_an_apply_that_writes_nothing_counts_nothing(
    session: Session, collection: Collection, broker: Broker
) -> None:
    from accession.tasks.metrics import read_counts

    for _ in range(2):
        publish(found(session, collection, "abc"))
        broker.deliver_next("apply")

    assert read_counts().applied == {"described": 1, "counts": 1}


def test_a_broker_that_is_away_loses_counts_and_stops_nobody(no_broker: None) -> None:
    from accession.tasks.heartbeats import forget_worker, note_tick, note_worker, read_heartbeats
    from accession.tasks.metrics import count_applied, read_counts, request_counter

    request_counter()(Endpoint.MARC, Outcome.OK, 0.1)
    count_applied(described=1, counts=1)
    note_worker("alder")
    forget_worker("alder")
    note_tick()

    for read in (read_counts, read_heartbeats):
        with pytest.raises(RedisAway):
            read()


def test_an_error_that_is_not_the_brokers_rises(broker: Broker) -> None:
    from accession.tasks.metrics import request_counter

    with pytest.raises(TypeError):
        request_counter()(Endpoint.MARC, Outcome.OK, "soon")  # type: ignore[arg-type]


# Queues


def test_messages_that_wait_and_those_with_a_worker_are_told_apart_by_queue(
    session: Session, collection: Collection, vendor: WatchedVendor, chains: Chains, broker: Broker
) -> None:
    from accession.tasks.metrics import Depth, queue_depths

    hold(session, vendor, collection, "abc")
    for workflow in Workflow:
        chains.start(collection, workflow)
    publish(found(session, collection, "abc"))
    with broker.app.connection_for_read() as connection:
        channel = connection.channel()
        channel.do_restore = False
        for queue in ("default", "default", "apply"):
            assert channel.basic_get(queue) is not None
        depths = queue_depths(["default", "apply"])

    assert depths == {"default": Depth(1, 2), "apply": Depth(0, 1)}


# Heartbeats


def test_a_worker_is_there_from_its_first_message_to_its_end(broker: Broker) -> None:
    from accession.tasks.heartbeats import read_heartbeats

    assert read_heartbeats().workers == 0
    with running_worker(broker.app):
        assert read_heartbeats().workers == 1
    assert read_heartbeats().workers == 0


def test_a_worker_that_says_no_more_is_gone_after_half_a_minute(broker: Broker) -> None:
    from accession.tasks.heartbeats import note_worker, read_heartbeats

    for name in ("alder", "birch", "alder"):
        note_worker(name)
    assert read_heartbeats().workers == 2
    age(broker.redis, "alder", timedelta(seconds=31))
    assert read_heartbeats().workers == 1
    note_worker("cedar")
    assert broker.redis.zscore("heartbeats:workers", "alder") is None, "it does not stay for ever"


def age(redis: Redis, name: str, ago: timedelta) -> None:
    """A worker that was last there so long ago."""
    redis.zincrby("heartbeats:workers", -ago.total_seconds(), name)


@pytest.mark.parametrize(("ago", "overdue"), [(None, True), (0, False), (50, False), (70, True)])
def test_beat_is_overdue_when_it_has_not_looked_for_a_minute(
    broker: Broker, ago: int | None, overdue: bool
) -> None:
    from accession.tasks.heartbeats import note_tick, read_heartbeats

    if ago is not None:
        note_tick()
        broker.redis.incrby("heartbeats:beat", -ago)
    heartbeats = read_heartbeats()

    assert heartbeats.beat_is_overdue is overdue
    assert (heartbeats.beat_silent_seconds is None) is (ago is None)
    assert ago is None or ago <= (heartbeats.beat_silent_seconds or 0) <= ago + 2


def test_a_look_at_the_schedule_is_a_sign_of_life(broker: Broker, tmp_path: Path) -> None:
    from accession.tasks.alive import Scheduler
    from accession.tasks.heartbeats import read_heartbeats

    scheduler = Scheduler(app=broker.app, schedule_filename=str(tmp_path / "schedule"))
    assert read_heartbeats().beat_silent_seconds is None
    assert 0 <= scheduler.tick() <= 10, "it looks again soon"
    assert read_heartbeats().beat_silent_seconds is not None
    scheduler.close()
