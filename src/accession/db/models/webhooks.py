"""Webhooks: programs that are sent events, and the deliveries of these events."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Any
from uuid import UUID

from sqlalchemy import BigInteger, ForeignKey, Index, text
from sqlalchemy.orm import Mapped, mapped_column

from accession.core.clock import utc_now
from accession.db.models.base import Base


class WebhookEvent(StrEnum):
    """Kind of event of a webhook; the value is its `type` in the request."""

    TITLE_ADDED = "title.added"
    """A collection owns copies of a title of which it owned none."""
    TITLE_CHANGED = "title.changed"
    """Metadata, status or number of copies of a title of a collection has changed."""
    TITLE_REMOVED = "title.removed"
    """A collection owns no copy of a title any more."""
    RUN_FINISHED = "run.finished"
    """A run has ended, in whatever state."""


class Webhook(Base):
    """A program that is sent events at a URL, signed with a secret.

    Without `collection_ids` it is sent the events of all collections. After a rotation, requests are also
    signed with the previous secret until `previous_secret_until`. While it is paused, events wait.
    """

    __tablename__ = "webhooks"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(unique=True)
    url: Mapped[str]
    events: Mapped[list[str]]
    collection_ids: Mapped[list[int] | None]
    secret_encrypted: Mapped[bytes]
    previous_secret_encrypted: Mapped[bytes | None]
    previous_secret_until: Mapped[datetime | None]
    paused_at: Mapped[datetime | None]
    pause_reason: Mapped[str | None]
    created_at: Mapped[datetime] = mapped_column(default=utc_now)


class WebhookDeliveryState(StrEnum):
    """State of an event's delivery to a webhook."""

    PENDING = "pending"
    """Not delivered yet, or it will be tried again."""
    DELIVERED = "delivered"
    SKIPPED = "skipped"
    """A person has decided not to deliver it."""
    FAILED = "failed"
    """A test that was not accepted; it is not tried again."""


class WebhookDelivery(Base):
    """An event for a webhook, stored in the transaction of the change that it reports, and its delivery.

    The deliveries of a collection are sent one after another in the order of their ids; a test has no
    collection. The first is due at `due_at`; while it is being sent, that is when another process may try.
    `data` is what is known of the event when it is stored, and `body` the request as it was first sent.
    """

    __tablename__ = "webhook_deliveries"
    __table_args__ = (
        Index(
            "ix_webhook_deliveries_pending",
            "webhook_id",
            "collection_id",
            "id",
            postgresql_where=text("state = 'pending'"),
        ),
        Index("ix_webhook_deliveries_webhook_id_id", "webhook_id", "id"),
        Index("ix_webhook_deliveries_webhook_id_state_id", "webhook_id", "state", "id"),
        Index("ix_webhook_deliveries_created_at", "created_at"),
    )

    id: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    webhook_id: Mapped[int] = mapped_column(ForeignKey("webhooks.id", ondelete="CASCADE"))
    collection_id: Mapped[int | None] = mapped_column(ForeignKey("collections.id", ondelete="CASCADE"))
    license_pool_id: Mapped[int | None] = mapped_column(ForeignKey("license_pools.id", ondelete="CASCADE"))
    message_id: Mapped[UUID] = mapped_column(server_default=text("gen_random_uuid()"))
    """Random, so that it is never used again, even after a backup was restored."""
    event: Mapped[str]
    data: Mapped[dict[str, Any]]
    body: Mapped[str | None]
    state: Mapped[str] = mapped_column(server_default=WebhookDeliveryState.PENDING)
    tries: Mapped[int] = mapped_column(server_default="0")
    created_at: Mapped[datetime]
    due_at: Mapped[datetime]
    first_failed_at: Mapped[datetime | None]
    delivered_at: Mapped[datetime | None]
    tried_at: Mapped[datetime | None]
    status: Mapped[int | None]
    duration_ms: Mapped[int | None]
    response: Mapped[str | None]
    error: Mapped[str | None]
