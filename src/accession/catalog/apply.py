"""Writing what a vendor says of titles onto their editions and pools, only where it differs.

A title's edition row is the lock for everything that describes it: it is locked before its
contributors, subjects, identifiers and links are compared and replaced, so two workers on one title
take turns. Outbox rows are locked in the order of their pools, then editions and then pools in the
order of their ids, so that nobody deadlocks. Editions and pools are locked against writing only: a page
that adds a purchase record to a pool goes on.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, DateTime, cast, select, tuple_, update
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

    Data older than what is stored is no difference. A title with an apply pending needs one in any case:
    the vendor may have taken back what is in the outbox.
    """
    query = (
        select(LicensePool.id, Edition.content_hash, Edition.as_of, ApplyOutbox.id.label("pending"))
        .outerjoin(
            Edition,
            (Edition.identifier_id == LicensePool.identifier_id)
            & (Edition.data_source == LicensePool.data_source),
        )
        .outerjoin(ApplyOutbox, ApplyOutbox.license_pool_id == LicensePool.id)
        .where(LicensePool.id.in_([pool.id for pool, _ in titles]))
    )
    stored = {row.id: row for row in session.execute(query)}

    def needed(pool: LicensePool, title: TitleData) -> bool:
        known = stored[pool.id]
        return (
            known.pending is not None
            or _news(title.bibliographic, known.content_hash, known.as_of)
            or bool(_count_changes(pool, title.circulation))
        )

    return [(pool, title) for pool, title in titles if needed(pool, title)]


def put_in_outbox(session: Session, titles: Sequence[tuple[LicensePool, TitleData]]) -> list[int]:
    """Note that `titles` have to be applied; returns the ids of the outbox rows, for the message.

    A pool has one row: a later word on a title takes the place of the earlier. Where the earlier one
    has the younger data it stays, and its id is not returned: its message is under way.
    """
    if not titles:
        return []
    latest = {pool.id: title for pool, title in sorted(titles, key=lambda word: word[1].as_of)}
    now = utc_now()
    rows = [
        {"license_pool_id": pool_id, "data": title.model_dump(mode="json"), "published_at": now}
        for pool_id, title in sorted(latest.items())
    ]
    statement = insert(ApplyOutbox).values(rows)
    statement = statement.on_conflict_do_update(
        index_elements=["license_pool_id"],
        set_={"data": statement.excluded.data, "published_at": statement.excluded.published_at},
        where=_as_of(ApplyOutbox.data) <= _as_of(statement.excluded.data),
    )
    return list(session.scalars(statement.returning(ApplyOutbox.id)))


def _as_of(data: Any) -> ColumnElement[datetime]:
    return cast(data["bibliographic"]["as_of"].astext, DateTime(timezone=True))


def apply_outbox(session: Session, outbox_ids: Sequence[int]) -> Applied:
    """Apply the named outbox rows and delete them; rows that are gone have been applied already."""
    query = select(ApplyOutbox).where(ApplyOutbox.id.in_(outbox_ids)).order_by(ApplyOutbox.license_pool_id)
    rows = session.scalars(query.with_for_update()).all()
    applied = apply_titles(session, {row.license_pool_id: TitleData.model_validate(row.data) for row in rows})
    for row in rows:
        session.delete(row)
    return applied


def apply_titles(session: Session, titles: Mapping[int, TitleData]) -> Applied:
    """Make editions and pools say what `titles` (by pool id) say, and write nothing where they do.

    A title's contributors, subjects, ISBNs and links are replaced as a whole: the vendor's word is the
    authority for what it describes. Data older than what is stored is not applied; of several pools'
    words on one title the youngest counts.
    """
    if not titles:
        return Applied(0, 0)
    query = select(LicensePool.id, LicensePool.identifier_id).where(LicensePool.id.in_(titles))
    words = [
        (identifier_id, titles[pool_id].bibliographic) for pool_id, identifier_id in session.execute(query)
    ]
    words.sort(key=lambda word: word[1].as_of)
    described = {(data.data_source, identifier_id): data for identifier_id, data in words}
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
    _replace_equivalents(
        session, {(e.identifier_id, e.data_source): changed[e.id] for e in editions if e.id in changed}
    )
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
    locked = session.execute(query.order_by(Edition.id).with_for_update(key_share=True)).all()
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
    replace_rows(session, table_of(Contribution), Contribution.edition_id.in_(changed), rows.values())


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
    replace_rows(session, table_of(Classification), Classification.edition_id.in_(changed), rows.values())


def _replace_links(session: Session, changed: Mapping[int, BibliographicData]) -> None:
    rows = [
        {"edition_id": edition_id, "rel": link.rel.value, "href": link.href}
        for edition_id, data in changed.items()
        for link in data.links
    ]
    replace_rows(session, table_of(Link), Link.edition_id.in_(changed), rows)


def _replace_equivalents(session: Session, changed: Mapping[tuple[int, str], BibliographicData]) -> None:
    isbns = {isbn for data in changed.values() for isbn in data.isbns}
    ids = Identifier.ids(session, IdentifierType.ISBN, isbns)
    rows: dict[tuple[int, int, str], dict[str, Any]] = {}
    for (identifier_id, data_source), data in changed.items():
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
    mine = tuple_(IdentifierEquivalent.identifier_id, IdentifierEquivalent.data_source).in_(changed)
    replace_rows(session, table_of(IdentifierEquivalent), mine, rows.values())


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
    for pool in session.scalars(
        query.with_for_update(key_share=True).execution_options(populate_existing=True)
    ):
        if changes := _count_changes(pool, counts[pool.id]):
            for name, value in changes.items():
                setattr(pool, name, value)
            pool.circulation_as_of = counts[pool.id].as_of
            pool.updated_at = utc_now()
            written += 1
    return written
