"""Search titles by words, ISBN or vendor's id, and list them page by page."""

import base64
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from string import punctuation

from sqlalchemy import func, literal, select, union_all
from sqlalchemy.orm import Session

from accession.catalog.editions import pool_edition_join
from accession.catalog.title_filter import PoolQuery, TitleFilter, select_pools
from accession.catalog.title_order import Position, TitleOrder, parse_integer, read_positions
from accession.catalog.titles import TitleView, count_titles, titles_of_pools
from accession.core.errors import InvalidInput
from accession.core.invisible import remove_all_invisible
from accession.core.isbn import normalise_isbn
from accession.core.text import clean_text, normalise_text
from accession.core.vocabulary import IdentifierType
from accession.db.bulk import in_array
from accession.db.models import Edition, Identifier, IdentifierEquivalent, LicensePool

# Counting or ranking a million results takes seconds, and nobody reads that far.
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
_PUNCTUATION_TO_SPACES = dict.fromkeys(map(ord, punctuation), " ")

# Name of the order by similarity in cursors.
_BY_RANK = "rank"
_BATCH = 1000


@dataclass(frozen=True)
class TitleCount:
    """A number of titles; a lower bound of it unless it is exact."""

    number: int
    is_exact: bool


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


@dataclass(frozen=True)
class Matches:
    """The titles that match filters: a query for the ids of their pools.

    With a text, `ranking` has these ids, the best match first; `is_complete` tells that there are no more.
    """

    filters: TitleFilter
    pools: PoolQuery
    ranking: Sequence[int] | None = None
    is_complete: bool = True


def match_titles(session: Session, filters: TitleFilter) -> Matches:
    """Return the titles that match all filters.

    With a text these are the titles of the first of these groups that has any, 1,000 at most:

    1. titles with this ISBN or vendor's id;
    2. titles with all the words, ignoring accents and case; the last word may be a prefix;
    3. titles with similar words.

    Raises:
        NotFound: a collection does not exist.
        InvalidInput: the availability does not exist.
    """
    pools, text = select_pools(session, filters), _search_text(filters)
    if not text:
        return Matches(filters, pools)
    ranked_pools = _rank_pools(session, pools, text)
    ranking = ranked_pools[:_MAX_RESULTS]
    pools_in_ranking = select(LicensePool.id).where(in_array(LicensePool.id, ranking))
    return Matches(filters, pools_in_ranking, ranking, is_complete=len(ranked_pools) == len(ranking))


def find_titles(
    session: Session,
    matches: Matches,
    order: TitleOrder | None = None,
    *,
    cursor: str | None = None,
    limit: int = 50,
) -> TitlePage:
    """Return a page of at most `limit` titles, the one that `cursor` (`TitlePage.next`) names or the first.

    Without an order the best matches come first, or the newest titles if there is no text.

    Raises:
        InvalidInput: the cursor belongs to another list.
    """
    if matches.ranking is not None and order is None:
        end = _parse_rank(cursor) + limit
        ids = matches.ranking[end - limit : end]
        following = _encode_cursor(_BY_RANK, str(end)) if end < len(matches.ranking) else None
    else:
        order = order or TitleOrder()
        positions = read_positions(
            session, matches.pools, matches.filters, order, _parse_position(cursor, order), limit + 1
        )
        ids = [position.pool_id for position in positions[:limit]]
        is_last = len(positions) <= limit
        following = None if is_last else _encode_cursor(str(order), positions[limit - 1].encode())
    is_whole_list = following is None and cursor is None and matches.is_complete
    total = TitleCount(len(ids), True) if is_whole_list else count_matches(session, matches)
    return TitlePage(tuple(titles_of_pools(session, ids)), following, total.number, total.is_exact)


def previous_cursor(
    session: Session, matches: Matches, order: TitleOrder | None, cursor: str, *, limit: int = 50
) -> str | None:
    """Return the cursor of the page before the one at `cursor`; None if that is the first page.

    Raises:
        InvalidInput: as `find_titles`.
    """
    if matches.ranking is not None and order is None:
        start = _parse_rank(cursor) - limit
        return _encode_cursor(_BY_RANK, str(start)) if start > 0 else None
    order = order or TitleOrder()
    start_of_page = _parse_position(cursor, order)
    before = read_positions(
        session, matches.pools, matches.filters, order, start_of_page, limit, is_backwards=True
    )
    return _encode_cursor(str(order), before[-1].encode()) if len(before) == limit else None


def list_titles(
    session: Session, matches: Matches, order: TitleOrder | None = None, *, limit: int | None = None
) -> Iterator[TitleView]:
    """Yield the titles of all pages of `find_titles`, or the first `limit`, reading them in batches."""
    if matches.ranking is not None and order is None:
        yield from titles_of_pools(session, matches.ranking[:limit])
        return
    start, remaining = None, limit
    while remaining is None or remaining > 0:
        size = _BATCH if remaining is None else min(remaining, _BATCH)
        positions = read_positions(
            session, matches.pools, matches.filters, order or TitleOrder(), start, size
        )
        yield from titles_of_pools(session, [position.pool_id for position in positions])
        if len(positions) < size:
            return
        start = positions[-1]
        remaining = None if remaining is None else remaining - size


def count_matches(session: Session, matches: Matches) -> TitleCount:
    """Return the number of titles; more than 1,000 are counted only without filters of titles."""
    if matches.ranking is not None:
        return TitleCount(len(matches.ranking), matches.is_complete)
    if is_whole_collection(matches.filters):
        return TitleCount(count_titles(session, collection=matches.filters.collection), True)
    some = matches.pools.limit(_MAX_RESULTS + 1).subquery()
    number: int = session.scalar(select(func.count()).select_from(some)) or 0
    return TitleCount(min(number, _MAX_RESULTS), number <= _MAX_RESULTS)


def is_whole_collection(filters: TitleFilter) -> bool:
    """Return whether no condition is set, except perhaps the collection."""
    return replace(filters, collection=None) == TitleFilter()


def _search_text(filters: TitleFilter) -> str:
    return remove_all_invisible(clean_text(filters.text))[:_MAX_TEXT_LENGTH].strip()


def _encode_cursor(order: str, position: str) -> str:
    return base64.urlsafe_b64encode(f"{order}:{position}".encode()).decode()


def _decode_cursor(cursor: str, order: str) -> str:
    """Return the position in a cursor.

    Raises:
        ValueError: it is not a cursor of a list in this order.
    """
    name, _, position = base64.urlsafe_b64decode(cursor.encode()).decode().partition(":")
    if name != order:
        raise ValueError("the list has another order")
    return position


def _parse_position(cursor: str | None, order: TitleOrder) -> Position | None:
    if cursor is None:
        return None
    try:
        return Position.decode(_decode_cursor(cursor, str(order)), order.key)
    except ValueError as error:
        raise _InvalidCursor from error


def _parse_rank(cursor: str | None) -> int:
    if cursor is None:
        return 0
    try:
        return parse_integer(_decode_cursor(cursor, _BY_RANK))
    except ValueError as error:
        raise _InvalidCursor from error


class _InvalidCursor(InvalidInput):
    def __init__(self) -> None:
        super().__init__("The cursor does not belong to this search: start again at the first page.")


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
