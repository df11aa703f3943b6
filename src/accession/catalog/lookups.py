"""Titles that a run has already looked up, so that it requests the metadata of each only once."""

from collections.abc import Sequence

from sqlalchemy import select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from accession.db.models import LookedUpTitle, Run


def filter_not_looked_up(session: Session, run: Run | None, identifiers: Sequence[str]) -> list[str]:
    """Return the identifiers that the run has not looked up yet; all of them without a run."""
    if run is None or not identifiers:
        return list(identifiers)
    query = select(LookedUpTitle.identifier).where(
        LookedUpTitle.run_id == run.id, LookedUpTitle.identifier.in_(identifiers)
    )
    known = set(session.scalars(query))
    return [identifier for identifier in identifiers if identifier not in known]


def record_looked_up(session: Session, run: Run | None, identifiers: Sequence[str]) -> None:
    """Record that the run has looked up the identifiers for the first time; do nothing without a run."""
    if run is not None and identifiers:
        rows = [{"run_id": run.id, "identifier": identifier} for identifier in identifiers]
        session.execute(insert(LookedUpTitle), rows)
