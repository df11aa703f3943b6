"""Titles and collections as documents of OPDS 2.0."""

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema_rs import ValidationError

from accession.catalog.search import Facets, TitlePage
from accession.catalog.titles import TitleView
from accession.exports.opds import (
    BISAC,
    Part,
    Places,
    Sample,
    Shelf,
    catalog,
    collection_feed,
    language_tag,
    publication,
    publications_feed,
    title_url,
    written,
)
from tests.fixtures.factories import NOON
from tests.fixtures.opds import valid

TEMPLATE = "https://ebook.yourcloudlibrary.com/library/{library_id}-document_id-{identifier}"
FACETS = Facets(formats=("epub", "mp3"), languages=("ger",))
SHELF = Shelf(Places("https://acc.example/opds/v2"), 7, "Alder", "alder", TEMPLATE, {"FICTION / Fantasy"})
OURS = "https://acc.example/opds/v2/collections/7"

SOLARIS = TitleView(
    collection="Alder",
    identifier="abc9",
    title="Solaris",
    subtitle="Powieść",
    authors=("Stanisław Lem",),
    narrators=("Rita Reader",),
    medium="audiobook",
    format="mp3",
    language="ger",
    publisher="Wydawnictwo",
    published="1961-06-01",
    isbns=("9788308068298", "9780156027601"),
    subjects=("FICTION / Fantasy", "Planets"),
    page_count=204,
    duration_ms=27_000_500,
    description="An ocean thinks.",
    cover_url="https://images.example/1",
    licenses_owned=3,
    licenses_available=1,
    licenses_reserved=0,
    patrons_in_hold_queue=2,
    status="active",
    purchased_on="2024-05-01",
    updated_at=NOON,
)
NOTHING: dict[str, Any] = {
    name: () if isinstance(getattr(SOLARIS, name), tuple) else None
    for name in vars(SOLARIS)
    if name not in ("collection", "identifier", "updated_at")
}
COUNTS = ("licenses_owned", "licenses_available", "licenses_reserved", "patrons_in_hold_queue")
BARE = replace(SOLARIS, **NOTHING | dict.fromkeys(COUNTS, 0) | {"status": "unknown"})


def told(title: TitleView) -> Any:
    return valid("publication", json.loads(written(publication(SHELF, title))))


def test_all_that_is_known_of_a_title_is_told() -> None:
    assert told(SOLARIS) == {
        "metadata": {
            "@type": "http://schema.org/Audiobook",
            "title": "Solaris",
            "subtitle": "Powieść",
            "identifier": "urn:isbn:9788308068298",
            "altIdentifier": ["urn:isbn:9780156027601", "urn:bibliotheca:abc9"],
            "author": [{"name": "Stanisław Lem"}],
            "narrator": [{"name": "Rita Reader"}],
            "publisher": {"name": "Wydawnictwo"},
            "published": "1961-06-01",
            "modified": "2024-05-01T12:00:00Z",
            "language": "de",
            "subject": [{"name": "FICTION / Fantasy", "scheme": BISAC}, {"name": "Planets"}],
            "description": "An ocean thinks.",
            "numberOfPages": 204,
            "duration": 27000.5,
        },
        "links": [
            {
                "rel": "self",
                "href": f"{OURS}/publications/abc9",
                "type": "application/opds-publication+json",
            },
            {
                "rel": "http://opds-spec.org/acquisition/borrow",
                "href": "https://ebook.yourcloudlibrary.com/library/alder-document_id-abc9",
                "type": "text/html",
                "properties": {
                    "copies": {"total": 3, "available": 1},
                    "holds": {"total": 2},
                    "availability": {"state": "available"},
                },
            },
        ],
        "images": [{"href": f"{OURS}/publications/abc9/cover", "type": "image/jpeg"}],
    }


def test_what_is_not_known_is_left_out() -> None:
    found = told(BARE)
    assert found["metadata"] == {
        "@type": "http://schema.org/EBook",
        "title": "abc9",
        "identifier": "urn:bibliotheca:abc9",
        "modified": "2024-05-01T12:00:00Z",
    }
    assert found["links"][1]["properties"] == {"availability": {"state": "unavailable"}}
    assert found["images"][0]["type"] == "image/svg+xml"


def test_a_year_is_no_day_on_which_a_title_was_published() -> None:
    for published in ("1961", "1961-06"):
        assert "published" not in told(replace(SOLARIS, published=published))["metadata"]


@pytest.mark.parametrize(
    ("code", "tag"),
    [("eng", "en"), ("ger", "de"), ("deu", "de"), ("grc", "grc"), ("mul", "mul"), ("qqq", "qqq")],
)
def test_a_language_has_its_shortest_tag(code: str, tag: str) -> None:
    assert language_tag(code) == tag


@given(st.builds(replace, st.just(SOLARIS), title=st.text(min_size=1), identifier=st.text(min_size=1)))
def test_whatever_a_title_says_stays_data(title: TitleView) -> None:
    document = told(title)
    assert document["metadata"]["title"] == title.title
    assert title_url(TEMPLATE, "{identifier}", title.identifier).startswith("https://ebook.yourcloud")
    assert document["links"][0]["href"].startswith(f"{OURS}/publications/")
    assert document["links"][0]["href"].count("/") == f"{OURS}/publications/x".count("/")


def test_a_document_that_says_less_than_it_must_is_found_out() -> None:
    document = told(SOLARIS)
    del document["links"][1]
    with pytest.raises(ValidationError):
        valid("publication", document)


def feed_of(part: Part) -> Any:
    return valid("feed", json.loads(written(publications_feed(SHELF, part, FACETS))))


def links_of(document: Any) -> dict[str, str]:
    """The links of a document, or of a facet, by relation and else by title."""
    return {link.get("rel") or link["title"]: link["href"] for link in document["links"]}


def test_a_part_of_a_list_leads_to_the_others() -> None:
    chosen = {"query": "an ocean", "format": "mp3", "language": None}
    page = TitlePage((SOLARIS,), "n", total=151, total_is_exact=True)
    document = feed_of(Part(page, 50, 3, "3.c", "p", "search", chosen))
    assert document["metadata"] == {
        "title": "Alder: an ocean",
        "numberOfItems": 151,
        "itemsPerPage": 50,
        "currentPage": 3,
    }
    here = f"{OURS}/search?query=an+ocean&format=mp3"
    assert links_of(document) == {
        "self": f"{here}&page=3.c",
        "first": here,
        "previous": f"{here}&page=2.p",
        "next": f"{here}&page=4.n",
        "start": "https://acc.example/opds/v2",
        "up": OURS,
        "search": f"{OURS}/search{{?query}}",
    }
    assert len(document["publications"]) == 1


def test_a_list_of_one_part_is_its_first_and_its_last() -> None:
    document = feed_of(Part(TitlePage((), None, 1000, False), 50, 1, None, None, "publications", {}))
    assert document["metadata"] == {"title": "Alder: all titles", "itemsPerPage": 50, "currentPage": 1}
    links = links_of(document)
    assert links["self"] == links["first"] == links["last"] == f"{OURS}/publications"
    assert links.keys().isdisjoint({"next", "previous"})
    assert document["publications"] == []


def test_facets_keep_what_was_chosen_and_can_be_taken_back() -> None:
    chosen = {"query": "x", "format": "mp3"}
    document = feed_of(Part(TitlePage((), None, 0, True), 50, 1, None, None, "search", chosen))
    facets = {facet["metadata"]["title"]: links_of(facet) for facet in document["facets"]}
    assert facets == {
        "Availability": {
            "self": f"{OURS}/search?query=x&format=mp3",
            "Available now": f"{OURS}/search?query=x&format=mp3&availability=available",
            "To wait for": f"{OURS}/search?query=x&format=mp3&availability=waiting",
        },
        "Format": {
            "All": f"{OURS}/search?query=x",
            "EPUB": f"{OURS}/search?query=x&format=epub",
            "self": f"{OURS}/search?query=x&format=mp3",
        },
        "Language": {
            "self": f"{OURS}/search?query=x&format=mp3",
            "German": f"{OURS}/search?query=x&format=mp3&language=ger",
        },
    }


def test_a_collection_shows_samples_of_what_it_has() -> None:
    samples = [
        Sample("Bought lately", (SOLARIS, BARE), {"purchased_from": "2024-05-01"}),
        Sample("Audiobooks", (), {"format": "mp3"}, 0),
        Sample("Available now", (SOLARIS,), {"availability": "available"}, 1),
    ]
    document = valid("feed", json.loads(written(collection_feed(SHELF, samples, FACETS))))
    groups = {group["metadata"]["title"]: group for group in document["groups"]}
    assert list(groups) == ["Bought lately", "Available now"]
    assert links_of(groups["Bought lately"]) == {"self": f"{OURS}/publications?purchased_from=2024-05-01"}
    assert groups["Available now"]["metadata"]["numberOfItems"] == 1
    assert [found["href"] for found in document["navigation"]] == [f"{OURS}/publications"]


def test_a_token_that_stood_in_the_address_stands_in_those_that_lead_on() -> None:
    places = Places("https://acc.example/opds/v2", "acc_x")
    shelf = replace(SHELF, places=places)
    documents = [
        catalog(places, [(7, "Alder")]),
        collection_feed(shelf, [Sample("New", (SOLARIS,), {})], FACETS),
    ]
    for document in documents:
        text = written(document).decode()
        assert text.count("acc_x") == text.count("https://acc.example/")
    assert f"{OURS}/search?token=acc_x{{&query}}" in text


def test_the_same_document_is_the_same_bytes() -> None:
    assert written(publication(SHELF, SOLARIS)) == written(publication(SHELF, SOLARIS))
