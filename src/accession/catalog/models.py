"""The tables of the catalogue. Every time is `timestamptz`, in UTC."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import date, datetime
from enum import StrEnum
from typing import Any, ClassVar, cast

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Computed,
    DateTime,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
    UniqueConstraint,
    false,
    literal_column,
    select,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB, TSVECTOR
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, composite, mapped_column, relationship

from accession.catalog.counts import Counts
from accession.catalog.data import IdentifierType
from accession.catalog.rows import insert_of, natural_key_ids, one_of
from accession.clock import utc_now


class Base(DeclarativeBase):
    """Names every constraint, so that a migration can name it too."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map: ClassVar[dict[Any, Any]] = {
        str: Text(),
        datetime: DateTime(timezone=True),
        bytes: LargeBinary(),
        dict[str, Any]: JSONB(),
        list[int]: ARRAY(Integer),
        list[str]: ARRAY(Text),
    }


def table_of(model: type[Base]) -> Table:
    """The table behind a model, for statements on rows rather than on objects."""
    return cast(Table, model.__table__)


class Collection(Base):
    """One library's account with the vendor. The account key is encrypted (`catalog.keys`)."""

    __tablename__ = "collections"
    __table_args__ = (
        # A name is free again once its collection is on its way out.
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
    created_at: Mapped[datetime] = mapped_column(default=utc_now)
    marked_for_deletion_at: Mapped[datetime | None]


class Timestamp(Base):
    """The checkpoint: up to where one service is complete for one collection.

    `finish` is a moment (purchases, events), `counter` an identifier's id (circulation).
    """

    __tablename__ = "timestamps"
    __table_args__ = (UniqueConstraint("collection_id", "service", "service_type"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    collection_id: Mapped[int] = mapped_column(ForeignKey("collections.id", ondelete="CASCADE"))
    service: Mapped[str]
    service_type: Mapped[str]
    finish: Mapped[datetime | None]
    counter: Mapped[int | None]


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


class RunState(StrEnum):
    """How a run stands."""

    QUEUED = "queued"
    """It was asked for, and no worker has begun it yet."""
    RUNNING = "running"
    RETRYING = "retrying"
    """A page met a vendor fault and will be tried again."""
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    INTERRUPTED = "interrupted"
    """It stopped before its end and will not go on: superseded, or its collection is leaving."""


BEGUN_STATES = (RunState.RUNNING, RunState.RETRYING)
ACTIVE_STATES = (RunState.QUEUED, *BEGUN_STATES)


class Run(Base):
    """The ledger's row for one chain: where it stands and what it has done so far.

    `cursor` holds the arguments of the link that is expected next: the page that commits moves it on,
    in its own transaction, and a link sent with any other cursor has nothing to do here.
    """

    __tablename__ = "runs"
    __table_args__ = (
        Index("ix_runs_collection_id_workflow_id", "collection_id", "workflow", "id"),
        Index("ix_runs_collection_id_id", "collection_id", "id"),
        Index("ix_runs_state_id", "state", "id"),
        Index(
            "ix_runs_active",
            "collection_id",
            postgresql_where=text("state IN ('queued', 'running', 'retrying')"),
        ),
        # Nothing that the vendor has told is dropped.
        CheckConstraint("records_fetched = records_stored + records_rejected", name="records_kept"),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    collection_id: Mapped[int] = mapped_column(ForeignKey("collections.id", ondelete="CASCADE"))
    workflow: Mapped[str]
    task_id: Mapped[str] = mapped_column(unique=True)
    state: Mapped[str]
    cursor: Mapped[dict[str, Any]]
    since: Mapped[datetime | None]
    pages: Mapped[int] = mapped_column(default=0)
    records_fetched: Mapped[int] = mapped_column(default=0)
    records_stored: Mapped[int] = mapped_column(default=0)
    records_rejected: Mapped[int] = mapped_column(default=0)
    titles_new: Mapped[int] = mapped_column(default=0)
    titles_changed: Mapped[int] = mapped_column(default=0)
    repairs: Mapped[int] = mapped_column(default=0)
    started_at: Mapped[datetime]
    updated_at: Mapped[datetime]
    sampled_at: Mapped[datetime | None]
    """When the last of its samples was taken."""
    finished_at: Mapped[datetime | None]
    error: Mapped[str | None]


class Retry(Base):
    """That a page of a run met a fault and was to be tried again, for the nth time (from 1), and why."""

    __tablename__ = "run_retries"
    __table_args__ = (Index("ix_run_retries_run_id_id", "run_id", "id"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    run_id: Mapped[int] = mapped_column(ForeignKey("runs.id", ondelete="CASCADE"))
    at: Mapped[datetime]
    retry: Mapped[int]
    reason: Mapped[str]


class Sample(Base):
    """What a run had done at a moment."""

    __tablename__ = "run_samples"

    run_id: Mapped[int] = mapped_column(ForeignKey("runs.id", ondelete="CASCADE"), primary_key=True)
    at: Mapped[datetime] = mapped_column(primary_key=True)
    pages: Mapped[int]
    records_fetched: Mapped[int]


class RunTotals(Base):
    """What all runs of a workflow that have ended have counted: it stays when their rows go."""

    __tablename__ = "run_totals"

    workflow: Mapped[str] = mapped_column(primary_key=True)
    pages: Mapped[int] = mapped_column(BigInteger)
    records_fetched: Mapped[int] = mapped_column(BigInteger)
    records_stored: Mapped[int] = mapped_column(BigInteger)
    records_rejected: Mapped[int] = mapped_column(BigInteger)
    titles_new: Mapped[int] = mapped_column(BigInteger)
    titles_changed: Mapped[int] = mapped_column(BigInteger)
    repairs: Mapped[int] = mapped_column(BigInteger)


class LookedUpTitle(Base):
    """That a run has looked up a title, by the vendor's id, so that it need not do so twice. The rows go with
    the end of the run."""

    __tablename__ = "looked_up_titles"

    run_id: Mapped[int] = mapped_column(ForeignKey("runs.id", ondelete="CASCADE"), primary_key=True)
    identifier: Mapped[str] = mapped_column(primary_key=True)


class SweptBatch(Base):
    """When the circulation sweep last asked about a batch of a collection's titles.

    It stands in the ledger, a row a batch, because a sweep writes nothing to pools that are as they
    were. `after_id` is the offset the batch began at, `identifier_ids` those of its titles whose counts
    were told.
    """

    __tablename__ = "swept_batches"

    collection_id: Mapped[int] = mapped_column(
        ForeignKey("collections.id", ondelete="CASCADE"), primary_key=True
    )
    after_id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    identifier_ids: Mapped[list[int]]
    swept_at: Mapped[datetime]


class User(Base):
    """Someone who may log in to the dashboard. A session is begun with the `session_key` of its time, and
    ends when that is renewed."""

    __tablename__ = "users"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(unique=True)
    password_hash: Mapped[str]
    role: Mapped[str]
    created_at: Mapped[datetime] = mapped_column(default=utc_now)
    session_key: Mapped[str]


class ApiToken(Base):
    """What a program shows, as a hash; kept when it is revoked. It is of a role, or opens feeds, of every
    collection or of one."""

    __tablename__ = "api_tokens"
    __table_args__ = (
        Index(
            "uq_api_tokens_name_in_use",
            "name",
            unique=True,
            postgresql_where=text("revoked_at IS NULL"),
        ),
        CheckConstraint(
            "num_nonnulls(role, feeds) = 1 AND num_nonnulls(role, collection_id) < 2", name="opens"
        ),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]
    token_hash: Mapped[str] = mapped_column(unique=True)
    role: Mapped[str | None]
    feeds: Mapped[list[str] | None]
    collection_id: Mapped[int | None] = mapped_column(ForeignKey("collections.id", ondelete="CASCADE"))
    created_at: Mapped[datetime] = mapped_column(default=utc_now)
    last_used_at: Mapped[datetime | None]
    revoked_at: Mapped[datetime | None]
