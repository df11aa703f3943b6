"""Facets: the formats and languages that the titles of a collection can be filtered by."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import exists, func, literal, select, union_all
from sqlalchemy.orm import InstrumentedAttribute, Session

from accession.catalog.editions import pool_edition_join
from accession.catalog.title_filter import PoolQuery, select_pools_of
from accession.db.models import Edition


@dataclass(frozen=True)
class Facets:
    """Formats and languages in alphabetical order."""

    formats: tuple[str, ...]
    languages: tuple[str, ...]


def title_facets(session: Session, collection: str | None = None) -> Facets:
    """Return the formats and languages of the titles of one collection, or of all in use.

    Raises:
        NotFound: the collection does not exist.
    """
    pools = select_pools_of(session, collection).where(pool_edition_join())
    return Facets(
        formats=_values_of_pools(session, pools, Edition.format),
        languages=_values_of_pools(session, pools, Edition.language),
    )


def _values_of_pools(
    session: Session, pools: PoolQuery, column: InstrumentedAttribute[Any]
) -> tuple[str, ...]:
    values = _distinct_values(session, column)
    if not values:
        return ()
    # One EXISTS per value stops at the first title, where DISTINCT would read them all.
    held = (select(literal(value)).where(exists(pools.where(column == value))) for value in values)
    return tuple(sorted(session.scalars(union_all(*held))))


def _distinct_values(session: Session, column: InstrumentedAttribute[Any]) -> Sequence[str]:
    """Return the values of an indexed column that has few, with one index look-up for each (a loose scan)."""
    value = select(func.min(column).label("value")).cte("value", recursive=True)
    next_value = select(func.min(column)).where(column > value.c.value).scalar_subquery()
    values = value.union_all(select(next_value).where(value.c.value.is_not(None)))
    return session.scalars(select(values.c.value).where(values.c.value.is_not(None))).all()
