"""A slice of what happened to a collection's copies, into events and the counts of pools."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import structlog
from sqlalchemy.orm import Session

from accession.bibliotheca.client import BibliothecaAPI
from accession.bibliotheca.events import EventFault, EventsAnswer, parse_events
from accession.bibliotheca.items import DATA_SOURCE
from accession.catalog.apply import needs_apply, put_in_outbox
from accession.catalog.circulation import new_events, record_events
from accession.catalog.data import EventData
from accession.catalog.purchase_records import PurchaseDate
from accession.catalog.rejected_records import Rejection, keep_rejected
from accession.catalog.sweeps import not_looked_up, note_looked_up
from accession.core.clock import utc_now
from accession.core.vocabulary import EventType, IdentifierType
from accession.core.workflow import Workflow
from accession.db.models import Collection, IdentifierEquivalent, LicensePool, RejectedRecord, Run
from accession.imports.titles import look_up
from accession.runs.ledger import Counters, timestamp

log = structlog.get_logger(__name__)

# How far runs overlap, and how long an event may take to be told: the vendor publishes some late.
OVERLAP = timedelta(minutes=5)

SLICE_SIZE = timedelta(minutes=5)
SHORTEST_SLICE = timedelta(minutes=1)
LONGEST_SLICE = timedelta(hours=6)

# The vendor cuts an answer at 100 to 150 events without a word (NYPL-Simplified/circulation, 9018dcccf).
MAY_BE_CUT = 100

_KNOWN_TYPES = frozenset(EventType)


@dataclass(frozen=True)
class SliceImportResult:
    """What one slice was, and what comes next.

    `slice_start` and `slice_end` are its bounds (UTC, half-open). Of `events_fetched` those that could
    not be used are `events_rejected`, and the others `events_stored`; those told for the first time are
    `events_new`. `next_slice_size`
    is how wide the next slice may be. `outbox_ids` name what has to be applied once the slice is
    committed. `repairs` counts documents that were well-formed only after a repair.
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
    def counters(self) -> Counters:
        """The slice's share of the run's counters."""
        return Counters(
            records_fetched=self.events_fetched,
            records_stored=self.events_stored,
            records_rejected=self.events_rejected,
            titles_new=self.titles_new,
            titles_changed=self.titles_changed,
            repairs=self.repairs,
        )


@dataclass(frozen=True)
class _Stored:
    titles_new: int
    titles_changed: int
    outbox_ids: tuple[int, ...]
    repairs: int


class BibliothecaEventImporter:
    """Imports what happened to one collection's copies, a slice of time at a time.

    Everything is written to the given session, which the caller commits: the slice is one transaction. Of
    titles that have been looked up in the same `run` nothing is asked again.
    """

    def __init__(
        self, session: Session, collection: Collection, api: BibliothecaAPI, run: Run | None = None
    ) -> None:
        self._session = session
        self._collection = collection
        self._api = api
        self._run = run

    def get_start(self, cutoff: datetime) -> datetime:
        """Where the next run begins: `OVERLAP` before the point up to which events are complete, or
        before `cutoff` when there was no run yet; what was before is in the counts of the titles."""
        finish = timestamp(self._session, self._collection, Workflow.EVENTS).finish
        return (finish or cutoff) - OVERLAP

    def import_time_slice(
        self, start: datetime, cutoff: datetime, slice_size: timedelta = SLICE_SIZE
    ) -> SliceImportResult:
        """Import the events from `start` on, of `slice_size` at most and not beyond `cutoff`, and stamp the
        checkpoint.

        An answer so long that the vendor may have cut it is not trusted: the first half of the slice is
        asked for instead, and so on down to `SHORTEST_SLICE`; the rest is for the slices that follow. The
        checkpoint only moves forward, and never over a span that nobody has asked for.

        The titles of new events are looked up together. Their counts are those that the events make of
        them; where the vendor's present counts are others, those are applied.

        Vendor errors (`accession.bibliotheca.errors`) leave nothing written.
        """
        slice_end, answer = self._ask(start, min(start + slice_size, cutoff))
        self._keep_rejected(start, answer.faults)
        events = new_events(self._session, self._collection, answer.events)
        stored = self._store(events)
        checkpoint = timestamp(self._session, self._collection, Workflow.EVENTS)
        if checkpoint.finish is None or start <= checkpoint.finish:
            checkpoint.finish = max(slice_end, checkpoint.finish or slice_end)
        return SliceImportResult(
            events_fetched=answer.fetched,
            events_stored=len(answer.events),
            events_rejected=len(answer.faults),
            events_new=len(events),
            titles_new=stored.titles_new,
            titles_changed=stored.titles_changed,
            slice_start=start,
            slice_end=slice_end,
            next_slice_size=_next_size(slice_end - start, answer.fetched),
            outbox_ids=stored.outbox_ids,
            repairs=answer.repaired + stored.repairs,
        )

    def retry_rejected(self, rejected: RejectedRecord) -> tuple[int, ...] | None:
        """Run a rejected event through the import again.

        Returns the outbox ids of what has to be applied, and the event is resolved; or None, and it has
        the reason of now.
        """
        answer = parse_events(rejected.raw_xml.encode())
        for fault in answer.faults:
            if rejected.reason != fault.reason:
                rejected.reason = fault.reason
            return None
        stored = self._store(new_events(self._session, self._collection, answer.events))
        rejected.resolved_at = utc_now()
        return stored.outbox_ids

    def _keep_rejected(self, start: datetime, faults: Sequence[EventFault]) -> None:
        for fault in faults:
            log.error("event rejected", event_id=fault.event_id, reason=fault.reason)
        rejections = [
            Rejection(fault.reason, fault.raw_xml, hashlib.sha256(fault.raw_xml.encode()).hexdigest())
            for fault in faults
        ]
        day = PurchaseDate(start.astimezone(UTC).date())
        keep_rejected(self._session, self._collection, day, rejections, Workflow.EVENTS)

    def _ask(self, start: datetime, end: datetime) -> tuple[datetime, EventsAnswer]:
        answer = self._api.events(start, end)
        while answer.fetched >= MAY_BE_CUT:
            if end - start <= SHORTEST_SLICE:
                log.warning(
                    "the vendor may have left out events of a busy minute; the next sweep settles the counts",
                    start=start.isoformat(),
                    events=answer.fetched,
                )
                break
            half = timedelta(seconds=(end - start) // timedelta(seconds=2))
            end = start + max(half, SHORTEST_SLICE)
            answer = self._api.events(start, end)
        return end, answer

    def _store(self, events: Sequence[EventData]) -> _Stored:
        if not events:
            return _Stored(titles_new=0, titles_changed=0, outbox_ids=(), repairs=0)
        for event in events:
            if event.event_type not in _KNOWN_TYPES:
                log.warning("event of an unknown type", event_id=event.event_id, type=event.event_type)
        ids = list(dict.fromkeys(event.identifier for event in events))
        new_ids = not_looked_up(self._session, self._run, ids)
        looked_up = look_up(self._api, new_ids)
        note_looked_up(self._session, self._run, new_ids)
        for missing in looked_up.missing:
            log.warning("the vendor has no metadata for a title that it tells events of", title=missing)
        found = LicensePool.for_foreign_ids(
            self._session, DATA_SOURCE, IdentifierType.BIBLIOTHECA, ids, collection=self._collection
        )
        pools = {item_id: pool for item_id, (pool, _) in found.items()}
        new = {pool.id for pool, is_new in found.values() if is_new}
        changed = record_events(self._session, self._collection, pools, events)
        to_apply = needs_apply(
            self._session, [(pools[item_id], title) for item_id, title in looked_up.titles.items()]
        )
        isbns = {event.identifier: event.isbn for event in events if event.isbn is not None}
        IdentifierEquivalent.add_first(
            self._session,
            DATA_SOURCE,
            {pools[item_id].identifier_id: isbn for item_id, isbn in isbns.items()},
        )
        return _Stored(
            titles_new=len(new),
            titles_changed=len((changed | {pool.id for pool, _ in to_apply}) - new),
            outbox_ids=tuple(put_in_outbox(self._session, to_apply)),
            repairs=looked_up.repairs,
        )


def _next_size(size: timedelta, events: int) -> timedelta:
    """Twice as wide after an empty slice; after a narrow one with few events back towards the usual."""
    if not events:
        return min(2 * size, LONGEST_SLICE)
    if 2 * events < MAY_BE_CUT:
        return max(size, min(2 * size, SLICE_SIZE))
    return size
