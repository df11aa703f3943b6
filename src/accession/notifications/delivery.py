"""Delivery of queued messages, at least once, and the delivery log.

A message is claimed before it is sent (`accession.db.due_rows`). If the process dies before it can record the
result, the message is due again later, and is sent a second time.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

import structlog
from pydantic import SecretStr
from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from accession.accounts.keys import decrypt_channel_url
from accession.core.clock import utc_now
from accession.core.errors import UserError
from accession.db.due_rows import WaitingMessages, claim_first_due, retry_delay
from accession.db.engine import transaction
from accession.db.models import DeliveryState, Notification, NotificationChannel
from accession.notifications.channels import get_channel
from accession.notifications.messages import TEST_KIND, Item, Message, write_message
from accession.notifications.services import send

log = structlog.get_logger(__name__)

# Longer than a message takes to be sent.
CLAIM = timedelta(minutes=2)
# With the delays of `retry_delay`, the last try is a day after the first.
MAX_TRIES = 29


@dataclass(frozen=True)
class NotificationView:
    """A message of the delivery log.

    `due_at` is the time of the next try; None if there is none.
    """

    id: int
    channel: str
    rule: str | None
    kind: str
    severity: str
    title: str
    body: str
    problems: int
    state: str
    tries: int
    error: str | None
    created_at: datetime
    due_at: datetime | None
    sent_at: datetime | None


@dataclass(frozen=True)
class _Claim:
    """A message that this process may send; `url` is the error instead if it cannot be decrypted."""

    id: int
    channel_id: int
    channel: str
    tries: int
    message: Message
    url: SecretStr | UserError


def notification_views(
    session: Session,
    *,
    state: str | None = None,
    channel: str | None = None,
    before_id: int | None = None,
    limit: int | None = None,
) -> list[NotificationView]:
    """Return the matching messages, newest first; `before_id` continues an earlier listing."""
    query = select(Notification).order_by(Notification.id.desc()).limit(limit)
    if state is not None:
        query = query.where(Notification.state == state)
    if channel is not None:
        query = query.where(Notification.channel == channel)
    if before_id is not None:
        query = query.where(Notification.id < before_id)
    return [_view(notification) for notification in session.scalars(query)]


def _view(row: Notification) -> NotificationView:
    message = _write(row)
    return NotificationView(
        id=row.id,
        channel=row.channel,
        rule=row.rule,
        kind=row.kind,
        severity=row.severity,
        title=message.title,
        body=message.body,
        problems=len(row.items),
        state=row.state,
        tries=row.tries,
        error=row.error,
        created_at=row.created_at,
        due_at=row.due_at if row.state == DeliveryState.PENDING else None,
        sent_at=row.sent_at,
    )


def _write(row: Notification) -> Message:
    return write_message(row.kind, [Item.from_json(item) for item in row.items], row.cause)


def count_waiting(session: Session) -> dict[str, WaitingMessages]:
    """Return the messages that wait to be sent, by the name of their channel.

    Those that are held back, as in quiet hours, do not count.
    """
    waits = (Notification.state == DeliveryState.PENDING) & (
        (Notification.tries > 0) | (Notification.due_at <= utc_now())
    )
    query = (
        select(NotificationChannel.name, func.count(Notification.id), func.min(Notification.created_at))
        .outerjoin(Notification, (Notification.channel_id == NotificationChannel.id) & waits)
        .group_by(NotificationChannel.name)
    )
    return {name: WaitingMessages(number, oldest) for name, number, oldest in session.execute(query)}


def send_test(channel_id: int) -> str | None:
    """Send a test message now, and record it in the delivery log; return why that failed, or None.

    Raises:
        NotFound: there is no such channel.
        UserError: its URL cannot be decrypted.
    """
    with transaction() as session:
        channel = get_channel(session, channel_id)
        name, url = channel.name, decrypt_channel_url(channel)
    error = send(url, write_message(TEST_KIND, ()))
    now = utc_now()
    test = Notification(
        channel_id=channel_id,
        channel=name,
        kind=TEST_KIND,
        severity="",
        cause="",
        items=[],
        state=(DeliveryState.SENT if error is None else DeliveryState.FAILED).value,
        tries=1,
        error=error,
        created_at=now,
        due_at=now,
        sent_at=now if error is None else None,
    )
    with transaction() as session:
        session.add(test)
    return error


def deliver_due_messages() -> int:
    """Send every message that is due; return how many were sent.

    A channel that fails is not tried again by this call.
    """
    sent, failed_channels = 0, set[int]()
    while (claim := _claim_next(failed_channels)) is not None:
        error = str(claim.url) if isinstance(claim.url, UserError) else send(claim.url, claim.message)
        _record_result(claim, error)
        if error is None:
            sent += 1
        else:
            failed_channels.add(claim.channel_id)
    return sent


def _claim_next(without_channels: set[int]) -> _Claim | None:
    """Claim the message that is due for the longest time."""
    query = select(Notification, NotificationChannel).join(NotificationChannel)
    query = query.where(Notification.channel_id.not_in(without_channels))
    with transaction() as session:
        row = claim_first_due(session, query, Notification, CLAIM)
        if row is None:
            return None
        notification, channel = row
        return _Claim(
            notification.id,
            channel.id,
            channel.name,
            notification.tries,
            _write(notification),
            _decrypt(channel),
        )


def _decrypt(channel: NotificationChannel) -> SecretStr | UserError:
    try:
        return decrypt_channel_url(channel)
    except UserError as error:
        return error


def _record_result(claim: _Claim, error: str | None) -> None:
    now = utc_now()
    values: Mapping[str, object]
    if error is None:
        values = {"state": DeliveryState.SENT, "sent_at": now, "error": None}
        log.info("notification sent", channel=claim.channel, notification=claim.id)
    elif claim.tries < MAX_TRIES:
        values = {"due_at": now + retry_delay(claim.tries), "error": error}
        log.warning(
            "notification failed",
            channel=claim.channel,
            notification=claim.id,
            tries=claim.tries,
            reason=error,
        )
    else:
        values = {"state": DeliveryState.FAILED, "error": error}
        log.error("notification given up", channel=claim.channel, notification=claim.id, reason=error)
    with transaction() as session:
        session.execute(update(Notification).where(Notification.id == claim.id).values(**values))
