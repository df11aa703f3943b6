"""The notifier: missing processes, disk space, and delivery, in one round."""

from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import time_machine
from celery import Celery
from pydantic import SecretStr
from redis import Redis
from sqlalchemy.orm import Session

from accession.core.settings import get_settings, use_settings
from accession.notifications.delivery import notification_views
from tests.fixtures.factories import NOON
from tests.fixtures.heartbeats import record_heartbeats
from tests.fixtures.notifications import WebhookReceiver, make_channel, webhook

if TYPE_CHECKING:
    from accession.tasks.notifier import Notifier

__all__ = ["webhook"]

# Longer than a process may be missing.
LATER = timedelta(minutes=3)


@pytest.fixture
def notifier(app: Celery, session: Session, queues: Redis, webhook: WebhookReceiver) -> "Notifier":
    """A notifier with a channel."""
    from accession.tasks.notifier import Notifier

    with time_machine.travel(NOON, tick=False):
        make_channel(session, webhook.url)
    return Notifier()


def run(notifier: "Notifier", after: timedelta = timedelta()) -> None:
    with time_machine.travel(NOON + after, tick=False):
        notifier.run_once()


def test_missing_processes_are_reported_after_a_grace_period(
    notifier: "Notifier", queues: Redis, webhook: WebhookReceiver
) -> None:
    run(notifier)
    assert webhook.received == []
    run(notifier, LATER)
    run(notifier, 2 * LATER)
    assert webhook.titles == [
        "Accession: Process missing: worker",
        "Accession: Process missing: scheduler",
    ]
    assert webhook.last_body[2] == "Since: 2024-05-01 12:00 UTC"
    record_heartbeats(queues, "accession-1@a")
    run(notifier, 3 * LATER)
    run(notifier, 4 * LATER)
    assert webhook.titles[2:] == ["Accession: Recovered: 2 problems"]


def test_restarted_process_is_not_reported(
    notifier: "Notifier", queues: Redis, webhook: WebhookReceiver
) -> None:
    run(notifier)
    record_heartbeats(queues, "accession-1@a")
    run(notifier, LATER / 2)
    queues.flushall()
    run(notifier, LATER)
    assert webhook.received == []


def test_new_notifier_does_not_call_a_missing_process_recovered(
    notifier: "Notifier", webhook: WebhookReceiver
) -> None:
    """The other of the two processes that run a notifier has reported it."""
    from accession.tasks.notifier import Notifier

    run(notifier)
    run(notifier, LATER)
    run(Notifier(), LATER)
    assert len(webhook.received) == 2


def test_unavailable_broker_is_reported(
    notifier: "Notifier", webhook: WebhookReceiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    from accession.tasks import notifier as module

    # A port on which nothing listens.
    dead = Redis(host="127.0.0.1", port=1)
    monkeypatch.setattr("accession.tasks.heartbeats.broker_client", lambda: dead)
    run(notifier)
    run(notifier, module.GRACE)
    assert webhook.titles == ["Accession: Process missing: broker"]


def test_nearly_full_disk_of_the_home_is_reported(
    notifier: "Notifier", queues: Redis, webhook: WebhookReceiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    from psutil._ntuples import sdiskusage

    record_heartbeats(queues, "accession-1@a")
    monkeypatch.setattr("psutil.disk_usage", lambda path: sdiskusage(100, 95, 5, 95.0))
    run(notifier)
    (title,) = webhook.titles
    assert title.startswith(f"Accession: Disk nearly full: {get_settings().home} on ")
    assert webhook.last_body[1] == "Reason: 5 % are free, less than 10 %."


def test_process_without_a_home_reports_no_disk(
    notifier: "Notifier", queues: Redis, session: Session, tmp_path: Path
) -> None:
    record_heartbeats(queues, "accession-1@a")
    before = get_settings()
    key = SecretStr((before.home / "secret.key").read_text().strip())
    use_settings(before.model_copy(update={"home": tmp_path / "none", "secret_key": key}))
    try:
        run(notifier)
    finally:
        use_settings(before)
    assert notification_views(session) == []
