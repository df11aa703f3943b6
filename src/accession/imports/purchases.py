"""One page of the vendor's purchase records into license pools, purchase records and the outbox."""

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
from accession.bibliotheca.marc import MarcRecord, marc_record_from_xml
from accession.catalog.apply import needs_apply, put_in_outbox
from accession.catalog.purchase_records import (
    PurchaseDate,
    StoredRecord,
    purchases_by_day,
    store_purchase_records,
)
from accession.catalog.rejected_records import Rejection, keep_rejected
from accession.catalog.sweeps import not_looked_up, note_looked_up
from accession.core.clock import utc_now, whole_second
from accession.core.settings import get_settings
from accession.core.vocabulary import IdentifierType
from accession.core.workflow import Workflow
from accession.db.models import Collection, LicensePool, RejectedRecord, Run
from accession.imports.prefetch import Asked, ReadingAhead, Shelf
from accession.imports.titles import LookUp, look_up, requests_for
from accession.imports.windows import Place, Width, Window, requests_of
from accession.runs.ledger import Counters, timestamp

log = structlog.get_logger(__name__)

# The vendor had no purchases before; a later start would lose titles for good.
DEFAULT_PURCHASE_RECORD_START_TIME = datetime(2014, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class PageImportResult:
    """What one page was, and what comes next.

    `window` is what was asked for, and `next` where the import stands behind the page. `outbox_ids` name
    what has to be applied once the page is committed. `repairs` counts documents that were well-formed only
    after a repair.
    """

    window: Window
    next: Place
    records_fetched: int = 0
    records_stored: int = 0
    records_rejected: int = 0
    titles_new: int = 0
    titles_changed: int = 0
    outbox_ids: tuple[int, ...] = ()
    repairs: int = 0

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
class _Sorted:
    """The records of a page: those with one usable id, each with it, and the others."""

    usable: Sequence[tuple[str, MarcRecord]]
    rejections: Sequence[Rejection]

    @property
    def ids(self) -> Sequence[str]:
        """The titles of the page, each once."""
        return list(dict.fromkeys(item_id for item_id, _ in self.usable))


@dataclass(frozen=True)
class _Stored:
    new: int
    changed: int
    outbox_ids: tuple[int, ...]


def reimport_requests(session: Session, collection: Collection) -> int:
    """How many requests a forced reimport of the collection makes, if the vendor has sold what is stored."""
    width = Width(get_settings().purchase_window)
    sold = purchases_by_day(session, collection)
    return requests_of(sold, DEFAULT_PURCHASE_RECORD_START_TIME, whole_second(utc_now()), width)


class BibliothecaPurchaseRecordImporter:
    """Imports purchase records of one collection, a page at a time.

    Everything is written to the given session, which the caller commits: the page is one transaction. Of
    titles that have been looked up in the same `run` nothing is asked again; on a `shelf` the vendor's
    answers lie for pages whose turn is yet to come.
    """

    def __init__(
        self,
        session: Session,
        collection: Collection,
        api: BibliothecaAPI,
        run: Run | None = None,
        shelf: Shelf | None = None,
    ) -> None:
        self._session = session
        self._collection = collection
        self._api = api
        self._run = run
        self._shelf = shelf or Shelf()

    def get_start(self) -> datetime:
        """Up to where the collection's purchases are complete; 2014-01-01 before the first run."""
        finish = timestamp(self._session, self._collection, Workflow.PURCHASES).finish
        return finish or DEFAULT_PURCHASE_RECORD_START_TIME

    def clear_checkpoint(self) -> None:
        """Forget how far the collection was complete: a forced reimport begins."""
        timestamp(self._session, self._collection, Workflow.PURCHASES).finish = None

    def import_page(self, place: Place, now: datetime, width: Width = Width.DAY) -> PageImportResult:
        """Import the page at `place`, of a window that ends at `now` (UTC) at the latest, and stamp the
        checkpoint. That only moves forward, and never over a span that nobody has asked for.

        The checkpoint becomes the window's end when this was its last page, else its start. Of a leap
        nothing is stored: the checkpoint is moved over it when it is empty.

        A vendor that answers a higher offset with the records of the page before would otherwise be asked
        for ever: there the window ends.

        Vendor errors (`accession.bibliotheca.errors`) leave nothing written.
        """
        window = place.window(now, width)
        if window.leap:
            return self._leap(place, window)
        at_once = get_settings().vendor_max_concurrency
        with ReadingAhead(self._api, self._shelf, at_once) as ahead:
            behind = [Asked(window) for window in islice(place.windows_ahead(now, width), at_once)]
            page = ahead.page(Asked(window, place.offset), behind)
            fingerprint = _fingerprint(page.records)
            repeated = bool(page.records) and fingerprint == place.previous_page
            if repeated:
                log.warning(
                    "the vendor repeats a page at a higher offset; the window ends here",
                    day=window.start.isoformat(),
                    offset=place.offset,
                )
            records = () if repeated else page.records
            full = len(records) >= PAGE_SIZE
            if full:
                behind = [Asked(window, place.offset + PAGE_SIZE), *behind]
            sorted_page = _sorted(records, window.start)
            looked_up = self._look_up(sorted_page.ids, ahead, behind)
            bought = PurchaseDate(window.start.astimezone(UTC).date(), month_only=window.is_month)
            stored = self._store(sorted_page, looked_up, bought)
            self._complete_up_to(window.start if full else window.end, since=window.start)
        return PageImportResult(
            window=window,
            next=place.after_page(
                window, fingerprint, full=full, sold=bool(page.records) or place.offset > 1
            ),
            records_fetched=len(records),
            records_stored=len(sorted_page.usable),
            records_rejected=len(sorted_page.rejections),
            titles_new=stored.new,
            titles_changed=stored.changed,
            outbox_ids=stored.outbox_ids,
            repairs=page.repaired + looked_up.repairs,
        )

    def _leap(self, place: Place, window: Window) -> PageImportResult:
        # The usual limit, although one record would tell: what the vendor makes of others nobody knows.
        page = self._api.marc_page(window.start, window.end, limit=PAGE_SIZE)
        sold = bool(page.records)
        if not sold:
            self._complete_up_to(window.end, since=window.start)
        return PageImportResult(window, place.after_leap(window, sold=sold), repairs=int(page.repaired))

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
        page = _Sorted([(record.item_ids[0], record)], [])
        looked_up = look_up(self._api, page.ids)
        stored = self._store(page, looked_up, PurchaseDate(rejected.purchased_on, rejected.month_only))
        rejected.resolved_at = utc_now()
        return stored.outbox_ids

    def _look_up(self, ids: Sequence[str], ahead: ReadingAhead, behind: Iterable[Asked]) -> LookUp:
        """What the vendor says of the titles, those left out that this run has asked about before; while
        it is asked, so it is for pages behind."""
        new = not_looked_up(self._session, self._run, ids)
        if new:
            ahead.ask_beside(requests_for(len(new)), behind)
        looked_up = look_up(self._api, new)
        for missing in looked_up.missing:
            log.warning("the vendor has no metadata for a title it has sold", title=missing)
        note_looked_up(self._session, self._run, new)
        return looked_up

    def _store(self, page: _Sorted, looked_up: LookUp, bought: PurchaseDate) -> _Stored:
        keep_rejected(self._session, self._collection, bought, page.rejections)
        if not page.usable:
            return _Stored(new=0, changed=0, outbox_ids=())
        pools = LicensePool.for_foreign_ids(
            self._session,
            DATA_SOURCE,
            IdentifierType.BIBLIOTHECA,
            page.ids,
            collection=self._collection,
        )
        store_purchase_records(
            self._session,
            bought,
            [
                StoredRecord(pools[item_id][0], record.as_marc21, record.content_hash())
                for item_id, record in page.usable
            ],
        )
        found = [(pools[item_id][0], title) for item_id, title in looked_up.titles.items()]
        to_apply = needs_apply(self._session, found)
        new = {pool.id for pool, is_new in pools.values() if is_new}
        return _Stored(
            new=len(new),
            changed=sum(pool.id not in new for pool, _ in to_apply),
            outbox_ids=tuple(put_in_outbox(self._session, to_apply)),
        )


def _sorted(records: Sequence[MarcRecord], start: datetime) -> _Sorted:
    usable: list[tuple[str, MarcRecord]] = []
    rejections: list[Rejection] = []
    for record in records:
        reason = _why_unusable(record)
        if reason is None:
            usable.append((record.item_ids[0], record))
        else:
            log.error("purchase record rejected", reason=reason, day=start.date().isoformat())
            rejections.append(Rejection(reason, record.raw_xml, record.content_hash()))
    return _Sorted(usable, rejections)


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
