"""Sort the purchase records of a page, and store them with the metadata of titles."""

from collections import Counter
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field

import structlog
from sqlalchemy.orm import Session

from accession.bibliotheca.errors import excerpt_of
from accession.bibliotheca.items import DATA_SOURCE, is_item_id
from accession.bibliotheca.marc import MarcRecord
from accession.catalog.outbox import enqueue_changes, find_changed_titles
from accession.catalog.purchase_dates import PurchaseDate
from accession.catalog.purchase_records import PurchaseRecordData, store_purchase_records
from accession.catalog.rejected_records import RejectedRecordData, store_rejected_records
from accession.core.vocabulary import IdentifierType
from accession.db.models import Collection, LicensePool
from accession.imports.title_lookup import TitleLookup

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class SortedRecords:
    """Records of one purchase date: usable ones, each with its title's id, and rejected ones.

    `listed` is the number of times that each title is listed for the date so far; empty if unknown.
    """

    purchase_date: PurchaseDate
    usable: Sequence[tuple[str, MarcRecord]]
    rejected: Sequence[RejectedRecordData] = ()
    listed: Mapping[str, int] = field(default_factory=dict)

    @property
    def in_part(self) -> int:
        """Return the number of usable records without a part that is not valid MARC 21."""
        return sum(bool(record.warnings) for _, record in self.usable)

    def compute_hashes(self) -> None:
        """Compute the content hashes of the usable records, which cache them."""
        for _, record in self.usable:
            record.content_hash()

    @property
    def title_ids(self) -> Sequence[str]:
        """Return the distinct ids of the titles in their order."""
        return list(dict.fromkeys(item_id for item_id, _ in self.usable))


@dataclass(frozen=True)
class StoredTitles:
    """Result of storing: ids of titles that are new, number of changed ones, and outbox rows to apply."""

    new_ids: frozenset[str] = frozenset()
    changed: int = 0
    outbox_ids: tuple[int, ...] = ()


def sort_records(records: Sequence[MarcRecord], purchase_date: PurchaseDate) -> SortedRecords:
    """Tell usable records from those to be rejected."""
    usable: list[tuple[str, MarcRecord]] = []
    rejected: list[RejectedRecordData] = []
    for record in records:
        reason = rejection_reason(record)
        if reason is None:
            usable.append((record.item_ids[0], record))
            if record.warnings:
                log.warning(
                    "purchase record stored in part", title=record.item_ids[0], warnings=record.warnings
                )
        else:
            log.error("purchase record rejected", reason=reason, day=str(purchase_date))
            rejected.append(RejectedRecordData(reason, record.raw_xml, record.content_hash()))
    return SortedRecords(purchase_date, usable, rejected, Counter(item_id for item_id, _ in usable))


def rejection_reason(record: MarcRecord) -> str | None:
    """Return why a record cannot be stored; None if it can."""
    reason = _problem_with_id(record) if record.fault is None else record.fault
    if reason is None or not record.warnings:
        return reason
    # What was left out may have been the identifier.
    return f"{reason.removesuffix('.')}. {record.warnings[0]}"


def _problem_with_id(record: MarcRecord) -> str | None:
    ids = record.item_ids
    if not ids:
        return "It has no title identifier (001)."
    if len(ids) > 1:
        return f"It has {len(ids)} title identifiers (001): {excerpt_of(', '.join(ids))}."
    if not is_item_id(ids[0]):
        return f"Its title identifier (001) is invalid: {excerpt_of(ids[0])!r}."
    return None


class PurchaseStore:
    """Writes records and titles of one collection to a session, and leaves the commit to the caller."""

    def __init__(self, session: Session, collection: Collection) -> None:
        self._session = session
        self._collection = collection

    def store(
        self,
        dates: Sequence[SortedRecords],
        lookup: TitleLookup,
        counted_as_new: AbstractSet[str] = frozenset(),
    ) -> StoredTitles:
        """Store records, and put the titles of the look-up that differ into the outbox.

        Titles that were `counted_as_new` with an earlier page do not count as changed.
        """
        for records in dates:
            store_rejected_records(self._session, self._collection, records.purchase_date, records.rejected)
        item_ids = [item_id for records in dates for item_id in records.title_ids]
        item_ids = list(dict.fromkeys([*item_ids, *lookup.titles]))
        if not item_ids:
            return StoredTitles()
        pools = LicensePool.for_foreign_ids(
            self._session, DATA_SOURCE, IdentifierType.BIBLIOTHECA, item_ids, collection=self._collection
        )
        new_ids = frozenset(item_id for item_id, (_, is_new) in pools.items() if is_new)
        self._store_purchases(dates, pools, new_ids)
        titles = [(pools[item_id][0], title) for item_id, title in lookup.titles.items()]
        changed_titles = find_changed_titles(self._session, titles)
        new_pool_ids = {pools[item_id][0].id for item_id in pools.keys() & (new_ids | counted_as_new)}
        return StoredTitles(
            new_ids,
            changed=sum(pool.id not in new_pool_ids for pool, _ in changed_titles),
            outbox_ids=tuple(enqueue_changes(self._session, changed_titles)),
        )

    def _store_purchases(
        self,
        dates: Sequence[SortedRecords],
        pools: Mapping[str, tuple[LicensePool, bool]],
        new_ids: AbstractSet[str],
    ) -> None:
        """Store the usable records; no earlier ones are looked for of titles that are new."""
        without_records = set(new_ids)
        purchases: dict[PurchaseDate, list[PurchaseRecordData]] = {}
        for records in dates:
            purchases[records.purchase_date] = [
                PurchaseRecordData(
                    pools[item_id][0],
                    record.as_marc21,
                    record.content_hash(),
                    records.listed.get(item_id),
                    record.warnings,
                    is_first=item_id in without_records,
                )
                for item_id, record in records.usable
            ]
            without_records.difference_update(records.title_ids)
        store_purchase_records(self._session, purchases)
