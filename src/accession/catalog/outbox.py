"""Outbox of pending changes: title data that is stored and not yet applied to editions and license pools.

A step of a run adds rows in its own transaction, and the apply deletes them in the transaction that applies
them. A license pool has at most one row, whose `data` is an `ApplyData` as JSON.
"""

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from typing import Any

from sqlalchemy import (
    ARRAY,
    ColumnElement,
    DateTime,
    Delete,
    Integer,
    Select,
    Text,
    bindparam,
    cast,
    delete,
    func,
    select,
    update,
)
from sqlalchemy.dialects.postgresql import JSONB, insert
from sqlalchemy.orm import Session
from sqlalchemy.sql.dml import ReturningInsert

from accession.catalog.circulation import has_new_counts
from accession.catalog.data import ApplyData
from accession.catalog.editions import EditionUpdate, pool_edition_join
from accession.catalog.pools import lock_pools_statement
from accession.core.clock import utc_now
from accession.db.bulk import in_array, in_array_parameter
from accession.db.models import (
    ApplyOutbox,
    Edition,
    LicensePool,
    table_of,
)


@dataclass(frozen=True)
class LockedChanges:
    """Outbox rows that are locked together with their license pools; `data` is by pool id."""

    outbox_ids: tuple[int, ...]
    pools: tuple[LicensePool, ...]
    data: Mapping[int, ApplyData]


def find_changed_titles(
    session: Session, titles: Sequence[tuple[LicensePool, ApplyData]]
) -> list[tuple[LicensePool, ApplyData]]:
    """Return the data of `titles` that differs from the catalogue, found with one query.

    Metadata is compared by its hash. Where it is the same, only the counts are compared and returned: events
    change the pool's counts without changing the hash. Data older than the catalogue's does not differ.

    A title with a pending change is always returned: the vendor may have taken back what the outbox holds.
    """
    if not titles:
        return []
    pool_ids = [pool.id for pool, _ in titles]
    stored = {row.id: row for row in session.execute(_select_stored(), {"pools": pool_ids})}
    changed: list[tuple[LicensePool, ApplyData]] = []
    for pool, title in titles:
        row, metadata = stored[pool.id], title.bibliographic
        has_new_metadata = metadata is not None and EditionUpdate(metadata).replaces(row)
        if has_new_metadata or row.pending is not None:
            changed.append((pool, title))
        elif has_new_counts(pool, title.circulation, row.on_sale):
            changed.append((pool, ApplyData(circulation=title.circulation)))
    return changed


@cache
def _select_stored() -> Select[*tuple[Any, ...]]:
    """Return the query for what the catalogue and the outbox hold of the titles of pools."""
    return (
        select(
            LicensePool.id,
            Edition.content_hash,
            Edition.as_of,
            Edition.on_sale,
            ApplyOutbox.id.label("pending"),
        )
        .outerjoin(Edition, pool_edition_join())
        .outerjoin(ApplyOutbox, ApplyOutbox.license_pool_id == LicensePool.id)
        .where(in_array_parameter(LicensePool.id, "pools"))
    )


def enqueue_changes(session: Session, titles: Sequence[tuple[LicensePool, ApplyData]]) -> list[int]:
    """Add `titles` to the outbox and return the ids of the rows, for the message to the apply task.

    Newer data replaces what the pool's row holds, but counts without metadata keep the metadata that is
    pending. Where the row holds newer data it stays as it is and its id is left out: its message was sent.
    """
    if not titles:
        return []
    latest = {pool.id: title for pool, title in sorted(titles, key=lambda entry: entry[1].as_of)}
    pool_ids = sorted(latest)
    parameters = {
        "pools": pool_ids,
        # Excluding None keeps the row's value of that key when the two are merged.
        "titles": [latest[pool_id].with_hash().model_dump_json(exclude_none=True) for pool_id in pool_ids],
        "now": utc_now(),
    }
    return list(session.scalars(_enqueue_statement(), parameters))


@cache
def _enqueue_statement() -> ReturningInsert[int]:
    """Return the INSERT of rows, each of which is merged with the row that is not newer."""
    # Sent as text, because pydantic writes JSON faster than the driver does.
    titles = func.unnest(bindparam("pools", type_=ARRAY(Integer)), bindparam("titles", type_=ARRAY(Text)))
    new_rows = titles.table_valued("pool", "title", name="new_rows").render_derived()
    statement = insert(table_of(ApplyOutbox)).from_select(
        ["license_pool_id", "data", "published_at"],
        select(
            new_rows.c.pool, cast(new_rows.c.title, JSONB), bindparam("now", type_=DateTime(timezone=True))
        ),
    )
    upsert = statement.on_conflict_do_update(
        index_elements=["license_pool_id"],
        set_={
            "data": ApplyOutbox.data.concat(statement.excluded.data),
            "published_at": statement.excluded.published_at,
        },
        where=_as_of(ApplyOutbox.data) <= _as_of(statement.excluded.data),
    )
    return upsert.returning(ApplyOutbox.id)


def split_by_metadata(session: Session, outbox_ids: Sequence[int]) -> tuple[list[int], list[int]]:
    """Return the ids of the rows that still exist: those with metadata, and those with counts only."""
    if not outbox_ids:
        return [], []
    rows = session.execute(_select_kinds(), {"rows": list(outbox_ids)}).all()
    with_metadata = [row_id for row_id, has_metadata in rows if has_metadata]
    return with_metadata, [row_id for row_id, has_metadata in rows if not has_metadata]


@cache
def _select_kinds() -> Select[int, bool]:
    query = select(ApplyOutbox.id, _has_metadata()).where(in_array_parameter(ApplyOutbox.id, "rows"))
    return query.order_by(ApplyOutbox.id)


def find_identifier_ids(session: Session, outbox_ids: Sequence[int]) -> dict[int, int]:
    """Return the id of each row's title identifier, by row id, for the rows that still exist.

    Pools of several collections share the identifier of a title.
    """
    return dict(session.execute(_select_identifiers(), {"rows": list(outbox_ids)}).all())


@cache
def _select_identifiers() -> Select[int, int]:
    query = select(ApplyOutbox.id, LicensePool.identifier_id).join(ApplyOutbox.license_pool)
    return query.where(in_array_parameter(ApplyOutbox.id, "rows")).order_by(ApplyOutbox.id)


def list_outbox_ids(session: Session, collection_id: int) -> Sequence[int]:
    """Return the ids of all rows of a collection, oldest first."""
    query = select(ApplyOutbox.id).join(ApplyOutbox.license_pool)
    return session.scalars(
        query.where(LicensePool.collection_id == collection_id).order_by(ApplyOutbox.id)
    ).all()


def claim_stale_rows(session: Session, published_before: datetime) -> list[int]:
    """Mark the rows last published before a time (UTC) as published now, and return their ids.

    Their messages must have been lost, and are to be sent again.
    """
    return _claim(session, ApplyOutbox.published_at < published_before)


def claim_lost_rows(session: Session, pending: AbstractSet[int]) -> list[int]:
    """Mark all rows but the `pending` ones as published now, and return their ids."""
    return _claim(session, ~in_array(ApplyOutbox.id, pending))


def _claim(session: Session, condition: ColumnElement[bool]) -> list[int]:
    statement = update(ApplyOutbox).values(published_at=utc_now()).where(condition)
    return sorted(session.scalars(statement.returning(ApplyOutbox.id)))


def lock_changes(session: Session, outbox_ids: Sequence[int], *, counts_only: bool) -> LockedChanges:
    """Lock the rows that still exist, after their pools, and read their data.

    With `counts_only`, rows that hold metadata are left out.
    """
    selected = {"rows": list(outbox_ids)}
    pools = session.scalars(_lock_pools(counts_only=counts_only), selected).all()
    of_pools = {**selected, "pools": [pool.id for pool in pools]}
    rows = session.execute(_lock_rows(counts_only=counts_only), of_pools).all()
    by_pool = {row.license_pool_id: ApplyData.model_validate_json(row.data) for row in rows}
    return LockedChanges(
        outbox_ids=tuple(row.id for row in rows),
        pools=tuple(pool for pool in pools if pool.id in by_pool),
        data=by_pool,
    )


@cache
def _lock_pools(*, counts_only: bool) -> Select[LicensePool]:
    pool_ids = select(ApplyOutbox.license_pool_id).where(_is_selected(counts_only=counts_only))
    return lock_pools_statement(LicensePool.id.in_(pool_ids))


@cache
def _lock_rows(*, counts_only: bool) -> Select[int, int, str]:
    data = cast(ApplyOutbox.data, Text).label("data")
    query = select(ApplyOutbox.id, ApplyOutbox.license_pool_id, data)
    query = query.where(_is_selected(counts_only=counts_only))
    query = query.where(in_array_parameter(ApplyOutbox.license_pool_id, "pools"))
    return query.order_by(ApplyOutbox.license_pool_id).with_for_update()


def _is_selected(*, counts_only: bool) -> ColumnElement[bool]:
    is_selected = in_array_parameter(ApplyOutbox.id, "rows")
    return is_selected & ~_has_metadata() if counts_only else is_selected


def delete_changes(session: Session, outbox_ids: Sequence[int]) -> None:
    """Delete outbox rows that have been applied."""
    session.execute(_delete_rows(), {"rows": list(outbox_ids)})


@cache
def _delete_rows() -> Delete:
    return delete(table_of(ApplyOutbox)).where(in_array_parameter(ApplyOutbox.id, "rows"))


def count_pending_changes_by_collection(session: Session) -> dict[int, int]:
    """Return the number of titles with a pending change by collection id, where there are any."""
    query = select(LicensePool.collection_id, func.count()).join(ApplyOutbox.license_pool)
    return dict(session.execute(query.group_by(LicensePool.collection_id)).all())


def count_pending_changes(session: Session, collection_id: int) -> int:
    """Return the number of a collection's titles with a pending change."""
    query = select(func.count()).select_from(ApplyOutbox).join(ApplyOutbox.license_pool)
    return session.scalar(query.where(LicensePool.collection_id == collection_id)) or 0


def count_stale_changes(session: Session, published_before: datetime) -> int:
    """Return the number of pending changes that were last published before `published_before` (UTC)."""
    query = select(func.count()).select_from(ApplyOutbox)
    return session.scalar(query.where(ApplyOutbox.published_at < published_before)) or 0


def _as_of(data: Any) -> ColumnElement[datetime]:
    return cast(data["circulation"]["as_of"].astext, DateTime(timezone=True))


def _has_metadata() -> ColumnElement[bool]:
    has_metadata: ColumnElement[bool] = ApplyOutbox.data.has_key("bibliographic")
    return has_metadata
