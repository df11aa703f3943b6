"""Downloads of exports, and streaming of responses."""

import threading
from typing import BinaryIO

import pytest
from lxml import html
from pymarc import MARCReader
from sqlalchemy.orm import Session

from accession.auth.roles import FeedKind
from accession.db.models import Collection
from accession.exports.formats import FORMATS
from accession.web.streaming import stream_output
from tests.fixtures.factories import NOON, make_collection
from tests.fixtures.purchases import purchase_title
from tests.fixtures.waiting import DEADLINE_SECONDS
from tests.fixtures.web_client import Browser, bearer, make_feed_token


def test_exports_page_lists_formats_collections_and_feeds(browser: Browser, collection: Collection) -> None:
    page = html.fromstring(browser.get("/exports").text)

    assert page.xpath("//nav//a[@aria-current='page']/text()") == ["Exports"]
    assert page.xpath("//button[@name='format']/@value") == list(FORMATS)
    assert page.xpath("//select[@name='collection']/option/text()") == ["all", "Alder Library"]
    urls = page.xpath("//table//a/@href")
    assert urls == ["http://127.0.0.1:8642/oai", "http://127.0.0.1:8642/opds/v2"]


def test_download_has_titles_of_all_or_one_collection(
    browser: Browser, session: Session, collection: Collection
) -> None:
    purchase_title(session, collection, "solaris", NOON)
    other = make_collection(session, "Żółta Library")
    purchase_title(session, other, "eden", NOON)

    everything = browser.get("/exports/download?format=marc21&collection=")
    some = browser.get(f"/exports/download?format=marcxml&collection={other.id}")

    assert [r["001"].data for r in MARCReader(everything.content) if r is not None] == ["solaris", "eden"]
    assert everything.headers["content-type"] == "application/marc"
    assert "catalogue-" in everything.headers["content-disposition"]
    assert some.headers["content-disposition"].startswith(
        "attachment; filename*=UTF-8''%C5%BC%C3%B3%C5%82ta-lib"
    )
    assert '"001">eden<' in some.text
    assert "solaris" not in some.text


def test_token_of_collection_only_downloads_that_collection(
    browser: Browser, session: Session, collection: Collection
) -> None:
    purchase_title(session, collection, "solaris", NOON)
    other = make_collection(session, "Birch Library")
    purchase_title(session, other, "eden", NOON)
    token = make_feed_token(session, FeedKind.EXPORTS, collection=other.name)
    browser.headers = bearer(token)

    own = browser.get("/exports/download?format=marc21")

    assert [r["001"].data for r in MARCReader(own.content) if r is not None] == ["eden"]
    assert browser.get(f"/exports/download?format=marc21&collection={collection.id}").status_code == 404
    assert browser.get("/exports").status_code == 403


@pytest.mark.parametrize(
    ("query", "status"),
    [("format=epub", 404), ("format=marc21&collection=99", 404), ("collection=1", 422), ("", 422)],
)
def test_invalid_download_is_rejected(query: str, status: int, browser: Browser) -> None:
    response = browser.get(f"/exports/download?{query}")

    assert response.status_code == status
    assert "content-disposition" not in response.headers


def test_streamed_output_arrives_in_bounded_chunks() -> None:
    def write(out: BinaryIO) -> None:
        for _ in range(100):
            out.write(b"x" * 10_000)

    chunks = list(stream_output(write))

    assert sum(map(len, chunks)) == 1_000_000
    assert max(map(len, chunks)) < 200_000


def test_error_while_streaming_is_raised_to_the_reader() -> None:
    def write(out: BinaryIO) -> None:
        out.write(b"x" * 100_000)
        raise LookupError("the database is unavailable")

    with pytest.raises(LookupError):
        list(stream_output(write))


def test_writer_ends_when_reader_closes_the_stream() -> None:
    ended = threading.Event()

    def write(out: BinaryIO) -> None:
        try:
            while True:
                out.write(b"x" * 100_000)
        finally:
            ended.set()

    chunks = stream_output(write)
    next(chunks)
    chunks.close()  # type: ignore[attr-defined]

    assert ended.wait(DEADLINE_SECONDS), "the writer did not end"
