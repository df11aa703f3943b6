"""What the app promises: queues, schedule, time limits."""

import os
import signal
from datetime import datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from celery import Celery
from celery.beat import Scheduler
from pydantic import SecretStr
from redis import Redis

from accession.core.errors import UserError
from accession.core.settings import Settings
from accession.local.home import prepare_home
from accession.local.valkey import EmbeddedValkey
from tests.fixtures.factories import Job, day
from tests.fixtures.workers import eventually, today_is


def test_every_task_of_the_schedule_exists_and_so_does_its_queue(app: Celery) -> None:
    app.loader.import_default_modules()
    scheduled = {entry["task"] for entry in app.conf.beat_schedule.values()}
    assert scheduled <= app.tasks.keys()
    assert {queue.name for queue in app.conf.task_queues} == {"default", "apply"}
    for name in ("bibliographic_apply", "circulation_apply"):
        assert app.amqp.router.route({}, f"accession.tasks.apply.{name}")["queue"].name == "apply"
    for name in scheduled:
        assert app.amqp.router.route({}, name)["queue"].name == "default"


@pytest.mark.parametrize(
    ("what", "now", "due"),
    [
        ("import-purchase-records", day(2024, 1, 15), "2024-01-15T04:00+01:00"),
        ("import-purchase-records", day(2024, 7, 15), "2024-07-15T04:00+02:00"),
        ("import-purchase-records", day(2024, 7, 15, 2, 1), "2024-07-16T04:00+02:00"),
        ("import-events", day(2024, 7, 15, 2, 1), "2024-07-15T05:00+02:00"),
        ("update-circulation", day(2024, 7, 15, 2, 1), "2024-07-15T05:00+02:00"),
        ("update-circulation", day(2024, 1, 15, 4, 1), "2024-01-16T05:00+01:00"),
    ],
)
def test_workflows_begin_by_the_clock_where_the_library_is(
    what: str, now: datetime, due: str, app: Celery
) -> None:
    from accession.tasks.app import _configuration

    settings = Settings(redis_url=SecretStr("redis://127.0.0.1:1/0"), time_zone="Europe/Berlin")
    berlin = Celery("berlin", set_as_current=False)
    berlin.conf.update(_configuration(settings))
    scheduler = Scheduler(app=berlin, lazy=True)
    scheduler.merge_inplace(berlin.conf.beat_schedule)
    schedule = scheduler.schedule[what].schedule
    with today_is(now):
        wait = schedule.remaining_estimate(now.astimezone(ZoneInfo("Europe/Berlin")))
    assert abs(now + wait - datetime.fromisoformat(due)) < timedelta(seconds=5)


def test_what_is_due_while_the_broker_is_away_is_sent_when_it_is_back(app: Celery, tmp_path: Path) -> None:
    prepare_home(tmp_path)
    broker = EmbeddedValkey(tmp_path, durable=False)
    broker.start()
    try:
        with Celery("schedule", broker=broker.url, set_as_current=False) as schedule:
            schedule.conf.update(task_ignore_result=True, task_publish_retry=False)
            schedule.conf.beat_schedule = app.conf.beat_schedule
            scheduler = Scheduler(app=schedule)
            entry = scheduler.schedule["import-purchase-records"]
            scheduler.apply_entry(entry, producer=scheduler.producer)
            assert broker.pid is not None
            os.kill(broker.pid, signal.SIGKILL)
            eventually(lambda: not broker.alive(), "the broker is away")
            tick = Job(lambda: scheduler.apply_entry(entry, producer=scheduler.producer))
            broker.ensure_running()
            tick.finish()
            with Redis.from_url(broker.url) as client:
                assert client.llen("celery") == 2
    finally:
        broker.stop()


def test_no_message_is_given_to_a_second_worker_while_the_first_may_still_wait_or_work(app: Celery) -> None:
    from accession.tasks.app import _configuration

    for backoff in (0, 60, 600):
        settings = Settings(redis_url=SecretStr("redis://127.0.0.1:1/0"), retry_backoff_seconds=backoff)
        configuration = _configuration(settings)
        visible_again = configuration["broker_transport_options"]["visibility_timeout"]
        assert visible_again > max(8 * backoff, 900) + configuration["task_time_limit"]
        assert configuration["task_soft_time_limit"] < configuration["task_time_limit"]


def test_messages_are_json_acknowledged_late_and_taken_one_by_one(app: Celery) -> None:
    assert app.conf.accept_content == ["json"]
    assert app.conf.task_serializer == app.conf.result_serializer == "json"
    assert app.conf.task_acks_late
    assert app.conf.task_reject_on_worker_lost
    assert app.conf.worker_prefetch_multiplier == 1
    assert app.conf.result_expires == 24 * 60 * 60


def test_without_a_broker_a_person_is_told_how_to_get_one(app: Celery) -> None:
    from accession.tasks.app import _configuration

    with pytest.raises(UserError, match="accession up"):
        _configuration(Settings(redis_url=None))
