"""Collections and their checkpoints."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import (
    Double,
    ForeignKey,
    Index,
    UniqueConstraint,
    text,
)
from sqlalchemy.orm import Mapped, mapped_column

from accession.core.clock import utc_now
from accession.db.models.base import Base


class Collection(Base):
    """One library's account with the vendor. The account key is encrypted (`accession.accounts.keys`).

    Its circulation events before `events_pruned_before` have been deleted. The limits of requests are equal
    for all collections of an account (`accession.accounts.limits`); None means those of the settings.
    """

    __tablename__ = "collections"
    __table_args__ = (
        # A name can be reused once its collection is marked for deletion.
        Index(
            "uq_collections_name_in_use",
            "name",
            unique=True,
            postgresql_where=text("marked_for_deletion_at IS NULL"),
        ),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]
    library_id: Mapped[str]
    account_id: Mapped[str]
    account_key_encrypted: Mapped[bytes]
    base_url: Mapped[str]
    vendor_max_concurrency: Mapped[int | None]
    vendor_max_requests_per_second: Mapped[float | None] = mapped_column(Double)
    created_at: Mapped[datetime] = mapped_column(default=utc_now)
    marked_for_deletion_at: Mapped[datetime | None]
    events_pruned_before: Mapped[datetime | None]


class Timestamp(Base):
    """A checkpoint: how far one service is complete for one collection.

    `finish` is a time (purchases, events), `counter` the id of an identifier (circulation). Everything before
    `confirmed` is known to be imported; between it and `finish` the vendor has sent empty bodies, which prove
    nothing.
    """

    __tablename__ = "timestamps"
    __table_args__ = (UniqueConstraint("collection_id", "service", "service_type"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    collection_id: Mapped[int] = mapped_column(ForeignKey("collections.id", ondelete="CASCADE"))
    service: Mapped[str]
    service_type: Mapped[str]
    finish: Mapped[datetime | None]
    confirmed: Mapped[datetime | None]
    counter: Mapped[int | None]


class WorkflowSchedule(Base):
    """When a scheduled workflow of a collection starts; what is None is inherited from the settings.

    The runs of all occurrences of the cron expression up to `started_until` have been started.
    """

    __tablename__ = "workflow_schedules"

    collection_id: Mapped[int] = mapped_column(
        ForeignKey("collections.id", ondelete="CASCADE"), primary_key=True
    )
    workflow: Mapped[str] = mapped_column(primary_key=True)
    cron: Mapped[str | None]
    time_zone: Mapped[str | None]
    jitter_minutes: Mapped[int | None]
    started_until: Mapped[datetime]
