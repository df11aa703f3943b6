"""Collections as they are listed."""

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from accession.accounts.collections import list_collections
from accession.db.models import Collection, LicensePool


@dataclass(frozen=True)
class CollectionView:
    """A collection without its account key. `titles` is the number of its titles."""

    name: str
    library_id: str
    account_id: str
    base_url: str
    titles: int
    created_at: datetime


def collection_views(session: Session) -> list[CollectionView]:
    """Return the collections that are not marked for deletion, by name."""
    per_collection = select(LicensePool.collection_id, func.count()).group_by(LicensePool.collection_id)
    counts = dict(session.execute(per_collection).all())
    return [
        CollectionView(c.name, c.library_id, c.account_id, c.base_url, counts.get(c.id, 0), c.created_at)
        for c in list_collections(session)
    ]


def collection_names(session: Session) -> dict[int, str]:
    """Return the name of every collection by its id, including those marked for deletion."""
    query = select(Collection.id, Collection.name).order_by(Collection.id)
    return {row.id: row.name for row in session.execute(query)}
