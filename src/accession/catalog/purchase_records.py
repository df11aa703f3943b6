"""Purchase records: store the vendor's MARC records by license pool and date, and read them."""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from functools import cache
from typing import Any

from sqlalchemy import ColumnElement, Select, bindparam, delete, exists, func, literal_column, select, update
from sqlalchemy.orm import Session

from accession.accounts.collections import is_of_collection
from accession.catalog.marc import MarcField, marc_fields
from accession.catalog.purchase_dates import PurchaseDate
from accession.core.clock import utc_now
from accession.core.vocabulary import IdentifierType
from accession.db.bulk import in_array, in_array_parameter, insert_rows
from accession.db.models import Collection, Identifier, LicensePool, PurchaseRecord, table_of


@dataclass(frozen=True)
class PurchaseRecordData:
    """A purchase record to be stored for a pool.

    `marc` returns the record as binary MARC 21 and is called only if the record is written. `content_hash` is
    the same for all copies of the record with the same content. `listed` is the number of times that the
    vendor lists the title for the purchase date; None if that is unknown, so that a stored number stays.
    `warnings` tell what `marc` lacks of the vendor's record. `is_first` says that the pool has no record yet:
    none is looked for.
    """

    pool: LicensePool
    marc: Callable[[], bytes]
    content_hash: str
    listed: int | None = None
    warnings: tuple[str, ...] = ()
    is_first: bool = False


@dataclass(frozen=True)
class PurchaseRecordView:
    """A stored MARC record.

    `purchased_on` is a day or a month, as in `TitleView`, and `purchases` the number of purchases then.
    `warnings` tell what the record lacks, because the vendor's record had a part that is not valid MARC 21.
    """

    purchased_on: str
    purchases: int
    fields: tuple[MarcField, ...]
    warnings: tuple[str, ...]


def store_purchase_records(
    session: Session, purchases: Mapping[PurchaseDate, Sequence[PurchaseRecordData]]
) -> None:
    """Store one record for each pool and purchase date; what is stored already is not written.

    A purchase in a month and one on a day of that month are the same purchase. It is stored under the day,
    whichever of the two comes first. Of several purchases in a month, the others stay with the month.
    """
    remaining = {
        (record.pool.id, purchase_date): record
        for purchase_date, records in purchases.items()
        for record in records
    }
    while remaining:
        # How a purchase is stored depends on those of the same pool that are stored before it.
        first_dates = dict(reversed(remaining))
        keys = ((pool_id, first_dates[pool_id]) for pool_id in sorted(first_dates))
        _store_one_of_each_pool(session, [(key[1], remaining.pop(key)) for key in keys])


@dataclass
class _Changes:
    """Rows to be added and changed, and the pools of which a stored record changes."""

    new: list[dict[str, Any]] = field(default_factory=list)
    changed: list[dict[str, Any]] = field(default_factory=list)
    relisted: list[dict[str, Any]] = field(default_factory=list)
    pools: list[int] = field(default_factory=list)

    def add(
        self, record: PurchaseRecordData, purchase_date: PurchaseDate, same_purchase: Sequence[Any]
    ) -> None:
        """Add what it takes to store a record, where these rows are stored of the same purchase."""
        if not same_purchase:
            self.new.append(_new_row(record, purchase_date))
            return
        first = same_purchase[0]
        left = first.listed - (record.listed or 1)
        if first.month_only and not purchase_date.month_only and left > 0:
            # The month's record is stored under its first day, where there can be no second one.
            if purchase_date.day != first.purchased_on:
                self.new.append(_new_row(record, purchase_date))
                self.relisted.append({"id": first.id, "listed": left})
                self.pools.append(record.pool.id)
            return
        known_date = purchase_date if first.month_only else PurchaseDate(first.purchased_on)
        listed = _listings_of_first(purchase_date, same_purchase, record.listed)
        is_known = record.content_hash in {each.content_hash for each in same_purchase}
        if not is_known or first.month_only != known_date.month_only:
            self.changed.append({"id": first.id, **known_date.columns, "listed": listed, **_content(record)})
            self.pools.append(record.pool.id)
        elif listed != first.listed:
            self.relisted.append({"id": first.id, "listed": listed})


def _store_one_of_each_pool(
    session: Session, purchases: Sequence[tuple[PurchaseDate, PurchaseRecordData]]
) -> None:
    """Store records with their purchase dates; each is of another pool."""
    stored = _records_of_purchases(
        session, {record.pool.id: purchase_date for purchase_date, record in purchases if not record.is_first}
    )
    changes = _Changes()
    for purchase_date, record in purchases:
        changes.add(record, purchase_date, stored.get(record.pool.id, ()))
    for rows in filter(None, (changes.changed, changes.relisted)):
        session.execute(update(PurchaseRecord), rows)
    _touch_pools(session, changes.pools)
    if changes.new:
        insert_rows(session, table_of(PurchaseRecord), changes.new)


def _listings_of_first(purchase_date: PurchaseDate, same_purchase: Sequence[Any], listed: int | None) -> int:
    """Return how often the first record of a purchase is listed if all of the date are `listed` so often.

    A month's listing includes the records that are stored under other days of the month.
    """
    stored: list[int] = [record.listed for record in same_purchase]
    if listed is None:
        return stored[0]
    return max(1, listed - sum(stored[1:])) if purchase_date.month_only else listed


def remove_purchases(
    session: Session, collection: Collection, identifier: str, day: date, purchases: int
) -> int:
    """Remove so many purchases of a title that are stored under a day; return how many there were."""
    query = (
        select(PurchaseRecord)
        .join(LicensePool, PurchaseRecord.license_pool_id == LicensePool.id)
        .join(Identifier, LicensePool.identifier_id == Identifier.id)
        .where(PurchaseRecord.collection_id == collection.id, PurchaseRecord.purchased_on == day)
        .where(Identifier.type == IdentifierType.BIBLIOTHECA, Identifier.identifier == identifier)
    )
    record = session.scalars(query.with_for_update(of=PurchaseRecord)).one_or_none()
    if record is None:
        return 0
    removed: int = min(purchases, record.listed)
    record.listed -= removed
    if not record.listed:
        session.delete(record)
    session.flush()
    _touch_pools(session, [record.license_pool_id])
    return removed


def remove_purchases_between(
    session: Session, collection: Collection, identifiers: Sequence[str], after: date, last: date
) -> None:
    """Remove the purchases of some titles that are stored under a day after one and up to another."""
    if not identifiers:
        return
    row = PurchaseRecord
    pools = (
        select(LicensePool.id)
        .join(Identifier, LicensePool.identifier_id == Identifier.id)
        .where(LicensePool.collection_id == collection.id, Identifier.type == IdentifierType.BIBLIOTHECA)
        .where(in_array(Identifier.identifier, identifiers))
    )
    of_titles = row.license_pool_id.in_(pools) & (row.collection_id == collection.id)
    of_days = (row.purchased_on > after) & (row.purchased_on <= last) & ~row.month_only
    removed = session.scalars(delete(row).where(of_titles, of_days).returning(row.license_pool_id))
    _touch_pools(session, sorted(set(removed)))


def _touch_pools(session: Session, pool_ids: Sequence[int]) -> None:
    """Mark the pools as updated, so that readers of the change feed fetch their records again."""
    if pool_ids:
        touch = update(LicensePool).where(in_array(LicensePool.id, pool_ids)).values(updated_at=utc_now())
        session.execute(touch.execution_options(synchronize_session=False))


def purchases_by_day(session: Session, collection: Collection) -> dict[date, int]:
    """Return the number of a collection's purchases by day, for the days that have any.

    Those of which only the month is known count for its first day.
    """
    row = PurchaseRecord
    query = select(row.purchased_on, func.sum(row.listed)).where(row.collection_id == collection.id)
    return dict(session.execute(query.group_by(row.purchased_on)).all())


def purchase_days(session: Session, collection: Collection, start: date, end: date) -> list[date]:
    """Return the days in `[start, end)` with purchases, in months of which every purchase's day is known."""
    row = PurchaseRecord
    query = select(row.purchased_on, func.bool_or(row.month_only)).where(
        row.collection_id == collection.id, row.purchased_on >= start, row.purchased_on < end
    )
    days: dict[date, bool] = dict(session.execute(query.group_by(row.purchased_on)).all())
    unknown_months = {day for day, is_month_only in days.items() if is_month_only}
    return sorted(day for day in days if day.replace(day=1) not in unknown_months)


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
    query = _purchases_by_title(collection).where(Identifier.identifier.in_(identifiers))
    query = query.where((PurchaseRecord.purchased_on >= since) | is_in_month)
    return Counter({identifier: purchases for identifier, purchases, *_ in session.execute(query)})


@dataclass(frozen=True)
class StoredPurchases:
    """The purchases of a title within some days: their number, and the days of the first and the last."""

    purchases: int
    first_day: date
    last_day: date


def purchases_by_title(
    session: Session,
    collection: Collection,
    start: date,
    end: date,
    identifiers: Iterable[str] | None = None,
) -> dict[str, StoredPurchases]:
    """Return the purchases that are stored under the days `[start, end)` by the vendor's id of the title.

    With `identifiers` only those of these titles are returned.
    """
    query = _purchases_by_title(collection)
    query = query.where(PurchaseRecord.purchased_on >= start, PurchaseRecord.purchased_on < end)
    if identifiers is not None:
        query = query.where(in_array(Identifier.identifier, identifiers))
    return {
        identifier: StoredPurchases(purchases, first, last)
        for identifier, purchases, first, last in session.execute(query)
    }


def _purchases_by_title(collection: Collection) -> Select[str, int, date, date]:
    days = PurchaseRecord.purchased_on
    return (
        select(Identifier.identifier, func.sum(PurchaseRecord.listed), func.min(days), func.max(days))
        .join(LicensePool, LicensePool.identifier_id == Identifier.id)
        .join(PurchaseRecord, PurchaseRecord.license_pool_id == LicensePool.id)
        .where(PurchaseRecord.collection_id == collection.id)
        .group_by(Identifier.identifier)
    )


def has_warnings() -> ColumnElement[bool]:
    """Return the condition that a pool has a purchase record with warnings."""
    row = PurchaseRecord
    return exists().where(row.license_pool_id == LicensePool.id, row.warnings != literal_column("'[]'"))


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
            str(PurchaseDate(record.purchased_on, record.month_only)),
            record.listed,
            tuple(marc_fields(record.marc)),
            tuple(record.warnings),
        )
        for record in session.scalars(query)
    ]


def _new_row(record: PurchaseRecordData, purchase_date: PurchaseDate) -> dict[str, Any]:
    owner = {"collection_id": record.pool.collection_id, "license_pool_id": record.pool.id}
    return {**owner, **purchase_date.columns, "listed": record.listed or 1, **_content(record)}


def _content(record: PurchaseRecordData) -> dict[str, Any]:
    return {
        "marc": record.marc(),
        "content_hash": record.content_hash,
        "warnings": list(record.warnings),
    }


def _records_of_purchases(session: Session, dates: Mapping[int, PurchaseDate]) -> Mapping[int, Sequence[Any]]:
    """Return the stored records of the same purchase by pool id, for the purchase date of each pool.

    Those that are as precise as the purchase come first, the earlier before the later.
    """
    if not dates:
        return {}
    parameters = {
        "pools": list(dates),
        "first": min(each.day.replace(day=1) for each in dates.values()),
        "last": max(each.days[1] for each in dates.values()),
    }
    records = defaultdict(list)
    for record in session.execute(_select_records(), parameters):
        if PurchaseDate(record.purchased_on, record.month_only).overlaps(dates[record.license_pool_id]):
            records[record.license_pool_id].append(record)
    for pool_id, same_purchase in records.items():
        same_purchase.sort(key=lambda each: each.month_only != dates[pool_id].month_only)
    return records


@cache
def _select_records() -> Select[int, int, date, bool, int, str]:
    row = PurchaseRecord
    query = select(
        row.id, row.license_pool_id, row.purchased_on, row.month_only, row.listed, row.content_hash
    )
    of_pools = in_array_parameter(row.license_pool_id, "pools")
    days = row.purchased_on.between(bindparam("first"), bindparam("last"))
    return query.where(of_pools, days).order_by(row.purchased_on)
