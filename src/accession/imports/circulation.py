"""Update the availability and metadata of a batch of titles, and detect titles that were withdrawn."""

from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from datetime import datetime

import structlog
from sqlalchemy.orm import Session

from accession.bibliotheca.client import MAX_ITEMS, BibliothecaAPI
from accession.bibliotheca.errors import PermanentVendorError
from accession.bibliotheca.items import DATA_SOURCE
from accession.catalog.apply import apply_outbox
from accession.catalog.circulation import has_new_counts
from accession.catalog.data import ApplyData, CirculationData
from accession.catalog.outbox import enqueue_changes, find_changed_titles
from accession.catalog.pools import find_pools, lock_pools, next_pools
from accession.catalog.sweeps import record_swept
from accession.core.clock import utc_now
from accession.core.vocabulary import IdentifierType
from accession.core.workflow import Workflow
from accession.db.engine import begin_writing
from accession.db.models import Collection, LicensePool
from accession.imports.title_lookup import TitleLookup, look_up_titles
from accession.runs.ledger import RunCounters, get_or_create_checkpoint

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class BatchUpdateResult:
    """The result of updating one batch of titles.

    Attributes:
        titles_requested: all titles of the batch.
        titles_reported: titles with usable data; that a title is omitted is data, too.
        titles_changed: titles whose data differs from what is stored.
        titles_withdrawn: changed titles that the vendor no longer has.
        next_offset: identifier id of the batch's last title; None when the sweep is complete.
        outbox_ids: the outbox rows to apply after the commit.
        repairs: number of documents that were well-formed only after a repair.
    """

    titles_requested: int
    titles_reported: int
    titles_changed: int
    titles_withdrawn: int
    next_offset: int | None
    outbox_ids: tuple[int, ...]
    repairs: int

    @property
    def counters(self) -> RunCounters:
        """Return what the batch adds to the run's counters."""
        return RunCounters(
            records_fetched=self.titles_requested,
            records_stored=self.titles_reported,
            records_rejected=self.titles_requested - self.titles_reported,
            titles_changed=self.titles_changed,
            repairs=self.repairs,
        )


@dataclass(frozen=True)
class RefreshResult:
    """The number of titles that had changed, and the ids of those among them that were withdrawn."""

    titles_changed: int
    withdrawn: tuple[str, ...]


@dataclass(frozen=True)
class _FetchedBatch:
    """The vendor's data on a batch of titles as of a time (UTC) before the request.

    `titles` are those with usable data; titles that the response omits are among them, without copies.
    """

    as_of: datetime
    titles: Sequence[tuple[LicensePool, ApplyData]]
    omitted: AbstractSet[str]
    repairs: int


class BibliothecaCirculationUpdater:
    """Updater of the titles that one collection holds, batch by batch.

    It writes to the given session and leaves the commit to the caller: a batch is one transaction, which
    begins after the last request of the batch (`accession.db.engine.begin_writing`).
    """

    def __init__(self, session: Session, collection: Collection, api: BibliothecaAPI) -> None:
        self._session = session
        self._collection = collection
        self._api = api

    def get_offset(self) -> int:
        """Return the identifier id after which the sweep continues; 0 for its beginning."""
        return get_or_create_checkpoint(self._session, self._collection, Workflow.CIRCULATION).counter or 0

    def update_batch(self, offset: int) -> BatchUpdateResult:
        """Update the next 25 titles, those with the lowest identifier ids above `offset`.

        Changes are put into the outbox. A title that the response omits was withdrawn from the collection:
        its counts become zero and its status "exhausted".

        The checkpoint's counter becomes the last identifier id, or 0 with the last batch, which also sets
        `finish` to the present.

        Raises:
            PermanentVendorError: a response omits all titles of the batch, but the vendor has one of them.
            RemoteIntegrationException: the vendor failed. In both cases nothing is written.
        """
        pools = next_pools(self._session, self._collection, DATA_SOURCE, after_id=offset, limit=MAX_ITEMS)
        next_offset = pools[-1].identifier_id if len(pools) == MAX_ITEMS else None
        batch = self._fetch_batch(pools)
        begin_writing(self._session)
        changed_titles = find_changed_titles(self._session, batch.titles)
        record_swept(
            self._session,
            self._collection,
            after_id=offset,
            last_id=next_offset,
            identifier_ids=[pool.identifier_id for pool, _ in batch.titles],
            at=batch.as_of,
        )
        outbox_ids = enqueue_changes(self._session, changed_titles)
        self._update_checkpoint(next_offset)
        return BatchUpdateResult(
            titles_requested=len(pools),
            titles_reported=len(batch.titles),
            titles_changed=len(changed_titles),
            titles_withdrawn=len(_log_withdrawn(changed_titles, batch.omitted)),
            next_offset=next_offset,
            outbox_ids=tuple(outbox_ids),
            repairs=batch.repairs,
        )

    def refresh(self, identifiers: Sequence[str]) -> RefreshResult:
        """Update these titles (vendor ids) and apply the changes at once; the checkpoint stays as it is.

        Changes to them that were still in the outbox are applied or superseded.

        Raises:
            TitleNotHeld: the collection does not hold one of the titles.
            RemoteIntegrationException: the vendor failed. In both cases nothing is written.
        """
        pools = find_pools(
            self._session, self._collection, DATA_SOURCE, IdentifierType.BIBLIOTHECA, identifiers
        )
        batches = [
            self._fetch_batch(pools[start : start + MAX_ITEMS]) for start in range(0, len(pools), MAX_ITEMS)
        ]
        begin_writing(self._session)
        lock_pools(self._session, [pool.id for pool in pools])
        titles = [title for batch in batches for title in batch.titles]
        changed_titles = find_changed_titles(self._session, titles)
        withdrawn = _log_withdrawn(changed_titles, {title for batch in batches for title in batch.omitted})
        apply_outbox(self._session, enqueue_changes(self._session, changed_titles))
        return RefreshResult(len(changed_titles), tuple(withdrawn))

    def _update_checkpoint(self, next_offset: int | None) -> None:
        checkpoint = get_or_create_checkpoint(self._session, self._collection, Workflow.CIRCULATION)
        checkpoint.counter = next_offset or 0
        if next_offset is None:
            checkpoint.finish = utc_now()

    def _fetch_batch(self, pools: Sequence[LicensePool]) -> _FetchedBatch:
        lookup = self._look_up_confirmed(pools)
        data = {**dict.fromkeys(lookup.missing, _no_copies(lookup.as_of)), **lookup.titles}
        titles = [(pool, data[name]) for pool in pools if (name := pool.identifier.identifier) in data]
        return _FetchedBatch(lookup.as_of, titles, frozenset(lookup.missing), lookup.repairs)

    def _look_up_confirmed(self, pools: Sequence[LicensePool]) -> TitleLookup:
        """Look up the titles, and confirm a response that omits all of them.

        It counts as confirmed if a second response omits all of them as well, and a third request, for one
        of the titles alone, finds that title missing.
        """
        ids = [pool.identifier.identifier for pool in pools]
        lookup = look_up_titles(self._api, ids)
        if not _newly_omitted(pools, lookup):
            return lookup
        log.warning("response omits all titles of a batch, retrying", titles=len(ids))
        lookup = look_up_titles(self._api, ids)
        newly_omitted = _newly_omitted(pools, lookup)
        if newly_omitted and not look_up_titles(self._api, newly_omitted[:1]).missing:
            raise PermanentVendorError(
                f"the vendor omitted all {len(ids)} titles of a batch, but has one of them when it is "
                "requested alone; nothing was changed, start the update again later",
                self._collection.name,
            )
        return lookup


def _newly_omitted(pools: Sequence[LicensePool], lookup: TitleLookup) -> list[str]:
    """Return the titles not yet stored as withdrawn, if the response omits all of several titles."""
    if not 1 < len(pools) == len(lookup.missing):
        return []
    no_copies = _no_copies(lookup.as_of).circulation
    return [pool.identifier.identifier for pool in pools if has_new_counts(pool, no_copies, None)]


def _log_withdrawn(
    changed_titles: Sequence[tuple[LicensePool, ApplyData]], omitted: AbstractSet[str]
) -> Sequence[str]:
    """Log the changed titles that the vendor omitted, and return their ids."""
    withdrawn = [name for pool, _ in changed_titles if (name := pool.identifier.identifier) in omitted]
    for name in withdrawn:
        log.warning("title withdrawn by the vendor", title=name)
    return withdrawn


def _no_copies(as_of: datetime) -> ApplyData:
    return ApplyData(
        circulation=CirculationData(
            as_of=as_of,
            licenses_owned=0,
            licenses_available=0,
            patrons_in_hold_queue=0,
            licenses_reserved=0,
        )
    )
