"""The vendor's libraries, which several collections can share.

A consortium may enter one account several times, or several accounts of one library. The vendor has one set
of copies for each library, so all collections of a library hold the same copies.
"""

from dataclasses import dataclass
from urllib.parse import urlsplit

from sqlalchemy import select
from sqlalchemy.orm import Session

from accession.accounts.collections import list_collections
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


def vendor_libraries(session: Session) -> dict[int, VendorLibrary]:
    """Return the library of every collection by its id, including those marked for deletion."""
    query = select(Collection.id, Collection.base_url, Collection.library_id)
    return {row.id: vendor_library(row.base_url, row.library_id) for row in session.execute(query)}


def same_library_note(session: Session, collection: Collection) -> str:
    """Return a sentence that names the other collections of the collection's library, empty without any."""
    library = vendor_library(collection.base_url, collection.library_id)
    names = [
        f'"{other.name}"'
        for other in list_collections(session)
        if other.id != collection.id and vendor_library(other.base_url, other.library_id) == library
    ]
    if not names:
        return ""
    subject = f"{', '.join(names[:-1])} and {names[-1]} have" if names[1:] else f"{names[0]} has"
    return (
        f"{subject} the same library at the vendor, and so the same copies: "
        "exports of several collections count them once."
    )
