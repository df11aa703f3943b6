"""Collections by name: adding, finding, giving a new account key, and marking for deletion."""

from collections.abc import Sequence

from pydantic import SecretStr
from sqlalchemy import (
    ColumnElement,
    select,
)
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import InstrumentedAttribute, Session

from accession.accounts.keys import account_key_of, encrypt_account_key, hold_off_rotations
from accession.core.clock import utc_now
from accession.core.errors import NotFound, UserError
from accession.db.models import (
    Collection,
)


class UnknownCollection(NotFound):
    """No collection has this name."""

    def __init__(self, name: str) -> None:
        super().__init__(f'No collection found named "{name}".')


def collections_in_use(session: Session) -> Sequence[Collection]:
    """Every collection that is not marked for deletion, by name."""
    query = select(Collection).where(Collection.marked_for_deletion_at.is_(None))
    return session.scalars(query.order_by(Collection.name)).all()


def get_collection(session: Session, collection_id: int) -> Collection:
    """The collection of this id; raises `NotFound`, also when it is marked for deletion."""
    collection = session.get(Collection, collection_id)
    if collection is None or collection.marked_for_deletion_at is not None:
        raise NotFound(f"There is no collection with the id {collection_id}.")
    return collection


def find_collection(session: Session, name: str) -> Collection:
    """The collection of this name; raises `UnknownCollection`, also when it is marked for deletion."""
    query = select(Collection).where(Collection.name == name, Collection.marked_for_deletion_at.is_(None))
    collection = session.scalars(query).one_or_none()
    if collection is None:
        raise UnknownCollection(name)
    return collection


def add_collection(
    session: Session,
    *,
    name: str,
    library_id: str,
    account_id: str,
    account_key: SecretStr,
    base_url: str,
) -> Collection:
    """Add a collection, its account key encrypted.

    Raises `UserError` when the name is in use, and when the key at hand is not the one that the other
    collections' account keys were encrypted with.
    """
    hold_off_rotations(session)
    for other in collections_in_use(session)[:1]:
        account_key_of(other)
    row = {
        "name": name,
        "library_id": library_id,
        "account_id": account_id,
        "account_key_encrypted": encrypt_account_key(account_key),
        "base_url": base_url,
        "created_at": utc_now(),
    }
    statement = insert(Collection).values(row).on_conflict_do_nothing().returning(Collection)
    added = session.scalars(statement).one_or_none()
    if added is None:
        raise UserError(
            f'There is a collection named "{name}" already: choose another name, '
            f'or remove it with `accession collections remove "{name}"`.'
        )
    return added


def set_account_key(session: Session, collection: Collection, account_key: SecretStr) -> None:
    """Afterwards requests for the collection are signed with this account key, from a chain's next page on.

    Raises `UserError` when the key at hand is not the one that its account key was encrypted with: the
    workers have another.
    """
    hold_off_rotations(session)
    account_key_of(collection)
    collection.account_key_encrypted = encrypt_account_key(account_key)


def mark_for_deletion(collection: Collection) -> None:
    """Afterwards nothing is imported for the collection any more, a chain at work stops at its next
    page, and the name is free. Its titles stay stored."""
    collection.marked_for_deletion_at = utc_now()


def in_use(collection_id: InstrumentedAttribute[int], name: str | None) -> ColumnElement[bool]:
    """That a row is of the collection in use that has the name, or of any."""
    ids = select(Collection.id).where(Collection.marked_for_deletion_at.is_(None))
    if name is None:
        return collection_id.in_(ids)
    # As one id, so that an index by it has the rows in the order in which they are wanted.
    return collection_id == ids.where(Collection.name == name).scalar_subquery()
