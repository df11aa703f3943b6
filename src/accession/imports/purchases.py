"""Import one page of purchase records into licence pools, purchase records and the outbox."""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice

import structlog
from sqlalchemy.orm import Session

from accession.bibliotheca.client import PAGE_SIZE, BibliothecaAPI
from accession.bibliotheca.errors import excerpt_of
from accession.bibliotheca.items import DATA_SOURCE, is_item_id
from accession.bibliotheca.marc import MarcPage, MarcRecord, marc_record_from_xml
from accession.catalog.lookups import filter_not_looked_up, record_looked_up
from accession.catalog.outbox import enqueue_changes, find_changed_titles
from accession.catalog.purchase_dates import PurchaseDate
from accession.catalog.purchase_records import PurchaseRecordData, purchases_by_day, store_purchase_records
from accession.catalog.rejected_records import RejectedRecordData, store_rejected_records
from accession.core.clock import truncate_to_second, utc_now
from accession.core.settings import get_settings
from accession.core.vocabulary import IdentifierType
from accession.core.workflow import Workflow
from accession.db.models import Collection, LicensePool, RejectedRecord, Run
from accession.imports.checkpoints import advance_checkpoint
from accession.imports.prefetch import NullPrefetchCache, PageRequest, PrefetchCache, Prefetcher
from accession.imports.rejected_records import RetryResult, keep_open, resolve
from accession.imports.title_lookup import TitleLookup, count_concurrent_requests, look_up_titles
from accession.imports.windows import ImportCursor, Width, Window, count_requests
from accession.runs.ledger import RunCounters, get_or_create_checkpoint

log = structlog.get_logger(__name__)

# The vendor has no purchases before this date; a later start would miss titles.
DEFAULT_PURCHASE_RECORD_START_TIME = datetime(2014, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class DayImportResult:
    """The result of importing one page of a day.

    Attributes:
        window: the span that was requested: a day, a calendar month or a probe.
        next_cursor: where the import continues.
        outbox_ids: the outbox rows to apply after the commit.
        repairs: number of documents that were well-formed only after a repair.
    """

    window: Window
    next_cursor: ImportCursor
    records_fetched: int = 0
    records_stored: int = 0
    records_rejected: int = 0
    titles_new: int = 0
    titles_changed: int = 0
    outbox_ids: tuple[int, ...] = ()
    repairs: int = 0

    @property
    def day_start(self) -> datetime:
        """Return the inclusive start of the window (UTC)."""
        return self.window.start

    @property
    def day_end(self) -> datetime:
        """Return the exclusive end of the window (UTC)."""
        return self.window.end

    @property
    def next_offset(self) -> int | None:
        """Return the offset of the window's next page; None when this was its last."""
        return None if self.next_cursor.window_end is None else self.next_cursor.offset

    @property
    def counters(self) -> RunCounters:
        """Return what the page adds to the run's counters."""
        return RunCounters(
            records_fetched=self.records_fetched,
            records_stored=self.records_stored,
            records_rejected=self.records_rejected,
            titles_new=self.titles_new,
            titles_changed=self.titles_changed,
            repairs=self.repairs,
        )


@dataclass(frozen=True)
class _SortedPage:
    """The records of a page: usable ones, each with its title's id, and rejected ones."""

    usable: Sequence[tuple[str, MarcRecord]]
    rejected: Sequence[RejectedRecordData] = ()

    @property
    def title_ids(self) -> Sequence[str]:
        """Return the distinct ids of the page's titles in their order."""
        return list(dict.fromkeys(item_id for item_id, _ in self.usable))


@dataclass(frozen=True)
class _StoredTitles:
    new: int = 0
    changed: int = 0
    outbox_ids: tuple[int, ...] = ()


def count_reimport_requests(session: Session, collection: Collection) -> int:
    """Return how many requests a forced reimport makes if the vendor has the purchases that are stored."""
    width = Width(get_settings().purchase_window)
    titles_by_day = purchases_by_day(session, collection)
    now = truncate_to_second(utc_now())
    return count_requests(titles_by_day, DEFAULT_PURCHASE_RECORD_START_TIME, now, width)


class BibliothecaPurchaseRecordImporter:
    """Importer of the purchase records of one collection, page by page.

    It writes to the given session and leaves the commit to the caller: a page is one transaction. Titles
    that the `run` has looked up before are not looked up again. Without a `prefetch_cache` no pages are
    prefetched.
    """

    def __init__(
        self,
        session: Session,
        collection: Collection,
        api: BibliothecaAPI,
        run: Run | None = None,
        prefetch_cache: PrefetchCache | None = None,
    ) -> None:
        self._session = session
        self._collection = collection
        self._api = api
        self._run = run
        self._prefetch_cache = prefetch_cache or NullPrefetchCache()

    def get_start(self) -> datetime:
        """Return the checkpoint (UTC), or the default start time before the first import."""
        finish = get_or_create_checkpoint(self._session, self._collection, Workflow.PURCHASES).finish
        return finish or DEFAULT_PURCHASE_RECORD_START_TIME

    def clear_checkpoint(self) -> None:
        """Clear the checkpoint for a forced reimport."""
        get_or_create_checkpoint(self._session, self._collection, Workflow.PURCHASES).finish = None

    def import_day(self, cursor: ImportCursor, now: datetime, width: Width = Width.DAY) -> DayImportResult:
        """Import one page of the day at `cursor` and move the checkpoint with it.

        The day ends at `now` (UTC) at the latest. Its place may be taken by a calendar month, if `width`
        says so, or by a probe, whose records are not stored: see `accession.imports.windows`.

        The checkpoint becomes the start of the day, and its end with the last page or an empty probe. It
        never moves back, nor forward over a span that has not been requested.

        Raises:
            RemoteIntegrationException: the vendor failed; nothing is written then.
        """
        window = cursor.window(now, width)
        if window.is_probe:
            return self._probe(cursor, window)
        max_concurrency = get_settings().vendor_max_concurrency
        upcoming_windows = islice(cursor.upcoming_windows(now, width), max_concurrency)
        upcoming = [PageRequest(upcoming_window) for upcoming_window in upcoming_windows]
        with Prefetcher(self._api, self._prefetch_cache, max_concurrency) as prefetcher:
            page = prefetcher.fetch_page(PageRequest(window, cursor.offset), upcoming)
            return self._import_page(page, window, cursor, prefetcher, upcoming)

    def retry_rejected(self, record: RejectedRecord) -> RetryResult:
        """Import a rejected record again, with the purchase date it was received under.

        Raises:
            RemoteIntegrationException: the vendor failed; nothing is written then.
        """
        marc_record = marc_record_from_xml(record.raw_xml)
        reason = _rejection_reason(marc_record)
        if reason is not None:
            return keep_open(record, reason)
        page = _SortedPage([(marc_record.item_ids[0], marc_record)])
        lookup = look_up_titles(self._api, page.title_ids)
        stored = self._store(page, lookup, PurchaseDate(record.purchased_on, record.month_only))
        return resolve(record, stored.outbox_ids)

    def _probe(self, cursor: ImportCursor, window: Window) -> DayImportResult:
        # One record would tell, but the vendor's behaviour with other limits than the usual is unknown.
        page = self._api.fetch_marc_page(window.start, window.end, limit=PAGE_SIZE)
        has_records = bool(page.records)
        if not has_records:
            self._advance_checkpoint(window, window.end)
        next_cursor = cursor.after_probe(window, has_records=has_records)
        return DayImportResult(window, next_cursor, repairs=int(page.repaired))

    def _import_page(
        self,
        page: MarcPage,
        window: Window,
        cursor: ImportCursor,
        prefetcher: Prefetcher,
        upcoming: Sequence[PageRequest],
    ) -> DayImportResult:
        records = page.records
        fingerprint = _fingerprint(records)
        if records and fingerprint == cursor.previous_page:
            # Without this, an import from a vendor that ignores the offset would request one page forever.
            log.warning("vendor repeated a page", day=window.start.isoformat(), offset=cursor.offset)
            records = ()
        is_full = len(records) >= PAGE_SIZE
        if is_full:
            upcoming = [PageRequest(window, cursor.offset + PAGE_SIZE), *upcoming]
        sorted_page = _sort_records(records, window)
        lookup = self._look_up_new_titles(sorted_page.title_ids, prefetcher, upcoming)
        purchase_date = PurchaseDate(window.start.astimezone(UTC).date(), month_only=window.is_month)
        stored = self._store(sorted_page, lookup, purchase_date)
        self._advance_checkpoint(window, window.start if is_full else window.end)
        has_records = bool(page.records) or cursor.offset > 1
        return DayImportResult(
            window=window,
            next_cursor=cursor.after_page(window, fingerprint, is_full=is_full, has_records=has_records),
            records_fetched=len(records),
            records_stored=len(sorted_page.usable),
            records_rejected=len(sorted_page.rejected),
            titles_new=stored.new,
            titles_changed=stored.changed,
            outbox_ids=stored.outbox_ids,
            repairs=page.repaired + lookup.repairs,
        )

    def _advance_checkpoint(self, window: Window, end: datetime) -> None:
        advance_checkpoint(self._session, self._collection, Workflow.PURCHASES, start=window.start, end=end)

    def _look_up_new_titles(
        self, title_ids: Sequence[str], prefetcher: Prefetcher, upcoming: Iterable[PageRequest]
    ) -> TitleLookup:
        """Look up the titles that this run has not looked up before, and prefetch pages meanwhile."""
        new_ids = filter_not_looked_up(self._session, self._run, title_ids)
        if new_ids:
            concurrent_requests = count_concurrent_requests(len(new_ids))
            prefetcher.prefetch(upcoming, concurrent_requests=concurrent_requests)
        lookup = look_up_titles(self._api, new_ids)
        for title_id in lookup.missing:
            log.warning("no metadata for a purchased title", title=title_id)
        record_looked_up(self._session, self._run, new_ids)
        return lookup

    def _store(self, page: _SortedPage, lookup: TitleLookup, purchase_date: PurchaseDate) -> _StoredTitles:
        store_rejected_records(self._session, self._collection, purchase_date, page.rejected)
        if not page.usable:
            return _StoredTitles()
        pools = LicensePool.for_foreign_ids(
            self._session,
            DATA_SOURCE,
            IdentifierType.BIBLIOTHECA,
            page.title_ids,
            collection=self._collection,
        )
        store_purchase_records(
            self._session,
            purchase_date,
            [
                PurchaseRecordData(pools[item_id][0], record.as_marc21, record.content_hash())
                for item_id, record in page.usable
            ],
        )
        titles = [(pools[item_id][0], title) for item_id, title in lookup.titles.items()]
        changed_titles = find_changed_titles(self._session, titles)
        new_pool_ids = {pool.id for pool, is_new in pools.values() if is_new}
        return _StoredTitles(
            new=len(new_pool_ids),
            changed=sum(pool.id not in new_pool_ids for pool, _ in changed_titles),
            outbox_ids=tuple(enqueue_changes(self._session, changed_titles)),
        )


def _sort_records(records: Sequence[MarcRecord], window: Window) -> _SortedPage:
    usable: list[tuple[str, MarcRecord]] = []
    rejected: list[RejectedRecordData] = []
    for record in records:
        reason = _rejection_reason(record)
        if reason is None:
            usable.append((record.item_ids[0], record))
        else:
            log.error("purchase record rejected", reason=reason, day=window.start.date().isoformat())
            rejected.append(RejectedRecordData(reason, record.raw_xml, record.content_hash()))
    return _SortedPage(usable, rejected)


def _rejection_reason(record: MarcRecord) -> str | None:
    if record.fault is not None:
        return record.fault
    ids = record.item_ids
    if not ids:
        return "It has no title identifier (001)."
    if len(ids) > 1:
        return f"It has {len(ids)} title identifiers (001): {excerpt_of(', '.join(ids))}."
    if not is_item_id(ids[0]):
        return f"Its title identifier (001) is invalid: {excerpt_of(ids[0])!r}."
    return None


def _fingerprint(records: Iterable[MarcRecord]) -> str:
    digest = hashlib.sha256()
    for record in records:
        # Records without exactly one identifier are distinguished by their content.
        key = record.item_ids[0] if len(record.item_ids) == 1 else record.content_hash()
        digest.update(key.encode("utf-8", "replace") + b"\x1e")
    return digest.hexdigest()[:16]
