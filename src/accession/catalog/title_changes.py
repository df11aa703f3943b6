"""Changes of titles: what differs before and after a write, recorded in the same transaction.

A change belongs to an edition or to a license pool, and holds the values before and after by field: the
fields of `TitleView`, and `on_sale`. A new title, and one that stays the same, has no change.
"""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.dialects.postgresql import array
from sqlalchemy.orm import Session

from accession.catalog.availability import shown_counts
from accession.catalog.contributors import group_by_field
from accession.catalog.data import BibliographicData
from accession.core.vocabulary import LinkRel
from accession.db.bulk import in_array, insert_rows
from accession.db.models import (
    Classification,
    Contribution,
    Contributor,
    CopyCounts,
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

METADATA_COLUMNS = (
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
"""Columns of an edition that have the same name and value in `BibliographicData`."""

Values = Mapping[str, Any]
Change = Mapping[str, Any]
"""A row of `title_changes`."""


def record_changes(session: Session, changes: Sequence[Change]) -> None:
    """Store changes for the titles' histories."""
    if changes:
        insert_rows(session, table_of(TitleChange), changes)


def edition_changes(
    before: Mapping[int, Values], after: Mapping[int, BibliographicData], at: datetime
) -> list[Change]:
    """Return the changes of editions, by edition id, from the values before to the metadata after."""
    differences = (
        (edition_id, _differences(values, _values_of(after[edition_id])))
        for edition_id, values in before.items()
    )
    return [_change(at, changes, edition_id=edition_id) for edition_id, changes in differences if changes]


def pool_changes(pool: LicensePool, counts: CopyCounts, status: str, at: datetime) -> list[Change]:
    """Return the change of a pool to these counts and this status, as shown; the first counts are none."""
    if pool.status == PoolStatus.UNKNOWN:
        return []
    changes = _differences(_pool_values(pool.counts, pool.status), _pool_values(counts, status))
    return [_change(at, changes, license_pool_id=pool.id)] if changes else []


def read_metadata(session: Session, edition_ids: Iterable[int]) -> dict[int, Values]:
    """Return the stored metadata of editions by id, in one statement; editions without any are left out.

    The caller holds the locks of the editions.
    """
    cover = select(func.min(Link.href)).where(Link.edition_id == Edition.id, Link.rel == LinkRel.COVER)
    lists = {
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
    people = (
        select(array([Contribution.role, Contributor.display_name]))
        .join(Contributor, Contribution.contributor_id == Contributor.id)
        .where(Contribution.edition_id == Edition.id)
        .order_by(Contribution.position)
    )
    query = select(
        Edition.id,
        *(getattr(Edition, name) for name in METADATA_COLUMNS),
        func.array(people.scalar_subquery()).label("people"),
        *(func.array(names.scalar_subquery()).label(name) for name, names in lists.items()),
        cover.scalar_subquery().label("cover_url"),
    ).where(in_array(Edition.id, edition_ids), Edition.content_hash.is_not(None))
    return {
        row["id"]: {
            **{name: row[name] for name in (*METADATA_COLUMNS, "cover_url")},
            **_names_by_field(row["people"]),
            **{name: _unique(row[name]) for name in lists},
        }
        for row in session.execute(query).mappings()
    }


def filled_fields(metadata: BibliographicData) -> tuple[str, ...]:
    """Return the names of the fields that have a value in the metadata."""
    return tuple(name for name, value in _values_of(metadata).items() if value)


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
    return {name: [value, after[name]] for name, value in before.items() if value != after[name]}


def _pool_values(stored: CopyCounts, status: str) -> Values:
    counts = shown_counts(stored, status)
    return {
        "licenses_owned": counts.owned,
        "licenses_available": counts.available,
        "licenses_reserved": counts.reserved,
        "patrons_in_hold_queue": counts.holds,
        "status": status,
    }


def _values_of(metadata: BibliographicData) -> Values:
    """Return the values as `read_metadata` returns them once the metadata is stored."""
    covers = (link.href for link in metadata.links if link.rel == LinkRel.COVER)
    return {
        **{name: getattr(metadata, name) for name in METADATA_COLUMNS},
        **_names_by_field((each.role, each.display_name) for each in metadata.contributors),
        "subjects": _unique(subject.name for subject in metadata.subjects),
        "isbns": _unique(metadata.isbns),
        "cover_url": min(covers, default=None),
    }


def _names_by_field(people: Iterable[tuple[str, str]]) -> Values:
    return {field: list(map(str, values)) for field, values in group_by_field(people).items()}


def _unique(names: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(names))
