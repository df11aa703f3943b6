"""Finding what has gone wrong without an error: checkpoints in the future, titles without metadata."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from accession.core.clock import utc_now
from accession.core.workflow import Workflow
from accession.db.models import (
    ACTIVE_STATES,
    ApplyOutbox,
    CirculationEvent,
    Collection,
    Edition,
    Identifier,
    LicensePool,
    PoolStatus,
    Run,
    Timestamp,
)
from accession.runs.ledger import SERVICE_TYPE, timestamp

# The clocks of several machines are never quite the same.
_CLOCKS_DIFFER = timedelta(minutes=1)

# The sweep goes by identifiers; its checkpoint's moment only tells when it was last done.
_THROUGH_TIME = (Workflow.PURCHASES, Workflow.EVENTS)


@dataclass(frozen=True)
class FutureCheckpoint:
    """A workflow that is said to be complete up to a moment that is still to come."""

    collection_id: int
    workflow: Workflow
    finish: datetime


@dataclass(frozen=True)
class Undescribed:
    """A collection's titles without metadata, and without any that waits to be applied, by the vendor's ids.

    `gone` are those of which the vendor has said that it does not have them, `open` all others.
    """

    open: tuple[str, ...]
    gone: tuple[str, ...]


def future_checkpoints(session: Session) -> list[FutureCheckpoint]:
    """The checkpoints of collections in use that lie in the future: until then nothing is asked for, and
    what happens meanwhile is never asked for at all."""
    workflows = {workflow.service: workflow for workflow in _THROUGH_TIME}
    query = (
        select(Timestamp)
        .join(Collection, Timestamp.collection_id == Collection.id)
        .where(Collection.marked_for_deletion_at.is_(None))
        .where(Timestamp.service.in_(workflows), Timestamp.service_type == SERVICE_TYPE)
        .where(Timestamp.finish > utc_now() + _CLOCKS_DIFFER)
        .order_by(Timestamp.id)
    )
    return [
        FutureCheckpoint(row.collection_id, workflows[row.service], row.finish)
        for row in session.scalars(query)
        if row.finish is not None
    ]


def set_back(session: Session, found: FutureCheckpoint) -> datetime | None:
    """Set a checkpoint in the future back to what is certain, and return that; None for the beginning.

    It was set by a clock that was ahead, or by hand, and nothing tells since when: the moments in the
    ledger come from the same clocks. Whatever was bought between the real end of the last good import and
    the checkpoint has not been asked for. So purchases begin anew: that costs time, while any later moment
    could lose titles. Events go back to the newest that is stored, whose moment is the vendor's word;
    without one the next run begins as the first does, and the sweep has settled the counts in any case.
    """
    collection = session.get_one(Collection, found.collection_id)
    checkpoint = timestamp(session, collection, found.workflow)
    checkpoint.finish = None
    if found.workflow is Workflow.EVENTS:
        newest = select(func.max(CirculationEvent.occurred_at)).where(
            CirculationEvent.collection_id == found.collection_id,
            CirculationEvent.occurred_at <= utc_now(),
        )
        checkpoint.finish = session.scalar(newest)
    return checkpoint.finish


def is_at_work(session: Session, collection_id: int, workflow: Workflow) -> bool:
    """Whether a run of the workflow has not ended for the collection."""
    query = select(Run.id).filter_by(collection_id=collection_id, workflow=workflow.value)
    return session.scalar(query.where(Run.state.in_(ACTIVE_STATES)).limit(1)) is not None


def undescribed(session: Session, collections: Sequence[Collection]) -> dict[str, Undescribed]:
    """The titles of each collection, by its name, without metadata, in the order of their first import."""
    described = select(Edition.id).where(
        Edition.identifier_id == LicensePool.identifier_id,
        Edition.data_source == LicensePool.data_source,
        Edition.content_hash.is_not(None),
    )
    pending = select(ApplyOutbox.id).where(ApplyOutbox.license_pool_id == LicensePool.id)
    query = (
        select(LicensePool.collection_id, Identifier.identifier, LicensePool.status)
        .join(LicensePool.identifier)
        .where(LicensePool.collection_id.in_([collection.id for collection in collections]))
        .where(~described.exists(), ~pending.exists())
        .order_by(LicensePool.id)
    )
    # Where the vendor's answer leaves out a title, its copies become zero, and its status this.
    found: defaultdict[tuple[int, bool], list[str]] = defaultdict(list)
    for collection_id, name, status in session.execute(query):
        found[collection_id, status == PoolStatus.EXHAUSTED].append(name)
    return {
        collection.name: Undescribed(
            open=tuple(found[collection.id, False]), gone=tuple(found[collection.id, True])
        )
        for collection in collections
    }


def count_published_before(session: Session, moment: datetime) -> int:
    """How many outbox rows were last published before `moment`, and are not applied yet."""
    query = select(func.count()).select_from(ApplyOutbox).where(ApplyOutbox.published_at < moment)
    return session.scalar(query) or 0
