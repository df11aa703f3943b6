"""TODO."""

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
    """Something that happened to a copy of a title, told by the vendor; nothing says to whom.

    The vendor's `event_id` makes it one, however often it is told. `counted` says whether it takes part
    in the pool's counts: not when it was already past at the pool's last snapshot.
    """

    __tablename__ = "circulation_events"
    __table_args__ = (
        UniqueConstraint("collection_id", "event_id"),
        Index("ix_circulation_events_license_pool_id_occurred_at", "license_pool_id", "occurred_at"),
    )

    id: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    collection_id: Mapped[int] = mapped_column(ForeignKey("collections.id", ondelete="CASCADE"))
    event_id: Mapped[str]
    license_pool_id: Mapped[int] = mapped_column(ForeignKey("license_pools.id", ondelete="CASCADE"))
    event_type: Mapped[str]
    occurred_at: Mapped[datetime]
    counted: Mapped[bool]
