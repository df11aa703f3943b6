"""Limits of the requests to the vendor, which belong to an account.

All collections of an account have the same limits: they share its request slots
(`accession.tasks.rate_limiter`).
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields

from sqlalchemy.orm import Session

from accession.accounts.libraries import collections_by_account, vendor_account
from accession.core.errors import InvalidInput
from accession.core.settings import MAX_CONCURRENCY, MAX_REQUESTS_PER_SECOND, get_settings
from accession.db.models import Collection

# Slower than a request in 100 seconds, a step could take longer than its time limit.
MIN_REQUESTS_PER_SECOND = 0.01


@dataclass(frozen=True)
class VendorLimits:
    """Limits of an account; None is inherited from the settings.

    Attributes:
        max_concurrency: Number of simultaneous requests.
        max_requests_per_second: Rate of requests; in effective limits None means unlimited.
    """

    max_concurrency: int | None = None
    max_requests_per_second: float | None = None


@dataclass(frozen=True)
class VendorLimitsView:
    """The effective limits of an account.

    `inherited` names the fields whose values are those of the settings; `collections` are the names of all
    collections that share the account and its limits.
    """

    max_concurrency: int
    max_requests_per_second: float | None
    inherited: tuple[str, ...]
    collections: tuple[str, ...]


def max_concurrency(collection: Collection) -> int:
    """Return how many simultaneous requests the collection's account may have."""
    return collection.vendor_max_concurrency or get_settings().vendor_max_concurrency


def max_requests_per_second(collection: Collection) -> float | None:
    """Return the maximum rate of requests of the collection's account; None means unlimited."""
    return collection.vendor_max_requests_per_second or get_settings().vendor_max_requests_per_second


def stored_limits(collection: Collection) -> VendorLimits:
    """Return the limits that are set for the collection's account."""
    return VendorLimits(collection.vendor_max_concurrency, collection.vendor_max_requests_per_second)


def vendor_limits_view(session: Session, collection: Collection) -> VendorLimitsView:
    """Return the limits of the collection's account."""
    limits = stored_limits(collection)
    return VendorLimitsView(
        max_concurrency=max_concurrency(collection),
        max_requests_per_second=max_requests_per_second(collection),
        inherited=tuple(field.name for field in fields(limits) if getattr(limits, field.name) is None),
        collections=tuple(sorted(each.name for each in _sharing_collections(session, collection))),
    )


def set_vendor_limits(session: Session, collection: Collection, limits: VendorLimits) -> VendorLimitsView:
    """Set the limits of the collection's account. Active runs keep them from their next steps on.

    Raises:
        InvalidInput: a limit is too low or too high.
    """
    _check_limits(limits)
    for each in _sharing_collections(session, collection):
        _store_limits(each, limits)
    return vendor_limits_view(session, collection)


def adopt_account_limits(session: Session, collection: Collection) -> None:
    """Give a new collection, or one whose account was changed, the limits of its account."""
    for other in _sharing_collections(session, collection):
        if other.id != collection.id:
            _store_limits(collection, stored_limits(other))
            return


def _sharing_collections(session: Session, collection: Collection) -> Sequence[Collection]:
    return collections_by_account(session)[vendor_account(collection)]


def _store_limits(collection: Collection, limits: VendorLimits) -> None:
    collection.vendor_max_concurrency = limits.max_concurrency
    collection.vendor_max_requests_per_second = limits.max_requests_per_second


def _check_limits(limits: VendorLimits) -> None:
    if limits.max_concurrency is not None and not 1 <= limits.max_concurrency <= MAX_CONCURRENCY:
        raise InvalidInput(
            f"The limit of {limits.max_concurrency} simultaneous requests is invalid: "
            f"enter 1 to {MAX_CONCURRENCY}."
        )
    rate = limits.max_requests_per_second
    if rate is not None and not MIN_REQUESTS_PER_SECOND <= rate <= MAX_REQUESTS_PER_SECOND:
        raise InvalidInput(
            f"The limit of {rate:g} requests per second is invalid: "
            f"enter {MIN_REQUESTS_PER_SECOND:g} to {MAX_REQUESTS_PER_SECOND}."
        )
