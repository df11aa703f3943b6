"""Purchase records: store the vendor's MARC records by license pool and date, and read them."""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any

from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from accession.accounts.collections import is_of_collection
from accession.catalog.marc import MarcField, marc_fields
from accession.catalog.purchase_dates import PurchaseDate, may_have_date
from accession.core.clock import utc_now
from accession.core.vocabulary import IdentifierType
from accession.db.bulk import in_array, insert_statement
from accession.db.models import Collection, Identifier, LicensePool, PurchaseRecord, table_of


@dataclass(frozen=True)
class PurchaseRecordData:
    """A purchase record to be stored for a pool.

    `marc` returns the record as binary MARC 21 and is called only if the record is written. `content_hash` is
    the same for all copies of the record with the same content.
    """

    pool: LicensePool
    marc: Callable[[], bytes]
    content_hash: str


@dataclass(frozen=True)
class PurchaseRecordView:
    """A stored MARC record; `purchased_on` is a day or a month, as in `TitleView`."""

    purchased_on: str
    fields: tuple[MarcField, ...]


def store_purchase_records(
    session: Session, purchase_date: PurchaseDate, records: Sequence[PurchaseRecordData]
) -> None:
    """Store one record for each pool under the purchase date; a record with the same content is not written.

    A purchase in a month and one on a day of that month are the same purchase. It is stored under the day,
    whichever of the two comes first.
    """
    latest = {record.pool.id: record for record in records}
    stored = _records_of_purchase(session, purchase_date, latest)
    new: list[dict[str, Any]] = []
    changed: list[dict[str, Any]] = []
    changed_pools: list[int] = []
    for pool_id, record in sorted(latest.items()):
        if not (same_purchase := stored.get(pool_id)):
            owner = {"collection_id": record.pool.collection_id, "license_pool_id": pool_id}
            new.append({**owner, **purchase_date.columns, **_content(record)})
            continue
        first = same_purchase[0]
        known_date = purchase_date if first.month_only else PurchaseDate(first.purchased_on)
        is_known = record.content_hash in {each.content_hash for each in same_purchase}
        if not is_known or first.month_only != known_date.month_only:
            changed.append({"id": first.id, **known_date.columns, **_content(record)})
            changed_pools.append(pool_id)
    if changed:
        session.execute(update(PurchaseRecord), changed)
        # Readers of the change feed have to fetch the changed record.
        touch = update(LicensePool).where(in_array(LicensePool.id, changed_pools))
        touch = touch.values(updated_at=utc_now())
        session.execute(touch.execution_options(synchronize_session=False))
    if new:
        session.execute(insert_statement(table_of(PurchaseRecord), new))


def purchases_by_day(session: Session, collection: Collection) -> dict[date, int]:
    """Return the number of a collection's purchase records by day, for the days that have any."""
    query = select(PurchaseRecord.purchased_on, func.count()).group_by(PurchaseRecord.purchased_on)
    return dict(session.execute(query.where(PurchaseRecord.collection_id == collection.id)).all())


def early_purchase_day(session: Session, collection: Collection) -> date | None:
    """Return the last but two of the days with purchases, or the first of fewer; None without purchases."""
    days = select(PurchaseRecord.purchased_on).where(PurchaseRecord.collection_id == collection.id).distinct()
    latest = list(session.scalars(days.order_by(PurchaseRecord.purchased_on.desc()).limit(3)))
    return latest[-1] if latest else None


def count_purchases_since(
    session: Session, collection: Collection, identifiers: Iterable[str], since: date
) -> Counter[str]:
    """Return the number of purchases that are stored under a day since `since`, or its month, by title."""
    is_in_month = PurchaseRecord.month_only & (PurchaseRecord.purchased_on >= since.replace(day=1))
    query = (
        select(Identifier.identifier, func.count())
        .join(LicensePool, LicensePool.identifier_id == Identifier.id)
        .join(PurchaseRecord, PurchaseRecord.license_pool_id == LicensePool.id)
        .where(PurchaseRecord.collection_id == collection.id, Identifier.identifier.in_(identifiers))
        .where((PurchaseRecord.purchased_on >= since) | is_in_month)
    )
    return Counter(dict(session.execute(query.group_by(Identifier.identifier)).all()))


def purchase_record_views(session: Session, collection: str, identifier: str) -> list[PurchaseRecordView]:
    """Return the purchase records of a collection's title, oldest first; none for an unknown title."""
    query = (
        select(PurchaseRecord)
        .join(LicensePool, PurchaseRecord.license_pool_id == LicensePool.id)
        .join(Identifier, LicensePool.identifier_id == Identifier.id)
        .where(is_of_collection(LicensePool.collection_id, collection))
        .where(Identifier.type.in_(IdentifierType), Identifier.identifier == identifier)
        .order_by(PurchaseRecord.purchased_on)
    )
    return [
        PurchaseRecordView(
            str(PurchaseDate(record.purchased_on, record.month_only)), tuple(marc_fields(record.marc))
        )
        for record in session.scalars(query)
    ]


def _content(record: PurchaseRecordData) -> dict[str, Any]:
    return {"marc": record.marc(), "content_hash": record.content_hash}


def _records_of_purchase(
    session: Session, purchase_date: PurchaseDate, pool_ids: Iterable[int]
) -> Mapping[int, Sequence[Any]]:
    """Return the stored records of the same purchase by pool id, in the order of their dates."""
    row = PurchaseRecord
    query = select(row.id, row.license_pool_id, row.purchased_on, row.month_only, row.content_hash)
    query = query.where(in_array(row.license_pool_id, pool_ids), may_have_date(row, purchase_date))
    records = defaultdict(list)
    for record in session.execute(query.order_by(row.purchased_on)):
        records[record.license_pool_id].append(record)
    return records
