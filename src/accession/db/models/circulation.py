"""Circulation events, and totals of them that are kept when the events are pruned."""

from __future__ import annotations

from datetime import date, datetime

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    ForeignKey,
    Index,
    UniqueConstraint,
    false,
    text,
    true,
)
from sqlalchemy.orm import Mapped, mapped_column

from accession.db.models.base import Base


class CirculationEvent(Base):
    """An event that the vendor reported for a copy of a title, such as a loan. The patron is not stored.

    An event that is delivered several times is stored once, by the vendor's `event_id`. `counted` is true
    when it contributes to the pool's counts: not when the pool's snapshot was taken after it. `rolled_up` is
    true once it is part of the totals.
    """

    __tablename__ = "circulation_events"
    __table_args__ = (
        UniqueConstraint("collection_id", "event_id"),
        Index("ix_circulation_events_license_pool_id_occurred_at", "license_pool_id", "occurred_at"),
        Index("ix_circulation_events_collection_id_occurred_at", "collection_id", "occurred_at"),
        # Few events wait for the next roll-up.
        Index(
            "ix_circulation_events_to_roll_up", "occurred_at", "id", postgresql_where=text("NOT rolled_up")
        ),
    )

    id: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    collection_id: Mapped[int] = mapped_column(ForeignKey("collections.id", ondelete="CASCADE"))
    event_id: Mapped[str]
    license_pool_id: Mapped[int] = mapped_column(ForeignKey("license_pools.id", ondelete="CASCADE"))
    event_type: Mapped[str]
    occurred_at: Mapped[datetime]
    counted: Mapped[bool]
    rolled_up: Mapped[bool] = mapped_column(server_default=false())


class CirculationTotal(Base):
    """Number of events of one type of a pool on a day (UTC)."""

    __tablename__ = "circulation_totals"
    __table_args__ = (
        # The rows are added in the order of their days, so that a tiny index finds those of a day.
        Index("ix_circulation_totals_day", "day", postgresql_using="brin"),
        # Few events are removals.
        Index(
            "ix_circulation_totals_removed",
            "day",
            "license_pool_id",
            postgresql_where=text("event_type = 'REMOVED'"),
        ),
    )

    license_pool_id: Mapped[int] = mapped_column(
        ForeignKey("license_pools.id", ondelete="CASCADE"), primary_key=True
    )
    day: Mapped[date] = mapped_column(primary_key=True)
    event_type: Mapped[str] = mapped_column(primary_key=True)
    events: Mapped[int]


class CirculationMonth(Base):
    """Number of events of one type of a collection in a month (UTC), which is stored as its first day."""

    __tablename__ = "circulation_months"

    collection_id: Mapped[int] = mapped_column(
        ForeignKey("collections.id", ondelete="CASCADE"), primary_key=True
    )
    month: Mapped[date] = mapped_column(primary_key=True)
    event_type: Mapped[str] = mapped_column(primary_key=True)
    events: Mapped[int] = mapped_column(BigInteger)


class TitleStatistics(Base):
    """Numbers by which reports sort and count the titles of collections.

    The roll-up of events keeps the loans, of which `loans_last_year` are those of the last 365 complete days
    and today. The refresh (`accession.catalog.title_statistics`) sets the other values. `unused_since` is the
    day of the last loan, or of the first purchase if there was none; null for a title without copies.
    `edition_id`, `format`, `language` and `audience` are those of the title's metadata: editions are wide
    rows, which sums of all titles must not read.
    """

    __tablename__ = "title_statistics"
    __table_args__ = (
        *(
            index
            for name in ("loans", "loans_last_year", "unused_since")
            for index in (
                Index(f"ix_title_statistics_{name}", "collection_id", name, "license_pool_id"),
                Index(f"ix_title_statistics_{name}_of_all", name, "license_pool_id"),
            )
        ),
        Index(
            "ix_title_statistics_incomplete",
            "collection_id",
            "license_pool_id",
            postgresql_where=text("NOT (has_metadata AND has_cover)"),
        ),
        # Few titles lack one of these; listing them must not scan all others.
        *(
            Index(
                f"ix_title_statistics_without_{name}",
                "collection_id",
                "license_pool_id",
                postgresql_where=text(condition),
            )
            for name, condition in (
                ("format", "format IS NULL"),
                ("language", "language IS NULL"),
                ("subject", "NOT has_subject"),
                ("purchase", "first_purchased_on IS NULL"),
            )
        ),
    )

    license_pool_id: Mapped[int] = mapped_column(
        ForeignKey("license_pools.id", ondelete="CASCADE"), primary_key=True
    )
    collection_id: Mapped[int] = mapped_column(ForeignKey("collections.id", ondelete="CASCADE"))
    loans: Mapped[int] = mapped_column(server_default="0")
    loans_last_year: Mapped[int] = mapped_column(server_default="0")
    last_loan_on: Mapped[date | None]
    first_purchased_on: Mapped[date | None]
    unused_since: Mapped[date | None]
    edition_id: Mapped[int | None]
    format: Mapped[str | None]
    language: Mapped[str | None]
    audience: Mapped[str | None]
    has_metadata: Mapped[bool] = mapped_column(server_default=true())
    has_cover: Mapped[bool] = mapped_column(server_default=true())
    has_subject: Mapped[bool] = mapped_column(server_default=true())


class TitleGroup(Base):
    """Titles of a collection with a common value, such as a language, with their copies, holds and loans.

    `kind` is `format`, `language`, `audience`, `availability`, `subject` or `month` (of the first purchase,
    such as `2019-03`); `value` is empty for the titles without one. `collection_id` is null in the sums of
    all collections in use.
    """

    __tablename__ = "title_groups"
    __table_args__ = (
        Index(
            "uq_title_groups_kind_collection_id_value",
            *("kind", "collection_id", "value"),
            unique=True,
            postgresql_nulls_not_distinct=True,
        ),
    )

    id: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    kind: Mapped[str]
    collection_id: Mapped[int | None] = mapped_column(ForeignKey("collections.id", ondelete="CASCADE"))
    value: Mapped[str]
    titles: Mapped[int]
    copies: Mapped[int]
    holds: Mapped[int]
    loans_last_year: Mapped[int]


class CollectionOverlap(Base):
    """Number of titles that two collections both hold, unless it is 0. Each pair has two rows.

    The row of a collection with itself has the titles that it holds.
    """

    __tablename__ = "collection_overlaps"

    collection_id: Mapped[int] = mapped_column(
        ForeignKey("collections.id", ondelete="CASCADE"), primary_key=True
    )
    other_id: Mapped[int] = mapped_column(ForeignKey("collections.id", ondelete="CASCADE"), primary_key=True)
    titles: Mapped[int]


class StatisticsState(Base):
    """The only row tells what the statistics cover.

    `year_until` is the last of the 365 complete days of `loans_last_year`. The last refresh ended at
    `refreshed_at` and took `refresh_seconds`.
    """

    __tablename__ = "statistics_state"
    __table_args__ = (CheckConstraint("id = 1", name="one_row"),)

    id: Mapped[int] = mapped_column(primary_key=True, server_default="1")
    year_until: Mapped[date | None]
    refreshed_at: Mapped[datetime | None]
    refresh_seconds: Mapped[float | None]
