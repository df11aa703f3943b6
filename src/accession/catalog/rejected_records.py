"""Rejected records: purchase records and events that could not be imported, with the reason."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Select, func, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from accession.accounts.collections import is_of_collection
from accession.catalog.purchase_dates import PurchaseDate, may_have_date
from accession.core.clock import utc_now
from accession.core.errors import NotFound, UserError
from accession.core.text import clean_text
from accession.core.workflow import Workflow
from accession.db.models import Collection, RejectedRecord


@dataclass(frozen=True)
class RejectedRecordData:
    """A record to be stored as rejected."""

    reason: str
    raw_xml: str
    content_hash: str


@dataclass(frozen=True)
class RejectedRecordView:
    """A rejected purchase record or event."""

    id: int
    collection: str
    workflow: str
    purchased_on: str
    reason: str
    created_at: datetime
    resolved_at: datetime | None
    note: str | None


def store_rejected_records(
    session: Session,
    collection: Collection,
    purchase_date: PurchaseDate,
    records: Sequence[RejectedRecordData],
    workflow: Workflow = Workflow.PURCHASES,
) -> None:
    """Store rejected records; one that is already stored for the date is not stored again."""
    if not records:
        return
    rows = {
        record.content_hash: {
            "collection_id": collection.id,
            "workflow": workflow.value,
            **purchase_date.columns,
            "reason": record.reason,
            "raw_xml": record.raw_xml,
            "content_hash": record.content_hash,
            "created_at": utc_now(),
        }
        for record in records
    }
    query = select(RejectedRecord.content_hash).where(
        RejectedRecord.collection_id == collection.id, may_have_date(RejectedRecord, purchase_date)
    )
    known = set(session.scalars(query.where(RejectedRecord.content_hash.in_(rows))))
    if new := [row for content_hash, row in sorted(rows.items()) if content_hash not in known]:
        session.execute(insert(RejectedRecord).values(new).on_conflict_do_nothing())


def find_rejected_hashes(session: Session, collection: Collection, content_hashes: Iterable[str]) -> set[str]:
    """Return which of the content hashes are those of rejected records, open or resolved."""
    query = select(RejectedRecord.content_hash).where(RejectedRecord.collection_id == collection.id)
    return set(session.scalars(query.where(RejectedRecord.content_hash.in_(content_hashes))))


def lock_open_rejected_record(session: Session, record_id: int) -> RejectedRecord:
    """Return an open rejected record, whose row stays locked until the transaction ends.

    Raises:
        NotFound: no collection in use has such a record.
        UserError: the record is already resolved.
    """
    rejected = session.scalars(
        select(RejectedRecord)
        .where(is_of_collection(RejectedRecord.collection_id, None), RejectedRecord.id == record_id)
        .with_for_update()
        .execution_options(populate_existing=True)
    ).one_or_none()
    if rejected is None:
        raise _not_found(record_id)
    if rejected.resolved_at is not None:
        raise UserError(
            f"The rejected record {record_id} is already resolved: see `accession rejects list --all`."
        )
    return rejected


def resolve_rejected_record(session: Session, record_id: int, note: str) -> None:
    """Mark a rejected record as resolved, with a note, so that it is not retried.

    Raises:
        NotFound: no collection in use has such a record.
        UserError: the record is already resolved.
    """
    rejected = lock_open_rejected_record(session, record_id)
    rejected.resolved_at, rejected.note = utc_now(), clean_text(note)


def rejected_record_views(
    session: Session,
    *,
    collection: str | None = None,
    with_resolved: bool = False,
    limit: int | None = None,
    offset: int = 0,
) -> list[RejectedRecordView]:
    """Return the rejected records of one collection, or of all in use, oldest first."""
    query = _select_records().where(is_of_collection(RejectedRecord.collection_id, collection))
    if not with_resolved:
        query = query.where(RejectedRecord.resolved_at.is_(None))
    rows = session.execute(query.order_by(RejectedRecord.id).limit(limit).offset(offset))
    return [_view(rejected, name) for rejected, name in rows]


def find_rejected_record(session: Session, record_id: int) -> tuple[RejectedRecordView, str]:
    """Return a rejected record, open or resolved, and its raw XML.

    Raises:
        NotFound: no collection in use has such a record.
    """
    query = _select_records().where(
        is_of_collection(RejectedRecord.collection_id, None), RejectedRecord.id == record_id
    )
    row = session.execute(query).one_or_none()
    if row is None:
        raise _not_found(record_id)
    rejected, name = row
    return _view(rejected, name), rejected.raw_xml


def count_open_rejected_records(session: Session) -> dict[str, int]:
    """Return the number of open rejected records by name, for every collection in use."""
    is_open = RejectedRecord.resolved_at.is_(None) & (RejectedRecord.collection_id == Collection.id)
    number = select(func.count()).where(is_open).scalar_subquery()
    query = select(Collection.name, number).where(Collection.marked_for_deletion_at.is_(None))
    return dict(session.execute(query).all())


def _select_records() -> Select[RejectedRecord, str]:
    return select(RejectedRecord, Collection.name).join(
        Collection, RejectedRecord.collection_id == Collection.id
    )


def _view(rejected: RejectedRecord, collection: str) -> RejectedRecordView:
    return RejectedRecordView(
        id=rejected.id,
        collection=collection,
        workflow=rejected.workflow,
        purchased_on=str(PurchaseDate(rejected.purchased_on, rejected.month_only)),
        reason=rejected.reason,
        created_at=rejected.created_at,
        resolved_at=rejected.resolved_at,
        note=rejected.note,
    )


def _not_found(record_id: int) -> NotFound:
    return NotFound(f"There is no rejected record {record_id}: see `accession rejects list --all`.")
