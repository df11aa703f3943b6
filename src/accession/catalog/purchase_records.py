"""Purchase records as the vendor sent them: stored where they can be used, kept as rejected where not."""

from calendar import monthrange
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any

from sqlalchemy import (
    ColumnElement,
    func,
    select,
    update,
)
from sqlalchemy.orm import Session

from accession.accounts.collections import in_use
from accession.catalog.marc import MarcField, marc_fields
from accession.core.clock import utc_now
from accession.core.vocabulary import IdentifierType
from accession.db.bulk import insert_of, one_of
from accession.db.models import (
    Collection,
    Identifier,
    LicensePool,
    PurchaseRecord,
    RejectedRecord,
    table_of,
)


@dataclass(frozen=True)
class PurchaseDate:
    """The day (UTC) of a purchase; where `month_only`, the first of its month: no more is known."""

    day: date
    month_only: bool = False

    def __str__(self) -> str:
        """`2019-03-17`, or `2019-03`."""
        return f"{self.day:%Y-%m}" if self.month_only else self.day.isoformat()

    @property
    def days(self) -> tuple[date, date]:
        """The first day that it may have been, and the last."""
        last = monthrange(self.day.year, self.day.month)[1]
        return self.day, self.day.replace(day=last) if self.month_only else self.day


@dataclass(frozen=True)
class StoredRecord:
    """A purchase record for a pool: what makes the record as binary MARC 21, called only where it is written,
    and a hash that is the same for every copy of the record that says the same."""

    pool: LicensePool
    marc: Callable[[], bytes]
    content_hash: str


def store_purchase_records(session: Session, bought: PurchaseDate, records: Sequence[StoredRecord]) -> None:
    """Afterwards each pool has its record under its date; a record that says the same is not written.

    A purchase in a month and one on a day of that month are the same: the day is kept, whichever is told
    first.
    """
    latest = {record.pool.id: record for record in records}
    known = _of_the_same_purchase(session, bought, latest)
    new: list[dict[str, Any]] = []
    changed: list[dict[str, Any]] = []
    changed_pools: list[int] = []
    for pool_id, record in sorted(latest.items()):
        if not (same := known.get(pool_id)):
            owner = {"collection_id": record.pool.collection_id, "license_pool_id": pool_id}
            new.append({**owner, **_dated(bought), **_said(record)})
            continue
        first = same[0]
        date_of_it = bought if first.month_only else PurchaseDate(first.purchased_on)
        told_before = record.content_hash in {each.content_hash for each in same}
        if not told_before or first.month_only != date_of_it.month_only:
            changed.append({"id": first.id, **_dated(date_of_it), **_said(record)})
            changed_pools.append(pool_id)
    if changed:
        session.execute(update(PurchaseRecord), changed)
        # Who takes the record on has to learn of it.
        told = update(LicensePool).where(one_of(LicensePool.id, changed_pools)).values(updated_at=utc_now())
        session.execute(told.execution_options(synchronize_session=False))
    if new:
        session.execute(insert_of(table_of(PurchaseRecord), new))


def _said(record: StoredRecord) -> dict[str, Any]:
    return {"marc": record.marc(), "content_hash": record.content_hash}


def _dated(bought: PurchaseDate) -> dict[str, Any]:
    return {"purchased_on": bought.day, "month_only": bought.month_only}


def _of_the_same_purchase(
    session: Session, bought: PurchaseDate, pool_ids: Iterable[int]
) -> Mapping[int, Sequence[Any]]:
    """The records of the pools that may be of the purchase, in the order of their days."""
    row = PurchaseRecord
    query = select(row.id, row.license_pool_id, row.purchased_on, row.month_only, row.content_hash)
    query = query.where(one_of(row.license_pool_id, pool_ids), _may_be(row, bought))
    known = defaultdict(list)
    for found in session.execute(query.order_by(row.purchased_on)):
        known[found.license_pool_id].append(found)
    return known


def _may_be(row: type[PurchaseRecord] | type[RejectedRecord], bought: PurchaseDate) -> ColumnElement[bool]:
    in_month = row.purchased_on == bought.day.replace(day=1)
    return row.purchased_on.between(*bought.days) | (row.month_only & in_month)


def purchases_by_day(session: Session, collection: Collection) -> dict[date, int]:
    """How many purchase records the collection has of each day on which it has any."""
    query = select(PurchaseRecord.purchased_on, func.count()).group_by(PurchaseRecord.purchased_on)
    return dict(session.execute(query.where(PurchaseRecord.collection_id == collection.id)).all())


@dataclass(frozen=True)
class PurchaseRecordView:
    """A MARC record of the vendor's that says when a title was bought, as `TitleView` has it."""

    purchased_on: str
    fields: tuple[MarcField, ...]


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
