"""Loans of collections by month."""

from datetime import date

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from accession.accounts.collections import is_of_collection
from accession.core.clock import utc_now
from accession.core.vocabulary import EventType
from accession.db.models import CirculationMonth


def last_months(count: int) -> list[date]:
    """Return the first days of the last months (UTC), oldest first; the present month is the last."""
    today = utc_now().date()
    number = today.year * 12 + today.month
    return [date(each // 12, each % 12 + 1, 1) for each in range(number - count, number)]


def loans_by_month(session: Session, collection: str | None, months: int) -> list[tuple[date, int]]:
    """Return the loans of one collection, or of all in use, in each of the last months (UTC)."""
    row, first_days = CirculationMonth, last_months(months)
    query = (
        select(row.month, func.sum(row.events))
        .where(is_of_collection(row.collection_id, collection), row.month >= first_days[0])
        .where(row.event_type == EventType.CHECKOUT)
        .group_by(row.month)
    )
    loans = dict(session.execute(query).all())
    return [(month, int(loans.get(month, 0))) for month in first_days]
