"""OPDS 2.0 documents of titles and collections, validated against a JSON schema."""

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema_rs import ValidationError

from accession.catalog.contributors import OtherContributor
from accession.catalog.facets import Facets
from accession.catalog.search import TitlePage
from accession.catalog.titles import TitleView
from accession.core.languages import language_tag
from accession.exports.opds.feeds import (
    PublicationsPage,
    TitleGroup,
    build_collection_feed,
    build_publications_feed,
    build_root_feed,
)
from accession.exports.opds.models import BISAC_SCHEME, to_json
from accession.exports.opds.publications import build_publication
from accession.exports.opds.urls import FeedCollection, UrlBuilder
from accession.exports.templates import fill_vendor_url
from tests.fixtures.factories import NOON
from tests.fixtures.opds import validate

TEMPLATE = "https://ebook.yourcloudlibrary.com/library/{library_id}-document_id-{identifier}"
FACETS = Facets(formats=("epub", "mp3"), languages=("ger",))
COLLECTION = FeedCollection(
    UrlBuilder("https://acc.example/opds/v2"), 7, "Alder", "alder", TEMPLATE, {"FICTION / Fantasy"}
)
COLLECTION_URL = "https://acc.example/opds/v2/collections/7"

SOLARIS = TitleView(
    collection="Alder",
    identifier="abc9",
    title="Solaris",
    subtitle="Powieść",
    authors=("Stanisław Lem",),
    narrators=("Rita Reader",),
    editors=("Ed Itor",),
    translators=("Bill Johnston",),
    illustrators=("Ann Inker", "Ann Inker II"),
    other_contributors=(
        OtherContributor("Ann Inker", "penciller"),
        OtherContributor("Neil Gaiman", "writer of foreword"),
        OtherContributor("Max Muster", "contributor"),
    ),
    medium="audiobook",
    format="mp3",
    language="ger",
    audience="general",
    publisher="Wydawnictwo",
    published="1961-06-01",
    on_sale=None,
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
    warnings=(),
    updated_at=NOON,
)
UNKNOWN: dict[str, Any] = {
    name: () if isinstance(getattr(SOLARIS, name), tuple) else None
    for name in vars(SOLARIS)
    if name not in ("collection", "identifier", "updated_at")
}
COUNTS = ("licenses_owned", "licenses_available", "licenses_reserved", "patrons_in_hold_queue")
MINIMAL = replace(SOLARIS, **UNKNOWN | dict.fromkeys(COUNTS, 0) | {"status": "unknown"})


def build_valid_publication(title: TitleView) -> Any:
    return validate("publication", json.loads(to_json(build_publication(COLLECTION, title))))


def test_publication_has_all_metadata_and_links() -> None:
    assert build_valid_publication(SOLARIS) == {
        "metadata": {
            "@type": "http://schema.org/Audiobook",
            "title": "Solaris",
            "subtitle": "Powieść",
            "identifier": "http://librarysimplified.org/terms/id/Bibliotheca%20ID/abc9",
            "altIdentifier": ["urn:isbn:9788308068298", "urn:isbn:9780156027601"],
            "author": [{"name": "Stanisław Lem"}],
            "translator": [{"name": "Bill Johnston"}],
            "editor": [{"name": "Ed Itor"}],
            "illustrator": [{"name": "Ann Inker"}, {"name": "Ann Inker II"}],
            "penciler": [{"name": "Ann Inker"}],
            "contributor": [{"name": "Neil Gaiman", "role": "wfw"}, {"name": "Max Muster"}],
            "narrator": [{"name": "Rita Reader"}],
            "publisher": {"name": "Wydawnictwo"},
            "published": "1961-06-01",
            "modified": "2024-05-01T12:00:00Z",
            "language": "de",
            "subject": [{"name": "FICTION / Fantasy", "scheme": BISAC_SCHEME}, {"name": "Planets"}],
            "description": "An ocean thinks.",
            "numberOfPages": 204,
            "duration": 27000.5,
        },
        "links": [
            {
                "rel": "self",
                "href": f"{COLLECTION_URL}/publications/abc9",
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
        "images": [{"href": f"{COLLECTION_URL}/publications/abc9/cover", "type": "image/jpeg"}],
    }


@pytest.mark.parametrize(
    ("on_sale", "until"),
    [("2999-03-14", "2999-03-14"), ("2999-03", "2999-03-01"), ("2999", "2999-01-01")],
)
def test_title_on_order_is_unavailable_until_its_day(on_sale: str, until: str) -> None:
    title = replace(SOLARIS, status="on order", on_sale=on_sale, licenses_available=0)
    assert build_valid_publication(title)["links"][1]["properties"] == {
        "copies": {"total": 3, "available": 0},
        "holds": {"total": 2},
        "availability": {"state": "unavailable", "until": f"{until}T00:00:00Z"},
    }
    sold = replace(title, status="active")
    availability = build_valid_publication(sold)["links"][1]["properties"]["availability"]
    assert availability == {"state": "unavailable"}


def test_unknown_metadata_is_omitted() -> None:
    document = build_valid_publication(MINIMAL)
    assert document["metadata"] == {
        "@type": "http://schema.org/Book",
        "title": "abc9",
        "identifier": "http://librarysimplified.org/terms/id/Bibliotheca%20ID/abc9",
        "modified": "2024-05-01T12:00:00Z",
    }
    assert document["links"][1]["properties"] == {"availability": {"state": "unavailable"}}
    assert document["images"][0]["type"] == "image/png"


def test_incomplete_date_is_omitted() -> None:
    for published in ("1961", "1961-06"):
        assert "published" not in build_valid_publication(replace(SOLARIS, published=published))["metadata"]


@pytest.mark.parametrize(
    ("code", "tag"),
    [("eng", "en"), ("ger", "de"), ("deu", "de"), ("grc", "grc"), ("mul", "mul"), ("qqq", "qqq")],
)
def test_language_has_shortest_tag(code: str, tag: str) -> None:
    assert language_tag(code) == tag


@given(st.builds(replace, st.just(SOLARIS), title=st.text(min_size=1), identifier=st.text(min_size=1)))
def test_any_title_text_stays_data(title: TitleView) -> None:
    document = build_valid_publication(title)
    assert document["metadata"]["title"] == title.title
    assert fill_vendor_url(TEMPLATE, "{identifier}", title.identifier).startswith("https://ebook.yourcloud")
    assert document["links"][0]["href"].startswith(f"{COLLECTION_URL}/publications/")
    assert document["links"][0]["href"].count("/") == f"{COLLECTION_URL}/publications/x".count("/")


def test_document_with_missing_link_is_invalid() -> None:
    document = build_valid_publication(SOLARIS)
    del document["links"][1]
    with pytest.raises(ValidationError):
        validate("publication", document)


def build_valid_page(page: PublicationsPage) -> Any:
    return validate("feed", json.loads(to_json(build_publications_feed(COLLECTION, page, FACETS))))


def links_of(document: Any) -> dict[str, str]:
    """Return the links of a document or facet, by relation or title."""
    return {link.get("rel") or link["title"]: link["href"] for link in document["links"]}


def test_page_links_to_other_pages() -> None:
    filters = {"query": "an ocean", "format": "mp3", "language": None}
    page = TitlePage((SOLARIS,), "n", total=151, total_is_exact=True)
    document = build_valid_page(PublicationsPage(page, 50, 3, "3.c", "p", "search", filters))
    assert document["metadata"] == {
        "title": "Alder: an ocean",
        "numberOfItems": 151,
        "itemsPerPage": 50,
        "currentPage": 3,
    }
    url = f"{COLLECTION_URL}/search?query=an+ocean&format=mp3"
    assert links_of(document) == {
        "self": f"{url}&page=3.c",
        "first": url,
        "previous": f"{url}&page=2.p",
        "next": f"{url}&page=4.n",
        "start": "https://acc.example/opds/v2",
        "up": COLLECTION_URL,
        "search": f"{COLLECTION_URL}/search{{?query}}",
    }
    assert len(document["publications"]) == 1


def test_single_page_is_first_and_last() -> None:
    document = build_valid_page(
        PublicationsPage(TitlePage((), None, 1000, False), 50, 1, None, None, "publications", {})
    )
    assert document["metadata"] == {"title": "Alder: all titles", "itemsPerPage": 50, "currentPage": 1}
    links = links_of(document)
    assert links["self"] == links["first"] == links["last"] == f"{COLLECTION_URL}/publications"
    assert links.keys().isdisjoint({"next", "previous"})
    assert document["publications"] == []


def test_facets_keep_and_remove_filters() -> None:
    filters = {"query": "x", "format": "mp3"}
    document = build_valid_page(
        PublicationsPage(TitlePage((), None, 0, True), 50, 1, None, None, "search", filters)
    )
    facets = {facet["metadata"]["title"]: links_of(facet) for facet in document["facets"]}
    assert facets == {
        "Availability": {
            "self": f"{COLLECTION_URL}/search?query=x&format=mp3",
            "Available now": f"{COLLECTION_URL}/search?query=x&format=mp3&availability=available",
            "Unavailable, place hold": f"{COLLECTION_URL}/search?query=x&format=mp3&availability=on_hold",
            "On order": f"{COLLECTION_URL}/search?query=x&format=mp3&availability=on_order",
        },
        "Format": {
            "All": f"{COLLECTION_URL}/search?query=x",
            "EPUB e-book": f"{COLLECTION_URL}/search?query=x&format=epub",
            "self": f"{COLLECTION_URL}/search?query=x&format=mp3",
        },
        "Language": {
            "self": f"{COLLECTION_URL}/search?query=x&format=mp3",
            "German": f"{COLLECTION_URL}/search?query=x&format=mp3&language=ger",
        },
    }


def test_collection_feed_has_groups_with_titles() -> None:
    groups = [
        TitleGroup("Recently added", (SOLARIS, MINIMAL), {"purchased_from": "2024-05-01"}),
        TitleGroup("Audiobooks", (), {"format": "mp3"}, 0),
        TitleGroup("Available now", (SOLARIS,), {"availability": "available"}, 1),
    ]
    document = validate("feed", json.loads(to_json(build_collection_feed(COLLECTION, groups, FACETS))))
    by_title = {group["metadata"]["title"]: group for group in document["groups"]}
    assert list(by_title) == ["Recently added", "Available now"]
    assert links_of(by_title["Recently added"]) == {
        "self": f"{COLLECTION_URL}/publications?purchased_from=2024-05-01"
    }
    assert by_title["Available now"]["metadata"]["numberOfItems"] == 1
    assert [link["href"] for link in document["navigation"]] == [f"{COLLECTION_URL}/publications"]


def test_token_in_url_is_repeated_in_links() -> None:
    urls = UrlBuilder("https://acc.example/opds/v2", "acc_x")
    collection = replace(COLLECTION, urls=urls)
    documents = [
        build_root_feed(urls, [(7, "Alder")]),
        build_collection_feed(collection, [TitleGroup("New", (SOLARIS,), {})], FACETS),
    ]
    for document in documents:
        text = to_json(document).decode()
        assert text.count("acc_x") == text.count("https://acc.example/")
    assert f"{COLLECTION_URL}/search?token=acc_x{{&query}}" in text


def test_equal_documents_are_equal_bytes() -> None:
    assert to_json(build_publication(COLLECTION, SOLARIS)) == to_json(build_publication(COLLECTION, SOLARIS))
