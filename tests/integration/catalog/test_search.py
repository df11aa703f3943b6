"""Search by words, ISBN and vendor's id, and pages of results, in a catalogue that the tests only read."""

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy.orm import Session

from accession.accounts.collections import mark_for_deletion
from accession.catalog.search import TitlePage, find_titles, match_titles, previous_cursor
from accession.catalog.title_filter import TitleFilter
from accession.catalog.title_order import SortKey, TitleOrder
from accession.core.errors import InvalidInput
from accession.core.vocabulary import ContributorRole
from accession.db.engine import engine
from tests.fixtures.factories import apply_titles, make_collection, make_pool, person, title_data
from tests.fixtures.servers import delete_all_rows

SOLARIS_ISBNS = ("9788308068298", "9780156027601")
SEVEN_DUNES = [f"t{number}" for number in (4, 2, 5, 1, 6, 3, 7)]
IMPORTED = TitleOrder(SortKey.IMPORTED, is_descending=False)
TOLKIEN, LEM = person("Tolkien, J. R. R."), person("Lem, Stanisław")

# Collection to identifier to fields of the title.
TITLES: dict[str, dict[str, dict[str, Any]]] = {
    "Alder Library": {
        "hobbit": {
            "title": "The Hobbit",
            "contributors": (TOLKIEN, person("Reader, Rita", ContributorRole.NARRATOR)),
        },
        "rings": {"title": "The Lord of the Rings", "contributors": (TOLKIEN,), "language": "eng"},
        "solaris": {
            "title": "Solaris",
            "subtitle": "Powieść",
            "contributors": (LEM, person("Johnston, Bill", ContributorRole.TRANSLATOR)),
            "isbns": SOLARIS_ISBNS,
        },
        "etranger": {"title": "L’Étranger: roman", "publisher": "Éditions Gallimard"},
    },
    "Aspen Library": {
        "persian": {"title": "می\N{ZERO WIDTH NON-JOINER}خواهم"},
        "hearts": {"title": "Queen of ❤\N{VARIATION SELECTOR-16}beat"},
    },
    "Birch Library": {
        "x1": {"title": "A book about solaris"},
        "9788308068299": {"title": "Another"},
        "long": {"title": "Beginning " + " ".join(f"word{number:06}" for number in range(100_000))},
    },
    "Cedar Library": {
        "about": {"title": "All about the making of Dune and other films"},
        "second": {"title": "Dune Messiah"},
        "first": {"title": "Dune"},
        "publisher": {"title": "Sand", "publisher": "Dune Press"},
    },
    "Dogwood Library": {identifier: {"title": "Dune"} for identifier in SEVEN_DUNES},
    "Elder Library": {identifier: {"title": "Dune"} for identifier in ("e1", "e2")},
    "Fir Library": {identifier: {"title": "Dune"} for identifier in ("f1", "f2", "f3")},
    "Deleted Library": {"deleted": {"title": "Zanzibar"}},
}


@pytest.fixture(scope="module")
def catalogue(servers: object) -> None:
    """The titles, which share only the fields that are given."""
    delete_all_rows()
    with Session(engine()) as session:
        for name, titles in TITLES.items():
            collection = make_collection(session, name)
            pools = {make_pool(session, collection, identifier).id: identifier for identifier in titles}
            plain: dict[str, Any] = {"contributors": (), "publisher": None, "isbns": ()}
            apply_titles(
                session,
                {pool_id: title_data(name, **plain | titles[name]) for pool_id, name in pools.items()},
            )
            if name == "Deleted Library":
                mark_for_deletion(collection)
            if name == "Birch Library":
                make_pool(session, collection, "bare-1")
        session.commit()


@pytest.fixture
def reader(catalogue: None) -> Iterator[Session]:
    """A session that reads the catalogue."""
    with Session(engine()) as session:
        yield session


def search(session: Session, text: str = "", **filters: Any) -> list[str]:
    """Return the identifiers of the titles found."""
    matches = match_titles(session, TitleFilter(text, **filters))
    return [view.identifier for view in find_titles(session, matches).titles]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("hobbit", ["hobbit"]),
        ("HOBBIT", ["hobbit"]),
        ("the hob", ["hobbit"]),
        ("tolkien", ["hobbit", "rings"]),
        ("Tolkien, rings!", ["rings"]),
        ("rita reader", ["hobbit"]),
        ("stanislaw", ["solaris"]),
        ("bill johnston", ["solaris"]),
        ("POWIEŚĆ", ["solaris"]),
        ("powiesc", ["solaris"]),
        ("étranger", ["etranger"]),
        ("e\u0301tranger", ["etranger"]),
        ("letranger", ["etranger"]),
        ("l'etranger", ["etranger"]),
        ("gallimard", ["etranger"]),
        ("ｓｏｌａｒｉｓ", ["solaris"]),
        ("hobbit solaris", []),
        ("zzzzzz", []),
        ("...", []),
        ("→", []),
    ],
)
def test_search_finds_titles_by_words(reader: Session, text: str, expected: list[str]) -> None:
    assert search(reader, text, collection="Alder Library") == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("می\N{ZERO WIDTH NON-JOINER}خواهم", ["persian"]),
        ("میخواهم", ["persian"]),
        ("میخو", ["persian"]),
        ("queen of ❤beat", ["hearts"]),
        ("qu\N{ZERO WIDTH SPACE}een\N{ZERO WIDTH NO-BREAK SPACE}", ["hearts"]),
        ("\N{LEFT-TO-RIGHT MARK}persian\N{ZERO WIDTH SPACE}", ["persian"]),
    ],
)
def test_search_ignores_invisible_characters(reader: Session, text: str, expected: list[str]) -> None:
    assert search(reader, text, collection="Aspen Library") == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("hobit", ["hobbit"]),
        ("tolkein", ["hobbit", "rings"]),
        ("tolkein hobit", ["hobbit"]),
        ("solarys", ["solaris"]),
        ("slolaris", ["solaris"]),
        ("of solarys", ["solaris"]),
        ("zz", []),
    ],
)
def test_search_finds_similar_words(reader: Session, text: str, expected: list[str]) -> None:
    assert search(reader, text, collection="Alder Library") == expected


@pytest.mark.parametrize(
    "text",
    [
        "9788308068298",
        "978-83-08-06829-8",
        " 978 8308068298 ",
        "8308068293",
        "83-08-06829-3",
        "0156027607",
        "9788308068298 (ebook)",
        "ISBN: 9788308068298",
        "\N{LEFT-TO-RIGHT MARK}9788308068298",
    ],
)
def test_search_finds_isbn_in_any_notation(reader: Session, text: str) -> None:
    assert search(reader, text) == ["solaris"]


def test_search_finds_vendor_id_before_words(reader: Session) -> None:
    assert search(reader, "bare-1") == ["bare-1"]
    assert search(reader, "solaris") == ["solaris"]
    assert search(reader, "solaris book") == ["x1"]


def test_search_lists_most_similar_titles_first(reader: Session) -> None:
    assert search(reader, "dune", collection="Cedar Library") == ["first", "second", "about", "publisher"]


def test_search_covers_the_beginning_of_a_long_title(reader: Session) -> None:
    assert search(reader, "beginning word000001") == ["long"]


def test_search_skips_deleted_collections(reader: Session) -> None:
    assert (search(reader, "zanzibar"), search(reader, "zanzibra")) == ([], [])
    everything = find_titles(reader, match_titles(reader, TitleFilter()), limit=100).titles
    assert {title.collection for title in everything} == TITLES.keys() - {"Deleted Library"}


@given(text=st.text(max_size=300) | st.text("'\"\\&|!():*<-> \0\ud800ﷺ㌖aé", max_size=300))
@settings(deadline=None, max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_search_accepts_any_text(catalogue: None, text: str) -> None:
    with Session(engine()) as session:
        matches = match_titles(session, TitleFilter(text, collection="Alder Library"))
        assert find_titles(session, matches).total <= 4


@pytest.mark.parametrize("text", ["", "dune", "duna"])
@pytest.mark.parametrize("limit", [1, 2, 3, 7, 8])
def test_pages_cover_all_results_in_order(reader: Session, text: str, limit: int) -> None:
    matches = match_titles(reader, TitleFilter(text, collection="Dogwood Library"))
    identifiers: list[str] = []
    cursor: str | None = None
    for _ in range(0, len(SEVEN_DUNES), limit):
        page = find_titles(reader, matches, None if text else IMPORTED, cursor=cursor, limit=limit)
        identifiers += [view.identifier for view in page.titles]
        assert (page.total, page.total_is_exact) == (7, True)
        cursor = page.next

    assert identifiers == SEVEN_DUNES
    assert cursor is None


@pytest.mark.parametrize("text", ["", "dune"])
def test_total_is_a_lower_bound_above_the_maximum(
    reader: Session, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    monkeypatch.setattr("accession.catalog.search._MAX_RESULTS", 2)

    def find(collection: str) -> TitlePage:
        filters = TitleFilter(text, collection=f"{collection} Library", availability="available")
        return find_titles(reader, match_titles(reader, filters), limit=1)

    assert (find("Elder").total, find("Elder").total_is_exact) == (2, True)
    assert (find("Fir").total, find("Fir").total_is_exact) == (2, False)


def test_total_of_whole_collection_is_exact(reader: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("accession.catalog.search._MAX_RESULTS", 2)

    page = find_titles(reader, match_titles(reader, TitleFilter(collection="Fir Library")), limit=1)
    assert (page.total, page.total_is_exact) == (3, True)


@pytest.mark.parametrize("cursor", ["", "x", "ä", "cmFuazo", "cG9vbDo5OTk5OTk5OTk5", "cG9vbDotMQ==", "\0"])
@pytest.mark.parametrize("text", ["", "dune"])
def test_invalid_cursor_is_rejected(reader: Session, cursor: str, text: str) -> None:
    matches = match_titles(reader, TitleFilter(text))
    with pytest.raises(InvalidInput, match="does not belong to this search: start again at the first page"):
        find_titles(reader, matches, cursor=cursor)


def test_cursor_of_another_kind_of_list_is_rejected(reader: Session) -> None:
    everything, some = match_titles(reader, TitleFilter()), match_titles(reader, TitleFilter("tolkien"))
    in_import_order = find_titles(reader, everything, limit=1).next
    best_matches = find_titles(reader, some, limit=1).next

    with pytest.raises(InvalidInput):
        find_titles(reader, some, cursor=in_import_order)
    with pytest.raises(InvalidInput):
        find_titles(reader, everything, cursor=best_matches)


@pytest.mark.parametrize("text", ["", "dune"])
def test_previous_cursor_leads_to_the_page_before(reader: Session, text: str) -> None:
    matches = match_titles(reader, TitleFilter(text, collection="Dogwood Library"))
    cursors: list[str] = []
    while (page := find_titles(reader, matches, cursor=cursors[-1] if cursors else None, limit=2)).next:
        cursors.append(page.next)

    assert len(cursors) == 3
    previous = [previous_cursor(reader, matches, None, cursor, limit=2) for cursor in cursors]
    assert previous == [None, *cursors[:2]]
    with pytest.raises(InvalidInput, match="does not belong to this search"):
        previous_cursor(reader, matches, None, "x")
