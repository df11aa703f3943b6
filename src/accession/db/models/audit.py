"""Audit log, and the settings that it was last compared with."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, Index
from sqlalchemy.orm import Mapped, mapped_column

from accession.db.models.base import Base


class AuditEntry(Base):
    """One action in the audit log.

    The database refuses to change an entry, and to delete one that is younger than 90 days: see the function
    `accession_protect_audit_log` in the initial migration.
    """

    __tablename__ = "audit_log"
    __table_args__ = (
        Index("ix_audit_log_at", "at"),
        Index("ix_audit_log_action_id", "action", "id"),
        Index("ix_audit_log_actor_id", "actor", "id"),
        Index("ix_audit_log_subject_id", "subject", "id"),
    )

    id: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    at: Mapped[datetime]
    actor_kind: Mapped[str]
    actor: Mapped[str]
    origin: Mapped[str]
    action: Mapped[str]
    subject: Mapped[str]
    details: Mapped[dict[str, Any]]


class ProcessSettings(Base):
    """The settings without secrets with which a process of a kind, such as `worker`, was started last."""

    __tablename__ = "process_settings"

    process: Mapped[str] = mapped_column(primary_key=True)
    settings: Mapped[dict[str, Any]]
