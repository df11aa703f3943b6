"""Create API clients for collections, and check accounts against the vendor."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from datetime import timedelta

from accession.accounts.account import Account
from accession.accounts.collections import get_account
from accession.bibliotheca.client import BibliothecaAPI
from accession.bibliotheca.outcomes import CountRequest, ignore_request
from accession.core.clock import utc_now
from accession.core.settings import get_settings
from accession.db.models import Collection


def vendor_api_for(
    collection: Collection,
    request_slot: Callable[[], AbstractContextManager[object]] = nullcontext,
    count_request: CountRequest = ignore_request,
) -> BibliothecaAPI:
    """Return an API client with the collection's account.

    `request_slot` returns the context manager within which each request is sent; `count_request` is called
    after each request.

    Raises:
        UserError: the account key cannot be decrypted, or the base URL is invalid.
    """
    return _api_with(get_account(collection), request_slot, count_request)


def check_account(account: Account) -> str:
    """Send a small request to the vendor with this account, and return a sentence about its success.

    Raises:
        RemoteIntegrationException: the vendor rejected the account or did not respond.
    """
    now = utc_now()
    page = _api_with(account).fetch_marc_page(now - timedelta(days=1), now, limit=1)
    purchases = "purchases" if page.records else "no purchases"
    return (
        f'The vendor accepted the account of "{account.collection}" and reported {purchases} in the last day.'
    )


def _api_with(
    account: Account,
    request_slot: Callable[[], AbstractContextManager[object]] = nullcontext,
    count_request: CountRequest = ignore_request,
) -> BibliothecaAPI:
    return BibliothecaAPI(
        account,
        timeout_seconds=get_settings().vendor_timeout_seconds,
        request_slot=request_slot,
        count_request=count_request,
    )
