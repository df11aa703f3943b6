"""HEAD requests have the status and headers of a GET request; Allow names every method of a path."""

from dataclasses import replace
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from sqlalchemy.orm import Session
from starlette.routing import Route

from accession.db.models import Collection
from tests.fixtures.factories import make_hourly_pools
from tests.fixtures.web_client import Browser

# They differ from request to request, or with the time that a page displays.
VARIABLE_HEADERS = ("date", "etag", "content-length")


def plain_paths(app: FastAPI) -> list[str]:
    """Return the paths without parameters that have a GET route."""
    from accession.web.app import ROUTER_MODULES

    pages = {
        route.path
        for module in ROUTER_MODULES
        for route in module.router.routes
        if isinstance(route, Route) and "GET" in (route.methods or ())
    }
    api = {path for path, methods in app.openapi()["paths"].items() if "get" in methods}
    return sorted(path for path in pages | api if "{" not in path)


@pytest.fixture
def catalogue(session: Session, collection: Collection) -> None:
    make_hourly_pools(session, collection)


def headers_of(response: httpx.Response) -> dict[str, str]:
    return {name: value for name, value in response.headers.items() if name not in VARIABLE_HEADERS}


@pytest.mark.parametrize("encoding", ["identity", "gzip"])
def test_head_has_status_and_headers_of_get(
    client: httpx.Client, browser: Browser, catalogue: None, encoding: str
) -> None:
    paths = plain_paths(browser.app)
    assert len(paths) > 50
    exports = ("/exports/download?format=csv&collection=", "/reports/growth.csv")
    for path in (*paths, *exports, "/titles/a", "/covers/a", "/static/app.css", "/none", "/api/v1/runs/9"):
        get = client.get(path, headers={"Accept-Encoding": encoding})
        head = client.head(path, headers={"Accept-Encoding": encoding})

        assert (head.status_code, head.content) == (get.status_code, b""), path
        assert headers_of(head) == headers_of(get), path
        assert ("content-length" in head.headers) == ("content-length" in get.headers), path


def test_head_of_an_export_writes_none(
    client: httpx.Client, catalogue: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    from accession.exports.formats import FORMATS

    def write(*_: Any) -> int:
        raise AssertionError("the export was written")

    monkeypatch.setitem(FORMATS, "marc21", replace(FORMATS["marc21"], write=write))  # type: ignore[arg-type]
    head = client.head("/exports/download?format=marc21&collection=")

    assert (head.status_code, head.headers["content-type"]) == (200, "application/marc")


@pytest.mark.parametrize(
    "path", ["/healthz", "/", "/exports/download?format=csv&collection=", "/oai?verb=Identify"]
)
def test_server_answers_head_and_keeps_the_connection(
    client: httpx.Client, catalogue: None, path: str
) -> None:
    for method in ("HEAD", "GET", "HEAD"):
        response = client.request(method, path)
        assert response.status_code == 200
        assert bool(response.content) == (method == "GET")


@pytest.mark.parametrize(
    ("path", "methods"),
    [
        ("/healthz", "GET, HEAD"),
        ("/login", "GET, HEAD, POST"),
        ("/oai", "GET, HEAD, POST"),
        ("/api/v1/collections/1", "DELETE, GET, HEAD"),
    ],
)
def test_allow_lists_every_method_of_a_path(browser: Browser, path: str, methods: str) -> None:
    response = browser.request("TRACE", path)

    assert (response.status_code, response.headers["allow"]) == (405, methods)
