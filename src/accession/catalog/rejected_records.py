"""TODO."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import (
    Select,
    func,
    select,
)
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from accession.accounts.collections import in_use
from accession.catalog.purchase_records import PurchaseDate, _dated, _may_be
from accession.core.clock import utc_now
from accession.core.errors import NotFound, UserError
from accession.core.text import storable
from accession.core.workflow import Workflow
from accession.db.models import Collection, RejectedRecord


@dataclass(frozen=True)
class Rejection:
    """A record of the vendor's that cannot be used, and why."""

    reason: str
    raw_xml: str
    content_hash: str


def keep_rejected(
    session: Session,
    collection: Collection,
    bought: PurchaseDate,
    rejections: Sequence[Rejection],
    workflow: Workflow = Workflow.PURCHASES,
) -> None:
    """Afterwards each rejection of the date is kept once, however often the vendor sends it."""
    if not rejections:
        return
    rows = {
        rejection.content_hash: {
            "collection_id": collection.id,
            "workflow": workflow.value,
            **_dated(bought),
            "reason": rejection.reason,
            "raw_xml": rejection.raw_xml,
            "content_hash": rejection.content_hash,
            "created_at": utc_now(),
        }
        for rejection in rejections
    }
    query = select(RejectedRecord.content_hash).where(
        RejectedRecord.collection_id == collection.id, _may_be(RejectedRecord, bought)
    )
    known = set(session.scalars(query.where(RejectedRecord.content_hash.in_(rows))))
    if new := [row for content_hash, row in sorted(rows.items()) if content_hash not in known]:
        session.execute(insert(RejectedRecord).values(new).on_conflict_do_nothing())


def resolve_rejected(session: Session, record_id: int, note: str) -> None:
    """Afterwards the rejected record counts as resolved, with the note; a retry leaves it alone.

    Raises `NotFound` when there is no such record, and `UserError` when it is resolved already.
    """
    rejected = session.get(RejectedRecord, record_id, with_for_update=True)
    if rejected is None:
        raise NotFound(f"There is no rejected record {record_id}: see `accession rejects list --all`.")
    if rejected.resolved_at is not None:
        raise UserError(
            f"The rejected record {record_id} is resolved already: see `accession rejects list --all`."
        )
    rejected.resolved_at, rejected.note = utc_now(), storable(note)


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
