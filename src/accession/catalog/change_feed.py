"""Change feed: titles in a stable order with the times of their last changes, for exports and harvesters."""

from array import array
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import groupby
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from accession.accounts.libraries import VendorLibrary, vendor_libraries
from accession.catalog.editions import pool_edition_join
from accession.catalog.feed_filter import (
    FeedFilter,
    select_feed_page,
    select_feed_rows,
    select_ids_by_name,
    select_ids_by_title,
    select_latest,
)
from accession.catalog.titles import TitleView, titles_of_pools
from accession.db.bulk import in_array
from accession.db.models import (
    Classification,
    Contribution,
    Contributor,
    Edition,
    LicensePool,
    PoolStatus,
    PurchaseRecord,
    Subject,
)

_BATCH = 1000


@dataclass(frozen=True)
class Headings:
    """Access points of a title: contributors as (role, "Last, First"), subjects as (scheme, name)."""

    people: tuple[tuple[str, str], ...] = ()
    subjects: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class FeedTitle:
    """A title of a collection in the change feed.

    Attributes:
        pool_id: Id of the license pool; it never changes, and a later title has a greater one.
        library_id: Vendor's id of the collection's library.
        modified_at: When metadata, counts, status or purchase records last changed (UTC).
        is_removed: No copy is left, or the collection is being deleted.
        marc: Latest MARC record as binary MARC 21; None if there is none or none was requested.
        headings: Present where MARC records were requested, and in a feed by name.
    """

    pool_id: int
    collection_id: int
    library_id: str
    title: TitleView
    created_at: datetime
    modified_at: datetime
    is_removed: bool
    marc: bytes | None = None
    headings: Headings | None = None


def read_feed(
    session: Session,
    filters: FeedFilter,
    *,
    after: int = 0,
    limit: int | None = None,
    with_marc: bool = False,
) -> Iterator[FeedTitle]:
    """Yield the matching titles with a pool id above `after`, in the order of their pool ids.

    They are read in batches to bound the memory used. A reader can continue after the last id it received.
    """
    remaining = limit
    while remaining is None or remaining > 0:
        size = _BATCH if remaining is None else min(remaining, _BATCH)
        rows = session.execute(select_feed_page(filters, after, size)).all()
        yield from _titles(session, rows, with_marc=with_marc)
        if len(rows) < size:
            return
        after = rows[-1].id
        remaining = None if remaining is None else remaining - size


def read_feed_by_name(session: Session, filters: FeedFilter) -> Iterator[tuple[FeedTitle, ...]]:
    """Yield each title once, as the tuple of the collections that hold it, sorted by name with headings.

    Sorting ignores accents and case. A title that was modified in one collection in the time of the filter
    includes the others. Besides a batch of titles, 8 bytes of memory are used for each pool.
    """
    return _group_by_title(_read_by_ids(session, select_ids_by_name(filters), with_headings=True))


def _read_by_ids(session: Session, query: Any, **content: bool) -> Iterator[FeedTitle]:
    ids = array("q", session.scalars(query.execution_options(yield_per=_BATCH)))
    for start in range(0, len(ids), _BATCH):
        yield from _titles_of_pools(session, ids[start : start + _BATCH], **content)


def _group_by_title(holdings: Iterable[FeedTitle]) -> Iterator[tuple[FeedTitle, ...]]:
    """Group adjacent holdings of the same title, which may be in two batches."""
    for _, same_title in groupby(holdings, key=lambda entry: entry.title.identifier):
        yield tuple(same_title)


def read_feed_by_title(
    session: Session, filters: FeedFilter, *, with_marc: bool = False
) -> Iterator[tuple[FeedTitle, ...]]:
    """Yield each title once, as the tuple of its holdings, in the order of the first pool ids.

    There is one holding for each of the vendor's libraries: collections of the same library hold the same
    copies. Such a holding is that of the first collection that holds the title; it was created with the
    earliest of them, was modified with the latest, and is removed when all are. A title that was modified in
    one collection in the time of the filter includes the others. Besides a batch of titles, 8 bytes of memory
    are used for each pool.
    """
    libraries = vendor_libraries(session)
    if len(libraries if filters.collections is None else filters.collections) == 1:
        for entry in read_feed(session, filters, with_marc=with_marc):
            yield (entry,)
        return
    holdings = _read_by_ids(session, select_ids_by_title(filters), with_marc=with_marc)
    for same_title in _group_by_title(holdings):
        by_library: defaultdict[VendorLibrary, list[FeedTitle]] = defaultdict(list)
        for entry in same_title:
            by_library[libraries[entry.collection_id]].append(entry)
        yield tuple(map(_merge_holdings, by_library.values()))


def read_feed_by_library(session: Session, filters: FeedFilter) -> Iterator[FeedTitle]:
    """Yield the matching titles once for each of the vendor's libraries, in the order of their pool ids.

    If collections of the filter share a library, a title follows the first holding of it instead, see
    `read_feed_by_title`.
    """
    libraries = vendor_libraries(session)
    selected = list(libraries if filters.collections is None else filters.collections)
    if len({libraries[collection_id] for collection_id in selected}) == len(selected):
        yield from read_feed(session, filters)
        return
    for holdings in read_feed_by_title(session, filters):
        yield from (
            entry for entry in holdings if filters.since is None or entry.modified_at >= filters.since
        )


def _merge_holdings(holdings: Sequence[FeedTitle]) -> FeedTitle:
    if len(holdings) == 1:
        return holdings[0]
    # The earliest collection, so that the choice is the same for all titles and in all exports.
    ranked = sorted(
        holdings,
        key=lambda entry: (entry.is_removed, entry.title.status == PoolStatus.UNKNOWN, entry.collection_id),
    )
    return replace(
        ranked[0],
        created_at=min(entry.created_at for entry in holdings),
        modified_at=max(entry.modified_at for entry in holdings),
        marc=next((entry.marc for entry in ranked if entry.marc is not None), None),
    )


def count_feed(session: Session, filters: FeedFilter, *, at_most: int | None = None) -> int:
    """Return the number of matching titles; counting stops at `at_most`."""
    rows = (
        select_feed_rows(filters).order_by(None) if at_most is None else select_feed_page(filters, 0, at_most)
    )
    return session.scalar(select(func.count()).select_from(rows.subquery())) or 0


def latest_pool_id(session: Session, filters: FeedFilter) -> int | None:
    """Return the greatest pool id of the titles with the latest modification time, None if none matches."""
    pool_id: int | None = session.scalar(select_latest(filters))
    return pool_id


def max_pool_id(session: Session) -> int:
    """Return the greatest id of a license pool, 0 if there is none."""
    return session.scalar(select(func.max(LicensePool.id))) or 0


def _titles_of_pools(session: Session, pool_ids: Sequence[int], **content: bool) -> Iterator[FeedTitle]:
    query = select_feed_rows(FeedFilter(with_removed=True)).where(in_array(LicensePool.id, pool_ids))
    by_pool = {row.id: row for row in session.execute(query)}
    rows = [by_pool[pool_id] for pool_id in pool_ids]
    return _titles(session, rows, **content)


def _titles(
    session: Session, rows: Sequence[Any], *, with_marc: bool = False, with_headings: bool = False
) -> Iterator[FeedTitle]:
    ids = [row.id for row in rows]
    records = _latest_marc_records(session, ids) if with_marc else {}
    headings = _headings(session, ids) if with_marc or with_headings else {}
    for row, title in zip(rows, titles_of_pools(session, ids), strict=True):
        yield FeedTitle(
            pool_id=row.id,
            collection_id=row.collection_id,
            library_id=row.library_id,
            title=title,
            created_at=row.created_at,
            modified_at=row.modified_at,
            is_removed=row.is_removed,
            marc=records.get(row.id),
            headings=headings.get(row.id),
        )


def _latest_marc_records(session: Session, pool_ids: Sequence[int]) -> dict[int, bytes]:
    query = (
        select(PurchaseRecord.license_pool_id, PurchaseRecord.marc)
        .where(in_array(PurchaseRecord.license_pool_id, pool_ids))
        .order_by(PurchaseRecord.purchased_on)
    )
    # A later row of the same pool replaces an earlier one.
    return dict(session.execute(query).all())


def _headings(session: Session, pool_ids: Sequence[int]) -> dict[int, Headings]:
    pools = select(LicensePool.id).join(Edition, pool_edition_join())
    pools = pools.where(in_array(LicensePool.id, pool_ids))
    people = (
        pools.join(Contribution, Contribution.edition_id == Edition.id)
        .join(Contributor, Contribution.contributor_id == Contributor.id)
        .add_columns(Contribution.role, Contributor.sort_name)
        .order_by(Contribution.position)
    )
    subjects = (
        pools.join(Classification, Classification.edition_id == Edition.id)
        .join(Subject, Classification.subject_id == Subject.id)
        .add_columns(Subject.scheme, Subject.name)
        .order_by(Classification.position)
    )
    people_of, subjects_of = (_group_by_pool(session.execute(query)) for query in (people, subjects))
    return {pool_id: Headings(tuple(people_of[pool_id]), tuple(subjects_of[pool_id])) for pool_id in pool_ids}


def _group_by_pool(rows: Iterable[Any]) -> defaultdict[int, list[tuple[str, str]]]:
    groups: defaultdict[int, list[tuple[str, str]]] = defaultdict(list)
    for pool_id, first, second in rows:
        groups[pool_id].append((first, second))
    return groups
