"""Covers: the vendor's, fetched once, or drawn; and never from where only this machine can ask."""

import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from lxml import etree
from sqlalchemy.orm import Session

from accession.catalog.apply import apply_titles
from accession.catalog.data import LinkData
from accession.core.vocabulary import LinkRel
from accession.db.models import Collection
from tests.fixtures.factories import make_pool, title_data
from tests.fixtures.web_client import Browser

PNG = b"\x89PNG\r\n\x1a\n" + b"picture"


@dataclass
class PictureServer:
    """Where the vendor keeps its pictures; it counts what it is asked."""

    answers: dict[str, tuple[int, bytes]] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    url: str = ""


@pytest.fixture
def pictures() -> Iterator[PictureServer]:
    server = PictureServer()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            server.asked.append(self.path)
            status, body = server.answers.get(self.path, (404, b""))
            self.send_response(status)
            self.send_header("Location", "/cover")
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        server.url = f"http://127.0.0.1:{http.server_address[1]}"
        thread = threading.Thread(target=http.serve_forever)
        thread.start()
        yield server
        http.shutdown()
        thread.join()


def with_cover(session: Session, collection: Collection, href: str, title: str = "Solaris") -> None:
    """The collection's title `abc` has this cover."""
    pool = make_pool(session, collection, "abc")
    links = (LinkData(rel=LinkRel.COVER, href=href),)
    apply_titles(session, {pool.id: title_data("abc", title=title, links=links)})
    session.commit()


def at(session: Session, collection: Collection, pictures: PictureServer) -> None:
    """The collection's vendor is where its pictures are."""
    collection.base_url = pictures.url
    session.commit()


def test_a_cover_is_fetched_once(
    browser: Browser, session: Session, collection: Collection, pictures: PictureServer
) -> None:
    at(session, collection, pictures)
    with_cover(session, collection, f"{pictures.url}/cover")
    pictures.answers["/cover"] = (200, PNG)
    for _ in range(2):
        answer = browser.get("/covers/abc")
        assert (answer.content, answer.headers["content-type"]) == (PNG, "image/png")
    assert pictures.asked == ["/cover"]


@pytest.mark.parametrize(
    "answer", [(404, b""), (302, PNG), (200, b"<html><script>"), (200, PNG + bytes(6 * 1024 * 1024))]
)
def test_what_is_no_picture_or_far_too_large_is_not_handed_on(
    browser: Browser,
    session: Session,
    collection: Collection,
    pictures: PictureServer,
    answer: tuple[int, bytes],
) -> None:
    at(session, collection, pictures)
    with_cover(session, collection, f"{pictures.url}/cover")
    pictures.answers["/cover"] = answer
    assert browser.get("/covers/abc").headers["content-type"] == "image/svg+xml"
    assert pictures.asked == ["/cover"]


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_nobody_is_asked_whom_only_this_machine_can_ask(
    browser: Browser, session: Session, collection: Collection, pictures: PictureServer, scheme: str
) -> None:
    with_cover(session, collection, f"{scheme}{pictures.url.removeprefix('http')}/cover")
    pictures.answers["/cover"] = (200, PNG)
    assert browser.get("/covers/abc").headers["content-type"] == "image/svg+xml"
    assert pictures.asked == []


def test_a_cover_that_is_drawn_is_a_document_whatever_the_title(
    browser: Browser, session: Session, collection: Collection
) -> None:
    with_cover(session, collection, "nowhere", title="</text><script>alert(1)</script> & so on")
    drawn = etree.fromstring(browser.get("/covers/abc").content)
    assert not list(drawn.iter("{*}script"))
    assert "alert(1)" in "".join(drawn.itertext())
    assert browser.get("/covers/unknown").status_code == 200
