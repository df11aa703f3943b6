"""Downloads of exports, and streaming of responses."""

import threading
from typing import BinaryIO
from urllib.parse import quote

import pytest
from lxml import html
from pymarc import MARCReader
from sqlalchemy.orm import Session

from accession.auth.roles import FeedKind
from accession.auth.tokens import add_feed_token
from accession.core.settings import ScheduledExport, get_settings
from accession.db.models import Collection
from accession.digests.options import DigestOptions, set_digest
from accession.exports.formats import FORMATS
from accession.runs.scheduled_exports import ExportFile, store_export_error, store_export_file
from accession.web.feeds import feed_addresses
from accession.web.streaming import stream_output
from tests.fixtures.digests import ANN
from tests.fixtures.factories import NOON, make_collection
from tests.fixtures.purchases import purchase_title
from tests.fixtures.waiting import DEADLINE_SECONDS
from tests.fixtures.web_client import Browser, bearer, make_feed_token


def read_page(browser: Browser, query: str = "") -> html.HtmlElement:
    return html.fromstring(browser.get(f"/exports{query}").text)


def texts(page: html.HtmlElement, path: str) -> list[str]:
    return [" ".join(element.text_content().split()) for element in page.xpath(path)]


def test_exports_page_lists_formats_collections_and_feeds(browser: Browser, collection: Collection) -> None:
    page = read_page(browser)

    assert page.xpath("//nav//a[@aria-current='page']/text()") == ["Exports"]
    assert page.xpath("//input[@name='format']/@value") == list(FORMATS)
    assert page.xpath("//select[@name='collection']/option/text()") == ["all", "Alder Library"]
    assert texts(page, "//*[starts-with(@id, 'feed-')]") == [
        "http://127.0.0.1:8642/opds/v2",
        "http://127.0.0.1:8642/oai",
        "http://127.0.0.1:8642/exports/download?format=kbart",
        "http://127.0.0.1:8642/exports/download?format=marc21",
    ]


def test_feeds_of_a_collection_have_its_token_command(
    browser: Browser, session: Session, collection: Collection
) -> None:
    set_digest(session, ANN, collection, DigestOptions())
    session.commit()

    page = read_page(browser, f"?collection={collection.id}")

    assert texts(page, "//*[starts-with(@id, 'feed-')]")[-1] == "http://127.0.0.1:8642/digests/1.atom"
    commands = texts(page, "//*[starts-with(@id, 'token-')]")
    assert commands[0] == "accession tokens add NAME --feed opds --collection 'Alder Library'"
    assert "Set: collection:1." in page.text_content()


def test_feed_addresses_are_readable_with_their_token(
    browser: Browser, session: Session, collection: Collection
) -> None:
    set_digest(session, ANN, collection, DigestOptions())
    session.commit()
    feeds = feed_addresses(collection, has_digest=True) + feed_addresses(None, has_digest=False)
    tokens = {kind: add_feed_token(session, kind.value, [kind], collection.name) for kind in FeedKind}
    session.commit()

    for feed in feeds:
        browser.headers = bearer(tokens[feed.kind].get_secret_value())
        assert browser.get(feed.path).status_code == 200, feed


def test_format_shows_its_last_scheduled_export(
    browser: Browser, session: Session, collection: Collection, monkeypatch: pytest.MonkeyPatch
) -> None:
    exports = (
        ScheduledExport(name="nightly", format="csv", target="/exports", since="7d"),
        ScheduledExport(name="birch", format="csv", target="/exports", collections=("Birch Library",)),
    )
    monkeypatch.setattr(get_settings(), "exports", exports)
    store_export_file(session, "nightly", ExportFile("nightly-20240501T120000Z.csv", 2_500_000, 1200))
    store_export_error(session, "nightly", "/exports is full: free some space.")
    session.commit()

    (card,) = texts(read_page(browser, f"?collection={collection.id}"), "//*[@aria-labelledby='csv-name']")

    for text in (
        "nightly, daily at 06:00 (UTC), changes of the last 7 days",
        "failed",
        "nightly-20240501T120000Z.csv: 2.5 MB",
    ):
        assert text in card
    assert "1,200 titles" in card
    assert "/exports is full: free some space." in card
    assert "birch" not in card
    rows = browser.get("/api/v1/exports").json()
    assert [(row["name"], row["state"], row["titles"]) for row in rows] == [
        ("nightly", "failed", 1200),
        ("birch", "never", None),
    ]


def test_download_has_the_options_of_its_format(
    browser: Browser, session: Session, collection: Collection
) -> None:
    purchase_title(session, collection, "solaris", NOON)
    template = quote("https://catalogue.example/{identifier}")

    table = browser.get(
        "/exports/download?format=csv&columns=identifier&columns=status&delimiter=semicolon&bom=true"
    )
    marc = browser.get(f"/exports/download?format=marc21&availability=true&url_template={template}")
    form = browser.get("/exports/download?format=kbart&collection=&since=&url_template=")

    assert table.text == "\ufeffidentifier;status\r\nsolaris;active\r\n"
    (record,) = MARCReader(marc.content)
    assert record is not None
    assert "https://catalogue.example/solaris" in [field.get("u") for field in record.get_fields("856")]
    assert record.get_fields("852")
    assert form.status_code == 200


def test_download_of_changes_has_only_later_titles(
    browser: Browser, session: Session, collection: Collection
) -> None:
    purchase_title(session, collection, "solaris", NOON)

    assert "solaris" in browser.get("/exports/download?format=csv&since=2024-04-30").text
    assert "solaris" not in browser.get("/exports/download?format=csv&since=1d").text


@pytest.mark.parametrize(
    "query",
    [
        "format=csv&columns=nonsense",
        "format=jsonl&delimiter=tab",
        "format=kbart&availability=true",
        "format=marc21&url_template=nowhere",
        "format=csv&since=yesterday",
        "format=csv&delimiter=blank",
    ],
)
def test_invalid_option_of_a_download_is_refused(browser: Browser, database: None, query: str) -> None:
    response = browser.get(f"/exports/download?{query}")

    assert response.status_code in (409, 422)
    assert "content-disposition" not in response.headers


def test_download_cannot_read_files_of_the_server(
    browser: Browser, session: Session, collection: Collection
) -> None:
    """A profile is a path: only the command line and the settings may name one."""
    assert browser.get("/exports/download?format=marc21&profile=/etc/passwd").status_code == 200


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
