"""Orders of lists of titles, and positions in them.

A list has two parts: the titles that have a value of the sort key, in the order of the values, and those that
have none. Titles with the same value, and those without one, are in the order of their import.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from enum import StrEnum
from typing import Any, Self

from sqlalchemy import Select, exists, func, literal, or_, select
from sqlalchemy.orm import InstrumentedAttribute, Session, aliased

from accession.catalog.editions import pool_edition_join
from accession.catalog.title_filter import PoolQuery, TitleFilter, first_purchase_conditions
from accession.core.sort_order import format_sort_order, parse_sort_order
from accession.db.models import Edition, LicensePool, PurchaseRecord

_MAX_INTEGER = 2**31 - 1


class SortKey(StrEnum):
    """Key by which a list of titles is sorted."""

    PURCHASED = "purchased"
    """Date of the first purchase."""
    TITLE = "title"
    """Title, without accents, case and initial article."""
    AUTHOR = "author"
    """First author, or first contributor of a title without authors: last name first."""
    HOLDS = "holds"
    IMPORTED = "imported"
    """Order of the first import, which never changes."""


@dataclass(frozen=True)
class TitleOrder:
    """An order of titles, written as `title`, or as `-title` for descending; by default newest first."""

    key: SortKey = SortKey.PURCHASED
    is_descending: bool = True

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the order that is written like this.

        Raises:
            InvalidInput: there is no such key.
        """
        return cls(*parse_sort_order(text, SortKey))

    def __str__(self) -> str:
        return format_sort_order(self.key, is_descending=self.is_descending)


@dataclass(frozen=True)
class Position:
    """The place of a title in a list: its value of the sort key, None without one, and its pool."""

    value: Any
    pool_id: int

    def encode(self) -> str:
        """Return the position as text."""
        return f"{self.pool_id}" if self.value is None else f"{self.pool_id}:{self.value}"

    @classmethod
    def decode(cls, text: str, key: SortKey) -> Self:
        """Return the position that is written like this.

        Raises:
            ValueError: it is not a position in a list with this sort key.
        """
        pool_id, separator, value = text.partition(":")
        return cls(_PARSERS[key](value) if separator else None, parse_integer(pool_id))


def parse_integer(text: str) -> int:
    """Return a number that an integer column of PostgreSQL can have.

    Raises:
        ValueError: it is not one.
    """
    number = int(text)
    if not 0 <= number <= _MAX_INTEGER:
        raise ValueError("the number is out of range")
    return number


def _parse_text(text: str) -> str:
    if "\0" in text:
        raise ValueError("PostgreSQL stores no NUL")
    return text


def _parse_nothing(text: str) -> None:
    raise ValueError("the list has no values")


_PARSERS: Mapping[SortKey, Callable[[str], Any]] = {
    SortKey.PURCHASED: date.fromisoformat,
    SortKey.TITLE: _parse_text,
    SortKey.AUTHOR: _parse_text,
    SortKey.HOLDS: parse_integer,
    SortKey.IMPORTED: _parse_nothing,
}


def read_positions(
    session: Session,
    pools: PoolQuery,
    filters: TitleFilter,
    order: TitleOrder,
    start: Position | None,
    limit: int,
    *,
    is_backwards: bool = False,
) -> Sequence[Position]:
    """Return the positions of the next pools after `start`, `limit` at most; backwards, of those before it.

    Without `start`, they are the first of the list. `pools` is the query of these filters.
    """
    # Parallel workers would read on while the others still look for the last title of the page.
    session.execute(select(func.set_config("max_parallel_workers_per_gather", "0", True)))
    parts = _parts(pools, filters, order)
    if is_backwards:
        parts.reverse()
    if start is not None:
        has_value = start.value is not None
        parts = parts[next(n for n, part in enumerate(parts) if part.has_values == has_value) :]
    positions: list[Position] = []
    for part in parts:
        query = part.select_after(start, is_descending=order.is_descending != is_backwards)
        # The second part is seldom needed.
        rows = session.execute(query.limit(limit - len(positions)))
        positions += (Position(row.value, row.pool_id) for row in rows)
        if len(positions) == limit:
            break
        start = None
    return positions


@dataclass(frozen=True)
class _Part:
    """A part of a list: a query of its pools, their ids, and their values, if they have any."""

    query: PoolQuery
    pool_id: InstrumentedAttribute[int]
    value: InstrumentedAttribute[Any] | None = None

    @property
    def has_values(self) -> bool:
        return self.value is not None

    def select_after(self, start: Position | None, *, is_descending: bool) -> Select[*tuple[Any, ...]]:
        """Return a query for the positions that follow `start`."""
        columns = [self.pool_id] if self.value is None else [self.value, self.pool_id]
        value = literal(None) if self.value is None else self.value
        selected = (value.label("value"), self.pool_id.label("pool_id"))
        query = self.query.with_only_columns(*selected, maintain_column_froms=True)
        query = query.order_by(*(column.desc() if is_descending else column for column in columns))
        if start is None:
            return query
        follows = self.pool_id < start.pool_id if is_descending else self.pool_id > start.pool_id
        if self.value is None:
            return query.where(follows)
        is_beyond = self.value < start.value if is_descending else self.value > start.value
        # The first condition follows from the second, and tells where to begin in the index.
        is_not_before = self.value <= start.value if is_descending else self.value >= start.value
        return query.where(is_not_before, or_(is_beyond, follows))


def _parts(pools: PoolQuery, filters: TitleFilter, order: TitleOrder) -> list[_Part]:
    match order.key:
        case SortKey.PURCHASED:
            return _parts_by_purchase(pools, filters)
        case SortKey.TITLE:
            return _parts_by_edition(pools, Edition.sort_title)
        case SortKey.AUTHOR:
            return _parts_by_edition(pools, Edition.sort_author)
        case SortKey.HOLDS:
            parts = _parts_by_holds(pools)
            return parts if order.is_descending else parts[::-1]
        case SortKey.IMPORTED:
            return [_Part(pools, LicensePool.id)]


def _parts_by_purchase(pools: PoolQuery, filters: TitleFilter) -> list[_Part]:
    first, earlier = aliased(PurchaseRecord), aliased(PurchaseRecord)
    is_of_pool = (first.license_pool_id == LicensePool.id) & (
        first.collection_id == LicensePool.collection_id
    )
    has_earlier = exists().where(
        earlier.license_pool_id == first.license_pool_id, earlier.purchased_on < first.purchased_on
    )
    has_none = ~exists().where(first.license_pool_id == LicensePool.id)
    # The filter of the first purchase reads other rows: these conditions tell where to begin in the index.
    conditions = first_purchase_conditions(filters, first.purchased_on)
    purchased = pools.join(first, is_of_pool).where(~has_earlier, *conditions)
    return [
        _Part(purchased, first.license_pool_id, first.purchased_on),
        _Part(pools.where(has_none), LicensePool.id),
    ]


def _parts_by_edition(pools: PoolQuery, value: Any) -> list[_Part]:
    with_value = select(literal(1)).where(pool_edition_join(), value.is_not(None)).correlate(LicensePool)
    return [
        _Part(pools.where(pool_edition_join(), value.is_not(None)), LicensePool.id, value),
        _Part(pools.where(~with_value.exists()), LicensePool.id),
    ]


def _parts_by_holds(pools: PoolQuery) -> list[_Part]:
    holds = LicensePool.patrons_in_hold_queue
    return [
        _Part(pools.where(holds > 0), LicensePool.id, holds),
        _Part(pools.where(holds == 0), LicensePool.id),
    ]
