"""OPDS: parsers of reading apps and of a library platform accept every document, and read every title."""

import json
from collections.abc import Callable, Iterable, Iterator
from io import BytesIO
from typing import Any

import httpx
import pytest
from webpub_manifest_parser.opds2 import OPDS2FeedParserFactory

from tests.fixtures.clients import newer_python, node_client, python_client, run_client
from tests.fixtures.imported_library import ImportedLibrary

BORROW = "http://opds-spec.org/acquisition/borrow"
# The kind of a document, as clients/palace.py and clients/node/opds.js distinguish them, and the document.
Document = tuple[str, Any]
Summaries = list[dict[str, Any]]


@pytest.fixture(scope="module")
def documents(reader: httpx.Client) -> list[Document]:
    """Every OPDS document: feeds of all pages, each publication, and the authentication document."""
    return list(_walk(reader))


def _walk(reader: httpx.Client) -> Iterator[Document]:
    root = _get(reader, "/opds/v2")
    yield "feed", root
    for collection in root["navigation"]:
        feed = _get(reader, collection["href"])
        yield "feed", feed
        for lists in feed["navigation"]:
            yield from _pages(reader, lists["href"])
    unauthorized = reader.get("/opds/v2", headers={"Authorization": ""})
    assert unauthorized.status_code == 401
    yield "authentication", unauthorized.json()


def _pages(reader: httpx.Client, url: str | None) -> Iterator[Document]:
    while url is not None:
        page = _get(reader, url)
        yield "feed", page
        for publication in page["publications"]:
            yield "publication", _get(reader, _link(publication, "self") or "")
        url = _link(page, "next")


def _link(document: Any, rel: str) -> str | None:
    return next((link["href"] for link in document["links"] if link.get("rel") == rel), None)


def _get(reader: httpx.Client, url: str) -> Any:
    response = reader.get(url)
    assert response.status_code == 200, response.text
    return response.json()


def parse_with_palace(documents: Iterable[Document]) -> Summaries:
    subject = "reading OPDS with Palace's models"
    python = newer_python(subject, "3.12", "3.13", "3.14")
    summaries: Summaries = run_client(python_client(subject, "palace", python), list(documents))
    return summaries


def parse_with_readium(documents: Iterable[Document]) -> Summaries:
    command = node_client("reading OPDS with Readium's parser", "opds.js")
    summaries: Summaries = run_client(command, list(documents))
    return summaries


def parse_with_webpub_manifest_parser(documents: Iterable[Document]) -> Summaries:
    feeds = [document for kind, document in documents if kind == "feed"]
    results = [
        OPDS2FeedParserFactory().create().parse_stream(BytesIO(json.dumps(feed).encode())) for feed in feeds
    ]
    assert [result.errors for result in results if result.errors] == []
    publications = [
        publication
        for result in results
        for each in (result.root, *(result.root.groups or ()))
        for publication in each.publications or ()
    ]
    return [_summary(publication) for publication in publications]


def _summary(publication: Any) -> dict[str, Any]:
    borrow = next(link for link in publication.links if BORROW in link.rels)
    return {
        "identifier": publication.metadata.identifier,
        "title": publication.metadata.title,
        "borrow": borrow.href,
        "copies": borrow.properties.copies.total,
        "available": borrow.properties.availability.state == "available",
    }


@pytest.mark.parametrize("parse", [parse_with_palace, parse_with_readium, parse_with_webpub_manifest_parser])
def test_parser_reads_every_publication(
    parse: Callable[[Iterable[Document]], Summaries], documents: list[Document], library: ImportedLibrary
) -> None:
    summaries = parse(documents)
    read = {each["identifier"].rpartition("/")[2]: each for each in summaries}
    assert {
        identifier: (each["title"], each["borrow"], each["copies"]) for identifier, each in read.items()
    } == {
        identifier: (title.title, title.vendor_page, title.copies)
        for identifier, title in library.titles.items()
    }
    assert {each["available"] for each in summaries} == {True, False}
    assert all(read[each["identifier"].rpartition("/")[2]] == each for each in summaries)
