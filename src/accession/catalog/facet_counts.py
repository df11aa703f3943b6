"""Facets of a list of titles, with the number of titles that each value would leave.

A facet's own filter does not narrow its values, so that another one can be chosen. Up to `_MAX_COUNTED`
titles are counted one by one. The numbers of whole collections come from the statistics of titles, which can
be some minutes old. Between the two, where some filter leaves more titles, the values have no numbers.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

from sqlalchemy import ColumnElement, func, select
from sqlalchemy.orm import Session

from accession.accounts.collections import find_collection, list_collections
from accession.catalog.availability import AVAILABILITIES, NAMES_OF_AVAILABILITIES
from accession.catalog.editions import pool_edition_join
from accession.catalog.facets import title_facets
from accession.catalog.search import Matches, is_whole_collection, match_titles
from accession.catalog.title_filter import TitleFilter
from accession.core.vocabulary import Audience
from accession.db.models import Collection, Edition, LicensePool, TitleGroup

_MAX_COUNTED = 1000


class FacetName(StrEnum):
    """A facet, named as the field of `TitleFilter`."""

    FORMAT = "format"
    LANGUAGE = "language"
    AUDIENCE = "audience"
    AVAILABILITY = "availability"
    COLLECTION = "collection"


@dataclass(frozen=True)
class FacetValue:
    """A value of a facet; `titles` is the number of titles that match with it, None if there are too many."""

    value: str
    titles: int | None


FacetCounts = Mapping[FacetName, Sequence[FacetValue]]
_Numbers = Mapping[str, int | None]

_VALUES: Mapping[FacetName, Any] = {
    FacetName.FORMAT: Edition.format,
    FacetName.LANGUAGE: Edition.language,
    FacetName.AUDIENCE: Edition.audience,
    FacetName.AVAILABILITY: NAMES_OF_AVAILABILITIES,
    FacetName.COLLECTION: Collection.name,
}
_FIXED_VALUES: Mapping[FacetName, Sequence[str]] = {
    FacetName.AUDIENCE: tuple(Audience),
    FacetName.AVAILABILITY: tuple(AVAILABILITIES),
}


def count_facets(session: Session, matches: Matches) -> FacetCounts:
    """Return the values of all facets.

    Audiences and availabilities are in their usual order, collections in that of their names, and formats and
    languages begin with those of most titles.
    """
    names_by_filter: dict[TitleFilter, list[FacetName]] = {}
    for name in FacetName:
        without: dict[str, Any] = {name.value: None}
        names_by_filter.setdefault(replace(matches.filters, **without), []).append(name)
    numbers: dict[FacetName, _Numbers] = {}
    for others, names in names_by_filter.items():
        other_matches = matches if others == matches.filters else match_titles(session, others)
        numbers |= _count_matches(session, other_matches, names) or {
            name: _known_numbers(session, others, name) for name in names
        }
    return {name: _in_order(name, numbers[name]) for name in FacetName}


def _in_order(name: FacetName, numbers: _Numbers) -> Sequence[FacetValue]:
    if name in _FIXED_VALUES:
        values = [value for value in _FIXED_VALUES[name] if value in numbers]
    elif name is FacetName.COLLECTION:
        values = sorted(numbers, key=str.casefold)
    else:
        values = sorted(numbers, key=lambda value: (-(numbers[value] or 0), value))
    return tuple(FacetValue(value, numbers[value]) for value in values)


def _count_matches(
    session: Session, matches: Matches, names: Sequence[FacetName]
) -> dict[FacetName, _Numbers] | None:
    """Return the numbers of all matching titles by facet and value; None if there are too many titles."""
    if not matches.is_complete:
        return None
    counted = matches.pools.limit(_MAX_COUNTED + 1).subquery("counted")
    columns = [_VALUES[name].label(name) for name in names]
    query = (
        select(func.count().label("titles"), *columns)
        .select_from(counted)
        .join(LicensePool, LicensePool.id == counted.c.id)
        .join(Collection, Collection.id == LicensePool.collection_id)
        .outerjoin(Edition, pool_edition_join())
        .group_by(*columns)
    )
    rows = session.execute(query).mappings().all()
    if sum(row["titles"] for row in rows) > _MAX_COUNTED:
        return None
    numbers: dict[FacetName, Counter[str]] = {name: Counter() for name in names}
    for row in rows:
        for name in names:
            for value in row[name] if isinstance(row[name], list) else filter(None, [row[name]]):
                numbers[name][value] += row["titles"]
    return dict(numbers)


def _known_numbers(session: Session, filters: TitleFilter, name: FacetName) -> _Numbers:
    """Return the values of a facet, with the numbers of a whole collection if the filter selects one."""
    if is_whole_collection(filters) and (numbers := _read_groups(session, filters.collection, name)):
        return numbers
    return dict.fromkeys(_possible_values(session, filters.collection, name))


def _possible_values(session: Session, collection: str | None, name: FacetName) -> Iterable[str]:
    match name:
        case FacetName.FORMAT:
            return title_facets(session, collection).formats
        case FacetName.LANGUAGE:
            return title_facets(session, collection).languages
        case FacetName.COLLECTION:
            return [each.name for each in list_collections(session)]
        case _:
            return _FIXED_VALUES[name]


def _read_groups(session: Session, collection: str | None, name: FacetName) -> _Numbers:
    """Return the numbers of titles of one collection, or of all in use; none before the first statistics."""
    group = TitleGroup
    if name is FacetName.COLLECTION:
        # Each title is in one group of formats.
        query = (
            select(Collection.name, func.sum(group.titles))
            .join(Collection, Collection.id == group.collection_id)
            .where(group.kind == FacetName.FORMAT, Collection.marked_for_deletion_at.is_(None))
            .group_by(Collection.name)
        )
    else:
        owner: ColumnElement[bool] = group.collection_id.is_(None)
        if collection is not None:
            owner = group.collection_id == find_collection(session, collection).id
        query = select(group.value, group.titles).where(group.kind == name, group.value != "", owner)
    return {value: int(titles) for value, titles in session.execute(query)}
