"""Statistics of titles, which reports read: refreshed from the catalogue, batch by batch.

Only differences are written. The loans come from the roll-up of events (`catalog.circulation_totals`).
"""

from datetime import datetime
from typing import Any

from sqlalchemy import (
    Select,
    case,
    delete,
    exists,
    func,
    literal,
    or_,
    select,
    true,
    tuple_,
)
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session, aliased

from accession.accounts.collections import is_of_collection
from accession.catalog.availability import NAMES_OF_AVAILABILITIES
from accession.catalog.circulation_totals import lock_statistics_state
from accession.catalog.editions import pool_edition_join
from accession.core.vocabulary import LinkRel
from accession.db.bulk import Replacement, replace_rows
from accession.db.engine import transaction
from accession.db.models import (
    Classification,
    Collection,
    CollectionOverlap,
    Edition,
    LicensePool,
    Link,
    PurchaseRecord,
    StatisticsState,
    Subject,
    TitleGroup,
    TitleStatistics,
    table_of,
)

# A refresh uses at most this share of the time.
_MAX_SHARE_OF_TIME = 0.01
# Few enough titles to be joined by indexes: editions and purchase records are wide rows.
_BATCH = 2000
# Key of an advisory lock; arbitrary, but fixed for all versions.
_GROUPS_LOCK_KEY = 4_719_302_881


def is_refresh_due(session: Session, now: datetime) -> bool:
    """Return whether the last refresh is long enough ago for refreshes to take at most 1% of the time."""
    state = session.get(StatisticsState, 1)
    if state is None or state.refreshed_at is None or state.refresh_seconds is None:
        return True
    return (now - state.refreshed_at).total_seconds() * _MAX_SHARE_OF_TIME >= state.refresh_seconds


def last_refreshed_at(session: Session) -> datetime | None:
    """Return when the statistics were last refreshed; None if they never were."""
    return session.scalar(select(StatisticsState.refreshed_at))


def refresh_all() -> None:
    """Refresh all statistics, each batch of titles in a transaction of its own."""
    last_id: int | None = 0
    while last_id is not None:
        with transaction() as session:
            last_id = refresh_titles(session, last_id)
    with transaction() as session:
        refresh_groups(session)


def refresh_titles(session: Session, after_id: int) -> int | None:
    """Refresh the rows of the next titles, those with pool ids above `after_id`.

    Returns:
        The last pool id; None if there are no more titles.
    """
    lock_statistics_state(session)
    batch = select(LicensePool.id).where(LicensePool.id > after_id).order_by(LicensePool.id).limit(_BATCH)
    last_id: int | None = session.scalar(select(func.max(batch.subquery().c.id)))
    if last_id is None:
        return None
    new = _select_new_values(after_id, last_id).subquery("new_values")
    names = [column.name for column in new.c if column.name not in ("license_pool_id", "collection_id")]
    row = TitleStatistics
    is_changed = tuple_(*(getattr(row, name) for name in names)).is_distinct_from(
        tuple_(*(new.c[name] for name in names))
    )
    changed = (
        select(new)
        .outerjoin(row, row.license_pool_id == new.c.license_pool_id)
        .where(or_(row.license_pool_id.is_(None), is_changed))
    )
    statement = insert(row).from_select([column.name for column in new.c], changed)
    statement = statement.on_conflict_do_update(
        index_elements=[row.license_pool_id], set_={name: statement.excluded[name] for name in names}
    )
    session.execute(statement)
    return last_id


def _select_new_values(after_id: int, last_id: int) -> Select[*tuple[Any, ...]]:
    pool, row = LicensePool, TitleStatistics
    # Scalar subqueries, which look into an index for each title, and never scan whole tables.
    first_purchase = (
        select(func.min(PurchaseRecord.purchased_on))
        .where(PurchaseRecord.license_pool_id == pool.id)
        .scalar_subquery()
    )
    cover = (
        select(literal(True))
        .where(Link.edition_id == Edition.id, Link.rel == LinkRel.COVER)
        .limit(1)
        .scalar_subquery()
    )
    subject = select(literal(True)).where(Classification.edition_id == Edition.id).limit(1).scalar_subquery()
    titles = (
        select(
            pool.id.label("license_pool_id"),
            pool.collection_id,
            first_purchase.label("first_purchased_on"),
            pool.licenses_owned,
            Edition.id.label("edition_id"),
            Edition.format,
            Edition.language,
            Edition.audience,
            Edition.content_hash.is_not(None).label("has_metadata"),
            func.coalesce(cover, literal(False)).label("has_cover"),
            func.coalesce(subject, literal(False)).label("has_subject"),
        )
        .outerjoin(Edition, pool_edition_join())
        .where(pool.id > after_id, pool.id <= last_id)
        .subquery("titles")
    )
    used_on = func.coalesce(row.last_loan_on, titles.c.first_purchased_on)
    return select(
        *(column for column in titles.c if column.name != "licenses_owned"),
        case((titles.c.licenses_owned > 0, used_on)).label("unused_since"),
    ).outerjoin_from(titles, row, row.license_pool_id == titles.c.license_pool_id)


def refresh_groups(session: Session) -> None:
    """Refresh the sums of groups of titles, and the overlaps of collections."""
    # It takes seconds, in which events can be rolled up: another refresh has to wait, a roll-up does not.
    session.execute(select(func.pg_advisory_xact_lock(_GROUPS_LOCK_KEY)))
    row = TitleStatistics
    _replace_groups(session, "format", _sum_by(row.format))
    _replace_groups(session, "language", _sum_by(row.language))
    _replace_groups(session, "audience", _sum_by(row.audience))
    names = func.unnest(NAMES_OF_AVAILABILITIES).table_valued("name", name="names").render_derived().lateral()
    _replace_groups(session, "availability", _sum_by(names.c.name).join(names, true()))
    _replace_groups(session, "month", _sum_by(func.to_char(row.first_purchased_on, "YYYY-MM")))
    subjects = _sum_by(Subject.name).outerjoin(Classification, Classification.edition_id == row.edition_id)
    _replace_groups(session, "subject", subjects.outerjoin(Subject, Subject.id == Classification.subject_id))
    _refresh_overlaps(session)


def record_refresh(session: Session, now: datetime, seconds: float) -> None:
    """Record that a refresh ended now (UTC), and how long it took."""
    state = lock_statistics_state(session)
    state.refreshed_at, state.refresh_seconds = now, seconds


_NUMBERS = ("titles", "copies", "holds", "loans_last_year")


def _sum_by(value: Any) -> Select[*tuple[Any, ...]]:
    """Return a query for the sums of each collection in use, and (without a collection) of all."""
    row, pool, group = TitleStatistics, LicensePool, func.coalesce(value, "")
    sums = {
        "copies": pool.licenses_owned,
        "holds": pool.patrons_in_hold_queue,
        "loans_last_year": row.loans_last_year,
    }
    return (
        select(
            row.collection_id.label("collection_id"),
            group.label("value"),
            func.count().label("titles"),
            *(func.sum(number).label(name) for name, number in sums.items()),
        )
        .select_from(row)
        .join(pool, pool.id == row.license_pool_id)
        .where(is_of_collection(row.collection_id, None))
        .group_by(func.grouping_sets(tuple_(row.collection_id, group), group))
    )


def _replace_groups(session: Session, kind: str, query: Select[*tuple[Any, ...]]) -> None:
    """Store the groups of one kind, which the query returns; write only differences."""
    groups = TitleGroup
    new = query.cte("new_groups")
    key, old_key = func.coalesce(new.c.collection_id, 0), func.coalesce(groups.collection_id, 0)
    old_groups = select(groups, old_key.label("key")).where(groups.kind == kind).subquery("old_groups")
    is_changed = tuple_(*(new.c[name] for name in _NUMBERS)).is_distinct_from(
        tuple_(*(old_groups.c[name] for name in _NUMBERS))
    )
    changed = (
        select(literal(kind), new)
        .outerjoin(old_groups, (old_groups.c.key == key) & (old_groups.c.value == new.c.value))
        .where(is_changed)
    )
    obsolete = delete(groups).where(
        groups.kind == kind, ~exists().where(key == old_key, new.c.value == groups.value)
    )
    statement = insert(groups).from_select(["kind", *(column.name for column in new.c)], changed)
    statement = statement.on_conflict_do_update(
        index_elements=[groups.kind, groups.collection_id, groups.value],
        set_={name: statement.excluded[name] for name in _NUMBERS},
    )
    session.execute(statement.add_cte(obsolete.cte("obsolete")))


def _refresh_overlaps(session: Session) -> None:
    pool, other, overlap = LicensePool, aliased(LicensePool), CollectionOverlap
    is_same_title = (pool.identifier_id == other.identifier_id) & (pool.data_source == other.data_source)
    new = (
        select(pool.collection_id, other.collection_id.label("other_id"), func.count().label("titles"))
        .join(other, is_same_title)
        .where(is_of_collection(pool.collection_id, None), is_of_collection(other.collection_id, None))
        .group_by(pool.collection_id, other.collection_id)
    )
    rows = [dict(row) for row in session.execute(new).mappings()]
    collections = [(collection_id,) for collection_id in session.scalars(select(Collection.id))]
    replace_rows(session, Replacement(table_of(overlap), ("collection_id",), collections, rows))
