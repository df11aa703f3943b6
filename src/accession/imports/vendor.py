"""Between a collection's row and the vendor: its account, checked, and the API it may use with it."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from datetime import timedelta
from typing import Any

from pydantic import SecretStr
from sqlalchemy.orm import Session

from accession.accounts.account import Account
from accession.accounts.collections import add_collection, set_account_key
from accession.accounts.keys import account_key_of
from accession.bibliotheca.client import BibliothecaAPI, CountRequest, count_nothing
from accession.core.clock import utc_now
from accession.core.errors import Unusable
from accession.core.settings import get_settings
from accession.db.models import Collection


def account_of(collection: Collection) -> Account:
    """The collection's account with the vendor.

    Raises `UserError` when the account key cannot be decrypted or the base URL is not to be used.
    """
    return Account(
        collection=collection.name,
        library_id=collection.library_id,
        account_id=collection.account_id,
        account_key=account_key_of(collection),
        base_url=collection.base_url,
    )


def api_for(
    collection: Collection,
    turn: Callable[[], AbstractContextManager[object]] = nullcontext,
    count: CountRequest = count_nothing,
) -> BibliothecaAPI:
    """The vendor as this collection may ask it, each request in its `turn`, and counted.

    Raises what `account_of` raises.
    """
    return _api(account_of(collection), turn, count)


def _api(
    account: Account,
    turn: Callable[[], AbstractContextManager[object]] = nullcontext,
    count: CountRequest = count_nothing,
) -> BibliothecaAPI:
    timeout_seconds = get_settings().vendor_timeout_seconds
    return BibliothecaAPI(account, timeout_seconds=timeout_seconds, turn=turn, count=count)


def add_account(session: Session, account: Account) -> Collection:
    """Add the collection that has this account.

    Raises `Unusable` when its name is none, and what `add_collection` raises.
    """
    name = account.collection
    if not name.isprintable() or name != name.strip() or not name:
        raise Unusable(f"A collection cannot be named {name!r}: leave out blanks around it and line breaks.")
    return add_collection(
        session,
        name=name,
        library_id=account.library_id,
        account_id=account.account_id,
        account_key=account.account_key,
        base_url=account.base_url,
    )


def change_account(
    session: Session,
    collection: Collection,
    *,
    library_id: str | None = None,
    account_id: str | None = None,
    base_url: str | None = None,
    account_key: SecretStr | None = None,
) -> None:
    """Afterwards the collection has what is given of a new account, and the rest as before; a chain at work
    uses it from its next page on.

    Raises `UserError` when something of it cannot be used; nothing is changed then.
    """
    given = {"library_id": library_id, "account_id": account_id, "base_url": base_url}
    changed: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    account = replace(account_of(collection), **changed)
    if account_key is not None:
        set_account_key(session, collection, account_key)
    collection.library_id = account.library_id
    collection.account_id = account.account_id
    collection.base_url = account.base_url


def try_account(account: Account) -> str:
    """Ask the vendor for something small; what it says of the account, as a sentence.

    Raises `RemoteIntegrationException` when the vendor does not take the account, or does not answer.
    """
    now = utc_now()
    page = _api(account).marc_page(now - timedelta(days=1), now, 1, 1)
    bought = "a purchase" if page.records else "no purchase"
    return (
        f'The vendor answers for "{account.collection}": the account is right, with {bought} in the last day.'
    )
