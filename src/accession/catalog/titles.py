"""Titles of collections, with their metadata and copy counts, for lists, pages and exports."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeAlias

from sqlalchemy import Row, Select, case, func, literal_column, select
from sqlalchemy.orm import Session

from accession.accounts.collections import is_of_collection
from accession.catalog.availability import SHOWN_COUNTS
from accession.catalog.contributors import OtherContributor, group_by_field, list_contributors
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
    PoolStatus,
    PurchaseRecord,
    Subject,
)

_BATCH = 1000

_Groups: TypeAlias = defaultdict[int, list[tuple[Any, ...]]]

# Fields of `TitleView` that have the same name in the edition.
_EDITION_COLUMNS = (
    "title",
    "subtitle",
    "medium",
    "format",
    "language",
    "audience",
    "publisher",
    "published",
    "on_sale",
    "page_count",
    "duration_ms",
    "description",
)


@dataclass(frozen=True)
class TitleView:
    """A title of a collection.

    `purchased_on` is the date of its first purchase (UTC): `2019-03-17`, or `2019-03` where only the month is
    known. `on_sale` is the day, month or year from which it is on sale; until then its status is `on order`.
    The counts are those to show (`accession.catalog.availability`). `warnings` tell what its MARC records
    lack.
    """

    collection: str
    identifier: str
    title: str | None
    subtitle: str | None
    authors: tuple[str, ...]
    narrators: tuple[str, ...]
    editors: tuple[str, ...]
    translators: tuple[str, ...]
    illustrators: tuple[str, ...]
    other_contributors: tuple[OtherContributor, ...]
    medium: str | None
    format: str | None
    language: str | None
    audience: str | None
    publisher: str | None
    published: str | None
    on_sale: str | None
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
    warnings: tuple[str, ...]
    updated_at: datetime

    @property
    def contributors(self) -> list[tuple[ContributorRole, str]]:
        """Return all contributors as pairs of role and name, in the order of the roles."""
        return list_contributors(vars(self))

    @property
    def credits(self) -> tuple[str, ...]:
        """Return the authors; if there are none, the editors or those in the next role, with the role."""
        others = [(role, name) for role, name in self.contributors if role != ContributorRole.NARRATOR]
        return self.authors or tuple(f"{name} ({role})" for role, name in others if role == others[0][0])

    @property
    def on_order_until(self) -> str | None:
        """Return the day, month or year until which the title is on order; None if it is not."""
        return self.on_sale if self.status == PoolStatus.ON_ORDER else None


def count_titles(session: Session, *, collection: str | None = None) -> int:
    """Return the number of titles of one collection, or of all in use."""
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
    """Yield titles in the order of their first import, reading them in batches to bound the memory used.

    Optionally these are only titles with the given `identifiers`.
    """
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
            *(count.label(name) for name, count in SHOWN_COUNTS.items()),
            LicensePool.status,
            first_purchase.label("purchased_on"),
            func.greatest(LicensePool.updated_at, Edition.updated_at).label("updated_at"),
        )
        .join(Collection, LicensePool.collection_id == Collection.id)
        .join(Identifier, LicensePool.identifier_id == Identifier.id)
        .outerjoin(Edition, pool_edition_join())
    )


@dataclass(frozen=True)
class _RelatedRows:
    """Rows of other tables on some titles: by edition id, ISBNs by identifier id, warnings by pool id."""

    people: _Groups
    subjects: _Groups
    links: _Groups
    isbns: _Groups
    warnings: _Groups


def _views(session: Session, rows: Sequence[Row[Any]]) -> Iterator[TitleView]:
    related = _read_related_rows(session, rows)
    for row in rows:
        links = related.links[row.edition_id]
        yield TitleView(
            collection=row.collection,
            identifier=row.identifier,
            title=row.title,
            subtitle=row.subtitle,
            **group_by_field(related.people[row.edition_id]),
            medium=row.medium,
            format=row.format,
            language=row.language,
            audience=row.audience,
            publisher=row.publisher,
            published=row.published,
            on_sale=row.on_sale,
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
            warnings=tuple(dict.fromkeys(warning for (warning,) in related.warnings[row.pool_id])),
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
    warnings = (
        select(PurchaseRecord.license_pool_id, func.jsonb_array_elements_text(PurchaseRecord.warnings))
        .where(in_array(PurchaseRecord.license_pool_id, [row.pool_id for row in rows]))
        .where(PurchaseRecord.warnings != literal_column("'[]'"))
        .order_by(PurchaseRecord.purchased_on)
    )
    return _RelatedRows(
        people=_read_grouped(session, people),
        subjects=_read_grouped(session, subjects),
        links=_read_grouped(session, links),
        isbns=_read_grouped(session, isbns),
        warnings=_read_grouped(session, warnings),
    )


def _read_grouped(session: Session, query: Any) -> _Groups:
    """Return the rows of a query, grouped by their first column and without it."""
    groups: _Groups = defaultdict(list)
    for key, *rest in session.execute(query):
        groups[key].append(tuple(rest))
    return groups
