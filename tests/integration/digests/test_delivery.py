"""Delivery of digests to a mail server on this machine: each mail once, and its result in the log."""

from collections.abc import Callable
from datetime import date, timedelta
from email.message import EmailMessage

import pytest
import time_machine
from sqlalchemy import select
from sqlalchemy.orm import Session

from accession.accounts.collections import mark_for_deletion
from accession.core.clock import utc_now
from accession.core.settings import get_settings
from accession.db.due_rows import retry_delay
from accession.db.engine import transaction
from accession.db.models import Collection, DigestMail, MailState, NotificationEvent
from accession.digests.delivery import (
    CLAIM,
    GIVE_UP_AFTER,
    REPORTED_TRIES,
    deliver_due_mails,
    send_now,
)
from accession.digests.issues import MailView, store_manual_issue
from accession.digests.options import DigestOptions, remove_digest, set_digest
from accession.digests.views import get_digest_view
from tests.fixtures.digests import (
    ANN,
    RECIPIENT,
    SENDER,
    SMTP_PASSWORD,
    MailServer,
    issues_of,
    make_digest,
    use_mail_server,
)
from tests.fixtures.factories import run_concurrently
from tests.integration.digests.test_content import purchase

BOB = "bob@library.example"


def queue_mails(session: Session, collection: Collection, *recipients: str) -> None:
    """Store an issue whose mails are due."""
    make_digest(session, collection, recipients=recipients or (RECIPIENT,))
    with transaction() as other:
        store_manual_issue(other, ANN, collection)


def mails_of(collection: Collection) -> list[MailView]:
    return [mail for issue in issues_of(collection) for mail in issue.mails]


def states_of(collection: Collection) -> list[tuple[str, str, int]]:
    return [(mail.recipient, mail.state, mail.tries) for mail in mails_of(collection)]


def later(delay: timedelta) -> time_machine.travel:
    return time_machine.travel(utc_now() + delay + timedelta(seconds=1), tick=False)


def part(mail: EmailMessage, kind: str) -> str:
    """Return the text of the mail in plain text or HTML."""
    body = mail.get_body((kind,))
    assert body is not None
    text: str = body.get_content()
    return text


def events(session: Session) -> list[tuple[str, str]]:
    session.rollback()
    rows = session.scalars(select(NotificationEvent).order_by(NotificationEvent.id))
    return [(row.kind, row.key.rpartition(":")[2]) for row in rows]


def test_mail_has_text_html_and_headers_of_lists(
    session: Session, collection: Collection, smtp: MailServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(get_settings(), "public_url", "https://accession.library.example/")
    purchase(session, collection, "abc", date(2024, 4, 27))
    queue_mails(session, collection)
    assert deliver_due_mails() == 1
    (mail,) = smtp.mails
    settings_page = f"https://accession.library.example/collections/{collection.id}/digest"
    assert mail["From"] == f"Accession <{SENDER}>"
    assert mail["To"] == RECIPIENT
    assert smtp.recipients == [RECIPIENT]
    assert mail["Subject"].startswith(f"{collection.name}: no changes (")
    assert mail["Date"].datetime is not None
    assert mail["Message-ID"].endswith("@library.example>")
    assert mail["List-Id"] == f"<digest-{collection.id}.accession.library.example>"
    assert mail["List-Unsubscribe"] == f"<{settings_page}>"
    assert mail["Auto-Submitted"] == "auto-generated"
    assert mail.get_content_type() == "multipart/alternative"
    assert f"Change or unsubscribe: {settings_page}" in part(mail, "plain")
    assert f'href="{settings_page}"' in part(mail, "html")
    assert max(map(len, smtp.raw_mails[0].splitlines())) < 998


def test_long_urls_in_headers_are_not_encoded(
    session: Session, collection: Collection, smtp: MailServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Python's email package would encode them, and then no mail client finds the URL."""
    base = f"https://accession.{'county-' * 10}library.example/{'prefix/' * 10}"
    monkeypatch.setattr(get_settings(), "public_url", base)
    monkeypatch.setattr(get_settings(), "mail_from", f"accession@{'county-' * 8}library.example")
    queue_mails(session, collection)
    assert deliver_due_mails() == 1
    (raw,) = smtp.raw_mails
    assert f"\nList-Unsubscribe: <{base}collections/{collection.id}/digest>".encode() in raw
    assert f"\nList-Id: <digest-{collection.id}.accession.county-county-".encode() in raw


def test_each_recipient_gets_a_mail_of_its_own(
    session: Session, collection: Collection, smtp: MailServer
) -> None:
    queue_mails(session, collection, RECIPIENT, BOB)
    assert deliver_due_mails() == 2
    assert [mail["To"] for mail in smtp.mails] == [RECIPIENT, BOB]
    assert len({mail["Message-ID"] for mail in smtp.mails}) == 2
    assert deliver_due_mails() == 0
    assert states_of(collection) == [(RECIPIENT, "sent", 1), (BOB, "sent", 1)]


def test_mail_is_sent_once_by_concurrent_tasks(
    session: Session, collection: Collection, smtp: MailServer
) -> None:
    queue_mails(session, collection, RECIPIENT, BOB)
    run_concurrently(deliver_due_mails, deliver_due_mails, deliver_due_mails)
    assert sorted(smtp.recipients) == sorted([RECIPIENT, BOB])


class _Killed(BaseException):
    """The process is killed."""


def _die(*_: object, **__: object) -> None:
    raise _Killed


def test_crash_before_the_text_is_sent_sends_it_later(
    session: Session, collection: Collection, smtp: MailServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue_mails(session, collection)
    with monkeypatch.context() as patch:
        patch.setattr("accession.digests.delivery._mark_as_sending", _die)
        with pytest.raises(_Killed):
            deliver_due_mails()
    assert (deliver_due_mails(), smtp.mails) == (0, [])
    with later(CLAIM):
        assert deliver_due_mails() == 1
        assert deliver_due_mails() == 0
    assert len(smtp.mails) == 1


def test_crash_after_the_text_was_sent_sends_it_never_again(
    session: Session, collection: Collection, smtp: MailServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue_mails(session, collection)
    with monkeypatch.context() as patch:
        patch.setattr("accession.digests.delivery._record", _die)
        with pytest.raises(_Killed):
            deliver_due_mails()
    assert (len(smtp.mails), deliver_due_mails()) == (1, 0)
    with later(CLAIM):
        assert deliver_due_mails() == 0
    (mail,) = mails_of(collection)
    assert (len(smtp.mails), mail.state) == (1, "unconfirmed")
    assert "may have delivered" in (mail.error or "")
    assert events(session) == [("digest_failed", RECIPIENT)]


def test_connection_lost_before_reply_leaves_mail_unconfirmed(
    session: Session, collection: Collection, smtp: MailServer
) -> None:
    smtp.drops_connection = True
    queue_mails(session, collection)
    assert deliver_due_mails() == 0
    with later(CLAIM):
        deliver_due_mails()
    assert len(smtp.mails) == 1
    assert states_of(collection) == [(RECIPIENT, "unconfirmed", 1)]


def test_state_is_committed_before_the_server_has_the_mail(
    session: Session, collection: Collection, smtp: MailServer
) -> None:
    queue_mails(session, collection)
    states: list[str] = []

    def read_states() -> None:
        with transaction() as other:
            states.extend(other.scalars(select(DigestMail.state)))

    smtp.on_mail = read_states
    deliver_due_mails()
    assert states == ["sending"]


def test_temporary_rejection_is_retried_with_the_same_id(
    session: Session, collection: Collection, smtp: MailServer
) -> None:
    smtp.replies[RECIPIENT] = "451 greylisted"
    queue_mails(session, collection, RECIPIENT, BOB)
    assert deliver_due_mails() == 1
    first, second = mails_of(collection)
    assert (first.state, second.state) == ("pending", "sent")
    assert "451 greylisted" in (first.error or "")
    assert first.due_at is not None
    with transaction() as other:
        message_id = other.scalars(select(DigestMail.message_id).order_by(DigestMail.id)).first()
    smtp.replies.clear()
    with later(retry_delay(1)):
        assert deliver_due_mails() == 1
    assert smtp.mails[1]["Message-ID"] == f"<{message_id}@library.example>"
    assert mails_of(collection)[0].error is None


@pytest.mark.parametrize("replies", [{RECIPIENT: "550 no such user"}, {}])
def test_permanent_rejection_fails_and_is_reported(
    session: Session, collection: Collection, smtp: MailServer, replies: dict[str, str]
) -> None:
    smtp.replies = replies
    smtp.reply = "250 OK" if replies else "554 looks like spam"
    queue_mails(session, collection)
    assert deliver_due_mails() == 0
    with later(timedelta(days=1)):
        assert deliver_due_mails() == 0
    (mail,) = mails_of(collection)
    assert (mail.state, mail.due_at) == ("failed", None)
    assert (replies.get(RECIPIENT) or smtp.reply) in (mail.error or "")
    assert events(session) == [("digest_failed", RECIPIENT)]
    assert get_digest_view(session, collection).problem == mail.error


def test_mails_wait_for_a_server_that_is_down(
    session: Session, collection: Collection, smtp: MailServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_mail_server(monkeypatch, "smtp://127.0.0.1:9")
    queue_mails(session, collection, RECIPIENT, BOB)
    with later(timedelta()):
        assert deliver_due_mails() == 0
    assert states_of(collection) == [(RECIPIENT, "pending", 1), (BOB, "pending", 1)]
    assert "connection refused" in (mails_of(collection)[0].error or "")
    assert deliver_due_mails() == 0
    use_mail_server(monkeypatch, smtp.url)
    with later(retry_delay(1) + timedelta(seconds=5)):
        assert deliver_due_mails() == 2
    assert events(session) == [("recovered", RECIPIENT), ("recovered", BOB)]


def test_server_that_stays_down_is_reported_and_given_up(
    session: Session, collection: Collection, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_mail_server(monkeypatch, "smtp://127.0.0.1:9")
    queue_mails(session, collection)
    now = utc_now()
    for tries in range(1, REPORTED_TRIES + 1):
        with time_machine.travel(now, tick=False):
            deliver_due_mails()
        now += retry_delay(tries)
    assert events(session) == [("digest_failed", RECIPIENT)]
    with later(GIVE_UP_AFTER):
        deliver_due_mails()
    assert states_of(collection) == [(RECIPIENT, "failed", REPORTED_TRIES + 1)]


def test_mails_without_a_mail_server_say_what_to_set(session: Session, collection: Collection) -> None:
    queue_mails(session, collection)
    assert deliver_due_mails() == 0
    (mail,) = mails_of(collection)
    assert mail.state == "pending"
    assert "set ACCESSION_SMTP_URL and ACCESSION_MAIL_FROM" in (mail.error or "")


def test_login_is_used(
    session: Session, collection: Collection, smtp: MailServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_mail_server(monkeypatch, smtp.url_with_login)
    queue_mails(session, collection)
    assert deliver_due_mails() == 1


def test_rejected_password_is_not_in_the_error(
    session: Session, collection: Collection, smtp: MailServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_mail_server(monkeypatch, smtp.url_with_login.replace(SMTP_PASSWORD, "wrong-password"))
    queue_mails(session, collection)
    assert deliver_due_mails() == 0
    (mail,) = mails_of(collection)
    assert "rejects the user name or the password (535" in (mail.error or "")
    assert "wrong-password" not in (mail.error or "")


def test_password_is_not_sent_without_encryption(
    session: Session, collection: Collection, smtp: MailServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server counts as one of another machine, and offers no encryption."""
    monkeypatch.setattr("accession.core.smtp_url.is_loopback", lambda host: False)
    use_mail_server(monkeypatch, smtp.url_with_login)
    queue_mails(session, collection)
    assert deliver_due_mails() == 0
    assert "offers no encryption" in (mails_of(collection)[0].error or "")


def test_delivery_stops_at_its_deadline(session: Session, collection: Collection, smtp: MailServer) -> None:
    queue_mails(session, collection, RECIPIENT, BOB)
    assert [deliver_due_mails(seconds=0), deliver_due_mails(seconds=0)] == [1, 1]


def test_mail_of_removed_digest_is_not_sent(
    session: Session, collection: Collection, smtp: MailServer
) -> None:
    """The digest is removed while the mail server is asked to accept its recipient."""
    queue_mails(session, collection)

    class Remover:
        def __init__(self, mark: Callable[..., bool]) -> None:
            self._mark = mark

        def __call__(self, *arguments: object) -> bool:
            with transaction() as other:
                remove_digest(other, ANN, other.get_one(Collection, collection.id))
            return self._mark(*arguments)

    from accession.digests import delivery

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(delivery, "_mark_as_sending", Remover(delivery._mark_as_sending))
        assert deliver_due_mails() == 0
    assert smtp.mails == []


def test_collection_marked_for_deletion_gets_no_mail(
    session: Session, collection: Collection, smtp: MailServer
) -> None:
    queue_mails(session, collection)
    mark_for_deletion(collection)
    session.commit()
    assert (deliver_due_mails(), smtp.mails) == (0, [])


def test_removed_recipient_gets_no_mail_that_waits(
    session: Session, collection: Collection, smtp: MailServer
) -> None:
    queue_mails(session, collection, RECIPIENT, BOB)
    with transaction() as other:
        set_digest(other, ANN, other.get_one(Collection, collection.id), DigestOptions(recipients=(BOB,)))
    assert deliver_due_mails() == 1
    assert smtp.recipients == [BOB]
    assert ("recovered", RECIPIENT) in events(session)


def test_digest_is_sent_now_to_another_address(
    session: Session, collection: Collection, smtp: MailServer
) -> None:
    queue_mails(session, collection)
    issue = send_now(ANN, collection.id, [BOB])
    assert [(mail.recipient, mail.state) for mail in issue.mails] == [(BOB, MailState.SENT)]
    assert smtp.recipients == [BOB]
