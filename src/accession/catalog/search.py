"""Finding titles: by their words, an ISBN or the vendor's id, and by what they are."""

import base64
import binascii
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from string import punctuation
from typing import Any

from sqlalchemy import ColumnElement, Select, and_, exists, func, literal, or_, select, union_all
from sqlalchemy.orm import InstrumentedAttribute, Session, aliased

from accession.accounts.collections import find_collection, in_use
from accession.catalog.titles import TitleView, describes, titles_of_pools
from accession.core.errors import Unusable
from accession.core.text import comparable, storable
from accession.core.vocabulary import IdentifierType
from accession.db.models import (
    Edition,
    Identifier,
    IdentifierEquivalent,
    LicensePool,
    PoolStatus,
    PurchaseRecord,
)

# Nobody reads on so far, and to count or sort a million takes seconds.
_MOST = 1000
# What is longer finds nothing more, and PostgreSQL takes no word of over 2,046 bytes.
_LONGEST_TEXT = 100
_SHORTEST_ALIKE = 3
_SETTINGS = {
    # The share of trigrams that words which are alike have in common: `lihts` and `lights` four of nine.
    "pg_trgm.word_similarity_threshold": "0.4",
    # Where there are more than are shown, the next page must find the same ones: not from where another scan
    # of the table happens to be, nor in the order in which several processes come upon them.
    "synchronize_seqscans": "off",
    "max_parallel_workers_per_gather": "0",
}
_LARGEST_ID = 2**31 - 1
_NO_SIGNS = dict.fromkeys(map(ord, punctuation), " ")

_Pools = Select[int]

_AVAILABILITIES: Mapping[str, ColumnElement[bool]] = {
    "available": LicensePool.licenses_available > 0,
    "waiting": and_(
        LicensePool.licenses_owned > 0,
        or_(LicensePool.licenses_available == 0, LicensePool.patrons_in_hold_queue > 0),
    ),
    "gone": LicensePool.status == PoolStatus.EXHAUSTED,
}


@dataclass(frozen=True)
class TitleFilter:
    """Which titles are wanted; what is left out does not matter.

    `text`, of which the first 100 characters count, is words of title, subtitle, authors, narrators and
    publisher, or an ISBN, or the vendor's id. `availability` is `available` (a copy is free), `waiting` (none
    is free, or patrons wait) or `gone` (no copy is left); `held` leaves out what is gone. The title was
    bought on one of the days from `purchased_from` to `purchased_until`, or in a month that has one of them.
    """

    text: str = ""
    collection: str | None = None
    format: str | None = None
    language: str | None = None
    availability: str | None = None
    held: bool = False
    purchased_from: date | None = None
    purchased_until: date | None = None


@dataclass(frozen=True)
class TitlePage:
    """Some of the titles found; `next` is the cursor of those that follow, `total` how many there are, or the
    least that there are."""

    titles: tuple[TitleView, ...]
    next: str | None
    total: int
    total_is_exact: bool


@dataclass(frozen=True)
class Facets:
    """What titles can be chosen by, in order."""

    formats: tuple[str, ...]
    languages: tuple[str, ...]


def find_titles(
    session: Session, wanted: TitleFilter, *, cursor: str | None = None, limit: int = 50
) -> TitlePage:
    """At most `limit` of the titles wanted, after those of the page whose `next` is the cursor.

    With a text the best matches come first, and no more than 1,000: an ISBN or the vendor's id that is
    exactly the text; else titles with all its words, whatever their accents and capitals, of which the last
    may be the beginning of one; else, if there are none, titles with words like these. Without a text titles
    come in the order of their import.

    Raises `NotFound` for an unknown collection, and `Unusable` for an unknown availability and for a cursor
    of something else.
    """
    pools = _pools(session, wanted)
    text = _text(wanted)
    return _best(session, pools, text, cursor, limit) if text else _in_order(session, pools, cursor, limit)


def cursor_before(session: Session, wanted: TitleFilter, cursor: str, *, limit: int = 50) -> str | None:
    """The cursor of the page of `limit` titles before that of the cursor; None where that is the first.

    Raises `NotFound` and `Unusable` as `find_titles`.
    """
    pools = _pools(session, wanted)
    if _text(wanted):
        start = _place(cursor, _RANK) - limit
        return _cursor(_RANK, start) if start > 0 else None
    until = pools.where(LicensePool.id <= _place(cursor, _POOL)).order_by(LicensePool.id.desc())
    before = session.scalars(until.limit(limit + 1)).all()
    return _cursor(_POOL, before[limit]) if len(before) > limit else None


def _text(wanted: TitleFilter) -> str:
    return storable(wanted.text)[:_LONGEST_TEXT].strip()


def _best(session: Session, pools: _Pools, text: str, cursor: str | None, limit: int) -> TitlePage:
    start = _place(cursor, _RANK)
    ranking = _ranking(session, pools, text)
    shown = ranking[:_MOST]
    end = start + limit
    return TitlePage(
        titles=tuple(titles_of_pools(session, shown[start:end])),
        next=_cursor(_RANK, end) if end < len(shown) else None,
        total=len(shown),
        total_is_exact=len(ranking) == len(shown),
    )


def _in_order(session: Session, pools: _Pools, cursor: str | None, limit: int) -> TitlePage:
    after = _place(cursor, _POOL)
    query = pools.where(LicensePool.id > after).order_by(LicensePool.id).limit(limit + 1)
    ids = session.scalars(query).all()
    shown, is_last = ids[:limit], len(ids) <= limit
    found = len(ids) if is_last and cursor is None else _count(session, pools)
    return TitlePage(
        titles=tuple(titles_of_pools(session, shown)),
        next=None if is_last else _cursor(_POOL, shown[-1]),
        total=min(found, _MOST),
        total_is_exact=found <= _MOST,
    )


def _count(session: Session, pools: _Pools) -> int:
    """How many pools there are, or one more than are counted."""
    return session.scalar(select(func.count()).select_from(pools.limit(_MOST + 1).subquery())) or 0


# What a cursor counts: titles shown so far, or the pool last shown.
_RANK, _POOL = "rank", "pool"


def _cursor(what: str, place: int) -> str:
    return base64.urlsafe_b64encode(f"{what}:{place}".encode()).decode()


def _place(cursor: str | None, what: str) -> int:
    if cursor is None:
        return 0
    try:
        told = base64.urlsafe_b64decode(cursor.encode()).decode()
    except (binascii.Error, ValueError):
        told = ""
    found = re.fullmatch(rf"{what}:([0-9]{{1,10}})", told)
    if found is None or int(found[1]) > _LARGEST_ID:
        raise Unusable("The place in the list of titles is not one of this search: begin at its first page.")
    return int(found[1])


def _pools(session: Session, wanted: TitleFilter) -> _Pools:
    """The ids of the pools that pass all filters but the text."""
    query = _held_by(session, wanted.collection)
    if wanted.format:
        query = query.where(Edition.format == storable(wanted.format))
    if wanted.language:
        query = query.where(Edition.language == storable(wanted.language))
    if wanted.format or wanted.language:
        query = query.where(describes())
    if wanted.availability:
        if wanted.availability not in _AVAILABILITIES:
            known = ", ".join(_AVAILABILITIES)
            raise Unusable(f'Titles are not known to be "{wanted.availability}": choose one of {known}.')
        query = query.where(_AVAILABILITIES[wanted.availability])
    if wanted.held:
        query = query.where(LicensePool.status != PoolStatus.EXHAUSTED)
    if wanted.purchased_from or wanted.purchased_until:
        query = query.where(_bought(wanted.purchased_from, wanted.purchased_until))
    return query


def _held_by(session: Session, collection: str | None) -> _Pools:
    query = select(LicensePool.id)
    if collection is None:
        return query.where(in_use(LicensePool.collection_id, None))
    # The database knows how much there is of a collection by its id, not by its name.
    return query.where(LicensePool.collection_id == find_collection(session, collection).id)


def _bought(first: date | None, last: date | None) -> ColumnElement[bool]:
    row = PurchaseRecord
    found = exists().where(
        row.license_pool_id == LicensePool.id, row.collection_id == LicensePool.collection_id
    )
    if first is not None:
        # Of a month the first day is stored.
        in_its_month = row.month_only & (row.purchased_on >= first.replace(day=1))
        found = found.where(or_(row.purchased_on >= first, in_its_month))
    return found.where(row.purchased_on <= last) if last is not None else found


# What is new


@dataclass(frozen=True)
class Newest:
    """The titles bought last, newest first; `since` is the day, or the first of the month, on which the last
    of them was."""

    titles: tuple[TitleView, ...]
    since: date | None


def newest_titles(session: Session, collection_id: int, *, limit: int) -> Newest:
    """At most `limit` titles of the collection of which there are copies, by their last purchases."""
    row, later = PurchaseRecord, aliased(PurchaseRecord)
    again = exists().where(
        later.license_pool_id == row.license_pool_id, later.purchased_on > row.purchased_on
    )
    query = (
        select(row.license_pool_id, row.purchased_on)
        .join(LicensePool, row.license_pool_id == LicensePool.id)
        .where(row.collection_id == collection_id, LicensePool.status != PoolStatus.EXHAUSTED, ~again)
        .order_by(row.purchased_on.desc(), row.license_pool_id.desc())
    )
    rows = session.execute(query.limit(limit)).all()
    titles = titles_of_pools(session, [pool_id for pool_id, _ in rows])
    return Newest(tuple(titles), rows[-1].purchased_on if rows else None)


# A text


def _ranking(session: Session, pools: _Pools, text: str) -> Sequence[int]:
    """The ids of the pools found, best first; one more than are shown, where there are more."""
    if named := _named(session, pools, text):
        return named
    folded = session.scalar(select(func.accession_fold(comparable(text)))) or ""
    words = folded.translate(_NO_SIGNS).split()
    if not words:
        return []
    session.execute(select(*(func.set_config(name, value, True) for name, value in _SETTINGS.items())))
    return _with_words(session, pools, words) or _alike(session, pools, words)


def _named(session: Session, pools: _Pools, text: str) -> Sequence[int]:
    """Those whose ISBN or vendor's id the text is."""
    # The index has the type first.
    names = [(IdentifierType.BIBLIOTHECA, text, Identifier.id)]
    if (isbn := _isbn13(text)) is not None:
        names.append((IdentifierType.ISBN, isbn, IdentifierEquivalent.identifier_id))
    same = (
        select(column)
        .outerjoin_from(Identifier, IdentifierEquivalent, IdentifierEquivalent.equivalent_id == Identifier.id)
        .where(Identifier.type == kind, Identifier.identifier == name)
        for kind, name, column in names
    )
    query = pools.where(LicensePool.identifier_id.in_(union_all(*same)))
    return session.scalars(query.order_by(LicensePool.id).limit(_MOST + 1)).all()


def _isbn13(text: str) -> str | None:
    """The 13 digits of an ISBN of 10 or 13, which may have hyphens and spaces in it."""
    digits = re.sub(r"[\s-]", "", text)
    if re.fullmatch(r"97[89][0-9]{10}", digits):
        return digits
    if not re.fullmatch(r"[0-9]{9}[0-9Xx]", digits):
        return None
    body = f"978{digits[:9]}"
    weighted = sum(int(digit) * (3 if place % 2 else 1) for place, digit in enumerate(body))
    return f"{body}{-weighted % 10}"


def _with_words(session: Session, pools: _Pools, words: Sequence[str]) -> Sequence[int]:
    """Those that have all words, and one that begins with the last; those whose title is most like the words
    first."""
    # The words are free of signs, and so of quotes.
    asked = func.to_tsquery("simple", " & ".join(f"'{word}'" for word in words) + ":*")
    found = pools.where(describes(), Edition.search_words.op("@@")(asked)).limit(_MOST + 1)
    return _by_likeness(session, found, words)


def _alike(session: Session, pools: _Pools, words: Sequence[str]) -> Sequence[int]:
    """Those that have a word like each of the words that are not too short to tell."""
    long = [word for word in words if len(word) >= _SHORTEST_ALIKE]
    if not long:
        return []
    text = func.accession_fold(Edition.search_text)
    found = pools.where(describes(), *(literal(word).op("<%")(text) for word in long)).limit(_MOST + 1)
    return _by_likeness(session, found, words)


def _by_likeness(session: Session, found: _Pools, words: Sequence[str]) -> Sequence[int]:
    pools = found.add_columns(Edition.title).subquery("found")
    likeness = func.similarity(func.accession_fold(func.coalesce(pools.c.title, "")), " ".join(words))
    return session.scalars(select(pools.c.id).order_by(likeness.desc(), pools.c.id)).all()


# Facets


def title_facets(session: Session, collection: str | None = None) -> Facets:
    """The formats and languages of the titles of the collection in use, or of all."""
    pools = _held_by(session, collection).where(describes())
    return Facets(
        formats=_values_of(session, pools, Edition.format),
        languages=_values_of(session, pools, Edition.language),
    )


def _values_of(session: Session, pools: _Pools, column: InstrumentedAttribute[Any]) -> tuple[str, ...]:
    """The values of the column of the editions of the pools."""
    values = _values(session, column)
    if not values:
        return ()
    # Each asked for by its own: what is rare is then looked for among the few, what is not in any order.
    held = (select(literal(value)).where(exists(pools.where(column == value))) for value in values)
    return tuple(sorted(session.scalars(union_all(*held))))


def _values(session: Session, column: InstrumentedAttribute[Any]) -> Sequence[str]:
    """Every value of an indexed column with few, by one step in the index each."""
    first = select(func.min(column).label("value")).cte("value", recursive=True)
    following = select(func.min(column)).where(column > first.c.value).scalar_subquery()
    every = first.union_all(select(following).where(first.c.value.is_not(None)))
    return session.scalars(select(every.c.value).where(every.c.value.is_not(None))).all()
