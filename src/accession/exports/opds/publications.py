"""OPDS publications: titles of a collection."""

from datetime import UTC, date, datetime
from urllib.parse import quote

from accession.catalog.titles import TitleView
from accession.core.languages import language_tag
from accession.core.vocabulary import ContributorRole, Medium
from accession.db.models import PoolStatus
from accession.exports.opds.models import (
    BISAC_SCHEME,
    BORROW_REL,
    PUBLICATION_TYPE,
    Availability,
    Contributor,
    Copies,
    Holds,
    Link,
    Properties,
    Publication,
    PublicationMetadata,
    SubjectHeading,
)
from accession.exports.opds.urls import FeedCollection

# The URI that Palace and its predecessors give the vendor's ids.
_IDENTIFIER_PREFIX = "http://librarysimplified.org/terms/id/Bibliotheca%20ID/"


def build_publication(collection: FeedCollection, title: TitleView) -> Publication:
    """Return the publication of a title."""
    return Publication(
        metadata=_build_metadata(collection, title),
        links=(
            Link(
                rel="self",
                href=collection.build_url("publications", title.identifier),
                type=PUBLICATION_TYPE,
            ),
            Link(
                rel=BORROW_REL,
                href=collection.vendor_page_url(title.identifier),
                type="text/html",
                properties=_build_properties(title),
            ),
        ),
        images=(
            Link(
                href=collection.build_url("publications", title.identifier, "cover"),
                # Titles without a cover get a generated PNG: readers reject publications with only an SVG.
                type="image/jpeg" if title.cover_url else "image/png",
            ),
        ),
    )


def _build_metadata(collection: FeedCollection, title: TitleView) -> PublicationMetadata:
    is_audiobook = title.medium == Medium.AUDIOBOOK
    subjects = tuple(
        SubjectHeading(name=name, scheme=BISAC_SCHEME if name in collection.bisac_subjects else None)
        for name in title.subjects
    )
    return PublicationMetadata(
        kind="http://schema.org/Audiobook" if is_audiobook else "http://schema.org/Book",
        # A title that was purchased just now may not have metadata yet.
        title=title.title or title.identifier,
        subtitle=title.subtitle or None,
        # ISBNs are added and reordered, and two titles can have the same one.
        identifier=f"{_IDENTIFIER_PREFIX}{quote(title.identifier, safe='')}",
        alt_identifier=tuple(f"urn:isbn:{isbn}" for isbn in title.isbns) or None,
        **_contributors(title),
        publisher=Contributor(name=title.publisher) if title.publisher else None,
        published=_complete_date(title.published),
        modified=title.updated_at,
        language=language_tag(title.language) if title.language else None,
        subject=subjects or None,
        description=title.description or None,
        number_of_pages=title.page_count or None,
        duration=title.duration_ms / 1000 if title.duration_ms else None,
    )


def _contributors(title: TitleView) -> dict[str, tuple[Contributor, ...]]:
    """Return contributors by property; those without a property of their role state the role."""
    groups: dict[str, tuple[Contributor, ...]] = {}
    for role, name in title.contributors:
        name_of_property = role.opds_property
        has_own = name_of_property != "contributor" or role is ContributorRole.CONTRIBUTOR
        contributor = Contributor(name=name, role=None if has_own else role.code)
        groups[name_of_property] = (*groups.get(name_of_property, ()), contributor)
    return groups


def _complete_date(published: str | None) -> date | None:
    # OPDS does not allow a year or month alone.
    return date.fromisoformat(published) if published and len(published) == len("2016-09-03") else None


def _start_of(period: str) -> datetime:
    """Return the first moment (UTC) of a day, month or year."""
    year, month, day = (*map(int, period.split("-")), 1, 1)[:3]
    return datetime(year, month, day, tzinfo=UTC)


def _build_properties(title: TitleView) -> Properties:
    availability = Availability(
        state="available" if title.licenses_available else "unavailable",
        until=_start_of(title.on_order_until) if title.on_order_until else None,
    )
    if title.status == PoolStatus.UNKNOWN:
        return Properties(availability=availability)
    return Properties(
        copies=Copies(total=title.licenses_owned, available=title.licenses_available),
        holds=Holds(total=title.patrons_in_hold_queue),
        availability=availability,
    )
