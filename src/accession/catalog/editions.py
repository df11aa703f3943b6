"""Editions: join them with license pools, and write metadata to them.

The row of an edition is also the lock for its contributors, subjects, ISBNs and links: it is locked before
these are compared and replaced. An edition that needs no change is not locked.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import cache
from typing import Any

from sqlalchemy import ColumnElement, Select, select
from sqlalchemy.orm import Session

from accession.catalog.data import HASH_VERSION, BibliographicData
from accession.catalog.title_changes import METADATA_COLUMNS, Change, edition_changes, read_metadata
from accession.core.clock import utc_now
from accession.core.vocabulary import IdentifierType
from accession.db.bulk import (
    NaturalKeys,
    Replacement,
    array_parameters,
    get_or_create_ids,
    get_or_create_statement,
    in_array_parameter,
    replace_rows,
    update_rows,
)
from accession.db.models import (
    Classification,
    Contribution,
    Contributor,
    Edition,
    Identifier,
    IdentifierEquivalent,
    LicensePool,
    Link,
    Subject,
    table_of,
)

EditionKey = tuple[str, int]
"""Natural key of an edition: the data source and the id of the identifier."""

RowIds = Mapping[tuple[Any, ...], int]
"""Ids of rows by their natural key."""

_KEY = ("data_source", "identifier_id")
_COMPARED = ("id", *_KEY, "content_hash", "as_of")


class EditionUpdate:
    """Metadata for an edition, with its hash, which is expensive and computed once.

    A `known_hash` is used unless it was computed in another way, by another version.
    """

    def __init__(self, metadata: BibliographicData, known_hash: str | None = None) -> None:
        self.metadata = metadata
        is_usable = known_hash is not None and known_hash.startswith(f"{HASH_VERSION}:")
        self.content_hash = str(known_hash) if is_usable else metadata.content_hash()

    def replaces(self, edition: Any) -> bool:
        """Return whether the metadata differs from an edition's and is not older."""
        is_older = edition.as_of is not None and self.metadata.as_of < edition.as_of
        return not is_older and self.content_hash != edition.content_hash

    def columns(self, now: datetime) -> dict[str, Any]:
        """Return the columns of the edition's row."""
        return {
            **{name: getattr(self.metadata, name) for name in (*METADATA_COLUMNS, "as_of")},
            "search_text": self.metadata.search_text(),
            "sort_title": self.metadata.sort_title(),
            "sort_author": self.metadata.sort_author(),
            "audience": self.metadata.audience(),
            "content_hash": self.content_hash,
            "updated_at": now,
        }


@dataclass(frozen=True)
class WrittenEditions:
    """Number of editions written, the new ones by id, and the changes to record in the titles' histories."""

    written: int
    added: Mapping[int, BibliographicData] = field(default_factory=dict)
    changes: Sequence[Change] = ()


def pool_edition_join() -> ColumnElement[bool]:
    """Return the join condition of a license pool and the edition of its title."""
    return (Edition.identifier_id == LicensePool.identifier_id) & (
        Edition.data_source == LicensePool.data_source
    )


def write_editions(session: Session, updates: Mapping[EditionKey, EditionUpdate]) -> WrittenEditions:
    """Add editions, and update those that their update replaces.

    The contributors, subjects, ISBNs and links of a written edition are replaced as a whole.
    """
    if not updates:
        return WrittenEditions(0)
    now = utc_now()
    stored = _read_or_add_editions(session, updates, now)
    added = {key: row.id for key, row in stored.items() if row.is_new}
    # Those that another transaction adds at the same time are not in `stored`.
    to_update = {
        key: update
        for key, update in updates.items()
        if key not in stored or (key not in added and update.replaces(stored[key]))
    }
    changed, changes = _update_editions(session, to_update, now)
    written = added | changed
    if written:
        by_edition = {edition_id: updates[key].metadata for key, edition_id in written.items()}
        with_rows = [(edition_id,) for edition_id in changed.values()]
        contributors, subjects, isbns = get_or_create_ids(session, *_natural_keys(by_edition.values()))
        replace_rows(
            session,
            _contributions(contributors, by_edition, with_rows),
            _classifications(subjects, by_edition, with_rows),
            _links(by_edition, with_rows),
            _equivalents(isbns, {key: updates[key].metadata for key in written}),
        )
    new = {edition_id: updates[key].metadata for key, edition_id in added.items()}
    return WrittenEditions(len(written), new, changes)


def _read_or_add_editions(
    session: Session, updates: Mapping[EditionKey, EditionUpdate], now: datetime
) -> dict[EditionKey, Any]:
    """Read editions, and insert those that do not exist in the order of their keys (`is_new`)."""
    rows = [
        {"data_source": source, "identifier_id": identifier_id, "created_at": now, **update.columns(now)}
        for (source, identifier_id), update in sorted(updates.items(), key=lambda item: item[0])
    ]
    statement = get_or_create_statement(table_of(Edition), _KEY, tuple(rows[0]), _COMPARED)
    return _by_key(session.execute(statement, array_parameters(rows)))


def _lock_editions(session: Session, keys: Collection[EditionKey]) -> dict[EditionKey, Any]:
    parameters = {
        "sources": list({source for source, _ in keys}),
        "identifiers": list({identifier_id for _, identifier_id in keys}),
    }
    rows = _by_key(session.execute(_lock_statement(), parameters))
    return {key: row for key, row in rows.items() if key in keys}


@cache
def _lock_statement() -> Select[*tuple[Any, ...]]:
    query = select(*(getattr(Edition, name) for name in _COMPARED))
    # The data source comes first in the unique index.
    query = query.where(in_array_parameter(Edition.data_source, "sources"))
    query = query.where(in_array_parameter(Edition.identifier_id, "identifiers"))
    return query.order_by(Edition.id).with_for_update(key_share=True)


def _by_key(rows: Iterable[Any]) -> dict[EditionKey, Any]:
    return {(row.data_source, row.identifier_id): row for row in rows}


def _update_editions(
    session: Session, updates: Mapping[EditionKey, EditionUpdate], now: datetime
) -> tuple[dict[EditionKey, int], Sequence[Change]]:
    """Lock editions, update those that still differ, and return their ids and what has changed."""
    if not updates:
        return {}, ()
    locked = _lock_editions(session, updates)
    changed = {key: row.id for key, row in locked.items() if updates[key].replaces(row)}
    if not changed:
        return {}, ()
    before = read_metadata(session, changed.values())
    rows = [{"id": row_id, **updates[key].columns(now)} for key, row_id in changed.items()]
    update_rows(session, table_of(Edition), rows)
    return changed, edition_changes(before, {changed[key]: updates[key].metadata for key in changed}, now)


def _natural_keys(editions: Collection[BibliographicData]) -> tuple[NaturalKeys, NaturalKeys, NaturalKeys]:
    """Return the keys of the editions' contributors, subjects and ISBNs."""
    people = {(each.sort_name, each.display_name) for data in editions for each in data.contributors}
    headings = {(each.scheme.value, each.name) for data in editions for each in data.subjects}
    return (
        NaturalKeys(table_of(Contributor), ("sort_name", "display_name"), people),
        NaturalKeys(table_of(Subject), ("scheme", "name"), headings),
        Identifier.keys(IdentifierType.ISBN, {isbn for data in editions for isbn in data.isbns}),
    )


def _contributions(
    ids: RowIds, editions: Mapping[int, BibliographicData], with_rows: Sequence[tuple[int]]
) -> Replacement:
    rows: dict[tuple[int, int, str], dict[str, Any]] = {}
    for edition_id, data in editions.items():
        for position, person in enumerate(data.contributors):
            contributor_id = ids[person.sort_name, person.display_name]
            rows.setdefault(
                (edition_id, contributor_id, person.role),
                {
                    "edition_id": edition_id,
                    "contributor_id": contributor_id,
                    "role": person.role.value,
                    "position": position,
                },
            )
    return Replacement(table_of(Contribution), ("edition_id",), with_rows, rows.values())


def _classifications(
    ids: RowIds, editions: Mapping[int, BibliographicData], with_rows: Sequence[tuple[int]]
) -> Replacement:
    rows: dict[tuple[int, int], dict[str, Any]] = {}
    for edition_id, data in editions.items():
        for position, subject in enumerate(data.subjects):
            subject_id = ids[subject.scheme.value, subject.name]
            rows.setdefault(
                (edition_id, subject_id),
                {"edition_id": edition_id, "subject_id": subject_id, "position": position},
            )
    return Replacement(table_of(Classification), ("edition_id",), with_rows, rows.values())


def _links(editions: Mapping[int, BibliographicData], with_rows: Sequence[tuple[int]]) -> Replacement:
    rows = [
        {"edition_id": edition_id, "rel": link.rel.value, "href": link.href}
        for edition_id, data in editions.items()
        for link in data.links
    ]
    return Replacement(table_of(Link), ("edition_id",), with_rows, rows)


def _equivalents(ids: RowIds, editions: Mapping[EditionKey, BibliographicData]) -> Replacement:
    rows: dict[tuple[int, int, str], dict[str, Any]] = {}
    for (data_source, identifier_id), data in editions.items():
        for position, isbn in enumerate(data.isbns):
            equivalent_id = ids[IdentifierType.ISBN.value, isbn]
            rows.setdefault(
                (identifier_id, equivalent_id, data_source),
                {
                    "identifier_id": identifier_id,
                    "equivalent_id": equivalent_id,
                    "data_source": data_source,
                    "position": position,
                },
            )
    # An event may have added the ISBN of a title that has no edition yet.
    return Replacement(table_of(IdentifierEquivalent), _KEY, list(editions), rows.values())
