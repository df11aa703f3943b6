"""Cost of a step of an empty window: exact numbers of statements, commits and Redis commands."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from threading import get_ident
from typing import Any

import psycopg
import pytest
import time_machine
from celery import Celery
from psycopg.pq import TransactionStatus
from sqlalchemy import Connection, event

from accession.db.engine import engine
from accession.db.models import Collection, RunState
from accession.imports.prefetch import wait_for_prefetches
from tests.fixtures.broker import Broker, sent_commands
from tests.fixtures.factories import day
from tests.fixtures.waiting import wait_until
from tests.fixtures.workers import ObservedVendor, RunStarter

TODAY = day(2024, 5, 20, 10)
DEADLINE_SECONDS = 60

# What the parent process of a worker sends for each message, beside the command that receives it.
DELIVERY_COMMANDS = Counter(zadd=1, hset=1, zrem=1, hdel=1)


@contextmanager
def counted_database_events() -> Iterator["Counter[str]"]:
    """Count statements and commits of this thread until the context ends.

    Details of the run are stored in the background, a second later.
    """
    counter: Counter[str] = Counter()
    own_thread = get_ident()

    def count_statement(*_: Any) -> None:
        counter["statements"] += get_ident() == own_thread

    def count_commit(connection: Connection) -> None:
        # Without a transaction nothing is sent to the database.
        driver_connection = connection.connection.driver_connection
        assert isinstance(driver_connection, psycopg.Connection)
        is_sent = driver_connection.info.transaction_status != TransactionStatus.IDLE
        counter["commits"] += is_sent and get_ident() == own_thread

    database = engine()
    listeners = {"before_cursor_execute": count_statement, "commit": count_commit}
    for name, listener in listeners.items():
        event.listen(database, name, listener)
    yield counter
    for name, listener in listeners.items():
        event.remove(database, name, listener)


@pytest.fixture
def run_at_empty_window(
    collection: Collection, vendor: ObservedVendor, run_starter: RunStarter, broker: Broker
) -> Iterator[None]:
    """A run that has imported a purchase; its next message is about the first of the empty days after it."""
    vendor.add_purchases(day(2024, 5, 1, 9), "abc")
    # The clock stands still: a second later the step would store a sample of the run.
    with time_machine.travel(TODAY, tick=False):
        run_starter.enqueue_step(collection, "the-task", current_day="2024-05-01T00:00:00+00:00")
        broker.deliver_next()
        yield


# Requests are counted in the background, a second later.
COUNTING_COMMANDS = ("hincrby", "hincrbyfloat")


@pytest.mark.usefixtures("run_at_empty_window")
def test_step_that_requests_its_window_needs_few_commands(broker: Broker) -> None:
    message = broker.pop()
    with sent_commands(broker) as commands:
        broker.deliver(message)
    for name in COUNTING_COMMANDS:
        commands.pop(name, None)
    assert commands == Counter({"getex": 1, "set": 1, "del": 1, "lpush": 1}), (
        "lock, request slot, next message"
    )
    assert (commands + DELIVERY_COMMANDS).total() + 1 == 9


@pytest.mark.usefixtures("four_concurrent_requests", "days_one_by_one", "run_at_empty_window")
def test_prefetching_step_needs_twelve_commands(broker: Broker, vendor: ObservedVendor) -> None:
    broker.deliver_next()
    wait_for_prefetches(DEADLINE_SECONDS)
    for _ in range(2):
        message, before = broker.pop(), len(vendor.requests)
        with sent_commands(broker) as commands:
            broker.deliver(message)
            wait_for_prefetches(DEADLINE_SECONDS)
        assert len(vendor.requests) - before == 1, "the step prefetches one window and requests none"
        for name in COUNTING_COMMANDS:
            commands.pop(name, None)
        # Lock and next message; taking a response; claiming another, its request slot, and storing it.
        assert commands == Counter(getex=1, lpush=1) + Counter(getdel=1) + Counter({"set": 3, "del": 1})
        assert (commands + DELIVERY_COMMANDS).total() + 1 == 12


@pytest.mark.usefixtures("run_at_empty_window")
def test_step_of_empty_window_needs_two_statements(broker: Broker, run_starter: RunStarter) -> None:
    """One reads the run, the other writes, as a transaction of its own that needs no commit."""
    message = broker.pop()
    with counted_database_events() as counter:
        broker.deliver(message)
    assert counter == Counter(statements=2)
    run = run_starter.find("the-task")
    assert run is not None
    assert (run.state, run.pages) == (RunState.RUNNING, 2)


def test_delivery_of_a_message_needs_four_commands(broker: Broker, app: Celery) -> None:
    """Beside the command that receives it; kombu's own transport uses eight."""
    from accession.tasks.broker import DEFAULT_QUEUE

    with app.connection_for_read() as connection, connection.channel() as channel:
        assert channel.basic_get(DEFAULT_QUEUE) is None, "opens the connection"
        app.send_task("test", task_id="the-task")
        with sent_commands(broker) as commands:
            message = channel.basic_get(DEFAULT_QUEUE)
            assert message is not None
            message.ack()
    assert broker.unacknowledged() == 0
    assert commands == DELIVERY_COMMANDS + Counter(rpop=1)


def test_message_of_closed_channel_is_delivered_again(broker: Broker, app: Celery) -> None:
    from accession.tasks.broker import DEFAULT_QUEUE

    app.send_task("test", task_id="the-task")
    with app.connection_for_read() as connection, connection.channel() as channel:
        assert channel.basic_get(DEFAULT_QUEUE) is not None
        assert broker.messages() == []
    (message,) = broker.messages()
    assert (message.id, broker.unacknowledged()) == ("the-task", 0)
    wait_until(lambda: not broker.redis.keys("unacked_index*"), "the index of deliveries is empty")


@pytest.mark.parametrize(
    ("url", "uses_tls"),
    [("redis://localhost/0", False), ("rediss://localhost/0?ssl_cert_reqs=required", True)],
)
def test_redis_urls_use_the_transport(url: str, uses_tls: bool, app: Celery) -> None:
    """With Celery's setting for a transport, kombu would ignore that the scheme asks for TLS."""
    from accession.tasks.transport import Transport

    connection = app.connection_for_write(url)
    assert isinstance(connection.transport, Transport)
    assert bool(connection.ssl) is uses_tls
