"""Finding titles, as somebody types who half remembers one."""

from datetime import date
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy.orm import Session

from accession.accounts.collections import mark_for_deletion
from accession.catalog.facets import Facets, title_facets
from accession.catalog.purchase_dates import PurchaseDate
from accession.catalog.purchase_records import PurchaseRecordData, store_purchase_records
from accession.catalog.recent_titles import RecentTitles, recent_titles
from accession.catalog.search import find_titles, previous_cursor
from accession.catalog.title_filter import TitleFilter
from accession.core.errors import UserError
from accession.core.vocabulary import ContributorRole, Format
from accession.db.engine import engine
from accession.db.models import Collection, LicensePool
from tests.fixtures.factories import apply_titles, make_collection, make_pool, person, title_data


def hold(session: Session, collection: Collection, identifier: str, **said: Any) -> LicensePool:
    """A title of the collection that shares nothing with others but what is said."""
    pool = make_pool(session, collection, identifier)
    plain: dict[str, Any] = {"contributors": (), "publisher": None, "isbns": ()}
    apply_titles(session, {pool.id: title_data(identifier, **plain | said)})
    session.commit()
    return pool


def found(session: Session, text: str = "", **chosen: Any) -> list[str]:
    """The ids of the titles found; those of the collections are told apart by theirs."""
    return [view.identifier for view in find_titles(session, TitleFilter(text, **chosen)).titles]


@pytest.fixture
def shelf(session: Session, collection: Collection) -> Collection:
    """A collection of some titles by some people."""
    tolkien, lem = person("Tolkien, J. R. R."), person("Lem, Stanisław")
    reader = person("Reader, Rita", ContributorRole.NARRATOR)
    hold(session, collection, "hobbit", title="The Hobbit", contributors=(tolkien, reader))
    hold(session, collection, "rings", title="The Lord of the Rings", contributors=(tolkien,), language="eng")
    hold(
        session, collection, "solaris", title="Solaris", subtitle="Powieść", contributors=(lem,), isbns=ISBNS
    )
    hold(session, collection, "etranger", title="L’Étranger: roman", publisher="Éditions Gallimard")
    return collection


ISBNS = ("9788308068298", "9780156027601")


# Words


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
def test_titles_are_found_by_their_words(
    session: Session, shelf: Collection, text: str, expected: list[str]
) -> None:
    assert found(session, text) == expected


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
def test_misspelt_titles_are_found_where_nothing_is_spelt_so(
    session: Session, shelf: Collection, text: str, expected: list[str]
) -> None:
    assert found(session, text) == expected


@pytest.mark.parametrize(
    "text",
    ["9788308068298", "978-83-08-06829-8", " 978 8308068298 ", "8308068294", "83-08-06829-4", "0156027607"],
)
def test_an_isbn_is_found_however_it_is_written(session: Session, shelf: Collection, text: str) -> None:
    hold(session, shelf, "9788308068299", title="Another")

    assert found(session, text) == ["solaris"]


def test_the_vendors_id_is_found_exactly_also_of_a_title_without_a_description(
    session: Session, shelf: Collection
) -> None:
    make_pool(session, shelf, "bare-1")
    hold(session, shelf, "x1", title="A book about solaris")

    assert found(session, "bare-1") == ["bare-1"]
    assert found(session, "solaris") == ["solaris"]


def test_titles_most_like_the_words_come_first(session: Session, collection: Collection) -> None:
    hold(session, collection, "about", title="All about the making of Dune and other films")
    hold(session, collection, "second", title="Dune Messiah")
    hold(session, collection, "first", title="Dune")
    hold(session, collection, "publisher", title="Sand", publisher="Dune Press")

    assert found(session, "dune") == ["first", "second", "about", "publisher"]


def test_a_title_is_found_by_its_new_words_once_it_has_changed(session: Session, shelf: Collection) -> None:
    hold(session, shelf, "solaris", title="Eden")

    assert (found(session, "solaris powiesc"), found(session, "eden")) == ([], ["solaris"])


def test_a_title_that_goes_on_for_ever_is_found_by_its_beginning(
    session: Session, collection: Collection
) -> None:
    long = " ".join(f"word{n:06}" for n in range(200_000))
    hold(session, collection, "long", title=f"Beginning {long}")

    assert found(session, "beginning word000001") == ["long"]


@given(text=st.text(max_size=300) | st.text("'\"\\&|!():*<-> \0\ud800ﷺ㌖aé", max_size=300))
@settings(deadline=None, max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_text_may_be_asked_for(shelf: Collection, text: str) -> None:
    with Session(engine()) as session:
        assert find_titles(session, TitleFilter(text)).total <= 4


# Filters


def test_titles_are_chosen_by_what_they_are(session: Session, collection: Collection) -> None:
    other = make_collection(session, "Birch Library")
    hold(session, collection, "pdf", title="One", format=Format.PDF, language="ger")
    hold(session, collection, "mp3", title="Two", format=Format.MP3, language="eng")
    hold(session, other, "birch", title="Two", language="eng")
    make_pool(session, collection, "bare")

    assert found(session) == ["pdf", "mp3", "birch", "bare"]
    assert found(session, collection="Alder Library") == ["pdf", "mp3", "bare"]
    assert found(session, "two", collection="Birch Library") == ["birch"]
    assert found(session, format="pdf") == ["pdf"]
    assert found(session, language="eng") == ["mp3", "birch"]
    assert found(session, "one", language="eng") == []
    assert found(session, format="\0") == []


@pytest.mark.parametrize(
    ("availability", "expected"),
    [
        ("available", ["free", "free but waited for"]),
        ("waiting", ["lent", "free but waited for"]),
        ("gone", ["gone"]),
    ],
)
@pytest.mark.parametrize("text", ["", "copies"])
def test_titles_are_chosen_by_whether_a_reader_can_have_them(
    session: Session, collection: Collection, availability: str, expected: list[str], text: str
) -> None:
    for identifier, counts in {
        "free": (2, 1, 0),
        "lent": (2, 0, 0),
        "gone": (0, 0, 0),
        "free but waited for": (2, 1, 3),
    }.items():
        names = ("licenses_owned", "licenses_available", "patrons_in_hold_queue")
        hold(session, collection, identifier, title="Copies", **dict(zip(names, counts, strict=True)))
    make_pool(session, collection, "unknown")

    assert found(session, text, availability=availability) == expected


def test_an_availability_that_there_is_not_is_said(session: Session, collection: Collection) -> None:
    with pytest.raises(UserError, match='known to be "lost": choose one of available, waiting, gone'):
        find_titles(session, TitleFilter(availability="lost"))
    with pytest.raises(UserError, match='No collection found named "Nobody"'):
        find_titles(session, TitleFilter(collection="Nobody"))


def test_titles_are_chosen_by_when_they_were_bought(session: Session, collection: Collection) -> None:
    def buy(identifier: str, *bought: PurchaseDate) -> None:
        pool = hold(session, collection, identifier, title="Bought")
        for each in bought:
            store_purchase_records(session, each, [PurchaseRecordData(pool, lambda: b"marc", "hash")])
        session.commit()

    buy("march", PurchaseDate(date(2014, 3, 31)))
    buy("april", PurchaseDate(date(2014, 4, 1), month_only=True))
    buy("twice", PurchaseDate(date(2014, 3, 1)), PurchaseDate(date(2016, 5, 1)))
    buy("never")

    assert found(session, purchased_from=date(2014, 3, 31)) == ["march", "april", "twice"]
    assert found(session, purchased_from=date(2014, 4, 30)) == ["april", "twice"]
    assert found(session, purchased_until=date(2014, 3, 31)) == ["march", "twice"]
    assert found(session, "bought", purchased_from=date(2014, 4, 2), purchased_until=date(2014, 4, 2)) == (
        ["april"]
    )
    assert found(session, purchased_from=date(2014, 5, 1), purchased_until=date(2016, 4, 30)) == []


def test_titles_of_a_collection_marked_for_deletion_are_not_found(
    session: Session, shelf: Collection
) -> None:
    mark_for_deletion(shelf)
    session.commit()

    assert (found(session), found(session, "hobbit"), found(session, "hobbit x")) == ([], [], [])
    assert title_facets(session) == Facets((), ())


# Pages


@pytest.mark.parametrize("text", ["", "dune", "duna"])
@pytest.mark.parametrize("limit", [1, 2, 3, 7, 8])
def test_pages_follow_each_other_to_the_end(
    session: Session, collection: Collection, text: str, limit: int
) -> None:
    names = [f"t{n}" for n in (4, 2, 5, 1, 6, 3, 7)]
    for name in names:
        hold(session, collection, name, title="Dune")

    seen: list[str] = []
    cursor: str | None = None
    for _ in range(0, len(names), limit):
        page = find_titles(session, TitleFilter(text), cursor=cursor, limit=limit)
        seen += [view.identifier for view in page.titles]
        assert (page.total, page.total_is_exact) == (7, True)
        cursor = page.next

    assert seen == names
    assert cursor is None


@pytest.mark.parametrize("text", ["", "dune"])
def test_more_than_a_thousand_are_not_counted(
    session: Session, collection: Collection, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    monkeypatch.setattr("accession.catalog.search._MOST", 2)
    for name in ("a", "b"):
        hold(session, collection, name, title="Dune")
    page = find_titles(session, TitleFilter(text))
    assert (page.total, page.total_is_exact) == (2, True)

    hold(session, collection, "c", title="Dune")

    page = find_titles(session, TitleFilter(text))
    assert (page.total, page.total_is_exact) == (2, False)


CURSORS = ["", "x", "ä", "cmFuazo", "cG9vbDo5OTk5OTk5OTk5", "cG9vbDotMQ==", "\0"]


@pytest.mark.parametrize("cursor", CURSORS)
@pytest.mark.parametrize("text", ["", "dune"])
def test_a_cursor_of_something_else_is_refused(
    session: Session, collection: Collection, cursor: str, text: str
) -> None:
    with pytest.raises(UserError, match="is not one of this search: begin at its first page"):
        find_titles(session, TitleFilter(text), cursor=cursor)


def test_a_cursor_of_a_list_in_order_is_none_of_a_search(session: Session, shelf: Collection) -> None:
    in_order = find_titles(session, TitleFilter(), limit=1).next
    best_first = find_titles(session, TitleFilter("tolkien"), limit=1).next

    with pytest.raises(UserError):
        find_titles(session, TitleFilter("tolkien"), cursor=in_order)
    with pytest.raises(UserError):
        find_titles(session, TitleFilter(), cursor=best_first)


@pytest.mark.parametrize("text", ["", "dune"])
def test_from_each_page_one_can_go_back_to_the_one_before(
    session: Session, collection: Collection, text: str
) -> None:
    for number in range(7):
        hold(session, collection, f"t{number}", title="Dune")
    wanted = TitleFilter(text)
    cursors: list[str] = []
    while (following := find_titles(session, wanted, cursor=cursors[-1] if cursors else None, limit=2)).next:
        cursors.append(following.next)
    assert len(cursors) == 3
    before = [previous_cursor(session, wanted, cursor, limit=2) for cursor in cursors]
    assert before == [None, *cursors[:2]]
    with pytest.raises(UserError, match="is not one of this search"):
        previous_cursor(session, wanted, "x")


def test_what_is_held_leaves_out_what_is_gone(session: Session, collection: Collection) -> None:
    hold(session, collection, "here")
    hold(session, collection, "gone", licenses_owned=0, licenses_available=0)
    make_pool(session, collection, "not told yet")
    assert found(session) == ["here", "gone", "not told yet"]
    assert found(session, held=True) == ["here", "not told yet"]
    assert found(session, "gone", held=True) == []


# What is new


def test_the_newest_are_those_bought_last_each_once(session: Session, collection: Collection) -> None:
    other = make_collection(session, "Birch Library")
    for name, days in {"a": (1, 9), "b": (8,), "c": (2,), "gone": (10,)}.items():
        copies = 0 if name == "gone" else 2
        pool = hold(session, collection, name, licenses_owned=copies, licenses_available=copies)
        theirs = hold(session, other, name)
        for day in days:
            records = [PurchaseRecordData(pool, lambda: b"marc", f"{day}")]
            store_purchase_records(session, PurchaseDate(date(2024, 5, day)), records)
        store_purchase_records(
            session, PurchaseDate(date(2024, 5, 20)), [PurchaseRecordData(theirs, lambda: b"marc", "x")]
        )
    newest = recent_titles(session, collection.id, limit=2)
    assert ([title.identifier for title in newest.titles], newest.since) == (["a", "b"], date(2024, 5, 8))
    assert [title.identifier for title in recent_titles(session, collection.id, limit=9).titles] == [
        "a",
        "b",
        "c",
    ]
    nothing = make_collection(session, "Cedar Library")
    assert recent_titles(session, nothing.id, limit=9) == RecentTitles((), None)


# Facets


def test_facets_are_what_the_titles_of_a_collection_have(session: Session, collection: Collection) -> None:
    other = make_collection(session, "Birch Library")
    assert title_facets(session) == Facets((), ())
    hold(session, collection, "a", format=Format.PDF, language="ger", title="A")
    hold(session, collection, "b", format=Format.EPUB, language=None, title="B")
    hold(session, other, "c", format=None, language="eng", title="C")

    assert title_facets(session) == Facets(("epub", "pdf"), ("eng", "ger"))
    assert title_facets(session, "Alder Library") == Facets(("epub", "pdf"), ("ger",))
    assert title_facets(session, "Birch Library") == Facets((), ("eng",))
    with pytest.raises(UserError):
        title_facets(session, "Nobody")
