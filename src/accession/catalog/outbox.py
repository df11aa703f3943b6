"""TODO."""

from sqlalchemy import (
    func,
    select,
)
from sqlalchemy.orm import Session

from accession.db.models import ApplyOutbox, LicensePool


def applies_pending(session: Session) -> dict[int, int]:
    """How many titles of each collection, by its id, still have to be applied, where there are any."""
    query = select(LicensePool.collection_id, func.count()).join(ApplyOutbox.license_pool)
    return dict(session.execute(query.group_by(LicensePool.collection_id)).all())


def count_pending_applies(session: Session, collection_id: int) -> int:
    """How many of the collection's titles still have to be applied."""
    query = select(func.count()).select_from(ApplyOutbox).join(ApplyOutbox.license_pool)
    return session.scalar(query.where(LicensePool.collection_id == collection_id)) or 0
