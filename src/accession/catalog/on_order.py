"""Keep the statuses of license pools up to date with the dates from which their titles are on sale."""

from sqlalchemy import CompoundSelect, select, union
from sqlalchemy.orm import Session

from accession.catalog.availability import edition_is_before_sale, is_before_sale
from accession.catalog.editions import pool_edition_join
from accession.catalog.pools import lock_pools
from accession.catalog.title_changes import Change, pool_changes, record_changes
from accession.catalog.title_events import TitleEvent, pool_events, store_title_events
from accession.core.clock import utc_now
from accession.db.bulk import in_array
from accession.db.models import Edition, LicensePool, PoolStatus


def update_on_order(session: Session, *, limit: int = 1000) -> int:
    """Correct the status of at most `limit` pools, and return how many.

    A title is no longer on order from the day on which it is on sale. It is on order again, or only now, if
    that day was moved while another collection imported the title: both share the metadata.
    """
    pools = lock_pools(session, session.scalars(_select_outdated().limit(limit)))
    on_sale = _read_on_sale(session, [pool.id for pool in pools])
    now = utc_now()
    changes: list[Change] = []
    events: list[TitleEvent] = []
    for pool in pools:
        status = PoolStatus.ON_ORDER if is_before_sale(on_sale[pool.id]) else PoolStatus.ACTIVE
        # It may have changed since it was selected.
        if pool.status not in (PoolStatus.ON_ORDER, PoolStatus.ACTIVE) or pool.status == status:
            continue
        changes += pool_changes(pool, pool.counts, status, now)
        events += pool_events(pool, pool.counts, status)
        pool.status, pool.updated_at = status, now
    record_changes(session, changes)
    store_title_events(session, events)
    return len(changes)


def _select_outdated() -> CompoundSelect[int]:
    # Two queries, so that each can use its index.
    pools = select(LicensePool.id).outerjoin(Edition, pool_edition_join())
    return union(
        pools.where(LicensePool.status == PoolStatus.ON_ORDER, edition_is_before_sale().is_not(True)),
        pools.where(LicensePool.status == PoolStatus.ACTIVE, edition_is_before_sale()),
    )


def _read_on_sale(session: Session, pool_ids: list[int]) -> dict[int, str | None]:
    query = select(LicensePool.id, Edition.on_sale).outerjoin(Edition, pool_edition_join())
    return dict(session.execute(query.where(in_array(LicensePool.id, pool_ids))).all())
