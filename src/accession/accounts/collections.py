"""Collections: find, add, update and remove them.

The command line, the dashboard, the API and the demo all use these functions.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from pydantic import SecretStr
from sqlalchemy import ColumnElement, func, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import InstrumentedAttribute, Session

from accession.accounts.account import Account
from accession.accounts.keys import decrypt_account_key, encrypt_secret, lock_against_rotation
from accession.accounts.limits import adopt_account_limits
from accession.core.clock import utc_now
from accession.core.errors import InvalidInput, NotFound, UserError
from accession.db.bulk import in_array
from accession.db.models import Collection

# Key of the advisory lock of configurations that are applied; arbitrary, but fixed for all versions.
_CONFIGURATION_LOCK_KEY = 3_907_551_846_210

MAX_NAME_LENGTH = 300


class CollectionNotFound(NotFound):
    """No collection has this name."""

    def __init__(self, name: str) -> None:
        super().__init__(f'No collection found named "{name}".')


def list_collections(session: Session) -> Sequence[Collection]:
    """Return the collections that are not marked for deletion, by name."""
    query = select(Collection).where(Collection.marked_for_deletion_at.is_(None))
    return session.scalars(query.order_by(Collection.name)).all()


def collection_ids_in_use(session: Session) -> Sequence[int]:
    """Return the ids of all collections that are not marked for deletion, in ascending order."""
    query = select(Collection.id).where(Collection.marked_for_deletion_at.is_(None))
    return session.scalars(query.order_by(Collection.id)).all()


def get_collection(session: Session, collection_id: int) -> Collection:
    """Return the collection with this id.

    Raises:
        NotFound: there is none, or it is marked for deletion.
    """
    collection = session.get(Collection, collection_id)
    if collection is None or collection.marked_for_deletion_at is not None:
        raise NotFound(f"There is no collection with the id {collection_id}.")
    return collection


def find_collection(session: Session, name: str) -> Collection:
    """Return the collection with this name.

    Raises:
        CollectionNotFound: there is none, or it is marked for deletion.
    """
    return find_collections(session, [name])[0]


def find_collections(session: Session, names: Iterable[str]) -> list[Collection]:
    """Return the collections with these names, each once.

    Raises:
        CollectionNotFound: there is none with one of the names, or it is marked for deletion.
    """
    selected = dict.fromkeys(names)
    query = select(Collection).where(
        in_array(Collection.name, selected), Collection.marked_for_deletion_at.is_(None)
    )
    by_name = {collection.name: collection for collection in session.scalars(query)}
    missing = next((name for name in selected if name not in by_name), None)
    if missing is not None:
        raise CollectionNotFound(missing)
    return [by_name[name] for name in selected]


def get_account(collection: Collection) -> Account:
    """Return the collection's account with the vendor, its key decrypted.

    Raises:
        UserError: the account key cannot be decrypted, or the stored account is invalid.
    """
    return Account(
        collection=collection.name,
        library_id=collection.library_id,
        account_id=collection.account_id,
        account_key=decrypt_account_key(collection),
        base_url=collection.base_url,
    )


def add_collection(session: Session, account: Account) -> Collection:
    """Add the collection that has this account; the account key is stored encrypted.

    Raises:
        InvalidInput: the name is invalid.
        UserError: the name is in use, or the encryption key is not the one of the other collections.
    """
    validate_name(account.collection)
    lock_against_rotation(session)
    for other in list_collections(session)[:1]:
        decrypt_account_key(other)
    row = {
        "name": account.collection,
        "library_id": account.library_id,
        "account_id": account.account_id,
        "account_key_encrypted": encrypt_secret(account.account_key),
        "base_url": account.base_url,
        "created_at": utc_now(),
    }
    statement = insert(Collection).values(row).on_conflict_do_nothing().returning(Collection)
    collection = session.scalars(statement).one_or_none()
    if collection is None:
        raise _name_in_use(account.collection)
    adopt_account_limits(session, collection)
    return collection


def _name_in_use(name: str) -> UserError:
    return UserError(
        f'A collection named "{name}" already exists: choose another name, '
        f'or remove it with `accession collections remove "{name}"`.'
    )


def validate_name(name: str) -> None:
    """Check the name of a collection.

    Raises:
        InvalidInput: it is empty, too long, or has line breaks, invisible characters or surrounding spaces.
    """
    if not name.isprintable() or name != name.strip() or not 0 < len(name) <= MAX_NAME_LENGTH:
        raise InvalidInput(
            f"The collection name {name[: MAX_NAME_LENGTH + 1]!r} is invalid: enter 1 to {MAX_NAME_LENGTH} "
            "characters, without leading or trailing spaces, line breaks and invisible characters."
        )


def lock_configuration(session: Session) -> None:
    """Wait until no other transaction applies a configuration, and prevent that until this one ends."""
    session.execute(select(func.pg_advisory_xact_lock(_CONFIGURATION_LOCK_KEY)))


def rename_collection(session: Session, collection: Collection, name: str) -> None:
    """Give the collection another name.

    Raises:
        InvalidInput: the name is invalid.
        UserError: the name is in use.
    """
    validate_name(name)
    try:
        with session.begin_nested():
            collection.name = name
    except IntegrityError:
        raise _name_in_use(name) from None


def change_account(
    session: Session,
    collection: Collection,
    *,
    library_id: str | None = None,
    account_id: str | None = None,
    base_url: str | None = None,
    account_key: SecretStr | None = None,
) -> dict[str, str]:
    """Change the given fields of the collection's account. A running import uses them from its next step on.

    Returns:
        The fields that differ: old and new value as "old → new", and "replaced" for the account key.

    Raises:
        UserError: a field is invalid, or the stored account key cannot be decrypted: the workers use another
            encryption key. Nothing is changed then.
    """
    if account_key is not None:
        lock_against_rotation(session)
    fields: dict[str, Any] = {
        "library_id": library_id,
        "account_id": account_id,
        "base_url": base_url,
        "account_key": account_key,
    }
    changes = {name: value for name, value in fields.items() if value is not None}
    stored = get_account(collection)
    account = replace(stored, **changes)
    if account_key is not None:
        collection.account_key_encrypted = encrypt_secret(account_key)
    collection.library_id = account.library_id
    collection.account_id = account.account_id
    collection.base_url = account.base_url
    adopt_account_limits(session, collection)
    return _describe_changes(stored, account)


def _describe_changes(old: Account, new: Account) -> dict[str, str]:
    fields = new.public_fields()
    changes = {
        name: f"{value} → {fields[name]}"
        for name, value in old.public_fields().items()
        if value != fields[name]
    }
    return changes | ({"account_key": "replaced"} if old.account_key != new.account_key else {})


def mark_for_deletion(collection: Collection) -> None:
    """Mark the collection for deletion and free its name.

    No new run starts, and a run that is under way stops before its next step. The titles stay stored.
    """
    collection.marked_for_deletion_at = utc_now()


def is_of_collection(collection_id: InstrumentedAttribute[int], name: str | None) -> ColumnElement[bool]:
    """Return the condition that a row is of the named collection, or of any not marked for deletion."""
    ids = select(Collection.id).where(Collection.marked_for_deletion_at.is_(None))
    if name is None:
        return collection_id.in_(ids)
    # A single id, so that an index by it delivers the rows in the requested order.
    return collection_id == ids.where(Collection.name == name).scalar_subquery()
