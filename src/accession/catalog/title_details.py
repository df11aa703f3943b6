"""Details of a title beside its metadata: its use, and when its data was received."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from accession.catalog.pools import find_pool
from accession.catalog.sweeps import last_swept_at
from accession.core.vocabulary import EventType
from accession.db.models import CirculationTotal, Collection, Edition, LicensePool, TitleStatistics


@dataclass(frozen=True)
class MonthOfUse:
    """Loans of a title, and holds placed on it, in a month (UTC), which is named by its first day."""

    month: date
    loans: int
    holds: int


@dataclass(frozen=True)
class TitleDetails:
    """Use of a title in a collection, and times at which its data was received (UTC).

    Attributes:
        months: Use in each of some months, oldest first.
        loans: All loans that are known.
        loans_last_year: Loans of the last 365 complete days and today.
        last_loan_on: Day of the last loan (UTC), if there was any.
        imported_at: When the title was first imported for the collection.
        metadata_received_at: When the vendor sent the present metadata first; None without metadata.
        refreshed_at: Latest time as of which the vendor sent metadata or counts; None before the first.
    """

    months: tuple[MonthOfUse, ...]
    loans: int
    loans_last_year: int
    last_loan_on: date | None
    imported_at: datetime
    metadata_received_at: datetime | None
    refreshed_at: datetime | None


def title_details(
    session: Session, collection: Collection, identifier: str, months: Sequence[date]
) -> TitleDetails:
    """Return the details of a title; `months` are the first days of the months whose use is returned.

    Raises:
        TitleNotHeld: the collection does not hold the title.
    """
    pool_id, edition_id = find_pool(session, collection, identifier)
    pool = session.get_one(LicensePool, pool_id)
    as_of = session.scalar(select(Edition.as_of).where(Edition.id == edition_id))
    swept = last_swept_at(session, collection, [pool.identifier_id])
    received = [as_of, pool.circulation_as_of, swept.get(pool.identifier_id)]
    statistics = session.get(TitleStatistics, pool_id)
    return TitleDetails(
        months=tuple(_months_of_use(session, pool_id, months)),
        loans=statistics.loans if statistics else 0,
        loans_last_year=statistics.loans_last_year if statistics else 0,
        last_loan_on=statistics.last_loan_on if statistics else None,
        imported_at=pool.created_at,
        metadata_received_at=as_of,
        refreshed_at=max(filter(None, received), default=None),
    )


def _months_of_use(session: Session, pool_id: int, months: Sequence[date]) -> Sequence[MonthOfUse]:
    row = CirculationTotal
    month = func.date_trunc("month", row.day)
    query = (
        select(month, row.event_type, func.sum(row.events))
        .where(row.license_pool_id == pool_id, row.day >= months[0])
        .where(row.event_type.in_([EventType.CHECKOUT, EventType.HOLD]))
        .group_by(month, row.event_type)
    )
    numbers: Mapping[tuple[date, str], Any] = {
        (start.date(), event_type): number for start, event_type, number in session.execute(query)
    }
    return [
        MonthOfUse(
            first_day,
            loans=int(numbers.get((first_day, EventType.CHECKOUT), 0)),
            holds=int(numbers.get((first_day, EventType.HOLD), 0)),
        )
        for first_day in months
    ]
