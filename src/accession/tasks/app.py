"""The Celery app: queues, promises, schedule. Importing this module needs a broker to be configured."""

from collections.abc import Mapping
from typing import Any

from celery import Celery
from celery.schedules import crontab
from celery.signals import setup_logging, worker_process_init
from kombu import Queue

from accession.core.errors import UserError
from accession.core.logging import set_up_logging
from accession.core.settings import Settings, get_settings
from accession.db.engine import forget_connections
from accession.tasks.heartbeats import HEARTBEAT_SECONDS

DEFAULT_QUEUE = "default"
APPLY_QUEUE = "apply"

MAX_RETRIES = 4
MAX_RETRY_AFTER_SECONDS = 900
# Before the task of a child that died runs again; Celery's default is three minutes.
LOST_CHILD_WAIT_SECONDS = 2
SOFT_TIME_LIMIT_SECONDS = 900
TIME_LIMIT_SECONDS = 960


# Beat forgets what it cannot send. While the broker is away it waits instead.
_OUTLASTING: Mapping[str, Any] = {
    "retry": True,
    "retry_policy": {"max_retries": None, "interval_start": 0.2, "interval_step": 0.5, "interval_max": 2},
}


def _schedule(settings: Settings) -> dict[str, Any]:
    every_five_minutes = 300.0
    starts = {
        "import-purchase-records": (
            "purchases.import_purchase_records_for_all_collections",
            crontab(hour=4, minute=0),
        ),
        "import-events": ("events.import_all_collections", crontab(minute=0)),
        "update-circulation": ("circulation.circulation_update_all_collections", crontab(hour=5, minute=0)),
        "publish-left-applies": ("apply.publish_left_applies", every_five_minutes),
        "resume-silent-runs": ("recovery.resume_silent_runs", every_five_minutes),
        "start-missed-runs": ("recovery.start_missed_runs", every_five_minutes),
    }
    workflows = {
        name: {"task": f"accession.tasks.{task}", "schedule": schedule, "options": _OUTLASTING}
        for name, (task, schedule) in starts.items()
    }
    exports = {
        f"export-{export.name}": {
            "task": "accession.tasks.exports.run_export",
            "args": (export.name,),
            "schedule": _moments(export.at),
            "options": _OUTLASTING,
        }
        for export in settings.exports
    }
    return workflows | exports


def _moments(at: str) -> crontab:
    if at == "hourly":
        return crontab(minute=0)
    hour, minute = map(int, at.split(":"))
    return crontab(hour=hour, minute=minute)


def longest_wait_seconds(settings: Settings) -> float:
    """The longest that a message may rightly stay with a worker: its last retry's wait, and its run."""
    last_backoff = settings.retry_backoff_seconds * (1 << (MAX_RETRIES - 1))
    return max(last_backoff, float(MAX_RETRY_AFTER_SECONDS)) + TIME_LIMIT_SECONDS


def _configuration(settings: Settings) -> dict[str, Any]:
    if settings.redis_url is None:
        raise UserError("No broker is running: start one with `accession up`, or set ACCESSION_REDIS_URL.")
    url = settings.redis_url.get_secret_value()
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
        # A message is done when its task is done: a lost worker's work is delivered again.
        "task_acks_late": True,
        "task_reject_on_worker_lost": True,
        # Counts a lost child as a retry; without it a task that kills its child comes back for ever.
        "task_retry_on_worker_lost": True,
        "worker_prefetch_multiplier": 1,
        "worker_pool": "accession.tasks.pool:TaskPool",
        "task_soft_time_limit": SOFT_TIME_LIMIT_SECONDS,
        "task_time_limit": TIME_LIMIT_SECONDS,
        "broker_connection_retry_on_startup": True,
        "broker_transport_options": {
            # Shorter than a wait, and copies of a task would run side by side.
            "visibility_timeout": max(3600, longest_wait_seconds(settings) + 600),
            # kombu looks for timed-out messages only every hundredth time otherwise.
            "unacked_restore_throttle": 1,
        },
        # Whoever publishes outlasts an outage itself: kombu's own retries can use a channel that they have
        # closed, and fail with an AttributeError.
        "task_publish_retry": False,
        "beat_schedule": _schedule(settings),
        "beat_scheduler": "accession.tasks.alive:Scheduler",
        "beat_max_loop_interval": HEARTBEAT_SECONDS,
    }


app = Celery(
    "accession",
    include=[
        f"accession.tasks.{name}"
        for name in ("purchases", "events", "circulation", "apply", "recovery", "alive", "exports")
    ],
)
app.conf.update(_configuration(get_settings()))


@setup_logging.connect  # type: ignore[untyped-decorator]
def _log_as_we_do(**_: Any) -> None:
    set_up_logging(get_settings())


@worker_process_init.connect  # type: ignore[untyped-decorator]
def _leave_the_parents_connections(**_: Any) -> None:
    forget_connections()
