"""Modification times: when the catalogue last changed, and up to when all its changes are visible.

A transaction may commit rows with a time that is already past. A reader that fetches changes repeatedly must
therefore continue at `complete_until`, not at the time of its last request.
"""

from datetime import datetime, timedelta

from sqlalchemy import func, select, text
from sqlalchemy.orm import Session

from accession.db.models import Collection, Edition, LicensePool

_MAX_CLOCK_DIFFERENCE = timedelta(minutes=1)


def complete_until(session: Session) -> datetime:
    """Return the time (UTC) before which no change can be committed any more."""
    # A row's modification time is never before the start of the transaction that writes it.
    query = text(
        "SELECT least(now(), min(xact_start)) FROM pg_stat_activity"
        " WHERE datname = current_database() AND pid <> pg_backend_pid()"
    )
    oldest_start: datetime = session.execute(query).scalar_one()
    return oldest_start - _MAX_CLOCK_DIFFERENCE


def is_complete_through(session: Session, moment: datetime | None) -> bool:
    """Return whether all changes up to the end of this second (UTC) are visible; False for None."""
    return moment is not None and moment + timedelta(seconds=1) < complete_until(session)


def earliest_modification(session: Session) -> datetime | None:
    """Return the earliest time (UTC) at which a license pool was last modified; None without titles."""
    return session.scalar(select(func.min(LicensePool.updated_at)))


def last_modification(session: Session) -> datetime | None:
    """Return when the catalogue was last modified (UTC).

    None if it is empty, or if a change with the same or an earlier time may still be committed.
    """
    columns = (
        LicensePool.updated_at,
        Edition.updated_at,
        Collection.created_at,
        Collection.marked_for_deletion_at,
    )
    latest = (select(func.max(column)).scalar_subquery() for column in columns)
    modified: datetime | None = session.scalar(select(func.greatest(*latest)))
    return modified if is_complete_through(session, modified) else None
