"""Rejected records: purchase records and events that could not be imported, with the reason."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time

from sqlalchemy import ColumnElement, Select, func, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from accession.accounts.collections import is_of_collection
from accession.catalog.purchase_dates import PurchaseDate
from accession.core.clock import utc_now
from accession.core.errors import NotFound, UserError
from accession.core.text import clean_text
from accession.core.workflow import Workflow
from accession.db.bulk import in_array
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
        RejectedRecord.collection_id == collection.id, _may_have_date(purchase_date)
    )
    known = set(session.scalars(query.where(RejectedRecord.content_hash.in_(rows))))
    if new := [row for content_hash, row in sorted(rows.items()) if content_hash not in known]:
        session.execute(insert(RejectedRecord).values(new).on_conflict_do_nothing())


def _may_have_date(purchase_date: PurchaseDate) -> ColumnElement[bool]:
    """Return the condition that a row's date is the same as the purchase date, or one includes the other."""
    row = RejectedRecord
    in_month = row.purchased_on == purchase_date.day.replace(day=1)
    return row.purchased_on.between(*purchase_date.days) | (row.month_only & in_month)


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
    reason: str | None = None,
    received_from: date | None = None,
    limit: int | None = None,
    offset: int = 0,
) -> list[RejectedRecordView]:
    """Return the rejected records of one collection, or of all in use, oldest first.

    `reason` is one of `reason_group`; `received_from` the first day (UTC) on which a record was received.
    """
    query = _select_records().where(is_of_collection(RejectedRecord.collection_id, collection))
    if reason is not None:
        query = query.where(reason_group() == reason)
    if received_from is not None:
        query = query.where(RejectedRecord.created_at >= datetime.combine(received_from, time(), UTC))
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


@dataclass(frozen=True)
class OpenReason:
    """Open records that were rejected for one reason.

    `reason` is one of `reason_group`, and `last_id` the highest number of the records.
    """

    reason: str
    records: int
    last_id: int
    first_received_at: datetime
    last_received_at: datetime


def open_rejection_reasons(session: Session, *, collection: str | None = None) -> list[OpenReason]:
    """Return the reasons of the open records of one collection, or of all in use, most frequent first."""
    group = reason_group().label("reason")
    number, received = func.count().label("records"), RejectedRecord.created_at
    last_id = func.max(RejectedRecord.id)
    query = select(group, number, last_id, func.min(received), func.max(received))
    query = query.where(_is_open(collection)).group_by(group).order_by(number.desc(), group)
    return [OpenReason(*row) for row in session.execute(query)]


def open_rejected_record_ids(
    session: Session,
    *,
    collection: str | None = None,
    reason: str | None = None,
    last_id: int | None = None,
) -> list[int]:
    """Return the numbers of open records: of one collection or all, rejected for one reason or any.

    `last_id` leaves out records that were rejected later than this one.
    """
    query = select(RejectedRecord.id).where(_is_open(collection))
    if reason is not None:
        query = query.where(reason_group() == reason)
    if last_id is not None:
        query = query.where(RejectedRecord.id <= last_id)
    return list(session.scalars(query.order_by(RejectedRecord.id)))


def resolve_rejected_records(session: Session, record_ids: Sequence[int], note: str) -> int:
    """Mark rejected records as resolved, with a note; return how many of them were open."""
    of_records = in_array(RejectedRecord.id, record_ids)
    statement = update(RejectedRecord).where(of_records, RejectedRecord.resolved_at.is_(None))
    statement = statement.values(resolved_at=utc_now(), note=clean_text(note)).returning(RejectedRecord.id)
    return len(session.scalars(statement.execution_options(synchronize_session=False)).all())


def _is_open(collection: str | None) -> ColumnElement[bool]:
    return RejectedRecord.resolved_at.is_(None) & is_of_collection(RejectedRecord.collection_id, collection)


def count_open_rejected_records(session: Session) -> dict[str, int]:
    """Return the number of open rejected records by name, for every collection in use."""
    is_open = RejectedRecord.resolved_at.is_(None) & (RejectedRecord.collection_id == Collection.id)
    number = select(func.count()).where(is_open).scalar_subquery()
    query = select(Collection.name, number).where(Collection.marked_for_deletion_at.is_(None))
    return dict(session.execute(query).all())


def reason_group() -> ColumnElement[str]:
    """Return the reason without the values that it quotes from the record, as a column."""
    # Several identifiers are listed without quotation marks.
    quoted = r"""'[^']*'|"[^"]*"|(?<=identifiers \(001\): ).*"""
    return func.regexp_replace(RejectedRecord.reason, quoted, "…", "g")


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
