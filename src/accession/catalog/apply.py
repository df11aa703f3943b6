"""Writing what a vendor says of titles onto their editions and pools, only where it differs.

A title's edition row is the lock for everything that describes it: it is locked before its
contributors, subjects, identifiers and links are compared and replaced, so two workers on one title
take turns. One that is as it should be is not locked, and one just added is locked by that. Whoever needs
several kinds of lock takes those of pools first, then of outbox rows in the order of their pools, then adds
editions in the order of their keys, then locks others in the order of their ids, so that nobody deadlocks.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, DateTime, Text, and_, cast, delete, select, true
from sqlalchemy.orm import Session

from accession.catalog.changes import COPIED, Change, described_before, edition_changes, note_changes
from accession.catalog.circulation import apply_snapshots, is_news, lock_pools
from accession.catalog.data import ApplyData, BibliographicData
from accession.core.clock import utc_now
from accession.core.vocabulary import IdentifierType
from accession.db.bulk import among, insert_of, natural_key_ids, one_of, replace_rows, update_of
from accession.db.models import (
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

# A source, and the id of the identifier that it describes.
_Key = tuple[str, int]


@dataclass(frozen=True)
class Applied:
    """How many editions and pools an apply has written."""

    editions: int
    pools: int


class _Description:
    """What a source says of a title, with its hash, which costs too much to be computed twice."""

    def __init__(self, data: BibliographicData) -> None:
        self.data = data
        self.content_hash = data.content_hash()

    def is_news_to(self, edition: Any) -> bool:
        """Whether it differs from an edition by the `content_hash`, and is not older by the `as_of`."""
        older = edition.as_of is not None and self.data.as_of < edition.as_of
        return not older and self.content_hash != edition.content_hash

    def columns(self, now: datetime) -> dict[str, Any]:
        """What an edition's row says once it is described by this."""
        copied = {name: getattr(self.data, name) for name in (*COPIED, "as_of")}
        return {
            **copied,
            "search_text": self.data.search_text(),
            "content_hash": self.content_hash,
            "updated_at": now,
        }


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
        .where(one_of(LicensePool.id, [pool.id for pool, _ in titles]))
    )
    stored = {row.id: row for row in session.execute(query)}
    needed: list[tuple[LicensePool, ApplyData]] = []
    for pool, title in titles:
        known, described = stored[pool.id], title.bibliographic
        differs = described is not None and _Description(described).is_news_to(known)
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
    statement = insert_of(table_of(ApplyOutbox), rows)
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
    query = select(ApplyOutbox.id, _is_described()).where(one_of(ApplyOutbox.id, outbox_ids))
    rows = session.execute(query.order_by(ApplyOutbox.id)).all()
    described = [row_id for row_id, is_described in rows if is_described]
    return described, [row_id for row_id, is_described in rows if not is_described]


def apply_outbox(session: Session, outbox_ids: Sequence[int], *, counts_only: bool = False) -> Applied:
    """Apply the named outbox rows and delete them; rows that are gone have been applied already.

    With `counts_only` rows that have got a description meanwhile are left for the message about it.
    """
    wanted = and_(one_of(ApplyOutbox.id, outbox_ids), ~_is_described() if counts_only else true())
    pools = lock_pools(session, session.scalars(select(ApplyOutbox.license_pool_id).where(wanted)))
    data = cast(ApplyOutbox.data, Text).label("data")
    query = select(ApplyOutbox.id, ApplyOutbox.license_pool_id, data).where(wanted)
    query = query.where(one_of(ApplyOutbox.license_pool_id, [pool.id for pool in pools]))
    rows = session.execute(query.order_by(ApplyOutbox.license_pool_id).with_for_update()).all()
    if not rows:
        return Applied(0, 0)
    titles = {row.license_pool_id: ApplyData.model_validate_json(row.data) for row in rows}
    applied = _apply_to_locked(session, [pool for pool in pools if pool.id in titles], titles)
    session.execute(delete(table_of(ApplyOutbox)).where(one_of(ApplyOutbox.id, [row.id for row in rows])))
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
    return _apply_to_locked(session, lock_pools(session, titles), titles)


def _apply_to_locked(
    session: Session, pools: Sequence[LicensePool], titles: Mapping[int, ApplyData]
) -> Applied:
    words = [
        (pool.identifier_id, data) for pool in pools if (data := titles[pool.id].bibliographic) is not None
    ]
    words.sort(key=lambda word: word[1].as_of)
    youngest = {(data.data_source, identifier_id): data for identifier_id, data in words}
    described = _apply_descriptions(session, {key: _Description(data) for key, data in youngest.items()})
    counted = apply_snapshots(session, pools, {key: title.circulation for key, title in titles.items()})
    note_changes(session, [*described.changes, *counted.changes])
    return Applied(described.editions, counted.pools)


@dataclass(frozen=True)
class _Described:
    """How many editions were written, and what of those that there were has changed."""

    editions: int
    changes: Sequence[Change] = ()


def _apply_descriptions(session: Session, described: Mapping[_Key, _Description]) -> _Described:
    if not described:
        return _Described(0)
    known, now = _editions(session, described), utc_now()
    news = {key: each for key, each in described.items() if key not in known or each.is_news_to(known[key])}
    added = _add_editions(session, {key: each for key, each in news.items() if key not in known}, now)
    # Somebody else may have added some of them meanwhile.
    changed, changes = _change_editions(
        session, {key: each for key, each in news.items() if key not in added}, now
    )
    written = added | changed
    if written:
        by_edition = {edition_id: described[key].data for key, edition_id in written.items()}
        _replace_contributions(session, by_edition)
        _replace_classifications(session, by_edition)
        _replace_links(session, by_edition)
        _replace_equivalents(session, {key: described[key].data for key in written})
    return _Described(len(written), changes)


def _editions(session: Session, keys: Collection[_Key], *, lock: bool = False) -> dict[_Key, Any]:
    """Those of the editions that there are."""
    query = select(
        Edition.id, Edition.data_source, Edition.identifier_id, Edition.content_hash, Edition.as_of
    )
    # The sources make it a question to the index, which has them first.
    query = query.where(one_of(Edition.data_source, {source for source, _ in keys}))
    query = query.where(one_of(Edition.identifier_id, {identifier_id for _, identifier_id in keys}))
    if lock:
        query = query.order_by(Edition.id).with_for_update(key_share=True)
    found = {(row.data_source, row.identifier_id): row for row in session.execute(query)}
    return {key: row for key, row in found.items() if key in keys}


def _add_editions(session: Session, described: Mapping[_Key, _Description], now: datetime) -> dict[_Key, int]:
    """Add editions, which are locked with that, in the order of their keys; the ids of those added."""
    if not described:
        return {}
    rows = [
        {"data_source": source, "identifier_id": identifier_id, "created_at": now, **description.columns(now)}
        for (source, identifier_id), description in sorted(described.items())
    ]
    added = insert_of(table_of(Edition), rows).on_conflict_do_nothing()
    ids = session.execute(added.returning(Edition.id, Edition.data_source, Edition.identifier_id))
    return {(source, identifier_id): row_id for row_id, source, identifier_id in ids}


def _change_editions(
    session: Session, described: Mapping[_Key, _Description], now: datetime
) -> tuple[dict[_Key, int], Sequence[Change]]:
    """Lock editions, and change those to which it is still news; the ids of those changed, and what of
    them."""
    if not described:
        return {}, ()
    locked = _editions(session, described, lock=True)
    changed = {key: row.id for key, row in locked.items() if described[key].is_news_to(row)}
    if not changed:
        return {}, ()
    before = described_before(session, changed.values())
    rows = [{"id": row_id, **described[key].columns(now)} for key, row_id in changed.items()]
    session.execute(update_of(table_of(Edition), rows))
    return changed, edition_changes(before, {changed[key]: described[key].data for key in changed}, now)


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
    replace_rows(session, table_of(Contribution), one_of(Contribution.edition_id, changed), rows.values())


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
    replace_rows(session, table_of(Classification), one_of(Classification.edition_id, changed), rows.values())


def _replace_links(session: Session, changed: Mapping[int, BibliographicData]) -> None:
    rows = [
        {"edition_id": edition_id, "rel": link.rel.value, "href": link.href}
        for edition_id, data in changed.items()
        for link in data.links
    ]
    replace_rows(session, table_of(Link), one_of(Link.edition_id, changed), rows)


def _replace_equivalents(session: Session, changed: Mapping[_Key, BibliographicData]) -> None:
    isbns = {isbn for data in changed.values() for isbn in data.isbns}
    ids = Identifier.ids(session, IdentifierType.ISBN, isbns)
    rows: dict[tuple[int, int, str], dict[str, Any]] = {}
    for (data_source, identifier_id), data in changed.items():
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
    owners = [{"identifier_id": row_id, "data_source": source} for source, row_id in changed]
    table = table_of(IdentifierEquivalent)
    replace_rows(session, table, among(table, owners), rows.values())
