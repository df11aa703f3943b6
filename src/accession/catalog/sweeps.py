"""TODO."""

from collections.abc import Collection as Group
from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import ARRAY, Integer, any_, delete, func, literal, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from accession.db.models import (
    Collection,
    LookedUpTitle,
    Run,
    SweptBatch,
)


def note_swept(
    session: Session,
    collection: Collection,
    *,
    after_id: int,
    last_id: int | None,
    told: Sequence[int],
    at: datetime,
) -> None:
    """Note that the counts of the identifiers `told` were asked for at `at`.

    The batch takes the place of those that began in it: from `after_id` to `last_id`, or to the end of
    the collection where that is None.
    """
    mine = SweptBatch.collection_id == collection.id
    begun = mine & (SweptBatch.after_id >= after_id)
    session.execute(
        delete(SweptBatch).where(begun if last_id is None else begun & (SweptBatch.after_id < last_id))
    )
    row = {"collection_id": collection.id, "after_id": after_id, "identifier_ids": list(told), "swept_at": at}
    session.execute(insert(SweptBatch).values(row))


def last_swept(session: Session, collection: Collection, identifier_ids: Group[int]) -> dict[int, datetime]:
    """When each of the identifiers was last told in a sweep, where it ever was."""
    wanted = func.unnest(literal(list(identifier_ids), ARRAY(Integer))).table_valued("id", name="wanted")
    wanted = wanted.render_derived()
    # Whatever began in a batch has given way to it, so none that began before can be newer.
    batch = (
        select(SweptBatch.identifier_ids, SweptBatch.swept_at)
        .where(SweptBatch.collection_id == collection.id, SweptBatch.after_id < wanted.c.id)
        .order_by(SweptBatch.after_id.desc())
        .limit(1)
        .lateral("batch")
    )
    told = wanted.c.id == any_(batch.c.identifier_ids)
    return dict(session.execute(select(wanted.c.id, batch.c.swept_at).join(batch, told)).all())


def not_looked_up(session: Session, run: Run | None, identifiers: Sequence[str]) -> list[str]:
    """Those of the identifiers that the run has not looked up yet; all of them, where there is no run."""
    if run is None or not identifiers:
        return list(identifiers)
    query = select(LookedUpTitle.identifier).where(
        LookedUpTitle.run_id == run.id, LookedUpTitle.identifier.in_(identifiers)
    )
    known = set(session.scalars(query))
    return [identifier for identifier in identifiers if identifier not in known]


def note_looked_up(session: Session, run: Run | None, identifiers: Sequence[str]) -> None:
    """Note that the run has looked up the identifiers, which it had not before."""
    if run is not None and identifiers:
        rows = [{"run_id": run.id, "identifier": identifier} for identifier in identifiers]
        session.execute(insert(LookedUpTitle), rows)
