"""nginx of the system in front of the dashboard, below a path of a host name that other programs use too."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urljoin, urlsplit

import httpx
import pytest
from fastapi import FastAPI
from lxml import etree, html
from redis import Redis
from sqlalchemy.orm import Session
from starlette.routing import Match

from accession.auth.roles import UserRole
from accession.core.settings import get_settings, use_settings
from accession.db.engine import engine
from tests.fixtures.factories import PASSWORD, populate_all_tables
from tests.fixtures.nginx import documented_server, missing_program, running_nginx
from tests.fixtures.waiting import DEADLINE_SECONDS
from tests.fixtures.web_client import make_user
from tests.fixtures.web_server import serve_app

ROOT = "/accession"
FOREIGN_HOSTS = {"appriseit.com", "www.standardwebhooks.com", "ebook.yourcloudlibrary.com"}
STYLE_URL = re.compile(r"""url\(["']?([^"')]+)""")
LINK, PAGE = "{http://www.w3.org/2005/Atom}link", "text/html; charset=utf-8"

# How nginx passes requests on, and who tells Accession the path.
PATH_KEPT = documented_server()
PATH_REMOVED = PATH_KEPT.replace("8642;", "8642/;")
WAYS = {
    "path kept, public URL": (PATH_KEPT, True),
    "path removed, public URL": (PATH_REMOVED, True),
    "path kept, header": (PATH_KEPT.replace('Prefix ""', f"Prefix {ROOT}"), False),
    "path removed, header": (PATH_REMOVED.replace('Prefix ""', f"Prefix {ROOT}"), False),
}


@pytest.fixture(scope="module", autouse=True)
def _nginx_is_installed() -> None:
    if missing := missing_program():
        pytest.skip(f"NGINX OF THE SYSTEM IS NOT TESTED HERE: this machine lacks {missing}")


@pytest.fixture
def administrator(database: None, queues: Redis, session: Session) -> str:
    """Store rows for every page, and return the name of an administrator."""
    populate_all_tables(engine())
    return make_user(session, "ada", UserRole.ADMINISTRATOR)


@dataclass
class Site:
    """The app behind nginx, as a browser has it.

    Attributes:
        app: The app.
        client: Client of nginx, with the cookies and the `Origin` of a browser.
        addresses: Addresses that pages have named so far, with the page.
        actions: Those to which forms are sent.
    """

    app: FastAPI
    client: httpx.Client
    addresses: dict[str, str] = field(default_factory=dict)
    actions: set[str] = field(default_factory=set)

    @property
    def url(self) -> str:
        """URL of the dashboard, without a slash at the end."""
        return f"{str(self.client.base_url).rstrip('/')}{ROOT}"

    def log_in(self, name: str) -> httpx.Response:
        """Log in with the form to which the overview redirects, and return the page after it."""
        page = self.client.get(f"{ROOT}/", follow_redirects=True)
        (form,) = html.fromstring(page.text, base_url=str(page.url)).forms
        fields = {**form.fields, "name": name, "password": PASSWORD}
        return self.client.post(urljoin(str(page.url), form.action), data=fields, follow_redirects=True)

    def visit_all_pages(self) -> int:
        """Request whatever pages link to, and return the number of requests."""
        pending, requested = [f"{self.url}/"], set[tuple[str, frozenset[str]]]()
        while pending:
            address = pending.pop()
            # One request for all values of the same query parameters.
            parts = urlsplit(address)
            kind = (parts.path, frozenset(httpx.QueryParams(parts.query)))
            if kind in requested or not address.startswith(self.url):
                continue
            requested.add(kind)
            response = self.client.get(address)
            assert response.status_code == 200, (address, self.addresses.get(address), response.text)
            pending.extend(self._read_addresses(address, response))
        return len(requested)

    def _read_addresses(self, page: str, response: httpx.Response) -> list[str]:
        """Note the addresses on a page or in a style sheet, and return those to request."""
        if response.headers["content-type"].startswith("text/css"):
            links = [urljoin(page, link) for link in STYLE_URL.findall(response.text)]
        elif response.headers["content-type"] == PAGE:
            named = [(name or "", link) for _, name, link, _ in html.fromstring(response.text).iterlinks()]
            links = [urljoin(page, link) for name, link in named if "action" not in name]
            actions = [urljoin(page, link) for name, link in named if "action" in name]
            self.addresses.update(dict.fromkeys(actions, page))
            self.actions.update(actions)
        else:
            return []
        links = [link.partition("#")[0] for link in links if not link.startswith("data:")]
        self.addresses.update(dict.fromkeys(links, page))
        return links

    def has_route(self, address: str) -> bool:
        """Return whether a form can be sent to the address."""
        path = urlsplit(address).path.removeprefix(ROOT)
        scopes = [{"type": "http", "method": method, "path": path} for method in ("GET", "POST")]
        matches = [route.matches(scope)[0] for route in self.app.routes for scope in scopes]
        return Match.FULL in matches


@contextmanager
def site(folder: Path, server: str, *, has_public_url: bool) -> Iterator[Site]:
    """Serve the app behind nginx with this `server` block, with its address as the public URL or without."""
    # Imports the Celery app, which needs the broker's URL.
    from accession.web.app import create_app

    before, app = get_settings(), create_app()
    with serve_app(app) as served:
        server = server.replace("127.0.0.1:8642", served.base_url.netloc.decode())
        with running_nginx(folder, server) as url:
            if has_public_url:
                use_settings(before.model_copy(update={"public_url": f"{url}{ROOT}"}))
            with httpx.Client(
                base_url=url,
                headers={"Origin": url},
                timeout=DEADLINE_SECONDS,
                verify=False,  # noqa: S501
            ) as client:
                yield Site(app, client)
            use_settings(before)


@pytest.fixture(params=WAYS)
def visited(request: pytest.FixtureRequest, administrator: str, tmp_path: Path) -> Iterator[Site]:
    """Return a site in which an administrator is logged in."""
    server, has_public_url = WAYS[request.param]
    with site(tmp_path, server, has_public_url=has_public_url) as visited:
        assert "Overview" in visited.log_in(administrator).text
        yield visited


def test_no_address_on_any_page_leads_out_of_the_path(visited: Site) -> None:
    requests = visited.visit_all_pages()

    outside = {
        address: page
        for address, page in visited.addresses.items()
        if not address.startswith(f"{visited.url}/") and urlsplit(address).netloc not in FOREIGN_HOSTS
    }
    assert outside == {}
    assert [address for address in visited.actions if not visited.has_route(address)] == []
    assert (requests > 60, len(visited.actions) > 20) == (True, True)


def test_login_and_logout_work_below_the_path(visited: Site) -> None:
    cookies = visited.client.cookies.jar
    assert [(cookie.path, cookie.secure) for cookie in cookies] == [(ROOT, True)]
    logout = visited.client.post(f"{ROOT}/logout")
    assert (logout.status_code, logout.headers["location"]) == (303, f"{ROOT}/login")
    assert list(cookies) == []
    redirect = visited.client.get(f"{ROOT}/runs?state=failed")
    assert redirect.headers["location"] == f"{ROOT}/login?next=/runs%3Fstate%3Dfailed"


def test_change_is_accepted_and_redirected_below_path(visited: Site) -> None:
    """Its origin is compared with the host that nginx passes on."""
    change = visited.client.post(f"{ROOT}/control/run", data={"origin": "overview"})
    assert (change.status_code, change.headers["location"]) == (303, f"{ROOT}/")
    assert "Select at least one collection." in visited.client.get(f"{ROOT}/").text
    foreign = visited.client.post(f"{ROOT}/control/run", headers={"Origin": "https://other.example"})
    assert foreign.status_code == 403


@pytest.mark.parametrize("path", [ROOT, f"{ROOT}/titles/"])
def test_missing_or_extra_slash_is_redirected(visited: Site, path: str) -> None:
    response = visited.client.get(path)
    address = f"{visited.url}/" if path == ROOT else f"{visited.url}/titles"
    assert urljoin(visited.url, response.headers["location"]) == address


def test_feeds_name_addresses_below_the_path_only(visited: Site) -> None:
    get, url = visited.client.get, visited.url
    pending, requested = [f"{url}/opds/v2"], set[str]()
    while pending:
        requested.add(address := pending.pop())
        document = get(address)
        assert document.status_code == 200, address
        if document.headers["content-type"].startswith("application/opds"):
            links = set(addresses_in(document.json())) - requested
            pending.extend(link for link in links if urlsplit(link).netloc == urlsplit(url).netloc)
    assert [address for address in requested if not address.startswith(f"{url}/opds/v2")] == []
    assert len(requested) > 10
    assert f"<baseURL>{url}/oai</baseURL>" in get(f"{url}/oai?verb=Identify").text
    feed = etree.fromstring(get(f"{url}/digests/1.atom").content)
    assert [link.get("href") for link in feed.findall(f"{LINK}[@rel='self']")] == [f"{url}/digests/1.atom"]
    assert get(f"{url}/api/v1/openapi.json").json()["servers"] == [{"url": ROOT}]


def addresses_in(document: Any) -> Iterator[str]:
    """Yield the URLs of all links of an OPDS document, apart from templates."""
    if isinstance(document, dict):
        if "href" in document and not document.get("templated"):
            yield document["href"]
        for value in document.values():
            yield from addresses_in(value)
    elif isinstance(document, list):
        for value in document:
            yield from addresses_in(value)


def test_prefix_that_a_client_sends_is_removed(administrator: str, tmp_path: Path) -> None:
    with site(tmp_path, PATH_REMOVED, has_public_url=False) as visited:
        response = visited.client.get(f"{ROOT}/", headers={"X-Forwarded-Prefix": "/evil"})
        assert response.headers["location"] == "/login?next=/"
