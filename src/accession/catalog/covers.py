"""Web addresses of titles' covers, and of the servers that covers may be fetched from."""

from dataclasses import dataclass

from sqlalchemy import select
from sqlalchemy.orm import Session

from accession.core.vocabulary import IdentifierType, LinkRel
from accession.db.models import Collection, Edition, Identifier, Link


@dataclass(frozen=True)
class CoverSource:
    """A title, and the address of its cover; both are None where they are not known."""

    title: str | None
    url: str | None


def find_cover_source(session: Session, identifier: str) -> CoverSource:
    """Return the title and the cover of the title with this vendor's id."""
    query = (
        select(Edition.title, Link.href)
        .join(Identifier, Edition.identifier_id == Identifier.id)
        .outerjoin(Link, (Link.edition_id == Edition.id) & (Link.rel == LinkRel.COVER))
        .where(Identifier.type.in_(IdentifierType), Identifier.identifier == identifier)
        .order_by(Link.href)
        .limit(1)
    )
    row = session.execute(query).one_or_none()
    return CoverSource(row.title, row.href) if row else CoverSource(None, None)


def vendor_base_urls(session: Session) -> set[str]:
    """Return the base URLs of all collections, without a slash at the end."""
    return {base_url.rstrip("/") for base_url in session.scalars(select(Collection.base_url).distinct())}
