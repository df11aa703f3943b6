"""Host and path that trusted proxies report, and the same headers from others."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import httpx
import pytest
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.types import Receive, Scope, Send

from accession.web.addresses import RootPath, absolute_url, root, route_path
from tests.fixtures.web_server import serve_app

# An address of this machine from which no proxy is trusted.
STRANGER = "127.0.0.66"
PROXIED = {"X-Forwarded-Prefix": "/accession", "X-Forwarded-Host": "library.example"}


async def show_addresses(scope: Scope, receive: Receive, send: Send) -> None:
    """Respond with what the app takes for its addresses."""
    if scope["type"] != "http":
        return
    url = absolute_url(Request(scope), "/titles")
    await JSONResponse({"root": root(), "path": route_path(scope), "url": url})(scope, receive, send)


@contextmanager
def client(address: str = "127.0.0.1") -> Iterator[httpx.Client]:
    """Serve an app, and return a client that connects from this address."""
    transport = httpx.HTTPTransport(local_address=address)
    with (
        serve_app(RootPath(show_addresses)) as served,
        httpx.Client(base_url=served.base_url, transport=transport) as client,
    ):
        yield client


def addresses(client: httpx.Client, headers: Mapping[str, str], path: str = "/runs") -> dict[str, str]:
    """Return the addresses that the app sees in a request with these headers."""
    response = client.get(path, headers=headers)
    assert response.status_code == 200, response.text
    shown: dict[str, str] = response.json()
    return shown


def test_prefix_and_host_of_trusted_proxy_are_used() -> None:
    with client() as proxy:
        shown = addresses(proxy, {**PROXIED, "X-Forwarded-Proto": "https"})

        assert shown == {
            "root": "/accession",
            "path": "/runs",
            "url": "https://library.example/accession/titles",
        }


def test_prefix_and_host_of_other_client_are_ignored() -> None:
    with client(STRANGER) as stranger:
        shown = addresses(stranger, PROXIED)

        assert shown == {
            "root": "",
            "path": "/runs",
            "url": str(stranger.base_url.join("/titles")),
        }


@pytest.mark.parametrize("path", ["/accession/runs", "/runs"])
def test_path_may_have_the_reported_prefix(path: str) -> None:
    """Some proxies remove it, and others do not."""
    with client() as proxy:
        assert addresses(proxy, PROXIED, path)["path"] == "/runs"


@pytest.mark.parametrize(
    ("path", "expected"),
    [("/accession", "/"), ("/accession/", "/"), ("/accessions", "/accessions"), ("/", "/")],
)
def test_path_without_the_prefix_is_that_of_a_route(path: str, expected: str) -> None:
    with client() as proxy:
        assert addresses(proxy, PROXIED, path)["path"] == expected


@pytest.mark.parametrize(
    "prefix",
    ["accession", "//evil.example", "/a//b", "/..", "/a/../b", "/a b", "/a?b", '/a"b', "/a%2Fb", "/", ""],
)
def test_malformed_prefix_is_ignored(prefix: str) -> None:
    with client() as proxy:
        assert addresses(proxy, {"X-Forwarded-Prefix": prefix})["root"] == ""


def test_last_value_of_a_forwarded_header_counts() -> None:
    """The first ones may be those that a client has sent to the proxy."""
    with client() as proxy:
        headers = {
            "X-Forwarded-Prefix": "/evil, /books/accession/",
            "X-Forwarded-Host": "evil.example, library.example",
        }
        shown = addresses(proxy, headers)

        assert shown["url"] == "http://library.example/books/accession/titles"


@pytest.mark.parametrize("forwarded", ["localhost", "127.0.0.1:8642", "[::1]"])
def test_forwarded_loopback_host_replaces_no_other_name(forwarded: str) -> None:
    """After DNS rebinding, a page of another site can send this header from a browser on this machine."""
    with client() as proxy:
        shown = addresses(proxy, {"Host": "rebound.example", "X-Forwarded-Host": forwarded})

        assert shown["url"] == "http://rebound.example/titles"
