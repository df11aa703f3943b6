"""Import purchase records page by page, and move the checkpoint with each page."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, time, timedelta
from functools import partial
from itertools import islice

import structlog
from sqlalchemy.orm import Session

from accession.accounts.limits import max_concurrency
from accession.bibliotheca.client import BibliothecaAPI
from accession.bibliotheca.errors import BadResponseException
from accession.bibliotheca.marc import MarcPage, MarcRecord, marc_record_from_xml
from accession.catalog.listed_records import ListedRecords
from accession.catalog.purchase_dates import PurchaseDate
from accession.catalog.purchase_records import (
    count_purchases_since,
    early_purchase_day,
    purchases_by_day,
    remove_purchases_between,
)
from accession.catalog.rejected_records import find_rejected_hashes
from accession.core.clock import truncate_to_second, utc_now
from accession.core.settings import get_settings
from accession.core.workflow import Workflow
from accession.db.engine import begin_writing, has_begun_writing
from accession.db.models import Collection, RejectedRecord, Run, Timestamp
from accession.imports.day_search_import import DaySearchImporter
from accession.imports.lookup_queue import DueTitles, LookupQueue
from accession.imports.page_result import DayImportResult
from accession.imports.prefetch import NullPrefetchCache, PrefetchCache, Prefetcher, fetch_unless_withdrawn
from accession.imports.purchase_store import (
    PurchaseStore,
    SortedRecords,
    rejection_reason,
    sort_records,
)
from accession.imports.rejected_records import RetryResult, keep_open, resolve
from accession.imports.title_lookup import TitleLookup, look_up_titles
from accession.imports.windows import ImportCursor, PageReading, PageRequest, Width, Window, count_requests
from accession.runs.checkpoints import CheckpointMove, advance_checkpoint
from accession.runs.ledger import get_or_create_checkpoint

log = structlog.get_logger(__name__)

# The vendor has no purchases before this date; a later start would miss titles.
DEFAULT_PURCHASE_RECORD_START_TIME = datetime(2014, 1, 1, tzinfo=UTC)

# Purchases that the vendor lists up to a month late are found by the daily run.
_RECENT = timedelta(days=31)

# An import or a listing that begins again this often without progress would never end.
_MAX_RESTARTS = 20


@dataclass(frozen=True)
class _FetchedPage:
    """A page and the metadata of the titles that are due with it, before anything is stored.

    `has_new_records`: the page belongs to a window whose records are stored, and continues the one before.
    `has_changes`: there is something to store beside the progress of the run.
    """

    window: Window
    next_cursor: ImportCursor
    page: SortedRecords
    has_new_records: bool
    due: DueTitles
    lookup: TitleLookup
    repairs: int
    has_changes: bool


def check_restarts(restarts: int, collection: Collection) -> None:
    """Check that an import or a listing has not begun again too often.

    Raises:
        BadResponseException: it would never end.
    """
    if restarts > _MAX_RESTARTS:
        raise BadResponseException(
            "the vendor's pages contradict each other: ask its support whether paging works", collection.name
        )


def count_reimport_requests(session: Session, collection: Collection) -> int:
    """Return how many requests a forced reimport makes if the vendor has the purchases that are stored."""
    width = Width(get_settings().purchase_window)
    titles_by_day = purchases_by_day(session, collection)
    now = truncate_to_second(utc_now())
    return count_requests(titles_by_day, DEFAULT_PURCHASE_RECORD_START_TIME, now, width)


class BibliothecaPurchaseRecordImporter:
    """Importer of the purchase records of one collection, page by page.

    It writes to the given session and leaves the commit to the caller: a page is one transaction, which
    begins after the last request of the page (`accession.db.engine.begin_writing`). The titles
    of a `run` are looked up once, together with those of the next pages (`accession.imports.lookup_queue`);
    without a run they are looked up with their page. Without a `prefetch_cache` no pages are prefetched.
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
        self._lookups = LookupQueue(session, run)
        self._listed = None if run is None else ListedRecords(session, run, is_verification=False)
        self._prefetch_cache = prefetch_cache or NullPrefetchCache()
        self._store = PurchaseStore(session, collection)

    def get_start(self) -> datetime:
        """Return the time (UTC) up to which everything is confirmed; before the first import, the default."""
        checkpoint = self._checkpoint()
        return checkpoint.confirmed or checkpoint.finish or DEFAULT_PURCHASE_RECORD_START_TIME

    @property
    def _day_searcher(self) -> DaySearchImporter:
        return DaySearchImporter(
            self._session, self._collection, self._api, self._lookups, self._store, self._prefetch_cache
        )

    def first_cursor(self, now: datetime) -> ImportCursor:
        """Return where a run starts that is not a forced reimport.

        A run soon after the last one starts with a check of the recent purchases, which also finds those
        that the vendor lists late. If no purchase has ever been listed, it requests all time at once.
        """
        cursor = ImportCursor(self.get_start())
        check_start = self._check_start(cursor, now)
        if check_start is None:
            has_been_requested = self._checkpoint().finish is not None
            return cursor.with_wide_windows() if has_been_requested else cursor
        is_recent = now - cursor.current_day <= _RECENT
        return cursor.begin_check(check_start, now) if is_recent else cursor

    def _check_start(self, cursor: ImportCursor, now: datetime) -> datetime | None:
        """Return the start of a check, from which on there are known purchases; None without any."""
        purchase_day = early_purchase_day(self._session, self._collection)
        if purchase_day is None:
            return None
        first_day = min(purchase_day, cursor.confirmed_until.date(), (now - _RECENT).date())
        return datetime.combine(first_day, time(), UTC)

    def _checkpoint(self) -> Timestamp:
        return get_or_create_checkpoint(self._session, self._collection, Workflow.PURCHASES)

    def import_day(
        self,
        cursor: ImportCursor,
        now: datetime,
        width: Width = Width.DAY,
        *,
        clears_checkpoint: bool = False,
    ) -> DayImportResult:
        """Import one page of the day at `cursor` and move the checkpoint with it.

        The day ends at `now` (UTC) at the latest. Its place may be taken by a calendar month, if `width`
        says so, or by a probe, whose records are not stored: see `accession.imports.windows`.

        The checkpoint becomes the start of the day, and its end with the last page or an empty probe. It
        never moves back, nor forward over a span that has not been requested. Beside it is stored up to
        when everything is confirmed. A forced reimport clears it with its first page. If nothing else has to
        be written, and the import continues, the move is left to the caller, who makes it together with that
        of the run (`accession.runs.empty_steps`).

        Raises:
            RemoteIntegrationException: the vendor failed; nothing is written then.
        """
        search = cursor.current_search(now, width)
        if search is None:
            result = self.import_page(cursor, now, width)
        else:
            result = self._day_searcher.import_page(cursor, search)
            check_restarts(result.next_cursor.restarts, self._collection)
        next_cursor, start = result.next_cursor, min(cursor.current_day, result.window.start)
        if clears_checkpoint:
            begin_writing(self._session)
            self._clear_checkpoint()
        if next_cursor.is_complete(now):
            # What follows the import reads the checkpoint.
            begin_writing(self._session)
        end = max(start, next_cursor.current_day)
        move = CheckpointMove(start, end, cursor.confirmed_until, next_cursor.confirmed_until)
        if has_begun_writing(self._session):
            advance_checkpoint(self._session, self._collection.id, Workflow.PURCHASES, move)
        else:
            result = replace(result, checkpoint_move=move)
        restarts = int(next_cursor.restarts > cursor.restarts)
        return replace(result, next_cursor=self._check_at_end(result, now), restarts=restarts)

    def _clear_checkpoint(self) -> None:
        checkpoint = self._checkpoint()
        checkpoint.finish = checkpoint.confirmed = None
        self._session.flush()

    def import_page(self, cursor: ImportCursor, now: datetime, width: Width = Width.DAY) -> DayImportResult:
        """Import one page as `import_day` does, without the checkpoint: for days that were imported before.

        Raises:
            RemoteIntegrationException: the vendor failed; nothing is written then.
        """
        fetched = self._fetch(cursor, now, width)
        if fetched.has_changes:
            begin_writing(self._session)
        return self._store_page(fetched, cursor)

    def retry_rejected(self, record: RejectedRecord) -> RetryResult:
        """Import a rejected record again, with the purchase date it was received under.

        Raises:
            RemoteIntegrationException: the vendor failed; nothing is written then.
        """
        marc_record = marc_record_from_xml(record.raw_xml)
        reason = rejection_reason(marc_record)
        if reason is not None:
            begin_writing(self._session)
            return keep_open(record, reason)
        purchase_date = PurchaseDate(record.purchased_on, record.month_only)
        page = SortedRecords(purchase_date, [(marc_record.item_ids[0], marc_record)])
        lookup = look_up_titles(self._api, page.title_ids)
        begin_writing(self._session)
        stored = self._store.store([page], lookup)
        return resolve(record, stored.outbox_ids)

    def _fetch(self, cursor: ImportCursor, now: datetime, width: Width) -> _FetchedPage:
        """Fetch the next page, and the metadata of the titles that are due with it."""
        window = cursor.window(now, width)
        concurrency = max_concurrency(self._collection)
        after_this_page = list(islice(cursor.upcoming_requests(now, width), 1, concurrency))
        prefetcher = Prefetcher(self._api, self._prefetch_cache, concurrency)
        page = self._fetch_page(prefetcher, cursor, window, after_this_page)
        reading = self._read_page(page, window, cursor)
        next_cursor = reading.next_cursor
        if next_cursor.restarts > cursor.restarts:
            self._begin_again(window, next_cursor)
        has_new_records = reading.known_records is not None and not window.is_probe
        records = page.records[reading.known_records :] if has_new_records else ()
        purchase_date = PurchaseDate(window.start.astimezone(UTC).date(), month_only=window.is_month)
        sorted_page = sort_records(records, purchase_date)
        has_more_pages = cursor.window_end is not None or next_cursor.window_end is not None
        due = self._lookups.select_due(sorted_page.title_ids, is_last=next_cursor.is_complete(now))
        upcoming = list(islice(next_cursor.upcoming_requests(now, width), concurrency))
        lookup = prefetcher.look_up(
            due.identifiers, upcoming, next_cursor.first_listed, meanwhile=sorted_page.compute_hashes
        )
        return _FetchedPage(
            window,
            next_cursor,
            sorted_page,
            has_new_records=has_new_records,
            due=due,
            lookup=lookup,
            repairs=page.repaired + lookup.repairs,
            has_changes=bool(records) or due.has_changes or has_more_pages,
        )

    def _fetch_page(
        self, prefetcher: Prefetcher, cursor: ImportCursor, window: Window, upcoming: Sequence[PageRequest]
    ) -> MarcPage:
        """Return the next page of the window.

        It is blank instead of an error if the vendor has records before the anchor but not the anchor, so
        that the import goes back: the anchor was withdrawn, or is of an earlier day.
        """
        request = cursor.request(window)

        def fetch() -> MarcPage:
            skip_known = partial(cursor.skip_known, window)
            return prefetcher.fetch_page(request, upcoming, cursor.first_listed, skip_known)

        return fetch_unless_withdrawn(self._api, fetch, cursor.control_request(window))

    def _read_page(self, page: MarcPage, window: Window, cursor: ImportCursor) -> PageReading:
        keys = [record.key for record in page.records]
        if not window.is_check:
            return cursor.read_page(window, keys, is_blank=page.is_blank)
        unknown = self._find_unknown(page.records[cursor.known_records(window) :], window.start.date())
        return cursor.read_check(keys, unknown)

    def _find_unknown(self, records: Sequence[MarcRecord], since: date) -> list[str]:
        """Return the keys of the records that are neither stored as purchases since a day nor rejected.

        A title that is listed twice needs two stored purchases.
        """
        keys = [record.key for record in records]
        stored = count_purchases_since(self._session, self._collection, keys, since)
        unknown: list[tuple[str, str]] = []
        for key, record in zip(reversed(keys), reversed(records), strict=True):
            if stored[key]:
                stored[key] -= 1
            else:
                unknown.append((key, record.content_hash()))
        if not unknown:
            return []
        hashes = [content_hash for _, content_hash in unknown]
        rejected = find_rejected_hashes(self._session, self._collection, hashes)
        return [key for key, content_hash in unknown if content_hash not in rejected]

    def _check_at_end(self, result: DayImportResult, now: datetime) -> ImportCursor:
        """Return the cursor at a check, if everything is requested but not confirmed.

        If the end was skipped after a window with records, these may have appeared in days before it.
        """
        cursor = result.next_cursor
        has_skipped = result.records_fetched > 0 and result.window.end < cursor.current_day
        if not cursor.is_complete(now) or (cursor.confirmed_until >= cursor.current_day and not has_skipped):
            return cursor
        if cursor.anchor is not None:
            return cursor.end_with_check()
        check_start = self._check_start(cursor, now)
        return cursor if check_start is None else cursor.begin_check(check_start, cursor.current_day)

    def _begin_again(self, window: Window, next_cursor: ImportCursor) -> None:
        log.warning(
            "page does not continue the one before, importing again",
            day=window.start.isoformat(),
            since=next_cursor.current_day.isoformat(),
        )
        check_restarts(next_cursor.restarts, self._collection)

    def _store_page(self, fetched: _FetchedPage, cursor: ImportCursor) -> DayImportResult:
        page, window = fetched.page, fetched.window
        if fetched.has_new_records:
            page = self._add_listings(page, cursor, fetched.next_cursor)
            self._remove_later_purchases(page, window, cursor.setback)
        stored = self._store.store([page], fetched.lookup, fetched.due.counted_as_new)
        self._lookups.record(fetched.due, stored.new_ids)
        return DayImportResult(
            window,
            fetched.next_cursor,
            records_fetched=len(page.usable) + len(page.rejected),
            records_stored=len(page.usable),
            records_in_part=page.in_part,
            records_rejected=len(page.rejected),
            titles_new=len(stored.new_ids),
            titles_changed=stored.changed,
            outbox_ids=stored.outbox_ids,
            repairs=fetched.repairs,
        )

    def _remove_later_purchases(self, page: SortedRecords, window: Window, setback: datetime | None) -> None:
        """Remove purchases of the page's titles under later days that are about to be imported again.

        They may have been stored under a wrong day: that is why the import begins again. Those that the
        vendor lists there are stored again with their day.
        """
        if setback is not None and window.end < setback:
            after, last = ((moment - timedelta.resolution).date() for moment in (window.end, setback))
            remove_purchases_between(self._session, self._collection, page.title_ids, after, last)

    def _add_listings(
        self, page: SortedRecords, cursor: ImportCursor, next_cursor: ImportCursor
    ) -> SortedRecords:
        """Return the page with the number of listings of its titles, earlier pages of the window included."""
        is_first, is_last = cursor.window_end is None, next_cursor.window_end is None
        if self._listed is None or (is_first and is_last):
            return page
        if is_first:
            self._listed.clear()
        listed = self._listed.add([(item_id, record.content_hash()) for item_id, record in page.usable])
        if is_last:
            self._listed.clear()
        return replace(page, listed=listed)
