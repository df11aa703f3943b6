"""The Celery app's configuration: queues, schedule, delivery, time limits."""

import json
import os
import signal
import socket
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from socket import TCP_KEEPIDLE, TCP_USER_TIMEOUT

import pytest
import time_machine
from celery import Celery
from celery.beat import Scheduler
from pydantic import SecretStr
from redis import Redis

from accession.core.errors import UserError
from accession.core.redis_url import celery_url
from accession.core.settings import Settings
from accession.local.home import prepare_home
from accession.local.valkey import EmbeddedValkey
from accession.tasks.broker import RESPONSE_SECONDS, redis_client
from tests.fixtures.broker import Broker
from tests.fixtures.factories import BackgroundThread, day
from tests.fixtures.machine import free_port
from tests.fixtures.waiting import wait_until


def test_scheduled_tasks_exist_and_have_a_queue(app: Celery) -> None:
    app.loader.import_default_modules()
    scheduled = {entry["task"] for entry in app.conf.beat_schedule.values()}
    assert scheduled <= app.tasks.keys()
    assert {queue.name for queue in app.conf.task_queues} == {"default", "apply"}
    for name in ("bibliographic_apply", "circulation_apply"):
        assert app.amqp.router.route({}, f"accession.tasks.apply.{name}")["queue"].name == "apply"
    for name in scheduled:
        assert app.amqp.router.route({}, name)["queue"].name == "default"


@pytest.fixture
def tcp_url(queues: Redis) -> Iterator[str]:
    """The URL of the broker, which also listens on a port."""
    port, password = free_port(), queues.get_connection_kwargs()["password"]
    queues.config_set("bind", "127.0.0.1")
    queues.config_set("port", port)
    yield f"redis://:{password}@127.0.0.1:{port}/0"
    queues.config_set("port", 0)


def test_connections_notice_that_the_broker_has_disappeared(app: Celery, tcp_url: str) -> None:
    from accession.tasks.app import _configuration

    remote = Celery("remote", set_as_current=False)
    remote.conf.update(_configuration(Settings(redis_url=SecretStr(tcp_url))))
    with remote.connection_for_read() as connection, connection.channel() as channel:
        connections = [
            client.connection_pool.get_connection() for client in (channel.client, remote.backend.client)
        ]
        sockets = [each._sock for each in connections]
        assert [each.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) for each in sockets] == [1, 1]
        options = [
            sockets[0].getsockopt(socket.IPPROTO_TCP, name) for name in (TCP_KEEPIDLE, TCP_USER_TIMEOUT)
        ]
        assert options == [10, 25_000]
        assert [each.gettimeout() for each in sockets] == [RESPONSE_SECONDS, RESPONSE_SECONDS]
        for used in connections:
            used.disconnect()


def test_due_task_is_published_after_broker_outage(app: Celery, tmp_path: Path) -> None:
    prepare_home(tmp_path)
    broker = EmbeddedValkey(tmp_path, durable=False)
    broker.start()
    try:
        with Celery("schedule", broker=celery_url(broker.url), set_as_current=False) as schedule:
            schedule.conf.update(task_ignore_result=True, task_publish_retry=False)
            schedule.conf.beat_schedule = app.conf.beat_schedule
            scheduler = Scheduler(app=schedule)
            entry = scheduler.schedule["start-due-runs"]
            scheduler.apply_entry(entry, producer=scheduler.producer)
            assert broker.pid is not None
            os.kill(broker.pid, signal.SIGKILL)
            wait_until(lambda: not broker.is_alive(), "the broker has ended")
            tick = BackgroundThread(lambda: scheduler.apply_entry(entry, producer=scheduler.producer))
            broker.ensure_running()
            tick.finish()
            with redis_client(broker.url) as client:
                assert client.llen("celery") == 2
    finally:
        broker.stop()


def test_messages_of_periodic_tasks_expire(app: Celery, broker: Broker) -> None:
    """While no worker runs they must not pile up. A long queue must not make all starts expire."""
    scheduler = Scheduler(app=app, lazy=True)
    scheduler.merge_inplace(app.conf.beat_schedule)
    now = day(2014, 1, 4)
    with time_machine.travel(now, tick=False):
        for entry in scheduler.schedule.values():
            scheduler.apply_entry(entry)
    expiries = {
        headers["task"].rpartition(".")[2]: headers["expires"]
        for headers in (json.loads(message)["headers"] for message in broker.raw_messages())
    }
    soon = (now + timedelta(minutes=5)).isoformat()
    assert expiries == {
        "start_due_runs": (now + timedelta(hours=1)).isoformat(),
        "publish_stale_applies": soon,
        "resume_lost_work": soon,
        "resume_stalled_runs": soon,
        "send_digests": soon,
        "roll_up_circulation_events": soon,
        "refresh_statistics": soon,
        "prune_old_rows": soon,
        "update_titles_on_order": soon,
    }


def test_visibility_timeout_exceeds_the_longest_step(app: Celery) -> None:
    from accession.tasks.app import _configuration

    for backoff in (0, 60, 600):
        settings = Settings(redis_url=SecretStr("redis://127.0.0.1:1/0"), retry_backoff_seconds=backoff)
        configuration = _configuration(settings)
        visibility_timeout = configuration["broker_transport_options"]["visibility_timeout"]
        assert visibility_timeout > max(8 * backoff, 900) + configuration["task_time_limit"]
        assert configuration["task_soft_time_limit"] < configuration["task_time_limit"]


def test_messages_are_json_and_acknowledged_late(app: Celery) -> None:
    assert app.conf.accept_content == ["json"]
    assert app.conf.task_serializer == app.conf.result_serializer == "json"
    assert app.conf.task_acks_late
    assert app.conf.task_reject_on_worker_lost
    assert app.conf.worker_prefetch_multiplier == 1
    assert app.conf.result_expires == 24 * 60 * 60


def test_missing_broker_error_says_how_to_start_one(app: Celery) -> None:
    from accession.tasks.app import _configuration

    with pytest.raises(UserError, match="accession up"):
        _configuration(Settings(redis_url=None))
