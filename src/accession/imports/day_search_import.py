"""Import past purchases by a search for their days: one page of a requested range at a time."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import structlog
from sqlalchemy.orm import Session

from accession.accounts.limits import max_concurrency
from accession.bibliotheca.client import BibliothecaAPI
from accession.bibliotheca.marc import MarcPage, MarcRecord, marc_record_from_xml
from accession.catalog.purchase_dates import PurchaseDate
from accession.catalog.undated_records import UndatedRecords
from accession.db.engine import begin_writing
from accession.db.models import Collection
from accession.imports.day_search import ContradictionError, DaySearch, RangeReading, content_key
from accession.imports.lookup_queue import DueTitles, LookupQueue
from accession.imports.page_result import DayImportResult
from accession.imports.prefetch import PrefetchCache, Prefetcher, fetch_unless_withdrawn
from accession.imports.purchase_store import PurchaseStore, SortedRecords, rejection_reason, sort_records
from accession.imports.title_lookup import TitleLookup
from accession.imports.windows import ImportCursor, PageRequest, Window, midnight, page_request

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class _FetchedPage:
    """A page and the metadata of the titles that are due with it, before anything is stored.

    `records` are those of the page by their keys.
    """

    reading: RangeReading
    records: Mapping[str, MarcRecord]
    next_cursor: ImportCursor
    due: DueTitles
    lookup: TitleLookup
    repairs: int

    @property
    def has_changes(self) -> bool:
        """Return whether there is something to store beside the progress of the run."""
        return bool(self.reading.days or self.reading.new_keys) or self.due.has_changes


class DaySearchImporter:
    """Importer of past purchases of one collection, by a search for their days.

    Records are kept as undated records until their days are to be stored. Then they are stored as purchases.
    """

    def __init__(
        self,
        session: Session,
        collection: Collection,
        api: BibliothecaAPI,
        lookups: LookupQueue,
        store: PurchaseStore,
        prefetch_cache: PrefetchCache,
    ) -> None:
        self._session = session
        self._api = api
        self._lookups = lookups
        self._store = store
        self._prefetch_cache = prefetch_cache
        self._undated = UndatedRecords(session, collection)
        self._max_concurrency = max_concurrency(collection)

    def import_page(self, cursor: ImportCursor, search: DaySearch) -> DayImportResult:
        """Import the next page of the search.

        Raises:
            RemoteIntegrationException: the vendor failed; nothing is written then.
        """
        requested = search.planned[0]
        fetched = self._fetch(cursor, search)
        is_first = search is not cursor.search
        if is_first or fetched.has_changes:
            begin_writing(self._session)
        if is_first:
            # An earlier run may have left some.
            self._undated.clear()
        dates = list(self._dated_records(fetched.reading, fetched.records))
        stored = self._store.store(dates, fetched.lookup, fetched.due.counted_as_new)
        self._lookups.record(fetched.due, stored.new_ids)
        usable, rejected = (sum(len(getattr(day, kind)) for day in dates) for kind in ("usable", "rejected"))
        return DayImportResult(
            Window(midnight(requested.start), midnight(requested.end), is_probe=True),
            fetched.next_cursor,
            records_fetched=usable + rejected,
            records_stored=usable,
            records_in_part=sum(day.in_part for day in dates),
            records_rejected=rejected,
            titles_new=len(stored.new_ids),
            titles_changed=stored.changed,
            outbox_ids=stored.outbox_ids,
            repairs=fetched.repairs,
        )

    def _fetch(self, cursor: ImportCursor, search: DaySearch) -> _FetchedPage:
        """Fetch the next page, and the metadata of the titles that are due with it."""
        concurrency = self._max_concurrency
        prefetcher = Prefetcher(self._api, self._prefetch_cache, concurrency)
        page = self._fetch_page(prefetcher, search)
        keys = [content_key(record.key, record.content_hash()) for record in page.records]
        records = dict(zip(keys, page.records, strict=True))
        try:
            reading = search.read_page(keys, is_blank=page.is_blank)
        except ContradictionError:
            reading = search.fail()
            next_cursor = cursor.after_contradiction(reading.search)
            log.warning(
                "vendor's list has changed, importing day by day",
                since=next_cursor.current_day.isoformat(),
                until=search.listed_until.isoformat(),
            )
        else:
            next_cursor = cursor.after_search(reading.search, len(reading.new_keys))
        new_records = [records[key] for key in reading.new_keys if key in records]
        titles = [record.item_ids[0] for record in new_records if rejection_reason(record) is None]
        due = self._lookups.select_due(list(dict.fromkeys(titles)), is_last=False)
        upcoming = [] if next_cursor.search is None else _page_requests(next_cursor.search, concurrency)
        lookup = prefetcher.look_up(due.identifiers, upcoming, first_listed=0)
        return _FetchedPage(reading, records, next_cursor, due, lookup, page.repaired + lookup.repairs)

    def _fetch_page(self, prefetcher: Prefetcher, search: DaySearch) -> MarcPage:
        request, *upcoming = _page_requests(search, self._max_concurrency)

        def skip_known(cached: PageRequest, first_listed: int, keys: Sequence[str]) -> int | None:
            return 0 if cached == request else None

        def fetch() -> MarcPage:
            return prefetcher.fetch_page(request, upcoming, 0, skip_known)

        control = search.control_range()
        return fetch_unless_withdrawn(self._api, fetch, None if control is None else page_request(control))

    def _dated_records(
        self, reading: RangeReading, page: Mapping[str, MarcRecord]
    ) -> Iterator[SortedRecords]:
        """Yield the records of each day to be stored, and keep the new ones of other days as undated."""
        undated = reading.search.keys
        self._undated.add(
            {key: page[key].raw_xml for key in reading.new_keys if key in undated and key in page}
        )
        resolved = {key for day in reading.days for key in day.keys}
        # A record that is listed several times may have some of its days still to be stored.
        stored = self._undated.take(resolved - undated) | self._undated.read(resolved & undated - page.keys())
        parsed = {key: marc_record_from_xml(stored[key]) for key in stored.keys() - page.keys()}
        records = {**parsed, **page}
        for day in reading.days:
            yield sort_records([records[key] for key in day.keys], PurchaseDate(day.start))


def _page_requests(search: DaySearch, limit: int) -> Sequence[PageRequest]:
    return [page_request(requested) for requested in search.requests(limit)]
