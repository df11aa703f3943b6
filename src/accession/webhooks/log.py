"""The deliveries of webhooks: list them, send them again, or skip one."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Select, select, update
from sqlalchemy.orm import Session

from accession.auth.audit import Actor, AuditAction, record
from accession.core.clock import utc_now
from accession.core.errors import InvalidInput, NotFound, UserError
from accession.db.models import (
    Collection,
    Identifier,
    LicensePool,
    Webhook,
    WebhookDelivery,
    WebhookDeliveryState,
)

_ENDED = (WebhookDeliveryState.DELIVERED.value, WebhookDeliveryState.SKIPPED.value)


@dataclass(frozen=True)
class DeliveryView:
    """A delivery of an event to a webhook; `title` is the vendor's id of the title that it is about.

    `status`, `duration_ms`, `response` (its beginning) and `error` are those of the last try. `next_try_at`
    is None without a failed try; then a pending event may wait for those before it.
    """

    id: int
    webhook: str
    message_id: str
    event: str
    collection: str | None
    collection_id: int | None
    title: str | None
    run_id: int | None
    state: str
    tries: int
    created_at: datetime
    tried_at: datetime | None
    delivered_at: datetime | None
    next_try_at: datetime | None
    status: int | None
    duration_ms: int | None
    response: str | None
    error: str | None
    body: str | None


@dataclass(frozen=True)
class DeliveryFilter:
    """Conditions of the deliveries to list; None means all."""

    webhook_id: int | None = None
    state: WebhookDeliveryState | None = None
    event: str | None = None


def delivery_views(
    session: Session, filters: DeliveryFilter, *, before_id: int | None = None, limit: int
) -> list[DeliveryView]:
    """Return the matching deliveries, newest first; `before_id` continues an earlier listing."""
    query = _select_deliveries().order_by(WebhookDelivery.id.desc()).limit(limit)
    conditions: Mapping[Any, Any] = {
        WebhookDelivery.webhook_id: filters.webhook_id,
        WebhookDelivery.state: filters.state,
        WebhookDelivery.event: filters.event,
    }
    query = query.where(*(column == value for column, value in conditions.items() if value is not None))
    if before_id is not None:
        query = query.where(WebhookDelivery.id < before_id)
    return [_view(*row) for row in session.execute(query)]


def delivery_view(session: Session, delivery_id: int) -> DeliveryView:
    """Return the delivery with this id.

    Raises:
        NotFound: there is none.
    """
    row = session.execute(_select_deliveries().where(WebhookDelivery.id == delivery_id)).one_or_none()
    if row is None:
        raise NotFound(f"There is no delivery {delivery_id} of a webhook.")
    return _view(*row)


def _select_deliveries() -> Select[WebhookDelivery, str, str, str]:
    query = select(WebhookDelivery, Webhook.name, Collection.name, Identifier.identifier).join(Webhook)
    query = query.outerjoin(Collection, Collection.id == WebhookDelivery.collection_id)
    query = query.outerjoin(LicensePool, LicensePool.id == WebhookDelivery.license_pool_id)
    return query.outerjoin(Identifier, Identifier.id == LicensePool.identifier_id)


def _view(delivery: WebhookDelivery, webhook: str, collection: str | None, title: str | None) -> DeliveryView:
    is_retried = delivery.state == WebhookDeliveryState.PENDING and delivery.tries
    return DeliveryView(
        id=delivery.id,
        webhook=webhook,
        message_id=str(delivery.message_id),
        event=delivery.event,
        collection=collection,
        collection_id=delivery.collection_id,
        title=title,
        run_id=delivery.data.get("run", {}).get("id"),
        state=delivery.state,
        tries=delivery.tries,
        created_at=delivery.created_at,
        tried_at=delivery.tried_at,
        delivered_at=delivery.delivered_at,
        next_try_at=delivery.due_at if is_retried else None,
        status=delivery.status,
        duration_ms=delivery.duration_ms,
        response=delivery.response,
        error=delivery.error,
        body=delivery.body,
    )


def replay_period(
    session: Session, actor: Actor, webhook: Webhook, since: datetime, until: datetime | None = None
) -> int:
    """Send the events of a time (UTC) again that were delivered or skipped; return their number.

    Bodies and ids stay the same. Events that are pending are not affected.

    Raises:
        InvalidInput: the end is not after the start.
    """
    if until is not None and until <= since:
        raise InvalidInput("The events cannot be sent again: enter an end of the period after its start.")
    is_selected = (WebhookDelivery.webhook_id == webhook.id) & (WebhookDelivery.created_at >= since)
    if until is not None:
        is_selected &= WebhookDelivery.created_at < until
    number = _replay(session, is_selected)
    details = {"since": since, "until": until, "events": number}
    record(session, actor, AuditAction.WEBHOOK_REPLAY, webhook.name, details)
    return number


def replay_delivery(session: Session, actor: Actor, delivery_id: int) -> None:
    """Send the event of a delivery again; see `replay_period`.

    Raises:
        NotFound: there is no such delivery.
        UserError: it is pending, or a test.
    """
    delivery = delivery_view(session, delivery_id)
    if not _replay(session, WebhookDelivery.id == delivery_id):
        raise UserError(
            f"Delivery {delivery_id} cannot be sent again, because it is {_describe(delivery)}: "
            "choose one that was delivered or skipped."
        )
    record(session, actor, AuditAction.WEBHOOK_REPLAY, delivery.webhook, {"delivery": delivery_id})


def skip_delivery(session: Session, actor: Actor, delivery_id: int) -> None:
    """Do not deliver a pending event, so that those behind it are sent.

    Raises:
        NotFound: there is no such delivery.
        UserError: it is not pending.
    """
    delivery = delivery_view(session, delivery_id)
    is_pending = WebhookDelivery.state == WebhookDeliveryState.PENDING.value
    statement = update(WebhookDelivery).where(WebhookDelivery.id == delivery_id, is_pending)
    values = {"state": WebhookDeliveryState.SKIPPED.value, "first_failed_at": None}
    if not session.connection().execute(statement.values(values)).rowcount:
        raise UserError(
            f"Delivery {delivery_id} cannot be skipped, because it is {_describe(delivery)}: "
            "choose one that is pending."
        )
    record(session, actor, AuditAction.WEBHOOK_SKIP, delivery.webhook, {"delivery": delivery_id})


def _describe(delivery: DeliveryView) -> str:
    return delivery.state if delivery.collection is not None else "a test"


def _replay(session: Session, is_selected: Any) -> int:
    statement = update(WebhookDelivery).where(
        is_selected, WebhookDelivery.state.in_(_ENDED), WebhookDelivery.collection_id.is_not(None)
    )
    values = {
        "state": WebhookDeliveryState.PENDING.value,
        "due_at": utc_now(),
        "tries": 0,
        "delivered_at": None,
        "error": None,
    }
    return session.connection().execute(statement.values(values)).rowcount
