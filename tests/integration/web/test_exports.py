"""Exports as downloads."""

import time
from typing import BinaryIO

import pytest
from lxml import html
from pymarc import MARCReader
from sqlalchemy.orm import Session

from accession.auth.users import Feed
from accession.db.models import Collection
from accession.exports.formats import FORMATS
from accession.web.streaming import streamed
from tests.fixtures.factories import NOON, make_collection
from tests.fixtures.web_client import Browser, make_feed_token
from tests.integration.exports.test_marc_files import buy


def test_the_page_offers_every_format_for_each_collection_and_tells_of_the_feeds(
    browser: Browser, collection: Collection
) -> None:
    page = html.fromstring(browser.get("/exports").text)

    assert page.xpath("//nav//a[@aria-current='page']/text()") == ["Exports"]
    assert page.xpath("//button[@name='format']/@value") == list(FORMATS)
    assert page.xpath("//select[@name='collection']/option/text()") == ["all", "Alder Library"]
    addresses = page.xpath("//table//a/@href")
    assert addresses == ["http://127.0.0.1:8642/oai", "http://127.0.0.1:8642/opds/v2"]


def test_a_download_is_the_file_that_the_command_writes(
    browser: Browser, session: Session, collection: Collection
) -> None:
    buy(session, collection, "solaris", NOON)
    other = make_collection(session, "Żółta Library")
    buy(session, other, "eden", NOON)

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


def test_a_token_of_one_collection_downloads_that_alone(
    browser: Browser, session: Session, collection: Collection
) -> None:
    buy(session, collection, "solaris", NOON)
    other = make_collection(session, "Birch Library")
    buy(session, other, "eden", NOON)
    token = make_feed_token(session, Feed.EXPORTS, collection=other.name)
    browser.says = {"Authorization": f"Bearer {token}"}

    mine = browser.get("/exports/download?format=marc21")

    assert [r["001"].data for r in MARCReader(mine.content) if r is not None] == ["eden"]
    assert browser.get(f"/exports/download?format=marc21&collection={collection.id}").status_code == 404
    assert browser.get("/exports").status_code == 403


@pytest.mark.parametrize(
    ("query", "status"),
    [("format=epub", 404), ("format=marc21&collection=99", 404), ("collection=1", 422), ("", 422)],
)
def test_a_download_that_there_is_not_is_refused(query: str, status: int, browser: Browser) -> None:
    answer = browser.get(f"/exports/download?{query}")

    assert answer.status_code == status
    assert "content-disposition" not in answer.headers


def test_what_is_streamed_comes_in_chunks_of_what_is_written() -> None:
    def write(out: BinaryIO) -> None:
        for _ in range(100):
            out.write(b"x" * 10_000)

    chunks = list(streamed(write))

    assert sum(map(len, chunks)) == 1_000_000
    assert max(map(len, chunks)) < 200_000


def test_what_goes_wrong_while_it_is_written_does_not_end_as_if_it_were_whole() -> None:
    def write(out: BinaryIO) -> None:
        out.write(b"x" * 100_000)
        raise LookupError("the database is gone")

    with pytest.raises(LookupError):
        list(streamed(write))


def test_writing_ends_when_nobody_reads_any_more() -> None:
    ended = []

    def write(out: BinaryIO) -> None:
        try:
            while True:
                out.write(b"x" * 100_000)
        finally:
            ended.append(True)

    reading = streamed(write)
    next(reading)
    reading.close()  # type: ignore[attr-defined]

    deadline = time.monotonic() + 30
    while not ended:
        assert time.monotonic() < deadline, "the writer goes on"
