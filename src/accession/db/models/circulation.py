"""Circulation events."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import (
    BigInteger,
    ForeignKey,
    Index,
    UniqueConstraint,
)
from sqlalchemy.orm import Mapped, mapped_column

from accession.db.models.base import Base


class CirculationEvent(Base):
    """An event that the vendor reported for a copy of a title, such as a loan. The patron is not stored.

    An event that is delivered several times is stored once, by the vendor's `event_id`. `counted` is true
    when it contributes to the pool's counts: not when the pool's snapshot was taken after it.
    """

    __tablename__ = "circulation_events"
    __table_args__ = (
        UniqueConstraint("collection_id", "event_id"),
        Index("ix_circulation_events_license_pool_id_occurred_at", "license_pool_id", "occurred_at"),
        Index("ix_circulation_events_collection_id_occurred_at", "collection_id", "occurred_at"),
    )

    id: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    collection_id: Mapped[int] = mapped_column(ForeignKey("collections.id", ondelete="CASCADE"))
    event_id: Mapped[str]
    license_pool_id: Mapped[int] = mapped_column(ForeignKey("license_pools.id", ondelete="CASCADE"))
    event_type: Mapped[str]
    occurred_at: Mapped[datetime]
    counted: Mapped[bool]
