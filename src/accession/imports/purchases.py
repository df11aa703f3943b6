"""One page of the vendor's purchase records into license pools, purchase records and the outbox."""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta

import structlog
from sqlalchemy.orm import Session

from accession.bibliotheca.client import PAGE_SIZE, BibliothecaAPI
from accession.bibliotheca.errors import excerpt_of
from accession.bibliotheca.items import DATA_SOURCE, is_item_id
from accession.bibliotheca.marc import MarcRecord, marc_record_from_xml
from accession.catalog.apply import needs_apply, put_in_outbox
from accession.catalog.data import IdentifierType
from accession.catalog.ledger import Counters, Workflow, timestamp
from accession.catalog.models import Collection, LicensePool, RejectedRecord
from accession.catalog.records import (
    Rejection,
    StoredRecord,
    keep_rejected,
    store_purchase_records,
)
from accession.clock import utc_now
from accession.imports.titles import look_up

log = structlog.get_logger(__name__)

# The vendor had no purchases before; a later start would lose titles for good.
DEFAULT_PURCHASE_RECORD_START_TIME = datetime(2014, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class DayImportResult:
    """What one page was, and what comes next.

    `day_start` and `day_end` are the window's bounds (UTC, half-open). `next_offset` (1-based) is None
    when the window is done. `outbox_ids` name what has to be applied once the page is committed.
    `page_fingerprint` tells a page apart from the one before. `repairs` counts documents that were
    well-formed only after a repair.
    """

    records_fetched: int
    records_stored: int
    records_rejected: int
    titles_new: int
    titles_changed: int
    day_start: datetime
    day_end: datetime
    next_offset: int | None
    outbox_ids: tuple[int, ...]
    page_fingerprint: str
    repairs: int

    @property
    def counters(self) -> Counters:
        """The page's share of the run's counters."""
        return Counters(
            records_fetched=self.records_fetched,
            records_stored=self.records_stored,
            records_rejected=self.records_rejected,
            titles_new=self.titles_new,
            titles_changed=self.titles_changed,
            repairs=self.repairs,
        )


@dataclass(frozen=True)
class _Stored:
    records: int
    new: int
    changed: int
    rejected: int
    outbox_ids: tuple[int, ...]
    repairs: int


class BibliothecaPurchaseRecordImporter:
    """Imports purchase records of one collection, a page at a time.

    Everything is written to the given session, which the caller commits: the page is one transaction.
    """

    def __init__(self, session: Session, collection: Collection, api: BibliothecaAPI) -> None:
        self._session = session
        self._collection = collection
        self._api = api

    def get_start(self) -> datetime:
        """Up to where the collection's purchases are complete; 2014-01-01 before the first run."""
        finish = timestamp(self._session, self._collection, Workflow.PURCHASES).finish
        return finish or DEFAULT_PURCHASE_RECORD_START_TIME

    def clear_checkpoint(self) -> None:
        """Forget how far the collection was complete: a forced reimport begins."""
        timestamp(self._session, self._collection, Workflow.PURCHASES).finish = None

    def import_day(
        self,
        current_day: datetime,
        cutoff: datetime,
        offset: int = 1,
        previous_page: str | None = None,
    ) -> DayImportResult:
        """Import one page of the window that starts at `current_day` and ends with its UTC day or at
        `cutoff`, whichever is first, and stamp the checkpoint. That only moves forward, and never over a span
        that nobody has asked for.

        The window never reaches into a second day, so that each title keeps the exact day of its
        purchase, which the vendor's records do not carry. The checkpoint becomes the window's end when
        this was its last page, else its start.

        `offset` is 1-based. `previous_page` is the fingerprint of the page before in this window: a
        vendor that answers a higher offset with the same records would otherwise be asked for ever.

        Vendor errors (`accession.bibliotheca.errors`) leave nothing written.
        """
        day_end = min(_end_of_day(current_day), cutoff)
        page = self._api.marc_page(current_day, day_end, offset, PAGE_SIZE)
        fingerprint = _fingerprint(page.records)
        repeated = offset > 1 and bool(page.records) and fingerprint == previous_page
        if repeated:
            log.warning(
                "the vendor repeats a page at a higher offset; the window ends here",
                day=current_day.isoformat(),
                offset=offset,
            )
        records = () if repeated else page.records
        full = len(records) >= PAGE_SIZE
        stored = self._store(records, current_day.astimezone(UTC).date())
        self._complete_up_to(current_day if full else day_end, since=current_day)
        return DayImportResult(
            records_fetched=len(records),
            records_stored=stored.records,
            records_rejected=stored.rejected,
            titles_new=stored.new,
            titles_changed=stored.changed,
            day_start=current_day,
            day_end=day_end,
            next_offset=offset + PAGE_SIZE if full else None,
            outbox_ids=stored.outbox_ids,
            page_fingerprint=fingerprint,
            repairs=page.repaired + stored.repairs,
        )

    def _complete_up_to(self, moment: datetime, *, since: datetime) -> None:
        checkpoint = timestamp(self._session, self._collection, Workflow.PURCHASES)
        if checkpoint.finish is None or since <= checkpoint.finish:
            checkpoint.finish = max(moment, checkpoint.finish or moment)

    def retry_rejected(self, rejected: RejectedRecord) -> tuple[int, ...] | None:
        """Run a rejected record through the import again, under the day it came in.

        Returns the outbox ids of what has to be applied, and the record is resolved; or None, and the
        record has the reason of now.
        """
        record = marc_record_from_xml(rejected.raw_xml)
        reason = _why_unusable(record)
        if reason is not None:
            if rejected.reason != reason:
                rejected.reason = reason
            return None
        stored = self._store([record], rejected.purchased_on)
        rejected.resolved_at = utc_now()
        return stored.outbox_ids

    def _store(self, records: Sequence[MarcRecord], day: date) -> _Stored:
        if not records:
            return _Stored(records=0, new=0, changed=0, rejected=0, outbox_ids=(), repairs=0)
        usable: list[tuple[str, MarcRecord]] = []
        rejections: list[Rejection] = []
        for record in records:
            reason = _why_unusable(record)
            if reason is None:
                usable.append((record.item_ids[0], record))
            else:
                log.error("purchase record rejected", reason=reason, day=day.isoformat())
                rejections.append(Rejection(reason, record.raw_xml, record.content_hash()))
        ids = list(dict.fromkeys(item_id for item_id, _ in usable))
        looked_up = look_up(self._api, ids)
        for missing in looked_up.missing:
            log.warning("the vendor has no metadata for a title it has sold", title=missing)

        keep_rejected(self._session, self._collection, day, rejections)
        pools = LicensePool.for_foreign_ids(
            self._session, DATA_SOURCE, IdentifierType.BIBLIOTHECA, ids, collection=self._collection
        )
        store_purchase_records(
            self._session,
            [
                StoredRecord(pools[item_id][0], day, record.as_marc21, record.content_hash())
                for item_id, record in usable
            ],
        )
        found = [(pools[item_id][0], title) for item_id, title in looked_up.titles.items()]
        to_apply = needs_apply(self._session, found)
        new = {pool.id for pool, is_new in pools.values() if is_new}
        return _Stored(
            records=len(usable),
            new=len(new),
            changed=sum(pool.id not in new for pool, _ in to_apply),
            rejected=len(rejections),
            outbox_ids=tuple(put_in_outbox(self._session, to_apply)),
            repairs=looked_up.repairs,
        )


def _end_of_day(moment: datetime) -> datetime:
    return datetime.combine(moment.astimezone(UTC).date() + timedelta(days=1), time(), UTC)


def _why_unusable(record: MarcRecord) -> str | None:
    if record.fault is not None:
        return record.fault
    ids = record.item_ids
    if not ids:
        return "It has no title identifier (001)."
    if len(ids) > 1:
        return f"It has {len(ids)} title identifiers (001): {excerpt_of(', '.join(ids))}."
    if not is_item_id(ids[0]):
        return f"Its title identifier (001) is not one the vendor can be asked for: {excerpt_of(ids[0])!r}."
    return None


def _fingerprint(records: Iterable[MarcRecord]) -> str:
    digest = hashlib.sha256()
    for record in records:
        # Records without an identifier are told apart by what they say.
        name = record.item_ids[0] if len(record.item_ids) == 1 else record.content_hash()
        digest.update(name.encode("utf-8", "replace") + b"\x1e")
    return digest.hexdigest()[:16]
