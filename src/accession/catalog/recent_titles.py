"""Titles that a collection has purchased most recently."""

from dataclasses import dataclass
from datetime import date

from sqlalchemy import exists, select
from sqlalchemy.orm import Session, aliased

from accession.catalog.titles import TitleView, titles_of_pools
from accession.db.models import LicensePool, PoolStatus, PurchaseRecord


@dataclass(frozen=True)
class RecentTitles:
    """Titles by their last purchase, newest first.

    `since` is the day of the oldest of these purchases, or the first day of its month.
    """

    titles: tuple[TitleView, ...]
    since: date | None


def recent_titles(session: Session, collection_id: int, *, limit: int) -> RecentTitles:
    """Return at most `limit` titles of a collection that are not withdrawn, by their last purchase."""
    row, later = PurchaseRecord, aliased(PurchaseRecord)
    has_later = exists().where(
        later.license_pool_id == row.license_pool_id, later.purchased_on > row.purchased_on
    )
    query = (
        select(row.license_pool_id, row.purchased_on)
        .join(LicensePool, row.license_pool_id == LicensePool.id)
        .where(row.collection_id == collection_id, LicensePool.status != PoolStatus.EXHAUSTED, ~has_later)
        .order_by(row.purchased_on.desc(), row.license_pool_id.desc())
    )
    rows = session.execute(query.limit(limit)).all()
    titles = titles_of_pools(session, [pool_id for pool_id, _ in rows])
    return RecentTitles(tuple(titles), rows[-1].purchased_on if rows else None)
