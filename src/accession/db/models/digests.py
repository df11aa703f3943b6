"""Digests: settings per collection, the issues that were made, and the mails with them."""

from __future__ import annotations

from datetime import date, datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import ForeignKey, Index, text
from sqlalchemy.orm import Mapped, mapped_column

from accession.core.clock import utc_now
from accession.db.models.base import Base


class Digest(Base):
    """The digest of a collection: when an issue is made, for whom, and what the issues have covered.

    The issues of all occurrences of the schedule up to `issued_until` have been made. They cover all days
    (UTC) up to `covered_until`, and the purchases up to `purchases_until`; None before the first issue.
    `weekday` is the name of the day of a weekly digest.
    """

    __tablename__ = "digests"

    collection_id: Mapped[int] = mapped_column(
        ForeignKey("collections.id", ondelete="CASCADE"), primary_key=True
    )
    frequency: Mapped[str]
    weekday: Mapped[str]
    time: Mapped[str]
    time_zone: Mapped[str]
    recipients: Mapped[list[str]]
    send_empty: Mapped[bool]
    max_titles: Mapped[int]
    issued_until: Mapped[datetime]
    covered_until: Mapped[date | None]
    purchases_until: Mapped[date | None]
    created_at: Mapped[datetime] = mapped_column(default=utc_now)


class DigestIssue(Base):
    """An issue of a digest. `content` is a serialised `accession.digests.content.DigestContent`.

    One that a person has sent between those of the schedule is not `scheduled`, and not part of the feed.
    """

    __tablename__ = "digest_issues"
    __table_args__ = (
        Index("ix_digest_issues_collection_id_id", "collection_id", "id"),
        Index("ix_digest_issues_created_at", "created_at"),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    collection_id: Mapped[int] = mapped_column(ForeignKey("collections.id", ondelete="CASCADE"))
    scheduled: Mapped[bool]
    content: Mapped[dict[str, Any]]
    created_at: Mapped[datetime]


class MailState(StrEnum):
    """State of a mail."""

    PENDING = "pending"
    """Not sent yet, or it will be tried again."""
    SENDING = "sending"
    """Its text is being sent to the mail server."""
    SENT = "sent"
    """The mail server has accepted it."""
    FAILED = "failed"
    """The mail server has rejected it, or it was tried for too long."""
    UNCONFIRMED = "unconfirmed"
    """The connection or the process ended before the mail server confirmed it. It is not sent again."""


class DigestMail(Base):
    """A mail with an issue to one recipient, and the state of its delivery.

    It is due at `due_at`; while it is being sent, that is when its process counts as dead. `message_id` is
    the part before the @ of the mail's Message-ID, the same in all tries.
    """

    __tablename__ = "digest_mails"
    __table_args__ = (
        Index("ix_digest_mails_open", "due_at", postgresql_where=text("state IN ('pending', 'sending')")),
        Index("ix_digest_mails_issue_id", "issue_id"),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    issue_id: Mapped[int] = mapped_column(ForeignKey("digest_issues.id", ondelete="CASCADE"))
    recipient: Mapped[str]
    message_id: Mapped[str]
    state: Mapped[str]
    tries: Mapped[int] = mapped_column(default=0)
    error: Mapped[str | None]
    due_at: Mapped[datetime]
    sent_at: Mapped[datetime | None]
