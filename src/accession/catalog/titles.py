"""TODO."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Row,
    Select,
    case,
    func,
    select,
)
from sqlalchemy.orm import Session

from accession.accounts.collections import in_use
from accession.core.vocabulary import IdentifierType, LinkRel, Role, SubjectScheme
from accession.db.bulk import one_of
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

_DAY_OR_MONTH = case((PurchaseRecord.month_only, "YYYY-MM"), else_="YYYY-MM-DD")


_BATCH = 1000


# What a title's view has from its edition, and from its pool, by the same names.
_OF_THE_EDITION = (
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


_OF_THE_POOL = (
    "licenses_owned",
    "licenses_available",
    "licenses_reserved",
    "patrons_in_hold_queue",
    "status",
)


@dataclass(frozen=True)
class TitleView:
    """A collection's title with all that is known of it; names are in reading order. `purchased_on` is the
    first day of a purchase (UTC, ISO 8601), or its month where no more is known."""

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
    """How many titles the collection, or every collection in use, holds."""
    query = select(func.count()).select_from(LicensePool)
    if collection is not None:
        return session.scalar(query.where(in_use(LicensePool.collection_id, collection))) or 0
    # All less those of collections that are leaving: to ask of each whether it counts takes twice as long.
    leaving = select(Collection.id).where(Collection.marked_for_deletion_at.is_not(None))
    not_counted = query.where(LicensePool.collection_id.in_(leaving)).scalar_subquery()
    return session.scalar(select(query.scalar_subquery() - not_counted)) or 0


def title_views(
    session: Session,
    *,
    collection: str | None = None,
    identifiers: Sequence[str] | None = None,
    limit: int | None = None,
) -> Iterator[TitleView]:
    """Titles in the order they were first imported, read in batches so that memory stays flat."""
    last_id = 0
    while limit is None or limit > 0:
        size = _BATCH if limit is None else min(limit, _BATCH)
        query = _title_rows(collection, identifiers).where(LicensePool.id > last_id)
        rows = session.execute(query.order_by(LicensePool.id).limit(size)).all()
        yield from _with_details(session, rows)
        if len(rows) < size:
            return
        last_id = rows[-1].pool_id
        limit = None if limit is None else limit - size


def titles_of_pools(session: Session, pool_ids: Sequence[int]) -> list[TitleView]:
    """The titles of those of these pools that there are, in their order."""
    if not pool_ids:
        return []
    rows = session.execute(_titles().where(one_of(LicensePool.id, pool_ids))).all()
    by_pool = {row.pool_id: row for row in rows}
    return list(_with_details(session, [by_pool[pool_id] for pool_id in pool_ids if pool_id in by_pool]))


def bisac_among(session: Session, subjects: Iterable[str]) -> frozenset[str]:
    """Those of the subjects, by name, that are BISAC headings."""
    query = select(Subject.name).where(Subject.scheme == SubjectScheme.BISAC)
    return frozenset(session.scalars(query.where(one_of(Subject.name, set(subjects)))))


def describes() -> ColumnElement[bool]:
    """That the edition is the one of the pool's title."""
    return (Edition.identifier_id == LicensePool.identifier_id) & (
        Edition.data_source == LicensePool.data_source
    )


def _title_rows(collection: str | None, identifiers: Sequence[str] | None) -> Select[Any]:
    query = _titles().where(in_use(LicensePool.collection_id, collection))
    if identifiers is None:
        return query
    # The index has the type first.
    return query.where(Identifier.type.in_(IdentifierType), Identifier.identifier.in_(identifiers))


def _titles() -> Select[Any]:
    first_day = (
        select(func.to_char(PurchaseRecord.purchased_on, _DAY_OR_MONTH))
        .where(PurchaseRecord.license_pool_id == LicensePool.id)
        .order_by(PurchaseRecord.purchased_on)
        .limit(1)
        .scalar_subquery()
    )
    # As columns: to make objects of whole rows takes longer than to read them.
    return (
        select(
            LicensePool.id.label("pool_id"),
            LicensePool.identifier_id,
            Edition.id.label("edition_id"),
            Collection.name.label("collection"),
            Identifier.identifier,
            *(getattr(Edition, name) for name in _OF_THE_EDITION),
            *(getattr(LicensePool, name) for name in _OF_THE_POOL),
            first_day.label("purchased_on"),
            func.greatest(LicensePool.updated_at, Edition.updated_at).label("updated_at"),
        )
        .join(Collection, LicensePool.collection_id == Collection.id)
        .join(Identifier, LicensePool.identifier_id == Identifier.id)
        .outerjoin(Edition, describes())
    )


def _with_details(session: Session, rows: Sequence[Row[Any]]) -> Iterator[TitleView]:
    editions = [row.edition_id for row in rows if row.edition_id is not None]
    people = _grouped(
        session,
        select(Contribution.edition_id, Contribution.role, Contributor.display_name)
        .join(Contributor, Contribution.contributor_id == Contributor.id)
        .where(one_of(Contribution.edition_id, editions))
        .order_by(Contribution.position),
    )
    subjects = _grouped(
        session,
        select(Classification.edition_id, Subject.name)
        .join(Subject, Classification.subject_id == Subject.id)
        .where(one_of(Classification.edition_id, editions))
        .order_by(Classification.position),
    )
    links = _grouped(
        session, select(Link.edition_id, Link.rel, Link.href).where(one_of(Link.edition_id, editions))
    )
    isbns = _grouped(
        session,
        select(IdentifierEquivalent.identifier_id, Identifier.identifier)
        .join(Identifier, IdentifierEquivalent.equivalent_id == Identifier.id)
        .where(one_of(IdentifierEquivalent.identifier_id, [row.identifier_id for row in rows]))
        .order_by(IdentifierEquivalent.position),
    )
    for row in rows:
        people_of, links_of = people[row.edition_id], links[row.edition_id]
        yield TitleView(
            collection=row.collection,
            identifier=row.identifier,
            title=row.title,
            subtitle=row.subtitle,
            authors=tuple(name for role, name in people_of if role == Role.AUTHOR),
            narrators=tuple(name for role, name in people_of if role == Role.NARRATOR),
            medium=row.medium,
            format=row.format,
            language=row.language,
            publisher=row.publisher,
            published=row.published,
            isbns=tuple(isbn for (isbn,) in isbns[row.identifier_id]),
            subjects=tuple(name for (name,) in subjects[row.edition_id]),
            page_count=row.page_count,
            duration_ms=row.duration_ms,
            description=row.description,
            cover_url=next((href for rel, href in links_of if rel == LinkRel.COVER), None),
            licenses_owned=row.licenses_owned,
            licenses_available=row.licenses_available,
            licenses_reserved=row.licenses_reserved,
            patrons_in_hold_queue=row.patrons_in_hold_queue,
            status=row.status,
            purchased_on=row.purchased_on,
            updated_at=row.updated_at,
        )


def _grouped(session: Session, query: Any) -> defaultdict[int, list[tuple[Any, ...]]]:
    groups: defaultdict[int, list[tuple[Any, ...]]] = defaultdict(list)
    for key, *rest in session.execute(query):
        groups[key].append(tuple(rest))
    return groups
