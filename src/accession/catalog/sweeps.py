"""Batches of the circulation sweep: when the vendor last returned the counts of which titles.

A sweep does not write license pools whose counts are unchanged. Its batches record that they were current.
"""

from collections.abc import Collection as AbstractCollection
from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import ARRAY, Integer, any_, delete, func, literal, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from accession.db.models import Collection, SweptBatch


def record_swept(
    session: Session,
    collection: Collection,
    *,
    after_id: int,
    last_id: int | None,
    identifier_ids: Sequence[int],
    at: datetime,
) -> None:
    """Record that the vendor returned the counts of these identifiers at `at` (UTC).

    The batch covers the identifiers above `after_id` up to `last_id`, or to the end of the collection where
    that is None. It replaces the earlier batches that start within it.
    """
    of_collection = SweptBatch.collection_id == collection.id
    replaced = of_collection & (SweptBatch.after_id >= after_id)
    if last_id is not None:
        replaced &= SweptBatch.after_id < last_id
    session.execute(delete(SweptBatch).where(replaced))
    row = {
        "collection_id": collection.id,
        "after_id": after_id,
        "identifier_ids": list(identifier_ids),
        "swept_at": at,
    }
    session.execute(insert(SweptBatch).values(row))


def last_swept_at(
    session: Session, collection: Collection, identifier_ids: AbstractCollection[int]
) -> dict[int, datetime]:
    """Return when a sweep last received the counts of each identifier (UTC), where one ever did."""
    ids = func.unnest(literal(list(identifier_ids), ARRAY(Integer))).table_valued("id", name="identifier")
    ids = ids.render_derived()
    # A new batch replaces those that start within it, so the nearest batch before an id is the newest for it.
    batch = (
        select(SweptBatch.identifier_ids, SweptBatch.swept_at)
        .where(SweptBatch.collection_id == collection.id, SweptBatch.after_id < ids.c.id)
        .order_by(SweptBatch.after_id.desc())
        .limit(1)
        .lateral("batch")
    )
    in_batch = ids.c.id == any_(batch.c.identifier_ids)
    return dict(session.execute(select(ids.c.id, batch.c.swept_at).join(batch, in_batch)).all())
