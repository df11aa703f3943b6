"""Totals of circulation events: by title and day, by collection and month, and of the last year.

The totals stay when the events are pruned. An event is marked in the transaction that adds it, so that each
is added once, however late it arrives.
"""

from collections import Counter
from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from typing import Any

from sqlalchemy import case, func, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from accession.core.vocabulary import EventType
from accession.db.bulk import array_parameters, insert_statement
from accession.db.models import (
    CirculationEvent,
    CirculationMonth,
    CirculationTotal,
    StatisticsState,
    TitleStatistics,
    table_of,
)

BATCH_SIZE = 5000
"""Number of events that one call rolls up at most."""
YEAR_DAYS = 365

_DAY = timedelta(days=1)


def roll_up_events(session: Session, now: datetime) -> int:
    """Add the oldest events that are not in the totals yet to them, and return their number.

    Call it, and commit, until it returns less than `BATCH_SIZE`. `now` (UTC) tells which days are complete:
    the loans of the last year are those of the 365 days before today, and of today.
    """
    state = lock_statistics_state(session)
    year_until = _advance_year(session, state, now.astimezone(UTC).date() - _DAY)
    events = _mark_next_events(session)
    if events:
        _add_to_days(session, events)
        _add_to_months(session, events)
        _add_loans(session, events, _first_day(year_until))
    return len(events)


def rolled_up_until(session: Session) -> date | None:
    """Return the last day (UTC) up to which all stored events are in the totals; None without any such day.

    An event of such a day can still arrive. Whoever deletes events therefore deletes only those that are
    `rolled_up`.
    """
    until: date | None = session.scalar(select(StatisticsState.year_until))
    query = select(func.min(CirculationEvent.occurred_at)).where(~CirculationEvent.rolled_up)
    oldest: datetime | None = session.scalar(query)
    if until is None or oldest is None:
        return until
    return min(until, oldest.astimezone(UTC).date() - _DAY)


def lock_statistics_state(session: Session) -> StatisticsState:
    """Return the row that tells what the statistics cover, locked until the transaction ends."""
    session.execute(insert(StatisticsState).values(id=1).on_conflict_do_nothing())
    return session.scalars(
        select(StatisticsState).with_for_update().execution_options(populate_existing=True)
    ).one()


def _first_day(year_until: date) -> date:
    return year_until - (YEAR_DAYS - 1) * _DAY


def _advance_year(session: Session, state: StatisticsState, yesterday: date) -> date:
    """Let the last year end yesterday, if it ended before, and return its last complete day.

    The loans of the days that are no longer part of it are subtracted.
    """
    until = state.year_until
    if until is not None and until >= yesterday:
        return until
    if until is not None:
        _subtract_loans(session, _first_day(until), _first_day(yesterday))
    state.year_until = yesterday
    return yesterday


def _subtract_loans(session: Session, start: date, end: date) -> None:
    """Subtract the loans of the days from `start` to before `end` from those of the last year."""
    total = CirculationTotal
    loans = (
        select(total.license_pool_id, func.sum(total.events).label("number"))
        .where(total.event_type == EventType.CHECKOUT, total.day >= start, total.day < end)
        .group_by(total.license_pool_id)
        .subquery()
    )
    session.execute(
        update(TitleStatistics)
        .where(TitleStatistics.license_pool_id == loans.c.license_pool_id)
        .values(loans_last_year=TitleStatistics.loans_last_year - loans.c.number)
        .execution_options(synchronize_session=False)
    )


def _mark_next_events(session: Session) -> Sequence[Any]:
    """Mark the oldest events as rolled up; return pool, collection, type and day of each."""
    event = CirculationEvent
    oldest = (
        select(event.id)
        .where(~event.rolled_up)
        .order_by(event.occurred_at, event.id)
        .limit(BATCH_SIZE)
        .with_for_update()
        .scalar_subquery()
    )
    day = func.date(func.timezone("UTC", event.occurred_at)).label("day")
    return session.execute(
        update(event)
        .where(event.id.in_(oldest))
        .values(rolled_up=True)
        .returning(event.license_pool_id, event.collection_id, event.event_type, day)
        .execution_options(synchronize_session=False)
    ).all()


def _add_to_days(session: Session, events: Sequence[Any]) -> None:
    numbers = Counter((event.day, event.license_pool_id, event.event_type) for event in events)
    rows = [
        {"day": day, "license_pool_id": pool_id, "event_type": event_type, "events": number}
        for (day, pool_id, event_type), number in sorted(numbers.items())
    ]
    _add_numbers(session, CirculationTotal, rows)


def _add_to_months(session: Session, events: Sequence[Any]) -> None:
    numbers = Counter((event.collection_id, event.day.replace(day=1), event.event_type) for event in events)
    rows = [
        {"collection_id": collection_id, "month": month, "event_type": event_type, "events": number}
        for (collection_id, month, event_type), number in sorted(numbers.items())
    ]
    _add_numbers(session, CirculationMonth, rows)


def _add_numbers(
    session: Session, model: type[CirculationTotal | CirculationMonth], rows: Sequence[dict[str, Any]]
) -> None:
    statement = insert_statement(table_of(model), *rows[0])
    session.execute(
        statement.on_conflict_do_update(
            index_elements=table_of(model).primary_key,
            set_={"events": model.events + statement.excluded.events},
        ),
        array_parameters(rows),
    )


def _add_loans(session: Session, events: Sequence[Any], first_day: date) -> None:
    """Add the loans to those of their titles; those since `first_day` are of the last year."""
    days: dict[tuple[int, int], list[date]] = {}
    for event in events:
        if event.event_type == EventType.CHECKOUT:
            days.setdefault((event.license_pool_id, event.collection_id), []).append(event.day)
    if not days:
        return
    rows = [
        {
            "license_pool_id": pool_id,
            "collection_id": collection_id,
            "loans": len(loan_days),
            "loans_last_year": sum(day >= first_day for day in loan_days),
            "last_loan_on": max(loan_days),
            "unused_since": max(loan_days),
        }
        for (pool_id, collection_id), loan_days in sorted(days.items())
    ]
    statement = insert_statement(table_of(TitleStatistics), *rows[0])
    new, old = statement.excluded, TitleStatistics
    session.execute(
        statement.on_conflict_do_update(
            index_elements=[TitleStatistics.license_pool_id],
            set_={
                "loans": old.loans + new.loans,
                "loans_last_year": old.loans_last_year + new.loans_last_year,
                "last_loan_on": func.greatest(old.last_loan_on, new.last_loan_on),
                # Null: the title has no copies, and a loan of the past does not change that.
                "unused_since": case(
                    (old.unused_since.is_not(None), func.greatest(old.unused_since, new.unused_since))
                ),
            },
        ),
        array_parameters(rows),
    )
