"""Notifications: channels, rules, open incidents, and messages with the state of their delivery."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import ForeignKey, Index, text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from accession.core.clock import utc_now
from accession.db.models.base import Base


class NotificationChannel(Base):
    """A destination of notifications: an Apprise URL, which contains credentials and is encrypted.

    `service` is the name of the service that the URL leads to, such as "Slack".
    """

    __tablename__ = "notification_channels"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(unique=True)
    service: Mapped[str]
    url_encrypted: Mapped[bytes]
    created_at: Mapped[datetime] = mapped_column(default=utc_now)


class NotificationRule(Base):
    """A rule: which events a channel is notified of, and when. See `accession.notifications.rules`.

    Without `collection_ids` it applies to all collections.
    """

    __tablename__ = "notification_rules"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(unique=True)
    channel_id: Mapped[int] = mapped_column(ForeignKey("notification_channels.id", ondelete="CASCADE"))
    events: Mapped[list[str]]
    collection_ids: Mapped[list[int] | None]
    min_severity: Mapped[str]
    quiet_hours: Mapped[str | None]
    time_zone: Mapped[str]
    critical_ignores_quiet_hours: Mapped[bool]
    still_failing_hours: Mapped[int]
    no_success_hours: Mapped[int]
    rejected_records: Mapped[int]
    disk_free_percent: Mapped[int]
    created_at: Mapped[datetime] = mapped_column(default=utc_now)


class NotificationEvent(Base):
    """An event that no rule has been applied to yet, stored with what caused it.

    `key` identifies what has failed or succeeded, such as a workflow of a collection. `cause` is the reason
    without what is particular to one collection.
    """

    __tablename__ = "notification_events"

    id: Mapped[int] = mapped_column(primary_key=True)
    kind: Mapped[str]
    key: Mapped[str]
    collection_id: Mapped[int | None] = mapped_column(ForeignKey("collections.id", ondelete="CASCADE"))
    workflow: Mapped[str | None]
    run_id: Mapped[int | None]
    subject: Mapped[str]
    reason: Mapped[str]
    cause: Mapped[str]
    occurred_at: Mapped[datetime]


class NotificationIncident(Base):
    """A problem that a rule applies to and that has not been solved yet.

    `run_id` is the latest run that failed. The problem exists since `since`, and the rule applies to it since
    `opened_at`. `notified_at` is the time of the first message, `reminded_at` that of the last reminder.
    """

    __tablename__ = "notification_incidents"

    rule_id: Mapped[int] = mapped_column(
        ForeignKey("notification_rules.id", ondelete="CASCADE"), primary_key=True
    )
    key: Mapped[str] = mapped_column(primary_key=True)
    kind: Mapped[str]
    collection_id: Mapped[int | None] = mapped_column(ForeignKey("collections.id", ondelete="CASCADE"))
    workflow: Mapped[str | None]
    run_id: Mapped[int | None]
    subject: Mapped[str]
    reason: Mapped[str]
    cause: Mapped[str]
    since: Mapped[datetime]
    opened_at: Mapped[datetime]
    notified_at: Mapped[datetime | None]
    reminded_at: Mapped[datetime | None]


class DeliveryState(StrEnum):
    """State of a notification's delivery."""

    PENDING = "pending"
    """Not sent yet, or it will be tried again."""
    SENT = "sent"
    FAILED = "failed"
    """Given up after the last try."""


class Notification(Base):
    """A message to a channel about one or more incidents (`items`), and the state of its delivery.

    It is due at `due_at`; while it is being sent, that is when another process may try. `channel` and `rule`
    keep the names of those that were deleted.
    """

    __tablename__ = "notifications"
    __table_args__ = (
        Index("ix_notifications_pending", "due_at", postgresql_where=text("state = 'pending'")),
        Index("ix_notifications_state_id", "state", "id"),
        Index("ix_notifications_created_at", "created_at"),
        Index("ix_notifications_channel_id_id", "channel_id", "id"),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    channel_id: Mapped[int | None] = mapped_column(
        ForeignKey("notification_channels.id", ondelete="SET NULL")
    )
    rule_id: Mapped[int | None] = mapped_column(ForeignKey("notification_rules.id", ondelete="SET NULL"))
    channel: Mapped[str]
    rule: Mapped[str | None]
    kind: Mapped[str]
    severity: Mapped[str]
    cause: Mapped[str]
    items: Mapped[list[dict[str, Any]]] = mapped_column(JSONB)
    state: Mapped[str]
    tries: Mapped[int] = mapped_column(default=0)
    error: Mapped[str | None]
    created_at: Mapped[datetime]
    due_at: Mapped[datetime]
    sent_at: Mapped[datetime | None]
