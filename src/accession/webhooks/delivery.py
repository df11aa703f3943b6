"""Delivery of stored events: at least once, and in order for each collection.

The events of a collection for a webhook are a queue. A process claims the first of them: it commits a later
due time, so that no other process sends them meanwhile. If it dies before it can record the results, they are
due again after that time, and some are sent a second time. An event that is not accepted is tried again
later, and holds back those behind it.

A transaction that commits late can add an event to a queue before one that has been sent. It is of another
title, because a transaction that changes a title has locked it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import takewhile
from uuid import uuid4

import httpx
import structlog
from pydantic import SecretStr
from sqlalchemy import ColumnElement, Select, exists, select, true, update
from sqlalchemy.orm import Session

from accession.accounts.keys import decrypt_previous_webhook_secret, decrypt_webhook_secret
from accession.auth.audit import Actor, AuditAction, record
from accession.core.clock import utc_now
from accession.core.errors import UserError
from accession.db.bulk import in_array
from accession.db.due_rows import retry_delay
from accession.db.engine import transaction
from accession.db.models import Collection, Webhook, WebhookDelivery, WebhookDeliveryState
from accession.notifications.events import record_webhook
from accession.webhooks.payloads import TEST_EVENT, write_bodies
from accession.webhooks.registry import get_webhook
from accession.webhooks.sender import LIFETIME_SECONDS, SendResult, make_client, send
from accession.webhooks.signing import signed_headers

log = structlog.get_logger(__name__)

BATCH_SIZE = 50
# Longer than a batch is sent: no request begins after `_BATCH_TIME`, and the connection ends after its
# lifetime.
CLAIM = timedelta(minutes=3)
_BATCH_TIME = timedelta(seconds=LIFETIME_SECONDS / 2)

FIRST_RETRY_DELAY = timedelta(seconds=5)
GIVE_UP_AFTER = timedelta(days=3)
"""Time for which an event is tried before the webhook is paused."""

_IS_PENDING = WebhookDelivery.state == WebhookDeliveryState.PENDING.value


@dataclass(frozen=True)
class _Event:
    """An event that this process may send."""

    id: int
    message_id: str
    body: bytes


@dataclass(frozen=True)
class _Batch:
    """The first events of a queue, and what is needed to send them.

    `keys` are the secrets, or the error if they cannot be decrypted. The due time of the events is
    `claimed_until` as long as no other process has claimed them.
    """

    claimed_until: datetime
    webhook_id: int
    webhook: str
    url: str
    keys: Sequence[SecretStr] | UserError
    events: Sequence[_Event]


def find_due_webhooks() -> Sequence[int]:
    """Return the ids of the webhooks that may have an event to send."""
    is_due = _IS_PENDING & (WebhookDelivery.webhook_id == Webhook.id) & (WebhookDelivery.due_at <= utc_now())
    query = select(Webhook.id).where(Webhook.paused_at.is_(None), exists().where(is_due))
    with transaction() as session:
        return session.scalars(query.order_by(Webhook.id)).all()


def deliver_events(webhook_id: int) -> int:
    """Send the events of a webhook that are due, and return how many the receiver accepted.

    It ends with the first that is not accepted. The other queues are left to the next call, so that a
    receiver that does not respond is waited for once.
    """
    accepted = 0
    while (batch := _claim(webhook_id)) is not None:
        sent, has_failed = _send_batch(batch)
        accepted += sent
        if has_failed:
            break
    return accepted


def _claim(webhook_id: int) -> _Batch | None:
    """Claim the first events of the queue that has been due for the longest time."""
    now = utc_now()
    with transaction() as session:
        head_id = session.scalar(_select_due_heads(webhook_id, now).limit(1))
        if head_id is None:
            return None
        head = select(WebhookDelivery).where(
            WebhookDelivery.id == head_id, _IS_PENDING, WebhookDelivery.due_at <= now
        )
        # Whoever claims events of a queue locks its first event.
        first = session.scalars(head.with_for_update(skip_locked=True)).one_or_none()
        webhook = session.get(Webhook, webhook_id)
        if first is None or webhook is None or webhook.paused_at is not None:
            return None
        events = _take_due(session, first, now)
        write_bodies(session, events)
        for event in events:
            event.due_at = now + CLAIM
        return _Batch(
            now + CLAIM,
            webhook.id,
            webhook.name,
            webhook.url,
            _decrypt_keys(webhook),
            [_Event(event.id, str(event.message_id), (event.body or "").encode()) for event in events],
        )


def _select_due_heads(webhook_id: int, now: datetime) -> Select[int]:
    """Return a query for the first event of each queue of a webhook that is due, the longest due first."""
    head = (
        select(WebhookDelivery.id, WebhookDelivery.due_at)
        .where(WebhookDelivery.webhook_id == webhook_id, _IS_PENDING)
        .where(WebhookDelivery.collection_id == Collection.id)
        .order_by(WebhookDelivery.id)
        .limit(1)
        .lateral()
    )
    query = select(head.c.id).select_from(Collection).join(head, true())
    return query.where(head.c.due_at <= now).order_by(head.c.due_at, head.c.id)


def _take_due(session: Session, first: WebhookDelivery, now: datetime) -> list[WebhookDelivery]:
    """Return the first events of a queue up to one that another process has claimed."""
    queue = (
        select(WebhookDelivery)
        .where(WebhookDelivery.webhook_id == first.webhook_id, _IS_PENDING)
        .where(WebhookDelivery.collection_id == first.collection_id, WebhookDelivery.id >= first.id)
        .order_by(WebhookDelivery.id)
        .limit(BATCH_SIZE)
        .with_for_update()
    )
    return list(takewhile(lambda event: event.due_at <= now, session.scalars(queue)))


def _decrypt_keys(webhook: Webhook) -> Sequence[SecretStr] | UserError:
    try:
        keys = [decrypt_webhook_secret(webhook)]
        until = webhook.previous_secret_until
        if webhook.previous_secret_encrypted is not None and until is not None and utc_now() < until:
            keys.append(decrypt_previous_webhook_secret(webhook))
    except UserError as error:
        return error
    return keys


def _send_batch(batch: _Batch) -> tuple[int, bool]:
    """Send events one after another until one is not accepted; return how many were, and whether one was not.

    What remains is due at once, behind the event that was not accepted.
    """
    ends_at = utc_now() + _BATCH_TIME
    with make_client() as client:
        for number, event in enumerate(batch.events):
            if utc_now() >= ends_at:
                _release(batch, batch.events[number:])
                return number, False
            result = _send(client, batch, event)
            if not _record(batch, event, result):
                _release(batch, batch.events[number + 1 :])
                return number, True
    return len(batch.events), False


def _send(client: httpx.Client, batch: _Batch, event: _Event) -> SendResult:
    if isinstance(batch.keys, UserError):
        return SendResult(None, 0, None, str(batch.keys))
    headers = signed_headers(batch.keys, event.message_id, utc_now(), event.body)
    return send(client, batch.url, headers, event.body)


def _release(batch: _Batch, events: Sequence[_Event]) -> None:
    is_claimed = _is_claimed(batch, events)
    with transaction() as session:
        session.execute(update(WebhookDelivery).where(is_claimed).values(due_at=utc_now()))


def _is_claimed(batch: _Batch, events: Sequence[_Event]) -> ColumnElement[bool]:
    """Return the condition of events that have been neither removed, skipped nor claimed by others."""
    is_selected = in_array(WebhookDelivery.id, [event.id for event in events])
    return is_selected & _IS_PENDING & (WebhookDelivery.due_at == batch.claimed_until)


def _record(batch: _Batch, event: _Event, result: SendResult) -> bool:
    """Record the result of a request, and return whether the next event of the batch may be sent."""
    now = utc_now()
    query = select(WebhookDelivery).where(_is_claimed(batch, [event])).with_for_update()
    with transaction() as session:
        delivery = session.scalars(query).one_or_none()
        webhook = session.get(Webhook, batch.webhook_id)
        if delivery is None or webhook is None:
            return False
        delivery.tries += 1
        _store_result(delivery, result, now)
        if result.error is None:
            log.info("webhook event delivered", webhook=batch.webhook, delivery=event.id)
            return webhook.paused_at is None
        log.warning(
            "webhook event not accepted",
            webhook=batch.webhook,
            delivery=event.id,
            tries=delivery.tries,
            reason=result.error,
        )
        delivery.due_at = now + retry_delay(delivery.tries, FIRST_RETRY_DELAY)
        delivery.first_failed_at = delivery.first_failed_at or now
        if result.is_gone or now - delivery.first_failed_at >= GIVE_UP_AFTER:
            _give_up(session, webhook, result)
        return False


def _store_result(delivery: WebhookDelivery, result: SendResult, now: datetime) -> None:
    delivery.tried_at = now
    delivery.status, delivery.duration_ms = result.status, result.duration_ms
    delivery.response, delivery.error = result.response, result.error
    if result.error is None:
        delivery.state, delivery.delivered_at = WebhookDeliveryState.DELIVERED.value, now
        delivery.first_failed_at = None


def _give_up(session: Session, webhook: Webhook, result: SendResult) -> None:
    if webhook.paused_at is not None:
        return
    reason = (
        "The receiver responded with status 410: it wants no more events."
        if result.is_gone
        else f"An event has not been accepted for {GIVE_UP_AFTER.days} days: {result.error}"
    )
    webhook.paused_at, webhook.pause_reason = utc_now(), reason
    record_webhook(session, webhook.id, webhook.name, paused_because=reason)
    log.error("webhook paused", webhook=webhook.name, reason=reason)


def send_test(actor: Actor, webhook_id: int) -> str | None:
    """Send a test event now, also to a paused webhook, and log it; return why that failed, or None.

    Raises:
        NotFound: there is no such webhook.
        UserError: its secret cannot be decrypted.
    """
    now = utc_now()
    with transaction() as session:
        webhook = get_webhook(session, webhook_id)
        keys = _decrypt_keys(webhook)
        if isinstance(keys, UserError):
            raise keys
        record(session, actor, AuditAction.WEBHOOK_TEST, webhook.name)
        test = WebhookDelivery(
            webhook_id=webhook_id,
            message_id=uuid4(),
            event=TEST_EVENT,
            data={"webhook": webhook.name},
            # Nobody else may send it.
            state=WebhookDeliveryState.FAILED.value,
            tries=1,
            created_at=now,
            due_at=now,
        )
        session.add(test)
        write_bodies(session, [test])
        session.flush()
        event = _Event(test.id, str(test.message_id), (test.body or "").encode())
        batch = _Batch(now, webhook_id, webhook.name, webhook.url, keys, [event])
    with make_client() as client:
        result = _send(client, batch, event)
    with transaction() as session:
        delivery = session.get(WebhookDelivery, event.id)
        if delivery is not None:
            _store_result(delivery, result, utc_now())
    return result.error
