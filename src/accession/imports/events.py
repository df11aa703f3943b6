"""Import one time slice of circulation events and update the copy counts of their titles."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import structlog
from sqlalchemy.orm import Session

from accession.bibliotheca.client import BibliothecaAPI
from accession.bibliotheca.events import EventFault, EventsResponse, parse_events
from accession.bibliotheca.items import DATA_SOURCE
from accession.catalog.circulation import filter_new_events, latest_event_time, record_events
from accession.catalog.data import EventData
from accession.catalog.outbox import enqueue_changes, find_changed_titles
from accession.catalog.purchase_dates import PurchaseDate
from accession.catalog.rejected_records import RejectedRecordData, store_rejected_records
from accession.catalog.run_titles import filter_new_to_run, record_looked_up
from accession.core.vocabulary import EventType, IdentifierType
from accession.core.workflow import Workflow
from accession.db.engine import begin_writing
from accession.db.models import Collection, IdentifierEquivalent, LicensePool, RejectedRecord, Run
from accession.imports.rejected_records import RetryResult, keep_open, resolve
from accession.imports.title_lookup import TitleLookup, look_up_titles
from accession.runs.checkpoints import CheckpointMove, advance_checkpoint
from accession.runs.ledger import RunCounters, get_or_create_checkpoint

log = structlog.get_logger(__name__)

# The vendor publishes some events up to five minutes late, so runs end before the present and overlap.
OVERLAP = timedelta(minutes=5)

SLICE_SIZE = timedelta(minutes=5)
MIN_SLICE_SIZE = timedelta(minutes=1)
MAX_SLICE_SIZE = timedelta(hours=6)

# After an empty body the response to a wider window has to show a known event. If none is as recent as this,
# an empty body is believed: circulation updates correct the counts.
MAX_LOOK_BACK = timedelta(days=1)

# The vendor truncates responses at 100 to 150 events without notice (NYPL-Simplified/circulation, 9018dcccf).
TRUNCATION_THRESHOLD = 100

_KNOWN_TYPES = frozenset(EventType)


@dataclass(frozen=True)
class SliceImportResult:
    """The result of importing one time slice.

    Attributes:
        events_fetched: all events of the response, of which some are rejected and the others stored.
        events_new: stored events that were not stored before.
        slice_start: inclusive start of the slice (UTC).
        slice_end: exclusive end of the slice (UTC).
        next_slice_size: maximum width of the next slice.
        outbox_ids: the outbox rows to apply after the commit.
        repairs: number of documents that were well-formed only after a repair.
    """

    events_fetched: int
    events_stored: int
    events_rejected: int
    events_new: int
    titles_new: int
    titles_changed: int
    slice_start: datetime
    slice_end: datetime
    next_slice_size: timedelta
    outbox_ids: tuple[int, ...]
    repairs: int

    @property
    def counters(self) -> RunCounters:
        """Return what the slice adds to the run's counters."""
        return RunCounters(
            records_fetched=self.events_fetched,
            records_stored=self.events_stored,
            records_rejected=self.events_rejected,
            titles_new=self.titles_new,
            titles_changed=self.titles_changed,
            repairs=self.repairs,
        )


@dataclass(frozen=True)
class _FetchedSlice:
    """A response, its window, and the time up to which events are then confirmed (all UTC)."""

    start: datetime
    end: datetime
    response: EventsResponse
    confirmed: datetime


@dataclass(frozen=True)
class _NewEvents:
    """Events that are not stored yet, the ids of their titles, and the look-up of some of these."""

    events: Sequence[EventData]
    title_ids: Sequence[str]
    looked_up: Sequence[str]
    lookup: TitleLookup


@dataclass(frozen=True)
class _StoredEvents:
    titles_new: int = 0
    titles_changed: int = 0
    outbox_ids: tuple[int, ...] = ()
    repairs: int = 0


class BibliothecaEventImporter:
    """Importer of the circulation events of one collection, time slice by time slice.

    It writes to the given session and leaves the commit to the caller: a slice is one transaction, which
    begins after the last request of the slice (`accession.db.engine.begin_writing`). Titles that the `run`
    has looked up before are not looked up again.
    """

    def __init__(
        self, session: Session, collection: Collection, api: BibliothecaAPI, run: Run | None = None
    ) -> None:
        self._session = session
        self._collection = collection
        self._api = api
        self._run = run

    def get_start(self, cutoff: datetime) -> datetime:
        """Return where a run starts: `OVERLAP` before the checkpoint, or before `cutoff` without one.

        Earlier events need no import: their effects are part of the counts of the titles.
        """
        finish = get_or_create_checkpoint(self._session, self._collection, Workflow.EVENTS).finish
        return (finish or cutoff) - OVERLAP

    def import_time_slice(
        self, start: datetime, cutoff: datetime, slice_size: timedelta = SLICE_SIZE
    ) -> SliceImportResult:
        """Import the events of a slice that ends at `cutoff` at the latest, and move the checkpoint with it.

        A response that may be truncated is not used: the first half of the slice is requested instead,
        down to `MIN_SLICE_SIZE`, and the rest is left to the next slices. The checkpoint never moves back,
        nor forward over a span that has not been requested. An empty body is not believed while an event of
        the last day is known: see `_fetch_slice`.

        Events change the counts of their titles. The titles of new events are also looked up, all at once;
        where the vendor's counts differ from the result, they are put into the outbox.

        Raises:
            RemoteIntegrationException: the vendor failed; nothing is written then.
        """
        checkpoint = get_or_create_checkpoint(self._session, self._collection, Workflow.EVENTS)
        confirmed = checkpoint.confirmed or checkpoint.finish or start
        fetched = self._fetch_slice(start, min(start + slice_size, cutoff), confirmed)
        response = fetched.response
        # Without those before the slice, which show that its response is complete.
        events_of_slice = len(response.faults) + sum(event.occurred_at >= start for event in response.events)
        new_events = self._look_up(response.events)
        begin_writing(self._session)
        self._store_rejected(fetched.start, response.faults)
        stored = self._store(new_events)
        move = CheckpointMove(fetched.start, fetched.end, confirmed, fetched.confirmed)
        advance_checkpoint(self._session, self._collection.id, Workflow.EVENTS, move)
        return SliceImportResult(
            events_fetched=response.fetched,
            events_stored=len(response.events),
            events_rejected=len(response.faults),
            events_new=len(new_events.events),
            titles_new=stored.titles_new,
            titles_changed=stored.titles_changed,
            slice_start=fetched.start,
            slice_end=fetched.end,
            next_slice_size=_next_slice_size(max(fetched.end - start, MIN_SLICE_SIZE), events_of_slice),
            outbox_ids=stored.outbox_ids,
            repairs=response.repaired + stored.repairs,
        )

    def retry_rejected(self, record: RejectedRecord) -> RetryResult:
        """Import a rejected event again.

        Raises:
            RemoteIntegrationException: the vendor failed; nothing is written then.
        """
        response = parse_events(record.raw_xml.encode())
        if response.faults:
            begin_writing(self._session)
            return keep_open(record, response.faults[0].reason)
        new_events = self._look_up(response.events)
        begin_writing(self._session)
        stored = self._store(new_events)
        return resolve(record, stored.outbox_ids)

    def _fetch_slice(self, start: datetime, end: datetime, confirmed: datetime) -> _FetchedSlice:
        """Fetch a slice; if its response proves too little, fetch it together with what is before it.

        An empty body proves nothing, and events prove nothing about an earlier slice that had an empty body.
        The wider window begins at most `MAX_LOOK_BACK` before the slice and has a known event, so that an
        empty body is an error of the vendor.
        """
        response = self._api.fetch_events(start, end)
        earliest = start - MAX_LOOK_BACK
        if response.is_blank:
            known = latest_event_time(self._session, self._collection, since=earliest, before=end)
            if known is None:
                return _FetchedSlice(start, end, response, max(confirmed, end - MAX_LOOK_BACK))
            start = min(start, known)
            response = self._api.fetch_events(start, end, may_be_empty=False)
        elif confirmed < start:
            if not response.fetched:
                return _FetchedSlice(start, end, response, max(confirmed, end - MAX_LOOK_BACK))
            # Up to the first event; the next slice has the others.
            moments = [event.occurred_at for event in response.events]
            end = min([end, *(moment + timedelta(seconds=1) for moment in moments)])
            start = max(confirmed, earliest)
            response = self._api.fetch_events(start, end, may_be_empty=False)
        return self._halve_while_truncated(start, end, response)

    def _halve_while_truncated(
        self, start: datetime, end: datetime, response: EventsResponse
    ) -> _FetchedSlice:
        while response.fetched >= TRUNCATION_THRESHOLD:
            if end - start <= MIN_SLICE_SIZE:
                # The next circulation update corrects the counts.
                log.warning(
                    "events response may be truncated", start=start.isoformat(), events=response.fetched
                )
                break
            half = timedelta(seconds=(end - start) // timedelta(seconds=2))
            end = start + max(half, MIN_SLICE_SIZE)
            has_events = any(event.occurred_at < end for event in response.events)
            response = self._api.fetch_events(start, end, may_be_empty=not has_events)
        return _FetchedSlice(start, end, response, start if response.is_blank else end)

    def _store_rejected(self, start: datetime, faults: Sequence[EventFault]) -> None:
        for fault in faults:
            log.error("event rejected", event_id=fault.event_id, reason=fault.reason)
        records = [
            RejectedRecordData(
                fault.reason, fault.raw_xml, hashlib.sha256(fault.raw_xml.encode()).hexdigest()
            )
            for fault in faults
        ]
        day = PurchaseDate(start.astimezone(UTC).date())
        store_rejected_records(self._session, self._collection, day, records, Workflow.EVENTS)

    def _look_up(self, events: Sequence[EventData]) -> _NewEvents:
        """Return the events that are not stored, with the metadata of the titles that are new to the run."""
        new_events = filter_new_events(self._session, self._collection, events)
        title_ids = list(dict.fromkeys(event.identifier for event in new_events))
        new_ids = filter_new_to_run(self._session, self._run, title_ids)
        lookup = look_up_titles(self._api, new_ids)
        for title_id in lookup.missing:
            log.warning("no metadata for a title with events", title=title_id)
        return _NewEvents(new_events, title_ids, new_ids, lookup)

    def _store(self, new: _NewEvents) -> _StoredEvents:
        """Store new events with the counts and ISBNs of their titles, and enqueue the titles' changes."""
        events, title_ids, lookup = new.events, new.title_ids, new.lookup
        if not events:
            return _StoredEvents()
        for event in events:
            if event.event_type not in _KNOWN_TYPES:
                log.warning("unknown event type", event_id=event.event_id, type=event.event_type)
        record_looked_up(self._session, self._run, new.looked_up)
        entries = LicensePool.for_foreign_ids(
            self._session, DATA_SOURCE, IdentifierType.BIBLIOTHECA, title_ids, collection=self._collection
        )
        pools = {title_id: pool for title_id, (pool, _) in entries.items()}
        new_pool_ids = {pool.id for pool, is_new in entries.values() if is_new}
        changed_pool_ids = record_events(self._session, self._collection, pools, events)
        titles = [(pools[title_id], title) for title_id, title in lookup.titles.items()]
        changed_titles = find_changed_titles(self._session, titles)
        isbns = {
            pools[event.identifier].identifier_id: event.isbn for event in events if event.isbn is not None
        }
        IdentifierEquivalent.add_first(self._session, DATA_SOURCE, isbns)
        changed_pool_ids |= {pool.id for pool, _ in changed_titles}
        return _StoredEvents(
            titles_new=len(new_pool_ids),
            titles_changed=len(changed_pool_ids - new_pool_ids),
            outbox_ids=tuple(enqueue_changes(self._session, changed_titles)),
            repairs=lookup.repairs,
        )


def _next_slice_size(size: timedelta, events: int) -> timedelta:
    """Double the size after an empty slice, and that of a small slice with few events up to the usual."""
    if not events:
        return min(2 * size, MAX_SLICE_SIZE)
    if 2 * events < TRUNCATION_THRESHOLD:
        return max(size, min(2 * size, SLICE_SIZE))
    return size
