"""Filter the change feed: query license pools by collection, format, identifier and modification time."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, func, or_, select, union, union_all

from accession.catalog.editions import pool_edition_join
from accession.core.vocabulary import IdentifierType
from accession.db.bulk import in_array
from accession.db.models import Collection, Edition, Identifier, LicensePool, PoolStatus

_MODIFICATION_TIMES = (LicensePool.updated_at, Edition.updated_at, Collection.marked_for_deletion_at)


@dataclass(frozen=True)
class FeedFilter:
    """Conditions on the titles of a feed; a field left at its default sets none.

    Attributes:
        collections: Ids of collections.
        formats: Formats of the catalogue.
        identifiers: Vendor's ids.
        last_pool_id: Greatest id of a license pool.
        since: Earliest modification time (UTC).
        until: Latest modification time (UTC).
        with_removed: Include titles that a collection has owned and does not own any more.
    """

    collections: tuple[int, ...] | None = None
    formats: tuple[str, ...] | None = None
    identifiers: tuple[str, ...] | None = None
    last_pool_id: int | None = None
    since: datetime | None = None
    until: datetime | None = None
    with_removed: bool = False


def select_feed_rows(filters: FeedFilter, after: int = 0) -> Any:
    """Return a query for the pools with an id above `after` that match, in the order of their ids.

    Its columns are `id`, `collection_id`, `library_id`, `created_at`, `modified_at` and `is_removed`.
    """
    query: Any = (
        select(
            LicensePool.id,
            LicensePool.collection_id,
            Collection.library_id,
            LicensePool.created_at,
            _modified_at().label("modified_at"),
            _is_removed().label("is_removed"),
        )
        .join(Collection, LicensePool.collection_id == Collection.id)
        .outerjoin(Edition, pool_edition_join())
        .where(LicensePool.id > after)
        .order_by(LicensePool.id)
    )
    if filters.collections is not None:
        query = query.where(in_array(LicensePool.collection_id, filters.collections))
    if filters.formats is not None:
        query = query.where(in_array(Edition.format, filters.formats))
    if filters.identifiers is not None:
        query = query.where(LicensePool.identifier_id.in_(_select_identifiers(filters.identifiers)))
    if filters.last_pool_id is not None:
        query = query.where(LicensePool.id <= filters.last_pool_id)
    if not filters.with_removed:
        query = query.where(~_is_removed())
    if filters.since is not None:
        query = query.where(LicensePool.id.in_(_select_modified_since(filters.since)))
    if filters.until is not None:
        # The second condition follows from the first and can use an index.
        query = query.where(_modified_at() <= filters.until, LicensePool.updated_at <= filters.until)
    return query


def select_feed_page(filters: FeedFilter, after: int, size: int) -> Any:
    """Return a query for the first `size` rows of `select_feed_rows`, fast for large catalogues."""
    if filters.since is None:
        return select_feed_rows(filters, after).limit(size)
    # One query for each modification time, limited by itself. Where few titles match, its index finds them;
    # where many match, the scan in the order of the ids soon ends. A single condition would read all changes
    # for every page.
    rows = select_feed_rows(replace(filters, since=None), after)
    matches = union(
        *(select(rows.where(condition).limit(size).subquery()) for condition in _modified_in_time(filters))
    ).subquery()
    return select(matches).order_by(matches.c.id).limit(size)


def select_latest(filters: FeedFilter) -> Any:
    """Return a query for the greatest id of the pools with the latest modification time."""
    # Whatever its start, a list contains this pool unless it is empty.
    rows = select_feed_rows(replace(filters, since=None)).order_by(None)
    # One query for each modification time, so that each can use its index.
    latest = union_all(
        *(
            select(
                rows.where(column.is_not(None))
                .order_by(column.desc(), LicensePool.id.desc())
                .limit(1)
                .subquery()
            )
            for column in _MODIFICATION_TIMES
        )
    ).subquery()
    return select(latest.c.id).order_by(latest.c.modified_at.desc(), latest.c.id.desc()).limit(1)


def select_ids_by_name(filters: FeedFilter) -> Any:
    """Return a query for the ids of pools by title, ignoring accents and case, then by identifier.

    Of a title that was modified in one collection in the time of the filter, the pools of all the filter's
    collections are selected.
    """
    name = func.accession_fold(Edition.title).collate("C")
    return _select_ids_of_titles(filters).order_by(name, LicensePool.identifier_id, LicensePool.id)


def select_ids_by_title(filters: FeedFilter) -> Any:
    """Return a query for the ids of pools by the first pool of their title, then by id.

    It selects the same pools as `select_ids_by_name`.
    """
    first_id = func.min(LicensePool.id).over(partition_by=LicensePool.identifier_id)
    return _select_ids_of_titles(filters).order_by(first_id, LicensePool.id)


def _select_ids_of_titles(filters: FeedFilter) -> Any:
    query = select_feed_rows(replace(filters, since=None, until=None)).with_only_columns(LicensePool.id)
    if filters.since is not None or filters.until is not None:
        modified = select_feed_rows(filters).with_only_columns(LicensePool.identifier_id).order_by(None)
        query = query.where(LicensePool.identifier_id.in_(modified))
    return query.order_by(None)


def _modified_in_time(filters: FeedFilter) -> Sequence[ColumnElement[bool]]:
    if filters.until is None:
        return [column >= filters.since for column in _MODIFICATION_TIMES]
    return [column.between(filters.since, filters.until) for column in _MODIFICATION_TIMES]


def _select_identifiers(identifiers: Sequence[str]) -> Any:
    # The type comes first in the index.
    return select(Identifier.id).where(
        Identifier.type.in_(IdentifierType), in_array(Identifier.identifier, identifiers)
    )


def _modified_at() -> ColumnElement[datetime]:
    # PostgreSQL's greatest() ignores NULL.
    return func.greatest(*_MODIFICATION_TIMES)


def _is_removed() -> ColumnElement[bool]:
    return or_(LicensePool.status == PoolStatus.EXHAUSTED, Collection.marked_for_deletion_at.is_not(None))


def _select_modified_since(since: datetime) -> Any:
    # A union, so that each of the three conditions can use its index.
    pool = select(LicensePool.id)
    return union(
        pool.where(LicensePool.updated_at >= since),
        pool.join(Edition, pool_edition_join()).where(Edition.updated_at >= since),
        pool.join(Collection, LicensePool.collection_id == Collection.id).where(
            Collection.marked_for_deletion_at >= since
        ),
    )
