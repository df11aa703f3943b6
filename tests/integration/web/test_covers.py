"""Covers: fetched once or drawn, and never fetched from hosts on a private network."""

import itertools
import os
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from lxml import etree
from sqlalchemy.orm import Session

from accession.catalog.data import LinkData
from accession.core.settings import get_settings
from accession.core.vocabulary import LinkRel
from accession.db.models import Collection
from accession.web import covers
from tests.fixtures.factories import apply_titles, make_pool, title_data
from tests.fixtures.internet import Internet
from tests.fixtures.web_client import Browser

PNG = b"\x89PNG\r\n\x1a\n" + b"picture"


@dataclass
class ImageServer:
    """HTTP server of the vendor's images; `requests` are the paths requested."""

    responses: dict[str, tuple[int, bytes]] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)
    url: str = ""


@pytest.fixture
def images() -> Iterator[ImageServer]:
    server = ImageServer()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            server.requests.append(self.path)
            status, body = server.responses.get(self.path, (404, b""))
            self.send_response(status)
            self.send_header("Location", "/cover")
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            """Log nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        server.url = f"http://127.0.0.1:{http.server_address[1]}"
        thread = threading.Thread(target=http.serve_forever)
        thread.start()
        yield server
        http.shutdown()
        thread.join()


def store_cover(session: Session, collection: Collection, href: str, title: str = "Solaris") -> None:
    """Store the title `abc` with this cover URL."""
    pool = make_pool(session, collection, "abc")
    links = (LinkData(rel=LinkRel.COVER, href=href),)
    apply_titles(session, {pool.id: title_data("abc", title=title, links=links)})
    session.commit()


def set_vendor_url(session: Session, collection: Collection, images: ImageServer) -> None:
    """Let the collection's vendor be on the image server's host."""
    collection.base_url = images.url
    session.commit()


def test_cover_is_fetched_once(
    browser: Browser, session: Session, collection: Collection, images: ImageServer
) -> None:
    set_vendor_url(session, collection, images)
    store_cover(session, collection, f"{images.url}/cover")
    images.responses["/cover"] = (200, PNG)
    for _ in range(2):
        response = browser.get("/covers/abc")
        assert (response.content, response.headers["content-type"]) == (PNG, "image/png")
    assert images.requests == ["/cover"]


@pytest.mark.parametrize(
    "response", [(404, b""), (302, PNG), (200, b"<html><script>"), (200, PNG + bytes(6 * 1024 * 1024))]
)
def test_invalid_or_oversized_image_is_replaced_by_drawing(
    browser: Browser,
    session: Session,
    collection: Collection,
    images: ImageServer,
    response: tuple[int, bytes],
) -> None:
    set_vendor_url(session, collection, images)
    store_cover(session, collection, f"{images.url}/cover")
    images.responses["/cover"] = response
    assert browser.get("/covers/abc").headers["content-type"] == "image/svg+xml"
    assert images.requests == ["/cover"]


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_cover_on_private_host_is_not_fetched(
    browser: Browser, session: Session, collection: Collection, images: ImageServer, scheme: str
) -> None:
    store_cover(session, collection, f"{scheme}{images.url.removeprefix('http')}/cover")
    images.responses["/cover"] = (200, PNG)
    assert browser.get("/covers/abc").headers["content-type"] == "image/svg+xml"
    assert images.requests == []


PICTURE = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(PNG), PNG)


def test_cover_is_fetched_from_the_address_that_was_checked(
    browser: Browser, session: Session, collection: Collection, internet: Internet
) -> None:
    """DNS rebinding: a name with a short TTL is public when it is checked, and this machine afterwards."""
    with (
        internet.serve(PICTURE, "8.8.8.8", tls_name="covers.example") as public,
        internet.serve(PICTURE, "127.0.0.1") as attacked,
    ):
        internet.answers["covers.example"] = [["8.8.8.8"], ["127.0.0.1"]]
        store_cover(session, collection, "https://covers.example/cover")
        response = browser.get("/covers/abc")
    assert (attacked.connections, response.content) == (0, PNG)
    assert (public.names, public.connections) == (["covers.example"], 1)
    assert b"Host: covers.example\r\n" in public.heads[0]


def test_cover_on_name_with_one_private_address_is_not_fetched(
    browser: Browser, session: Session, collection: Collection, internet: Internet
) -> None:
    with internet.serve(PICTURE, "8.8.8.8", "10.0.0.1", tls_name="mixed.example") as server:
        internet.answers["mixed.example"] = [["8.8.8.8", "10.0.0.1"]]
        store_cover(session, collection, "https://mixed.example/cover")
        assert browser.get("/covers/abc").headers["content-type"] == "image/svg+xml"
    assert server.connections == 0


@pytest.mark.parametrize(
    "url", ["https://[", "https://a\u2028.example:x/", "https://" + "a" * 64 + ".example/"]
)
def test_cover_with_unusable_url_is_drawn(
    browser: Browser, session: Session, collection: Collection, url: str
) -> None:
    store_cover(session, collection, url)
    assert browser.get("/covers/abc").headers["content-type"] == "image/svg+xml"


def test_drawn_cover_escapes_the_title(browser: Browser, session: Session, collection: Collection) -> None:
    store_cover(session, collection, "nowhere", title="</text><script>alert(1)</script> & so on")
    drawing = etree.fromstring(browser.get("/covers/abc").content)
    assert not list(drawing.iter("{*}script"))
    assert "alert(1)" in "".join(drawing.itertext())
    assert browser.get("/covers/unknown").status_code == 200


def test_old_images_are_deleted_when_others_are_stored(
    browser: Browser,
    session: Session,
    collection: Collection,
    images: ImageServer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(covers, "_stored_images", itertools.count())
    set_vendor_url(session, collection, images)
    store_cover(session, collection, f"{images.url}/cover")
    images.responses["/cover"] = (200, PNG)
    folder = get_settings().home / "covers"
    folder.mkdir(mode=0o700, exist_ok=True)
    for name, days in (("old", 181), ("recent", 179)):
        (folder / name).write_bytes(PNG)
        os.utime(folder / name, (time.time() - days * 86_400,) * 2)
    browser.get("/covers/abc")

    names = {path.name for path in folder.iterdir()}
    assert "recent" in names
    assert "old" not in names
