"""The notifier: a thread of the scheduler and of the web server that applies the rules and sends messages.

It runs in both processes, because a missing worker cannot report itself, and neither can a missing scheduler.
Both do the same; the database makes sure that each message is queued once. No worker sends messages, so that
a slow service never delays an import.
"""

import socket
from collections.abc import Mapping
from datetime import datetime, timedelta

import psutil
from redis.exceptions import RedisError

from accession.core.clock import utc_now
from accession.core.settings import get_settings
from accession.db.engine import transaction
from accession.notifications.delivery import deliver_due_messages
from accession.notifications.incidents import apply_rules
from accession.notifications.kinds import EventKind
from accession.notifications.problems import DiskSpace, MachineState, Problem
from accession.tasks.background import run_in_background
from accession.tasks.heartbeats import read_heartbeats

INTERVAL_SECONDS = 15.0
# A restart of a process takes less.
GRACE = timedelta(minutes=2)

_BROKER, _WORKER, _SCHEDULER = "broker", "worker", "scheduler"
_REASONS: Mapping[str, str] = {
    _BROKER: "The broker (Valkey or Redis) does not respond, so no task can be started.",
    _WORKER: "No worker has sent a heartbeat for more than two minutes, so nothing is imported.",
    _SCHEDULER: "The scheduler (beat) has not checked its schedule for more than two minutes, so no "
    "scheduled run is started.",
}


class Notifier:
    """Applies the rules and sends what is due.

    It remembers since when a process has been missing.
    """

    def __init__(self) -> None:
        self._missing_since: dict[str, datetime] = {}

    def run_once(self) -> None:
        """Apply the rules, and send every message that is due."""
        now = utc_now()
        machine = MachineState(self._check_processes(now), _disks())
        with transaction() as session:
            apply_rules(session, machine, now)
        deliver_due_messages()

    def _check_processes(self, now: datetime) -> dict[str, Problem | None]:
        """Return the missing processes by key, None for those that run; others are not known yet."""
        states: dict[str, Problem | None] = {}
        for name, is_missing in _find_missing().items():
            key = f"process:{name}"
            if not is_missing:
                self._missing_since.pop(name, None)
                states[key] = None
                continue
            since = self._missing_since.setdefault(name, now)
            if now - since >= GRACE:
                reason = _REASONS[name]
                states[key] = Problem(key, EventKind.PROCESS_MISSING, name, reason, reason, since)
        return states


def _find_missing() -> dict[str, bool]:
    """Return which processes are missing; without the broker, nothing is known about the others."""
    try:
        heartbeats = read_heartbeats()
    except RedisError:
        return {_BROKER: True}
    return {_BROKER: False, _WORKER: not heartbeats.workers, _SCHEDULER: heartbeats.is_scheduler_overdue}


def _disks() -> tuple[DiskSpace, ...]:
    """Return the disk of the home, which a process with external servers may do without."""
    host, home = socket.gethostname(), get_settings().home
    if not home.exists():
        return ()
    usage = psutil.disk_usage(str(home))
    free = 100 * usage.free / (usage.used + usage.free)
    return (DiskSpace(f"disk:{host}:{home}", f"{home} on {host}", free),)


def start_notifier() -> None:
    """Start the notifier in a thread that ends with the process."""
    run_in_background("notifier", Notifier().run_once, INTERVAL_SECONDS)
