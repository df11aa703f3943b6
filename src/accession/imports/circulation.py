"""A batch of a collection's titles: what the vendor says of each now, and which it no longer has."""

from collections.abc import Sequence
from dataclasses import dataclass

import structlog
from sqlalchemy import select
from sqlalchemy.orm import Session, selectinload

from accession.bibliotheca.client import MOST_ITEMS, BibliothecaAPI
from accession.bibliotheca.errors import RemoteIntegrationException
from accession.bibliotheca.items import DATA_SOURCE
from accession.catalog.apply import apply_outbox, needs_apply, put_in_outbox
from accession.catalog.circulation import is_news, lock_pools
from accession.catalog.data import ApplyData, CirculationData
from accession.catalog.sweeps import note_swept
from accession.core.clock import utc_now
from accession.core.errors import UserError
from accession.core.vocabulary import IdentifierType
from accession.core.workflow import Workflow
from accession.db.models import Collection, Identifier, LicensePool
from accession.imports.titles import LookUp, look_up
from accession.runs.ledger import Counters, timestamp

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class BatchUpdateResult:
    """What one batch was, and what comes next.

    Of `titles_asked` the vendor's answer says what is so of `titles_told`, and of the others nothing that
    can be used. Those that differ from what is stored are `titles_changed`, among them `titles_gone`,
    which the vendor no longer has. `next_offset` is the id of the batch's last identifier, None when the
    sweep is done. `outbox_ids` name what has to be applied once the batch is committed. `repairs` counts
    documents that were well-formed only after a repair.
    """

    titles_asked: int
    titles_told: int
    titles_changed: int
    titles_gone: int
    next_offset: int | None
    outbox_ids: tuple[int, ...]
    repairs: int

    @property
    def counters(self) -> Counters:
        """The batch's share of the run's counters."""
        return Counters(
            records_fetched=self.titles_asked,
            records_stored=self.titles_told,
            records_rejected=self.titles_asked - self.titles_told,
            titles_changed=self.titles_changed,
            repairs=self.repairs,
        )


@dataclass(frozen=True)
class RefreshResult:
    """How many titles differed from what was stored, and which of those the vendor no longer has."""

    titles_changed: int
    gone: tuple[str, ...]


class BibliothecaCirculationUpdater:
    """Asks the vendor about the titles that one collection holds, a batch at a time.

    Everything is written to the given session, which the caller commits: the batch is one transaction.
    """

    def __init__(self, session: Session, collection: Collection, api: BibliothecaAPI) -> None:
        self._session = session
        self._collection = collection
        self._api = api

    def get_offset(self) -> int:
        """The id of the identifier after which the sweep goes on; 0 for the beginning."""
        return timestamp(self._session, self._collection, Workflow.CIRCULATION).counter or 0

    def update_batch(self, offset: int) -> BatchUpdateResult:
        """Ask about the next 25 titles, in the order of their identifiers' ids above `offset`, and stamp the
        checkpoint: its counter is the last id after a full batch; after the last batch it is 0 and `finish`
        is now.

        What differs goes to the outbox. A title that the vendor's answer leaves out is the collection's no
        longer: zero counts and the status "exhausted" are what there is to apply, once.

        Raises `RemoteIntegrationException` for an answer that leaves out every title of the batch and that
        the vendor contradicts when it is asked again. That and every other vendor error leave nothing
        written.
        """
        pools = self._pools_above(offset)
        next_offset = pools[-1].identifier_id if len(pools) == MOST_ITEMS else None
        result = self._update(pools, offset, next_offset)
        checkpoint = timestamp(self._session, self._collection, Workflow.CIRCULATION)
        checkpoint.counter = next_offset or 0
        if next_offset is None:
            checkpoint.finish = utc_now()
        return result

    def refresh(self, identifiers: Sequence[str]) -> RefreshResult:
        """Ask about these titles (the vendor's ids) and apply what differs at once; the checkpoint stays.

        What was still to be applied to them is done with, too. Raises `UserError` for a title that the
        collection does not hold, and vendor errors; nothing is written then.
        """
        pools = self._pools_named(identifiers)
        batches = [pools[start : start + MOST_ITEMS] for start in range(0, len(pools), MOST_ITEMS)]
        answers = [(batch, self._ask(batch)) for batch in batches]
        lock_pools(self._session, [pool.id for pool in pools])
        needed = needs_apply(
            self._session, [word for batch, looked_up in answers for word in _said(batch, looked_up)]
        )
        gone = [name for _, looked_up in answers for name in _gone(needed, looked_up)]
        apply_outbox(self._session, put_in_outbox(self._session, needed))
        return RefreshResult(len(needed), tuple(gone))

    def _pools_above(self, offset: int) -> Sequence[LicensePool]:
        query = (
            select(LicensePool)
            .where(LicensePool.collection_id == self._collection.id, LicensePool.data_source == DATA_SOURCE)
            .where(LicensePool.identifier_id > offset)
            .order_by(LicensePool.identifier_id)
            .options(selectinload(LicensePool.identifier))
        )
        return self._session.scalars(query.limit(MOST_ITEMS)).all()

    def _pools_named(self, identifiers: Sequence[str]) -> Sequence[LicensePool]:
        query = (
            select(LicensePool)
            .join(LicensePool.identifier)
            .where(LicensePool.collection_id == self._collection.id, LicensePool.data_source == DATA_SOURCE)
            .where(Identifier.type == IdentifierType.BIBLIOTHECA, Identifier.identifier.in_(identifiers))
            .order_by(LicensePool.identifier_id)
            .options(selectinload(LicensePool.identifier))
        )
        pools = self._session.scalars(query).all()
        held = {pool.identifier.identifier for pool in pools}
        for identifier in identifiers:
            if identifier not in held:
                raise UserError(
                    f'Collection "{self._collection.name}" holds no title with id "{identifier}": '
                    "see `accession titles list`."
                )
        return pools

    def _update(
        self, pools: Sequence[LicensePool], offset: int, next_offset: int | None
    ) -> BatchUpdateResult:
        looked_up = self._ask(pools)
        said = _said(pools, looked_up)
        needed = needs_apply(self._session, said)
        gone = _gone(needed, looked_up)
        note_swept(
            self._session,
            self._collection,
            after_id=offset,
            last_id=next_offset,
            told=[pool.identifier_id for pool, _ in said],
            at=looked_up.as_of,
        )
        return BatchUpdateResult(
            titles_asked=len(pools),
            titles_told=len(said),
            titles_changed=len(needed),
            titles_gone=len(gone),
            next_offset=next_offset,
            outbox_ids=tuple(put_in_outbox(self._session, needed)),
            repairs=looked_up.repairs,
        )

    def _ask(self, pools: Sequence[LicensePool]) -> LookUp:
        """What the vendor says of the titles; an answer without any of them is believed only when it is
        repeated, for all and for one alone."""
        ids = [pool.identifier.identifier for pool in pools]
        looked_up = look_up(self._api, ids)
        if not _would_vanish(pools, looked_up):
            return looked_up
        log.warning("the vendor leaves out every title of a batch and is asked again", titles=len(ids))
        looked_up = look_up(self._api, ids)
        vanishing = _would_vanish(pools, looked_up)
        if vanishing and not look_up(self._api, vanishing[:1]).missing:
            raise RemoteIntegrationException(
                f"the vendor left out all {len(ids)} titles of a batch, but has one of them when it is asked "
                "for it alone; nothing was changed, start the update again later",
                self._collection.name,
            )
        return looked_up


def _would_vanish(pools: Sequence[LicensePool], looked_up: LookUp) -> list[str]:
    """The titles of which something is known, if every one of several titles is left out."""
    if not 1 < len(pools) == len(looked_up.missing):
        return []
    nothing = _nothing(looked_up)
    return [pool.identifier.identifier for pool in pools if is_news(pool, nothing.circulation)]


def _said(pools: Sequence[LicensePool], looked_up: LookUp) -> list[tuple[LicensePool, ApplyData]]:
    """The vendor's word on each title, of which its absence from a good answer is one too."""
    words = {**dict.fromkeys(looked_up.missing, _nothing(looked_up)), **looked_up.titles}
    return [(pool, words[name]) for pool in pools if (name := pool.identifier.identifier) in words]


def _gone(needed: Sequence[tuple[LicensePool, ApplyData]], looked_up: LookUp) -> list[str]:
    """Those of the titles to apply that the vendor has left out, each with a warning."""
    missing = set(looked_up.missing)
    gone = [name for pool, _ in needed if (name := pool.identifier.identifier) in missing]
    for name in gone:
        log.warning("the vendor no longer has a title; its copies become zero", title=name)
    return gone


def _nothing(looked_up: LookUp) -> ApplyData:
    """No copy, and nobody who waits for one."""
    return ApplyData(
        circulation=CirculationData(
            as_of=looked_up.as_of,
            licenses_owned=0,
            licenses_available=0,
            patrons_in_hold_queue=0,
            licenses_reserved=0,
        )
    )
