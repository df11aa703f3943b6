"""Diagnostics: checkpoints in the future, titles without metadata, and counts that cannot be."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import func, or_, select
from sqlalchemy.orm import Session

from accession.catalog.editions import pool_edition_join
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
    RunTitle,
    Timestamp,
)
from accession.runs.ledger import SERVICE_TYPE, get_or_create_checkpoint

# Clocks of several machines are never exactly the same.
_MAX_CLOCK_SKEW = timedelta(minutes=1)

# The circulation sweep goes through identifiers; its checkpoint's `finish` is only the time of the last one.
_TIME_BASED_WORKFLOWS = (Workflow.PURCHASES, Workflow.EVENTS)


@dataclass(frozen=True)
class FutureCheckpoint:
    """A checkpoint that is in the future."""

    collection_id: int
    workflow: Workflow
    finish: datetime


@dataclass(frozen=True)
class TitlesWithoutMetadata:
    """Titles of a collection, by the vendor's ids, that have no metadata and no pending update.

    `withdrawn` are those that the vendor no longer has, `fetchable` all others.
    """

    fetchable: tuple[str, ...]
    withdrawn: tuple[str, ...]


def find_future_checkpoints(session: Session) -> list[FutureCheckpoint]:
    """Return the checkpoints that are in the future, of collections that are not marked for deletion.

    Until that time nothing would be imported, and what happens before it would be skipped for good.
    """
    workflows = {workflow.service: workflow for workflow in _TIME_BASED_WORKFLOWS}
    query = (
        select(Timestamp)
        .join(Collection, Timestamp.collection_id == Collection.id)
        .where(Collection.marked_for_deletion_at.is_(None))
        .where(Timestamp.service.in_(workflows), Timestamp.service_type == SERVICE_TYPE)
        .where(Timestamp.finish > utc_now() + _MAX_CLOCK_SKEW)
        .order_by(Timestamp.id)
    )
    return [
        FutureCheckpoint(row.collection_id, workflows[row.service], row.finish)
        for row in session.scalars(query)
        if row.finish is not None
    ]


def reset_checkpoint(session: Session, future: FutureCheckpoint) -> datetime | None:
    """Reset a checkpoint in the future to a safe time, and return that; None for the beginning.

    The checkpoint was written by a wrong clock or by hand, and the ledger's times come from the same clocks,
    so that the time up to which the import is really complete is unknown. Purchases are imported again from
    the beginning: any later start could lose titles. Events continue after the newest stored event, whose
    time is the vendor's; without one they start like a first run, as the circulation sweep corrects the
    counts anyway.
    """
    collection = session.get_one(Collection, future.collection_id)
    checkpoint = get_or_create_checkpoint(session, collection, future.workflow)
    checkpoint.finish = checkpoint.confirmed = None
    if future.workflow is Workflow.EVENTS:
        newest = select(func.max(CirculationEvent.occurred_at)).where(
            CirculationEvent.collection_id == future.collection_id,
            CirculationEvent.occurred_at <= utc_now(),
        )
        checkpoint.finish = session.scalar(newest)
    return checkpoint.finish


def has_active_run(session: Session, collection_id: int, workflow: Workflow) -> bool:
    """Return whether the collection has a queued or running run of the workflow."""
    query = select(Run.id).filter_by(collection_id=collection_id, workflow=workflow.value)
    return session.scalar(query.where(Run.state.in_(ACTIVE_STATES)).limit(1)) is not None


def find_titles_without_metadata(
    session: Session, collections: Sequence[Collection]
) -> dict[str, TitlesWithoutMetadata]:
    """Return the titles without metadata by collection name, in the order of their first import.

    Titles that an active run has still to look up are left out.
    """
    metadata = select(Edition.id).where(pool_edition_join(), Edition.content_hash.is_not(None))
    pending = select(ApplyOutbox.id).where(ApplyOutbox.license_pool_id == LicensePool.id)
    is_pending_lookup = RunTitle.is_pending & (RunTitle.identifier == Identifier.identifier)
    is_run_of_collection = (Run.collection_id == LicensePool.collection_id) & Run.state.in_(ACTIVE_STATES)
    lookup = select(Run.id).join(RunTitle, RunTitle.run_id == Run.id)
    lookup = lookup.where(is_pending_lookup, is_run_of_collection)
    query = (
        select(LicensePool.collection_id, Identifier.identifier, LicensePool.status)
        .join(LicensePool.identifier)
        .where(LicensePool.collection_id.in_([collection.id for collection in collections]))
        .where(~metadata.exists(), ~pending.exists(), ~lookup.exists())
        .order_by(LicensePool.id)
    )
    # A title that the vendor no longer has was set to zero copies, hence this status.
    identifiers: defaultdict[tuple[int, bool], list[str]] = defaultdict(list)
    for collection_id, identifier, status in session.execute(query):
        identifiers[collection_id, status == PoolStatus.EXHAUSTED].append(identifier)
    return {
        collection.name: TitlesWithoutMetadata(
            fetchable=tuple(identifiers[collection.id, False]),
            withdrawn=tuple(identifiers[collection.id, True]),
        )
        for collection in collections
    }


def find_impossible_counts(session: Session, collections: Sequence[Collection]) -> dict[str, tuple[str, ...]]:
    """Return the titles with more copies available than owned, by the vendor's ids and collection name.

    They are titles whose last snapshot says so, and those with more copies available and reserved, after the
    events since, than owned. Collections without such titles are left out.
    """
    # Subtracts, because the sum of two counts may be too large for the database.
    is_impossible = or_(
        LicensePool.snapshot_available > LicensePool.snapshot_owned,
        LicensePool.licenses_available > LicensePool.licenses_owned - LicensePool.licenses_reserved,
    )
    query = (
        select(LicensePool.collection_id, Identifier.identifier)
        .join(LicensePool.identifier)
        .where(LicensePool.collection_id.in_([collection.id for collection in collections]), is_impossible)
        .order_by(LicensePool.id)
    )
    identifiers: defaultdict[int, list[str]] = defaultdict(list)
    for collection_id, identifier in session.execute(query):
        identifiers[collection_id].append(identifier)
    return {
        collection.name: tuple(identifiers[collection.id])
        for collection in collections
        if collection.id in identifiers
    }
