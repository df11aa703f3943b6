"""The Celery app: queues, delivery guarantees, time limits and schedule.

Importing this module raises `UserError` if no broker is configured.
"""

import logging
import sys
from collections.abc import Mapping
from typing import Any

from celery import Celery
from celery.schedules import crontab
from celery.signals import setup_logging, worker_process_init
from kombu import Queue

from accession.core.logging import configure_logging
from accession.core.redis_url import celery_url
from accession.core.settings import Settings, get_settings
from accession.db.engine import dispose_engine
from accession.tasks.broker import (
    APPLY_QUEUE,
    CHECK_SECONDS,
    DEFAULT_QUEUE,
    RESPONSE_SECONDS,
    broker_url,
    socket_options,
)
from accession.tasks.cron_schedule import CronSchedule
from accession.tasks.heartbeats import HEARTBEAT_SECONDS
from accession.tasks.run_details import RunLogHandler
from accession.tasks.transport import register_transport

MAX_RETRIES = 4
MAX_RETRY_AFTER_SECONDS = 900
# Delay before the task of a killed child process is retried; Celery's default is three minutes.
LOST_CHILD_WAIT_SECONDS = 2
SOFT_TIME_LIMIT_SECONDS = 900
TIME_LIMIT_SECONDS = 960
# With the default of 5 ms, a thread that has received a response often waits that long for its turn.
_THREAD_SWITCH_SECONDS = 0.0005

# Beat drops what it cannot publish. With these options it waits for the broker instead.
_RETRY_PUBLISHING: Mapping[str, Any] = {
    "retry": True,
    "retry_policy": {"max_retries": None, "interval_start": 0.2, "interval_step": 0.5, "interval_max": 2},
}
# While no worker runs, only the messages of a few minutes are kept. The clocks of two machines may differ.
_MAINTENANCE_OPTIONS: Mapping[str, Any] = {**_RETRY_PUBLISHING, "expires": 300}
# The queue may be long. A message that is lost or late costs no run: the next one starts all that is due.
_STARTER_OPTIONS: Mapping[str, Any] = {**_RETRY_PUBLISHING, "expires": 3600}


def _schedule(settings: Settings) -> dict[str, Any]:
    every_five_minutes = 300.0
    every_minute = crontab()
    workflows = {"start-due-runs": ("schedules.start_due_runs", every_minute)}
    maintenance = {
        "publish-stale-applies": ("apply.publish_stale_applies", every_five_minutes),
        "resume-lost-work": ("recovery.resume_lost_work", 60.0),
        "resume-stalled-runs": ("recovery.resume_stalled_runs", every_five_minutes),
        "send-digests": ("digests.send_digests", every_minute),
        "update-titles-on-order": ("on_order.update_titles_on_order", every_five_minutes),
        "roll-up-circulation-events": ("statistics.roll_up_circulation_events", every_five_minutes),
        "refresh-statistics": ("statistics.refresh_statistics", every_five_minutes),
        "prune-old-rows": ("retention.prune_old_rows", 900.0),
    }
    tasks = {
        name: {"task": f"accession.tasks.{task}", "schedule": schedule, "options": options}
        for entries, options in ((workflows, _STARTER_OPTIONS), (maintenance, _MAINTENANCE_OPTIONS))
        for name, (task, schedule) in entries.items()
    }
    exports = {
        f"export-{export.name}": {
            "task": "accession.tasks.exports.run_export",
            "args": (export.name,),
            "schedule": CronSchedule(export.cron(settings.time_zone)),
            "options": _RETRY_PUBLISHING,
        }
        for export in settings.exports
    }
    return tasks | exports


def longest_step_seconds(settings: Settings) -> float:
    """Return the longest time in which a worker may keep a step's message without an acknowledgement.

    This is the wait before the last retry plus the time limit.
    """
    last_backoff = settings.retry_backoff_seconds * (1 << (MAX_RETRIES - 1))
    return max(last_backoff, float(MAX_RETRY_AFTER_SECONDS)) + TIME_LIMIT_SECONDS


def _configuration(settings: Settings) -> dict[str, Any]:
    url = celery_url(broker_url(settings))
    return {
        "broker_url": url,
        "result_backend": url,
        "result_expires": 24 * 60 * 60,
        "accept_content": ["json"],
        "task_serializer": "json",
        "result_serializer": "json",
        "timezone": settings.time_zone,
        "task_queues": [Queue(DEFAULT_QUEUE), Queue(APPLY_QUEUE)],
        "task_default_queue": DEFAULT_QUEUE,
        "task_routes": {
            f"accession.tasks.apply.{name}": {"queue": APPLY_QUEUE}
            for name in ("bibliographic_apply", "circulation_apply")
        },
        # Acknowledge after the task, so that the message of a lost worker is delivered again.
        "task_acks_late": True,
        "task_reject_on_worker_lost": True,
        # Count a lost child process as a retry; otherwise a task that kills its process is retried for ever.
        "task_retry_on_worker_lost": True,
        "worker_prefetch_multiplier": 1,
        "worker_pool": "accession.tasks.pool:TaskPool",
        "task_soft_time_limit": SOFT_TIME_LIMIT_SECONDS,
        "task_time_limit": TIME_LIMIT_SECONDS,
        "broker_connection_retry_on_startup": True,
        "broker_transport_options": {
            # If this were shorter than a step may take, the step's message would be delivered twice.
            "visibility_timeout": max(3600, longest_step_seconds(settings) + 600),
            # Look for timed-out messages every time; kombu's default is every hundredth time.
            "unacked_restore_throttle": 1,
            # Without these, a connection that has fallen silent is waited for until the worker is restarted.
            "socket_timeout": RESPONSE_SECONDS,
            "health_check_interval": CHECK_SECONDS,
            **socket_options(),
        },
        "redis_socket_timeout": RESPONSE_SECONDS,
        "redis_socket_keepalive": True,
        # `retry_while_unavailable` does this. kombu's own retries can use a channel that they have closed,
        # and fail with an AttributeError.
        "task_publish_retry": False,
        "beat_schedule": _schedule(settings),
        "beat_scheduler": "accession.tasks.heartbeat_steps:Scheduler",
        "beat_max_loop_interval": HEARTBEAT_SECONDS,
    }


register_transport()
app = Celery(
    "accession",
    include=[
        f"accession.tasks.{name}"
        for name in (
            *(
                "purchases",
                "events",
                "circulation",
                "verification",
                "backfill",
                "apply",
                "exports",
                "rejected_records",
            ),
            *("recovery", "heartbeat_steps", "on_order", "schedules", "statistics", "retention", "digests"),
            "process_shutdown",
        )
    ],
)
app.conf.update(_configuration(get_settings()))


@setup_logging.connect  # type: ignore[untyped-decorator]
def _configure_worker_logging(**_: Any) -> None:
    configure_logging(get_settings())
    logging.getLogger().addHandler(RunLogHandler())


@worker_process_init.connect  # type: ignore[untyped-decorator]
def _prepare_child(**_: Any) -> None:
    dispose_engine()
    sys.setswitchinterval(_THREAD_SWITCH_SECONDS)
