"""Writing what a vendor says of titles onto their editions and pools, only where it differs.

A title's edition row is the lock for everything that describes it: it is locked before its
contributors, subjects, identifiers and links are compared and replaced, so two workers on one title
take turns. Editions, and then pools, are locked in the order of their ids, so that they do not
deadlock.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from accession.catalog.data import BibliographicData, CirculationData, IdentifierType, TitleData
from accession.catalog.models import (
    ApplyOutbox,
    Classification,
    Contribution,
    Contributor,
    Edition,
    Identifier,
    IdentifierEquivalent,
    LicensePool,
    Link,
    PoolStatus,
    Subject,
    table_of,
)
from accession.catalog.rows import natural_key_ids, replace_rows
from accession.clock import utc_now

_COPIED = (
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
    "as_of",
)


@dataclass(frozen=True)
class Applied:
    """How many editions and pools an apply has written."""

    editions: int
    pools: int


def needs_apply(
    session: Session, titles: Sequence[tuple[LicensePool, TitleData]]
) -> list[tuple[LicensePool, TitleData]]:
    """Those of `titles` whose description or counts differ from what is stored, in one query.

    Data older than what is stored never needs apply.
    """
    query = select(Edition.data_source, Edition.identifier_id, Edition.content_hash, Edition.as_of)
    query = query.where(Edition.identifier_id.in_([pool.identifier_id for pool, _ in titles]))
    stored = {tuple(row[:2]): row for row in session.execute(query)}

    def differs(pool: LicensePool, title: TitleData) -> bool:
        edition = stored.get((title.bibliographic.data_source, pool.identifier_id))
        described = edition is not None and not _news(
            title.bibliographic, edition.content_hash, edition.as_of
        )
        return not described or bool(_count_changes(pool, title.circulation))

    return [(pool, title) for pool, title in titles if differs(pool, title)]


def put_in_outbox(session: Session, titles: Sequence[tuple[LicensePool, TitleData]]) -> list[int]:
    """Note that `titles` have to be applied; returns the ids of the outbox rows, for the message.

    A pool has one row: a later word on a title takes the place of the earlier.
    """
    if not titles:
        return []
    latest = {pool.id: title for pool, title in titles}
    now = utc_now()
    rows = [
        {"license_pool_id": pool_id, "data": title.model_dump(mode="json"), "published_at": now}
        for pool_id, title in sorted(latest.items())
    ]
    statement = insert(ApplyOutbox).values(rows)
    statement = statement.on_conflict_do_update(
        index_elements=["license_pool_id"],
        set_={"data": statement.excluded.data, "published_at": statement.excluded.published_at},
    )
    return list(session.scalars(statement.returning(ApplyOutbox.id)))


def apply_outbox(session: Session, outbox_ids: Sequence[int]) -> Applied:
    """Apply the named outbox rows and delete them; rows that are gone have been applied already."""
    query = select(ApplyOutbox).where(ApplyOutbox.id.in_(outbox_ids)).order_by(ApplyOutbox.id)
    rows = session.scalars(query.with_for_update()).all()
    applied = apply_titles(session, {row.license_pool_id: TitleData.model_validate(row.data) for row in rows})
    for row in rows:
        session.delete(row)
    return applied


def apply_titles(session: Session, titles: Mapping[int, TitleData]) -> Applied:
    """Make editions and pools say what `titles` (by pool id) say, and write nothing where they do.

    A title's contributors, subjects, ISBNs and links are replaced as a whole: the vendor's word is the
    authority for what it describes. Data older than what is stored is not applied.
    """
    if not titles:
        return Applied(0, 0)
    query = select(LicensePool.id, LicensePool.identifier_id).where(LicensePool.id.in_(titles))
    described = {
        (titles[pool_id].bibliographic.data_source, identifier_id): titles[pool_id].bibliographic
        for pool_id, identifier_id in session.execute(query)
    }
    editions = _apply_descriptions(session, described)
    pools = _apply_counts(session, {pool_id: title.circulation for pool_id, title in titles.items()})
    return Applied(editions, pools)


def _news(data: BibliographicData, content_hash: str | None, as_of: datetime | None) -> bool:
    older = as_of is not None and data.as_of < as_of
    return not older and data.content_hash() != content_hash


def _apply_descriptions(session: Session, described: Mapping[tuple[str, int], BibliographicData]) -> int:
    now = utc_now()
    editions = _locked_editions(session, described, now)
    changed = {
        edition.id: described[edition.data_source, edition.identifier_id]
        for edition in editions
        if _news(described[edition.data_source, edition.identifier_id], edition.content_hash, edition.as_of)
    }
    if not changed:
        return 0
    _replace_contributions(session, changed)
    _replace_classifications(session, changed)
    _replace_links(session, changed)
    _replace_equivalents(session, {e.identifier_id: changed[e.id] for e in editions if e.id in changed})
    session.execute(
        update(Edition),
        [
            {"id": edition_id, "content_hash": data.content_hash(), "updated_at": now}
            | {name: getattr(data, name) for name in _COPIED}
            for edition_id, data in changed.items()
        ],
    )
    return len(changed)


def _locked_editions(
    session: Session, described: Mapping[tuple[str, int], BibliographicData], now: datetime
) -> Sequence[Any]:
    query = select(
        Edition.id, Edition.data_source, Edition.identifier_id, Edition.content_hash, Edition.as_of
    )
    query = query.where(Edition.identifier_id.in_({identifier_id for _, identifier_id in described}))
    stored = {(row.data_source, row.identifier_id) for row in session.execute(query)}
    missing = sorted(described.keys() - stored)
    if missing:
        rows = [
            {"data_source": source, "identifier_id": identifier_id, "created_at": now, "updated_at": now}
            for source, identifier_id in missing
        ]
        session.execute(insert(Edition).values(rows).on_conflict_do_nothing())
    locked = session.execute(query.order_by(Edition.id).with_for_update()).all()
    return [row for row in locked if (row.data_source, row.identifier_id) in described]


def _replace_contributions(session: Session, changed: Mapping[int, BibliographicData]) -> None:
    people = {(c.sort_name, c.display_name) for data in changed.values() for c in data.contributors}
    ids = natural_key_ids(session, table_of(Contributor), ("sort_name", "display_name"), people)
    rows: dict[tuple[int, int, str], dict[str, Any]] = {}
    for edition_id, data in changed.items():
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
    replace_rows(session, table_of(Contribution), "edition_id", changed.keys(), rows.values())


def _replace_classifications(session: Session, changed: Mapping[int, BibliographicData]) -> None:
    subjects = {(s.scheme.value, s.name) for data in changed.values() for s in data.subjects}
    ids = natural_key_ids(session, table_of(Subject), ("scheme", "name"), subjects)
    rows: dict[tuple[int, int], dict[str, Any]] = {}
    for edition_id, data in changed.items():
        for position, subject in enumerate(data.subjects):
            subject_id = ids[subject.scheme.value, subject.name]
            rows.setdefault(
                (edition_id, subject_id),
                {"edition_id": edition_id, "subject_id": subject_id, "position": position},
            )
    replace_rows(session, table_of(Classification), "edition_id", changed.keys(), rows.values())


def _replace_links(session: Session, changed: Mapping[int, BibliographicData]) -> None:
    rows = [
        {"edition_id": edition_id, "rel": link.rel.value, "href": link.href}
        for edition_id, data in changed.items()
        for link in data.links
    ]
    replace_rows(session, table_of(Link), "edition_id", changed.keys(), rows)


def _replace_equivalents(session: Session, changed: Mapping[int, BibliographicData]) -> None:
    isbns = {isbn for data in changed.values() for isbn in data.isbns}
    ids = Identifier.ids(session, IdentifierType.ISBN, isbns)
    rows: dict[tuple[int, int], dict[str, Any]] = {}
    for identifier_id, data in changed.items():
        for position, isbn in enumerate(data.isbns):
            equivalent_id = ids[IdentifierType.ISBN.value, isbn]
            rows.setdefault(
                (identifier_id, equivalent_id),
                {
                    "identifier_id": identifier_id,
                    "equivalent_id": equivalent_id,
                    "data_source": data.data_source,
                    "position": position,
                },
            )
    replace_rows(session, table_of(IdentifierEquivalent), "identifier_id", changed.keys(), rows.values())


def _count_changes(pool: LicensePool, data: CirculationData) -> dict[str, Any]:
    """The pool's columns that `data` would change; none where `data` is older than the pool's counts."""
    if pool.circulation_as_of is not None and data.as_of < pool.circulation_as_of:
        return {}
    status = PoolStatus.ACTIVE if data.licenses_owned else PoolStatus.EXHAUSTED
    told = {
        "licenses_owned": data.licenses_owned,
        "licenses_available": data.licenses_available,
        "patrons_in_hold_queue": data.patrons_in_hold_queue,
        "status": status.value,
    }
    if data.licenses_reserved is not None:
        told["licenses_reserved"] = data.licenses_reserved
    return {name: value for name, value in told.items() if getattr(pool, name) != value}


def _apply_counts(session: Session, counts: Mapping[int, CirculationData]) -> int:
    query = select(LicensePool).where(LicensePool.id.in_(counts)).order_by(LicensePool.id)
    written = 0
    for pool in session.scalars(query.with_for_update().execution_options(populate_existing=True)):
        if changes := _count_changes(pool, counts[pool.id]):
            for name, value in changes.items():
                setattr(pool, name, value)
            pool.circulation_as_of = counts[pool.id].as_of
            pool.updated_at = utc_now()
            written += 1
    return written
