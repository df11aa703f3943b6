"""Orders of lists of titles, and their pages."""

from base64 import urlsafe_b64encode
from collections.abc import Callable, Mapping
from datetime import date, timedelta
from itertools import count
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy.orm import Session

from accession.catalog.data import TitleData
from accession.catalog.purchase_dates import PurchaseDate
from accession.catalog.purchase_records import PurchaseRecordData, store_purchase_records
from accession.catalog.search import Matches, find_titles, list_titles, match_titles, previous_cursor
from accession.catalog.title_filter import TitleFilter
from accession.catalog.title_order import SortKey, TitleOrder
from accession.core.errors import InvalidInput
from accession.core.vocabulary import ContributorRole, IdentifierType
from accession.db.engine import engine
from accession.db.models import Collection, LicensePool
from tests.fixtures.factories import (
    NOON,
    SOURCE,
    apply_titles,
    make_collection,
    make_pool,
    person,
    store_title,
    title_data,
)
from tests.fixtures.statistics import store_title_in_use

_numbers = count()

_people = st.sampled_from(
    [
        (),
        (person("Lem, Stanisław"),),
        (person("Élan, Zoé"),),
        (person("Abel, Ann", ContributorRole.EDITOR), person("Élan, Zoé")),
        (person("Reader, Rita", ContributorRole.NARRATOR),),
    ]
)
_metadata = st.fixed_dictionaries(
    {
        "title": st.sampled_from(["The Hobbit", "Hobbit", "hobbit: a", "A", "…", "Élan", "Zoo"])
        | st.text(st.characters(codec="utf-8", exclude_categories=["C"]), min_size=1, max_size=200),
        "contributors": _people,
        "patrons_in_hold_queue": st.integers(0, 2),
    }
).filter(lambda metadata: str(metadata["title"]).strip())
_titles = st.lists(
    st.tuples(st.none() | _metadata, st.lists(st.integers(1, 5), max_size=2, unique=True)), max_size=10
)
_orders = st.builds(TitleOrder, st.sampled_from(SortKey), st.booleans())


def store(session: Session, titles: list[tuple[dict[str, Any] | None, list[int]]]) -> Collection:
    """Store titles, each with metadata and the days of its purchases, in a new collection."""
    collection = make_collection(session, f"Library {next(_numbers)}")
    # Pools are added in the order of their identifiers.
    names = [f"{next(_numbers):06}" for _ in titles]
    kind = IdentifierType.BIBLIOTHECA
    pools = LicensePool.for_foreign_ids(session, SOURCE, kind, names, collection=collection)
    for name, (metadata, days) in zip(names, titles, strict=True):
        pool = pools[name][0]
        for day in days:
            record = PurchaseRecordData(pool, lambda: b"marc", "hash")
            store_purchase_records(session, {PurchaseDate(date(2016, 5, day)): [record]})
        if metadata is not None:
            apply_titles(session, {pool.id: title_data(name, **metadata)})
    session.commit()
    return collection


def read_pages(session: Session, matches: Matches, order: TitleOrder, limit: int) -> list[list[str]]:
    """Return the identifiers of all pages, and check the cursor of the page before each of them."""
    pages: list[list[str]] = []
    cursors: list[str | None] = [None]
    while len(pages) < len(cursors):
        page = find_titles(session, matches, order, cursor=cursors[-1], limit=limit)
        pages.append([title.identifier for title in page.titles])
        if cursors[-1] is not None:
            assert previous_cursor(session, matches, order, cursors[-1], limit=limit) == cursors[-2]
        if page.next is not None:
            cursors.append(page.next)
    return pages


def sorted_names(titles: Mapping[str, tuple[TitleData | None, list[int]]], order: TitleOrder) -> list[str]:
    """Return the names of the titles in the order: those without a value are last, but 0 is a number."""
    data = {name: stored for name, (stored, _) in titles.items()}
    values: Mapping[SortKey, Callable[[str], Any]] = {
        SortKey.PURCHASED: lambda name: min(titles[name][1], default=None),
        SortKey.TITLE: lambda name: (each := data[name]) and each.bibliographic.sort_title(),
        SortKey.AUTHOR: lambda name: (each := data[name]) and each.bibliographic.sort_author(),
        SortKey.HOLDS: lambda name: each.circulation.patrons_in_hold_queue if (each := data[name]) else 0,
        SortKey.IMPORTED: lambda name: list(titles).index(name),
    }
    value = values[order.key]
    imported = list(titles)
    if order.is_descending:
        imported.reverse()
    with_value = [name for name in imported if value(name) is not None]
    with_value.sort(key=value, reverse=order.is_descending)
    return with_value + [name for name in imported if value(name) is None]


@given(titles=_titles, order=_orders, limit=st.integers(1, 4))
@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_pages_of_any_titles_are_the_sorted_list(
    database: None, titles: list[tuple[dict[str, Any] | None, list[int]]], order: TitleOrder, limit: int
) -> None:
    with Session(engine()) as session:
        matches = match_titles(session, TitleFilter(collection=store(session, titles).name))
        imported = TitleOrder(SortKey.IMPORTED, is_descending=False)
        names = [title.identifier for title in list_titles(session, matches, imported)]
        data = {
            name: (title_data(name, **metadata) if metadata else None, days)
            for name, (metadata, days) in zip(names, titles, strict=True)
        }
        expected = sorted_names(data, order)

        pages = read_pages(session, matches, order, limit)
        assert [name for page in pages for name in page] == expected
        assert all(len(page) == limit for page in pages[:-1])
        assert [title.identifier for title in list_titles(session, matches, order)] == expected


def test_titles_are_sorted_by_title_without_article(session: Session) -> None:
    titles = {"a": "The Zoo", "b": "“Émile”", "c": "Die Verwandlung", "d": "A", "e": "A Tale", "f": "émile 2"}
    collection = make_collection(session, "Alder Library")
    for name, title in titles.items():
        store_title(session, collection, name, title=title, language="ger" if name == "c" else "eng")

    assert identifiers(session, "title") == ["d", "b", "f", "e", "c", "a"]
    assert identifiers(session, "-title") == ["a", "c", "e", "f", "b", "d"]


def test_titles_are_sorted_by_last_name_of_author(session: Session, collection: Collection) -> None:
    people = {
        "a": (person("Reader, Rita", ContributorRole.NARRATOR), person("Lem, Stanisław")),
        "b": (person("Zola, Émile", ContributorRole.EDITOR), person("Abel, Ann")),
        "c": (person("Abel, Ann", ContributorRole.NARRATOR),),
        "d": (person("Inker, Ann", ContributorRole.INKER),),
    }
    for name, contributors in people.items():
        store_title(session, collection, name, contributors=contributors)

    assert identifiers(session, "author") == ["b", "d", "a", "c"]
    assert identifiers(session, "-author") == ["a", "d", "b", "c"]


def test_titles_are_sorted_by_first_purchase(session: Session, collection: Collection) -> None:
    make_pool(session, collection, "never")
    days = {"old": [date(2014, 1, 1), date(2020, 1, 1)], "new": [date(2016, 1, 1)]}
    for name, purchases in days.items():
        for day in purchases:
            store_title_in_use(session, collection, name, purchased_on=day)

    assert identifiers(session, "-purchased") == ["new", "old", "never"]
    assert identifiers(session, "purchased") == ["old", "new", "never"]


def test_matches_of_text_are_sorted_on_request(session: Session, collection: Collection) -> None:
    for name, title in {"a": "Dune", "b": "Dune Messiah", "c": "Children of Dune", "d": "Emma"}.items():
        store_title(session, collection, name, title=title)

    assert identifiers(session, None, "dune") == ["a", "b", "c"]
    assert identifiers(session, "title", "dune") == ["c", "a", "b"]
    assert identifiers(session, "imported", "dune") == ["a", "b", "c"]


def identifiers(session: Session, order: str | None, text: str = "") -> list[str]:
    parsed = TitleOrder.parse(order) if order else None
    matches = match_titles(session, TitleFilter(text))
    return [title.identifier for title in list_titles(session, matches, parsed)]


def test_page_follows_a_title_whose_value_has_changed(session: Session, collection: Collection) -> None:
    for holds, name in enumerate("abcd"):
        store_title(session, collection, name, patrons_in_hold_queue=holds)
    order = TitleOrder.parse("-holds")
    everything = match_titles(session, TitleFilter())
    page = find_titles(session, everything, order, limit=2)
    assert [title.identifier for title in page.titles] == ["d", "c"]

    later = NOON + timedelta(hours=1)
    store_title(session, collection, "c", patrons_in_hold_queue=9, as_of=later)
    following = find_titles(session, everything, order, cursor=page.next, limit=2)
    assert [title.identifier for title in following.titles] == ["b", "a"]


@pytest.mark.parametrize("order", ["", "price", "--title", "title-"])
def test_unknown_order_is_rejected(order: str) -> None:
    with pytest.raises(InvalidInput, match="enter one of purchased, title, author, holds, imported"):
        TitleOrder.parse(order)


@pytest.mark.parametrize(
    ("order", "position"),
    [
        ("purchased", "1:2016-13-01"),
        ("purchased", "1:1"),
        ("holds", "1:-1"),
        ("holds", "1:9999999999"),
        ("holds", "9999999999"),
        ("title", "1:\0"),
        ("title", ":a"),
        ("imported", "1:1"),
        ("imported", ""),
        ("-imported", "1"),
    ],
)
def test_invalid_position_is_rejected(database: None, order: str, position: str) -> None:
    cursor = urlsafe_b64encode(f"{order.removeprefix('-')}:{position}".encode()).decode()
    with Session(engine()) as session, pytest.raises(InvalidInput, match="start again at the first page"):
        find_titles(session, match_titles(session, TitleFilter()), TitleOrder.parse(order), cursor=cursor)
