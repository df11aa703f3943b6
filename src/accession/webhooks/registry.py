"""The webhooks: add, change, pause and remove them, and rotate their secrets.

What a person does is recorded in the audit log.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import httpx
from pydantic import SecretStr
from sqlalchemy import delete, func, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from accession.accounts.collections import find_collections
from accession.accounts.keys import decrypt_webhook_secret, encrypt_secret, lock_against_rotation
from accession.auth.audit import Actor, AuditAction, record
from accession.auth.names import validate_name
from accession.core.clock import utc_now
from accession.core.errors import InvalidInput, UserError
from accession.core.text import clean_text
from accession.db.bulk import in_array
from accession.db.due_rows import WaitingMessages
from accession.db.models import Collection, Webhook, WebhookDelivery, WebhookDeliveryState, WebhookEvent
from accession.db.named_rows import find_by_name, get_by_id
from accession.notifications.events import record_webhook
from accession.webhooks.sender import check_url
from accession.webhooks.signing import check_secret, generate_secret

PREVIOUS_SECRET_VALID = timedelta(days=1)
"""Time after a rotation in which requests are signed with the previous secret, too."""

_NOUN = "webhook"
_PENDING = WebhookDelivery.state == WebhookDeliveryState.PENDING.value


@dataclass(frozen=True)
class WebhookSpec:
    """A webhook, as a person enters it.

    Attributes:
        name: name of the webhook.
        url: URL to which events are sent.
        events: kinds of events, at least one.
        collections: names of collections, to be sent their events only; () for all.
    """

    name: str
    url: str
    events: tuple[WebhookEvent, ...] = tuple(WebhookEvent)
    collections: tuple[str, ...] = ()


@dataclass(frozen=True)
class WebhookView(WebhookSpec):
    """A stored webhook.

    `pending` is the number of events that have not been delivered, the oldest of which was stored at
    `pending_since`. `failing_since` and `last_error` are those
    of the event that has failed for the longest time.
    """

    id: int = field(kw_only=True)
    is_paused: bool = field(kw_only=True)
    paused_at: datetime | None = field(kw_only=True)
    pause_reason: str | None = field(kw_only=True)
    pending: int = field(kw_only=True)
    pending_since: datetime | None = field(kw_only=True)
    failing_since: datetime | None = field(kw_only=True)
    last_error: str | None = field(kw_only=True)
    last_delivered_at: datetime | None = field(kw_only=True)
    previous_secret_until: datetime | None = field(kw_only=True)
    created_at: datetime = field(kw_only=True)

    @property
    def state(self) -> str:
        """Return `paused`, `failing` or `active`."""
        if self.is_paused:
            return "paused"
        return "failing" if self.failing_since is not None else "active"


def list_webhooks(session: Session) -> Sequence[Webhook]:
    """Return all webhooks, by name."""
    return session.scalars(select(Webhook).order_by(Webhook.name)).all()


def webhook_views(session: Session) -> list[WebhookView]:
    """Return all webhooks, by name."""
    return _views(session, list_webhooks(session))


def _views(session: Session, webhooks: Sequence[Webhook]) -> list[WebhookView]:
    if not webhooks:
        return []
    collections = dict(session.execute(select(Collection.id, Collection.name)).all())
    pending = _count_pending(session, webhooks)
    return [
        _view(session, webhook, collections, pending.get(webhook.id, WaitingMessages()))
        for webhook in webhooks
    ]


def _count_pending(session: Session, webhooks: Sequence[Webhook]) -> dict[int, WaitingMessages]:
    """Return the events that have not been delivered, by the id of the webhook."""
    query = select(WebhookDelivery.webhook_id, func.count(), func.min(WebhookDelivery.created_at))
    query = query.where(_PENDING, in_array(WebhookDelivery.webhook_id, [each.id for each in webhooks]))
    rows = session.execute(query.group_by(WebhookDelivery.webhook_id))
    return {webhook_id: WaitingMessages(number, oldest) for webhook_id, number, oldest in rows}


def _view(
    session: Session, webhook: Webhook, collections: Mapping[int, str], pending: WaitingMessages
) -> WebhookView:
    of_webhook = select(WebhookDelivery).where(WebhookDelivery.webhook_id == webhook.id)
    failing = of_webhook.where(_PENDING, WebhookDelivery.first_failed_at.is_not(None))
    failed = session.scalars(failing.order_by(WebhookDelivery.first_failed_at).limit(1)).one_or_none()
    delivered = of_webhook.where(WebhookDelivery.state == WebhookDeliveryState.DELIVERED.value)
    last = session.scalars(delivered.order_by(WebhookDelivery.id.desc()).limit(1)).one_or_none()
    until = webhook.previous_secret_until
    return WebhookView(
        id=webhook.id,
        name=webhook.name,
        url=webhook.url,
        events=tuple(map(WebhookEvent, webhook.events)),
        collections=tuple(collections[id_] for id_ in webhook.collection_ids or () if id_ in collections),
        is_paused=webhook.paused_at is not None,
        paused_at=webhook.paused_at,
        pause_reason=webhook.pause_reason,
        pending=pending.number,
        pending_since=pending.oldest,
        failing_since=None if failed is None else failed.first_failed_at,
        last_error=None if failed is None else failed.error,
        last_delivered_at=None if last is None else last.delivered_at,
        previous_secret_until=until if until is not None and until > utc_now() else None,
        created_at=webhook.created_at,
    )


def webhook_view(session: Session, webhook_id: int) -> WebhookView:
    """Return the webhook with this id.

    Raises:
        NotFound: there is none.
    """
    return _views(session, [get_webhook(session, webhook_id)])[0]


def find_webhook(session: Session, name: str) -> Webhook:
    """Return the webhook with this name.

    Raises:
        NotFound: there is none.
    """
    return find_by_name(session, Webhook, name, noun=_NOUN, listing="accession webhooks list")


def get_webhook(session: Session, webhook_id: int) -> Webhook:
    """Return the webhook with this id.

    Raises:
        NotFound: there is none.
    """
    return get_by_id(session, Webhook, webhook_id, noun=_NOUN)


def add_webhook(
    session: Session, actor: Actor, spec: WebhookSpec, secret: SecretStr | None = None
) -> tuple[Webhook, SecretStr]:
    """Add a webhook, and return it with its secret, which is not shown again; without one it is generated.

    Raises:
        InvalidInput: a value is invalid.
        NotFound: no collection has this name.
        UserError: the name is in use or invalid.
    """
    values, secret = _columns(session, spec), _checked_or_new(secret)
    lock_against_rotation(session)
    row = {**values, "secret_encrypted": encrypt_secret(secret), "created_at": utc_now()}
    statement = insert(Webhook).values(row).on_conflict_do_nothing().returning(Webhook)
    webhook = session.scalars(statement).one_or_none()
    if webhook is None:
        raise _name_in_use(spec.name)
    record(session, actor, AuditAction.WEBHOOK_ADD, webhook.name, _details(spec))
    return webhook, secret


def _checked_or_new(secret: SecretStr | None) -> SecretStr:
    if secret is None:
        return generate_secret()
    check_secret(secret)
    return secret


def change_webhook(session: Session, actor: Actor, webhook: Webhook, spec: WebhookSpec) -> None:
    """Replace name, URL, events and collections of a webhook.

    Events that are pending are sent to the new URL, also those of kinds that are no longer selected.

    Raises:
        InvalidInput: a value is invalid.
        NotFound: no collection has this name.
        UserError: the name is in use or invalid.
    """
    values = _columns(session, spec)
    same_name = select(Webhook.id).where(Webhook.name == spec.name, Webhook.id != webhook.id)
    if session.scalar(same_name) is not None:
        raise _name_in_use(spec.name)
    for name, value in values.items():
        setattr(webhook, name, value)
    session.flush()
    record(session, actor, AuditAction.WEBHOOK_EDIT, webhook.name, _details(spec))


def _columns(session: Session, spec: WebhookSpec) -> dict[str, Any]:
    validate_name(_NOUN, spec.name)
    if not spec.events:
        raise InvalidInput("The webhook has no events: select at least one.")
    collections = [each.id for each in find_collections(session, spec.collections)]
    return {
        "name": spec.name,
        "url": check_url(spec.url),
        "events": [event.value for event in WebhookEvent if event in spec.events],
        "collection_ids": sorted(collections) or None,
    }


def _details(spec: WebhookSpec) -> dict[str, Any]:
    """Return what the audit log has of a webhook: of the URL only the host, as a path may contain secrets."""
    return {
        "host": httpx.URL(spec.url).host,
        "events": list(spec.events),
        "collections": list(spec.collections) or None,
    }


def _name_in_use(name: str) -> UserError:
    return UserError(
        f'A webhook named "{name}" already exists: choose another name, '
        f'or remove it with `accession webhooks remove "{name}"`.'
    )


def rotate_secret(
    session: Session, actor: Actor, webhook: Webhook, secret: SecretStr | None = None
) -> SecretStr:
    """Replace the secret, and return the new one, which is not shown again; without one it is generated.

    For a day, requests are signed with both, unless the encryption key of the previous one is lost.

    Raises:
        InvalidInput: the new secret is invalid.
    """
    secret = _checked_or_new(secret)
    lock_against_rotation(session)
    if _can_be_decrypted(webhook):
        webhook.previous_secret_encrypted = webhook.secret_encrypted
        webhook.previous_secret_until = utc_now() + PREVIOUS_SECRET_VALID
    else:
        webhook.previous_secret_encrypted = webhook.previous_secret_until = None
    webhook.secret_encrypted = encrypt_secret(secret)
    record(session, actor, AuditAction.WEBHOOK_ROTATE_SECRET, webhook.name)
    return secret


def _can_be_decrypted(webhook: Webhook) -> bool:
    try:
        decrypt_webhook_secret(webhook)
    except UserError:
        return False
    return True


def pause_webhook(session: Session, actor: Actor, webhook: Webhook, reason: str) -> None:
    """Send no more events to a webhook; they wait until it is resumed."""
    reason = clean_text(reason)
    webhook.paused_at, webhook.pause_reason = utc_now(), reason
    record(session, actor, AuditAction.WEBHOOK_PAUSE, webhook.name, {"reason": reason or None})


def resume_webhook(session: Session, actor: Actor, webhook: Webhook) -> None:
    """Send events to a webhook again, at once also those that have failed."""
    record(session, actor, AuditAction.WEBHOOK_RESUME, webhook.name)
    if webhook.paused_at is not None:
        webhook.paused_at = webhook.pause_reason = None
        record_webhook(session, webhook.id, webhook.name)
    has_failed = WebhookDelivery.first_failed_at.is_not(None)
    statement = update(WebhookDelivery).where(WebhookDelivery.webhook_id == webhook.id, _PENDING, has_failed)
    session.execute(statement.values(due_at=utc_now(), tries=0, first_failed_at=None))


def remove_webhook(session: Session, actor: Actor, webhook: Webhook) -> None:
    """Delete a webhook and its deliveries, also those that are pending."""
    record(session, actor, AuditAction.WEBHOOK_REMOVE, webhook.name)
    # First, because an import that stores an event waits for the deletion of the webhook.
    session.execute(delete(WebhookDelivery).where(WebhookDelivery.webhook_id == webhook.id))
    session.execute(delete(Webhook).where(Webhook.id == webhook.id))
