"""Facets of lists of titles, and the numbers of titles by their values."""

from typing import Any

import pytest
from sqlalchemy.orm import Session

from accession.accounts.collections import mark_for_deletion
from accession.catalog.facet_counts import FacetName, count_facets
from accession.catalog.search import match_titles
from accession.catalog.title_filter import TitleFilter
from accession.core.vocabulary import Format
from accession.db.models import Collection
from tests.fixtures.factories import make_collection, make_pool, store_title, subject
from tests.fixtures.statistics import refresh_statistics


@pytest.fixture
def titles(session: Session, collection: Collection) -> Collection:
    """Store six titles of two collections."""
    other = make_collection(session, "Birch Library")
    juvenile, adult = subject("JUVENILE FICTION / Fantasy"), subject("FICTION / Fantasy")
    young = subject("Young Adult Fiction / Fantasy")
    fields: dict[str, dict[str, Any]] = {
        "a": {"format": Format.EPUB, "language": "eng", "subjects": (juvenile,), "licenses_available": 1},
        "b": {"format": Format.EPUB, "language": "eng", "subjects": (adult, juvenile)},
        "c": {"format": Format.PDF, "language": "ger", "subjects": (young,), "patrons_in_hold_queue": 1},
        "d": {"format": Format.MP3, "language": None, "subjects": (), "licenses_owned": 0},
    }
    for name, values in fields.items():
        store_title(session, collection, name, **{"licenses_available": 0, **values})
    make_pool(session, collection, "bare")
    store_title(session, other, "a", subjects=(juvenile,), language="eng", licenses_available=1)
    return other


def count(session: Session, name: FacetName, text: str = "", **filters: Any) -> dict[str, int | None]:
    facets = count_facets(session, match_titles(session, TitleFilter(text, **filters)))
    return {value.value: value.titles for value in facets[name]}


def test_matching_titles_are_counted_by_value(session: Session, titles: Collection) -> None:
    assert count(session, FacetName.FORMAT) == {"epub": 3, "mp3": 1, "pdf": 1}
    assert count(session, FacetName.LANGUAGE) == {"eng": 3, "ger": 1}
    assert count(session, FacetName.AUDIENCE) == {"children": 2, "young adult": 1, "general": 1}
    assert count(session, FacetName.AVAILABILITY) == {"available": 2, "on_hold": 2, "withdrawn": 1}
    assert count(session, FacetName.COLLECTION) == {"Alder Library": 5, "Birch Library": 1}


def test_filters_narrow_the_other_facets_only(session: Session, titles: Collection) -> None:
    filters = {"format": "epub", "collection": "Alder Library"}
    assert count(session, FacetName.FORMAT, **filters) == {"epub": 2, "mp3": 1, "pdf": 1}
    assert count(session, FacetName.LANGUAGE, **filters) == {"eng": 2}
    assert count(session, FacetName.COLLECTION, **filters) == {"Alder Library": 2, "Birch Library": 1}
    assert count(session, FacetName.AUDIENCE, "title c") == {"young adult": 1}
    assert count(session, FacetName.FORMAT, "no such title") == {}


def test_collections_of_the_past_are_not_counted(session: Session, titles: Collection) -> None:
    mark_for_deletion(titles)
    session.commit()

    assert count(session, FacetName.COLLECTION) == {"Alder Library": 5}
    assert count(session, FacetName.FORMAT) == {"epub": 2, "mp3": 1, "pdf": 1}


@pytest.fixture
def too_many(titles: Collection, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let four titles be more than are counted one by one."""
    monkeypatch.setattr("accession.catalog.facet_counts._MAX_COUNTED", 3)


def test_whole_collections_have_numbers_of_statistics(
    session: Session, titles: Collection, too_many: None
) -> None:
    refresh_statistics(session)

    assert count(session, FacetName.FORMAT) == {"epub": 3, "mp3": 1, "pdf": 1}
    assert count(session, FacetName.LANGUAGE, collection="Alder Library") == {"eng": 2, "ger": 1}
    assert count(session, FacetName.AUDIENCE) == {"children": 2, "young adult": 1, "general": 1}
    assert count(session, FacetName.AVAILABILITY) == {"available": 2, "on_hold": 2, "withdrawn": 1}
    assert count(session, FacetName.COLLECTION) == {"Alder Library": 5, "Birch Library": 1}


def test_too_many_titles_have_values_without_numbers(
    session: Session, titles: Collection, too_many: None
) -> None:
    assert count(session, FacetName.FORMAT) == {"epub": None, "mp3": None, "pdf": None}
    refresh_statistics(session)

    facets = count_facets(session, match_titles(session, TitleFilter(held=True)))
    assert [value.value for value in facets[FacetName.LANGUAGE]] == ["eng", "ger"]
    assert [value.value for value in facets[FacetName.COLLECTION]] == ["Alder Library", "Birch Library"]
    assert {value.titles for values in facets.values() for value in values} == {None}
