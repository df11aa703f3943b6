"""What has changed of a title: noted in the transaction that writes it, for the title's history.

A change says of an edition or a pool what was so before and what is so since, by field: the fields of
`TitleView`, and `on_sale`. What is new has no change, and what is as it was has none either.
"""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Select, func, select
from sqlalchemy.orm import Session

from accession.catalog.data import BibliographicData
from accession.core.vocabulary import LinkRel, Role
from accession.db.bulk import insert_of, one_of
from accession.db.models import (
    Classification,
    Contribution,
    Contributor,
    Counts,
    Edition,
    Identifier,
    IdentifierEquivalent,
    LicensePool,
    Link,
    PoolStatus,
    Subject,
    TitleChange,
    table_of,
)

COPIED = (
    "title",
    "subtitle",
    "publisher",
    "published",
    "on_sale",
    "language",
    "description",
    "page_count",
    "duration_ms",
    "medium",
    "format",
)
"""What an edition takes over from a description as it is."""

Values = Mapping[str, Any]
Change = Mapping[str, Any]
"""A row of `title_changes`."""


def note_changes(session: Session, changes: Sequence[Change]) -> None:
    """Keep the changes."""
    if changes:
        session.execute(insert_of(table_of(TitleChange), changes))


def edition_changes(
    before: Mapping[int, Values], said: Mapping[int, BibliographicData], at: datetime
) -> list[Change]:
    """What `said` (by edition) changes of editions that said `before`."""
    found = (
        (edition_id, _differences(values, _values_of(said[edition_id])))
        for edition_id, values in before.items()
    )
    return [_change(at, changes, edition_id=edition_id) for edition_id, changes in found if changes]


def pool_changes(pool: LicensePool, counts: Counts, status: str, at: datetime) -> list[Change]:
    """What changes of a pool with these counts and this status; its first are no change."""
    if pool.status == PoolStatus.UNKNOWN:
        return []
    changes = _differences(_holding(pool.counts, pool.status), _holding(counts, status))
    return [_change(at, changes, license_pool_id=pool.id)] if changes else []


def _change(
    at: datetime, changes: Values, *, edition_id: int | None = None, license_pool_id: int | None = None
) -> Change:
    return {
        "edition_id": edition_id,
        "license_pool_id": license_pool_id,
        "changed_at": at,
        "changes": changes,
    }


def _differences(before: Values, after: Values) -> Values:
    return {name: [was, after[name]] for name, was in before.items() if was != after[name]}


def _holding(counts: Counts, status: str) -> Values:
    return {
        "licenses_owned": counts.owned,
        "licenses_available": counts.available,
        "licenses_reserved": counts.reserved,
        "patrons_in_hold_queue": counts.holds,
        "status": status,
    }


def _values_of(data: BibliographicData) -> Values:
    """What an edition says once it is described by `data`."""
    people = {role: [each.display_name for each in data.contributors if each.role == role] for role in Role}
    return {
        **{name: getattr(data, name) for name in COPIED},
        "authors": _each_once(people[Role.AUTHOR]),
        "narrators": _each_once(people[Role.NARRATOR]),
        "subjects": _each_once(subject.name for subject in data.subjects),
        "isbns": _each_once(data.isbns),
        "cover_url": min((link.href for link in data.links if link.rel == LinkRel.COVER), default=None),
    }


def described_before(session: Session, edition_ids: Iterable[int]) -> dict[int, Values]:
    """What locked editions say, by id, in one statement; those that nobody has described are left out."""
    cover = select(func.min(Link.href)).where(Link.edition_id == Edition.id, Link.rel == LinkRel.COVER)
    lists = {
        "authors": _people(Role.AUTHOR),
        "narrators": _people(Role.NARRATOR),
        "subjects": select(Subject.name)
        .join(Classification, Classification.subject_id == Subject.id)
        .where(Classification.edition_id == Edition.id)
        .order_by(Classification.position),
        "isbns": select(Identifier.identifier)
        .join(IdentifierEquivalent, IdentifierEquivalent.equivalent_id == Identifier.id)
        .where(
            IdentifierEquivalent.identifier_id == Edition.identifier_id,
            IdentifierEquivalent.data_source == Edition.data_source,
        )
        .order_by(IdentifierEquivalent.position),
    }
    query = select(
        Edition.id,
        *(getattr(Edition, name) for name in COPIED),
        *(func.array(names.scalar_subquery()).label(name) for name, names in lists.items()),
        cover.scalar_subquery().label("cover_url"),
    ).where(one_of(Edition.id, edition_ids), Edition.content_hash.is_not(None))
    return {
        row["id"]: {
            name: _each_once(value) if name in lists else value for name, value in row.items() if name != "id"
        }
        for row in session.execute(query).mappings()
    }


def _people(role: Role) -> Select[Any]:
    return (
        select(Contributor.display_name)
        .join(Contribution, Contribution.contributor_id == Contributor.id)
        .where(Contribution.edition_id == Edition.id, Contribution.role == role)
        .order_by(Contribution.position)
    )


def _each_once(names: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(names))
