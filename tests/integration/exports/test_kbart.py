"""KBART lists, compared with NISO RP-9-2014."""

import csv
import io
from datetime import date, timedelta
from typing import Any

import pytest
import time_machine
from sqlalchemy.orm import Session

from accession.catalog.data import ContributorData
from accession.catalog.feed_filter import FeedFilter
from accession.core.vocabulary import ContributorRole, Medium
from accession.db.models import Collection
from accession.exports.kbart import file_name, write_kbart
from tests.fixtures.factories import NOON, apply_titles, make_collection, make_pool, person, title_data

# Columns of Phase II in order.
STANDARD = [
    "publication_title",
    "print_identifier",
    "online_identifier",
    "date_first_issue_online",
    "num_first_vol_online",
    "num_first_issue_online",
    "date_last_issue_online",
    "num_last_vol_online",
    "num_last_issue_online",
    "title_url",
    "first_author",
    "title_id",
    "embargo_info",
    "coverage_depth",
    "notes",
    "publisher_name",
    "publication_type",
    "date_monograph_published_print",
    "date_monograph_published_online",
    "monograph_volume",
    "monograph_edition",
    "first_editor",
    "parent_publication_title_id",
    "preceding_publication_title_id",
    "access_type",
]
EVERYTHING = FeedFilter()
URL = "https://library.example/title/{identifier}"
HOUR = timedelta(hours=1)


def add_title(session: Session, collection: Collection, identifier: str, **changes: Any) -> None:
    """Add a title with metadata to the collection and commit."""
    pool = make_pool(session, collection, identifier)
    apply_titles(session, {pool.id: title_data(identifier, **changes)})
    session.commit()


def export(session: Session, selection: FeedFilter = EVERYTHING, url: str | None = URL) -> bytes:
    out = io.BytesIO()
    write_kbart(session, selection, out, url_template=url)
    return out.getvalue()


def rows(data: bytes) -> list[dict[str, str]]:
    text = io.StringIO(data.decode(), newline="")
    return list(csv.DictReader(text, delimiter="\t", quoting=csv.QUOTE_NONE, strict=True))


def changes(session: Session, selection: FeedFilter) -> dict[str, str]:
    return {row["title_id"]: row["change"] for row in rows(export(session, selection))}


def test_title_fills_the_standard_columns(session: Session, collection: Collection) -> None:
    add_title(
        session,
        collection,
        "hain 1",
        title="The Dispossessed",
        subtitle="An Ambiguous Utopia",
        contributors=(person("Le Guin, Ursula K."), person("Lem, Stanisław")),
        isbns=("9780061054884", "9780060125639"),
        publisher="Harper & Row",
        published="1974-05-01",
    )
    data = export(session)
    assert data.split(b"\n")[0].decode().split("\t") == STANDARD
    assert len(STANDARD) == 25
    (row,) = rows(data)
    assert {name: value for name, value in row.items() if value} == {
        "publication_title": "The Dispossessed: An Ambiguous Utopia",
        "print_identifier": "9780060125639",
        "online_identifier": "9780061054884",
        "title_url": "https://library.example/title/hain%201",
        "first_author": "Le Guin",
        "title_id": "hain 1",
        "coverage_depth": "fulltext",
        "publisher_name": "Harper & Row",
        "publication_type": "monograph",
        "date_monograph_published_online": "1974-05-01",
        "access_type": "P",
    }


@pytest.mark.parametrize(
    ("sort_name", "column"),
    [
        ("O'Brien, Tim, 1946-", "O'Brien"),
        ("Plato", "Plato"),
        ("Penguin Random House, LLC", "Penguin Random House, LLC"),
        ("Great Courses, The", "The Great Courses"),
    ],
)
def test_first_author_and_editor_are_last_names(
    sort_name: str, column: str, session: Session, collection: Collection
) -> None:
    people = [
        ContributorData(sort_name=sort_name, display_name="Not exported", role=role)
        for role in (ContributorRole.EDITOR, ContributorRole.AUTHOR)
    ]
    add_title(session, collection, "a", contributors=(*people, person("Doe, J.", ContributorRole.EDITOR)))
    (row,) = rows(export(session))
    assert (row["first_author"], row["first_editor"]) == (column, column)


def test_title_without_details_has_empty_columns(session: Session, collection: Collection) -> None:
    bare = {"contributors": (), "isbns": (), "publisher": None, "published": None}
    add_title(session, collection, "a", medium=Medium.AUDIOBOOK, **bare)
    make_pool(session, collection, "no metadata")
    (row,) = rows(export(session, url=None))
    assert {name: value for name, value in row.items() if value} == {
        "publication_title": "Title a",
        "title_url": "https://ebook.yourcloudlibrary.com/library/alder-document_id-a",
        "title_id": "a",
        "coverage_depth": "fulltext",
        "notes": "Audiobook",
        "publication_type": "monograph",
        "access_type": "P",
    }


def test_title_on_order_has_its_date_in_notes(session: Session, collection: Collection) -> None:
    add_title(session, collection, "a", medium=Medium.AUDIOBOOK, on_sale="2999-03-14")
    add_title(session, collection, "b", on_sale="2001")
    first, second = rows(export(session))
    assert (first["notes"], second["notes"]) == ("Audiobook; On order until 2999-03-14", "")


def test_titles_are_sorted_ignoring_accents_and_case(session: Session, collection: Collection) -> None:
    for identifier, title in [("1", "Zebra"), ("2", "élan"), ("3", "Eland"), ("4", "apple"), ("5", "Elan")]:
        add_title(session, collection, identifier, title=title)
    assert [row["publication_title"] for row in rows(export(session))] == [
        "apple",
        "élan",
        "Elan",
        "Eland",
        "Zebra",
    ]


def test_invisible_characters_do_not_change_the_order(session: Session, collection: Collection) -> None:
    titles = ["می\N{ZERO WIDTH NON-JOINER}بز", "میتر", "\N{RIGHT-TO-LEFT MARK}بز", "تر"]
    for number, title in enumerate(reversed(titles)):
        add_title(session, collection, f"t{number}", title=title)
    assert [row["publication_title"] for row in rows(export(session))] == [
        titles[2],
        titles[3],
        titles[0],
        titles[1],
    ]


def test_control_characters_become_blanks(session: Session, collection: Collection) -> None:
    add_title(
        session,
        collection,
        "evil",
        title="\"tab\there\r\nline\u2028end\x85 \x0b'",
        publisher="=1+1",
        contributors=(person("A\tB, C"),),
    )
    data = export(session)
    (row,) = rows(data)
    assert row["publication_title"] == "\"tab here line end '"
    assert (row["publisher_name"], row["first_author"]) == ("=1+1", "A B")
    assert len(data.decode().splitlines()) == 2
    assert not data.startswith(b"\xef\xbb\xbf")


def test_title_of_several_collections_is_listed_once(session: Session, collection: Collection) -> None:
    other = make_collection(session, "Birch Library")
    add_title(session, collection, "both")
    add_title(session, other, "both")
    add_title(session, other, "one")
    assert [row["title_id"] for row in rows(export(session))] == ["both", "one"]
    only = FeedFilter(collections=(collection.id,))
    assert [row["title_id"] for row in rows(export(session, only))] == ["both"]


def test_changes_are_an_additional_column(session: Session, collection: Collection) -> None:
    other = make_collection(session, "Birch Library")
    later = NOON + HOUR
    with time_machine.travel(NOON, tick=False):
        for identifier in ("same", "modified", "withdrawn", "withdrawn from one"):
            add_title(session, collection, identifier)
        add_title(session, other, "withdrawn from one")
    with time_machine.travel(later, tick=False):
        no_copies = {"licenses_owned": 0, "licenses_available": 0, "as_of": later}
        add_title(session, collection, "modified", publisher="Another", as_of=later)
        add_title(session, collection, "withdrawn", **no_copies)
        add_title(session, collection, "withdrawn from one", **no_copies)
        add_title(session, collection, "new")
    since = FeedFilter(since=later, with_removed=True)
    assert export(session, since).split(b"\n")[0].decode().split("\t") == [*STANDARD, "change"]
    assert changes(session, since) == {
        "modified": "changed",
        "withdrawn": "removed",
        "withdrawn from one": "changed",
        "new": "new",
    }
    assert (
        changes(session, FeedFilter((collection.id,), since=later, with_removed=True))["withdrawn from one"]
        == "removed"
    )
    assert changes(session, FeedFilter(since=later + HOUR, with_removed=True)) == {}


def test_equal_lists_are_equal_bytes_and_progress_is_reported(
    session: Session, collection: Collection
) -> None:
    for identifier in "cab":
        add_title(session, collection, identifier)
    reports: list[int] = []
    out = io.BytesIO()
    assert write_kbart(session, FeedFilter(), out, url_template=URL, progress=reports.append) == 3
    assert reports == [3]
    assert export(session) == out.getvalue()


def test_file_name_follows_the_standard() -> None:
    day = date(2024, 5, 1)
    assert (
        file_name(["St. Mary's Library_2"], day, only_changes=False)
        == "cloudLibrary_StMarysLibrary2_AllTitles_2024-05-01.txt"
    )
    assert file_name(["a", "b"], day, only_changes=True) == "cloudLibrary_Consortium_Changes_2024-05-01.txt"
