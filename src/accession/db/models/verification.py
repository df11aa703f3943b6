"""Verification of past months: when each was compared with the vendor, and the differences found."""

from __future__ import annotations

from datetime import date, datetime
from enum import StrEnum

from sqlalchemy import ForeignKey, Index, text
from sqlalchemy.orm import Mapped, mapped_column

from accession.db.models.base import Base


class FindingKind(StrEnum):
    """Kind of a difference between the vendor's purchases and the stored ones."""

    MISSING = "missing"
    """The vendor lists a purchase that is not stored."""
    MOVED = "moved"
    """The vendor lists a stored purchase under another date."""
    EXTRA = "extra"
    """The vendor does not list a stored purchase (any more)."""


class VerifiedMonth(Base):
    """The latest verification of a calendar month of a collection.

    `month` is its first day. `listed` is the number of records that the vendor listed for the month, together
    with months without purchases next to it; the other numbers are the purchases that differed.
    """

    __tablename__ = "verified_months"

    collection_id: Mapped[int] = mapped_column(
        ForeignKey("collections.id", ondelete="CASCADE"), primary_key=True
    )
    month: Mapped[date] = mapped_column(primary_key=True)
    verified_at: Mapped[datetime]
    listed: Mapped[int]
    missing: Mapped[int]
    moved: Mapped[int]
    extra: Mapped[int]


class VerificationFinding(Base):
    """A difference between the vendor's purchases of a title and the stored ones.

    `identifier` is the vendor's id of the title. `first_day` and `last_day` are the first and the last
    possible day on which the vendor lists a missing purchase, or on which another one is stored. `moved_to`
    is the day or the month under which the vendor lists a moved one. `purchases` is the number of purchases
    concerned. `resolved_at` is the time when a verification no longer found the difference.
    """

    __tablename__ = "verification_findings"
    __table_args__ = (
        Index(
            "uq_verification_findings_open",
            *("collection_id", "kind", "identifier", "first_day"),
            unique=True,
            postgresql_where=text("resolved_at IS NULL"),
        ),
        Index(
            "ix_verification_findings_collection_id_identifier",
            "collection_id",
            "identifier",
        ),
        Index(
            "ix_verification_findings_resolved_at",
            "resolved_at",
            postgresql_where=text("resolved_at IS NOT NULL"),
        ),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    collection_id: Mapped[int] = mapped_column(ForeignKey("collections.id", ondelete="CASCADE"))
    kind: Mapped[str]
    identifier: Mapped[str]
    first_day: Mapped[date]
    last_day: Mapped[date]
    moved_to: Mapped[str | None]
    purchases: Mapped[int]
    found_at: Mapped[datetime]
    resolved_at: Mapped[datetime | None]


class ListedRecord(Base):
    """Number of times that the vendor has listed a record in the time span that a run requests page by page.

    `key` is the vendor's id of the title, or stands for a record without one. The span is being verified or,
    unless `is_verification`, imported. Deleted after the span's last page, and when the run ends.
    """

    __tablename__ = "listed_records"

    run_id: Mapped[int] = mapped_column(ForeignKey("runs.id", ondelete="CASCADE"), primary_key=True)
    is_verification: Mapped[bool] = mapped_column(primary_key=True)
    key: Mapped[str] = mapped_column(primary_key=True)
    content_hash: Mapped[str]
    listed: Mapped[int]


class UndatedRecord(Base):
    """A record that is not stored under its day yet, as raw XML; `key` stands for title and content."""

    __tablename__ = "undated_records"

    collection_id: Mapped[int] = mapped_column(
        ForeignKey("collections.id", ondelete="CASCADE"), primary_key=True
    )
    key: Mapped[str] = mapped_column(primary_key=True)
    raw_xml: Mapped[str]
