"""The task that makes and mails digests: once, after a crash and when its message is delivered twice."""

from typing import Any

import pytest
import time_machine
from sqlalchemy.orm import Session

from accession.db.models import Collection
from tests.fixtures.broker import Broker, Message
from tests.fixtures.digests import MailServer, issues_of, make_digest, smtp, use_mail_server
from tests.fixtures.factories import day, run_concurrently

__all__ = ["smtp"]

MONDAY = day(2024, 4, 29, 7)


@pytest.fixture(autouse=True)
def digest(session: Session, collection: Collection) -> None:
    """A weekly digest that is due on Monday at 07:00."""
    with time_machine.travel(day(2024, 4, 24), tick=False):
        make_digest(session, collection, time_zone="UTC", send_empty=True)


def deliver(broker: Broker, *, redelivered: bool = False) -> Any:
    """Deliver the message of the task on Monday at 07:00."""
    from accession.tasks.digests import send_digests

    message = Message(send_digests.name, "task-id", [], {}, 0, None)
    with time_machine.travel(MONDAY, tick=False):
        return broker.deliver(message, redelivered=redelivered)


def test_message_delivered_twice_sends_one_mail(
    broker: Broker, smtp: MailServer, collection: Collection
) -> None:
    assert [deliver(broker), deliver(broker, redelivered=True)] == [1, 0]
    assert len(smtp.mails) == len(issues_of(collection)) == 1


def test_concurrent_deliveries_send_one_mail(
    broker: Broker, smtp: MailServer, collection: Collection
) -> None:
    from accession.tasks.digests import send_digests

    with time_machine.travel(MONDAY, tick=False):
        run_concurrently(send_digests, send_digests, send_digests)
    assert len(smtp.mails) == len(issues_of(collection)) == 1


def test_crash_between_issue_and_mail_sends_it_once_later(
    broker: Broker, smtp: MailServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(**_: object) -> int:
        raise RuntimeError("the process is killed")

    with monkeypatch.context() as patch:
        patch.setattr("accession.tasks.digests.deliver_due_mails", die)
        assert isinstance(deliver(broker), RuntimeError)
    assert [deliver(broker, redelivered=True), deliver(broker)] == [1, 0]
    assert len(smtp.mails) == 1


def test_mail_server_that_is_down_fails_no_task(
    broker: Broker, collection: Collection, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_mail_server(monkeypatch, "smtp://127.0.0.1:9")
    assert deliver(broker) == 0
    (issue,) = issues_of(collection)
    assert [mail.state for mail in issue.mails] == ["pending"]
