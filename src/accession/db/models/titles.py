"""TODO."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import date, datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Computed,
    ForeignKey,
    Index,
    UniqueConstraint,
    false,
    literal_column,
    select,
    text,
)
from sqlalchemy.dialects.postgresql import TSVECTOR
from sqlalchemy.orm import Mapped, Session, composite, mapped_column, relationship

from accession.core.clock import utc_now
from accession.core.vocabulary import IdentifierType
from accession.db.bulk import insert_of, natural_key_ids, one_of
from accession.db.models.base import Base, table_of
from accession.db.models.collections import Collection
from accession.db.models.counts import Counts


class Identifier(Base):
    """A name of a title in one scheme: the vendor's id, an ISBN."""

    __tablename__ = "identifiers"
    __table_args__ = (UniqueConstraint("type", "identifier"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    type: Mapped[str]
    identifier: Mapped[str]

    @classmethod
    def ids(
        cls, session: Session, identifier_type: IdentifierType, identifiers: Iterable[str]
    ) -> dict[tuple[Any, ...], int]:
        """The row ids by (type, identifier), added where they are new; safe beside other writers."""
        wanted = [(identifier_type.value, name) for name in identifiers]
        return natural_key_ids(session, table_of(cls), ("type", "identifier"), wanted)


class IdentifierEquivalent(Base):
    """A data source's word that two identifiers name the same title: its ISBNs, in the source's order."""

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
        """Note the ISBN of each identifier (by id) of which `data_source` has named none yet, and that it has
        not described: a description names those that there are."""
        named = select(cls.identifier_id).where(cls.data_source == data_source, cls.identifier_id.in_(isbns))
        described = select(Edition.identifier_id).where(
            Edition.data_source == data_source,
            Edition.identifier_id.in_(isbns),
            Edition.content_hash.is_not(None),
        )
        missing = sorted(isbns.keys() - set(session.scalars(named.union(described))))
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
        session.execute(insert_of(table_of(cls), rows).on_conflict_do_nothing())


class PoolStatus(StrEnum):
    """What a license pool can do for a reader."""

    UNKNOWN = "unknown"
    """The vendor has not told how many copies there are."""
    ACTIVE = "active"
    EXHAUSTED = "exhausted"
    """The collection has no copy any more."""


class LicensePool(Base):
    """A collection's holding of one title, in copies.

    `counts` is what is so now: `snapshot`, what the vendor said when it was asked at
    `circulation_as_of`, and the events counted since. A snapshot that says what is known already is not
    written, and `circulation_as_of` stays.
    """

    __tablename__ = "license_pools"
    __table_args__ = (
        UniqueConstraint("collection_id", "data_source", "identifier_id"),
        Index("ix_license_pools_collection_id_id", "collection_id", "id"),
        # There are few, and a list of them should not look at all the others.
        Index(
            "ix_license_pools_exhausted", "collection_id", "id", postgresql_where=text("status = 'exhausted'")
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
    counts: Mapped[Counts] = composite(
        "licenses_owned", "licenses_available", "licenses_reserved", "patrons_in_hold_queue"
    )
    snapshot: Mapped[Counts] = composite(
        "snapshot_owned", "snapshot_available", "snapshot_reserved", "snapshot_holds"
    )

    @classmethod
    def for_foreign_id(
        cls,
        session: Session,
        data_source: str,
        identifier_type: IdentifierType,
        identifier: str,
        *,
        collection: Collection,
    ) -> tuple[LicensePool, bool]:
        """The collection's pool of one title, and whether it was made just now."""
        pools = cls.for_foreign_ids(
            session, data_source, identifier_type, [identifier], collection=collection
        )
        return pools[identifier]

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
        """Get or create the pools of many titles: identifier to (pool, is_new).

        Safe beside other transactions doing the same: rows are added in the order of their key, and
        one that another has added meanwhile is taken as it is, and is not new. Nothing is written for
        pools that exist. An identifier given twice has one pool.
        """
        wanted = {
            row_id: name
            for (_, name), row_id in Identifier.ids(session, identifier_type, identifiers).items()
        }
        mine = (cls.collection_id == collection.id) & (cls.data_source == data_source)

        def stored(identifier_ids: Iterable[int]) -> dict[int, LicensePool]:
            query = select(cls).where(mine, one_of(cls.identifier_id, identifier_ids))
            return {pool.identifier_id: pool for pool in session.scalars(query)}

        pools = stored(wanted)
        missing = sorted(wanted.keys() - pools.keys())
        added: set[int] = set()
        if missing:
            now = utc_now()
            rows = [
                {
                    "collection_id": collection.id,
                    "data_source": data_source,
                    "identifier_id": identifier_id,
                    "created_at": now,
                    "updated_at": now,
                }
                for identifier_id in missing
            ]
            statement = insert_of(table_of(cls), rows).on_conflict_do_nothing()
            added = set(session.scalars(statement.returning(cls.identifier_id)))
            pools |= stored(missing)
        return {wanted[row_id]: (pool, row_id in added) for row_id, pool in pools.items()}


class PurchaseRecord(Base):
    """One MARC record saying that the collection bought a title, under the day of the purchase (UTC).

    Where `month_only`, no more is known than the month, and the day is its first. `marc` is the vendor's
    record as binary MARC 21. `content_hash` leaves out what the vendor stamps anew in each answer, and so
    tells whether the record has changed.
    """

    __tablename__ = "purchase_records"
    __table_args__ = (
        UniqueConstraint("license_pool_id", "purchased_on"),
        # With all that purchases are counted by, so that none of a hundred thousand rows has to be read.
        Index(
            "ix_purchase_records_collection_id_purchased_on",
            "collection_id",
            "purchased_on",
            postgresql_include=["license_pool_id"],
        ),
        Index("ix_purchase_records_collection_id_license_pool_id", "collection_id", "license_pool_id"),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    collection_id: Mapped[int] = mapped_column(ForeignKey("collections.id", ondelete="CASCADE"))
    license_pool_id: Mapped[int] = mapped_column(ForeignKey("license_pools.id", ondelete="CASCADE"))
    purchased_on: Mapped[date]
    month_only: Mapped[bool] = mapped_column(server_default=false())
    marc: Mapped[bytes]
    content_hash: Mapped[str]


class ApplyOutbox(Base):
    """What still has to be applied to a pool and its edition: written with the page, deleted by the apply.

    `data` is an `ApplyData` as JSON. A row whose `published_at` lies far back has lost its message, and
    is published again.
    """

    __tablename__ = "apply_outbox"

    id: Mapped[int] = mapped_column(primary_key=True)
    license_pool_id: Mapped[int] = mapped_column(
        ForeignKey("license_pools.id", ondelete="CASCADE"), unique=True
    )
    data: Mapped[dict[str, Any]]
    published_at: Mapped[datetime] = mapped_column(index=True)

    license_pool: Mapped[LicensePool] = relationship()


class Edition(Base):
    """The description of one title by one data source; the same for every collection that holds it.

    `content_hash` is written with everything it vouches for, in one transaction. `search_text` is what the
    title is found by, `search_words` its words as full text search compares them; `accession_fold`, which a
    migration makes, takes accents and capitals away.
    """

    __tablename__ = "editions"
    __table_args__ = (
        UniqueConstraint("data_source", "identifier_id"),
        Index("ix_editions_format", "format"),
        Index("ix_editions_language", "language"),
        Index("ix_editions_search_words", "search_words", postgresql_using="gin"),
        Index(
            "ix_editions_search_trigrams",
            literal_column("accession_fold(search_text)").label("folded"),
            postgresql_using="gin",
            postgresql_ops={"folded": "gin_trgm_ops"},
        ),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    data_source: Mapped[str]
    identifier_id: Mapped[int] = mapped_column(ForeignKey("identifiers.id"))
    title: Mapped[str | None]
    subtitle: Mapped[str | None]
    publisher: Mapped[str | None]
    published: Mapped[str | None]
    on_sale: Mapped[str | None]
    language: Mapped[str | None]
    description: Mapped[str | None]
    page_count: Mapped[int | None]
    duration_ms: Mapped[int | None] = mapped_column(BigInteger)
    medium: Mapped[str | None]
    format: Mapped[str | None]
    search_text: Mapped[str | None] = mapped_column(deferred=True)
    # Stored: to take a title's words apart anew costs a tenth of a millisecond.
    search_words: Mapped[str | None] = mapped_column(
        TSVECTOR,
        Computed("to_tsvector('simple'::regconfig, accession_fold(search_text))", persisted=True),
        deferred=True,
    )
    content_hash: Mapped[str | None]
    as_of: Mapped[datetime | None]
    created_at: Mapped[datetime]
    updated_at: Mapped[datetime] = mapped_column(index=True)


class Contributor(Base):
    """A person, known by how the name is sorted and shown."""

    __tablename__ = "contributors"
    __table_args__ = (UniqueConstraint("sort_name", "display_name"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    sort_name: Mapped[str]
    display_name: Mapped[str]


class Contribution(Base):
    """What a contributor did for an edition."""

    __tablename__ = "contributions"

    edition_id: Mapped[int] = mapped_column(ForeignKey("editions.id", ondelete="CASCADE"), primary_key=True)
    contributor_id: Mapped[int] = mapped_column(ForeignKey("contributors.id"), primary_key=True, index=True)
    role: Mapped[str] = mapped_column(primary_key=True)
    position: Mapped[int]


class Subject(Base):
    """A subject heading of a scheme."""

    __tablename__ = "subjects"
    __table_args__ = (UniqueConstraint("scheme", "name"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    scheme: Mapped[str]
    name: Mapped[str]


class Classification(Base):
    """An edition is about a subject."""

    __tablename__ = "classifications"

    edition_id: Mapped[int] = mapped_column(ForeignKey("editions.id", ondelete="CASCADE"), primary_key=True)
    subject_id: Mapped[int] = mapped_column(ForeignKey("subjects.id"), primary_key=True, index=True)
    position: Mapped[int]


class Link(Base):
    """A web address of an edition: its cover, the cover's thumbnail."""

    __tablename__ = "links"

    edition_id: Mapped[int] = mapped_column(ForeignKey("editions.id", ondelete="CASCADE"), primary_key=True)
    rel: Mapped[str] = mapped_column(primary_key=True)
    href: Mapped[str] = mapped_column(primary_key=True)


class TitleChange(Base):
    """That an edition, or the counts or status of a pool, changed: by field what was so before and what is so
    since (`catalog.changes`)."""

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
        CheckConstraint("num_nonnulls(edition_id, license_pool_id) = 1", name="of_one"),
    )

    id: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    edition_id: Mapped[int | None] = mapped_column(ForeignKey("editions.id", ondelete="CASCADE"))
    license_pool_id: Mapped[int | None] = mapped_column(ForeignKey("license_pools.id", ondelete="CASCADE"))
    changed_at: Mapped[datetime]
    changes: Mapped[dict[str, Any]]


class RejectedRecord(Base):
    """A purchase record that could not be used, as the vendor sent it, and why; or, of another workflow, an
    event, of which nothing is kept that says who the patron was.

    `purchased_on` and `month_only` are what the window it came in tells of its purchase, so that a later try
    can store it as if it had passed at once.
    """

    __tablename__ = "rejected_records"
    __table_args__ = (
        UniqueConstraint("collection_id", "purchased_on", "content_hash"),
        Index(
            "ix_rejected_records_unresolved", "collection_id", postgresql_where=text("resolved_at IS NULL")
        ),
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
    """What whoever resolved it by hand had to say."""
