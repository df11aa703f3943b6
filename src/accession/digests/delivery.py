"""Delivery of mails: each at most once, and its result in the log.

A mail is claimed before its delivery begins, and marked as being sent right before its text is
transmitted. If the process dies before that, another sends the mail after some minutes. If it dies after
that, nobody can know whether the server has accepted the mail: it becomes unconfirmed, and is not sent again.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import structlog
from sqlalchemy import ColumnElement, func, select, true, update
from sqlalchemy.orm import Session

from accession.accounts.collections import get_collection
from accession.auth.audit import Actor
from accession.core.clock import utc_now
from accession.core.settings import get_settings
from accession.core.smtp_url import parse_smtp_url
from accession.db.due_rows import WaitingMessages, claim_first_due, is_due, retry_delay
from accession.db.engine import transaction
from accession.db.models import Collection, Digest, DigestIssue, DigestMail, MailState
from accession.digests.content import DigestContent
from accession.digests.issues import IssueView, get_issue_view, store_manual_issue
from accession.digests.mails import build_mail
from accession.digests.smtp import (
    MailConnection,
    MailError,
    MailRejected,
    MailUnconfirmed,
    ServerUnavailable,
)
from accession.digests.views import NO_MAIL_SERVER
from accession.notifications.events import record_digest_mail

log = structlog.get_logger(__name__)

# Longer than a mail takes to be sent: each response of the server takes ten seconds at most.
CLAIM = timedelta(minutes=5)
GIVE_UP_AFTER = timedelta(days=3)
"""A mail server that is down on a weekend still delivers on Monday."""
REPORTED_TRIES = 5
"""Number of tries after which a mail is reported to the notifications: after a quarter of an hour."""

# A person waits for it.
_SEND_NOW_SECONDS = 15.0
_ENDED_WHILE_SENDING = (
    "The process ended while it was sending the mail, which the mail server may have delivered: ask the "
    "recipient, and send it again if it is missing."
)


@dataclass(frozen=True)
class _Claim:
    """A mail that this process may send."""

    id: int
    collection_id: int
    recipient: str
    tries: int
    message_id: str
    created_at: datetime
    content: DigestContent


def send_now(actor: Actor, collection_id: int, recipients: Sequence[str] = ()) -> IssueView:
    """Make an issue of the last day or week, mail it, and return it with the results.

    It goes to the recipients of the digest, or to others. A mail that cannot be sent now is tried again.

    Raises:
        NotFound: there is no such collection, or it has no digest.
        InvalidInput: there is no recipient, or an address is invalid.
    """
    with transaction() as session:
        collection = get_collection(session, collection_id)
        issue_id = store_manual_issue(session, actor, collection, recipients)
    deliver_due_mails(issue_id=issue_id, seconds=_SEND_NOW_SECONDS)
    with transaction() as session:
        return get_issue_view(session, issue_id)


def deliver_due_mails(*, issue_id: int | None = None, seconds: float | None = None) -> int:
    """Send the mails that are due, of all issues or of one; return how many were sent.

    With `seconds` no further mail is begun later than that; the next call continues. If the mail server is
    unavailable, all mails wait for it, one minute at first and then longer.
    """
    deadline = None if seconds is None else time.monotonic() + seconds
    _end_unconfirmed()
    claim = _claim_next(issue_id)
    sent = 0
    if claim is None:
        return sent
    try:
        url, sender = get_settings().smtp_url, get_settings().mail_from
        if url is None or sender is None:
            raise ServerUnavailable(NO_MAIL_SERVER)
        with MailConnection(parse_smtp_url(url)) as connection:
            while claim is not None:
                sent += _send(connection, sender, claim)
                is_over = deadline is not None and time.monotonic() >= deadline
                claim = None if is_over else _claim_next(issue_id)
    except ServerUnavailable as error:
        log.warning("mail server unavailable", reason=str(error))
        _postpone(str(error), claim, issue_id)
    return sent


def count_waiting(session: Session) -> dict[str, WaitingMessages]:
    """Return the mails that wait to be sent, by the name of their collection, for all with a digest."""
    waiting = (
        select(
            DigestIssue.collection_id,
            func.count().label("number"),
            func.min(DigestIssue.created_at).label("oldest"),
        )
        .join(DigestMail, DigestMail.issue_id == DigestIssue.id)
        .where(DigestMail.state.in_([MailState.PENDING, MailState.SENDING]))
        .group_by(DigestIssue.collection_id)
        .subquery()
    )
    query = (
        select(Collection.name, func.coalesce(waiting.c.number, 0), waiting.c.oldest)
        .join(Digest, Digest.collection_id == Collection.id)
        .outerjoin(waiting, waiting.c.collection_id == Collection.id)
        .where(Collection.marked_for_deletion_at.is_(None))
    )
    return {name: WaitingMessages(number, oldest) for name, number, oldest in session.execute(query)}


def _end_unconfirmed() -> None:
    """End the mails whose process has died while it was sending them."""
    query = select(DigestMail.id).where(DigestMail.state == MailState.SENDING, DigestMail.due_at <= utc_now())
    with transaction() as session:
        for mail_id in session.scalars(query.with_for_update(skip_locked=True)).all():
            _record(session, mail_id, MailState.UNCONFIRMED, _ENDED_WHILE_SENDING)


def _claim_next(issue_id: int | None) -> _Claim | None:
    """Claim the mail that is due for the longest time."""
    query = (
        select(DigestMail, DigestIssue)
        .join(DigestIssue, DigestMail.issue_id == DigestIssue.id)
        .join(Collection, DigestIssue.collection_id == Collection.id)
        .where(_is_of(issue_id), Collection.marked_for_deletion_at.is_(None))
    )
    with transaction() as session:
        row = claim_first_due(session, query, DigestMail, CLAIM)
        if row is None:
            return None
        mail, issue = row
        return _Claim(
            id=mail.id,
            collection_id=issue.collection_id,
            recipient=mail.recipient,
            tries=mail.tries,
            message_id=mail.message_id,
            created_at=issue.created_at,
            content=DigestContent.from_json(issue.content),
        )


def _is_of(issue_id: int | None) -> ColumnElement[bool]:
    return true() if issue_id is None else DigestMail.issue_id == issue_id


def _send(connection: MailConnection, sender: str, claim: _Claim) -> bool:
    """Send a mail, and record the result; return whether the server has accepted it.

    Raises:
        ServerUnavailable: the connection ended before the mail was sent.
    """
    mail = build_mail(
        claim.content,
        sender=sender,
        recipient=claim.recipient,
        message_id=claim.message_id,
        created_at=claim.created_at,
    )
    error: MailError | None = None
    state = MailState.SENT
    try:
        if not connection.send(sender, claim.recipient, mail, lambda: _mark_as_sending(claim)):
            return False
    except MailRejected as rejection:
        error = rejection
        state = MailState.FAILED if rejection.is_permanent else MailState.PENDING
    except MailUnconfirmed as doubt:
        error, state = doubt, MailState.UNCONFIRMED
    with transaction() as session:
        _record(session, claim.id, state, None if error is None else str(error))
    return error is None


def _mark_as_sending(claim: _Claim) -> bool:
    """Commit that the text is being sent from now on.

    Return False if the mail was deleted meanwhile, or if another process has claimed it.
    """
    statement = (
        update(DigestMail)
        .where(DigestMail.id == claim.id, DigestMail.tries == claim.tries)
        .where(DigestMail.state == MailState.PENDING)
        .values(state=MailState.SENDING, due_at=utc_now() + CLAIM)
        .returning(DigestMail.id)
    )
    with transaction() as session:
        return session.scalars(statement).one_or_none() is not None


def _postpone(error: str, claim: _Claim | None, issue_id: int | None) -> None:
    """Let all mails that are due wait for the mail server."""
    with transaction() as session:
        if claim is not None:
            _record(session, claim.id, MailState.PENDING, error)
        query = select(DigestMail).where(is_due(DigestMail, utc_now()), _is_of(issue_id))
        for mail in session.scalars(query.with_for_update(skip_locked=True)).all():
            mail.tries += 1
            _record(session, mail.id, MailState.PENDING, error)


def _record(session: Session, mail_id: int, state: MailState, error: str | None) -> None:
    """Store the result of a try; one that is not final is repeated later, but not for ever."""
    mail = session.get(DigestMail, mail_id)
    issue = None if mail is None else session.get(DigestIssue, mail.issue_id)
    if mail is None or issue is None:
        # The digest was removed meanwhile.
        return
    now = utc_now()
    if state is MailState.PENDING:
        mail.due_at = now + retry_delay(mail.tries)
        if mail.due_at > issue.created_at + GIVE_UP_AFTER:
            state = MailState.FAILED
    mail.state, mail.error = state.value, error
    mail.sent_at = now if state is MailState.SENT else None
    _log_result(mail, issue)
    is_reported = state is not MailState.PENDING or mail.tries == REPORTED_TRIES
    collection = session.get(Collection, issue.collection_id)
    if is_reported and collection is not None:
        record_digest_mail(session, collection, mail.recipient, error=error)


def _log_result(mail: DigestMail, issue: DigestIssue) -> None:
    fields: Mapping[str, object] = {
        "collection": issue.collection_id,
        "issue": issue.id,
        "mail": mail.id,
        "tries": mail.tries,
    }
    if mail.error is None:
        log.info("digest mail sent", **fields)
    else:
        log.warning("digest mail not sent", **fields, state=mail.state, reason=mail.error)
