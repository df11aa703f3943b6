"""Writing what a vendor says of titles onto their editions and pools, only where it differs.

A title's edition row is the lock for everything that describes it: it is locked before its
contributors, subjects, identifiers and links are compared and replaced, so two workers on one title
take turns. Whoever needs several kinds of lock takes those of pools first, then of outbox rows in the
order of their pools, then of editions in the order of their ids, so that nobody deadlocks.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, DateTime, and_, cast, select, true, tuple_, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from accession.catalog.circulation import apply_snapshots, is_news, lock_pools
from accession.catalog.data import ApplyData, BibliographicData, IdentifierType
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
    session: Session, titles: Sequence[tuple[LicensePool, ApplyData]]
) -> list[tuple[LicensePool, ApplyData]]:
    """What of `titles` differs from what is stored, in one query: the description by its hash, with its
    counts, and otherwise the counts alone by the pool's columns, which events move without the hash.

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
    needed: list[tuple[LicensePool, ApplyData]] = []
    for pool, title in titles:
        known, described = stored[pool.id], title.bibliographic
        differs = described is not None and _news(described, known.content_hash, known.as_of)
        if differs or known.pending is not None:
            needed.append((pool, title))
        elif is_news(pool, title.circulation):
            needed.append((pool, ApplyData(circulation=title.circulation)))
    return needed


def put_in_outbox(session: Session, titles: Sequence[tuple[LicensePool, ApplyData]]) -> list[int]:
    """Note that `titles` have to be applied; returns the ids of the outbox rows, for the message.

    A pool has one row: a later word on a title takes the place of the earlier, but counts alone leave a
    description in it that is still to be applied. Where the earlier one has the younger data it stays,
    and its id is not returned: its message is under way.
    """
    if not titles:
        return []
    latest = {pool.id: title for pool, title in sorted(titles, key=lambda word: word[1].as_of)}
    now = utc_now()
    rows = [
        {
            "license_pool_id": pool_id,
            # A key that is not there leaves what the row had under it.
            "data": title.model_dump(mode="json", exclude_none=True),
            "published_at": now,
        }
        for pool_id, title in sorted(latest.items())
    ]
    statement = insert(ApplyOutbox).values(rows)
    statement = statement.on_conflict_do_update(
        index_elements=["license_pool_id"],
        set_={
            "data": ApplyOutbox.data.concat(statement.excluded.data),
            "published_at": statement.excluded.published_at,
        },
        where=_as_of(ApplyOutbox.data) <= _as_of(statement.excluded.data),
    )
    return list(session.scalars(statement.returning(ApplyOutbox.id)))


def _as_of(data: Any) -> ColumnElement[datetime]:
    return cast(data["circulation"]["as_of"].astext, DateTime(timezone=True))


def outbox_kinds(session: Session, outbox_ids: Sequence[int]) -> tuple[list[int], list[int]]:
    """The rows that there still are: those with a description, and those with counts alone."""
    query = select(ApplyOutbox.id, _is_described()).where(ApplyOutbox.id.in_(outbox_ids))
    rows = session.execute(query.order_by(ApplyOutbox.id)).all()
    described = [row_id for row_id, is_described in rows if is_described]
    return described, [row_id for row_id, is_described in rows if not is_described]


def apply_outbox(session: Session, outbox_ids: Sequence[int], *, counts_only: bool = False) -> Applied:
    """Apply the named outbox rows and delete them; rows that are gone have been applied already.

    With `counts_only` rows that have got a description meanwhile are left for the message about it.
    """
    wanted = and_(ApplyOutbox.id.in_(outbox_ids), ~_is_described() if counts_only else true())
    lock_pools(session, session.scalars(select(ApplyOutbox.license_pool_id).where(wanted)))
    query = select(ApplyOutbox).where(wanted).order_by(ApplyOutbox.license_pool_id)
    rows = session.scalars(query.with_for_update()).all()
    applied = apply_titles(session, {row.license_pool_id: ApplyData.model_validate(row.data) for row in rows})
    for row in rows:
        session.delete(row)
    return applied


def _is_described() -> ColumnElement[bool]:
    described: ColumnElement[bool] = ApplyOutbox.data.has_key("bibliographic")
    return described


def apply_titles(session: Session, titles: Mapping[int, ApplyData]) -> Applied:
    """Make editions and pools say what `titles` (by pool id) say, and write nothing where they do.

    A title's contributors, subjects, ISBNs and links are replaced as a whole: the vendor's word is the
    authority for what it describes. Data older than what is stored is not applied; of several pools'
    words on one title the youngest counts.
    """
    if not titles:
        return Applied(0, 0)
    pools = lock_pools(session, titles)
    words = [
        (pool.identifier_id, data) for pool in pools if (data := titles[pool.id].bibliographic) is not None
    ]
    words.sort(key=lambda word: word[1].as_of)
    editions = _apply_descriptions(
        session, {(data.data_source, identifier_id): data for identifier_id, data in words}
    )
    written = apply_snapshots(session, pools, {key: title.circulation for key, title in titles.items()})
    return Applied(editions, written)


def _news(data: BibliographicData, content_hash: str | None, as_of: datetime | None) -> bool:
    older = as_of is not None and data.as_of < as_of
    return not older and data.content_hash() != content_hash


def _apply_descriptions(session: Session, described: Mapping[tuple[str, int], BibliographicData]) -> int:
    if not described:
        return 0
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
