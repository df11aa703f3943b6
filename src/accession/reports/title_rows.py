"""Rows of reports that list titles: the titles of a query, in batches, with values of their own."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from sqlalchemy import ColumnElement, Select, select, true
from sqlalchemy import Row as DatabaseRow
from sqlalchemy.orm import InstrumentedAttribute, Session

from accession.accounts.collections import find_collection
from accession.catalog.titles import titles_of_pools
from accession.db.models import Collection, LicensePool
from accession.reports.model import Column, ReportRequest, Row

_BATCH = 1000

TITLE_COLUMNS = (
    Column("title", "Title"),
    Column("authors", "Authors"),
    Column("identifier", "Id"),
    Column("format", "Format"),
    Column("collection", "Collection"),
)

MoreValues = Callable[[Session, Sequence[int]], Mapping[int, Mapping[str, Any]]]
"""Returns further values of titles by pool id."""


def in_collection(
    session: Session, collection_id: InstrumentedAttribute[int], name: str | None
) -> ColumnElement[bool]:
    """Return the condition that a row is of the named collection, or (None) of any in use.

    It has no subquery, so that an index delivers the rows of all collections in its order.

    Raises:
        NotFound: the collection does not exist.
    """
    if name is not None:
        return collection_id == find_collection(session, name).id
    deleted = select(Collection.id).where(Collection.marked_for_deletion_at.is_not(None))
    deleted_ids = session.scalars(deleted).all()
    return collection_id.not_in(deleted_ids) if deleted_ids else true()


def title_rows(
    session: Session,
    query: Select[*tuple[Any, ...]],
    request: ReportRequest,
    tie_breaker: Any = LicensePool.id,
    more_values: MoreValues | None = None,
) -> Iterator[Row]:
    """Yield the requested rows of a query for `pool_id` and labelled values, one of which it is sorted by.

    `tie_breaker` is the pool's id in the table whose index has the order.
    """
    order = query.selected_columns[request.sort]
    by = [order.desc(), tie_breaker.desc()] if request.is_descending else [order, tie_breaker]
    rows = session.execute(query.order_by(*by).offset(request.offset).limit(request.limit)).all()
    for start in range(0, len(rows), _BATCH):
        yield from _rows(session, rows[start : start + _BATCH], more_values)


def _rows(
    session: Session, rows: Sequence[DatabaseRow[Any]], more_values: MoreValues | None
) -> Iterator[Row]:
    pool_ids = [row.pool_id for row in rows]
    more = more_values(session, pool_ids) if more_values else {}
    titles = titles_of_pools(session, pool_ids)
    for row, title in zip(rows, titles, strict=True):
        values = dict(row._mapping)
        pool_id = values.pop("pool_id")
        described = {
            "title": title.title,
            "authors": "; ".join(title.credits),
            "identifier": title.identifier,
            "format": title.format,
            "collection": title.collection,
        }
        yield Row({**described, **values, **more.get(pool_id, {})})
