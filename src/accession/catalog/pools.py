"""Find and lock the licence pools of a collection."""

from collections.abc import Iterable, Sequence
from functools import cache

from sqlalchemy import ColumnElement, Select, select
from sqlalchemy.orm import Session, selectinload

from accession.catalog.editions import pool_edition_join
from accession.core.errors import NotFound
from accession.core.vocabulary import IdentifierType
from accession.db.bulk import in_array_parameter
from accession.db.models import Collection, Edition, Identifier, LicensePool


class TitleNotHeld(NotFound):
    """The collection holds no title with this id of the vendor."""

    def __init__(self, collection: str, identifier: str) -> None:
        super().__init__(
            f'Collection "{collection}" holds no title with id "{identifier}": see `accession titles list`.'
        )


def next_pools(
    session: Session, collection: Collection, data_source: str, *, after_id: int, limit: int
) -> Sequence[LicensePool]:
    """Return up to `limit` pools with identifier ids above `after_id`, in the order of these ids."""
    query = _select_pools(collection, data_source).where(LicensePool.identifier_id > after_id)
    return session.scalars(query.limit(limit)).all()


def find_pools(
    session: Session,
    collection: Collection,
    data_source: str,
    identifier_type: IdentifierType,
    identifiers: Sequence[str],
) -> Sequence[LicensePool]:
    """Return the pools of these titles.

    Raises:
        TitleNotHeld: the collection does not hold one of the titles.
    """
    query = (
        _select_pools(collection, data_source)
        .join(LicensePool.identifier)
        .where(Identifier.type == identifier_type, Identifier.identifier.in_(identifiers))
    )
    pools = session.scalars(query).all()
    held = {pool.identifier.identifier for pool in pools}
    for identifier in identifiers:
        if identifier not in held:
            raise TitleNotHeld(collection.name, identifier)
    return pools


def find_pool(session: Session, collection: Collection, identifier: str) -> tuple[int, int | None]:
    """Return the ids of the title's pool in the collection, and of its edition if it has one.

    Raises:
        TitleNotHeld: the collection does not hold the title.
    """
    query = (
        select(LicensePool.id, Edition.id)
        .join(Identifier, LicensePool.identifier_id == Identifier.id)
        .outerjoin(Edition, pool_edition_join())
        .where(LicensePool.collection_id == collection.id)
        # The type comes first in the index.
        .where(Identifier.type.in_(IdentifierType), Identifier.identifier == identifier)
    )
    row = session.execute(query.order_by(LicensePool.id).limit(1)).one_or_none()
    if row is None:
        raise TitleNotHeld(collection.name, identifier)
    return row[0], row[1]


def lock_pools(session: Session, pool_ids: Iterable[int]) -> Sequence[LicensePool]:
    """Lock pools until the transaction ends, and return them with their present values."""
    return session.scalars(_lock_by_ids(), {"pools": list(set(pool_ids))}).all()


@cache
def _lock_by_ids() -> Select[LicensePool]:
    return lock_pools_statement(in_array_parameter(LicensePool.id, "pools"))


def lock_pools_statement(condition: ColumnElement[bool]) -> Select[LicensePool]:
    """Return the query that locks pools in the order of their ids, and returns their present values.

    A transaction that locks several kinds of rows locks the pools first. The lock does not block transactions
    that add purchase records to the pools.
    """
    query = select(LicensePool).where(condition).order_by(LicensePool.id)
    return query.with_for_update(key_share=True).execution_options(populate_existing=True)


def _select_pools(collection: Collection, data_source: str) -> Select[LicensePool]:
    return (
        select(LicensePool)
        .where(LicensePool.collection_id == collection.id, LicensePool.data_source == data_source)
        .order_by(LicensePool.identifier_id)
        .options(selectinload(LicensePool.identifier))
    )
