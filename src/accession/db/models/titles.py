"""Titles: identifiers, licence pools, purchase records, rejected records, the outbox and changes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import date, datetime
from enum import StrEnum
from functools import cache
from typing import Any

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Executable,
    ForeignKey,
    Index,
    UniqueConstraint,
    false,
    select,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, Session, composite, mapped_column, relationship

from accession.core.clock import utc_now
from accession.core.vocabulary import IdentifierType
from accession.db.bulk import (
    NaturalKeys,
    array_parameters,
    get_or_create_ids,
    get_or_create_statement,
    in_array,
    insert_missing_rows,
)
from accession.db.models.base import Base, table_of
from accession.db.models.collections import Collection
from accession.db.models.counts import CopyCounts
from accession.db.models.editions import Edition


class Identifier(Base):
    """An identifier of a title in one scheme: the vendor's id, or an ISBN."""

    __tablename__ = "identifiers"
    __table_args__ = (UniqueConstraint("type", "identifier"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    type: Mapped[str]
    identifier: Mapped[str]

    @classmethod
    def ids(
        cls, session: Session, identifier_type: IdentifierType, identifiers: Iterable[str]
    ) -> dict[tuple[Any, ...], int]:
        """Return the row ids by (type, identifier), adding those that are missing. Safe under concurrency."""
        (ids,) = get_or_create_ids(session, cls.keys(identifier_type, identifiers))
        return ids

    @classmethod
    def keys(cls, identifier_type: IdentifierType, identifiers: Iterable[str]) -> NaturalKeys:
        """Return the natural keys of identifiers of one type."""
        keys = [(identifier_type.value, name) for name in identifiers]
        return NaturalKeys(table_of(cls), ("type", "identifier"), keys)


class IdentifierEquivalent(Base):
    """A data source's statement that two identifiers denote one title: its ISBNs, in the source's order."""

    __tablename__ = "identifier_equivalents"

    identifier_id: Mapped[int] = mapped_column(
        ForeignKey("identifiers.id", ondelete="CASCADE"), primary_key=True
    )
    equivalent_id: Mapped[int] = mapped_column(
        ForeignKey("identifiers.id", ondelete="CASCADE"), primary_key=True, index=True
    )
    data_source: Mapped[str] = mapped_column(primary_key=True)
    position: Mapped[int]

    @classmethod
    def add_first(cls, session: Session, data_source: str, isbns: Mapping[int, str]) -> None:
        """Add the ISBN of each identifier (by id) that has no ISBN and no metadata from `data_source` yet.

        Titles with metadata are left out: the metadata already lists all their ISBNs.
        """
        with_isbn = select(cls.identifier_id).where(
            cls.data_source == data_source, cls.identifier_id.in_(isbns)
        )
        with_metadata = select(Edition.identifier_id).where(
            Edition.data_source == data_source,
            Edition.identifier_id.in_(isbns),
            Edition.content_hash.is_not(None),
        )
        missing = sorted(isbns.keys() - set(session.scalars(with_isbn.union(with_metadata))))
        if not missing:
            return
        ids = Identifier.ids(session, IdentifierType.ISBN, [isbns[row_id] for row_id in missing])
        rows = [
            {
                "identifier_id": row_id,
                "equivalent_id": ids[IdentifierType.ISBN.value, isbns[row_id]],
                "data_source": data_source,
                "position": 0,
            }
            for row_id in missing
        ]
        insert_missing_rows(session, table_of(cls), rows)


class PoolStatus(StrEnum):
    """Status of a licence pool."""

    UNKNOWN = "unknown"
    """The vendor has not returned copy counts yet."""
    ON_ORDER = "on order"
    """The collection owns copies of a title that is not on sale yet: none is available."""
    ACTIVE = "active"
    EXHAUSTED = "exhausted"
    """The collection has no copy left."""


class LicensePool(Base):
    """A licence pool: a collection's holding of one title, in copies.

    `counts` are the present copies: `snapshot`, the counts that the vendor returned at `circulation_as_of`,
    plus the events since. A new snapshot that equals the stored one is not written, and `circulation_as_of`
    stays. Before old events are deleted, they are added to the snapshot, and its time becomes that of the
    first event that stays. Both counts are kept even if they cannot be; what is shown follows from them and
    the status (`accession.catalog.availability`).
    """

    __tablename__ = "license_pools"
    __table_args__ = (
        UniqueConstraint("collection_id", "data_source", "identifier_id"),
        Index("ix_license_pools_collection_id_id", "collection_id", "id"),
        # Few pools are exhausted or on order; listing them must not scan all others.
        Index(
            "ix_license_pools_exhausted", "collection_id", "id", postgresql_where=text("status = 'exhausted'")
        ),
        Index(
            "ix_license_pools_on_order", "collection_id", "id", postgresql_where=text("status = 'on order'")
        ),
        *(
            Index(name, *columns, "id", postgresql_where=text("patrons_in_hold_queue > 0"))
            for name, columns in (
                ("ix_license_pools_with_holds", ("collection_id", "patrons_in_hold_queue")),
                ("ix_license_pools_with_holds_of_all", ("patrons_in_hold_queue",)),
            )
        ),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    collection_id: Mapped[int] = mapped_column(ForeignKey("collections.id", ondelete="CASCADE"))
    identifier_id: Mapped[int] = mapped_column(ForeignKey("identifiers.id"), index=True)
    data_source: Mapped[str]
    licenses_owned: Mapped[int] = mapped_column(server_default="0")
    licenses_available: Mapped[int] = mapped_column(server_default="0")
    licenses_reserved: Mapped[int] = mapped_column(server_default="0")
    patrons_in_hold_queue: Mapped[int] = mapped_column(server_default="0")
    status: Mapped[str] = mapped_column(server_default=PoolStatus.UNKNOWN)
    circulation_as_of: Mapped[datetime | None]
    snapshot_owned: Mapped[int] = mapped_column(server_default="0")
    snapshot_available: Mapped[int] = mapped_column(server_default="0")
    snapshot_reserved: Mapped[int] = mapped_column(server_default="0")
    snapshot_holds: Mapped[int] = mapped_column(server_default="0")
    created_at: Mapped[datetime]
    updated_at: Mapped[datetime] = mapped_column(index=True)

    identifier: Mapped[Identifier] = relationship()
    counts: Mapped[CopyCounts] = composite(
        "licenses_owned", "licenses_available", "licenses_reserved", "patrons_in_hold_queue"
    )
    snapshot: Mapped[CopyCounts] = composite(
        "snapshot_owned", "snapshot_available", "snapshot_reserved", "snapshot_holds"
    )

    @classmethod
    def for_foreign_ids(
        cls,
        session: Session,
        data_source: str,
        identifier_type: IdentifierType,
        identifiers: Sequence[str],
        *,
        collection: Collection,
    ) -> dict[str, tuple[LicensePool, bool]]:
        """Get or create the pools of many titles; return (pool, is_new) by identifier.

        Safe under concurrency: rows are added in the order of their keys, and a pool that another transaction
        has added meanwhile is returned as not new. Nothing is written for existing pools.
        """
        names = {
            row_id: name
            for (_, name), row_id in Identifier.ids(session, identifier_type, identifiers).items()
        }
        now = utc_now()
        rows = [
            {
                "collection_id": collection.id,
                "data_source": data_source,
                "identifier_id": identifier_id,
                "created_at": now,
                "updated_at": now,
            }
            for identifier_id in sorted(names)
        ]
        if not rows:
            return {}
        stored = session.execute(_get_or_create_pools(), array_parameters(rows))
        pools = {pool.identifier_id: (pool, is_new) for pool, is_new in stored}
        if added_meanwhile := [row_id for row_id in names if row_id not in pools]:
            query = select(cls).where(cls.collection_id == collection.id, cls.data_source == data_source)
            for pool in session.scalars(query.where(in_array(cls.identifier_id, added_meanwhile))):
                pools[pool.identifier_id] = (pool, False)
        return {names[row_id]: entry for row_id, entry in pools.items()}


@cache
def _get_or_create_pools() -> Executable:
    table, key = table_of(LicensePool), ("collection_id", "data_source", "identifier_id")
    columns = tuple(column.name for column in table.c)
    statement = get_or_create_statement(table, key, (*key, "created_at", "updated_at"), columns)
    return select(LicensePool, statement.selected_columns["is_new"]).from_statement(statement)


class PurchaseRecord(Base):
    """A MARC record which states that the collection purchased a title on a day (UTC).

    With `month_only` just the month is known, and the day is its first. `listed` is the number of times that
    the vendor lists the title there: once for each purchase. `marc` is the vendor's record as
    binary MARC 21. `content_hash` changes only when the record does: it leaves out the fields that the vendor
    generates anew for each response. `warnings` has a sentence for each part of the vendor's record that
    `marc` lacks, because it is not valid MARC 21.
    """

    __tablename__ = "purchase_records"
    __table_args__ = (
        UniqueConstraint("license_pool_id", "purchased_on"),
        # They cover the queries that count purchases, and those that list titles by purchase.
        Index(
            "ix_purchase_records_collection_id_purchased_on",
            "collection_id",
            "purchased_on",
            "license_pool_id",
        ),
        Index("ix_purchase_records_purchased_on", "purchased_on", "license_pool_id"),
        Index("ix_purchase_records_collection_id_license_pool_id", "collection_id", "license_pool_id"),
        # Few records have warnings.
        Index("ix_purchase_records_warnings", "license_pool_id", postgresql_where=text("warnings <> '[]'")),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    collection_id: Mapped[int] = mapped_column(ForeignKey("collections.id", ondelete="CASCADE"))
    license_pool_id: Mapped[int] = mapped_column(ForeignKey("license_pools.id", ondelete="CASCADE"))
    purchased_on: Mapped[date]
    month_only: Mapped[bool] = mapped_column(server_default=false())
    listed: Mapped[int] = mapped_column(server_default="1")
    marc: Mapped[bytes]
    content_hash: Mapped[str]
    warnings: Mapped[list[str]] = mapped_column(JSONB, server_default="[]")


class ApplyOutbox(Base):
    """A pending update of a pool and its edition: written by a step, deleted by the apply.

    `data` is a serialised `ApplyData`. A row with an old `published_at` has lost its message and is published
    again.
    """

    __tablename__ = "apply_outbox"

    id: Mapped[int] = mapped_column(primary_key=True)
    license_pool_id: Mapped[int] = mapped_column(
        ForeignKey("license_pools.id", ondelete="CASCADE"), unique=True
    )
    data: Mapped[dict[str, Any]]
    published_at: Mapped[datetime] = mapped_column(index=True)

    license_pool: Mapped[LicensePool] = relationship()


class TitleChange(Base):
    """A change of an edition, or of the counts or status of a pool.

    `changes` holds the old and the new value of each field (`accession.catalog.title_changes`).
    """

    __tablename__ = "title_changes"
    __table_args__ = (
        Index(
            "ix_title_changes_edition_id_changed_at",
            "edition_id",
            "changed_at",
            postgresql_where=text("edition_id IS NOT NULL"),
        ),
        Index(
            "ix_title_changes_license_pool_id_changed_at",
            "license_pool_id",
            "changed_at",
            postgresql_where=text("license_pool_id IS NOT NULL"),
        ),
        # For deleting old changes.
        Index(
            "ix_title_changes_changed_at_of_edition_id",
            "changed_at",
            postgresql_where=text("edition_id IS NOT NULL"),
        ),
        Index(
            "ix_title_changes_changed_at_of_license_pool_id",
            "changed_at",
            postgresql_where=text("license_pool_id IS NOT NULL"),
        ),
        # Few changes concern the copies owned; digests list them.
        Index(
            "ix_title_changes_licenses_owned",
            "changed_at",
            "license_pool_id",
            postgresql_where=text("license_pool_id IS NOT NULL AND changes ? 'licenses_owned'"),
        ),
        CheckConstraint("num_nonnulls(edition_id, license_pool_id) = 1", name="one_owner"),
    )

    id: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    edition_id: Mapped[int | None] = mapped_column(ForeignKey("editions.id", ondelete="CASCADE"))
    license_pool_id: Mapped[int | None] = mapped_column(ForeignKey("license_pools.id", ondelete="CASCADE"))
    changed_at: Mapped[datetime]
    changes: Mapped[dict[str, Any]]


class RejectedRecord(Base):
    """A purchase record or event that could not be imported, with its raw XML and the reason.

    An event is kept without its patron. `purchased_on` and `month_only` come from the window in which the
    record was received, so that a later retry can store it with the right date.
    """

    __tablename__ = "rejected_records"
    __table_args__ = (
        UniqueConstraint("collection_id", "purchased_on", "content_hash"),
        Index("ix_rejected_records_open", "collection_id", postgresql_where=text("resolved_at IS NULL")),
        Index("ix_rejected_records_resolved_at", "resolved_at", postgresql_where=text("raw_xml <> ''")),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    collection_id: Mapped[int] = mapped_column(ForeignKey("collections.id", ondelete="CASCADE"))
    workflow: Mapped[str]
    purchased_on: Mapped[date]
    month_only: Mapped[bool] = mapped_column(server_default=false())
    reason: Mapped[str]
    raw_xml: Mapped[str]
    content_hash: Mapped[str]
    created_at: Mapped[datetime]
    resolved_at: Mapped[datetime | None]
    note: Mapped[str | None]
    """Comment of the person who resolved it by hand."""
