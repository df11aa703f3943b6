"""TODO."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from itertools import accumulate
from typing import Any

from sqlalchemy import ARRAY, Date, TableValuedAlias, exists, func, literal, select, true
from sqlalchemy.orm import Session, aliased

from accession.core.clock import utc_now
from accession.db.bulk import one_of
from accession.db.models import Collection, PurchaseRecord

# Where an import of everything begins.
_FIRST_MONTH = date(2014, 1, 1)


# Purchases


@dataclass(frozen=True)
class MonthCount:
    """What a collection bought in a month, which goes by its first day, in purchase records; and how many
    titles it held at the end of it: those that it had bought by then, however often."""

    month: date
    purchases: int
    titles: int


def purchases_by_month(session: Session, collection_id: int) -> list[MonthCount]:
    """Every month (UTC) from January 2014 to the present one; none where nothing was ever bought."""
    months = _last_months(_number(utc_now()) - _number(_FIRST_MONTH) + 1)
    spans = _spans(months)
    query = select(_bought_in(spans, collection_id)).select_from(spans).order_by(spans.c.month)
    purchases = session.scalars(query).all()
    if not any(purchases):
        return []
    again = _bought_again(session, collection_id)
    titles = accumulate(bought - again[month] for month, bought in zip(months, purchases, strict=True))
    return list(map(MonthCount, months, purchases, titles))


def recent_purchases(session: Session, months: int = 24) -> dict[int, tuple[int, ...]]:
    """How many purchase records each collection in use, by id, has of each of the last `months` months (UTC),
    oldest first; the present one is the last."""
    spans = _spans(_last_months(months))
    query = select(Collection.id, _bought_in(spans, Collection.id)).join(spans, true())
    query = query.where(Collection.marked_for_deletion_at.is_(None))
    found = defaultdict(list)
    for collection_id, purchases in session.execute(query.order_by(Collection.id, spans.c.month)):
        found[collection_id].append(purchases)
    return {collection_id: tuple(purchases) for collection_id, purchases in found.items()}


def _last_months(count: int) -> list[date]:
    """Their first days, up to the present month."""
    end = _number(utc_now()) + 1
    return [_month(number) for number in range(end - count, end)]


def _number(day: date) -> int:
    return day.year * 12 + day.month - 1


def _month(number: int) -> date:
    return date(number // 12, number % 12 + 1, 1)


def _spans(months: Sequence[date]) -> TableValuedAlias:
    """The months with their first days and those of the months that follow."""
    ends = [_month(_number(month) + 1) for month in months]
    arrays = (literal(days, ARRAY(Date)) for days in (months, ends))
    return func.unnest(*arrays).table_valued("month", "end", name="span").render_derived()


def _bought_in(spans: TableValuedAlias, collection_id: Any) -> Any:
    # A span of an index for each: to sort every purchase into its month takes four times as long.
    row = PurchaseRecord
    query = select(func.count()).where(row.collection_id == collection_id)
    return query.where(row.purchased_on >= spans.c.month, row.purchased_on < spans.c.end).scalar_subquery()


def _bought_again(session: Session, collection_id: int) -> Counter[date]:
    """How many purchase records of each month are of titles that the collection had bought before."""
    row, earlier = PurchaseRecord, aliased(PurchaseRecord)
    bought = select(row.license_pool_id).where(row.collection_id == collection_id)
    more_than_once = session.scalars(bought.group_by(row.license_pool_id).having(func.count() > 1)).all()
    before = exists().where(
        earlier.license_pool_id == row.license_pool_id, earlier.purchased_on < row.purchased_on
    )
    query = select(row.purchased_on, func.count()).where(one_of(row.license_pool_id, more_than_once), before)
    months: Counter[date] = Counter()
    for day, records in session.execute(query.group_by(row.purchased_on)):
        months[day.replace(day=1)] += records
    return months
