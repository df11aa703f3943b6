"""The catalogue as others take it: titles in a lasting order, what has changed since when, what is gone."""

from array import array
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from itertools import groupby
from typing import Any

from sqlalchemy import ColumnElement, func, or_, select, text, union
from sqlalchemy.orm import Session

from accession.catalog.titles import TitleView, describes, titles_of_pools
from accession.core.vocabulary import IdentifierType
from accession.db.bulk import one_of
from accession.db.models import (
    Classification,
    Collection,
    Contribution,
    Contributor,
    Edition,
    Identifier,
    LicensePool,
    PoolStatus,
    PurchaseRecord,
    Subject,
)

# The clocks of several machines are never quite the same.
_CLOCKS_DIFFER = timedelta(minutes=1)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_BATCH = 1000


@dataclass(frozen=True)
class FeedFilter:
    """Which titles are wanted; what is left out does not matter.

    `collections` are ids, `formats` those of the catalogue, `identifiers` the vendor's ids. Wanted are titles
    modified at `since` or later and at `until` or earlier (UTC), whose pool's id is `last_pool_id` or less;
    `with_removed` also those that a collection has had and has no more.
    """

    collections: tuple[int, ...] | None = None
    formats: tuple[str, ...] | None = None
    identifiers: tuple[str, ...] | None = None
    last_pool_id: int | None = None
    since: datetime | None = None
    until: datetime | None = None
    with_removed: bool = False


@dataclass(frozen=True)
class Headings:
    """How a title is filed: its people as (role, "Last, First") and its subjects as (scheme, name)."""

    people: tuple[tuple[str, str], ...] = ()
    subjects: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class FeedTitle:
    """A collection's title, by the id of its license pool.

    `modified_at` (UTC) is when what is told here last became another: description, counts, status. It is
    removed when no copy is left, or the collection is leaving. `marc` is the vendor's last record of it as
    binary MARC 21, None where there is none or it was not asked for; a title that has none and was asked
    for it has its `headings`.
    """

    pool_id: int
    collection_id: int
    title: TitleView
    created_at: datetime
    modified_at: datetime
    is_removed: bool
    marc: bytes | None = None
    headings: Headings | None = None


def feed(
    session: Session,
    wanted: FeedFilter,
    *,
    after: int = 0,
    limit: int | None = None,
    with_marc: bool = False,
) -> Iterator[FeedTitle]:
    """The titles wanted whose pool's id is greater than `after`, in the order of these ids, which never
    change: read in batches, so that memory stays flat, and so that a reader can go on from the last id."""
    left = limit
    while left is None or left > 0:
        size = _BATCH if left is None else min(left, _BATCH)
        rows = session.execute(_next_rows(wanted, after, size)).all()
        yield from _told(session, rows, with_marc=with_marc)
        if len(rows) < size:
            return
        after = rows[-1].id
        left = None if left is None else left - size


def count_feed(session: Session, wanted: FeedFilter, *, at_most: int | None = None) -> int:
    """How many titles are wanted; where there are more than `at_most`, that number, in less time."""
    rows = _rows(wanted, 0).order_by(None) if at_most is None else _next_rows(wanted, 0, at_most)
    return session.scalar(select(func.count()).select_from(rows.subquery())) or 0


def greatest_pool_id(session: Session) -> int:
    """The id of the pool that was added last, 0 where there is none."""
    return session.scalar(select(func.max(LicensePool.id))) or 0


def earliest_modification(session: Session) -> datetime | None:
    """A moment (UTC) before which no title was modified; None where there is no title."""
    return session.scalar(select(func.min(LicensePool.updated_at)))


def installation_id(session: Session) -> str | None:
    """What tells this catalogue from every other, wherever it is served: the moment, to the microsecond, at
    which its first collection was added. None before that.

    No collection's row ever goes, a backup keeps it, and who moves the catalogue takes it along.
    """
    first: datetime | None = session.scalar(select(Collection.created_at).order_by(Collection.id).limit(1))
    return None if first is None else f"{(first - _EPOCH) // timedelta(microseconds=1):x}"


def feed_by_name(session: Session, wanted: FeedFilter) -> Iterator[tuple[FeedTitle, ...]]:
    """Each title once, as all the collections wanted have it, by name without regard to accents and capitals.

    Each has its `headings`. Of a title that was modified in one of them since the moment asked for, the
    others tell, too. Beside a batch 8 bytes a title are held.
    """
    ids = _ids_by_name(session, wanted)
    # A title's pools stand together, but may be of two batches.
    told = (
        found
        for start in range(0, len(ids), _BATCH)
        for found in _told_in_order(session, ids[start : start + _BATCH])
    )
    for _, same in groupby(told, key=lambda found: found.title.identifier):
        yield tuple(same)


def complete_until(session: Session) -> datetime:
    """Up to when (UTC) a feed is complete: what is written now may still be told under an earlier moment
    than this one once it is committed, but under none before that.

    Who asks for changes again and again begins the next time where it was complete this time.
    """
    # A moment that is stored is never before the transaction that stores it.
    query = text(
        "SELECT least(now(), min(xact_start)) FROM pg_stat_activity"
        " WHERE datname = current_database() AND pid <> pg_backend_pid()"
    )
    moment: datetime = session.execute(query).scalar_one()
    return moment - _CLOCKS_DIFFER


def _next_rows(wanted: FeedFilter, after: int, size: int) -> Any:
    """At most `size` rows, in their order."""
    if wanted.since is None:
        return _rows(wanted, after).limit(size)
    # Each reason by itself and no further than needed: where few titles have one its index finds them, where
    # many have it they are met in the order of their ids. All that changed would be read for each batch.
    rows = _rows(replace(wanted, since=None), after)
    found = union(
        *(select(rows.where(reason).limit(size).subquery()) for reason in _reasons(wanted))
    ).subquery()
    return select(found).order_by(found.c.id).limit(size)


def _reasons(wanted: FeedFilter) -> Sequence[ColumnElement[bool]]:
    """Why a title may count as modified in the time wanted."""
    moments = (LicensePool.updated_at, Edition.updated_at, Collection.marked_for_deletion_at)
    if wanted.until is None:
        return [moment >= wanted.since for moment in moments]
    return [moment.between(wanted.since, wanted.until) for moment in moments]


def last_change(session: Session) -> datetime | None:
    """When what the catalogue tells was last changed (UTC), to the second; None where nothing has been, and
    while something may still be told under a moment that is no later."""
    moments = (
        LicensePool.updated_at,
        Edition.updated_at,
        Collection.created_at,
        Collection.marked_for_deletion_at,
    )
    latest = (select(func.max(moment)).scalar_subquery() for moment in moments)
    changed: datetime | None = session.scalar(select(func.greatest(*latest)))
    return changed if is_past(session, changed) else None


def is_past(session: Session, moment: datetime | None) -> bool:
    """Whether nothing can be told any more under the second of the moment (UTC), or an earlier one."""
    return moment is not None and moment + timedelta(seconds=1) < complete_until(session)


def _rows(wanted: FeedFilter, after: int) -> Any:
    query: Any = (
        select(
            LicensePool.id,
            LicensePool.collection_id,
            LicensePool.created_at,
            _modified().label("modified_at"),
            _is_removed().label("is_removed"),
        )
        .join(Collection, LicensePool.collection_id == Collection.id)
        .outerjoin(Edition, describes())
        .where(LicensePool.id > after)
        .order_by(LicensePool.id)
    )
    if wanted.collections is not None:
        query = query.where(one_of(LicensePool.collection_id, wanted.collections))
    if wanted.formats is not None:
        query = query.where(one_of(Edition.format, wanted.formats))
    if wanted.identifiers is not None:
        query = query.where(LicensePool.identifier_id.in_(_named(wanted.identifiers)))
    if wanted.last_pool_id is not None:
        query = query.where(LicensePool.id <= wanted.last_pool_id)
    if not wanted.with_removed:
        query = query.where(~_is_removed())
    if wanted.since is not None:
        query = query.where(LicensePool.id.in_(_modified_since(wanted.since)))
    if wanted.until is not None:
        # The second follows from the first, and there is an index for it.
        query = query.where(_modified() <= wanted.until, LicensePool.updated_at <= wanted.until)
    return query


def _ids_by_name(session: Session, wanted: FeedFilter) -> "array[int]":
    query = _rows(replace(wanted, since=None, until=None), 0).with_only_columns(LicensePool.id)
    if wanted.since is not None or wanted.until is not None:
        modified = _rows(wanted, 0).with_only_columns(LicensePool.identifier_id).order_by(None)
        query = query.where(LicensePool.identifier_id.in_(modified))
    name = func.accession_fold(Edition.title).collate("C")
    query = query.order_by(None).order_by(name, LicensePool.identifier_id, LicensePool.id)
    return array("q", session.scalars(query.execution_options(yield_per=_BATCH)))


def _told_in_order(session: Session, pool_ids: Sequence[int]) -> Iterator[FeedTitle]:
    everything = _rows(FeedFilter(with_removed=True), 0)
    found = session.execute(everything.where(one_of(LicensePool.id, pool_ids)))
    by_pool = {row.id: row for row in found}
    rows = [by_pool[pool_id] for pool_id in pool_ids]
    return _told(session, rows, with_marc=False, with_headings=True)


def _named(identifiers: Sequence[str]) -> Any:
    # The index has the type first.
    return select(Identifier.id).where(
        Identifier.type.in_(IdentifierType), one_of(Identifier.identifier, identifiers)
    )


def _modified() -> ColumnElement[datetime]:
    # It leaves out what is null.
    return func.greatest(LicensePool.updated_at, Edition.updated_at, Collection.marked_for_deletion_at)


def _is_removed() -> ColumnElement[bool]:
    return or_(LicensePool.status == PoolStatus.EXHAUSTED, Collection.marked_for_deletion_at.is_not(None))


def _modified_since(since: datetime) -> Any:
    """The pools, found by an index for each reason."""
    pool = select(LicensePool.id)
    return union(
        pool.where(LicensePool.updated_at >= since),
        pool.join(Edition, describes()).where(Edition.updated_at >= since),
        pool.join(Collection, LicensePool.collection_id == Collection.id).where(
            Collection.marked_for_deletion_at >= since
        ),
    )


def _told(
    session: Session, rows: Sequence[Any], *, with_marc: bool, with_headings: bool = False
) -> Iterator[FeedTitle]:
    ids = [row.id for row in rows]
    records = _last_records(session, ids) if with_marc else {}
    without = [pool_id for pool_id in ids if pool_id not in records] if with_marc or with_headings else []
    headings = _headings(session, without) if without else {}
    for row, title in zip(rows, titles_of_pools(session, ids), strict=True):
        yield FeedTitle(
            pool_id=row.id,
            collection_id=row.collection_id,
            title=title,
            created_at=row.created_at,
            modified_at=row.modified_at,
            is_removed=row.is_removed,
            marc=records.get(row.id),
            headings=headings.get(row.id),
        )


def _last_records(session: Session, pool_ids: Sequence[int]) -> dict[int, bytes]:
    query = (
        select(PurchaseRecord.license_pool_id, PurchaseRecord.marc)
        .where(one_of(PurchaseRecord.license_pool_id, pool_ids))
        .order_by(PurchaseRecord.purchased_on)
    )
    # Of a pool with several the last is kept.
    return dict(session.execute(query).all())


def _headings(session: Session, pool_ids: Sequence[int]) -> dict[int, Headings]:
    mine = select(LicensePool.id).join(Edition, describes()).where(one_of(LicensePool.id, pool_ids))
    people = (
        mine.join(Contribution, Contribution.edition_id == Edition.id)
        .join(Contributor, Contribution.contributor_id == Contributor.id)
        .add_columns(Contribution.role, Contributor.sort_name)
        .order_by(Contribution.position)
    )
    subjects = (
        mine.join(Classification, Classification.edition_id == Edition.id)
        .join(Subject, Classification.subject_id == Subject.id)
        .add_columns(Subject.scheme, Subject.name)
        .order_by(Classification.position)
    )
    people_of, subjects_of = (_by_pool(session.execute(query)) for query in (people, subjects))
    return {pool_id: Headings(tuple(people_of[pool_id]), tuple(subjects_of[pool_id])) for pool_id in pool_ids}


def _by_pool(rows: Iterable[Any]) -> defaultdict[int, list[tuple[str, str]]]:
    groups: defaultdict[int, list[tuple[str, str]]] = defaultdict(list)
    for pool_id, first, second in rows:
        groups[pool_id].append((first, second))
    return groups
