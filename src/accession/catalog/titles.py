"""Titles of collections, with their metadata and copy counts, for lists, pages and exports."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeAlias

from sqlalchemy import Row, Select, case, func, select
from sqlalchemy.orm import Session

from accession.accounts.collections import is_of_collection
from accession.catalog.editions import pool_edition_join
from accession.catalog.pools import TitleNotHeld
from accession.core.vocabulary import ContributorRole, IdentifierType, LinkRel, SubjectScheme
from accession.db.bulk import in_array
from accession.db.models import (
    Classification,
    Collection,
    Contribution,
    Contributor,
    Edition,
    Identifier,
    IdentifierEquivalent,
    LicensePool,
    Link,
    PurchaseRecord,
    Subject,
)

_BATCH = 1000

_Groups: TypeAlias = defaultdict[int, list[tuple[Any, ...]]]

# Fields of `TitleView` that have the same name in the edition, and in the license pool.
_EDITION_COLUMNS = (
    "title",
    "subtitle",
    "medium",
    "format",
    "language",
    "publisher",
    "published",
    "page_count",
    "duration_ms",
    "description",
)
_POOL_COLUMNS = (
    "licenses_owned",
    "licenses_available",
    "licenses_reserved",
    "patrons_in_hold_queue",
    "status",
)


@dataclass(frozen=True)
class TitleView:
    """A title of a collection.

    `purchased_on` is the date of its first purchase (UTC): `2019-03-17`, or `2019-03` where only the month is
    known.
    """

    collection: str
    identifier: str
    title: str | None
    subtitle: str | None
    authors: tuple[str, ...]
    narrators: tuple[str, ...]
    medium: str | None
    format: str | None
    language: str | None
    publisher: str | None
    published: str | None
    isbns: tuple[str, ...]
    subjects: tuple[str, ...]
    page_count: int | None
    duration_ms: int | None
    description: str | None
    cover_url: str | None
    licenses_owned: int
    licenses_available: int
    licenses_reserved: int
    patrons_in_hold_queue: int
    status: str
    purchased_on: str | None
    updated_at: datetime


def count_titles(session: Session, *, collection: str | None = None) -> int:
    """Return the number of titles of one collection, or of all that are in use."""
    query = select(func.count()).select_from(LicensePool)
    if collection is not None:
        return session.scalar(query.where(is_of_collection(LicensePool.collection_id, collection))) or 0
    # Subtracting those of deleted collections takes half the time of a condition on every pool.
    deleted = select(Collection.id).where(Collection.marked_for_deletion_at.is_not(None))
    not_counted = query.where(LicensePool.collection_id.in_(deleted)).scalar_subquery()
    return session.scalar(select(query.scalar_subquery() - not_counted)) or 0


def title_views(
    session: Session,
    *,
    collection: str | None = None,
    identifiers: Sequence[str] | None = None,
    limit: int | None = None,
) -> Iterator[TitleView]:
    """Yield titles in the order of their first import, reading them in batches to bound the memory used."""
    last_id = 0
    while limit is None or limit > 0:
        size = _BATCH if limit is None else min(limit, _BATCH)
        query = _select_by_name(collection, identifiers).where(LicensePool.id > last_id)
        rows = session.execute(query.order_by(LicensePool.id).limit(size)).all()
        yield from _views(session, rows)
        if len(rows) < size:
            return
        last_id = rows[-1].pool_id
        limit = None if limit is None else limit - size


def find_title(session: Session, collection: str, identifier: str) -> TitleView:
    """Return the collection's title with this id of the vendor.

    Raises:
        TitleNotHeld: the collection does not hold the title.
    """
    for title in title_views(session, collection=collection, identifiers=[identifier]):
        return title
    raise TitleNotHeld(collection, identifier)


def titles_of_pools(session: Session, pool_ids: Sequence[int]) -> list[TitleView]:
    """Return the titles of license pools in the order of `pool_ids`; ids that do not exist are skipped."""
    if not pool_ids:
        return []
    rows = session.execute(_select_titles().where(in_array(LicensePool.id, pool_ids))).all()
    by_pool = {row.pool_id: row for row in rows}
    return list(_views(session, [by_pool[pool_id] for pool_id in pool_ids if pool_id in by_pool]))


def filter_bisac_subjects(session: Session, subjects: Iterable[str]) -> frozenset[str]:
    """Return those of the subject names that are BISAC headings."""
    query = select(Subject.name).where(Subject.scheme == SubjectScheme.BISAC)
    return frozenset(session.scalars(query.where(in_array(Subject.name, set(subjects)))))


def _select_by_name(collection: str | None, identifiers: Sequence[str] | None) -> Select[Any]:
    query = _select_titles().where(is_of_collection(LicensePool.collection_id, collection))
    if identifiers is None:
        return query
    # The type comes first in the index.
    return query.where(Identifier.type.in_(IdentifierType), Identifier.identifier.in_(identifiers))


def _select_titles() -> Select[Any]:
    purchase_date = func.to_char(
        PurchaseRecord.purchased_on, case((PurchaseRecord.month_only, "YYYY-MM"), else_="YYYY-MM-DD")
    )
    first_purchase = (
        select(purchase_date)
        .where(PurchaseRecord.license_pool_id == LicensePool.id)
        .order_by(PurchaseRecord.purchased_on)
        .limit(1)
        .scalar_subquery()
    )
    # Selects columns, because creating ORM objects takes longer than reading the rows.
    return (
        select(
            LicensePool.id.label("pool_id"),
            LicensePool.identifier_id,
            Edition.id.label("edition_id"),
            Collection.name.label("collection"),
            Identifier.identifier,
            *(getattr(Edition, name) for name in _EDITION_COLUMNS),
            *(getattr(LicensePool, name) for name in _POOL_COLUMNS),
            first_purchase.label("purchased_on"),
            func.greatest(LicensePool.updated_at, Edition.updated_at).label("updated_at"),
        )
        .join(Collection, LicensePool.collection_id == Collection.id)
        .join(Identifier, LicensePool.identifier_id == Identifier.id)
        .outerjoin(Edition, pool_edition_join())
    )


@dataclass(frozen=True)
class _RelatedRows:
    """Rows of other tables on some titles: by edition id, and ISBNs by identifier id."""

    people: _Groups
    subjects: _Groups
    links: _Groups
    isbns: _Groups


def _views(session: Session, rows: Sequence[Row[Any]]) -> Iterator[TitleView]:
    related = _read_related_rows(session, rows)
    for row in rows:
        people, links = related.people[row.edition_id], related.links[row.edition_id]
        yield TitleView(
            collection=row.collection,
            identifier=row.identifier,
            title=row.title,
            subtitle=row.subtitle,
            authors=tuple(name for role, name in people if role == ContributorRole.AUTHOR),
            narrators=tuple(name for role, name in people if role == ContributorRole.NARRATOR),
            medium=row.medium,
            format=row.format,
            language=row.language,
            publisher=row.publisher,
            published=row.published,
            isbns=tuple(isbn for (isbn,) in related.isbns[row.identifier_id]),
            subjects=tuple(name for (name,) in related.subjects[row.edition_id]),
            page_count=row.page_count,
            duration_ms=row.duration_ms,
            description=row.description,
            cover_url=next((href for rel, href in links if rel == LinkRel.COVER), None),
            licenses_owned=row.licenses_owned,
            licenses_available=row.licenses_available,
            licenses_reserved=row.licenses_reserved,
            patrons_in_hold_queue=row.patrons_in_hold_queue,
            status=row.status,
            purchased_on=row.purchased_on,
            updated_at=row.updated_at,
        )


def _read_related_rows(session: Session, rows: Sequence[Row[Any]]) -> _RelatedRows:
    edition_ids = [row.edition_id for row in rows if row.edition_id is not None]
    people = (
        select(Contribution.edition_id, Contribution.role, Contributor.display_name)
        .join(Contributor, Contribution.contributor_id == Contributor.id)
        .where(in_array(Contribution.edition_id, edition_ids))
        .order_by(Contribution.position)
    )
    subjects = (
        select(Classification.edition_id, Subject.name)
        .join(Subject, Classification.subject_id == Subject.id)
        .where(in_array(Classification.edition_id, edition_ids))
        .order_by(Classification.position)
    )
    links = select(Link.edition_id, Link.rel, Link.href).where(in_array(Link.edition_id, edition_ids))
    isbns = (
        select(IdentifierEquivalent.identifier_id, Identifier.identifier)
        .join(Identifier, IdentifierEquivalent.equivalent_id == Identifier.id)
        .where(in_array(IdentifierEquivalent.identifier_id, [row.identifier_id for row in rows]))
        .order_by(IdentifierEquivalent.position)
    )
    return _RelatedRows(
        people=_read_grouped(session, people),
        subjects=_read_grouped(session, subjects),
        links=_read_grouped(session, links),
        isbns=_read_grouped(session, isbns),
    )


def _read_grouped(session: Session, query: Any) -> _Groups:
    """Return the rows of a query, grouped by their first column and without it."""
    groups: _Groups = defaultdict(list)
    for key, *rest in session.execute(query):
        groups[key].append(tuple(rest))
    return groups
