"""Search titles by words, ISBN or vendor's id, and list them page by page."""

import base64
import binascii
import re
from collections.abc import Sequence
from dataclasses import dataclass
from string import punctuation

from sqlalchemy import func, literal, select, union_all
from sqlalchemy.orm import Session

from accession.catalog.editions import pool_edition_join
from accession.catalog.title_filter import PoolQuery, TitleFilter, select_pools
from accession.catalog.titles import TitleView, titles_of_pools
from accession.core.errors import InvalidInput
from accession.core.invisible import remove_all_invisible
from accession.core.isbn import normalise_isbn
from accession.core.text import clean_text, normalise_text
from accession.core.vocabulary import IdentifierType
from accession.db.models import Edition, Identifier, IdentifierEquivalent, LicensePool

# Counting or sorting a million results takes seconds, and nobody reads that far.
_MAX_RESULTS = 1000
# PostgreSQL rejects words longer than 2,046 bytes.
_MAX_TEXT_LENGTH = 100
_MIN_SIMILAR_WORD_LENGTH = 3
_SETTINGS = {
    # Share of trigrams that similar words have in common: `lihts` and `lights` share four of nine.
    "pg_trgm.word_similarity_threshold": "0.4",
    # With more than `_MAX_RESULTS` matches every page has to see the same ones: a synchronised scan starts
    # anywhere in the table, and parallel workers return rows in any order.
    "synchronize_seqscans": "off",
    "max_parallel_workers_per_gather": "0",
}
_MAX_ID = 2**31 - 1
_PUNCTUATION_TO_SPACES = dict.fromkeys(map(ord, punctuation), " ")

# Kinds of cursor: the number of titles already shown, or the last pool shown.
_RANK, _POOL = "rank", "pool"


@dataclass(frozen=True)
class TitlePage:
    """A page of titles.

    `next` is the cursor of the next page. `total` is the number of all matches, or a lower bound of it unless
    `total_is_exact`.
    """

    titles: tuple[TitleView, ...]
    next: str | None
    total: int
    total_is_exact: bool


def find_titles(
    session: Session, filters: TitleFilter, *, cursor: str | None = None, limit: int = 50
) -> TitlePage:
    """Return a page of at most `limit` titles, the one that `cursor` (`TitlePage.next`) names or the first.

    With a text the best matches come first, 1,000 at most, from the first of these that finds any:

    1. titles with this ISBN or vendor's id;
    2. titles with all the words, ignoring accents and case; the last word may be a prefix;
    3. titles with similar words.

    Without a text titles come in the order of their import.

    Raises:
        NotFound: the collection does not exist.
        InvalidInput: the availability does not exist, or the cursor belongs to another search.
    """
    pools = select_pools(session, filters)
    text = _search_text(filters)
    if text:
        return _best_matches(session, pools, text, cursor, limit)
    return _in_import_order(session, pools, cursor, limit)


def previous_cursor(session: Session, filters: TitleFilter, cursor: str, *, limit: int = 50) -> str | None:
    """Return the cursor of the page before the one at `cursor`; None if that is the first page.

    Raises:
        NotFound: as `find_titles`.
        InvalidInput: as `find_titles`.
    """
    pools = select_pools(session, filters)
    if _search_text(filters):
        start = _decode_cursor(cursor, _RANK) - limit
        return _encode_cursor(_RANK, start) if start > 0 else None
    up_to = pools.where(LicensePool.id <= _decode_cursor(cursor, _POOL)).order_by(LicensePool.id.desc())
    ids = session.scalars(up_to.limit(limit + 1)).all()
    return _encode_cursor(_POOL, ids[limit]) if len(ids) > limit else None


def _search_text(filters: TitleFilter) -> str:
    return remove_all_invisible(clean_text(filters.text))[:_MAX_TEXT_LENGTH].strip()


def _best_matches(session: Session, pools: PoolQuery, text: str, cursor: str | None, limit: int) -> TitlePage:
    start = _decode_cursor(cursor, _RANK)
    ranking = _rank_pools(session, pools, text)
    ids = ranking[:_MAX_RESULTS]
    end = start + limit
    return TitlePage(
        titles=tuple(titles_of_pools(session, ids[start:end])),
        next=_encode_cursor(_RANK, end) if end < len(ids) else None,
        total=len(ids),
        total_is_exact=len(ranking) == len(ids),
    )


def _in_import_order(session: Session, pools: PoolQuery, cursor: str | None, limit: int) -> TitlePage:
    after = _decode_cursor(cursor, _POOL)
    query = pools.where(LicensePool.id > after).order_by(LicensePool.id).limit(limit + 1)
    ids = session.scalars(query).all()
    page, is_last = ids[:limit], len(ids) <= limit
    total = len(ids) if is_last and cursor is None else _count_up_to_limit(session, pools)
    return TitlePage(
        titles=tuple(titles_of_pools(session, page)),
        next=None if is_last else _encode_cursor(_POOL, page[-1]),
        total=min(total, _MAX_RESULTS),
        total_is_exact=total <= _MAX_RESULTS,
    )


def _count_up_to_limit(session: Session, pools: PoolQuery) -> int:
    return session.scalar(select(func.count()).select_from(pools.limit(_MAX_RESULTS + 1).subquery())) or 0


def _encode_cursor(kind: str, position: int) -> str:
    return base64.urlsafe_b64encode(f"{kind}:{position}".encode()).decode()


def _decode_cursor(cursor: str | None, kind: str) -> int:
    if cursor is None:
        return 0
    try:
        decoded = base64.urlsafe_b64decode(cursor.encode()).decode()
    except (binascii.Error, ValueError):
        decoded = ""
    match = re.fullmatch(rf"{kind}:([0-9]{{1,10}})", decoded)
    if match is None or int(match[1]) > _MAX_ID:
        raise InvalidInput("The cursor does not belong to this search: start again at the first page.")
    return int(match[1])


def _rank_pools(session: Session, pools: PoolQuery, text: str) -> Sequence[int]:
    """Return the ids of the matching pools, best first; at most one more than `_MAX_RESULTS`."""
    if exact := _find_by_identifier(session, pools, text):
        return exact
    folded = session.scalar(select(func.accession_fold(normalise_text(text)))) or ""
    words = folded.translate(_PUNCTUATION_TO_SPACES).split()
    if not words:
        return []
    session.execute(select(*(func.set_config(name, value, True) for name, value in _SETTINGS.items())))
    return _find_by_words(session, pools, words) or _find_by_similar_words(session, pools, words)


def _find_by_identifier(session: Session, pools: PoolQuery, text: str) -> Sequence[int]:
    names = [(IdentifierType.BIBLIOTHECA, text, Identifier.id)]
    # An ISBN-10 with a mistyped check digit is found, too.
    if (isbn := normalise_isbn(text, is_checked=False)) is not None:
        names.append((IdentifierType.ISBN, isbn, IdentifierEquivalent.identifier_id))
    identifiers = (
        select(column)
        .outerjoin_from(Identifier, IdentifierEquivalent, IdentifierEquivalent.equivalent_id == Identifier.id)
        # The type comes first in the index.
        .where(Identifier.type == kind, Identifier.identifier == name)
        for kind, name, column in names
    )
    query = pools.where(LicensePool.identifier_id.in_(union_all(*identifiers)))
    return session.scalars(query.order_by(LicensePool.id).limit(_MAX_RESULTS + 1)).all()


def _find_by_words(session: Session, pools: PoolQuery, words: Sequence[str]) -> Sequence[int]:
    """Return the pools with all the words, or a word that starts with the last one."""
    # The words contain no punctuation, and so no quotes.
    query = func.to_tsquery("simple", " & ".join(f"'{word}'" for word in words) + ":*")
    matches = pools.where(pool_edition_join(), Edition.search_words.op("@@")(query))
    return _sort_by_similarity(session, matches.limit(_MAX_RESULTS + 1), words)


def _find_by_similar_words(session: Session, pools: PoolQuery, words: Sequence[str]) -> Sequence[int]:
    long_words = [word for word in words if len(word) >= _MIN_SIMILAR_WORD_LENGTH]
    if not long_words:
        return []
    text = func.accession_fold(Edition.search_text)
    matches = pools.where(pool_edition_join(), *(literal(word).op("<%")(text) for word in long_words))
    return _sort_by_similarity(session, matches.limit(_MAX_RESULTS + 1), words)


def _sort_by_similarity(session: Session, matches: PoolQuery, words: Sequence[str]) -> Sequence[int]:
    """Return the ids of pools, those first whose title is most similar to the words."""
    pools = matches.add_columns(Edition.title).subquery("matches")
    title = func.accession_fold(func.coalesce(pools.c.title, ""))
    similarity = func.similarity(title, " ".join(words))
    return session.scalars(select(pools.c.id).order_by(similarity.desc(), pools.c.id)).all()
