"""The vendor's libraries and accounts, which several collections can share.

A consortium may enter one account several times, or several accounts of one library. The vendor has one set
of copies for each library, so all collections of a library hold the same copies.
"""

from dataclasses import dataclass
from urllib.parse import urlsplit

from sqlalchemy import select
from sqlalchemy.orm import Session

from accession.db.models import Collection

_DEFAULT_PORTS = {"https": 443, "http": 80}


@dataclass(frozen=True)
class VendorLibrary:
    """A library at the vendor: host and port of the vendor's API, and the vendor's id of the library."""

    host: str
    port: int | None
    library_id: str


def vendor_library(base_url: str, library_id: str) -> VendorLibrary:
    """Return the library of an account with this base URL and library id."""
    url = urlsplit(base_url)
    return VendorLibrary(url.hostname or "", url.port or _DEFAULT_PORTS.get(url.scheme), library_id.strip())


@dataclass(frozen=True)
class VendorAccount:
    """An account at the vendor, which several collections can share."""

    library: VendorLibrary
    account_id: str

    def __str__(self) -> str:
        """Return a key that tells the account from all others."""
        library = self.library
        return f"{library.host}:{library.port}/{library.library_id}/{self.account_id}"


def vendor_account(collection: Collection) -> VendorAccount:
    """Return the collection's account at the vendor."""
    return VendorAccount(
        vendor_library(collection.base_url, collection.library_id), collection.account_id.strip()
    )


def collections_by_account(session: Session) -> dict[VendorAccount, list[Collection]]:
    """Return the collections of each account that are not marked for deletion, in the order of their ids."""
    query = select(Collection).where(Collection.marked_for_deletion_at.is_(None))
    accounts: dict[VendorAccount, list[Collection]] = {}
    for collection in session.scalars(query.order_by(Collection.id)):
        accounts.setdefault(vendor_account(collection), []).append(collection)
    return accounts


def vendor_libraries(session: Session) -> dict[int, VendorLibrary]:
    """Return the library of every collection by its id, including those marked for deletion."""
    query = select(Collection.id, Collection.base_url, Collection.library_id)
    return {row.id: vendor_library(row.base_url, row.library_id) for row in session.execute(query)}


def same_library_note(session: Session, collection: Collection) -> str:
    """Return a sentence that names the other collections of the collection's library, empty without any."""
    library = vendor_account(collection).library
    names = sorted(
        f'"{other.name}"'
        for account, collections in collections_by_account(session).items()
        for other in collections
        if other.id != collection.id and account.library == library
    )
    if not names:
        return ""
    subject = f"{', '.join(names[:-1])} and {names[-1]} have" if names[1:] else f"{names[0]} has"
    return (
        f"{subject} the same library at the vendor, and so the same copies: "
        "exports of several collections count them once."
    )
