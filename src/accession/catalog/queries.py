"""What status and listings show, read from the ledger and the catalogue and kept nowhere else.

The field names of these views are the field names of `--json`: documented in docs/json.md, and stable.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from datetime import datetime
from typing import Any

from sqlalchemy import (
    ARRAY,
    BigInteger,
    ColumnElement,
    Row,
    Select,
    Table,
    Text,
    case,
    cast,
    func,
    literal,
    literal_column,
    select,
    true,
)
from sqlalchemy.orm import InstrumentedAttribute, Session

from accession.catalog.collections import collections_in_use
from accession.catalog.data import IdentifierType, LinkRel, Role, SubjectScheme
from accession.catalog.ledger import LEASE, SERVICE_TYPE, Workflow
from accession.catalog.marc import MarcField, marc_fields
from accession.catalog.models import (
    ACTIVE_STATES,
    BEGUN_STATES,
    ApplyOutbox,
    Base,
    Classification,
    Collection,
    Contribution,
    Contributor,
    Edition,
    Identifier,
    IdentifierEquivalent,
    LicensePool,
    Link,
    PurchaseRecord,
    RejectedRecord,
    Run,
    RunState,
    Subject,
    Timestamp,
)
from accession.catalog.records import PurchaseDate
from accession.catalog.rows import one_of
from accession.clock import utc_now
from accession.errors import NotFound

NEVER = "never"
_DAY_OR_MONTH = case((PurchaseRecord.month_only, "YYYY-MM"), else_="YYYY-MM-DD")
_BATCH = 1000

# What a title's view has from its edition, and from its pool, by the same names.
_OF_THE_EDITION = (
    "title",
    "subtitle",
    "medium",
    "format",
    "language",
    "publisher",
    "published",
    "page_count",
    "duration_ms",
    "description",
)
_OF_THE_POOL = (
    "licenses_owned",
    "licenses_available",
    "licenses_reserved",
    "patrons_in_hold_queue",
    "status",
)

# What of a link's arguments says where the run is; the rest is between one link and the next.
_CURSOR: Mapping[str, Sequence[str]] = {
    Workflow.PURCHASES: ("current_day", "offset"),
    Workflow.EVENTS: ("start",),
    Workflow.CIRCULATION: ("offset",),
}


@dataclass(frozen=True)
class CollectionView:
    """A collection as it may be shown: without its key."""

    name: str
    library_id: str
    account_id: str
    base_url: str
    titles: int
    created_at: datetime


@dataclass(frozen=True)
class StatusView:
    """Where one workflow stands for one collection: its checkpoint and its latest run."""

    collection: str
    workflow: str
    state: str = NEVER
    checkpoint: datetime | None = None
    cursor: Mapping[str, Any] | None = None
    pages: int = 0
    records_fetched: int = 0
    records_stored: int = 0
    records_rejected: int = 0
    titles_new: int = 0
    titles_changed: int = 0
    applies_pending: int = 0
    started_at: datetime | None = None
    finished_at: datetime | None = None
    error: str | None = None


@dataclass(frozen=True)
class RunView:
    """One run of the ledger. `cursor` is where it will go on, None once it has ended."""

    id: int
    collection: str
    workflow: str
    state: str
    cursor: Mapping[str, Any] | None
    pages: int
    records_fetched: int
    records_stored: int
    records_rejected: int
    titles_new: int
    titles_changed: int
    repairs: int
    started_at: datetime
    updated_at: datetime
    finished_at: datetime | None
    error: str | None


_OF_THE_RUN = {field.name for field in fields(StatusView)} & {field.name for field in fields(RunView)}


@dataclass(frozen=True)
class TitleView:
    """A collection's title with all that is known of it; names are in reading order. `purchased_on` is the
    first day of a purchase (UTC, ISO 8601), or its month where no more is known."""

    collection: str
    identifier: str
    title: str | None
    subtitle: str | None
    authors: tuple[str, ...]
    narrators: tuple[str, ...]
    medium: str | None
    format: str | None
    language: str | None
    publisher: str | None
    published: str | None
    isbns: tuple[str, ...]
    subjects: tuple[str, ...]
    page_count: int | None
    duration_ms: int | None
    description: str | None
    cover_url: str | None
    licenses_owned: int
    licenses_available: int
    licenses_reserved: int
    patrons_in_hold_queue: int
    status: str
    purchased_on: str | None
    updated_at: datetime


@dataclass(frozen=True)
class RejectView:
    """A purchase record, or an event, that could not be used."""

    id: int
    collection: str
    workflow: str
    purchased_on: str
    reason: str
    created_at: datetime
    resolved_at: datetime | None
    note: str | None


@dataclass(frozen=True)
class PurchaseRecordView:
    """A MARC record of the vendor's that says when a title was bought, as `TitleView` has it."""

    purchased_on: str
    fields: tuple[MarcField, ...]


def collection_views(session: Session) -> list[CollectionView]:
    """Every collection in use, by name."""
    owned = select(LicensePool.collection_id, func.count()).group_by(LicensePool.collection_id)
    counts = dict(session.execute(owned).all())
    return [
        CollectionView(c.name, c.library_id, c.account_id, c.base_url, counts.get(c.id, 0), c.created_at)
        for c in collections_in_use(session)
    ]


def status_views(session: Session) -> list[StatusView]:
    """Every workflow of every collection in use."""
    runs, finishes, pending = latest_runs(session), checkpoints(session), applies_pending(session)
    return [
        _status_view(
            collection,
            workflow,
            runs.get((collection.id, workflow.value)),
            finishes.get((collection.id, workflow.service)),
            pending.get(collection.id, 0),
        )
        for collection in collections_in_use(session)
        for workflow in Workflow
    ]


def checkpoints(session: Session) -> dict[tuple[int, str], datetime | None]:
    """Up to where each service is complete, by collection id and service."""
    query = select(Timestamp.collection_id, Timestamp.service, Timestamp.finish)
    rows = session.execute(query.where(Timestamp.service_type == SERVICE_TYPE))
    return {(collection_id, service): finish for collection_id, service, finish in rows}


def applies_pending(session: Session) -> dict[int, int]:
    """How many titles of each collection, by its id, still have to be applied, where there are any."""
    query = select(LicensePool.collection_id, func.count()).join(ApplyOutbox.license_pool)
    return dict(session.execute(query.group_by(LicensePool.collection_id)).all())


def latest_runs(session: Session) -> dict[tuple[int, str], Run]:
    """The newest run of each collection and workflow; but one that waits to begin does not hide the one at
    work, for which it may be refused."""
    every = func.unnest(literal(list(Workflow), ARRAY(Text))).table_valued("workflow", name="every")
    every = every.render_derived()
    # One by one, each found by an index: the ledger keeps every run there ever was.
    mine = select(Run.id).where(Run.collection_id == Collection.id, Run.workflow == every.c.workflow)
    latest = mine.order_by(Run.id.desc()).limit(1).scalar_subquery()
    newest = select(latest).select_from(Collection).join(every, true())
    at_work = select(Run).where(Run.state.in_(BEGUN_STATES)).order_by(Run.id)
    runs = [*session.scalars(select(Run).where(Run.id.in_(newest))), *session.scalars(at_work)]
    return {(run.collection_id, run.workflow): run for run in runs}


def _status_view(
    collection: Collection,
    workflow: Workflow,
    run: Run | None,
    checkpoint: datetime | None,
    applies_pending: int,
) -> StatusView:
    unrun = StatusView(
        collection.name, workflow.value, checkpoint=checkpoint, applies_pending=applies_pending
    )
    if run is None:
        return unrun
    view = _run_view(run, collection.name)
    return replace(unrun, **{name: getattr(view, name) for name in _OF_THE_RUN})


def run_views(
    session: Session,
    *,
    collection: str | None = None,
    workflow: str | None = None,
    state: str | None = None,
    before_id: int | None = None,
    limit: int | None = None,
) -> list[RunView]:
    """The runs of collections in use, newest first; those before the run `before_id`, where that is given."""
    query = _runs().where(in_use(Run.collection_id, collection))
    if workflow is not None:
        query = query.where(Run.workflow == workflow)
    if state is not None:
        query = query.where(_is_shown_as(state))
    if before_id is not None:
        query = query.where(Run.id < before_id)
    rows = session.execute(query.order_by(Run.id.desc()).limit(limit))
    return [_run_view(run, name) for run, name in rows]


def shown_state(run: Run) -> str:
    """The run's state; one that has been silent for too long counts as interrupted."""
    silent = run.state in BEGUN_STATES and run.updated_at < utc_now() - LEASE
    return RunState.INTERRUPTED.value if silent else run.state


def run_view(session: Session, run_id: int) -> RunView:
    """One run; raises `NotFound` when there is none of that number in a collection in use."""
    query = _runs().where(in_use(Run.collection_id, None), Run.id == run_id)
    found = session.execute(query).one_or_none()
    if found is None:
        raise NotFound(f"There is no run {run_id}: see `accession runs list`.")
    run, name = found
    return _run_view(run, name)


def _runs() -> Select[Run, str]:
    return select(Run, Collection.name).join(Collection, Run.collection_id == Collection.id)


def _is_shown_as(state: str) -> ColumnElement[bool]:
    """That a run has the state that its view shows."""
    silent = Run.updated_at < utc_now() - LEASE
    if state in BEGUN_STATES:
        return (Run.state == state) & ~silent
    if state == RunState.INTERRUPTED:
        return (Run.state == state) | Run.state.in_(BEGUN_STATES) & silent
    return Run.state == state


def _run_view(run: Run, collection: str) -> RunView:
    active = run.state in ACTIVE_STATES
    return RunView(
        id=run.id,
        collection=collection,
        workflow=run.workflow,
        state=shown_state(run),
        cursor={name: run.cursor.get(name) for name in _CURSOR[run.workflow]} if active else None,
        pages=run.pages,
        records_fetched=run.records_fetched,
        records_stored=run.records_stored,
        records_rejected=run.records_rejected,
        titles_new=run.titles_new,
        titles_changed=run.titles_changed,
        repairs=run.repairs,
        started_at=run.started_at,
        updated_at=run.updated_at,
        finished_at=run.finished_at,
        error=run.error,
    )


def reject_views(
    session: Session,
    *,
    collection: str | None = None,
    with_resolved: bool = False,
    limit: int | None = None,
    offset: int = 0,
) -> list[RejectView]:
    """The rejected records of collections in use, oldest first; resolved ones only on request."""
    query = _rejects().where(in_use(RejectedRecord.collection_id, collection))
    if not with_resolved:
        query = query.where(RejectedRecord.resolved_at.is_(None))
    rows = session.execute(query.order_by(RejectedRecord.id).limit(limit).offset(offset))
    return [_reject_view(rejected, name) for rejected, name in rows]


def reject_view(session: Session, record_id: int) -> tuple[RejectView, str]:
    """One rejected record, resolved or not, and what the vendor sent.

    Raises `NotFound` when there is none of that number in a collection in use.
    """
    query = _rejects().where(in_use(RejectedRecord.collection_id, None), RejectedRecord.id == record_id)
    found = session.execute(query).one_or_none()
    if found is None:
        raise NotFound(f"There is no rejected record {record_id}: see `accession rejects list --all`.")
    rejected, name = found
    return _reject_view(rejected, name), rejected.raw_xml


def _rejects() -> Select[RejectedRecord, str]:
    return select(RejectedRecord, Collection.name).join(
        Collection, RejectedRecord.collection_id == Collection.id
    )


def _reject_view(rejected: RejectedRecord, collection: str) -> RejectView:
    return RejectView(
        rejected.id,
        collection,
        rejected.workflow,
        str(PurchaseDate(rejected.purchased_on, rejected.month_only)),
        rejected.reason,
        rejected.created_at,
        rejected.resolved_at,
        rejected.note,
    )


def unresolved_rejects(session: Session) -> dict[str, int]:
    """How many rejected records of each collection in use nobody has resolved."""
    unresolved = RejectedRecord.resolved_at.is_(None) & (RejectedRecord.collection_id == Collection.id)
    number = select(func.count()).where(unresolved).scalar_subquery()
    query = select(Collection.name, number).where(Collection.marked_for_deletion_at.is_(None))
    return dict(session.execute(query).all())


def runs_at_work(session: Session) -> dict[Workflow, int]:
    """How many runs of each workflow have begun and not ended."""
    query = select(Run.workflow, func.count()).where(Run.state.in_(BEGUN_STATES)).group_by(Run.workflow)
    found = dict(session.execute(query).all())
    return {workflow: found.get(workflow.value, 0) for workflow in Workflow}


def count_pending_applies(session: Session, collection_id: int) -> int:
    """How many of the collection's titles still have to be applied."""
    query = select(func.count()).select_from(ApplyOutbox).join(ApplyOutbox.license_pool)
    return session.scalar(query.where(LicensePool.collection_id == collection_id)) or 0


def count_titles(session: Session, *, collection: str | None = None) -> int:
    """How many titles the collection, or every collection in use, holds."""
    query = select(func.count()).select_from(LicensePool)
    if collection is not None:
        return session.scalar(query.where(in_use(LicensePool.collection_id, collection))) or 0
    # All less those of collections that are leaving: to ask of each whether it counts takes twice as long.
    leaving = select(Collection.id).where(Collection.marked_for_deletion_at.is_not(None))
    not_counted = query.where(LicensePool.collection_id.in_(leaving)).scalar_subquery()
    return session.scalar(select(query.scalar_subquery() - not_counted)) or 0


def title_views(
    session: Session,
    *,
    collection: str | None = None,
    identifiers: Sequence[str] | None = None,
    limit: int | None = None,
) -> Iterator[TitleView]:
    """Titles in the order they were first imported, read in batches so that memory stays flat."""
    last_id = 0
    while limit is None or limit > 0:
        size = _BATCH if limit is None else min(limit, _BATCH)
        query = _title_rows(collection, identifiers).where(LicensePool.id > last_id)
        rows = session.execute(query.order_by(LicensePool.id).limit(size)).all()
        yield from _with_details(session, rows)
        if len(rows) < size:
            return
        last_id = rows[-1].pool_id
        limit = None if limit is None else limit - size


def in_use(collection_id: InstrumentedAttribute[int], name: str | None) -> ColumnElement[bool]:
    """That a row is of the collection in use that has the name, or of any."""
    ids = select(Collection.id).where(Collection.marked_for_deletion_at.is_(None))
    if name is None:
        return collection_id.in_(ids)
    # As one id, so that an index by it has the rows in the order in which they are wanted.
    return collection_id == ids.where(Collection.name == name).scalar_subquery()


def titles_of_pools(session: Session, pool_ids: Sequence[int]) -> list[TitleView]:
    """The titles of those of these pools that there are, in their order."""
    if not pool_ids:
        return []
    rows = session.execute(_titles().where(one_of(LicensePool.id, pool_ids))).all()
    by_pool = {row.pool_id: row for row in rows}
    return list(_with_details(session, [by_pool[pool_id] for pool_id in pool_ids if pool_id in by_pool]))


def bisac_among(session: Session, subjects: Iterable[str]) -> frozenset[str]:
    """Those of the subjects, by name, that are BISAC headings."""
    query = select(Subject.name).where(Subject.scheme == SubjectScheme.BISAC)
    return frozenset(session.scalars(query.where(one_of(Subject.name, set(subjects)))))


def describes() -> ColumnElement[bool]:
    """That the edition is the one of the pool's title."""
    return (Edition.identifier_id == LicensePool.identifier_id) & (
        Edition.data_source == LicensePool.data_source
    )


def _title_rows(collection: str | None, identifiers: Sequence[str] | None) -> Select[Any]:
    query = _titles().where(in_use(LicensePool.collection_id, collection))
    if identifiers is None:
        return query
    # The index has the type first.
    return query.where(Identifier.type.in_(IdentifierType), Identifier.identifier.in_(identifiers))


def _titles() -> Select[Any]:
    first_day = (
        select(func.to_char(PurchaseRecord.purchased_on, _DAY_OR_MONTH))
        .where(PurchaseRecord.license_pool_id == LicensePool.id)
        .order_by(PurchaseRecord.purchased_on)
        .limit(1)
        .scalar_subquery()
    )
    # As columns: to make objects of whole rows takes longer than to read them.
    return (
        select(
            LicensePool.id.label("pool_id"),
            LicensePool.identifier_id,
            Edition.id.label("edition_id"),
            Collection.name.label("collection"),
            Identifier.identifier,
            *(getattr(Edition, name) for name in _OF_THE_EDITION),
            *(getattr(LicensePool, name) for name in _OF_THE_POOL),
            first_day.label("purchased_on"),
            func.greatest(LicensePool.updated_at, Edition.updated_at).label("updated_at"),
        )
        .join(Collection, LicensePool.collection_id == Collection.id)
        .join(Identifier, LicensePool.identifier_id == Identifier.id)
        .outerjoin(Edition, describes())
    )


def _with_details(session: Session, rows: Sequence[Row[Any]]) -> Iterator[TitleView]:
    editions = [row.edition_id for row in rows if row.edition_id is not None]
    people = _grouped(
        session,
        select(Contribution.edition_id, Contribution.role, Contributor.display_name)
        .join(Contributor, Contribution.contributor_id == Contributor.id)
        .where(one_of(Contribution.edition_id, editions))
        .order_by(Contribution.position),
    )
    subjects = _grouped(
        session,
        select(Classification.edition_id, Subject.name)
        .join(Subject, Classification.subject_id == Subject.id)
        .where(one_of(Classification.edition_id, editions))
        .order_by(Classification.position),
    )
    links = _grouped(
        session, select(Link.edition_id, Link.rel, Link.href).where(one_of(Link.edition_id, editions))
    )
    isbns = _grouped(
        session,
        select(IdentifierEquivalent.identifier_id, Identifier.identifier)
        .join(Identifier, IdentifierEquivalent.equivalent_id == Identifier.id)
        .where(one_of(IdentifierEquivalent.identifier_id, [row.identifier_id for row in rows]))
        .order_by(IdentifierEquivalent.position),
    )
    for row in rows:
        people_of, links_of = people[row.edition_id], links[row.edition_id]
        yield TitleView(
            collection=row.collection,
            identifier=row.identifier,
            title=row.title,
            subtitle=row.subtitle,
            authors=tuple(name for role, name in people_of if role == Role.AUTHOR),
            narrators=tuple(name for role, name in people_of if role == Role.NARRATOR),
            medium=row.medium,
            format=row.format,
            language=row.language,
            publisher=row.publisher,
            published=row.published,
            isbns=tuple(isbn for (isbn,) in isbns[row.identifier_id]),
            subjects=tuple(name for (name,) in subjects[row.edition_id]),
            page_count=row.page_count,
            duration_ms=row.duration_ms,
            description=row.description,
            cover_url=next((href for rel, href in links_of if rel == LinkRel.COVER), None),
            licenses_owned=row.licenses_owned,
            licenses_available=row.licenses_available,
            licenses_reserved=row.licenses_reserved,
            patrons_in_hold_queue=row.patrons_in_hold_queue,
            status=row.status,
            purchased_on=row.purchased_on,
            updated_at=row.updated_at,
        )


def purchase_record_views(session: Session, collection: str, identifier: str) -> list[PurchaseRecordView]:
    """The purchase records of a collection's title, oldest first; none where it has no such title."""
    query = (
        select(PurchaseRecord)
        .join(LicensePool, PurchaseRecord.license_pool_id == LicensePool.id)
        .join(Identifier, LicensePool.identifier_id == Identifier.id)
        .where(in_use(LicensePool.collection_id, collection))
        .where(Identifier.type.in_(IdentifierType), Identifier.identifier == identifier)
        .order_by(PurchaseRecord.purchased_on)
    )
    return [
        PurchaseRecordView(
            str(PurchaseDate(record.purchased_on, record.month_only)), tuple(marc_fields(record.marc))
        )
        for record in session.scalars(query)
    ]


def _grouped(session: Session, query: Any) -> defaultdict[int, list[tuple[Any, ...]]]:
    groups: defaultdict[int, list[tuple[Any, ...]]] = defaultdict(list)
    for key, *rest in session.execute(query):
        groups[key].append(tuple(rest))
    return groups


@dataclass(frozen=True)
class WriteMark:
    """A moment in the life of the catalogue tables: a transaction, and how many rows they had."""

    transaction_id: int
    rows: int


def write_mark(session: Session) -> WriteMark:
    """Note where the catalogue tables stand, for `rows_written_since`."""
    transaction_id = session.scalar(select(func.txid_current())) or 0
    return WriteMark(transaction_id, sum(_count(session, table) for table in _CATALOGUE_TABLES))


def rows_written_since(session: Session, mark: WriteMark) -> int:
    """How many rows of the catalogue tables were inserted, updated or deleted since `mark`.

    Every row carries the transaction that wrote it. Meant for a demonstration: within two thousand
    million transactions, after which the server's counter begins anew.
    """
    written = 0
    rows = 0
    for table in _CATALOGUE_TABLES:
        writer = cast(cast(literal_column(f"{table.name}.xmin"), Text), BigInteger)
        written += _count(session, table, writer >= mark.transaction_id % 2**32)
        rows += _count(session, table)
    # An update leaves as many rows as before: only a loss of rows shows a deletion.
    return written + max(0, mark.rows - rows)


def _count(session: Session, table: Table, *where: ColumnElement[bool]) -> int:
    return session.scalar(select(func.count()).select_from(table).where(*where)) or 0


# Ledger, checkpoints and accounts, and who may use all this; the others say what the library holds.
_BESIDE_THE_CATALOGUE = (
    "api_tokens",
    "collections",
    "looked_up_titles",
    "run_retries",
    "run_samples",
    "run_totals",
    "runs",
    "swept_batches",
    "timestamps",
    "users",
)
_CATALOGUE_TABLES = [
    table for name, table in Base.metadata.tables.items() if name not in _BESIDE_THE_CATALOGUE
]
