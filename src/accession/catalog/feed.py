"""The catalogue as others take it: titles in a lasting order, what has changed since when, what is gone."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, func, or_, select, text, union
from sqlalchemy.orm import Session

from accession.catalog.models import Collection, Edition, LicensePool, PoolStatus, PurchaseRecord
from accession.catalog.queries import TitleView, describes, titles_of_pools
from accession.catalog.rows import one_of

# The clocks of several machines are never quite the same.
_CLOCKS_DIFFER = timedelta(minutes=1)
_BATCH = 1000


@dataclass(frozen=True)
class FeedFilter:
    """Which titles are wanted; what is left out does not matter.

    `collections` are ids. Wanted are titles modified at `since` or later and at `until` or earlier (UTC);
    `with_removed` also those that a collection has had and has no more.
    """

    collections: tuple[int, ...] | None = None
    since: datetime | None = None
    until: datetime | None = None
    with_removed: bool = False


@dataclass(frozen=True)
class FeedTitle:
    """A collection's title, by the id of its license pool.

    `modified_at` (UTC) is when what is told here last became another: description, counts, status. It is
    removed when no copy is left, or the collection is leaving. `marc` is the vendor's last record of it as
    binary MARC 21, None where there is none or it was not asked for.
    """

    pool_id: int
    collection_id: int
    title: TitleView
    created_at: datetime
    modified_at: datetime
    is_removed: bool
    marc: bytes | None = None


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
        rows = session.execute(_rows(wanted, after).limit(size)).all()
        yield from _told(session, rows, with_marc=with_marc)
        if len(rows) < size:
            return
        after = rows[-1].id
        left = None if left is None else left - size


def count_feed(session: Session, wanted: FeedFilter) -> int:
    """How many titles are wanted."""
    return session.scalar(select(func.count()).select_from(_rows(wanted, 0).order_by(None).subquery())) or 0


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
    if not wanted.with_removed:
        query = query.where(~_is_removed())
    if wanted.since is not None:
        query = query.where(LicensePool.id.in_(_modified_since(wanted.since)))
    if wanted.until is not None:
        query = query.where(_modified() <= wanted.until)
    return query


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


def _told(session: Session, rows: Sequence[Any], *, with_marc: bool) -> Iterator[FeedTitle]:
    ids = [row.id for row in rows]
    records = _last_records(session, ids) if with_marc else {}
    for row, title in zip(rows, titles_of_pools(session, ids), strict=True):
        yield FeedTitle(
            pool_id=row.id,
            collection_id=row.collection_id,
            title=title,
            created_at=row.created_at,
            modified_at=row.modified_at,
            is_removed=row.is_removed,
            marc=records.get(row.id),
        )


def _last_records(session: Session, pool_ids: Sequence[int]) -> dict[int, bytes]:
    query = (
        select(PurchaseRecord.license_pool_id, PurchaseRecord.marc)
        .where(one_of(PurchaseRecord.license_pool_id, pool_ids))
        .order_by(PurchaseRecord.purchased_on)
    )
    # Of a pool with several the last is kept.
    return dict(session.execute(query).all())
