"""Apply pending changes: write metadata and copy counts from the outbox to editions and license pools.

Transactions take their locks in one order, so that they do not deadlock:

1. license pools, by id;
2. outbox rows, by pool id;
3. editions that are added, by data source and identifier;
4. editions that exist, by id.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy.orm import Session

from accession.catalog.circulation import apply_snapshots
from accession.catalog.editions import EditionUpdate, write_editions
from accession.catalog.outbox import LockedChanges, delete_changes, lock_changes
from accession.catalog.title_changes import record_changes
from accession.catalog.title_events import store_title_events


@dataclass(frozen=True)
class ApplyResult:
    """Numbers of editions and license pools that an apply has written."""

    editions: int
    pools: int


def apply_outbox(session: Session, outbox_ids: Sequence[int], *, counts_only: bool = False) -> ApplyResult:
    """Apply outbox rows and delete them; rows that no longer exist have been applied already.

    Editions and pools that already have the data are not written, and data older than theirs is dropped. With
    `counts_only`, rows that have received metadata since their message was sent are left for another message.
    """
    changes = lock_changes(session, outbox_ids, counts_only=counts_only)
    if not changes.outbox_ids:
        return ApplyResult(0, 0)
    result = _apply(session, changes)
    delete_changes(session, changes.outbox_ids)
    return result


def _apply(session: Session, changes: LockedChanges) -> ApplyResult:
    metadata = [
        (pool.identifier_id, EditionUpdate(data.bibliographic, data.metadata_hash))
        for pool in changes.pools
        if (data := changes.data[pool.id]).bibliographic is not None
    ]
    # Pools of several collections share an edition: the newest metadata replaces the older.
    metadata.sort(key=lambda entry: entry[1].metadata.as_of)
    updates = {(update.metadata.data_source, identifier_id): update for identifier_id, update in metadata}
    editions = write_editions(session, updates)
    snapshots = {pool_id: data.circulation for pool_id, data in changes.data.items()}
    pools = apply_snapshots(session, changes.pools, snapshots)
    record_changes(session, [*editions.changes, *pools.changes])
    store_title_events(session, pools.events, editions)
    return ApplyResult(editions.written, pools.written)
