"""Delivery: at least once, with back-off, without one channel blocking another."""

import signal
import subprocess
import sys
from collections.abc import Iterator
from datetime import timedelta

import pytest
import time_machine
from sqlalchemy import select
from sqlalchemy.orm import Session
from structlog.testing import capture_logs

from accession.core.settings import get_settings
from accession.db.due_rows import retry_delay
from accession.db.engine import transaction
from accession.db.models import Notification
from accession.notifications.channels import channel_views, get_channel, remove_channel
from accession.notifications.delivery import (
    MAX_TRIES,
    deliver_due_messages,
    notification_views,
)
from accession.notifications.incidents import apply_rules
from accession.notifications.problems import DiskSpace, MachineState
from accession.notifications.rules import find_rule, remove_rule
from tests.fixtures.factories import NOON, run_concurrently
from tests.fixtures.notifications import MailReceiver, WebhookReceiver, make_channel

MINUTE = timedelta(minutes=1)

# Ends as a process does that is killed after it has sent the message.
KILLED_DELIVERY = """
import os, signal
from accession.notifications import delivery

delivery._record_result = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
delivery.deliver_due_messages()
"""


def queue_message(percent: int = 1) -> None:
    """Queue a message to every channel: a disk has only a few percent of free space."""
    disk = DiskSpace(f"disk:{percent}", f"disk {percent}", percent)
    with transaction() as session:
        apply_rules(session, MachineState({}, (disk,)), NOON)


def deliver(after: timedelta = timedelta()) -> int:
    with time_machine.travel(NOON + after, tick=False):
        return deliver_due_messages()


@pytest.fixture(autouse=True)
def _at_noon(session: Session) -> Iterator[None]:
    with time_machine.travel(NOON, tick=False):
        yield


def test_due_message_is_sent_once_and_logged(session: Session, webhook: WebhookReceiver) -> None:
    make_channel(session, webhook.url)
    queue_message()
    assert (deliver(), deliver(), deliver(10 * MINUTE)) == (1, 0, 0)
    assert webhook.titles == ["Accession: Disk nearly full: disk 1"]
    assert webhook.last_body[1] == "Reason: 1 % are free, less than 10 %."
    (view,) = notification_views(session)
    assert (view.state, view.tries, view.error, view.due_at) == ("sent", 1, None, None)
    assert view.sent_at == NOON


def test_message_to_every_channel_is_sent(
    session: Session, webhook: WebhookReceiver, mail_server: MailReceiver
) -> None:
    make_channel(session, webhook.url)
    make_channel(session, mail_server.url, "mail")
    queue_message()
    assert deliver() == 2
    assert webhook.titles == [mail["Subject"] for mail in mail_server.mails]


def test_failed_message_is_sent_later(session: Session, webhook: WebhookReceiver) -> None:
    make_channel(session, webhook.url)
    queue_message()
    webhook.status = 503
    assert deliver() == 0
    (view,) = notification_views(session)
    assert (view.state, view.tries, view.due_at) == ("pending", 1, NOON + MINUTE)
    assert view.error is not None
    assert "status 503" in view.error
    session.rollback()
    webhook.status = 200
    assert (deliver(MINUTE / 2), deliver(MINUTE)) == (0, 1)
    (view,) = notification_views(session)
    assert (view.state, view.tries, view.error) == ("sent", 2, None)


def test_failed_channel_does_not_delay_another(
    session: Session, webhook: WebhookReceiver, mail_server: MailReceiver
) -> None:
    make_channel(session, webhook.url)
    make_channel(session, mail_server.url, "mail")
    for percent in (1, 2, 3):
        queue_message(percent)
    webhook.status = 500
    assert deliver() == 3
    assert (len(mail_server.mails), len(webhook.received)) == (3, 1)


def test_message_is_given_up_after_the_last_try(session: Session, webhook: WebhookReceiver) -> None:
    make_channel(session, webhook.url)
    queue_message()
    webhook.status = 500
    session.scalars(select(Notification)).one().tries = MAX_TRIES - 1
    session.commit()
    with capture_logs() as lines:
        deliver()
    (view,) = notification_views(session)
    assert (view.state, view.tries, view.due_at) == ("failed", MAX_TRIES, None)
    assert [line["event"] for line in lines] == ["notification given up"]
    session.rollback()
    assert deliver(timedelta(days=2)) == 0
    assert len(webhook.received) == 1
    assert channel_views(session)[0].last_state == "failed"


def test_retries_grow_to_an_hour_and_end_after_a_day() -> None:
    delays = [retry_delay(tries) for tries in range(1, MAX_TRIES)]
    assert delays[:3] == [MINUTE, 2 * MINUTE, 4 * MINUTE]
    assert delays == sorted(delays)
    assert delays[-1] == timedelta(hours=1)
    assert timedelta(hours=23) < sum(delays, timedelta()) < timedelta(hours=25)


def test_crash_between_sending_and_marking_sends_again(session: Session, webhook: WebhookReceiver) -> None:
    """A message may arrive twice, but is never lost."""
    make_channel(session, webhook.url)
    queue_message()
    settings = get_settings()
    assert settings.database_url is not None
    environment = {
        "ACCESSION_HOME": str(settings.home),
        "ACCESSION_DATABASE_URL": settings.database_url.get_secret_value(),
    }
    killed = subprocess.run([sys.executable, "-c", KILLED_DELIVERY], env=environment, check=False)
    assert killed.returncode == -signal.SIGKILL
    assert len(webhook.received) == 1
    (view,) = notification_views(session)
    assert (view.state, view.tries) == ("pending", 1)
    assert view.due_at is not None
    session.rollback()
    after = view.due_at - NOON
    assert (deliver(after - MINUTE), deliver(after)) == (0, 1)
    assert len(webhook.received) == 2
    assert notification_views(session)[0].state == "sent"


def test_several_processes_send_each_message_once(session: Session, webhook: WebhookReceiver) -> None:
    make_channel(session, webhook.url)
    for number in range(9):
        queue_message(number)
    run_concurrently(*[deliver_due_messages] * 3)
    assert sorted(webhook.titles) == [f"Accession: Disk nearly full: disk {number}" for number in range(9)]
    assert {view.state for view in notification_views(session)} == {"sent"}


def test_removed_channel_or_rule_discards_its_messages(session: Session, webhook: WebhookReceiver) -> None:
    channel = make_channel(session, webhook.url)
    make_channel(session, webhook.url, "second")
    queue_message()
    remove_channel(session, get_channel(session, channel.id))
    remove_rule(session, find_rule(session, "second").id)
    session.commit()
    assert deliver() == 0
    assert notification_views(session) == []


def test_undecryptable_url_is_an_error_of_the_message(session: Session, webhook: WebhookReceiver) -> None:
    channel = make_channel(session, webhook.url)
    queue_message()
    channel.url_encrypted = b"nonsense"
    session.commit()
    assert deliver() == 0
    (view,) = notification_views(session)
    assert view.error is not None
    assert view.error.startswith('The URL of notification channel "ops" was encrypted with another key')


def test_log_is_filtered_and_continued(session: Session, webhook: WebhookReceiver) -> None:
    make_channel(session, webhook.url)
    make_channel(session, webhook.url, "second")
    queue_message(1)
    deliver()
    queue_message(2)
    assert {view.title for view in notification_views(session, state="pending")} == {
        "Accession: Disk nearly full: disk 2"
    }
    assert {view.channel for view in notification_views(session, channel="second")} == {"second"}
    everything = notification_views(session)
    assert notification_views(session, before_id=everything[1].id, limit=1) == [everything[2]]
