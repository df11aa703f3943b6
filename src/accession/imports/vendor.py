"""From a collection's row to the vendor's API."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

from accession.bibliotheca.client import Account, BibliothecaAPI, CountRequest, count_nothing
from accession.catalog.keys import account_key_of
from accession.catalog.models import Collection
from accession.settings import get_settings


def api_for(
    collection: Collection,
    turn: Callable[[], AbstractContextManager[object]] = nullcontext,
    count: CountRequest = count_nothing,
) -> BibliothecaAPI:
    """The vendor as this collection may ask it, each request in its `turn`, and counted.

    Raises `UserError` when the account key cannot be decrypted or the base URL is not to be used.
    """
    account = Account(
        collection=collection.name,
        library_id=collection.library_id,
        account_id=collection.account_id,
        account_key=account_key_of(collection),
        base_url=collection.base_url,
    )
    timeout_seconds = get_settings().vendor_timeout_seconds
    return BibliothecaAPI(account, timeout_seconds=timeout_seconds, turn=turn, count=count)
