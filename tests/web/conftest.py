"""The web app as a browser, or a program, meets it: requests go through all of it, without a network."""

import asyncio
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import httpx
import pytest
from fastapi import FastAPI, Response
from pydantic import SecretStr
from redis import Redis
from sqlalchemy.orm import Session

from accession.catalog.users import Feed, Role, add_feed_token, add_token, add_user
from accession.settings import get_settings, use_settings
from accession.web.access import Operator, Reader, Viewer
from tests.making import PASSWORD

HERE = "http://127.0.0.1:8642"


@dataclass
class Browser:
    """Keeps cookies, and says where a form was sent from; `says` is what it sends with each request."""

    app: FastAPI
    base_url: str = HERE
    says: Mapping[str, str] = field(default_factory=lambda: {"Sec-Fetch-Site": "same-origin"})
    address: str = "127.0.0.1"
    cookies: httpx.Cookies = field(default_factory=httpx.Cookies)

    def get(self, path: str, **options: Any) -> httpx.Response:
        return self.request("GET", path, **options)

    def post(self, path: str, **options: Any) -> httpx.Response:
        return self.request("POST", path, **options)

    def log_in(self, name: str = "ann", password: str = PASSWORD, next: str = "/") -> httpx.Response:  # noqa: A002
        return self.post("/login", data={"name": name, "password": password, "next": next})

    def request(self, method: str, path: str, **options: Any) -> httpx.Response:
        return asyncio.run(self._request(method, path, **options))

    async def _request(
        self, method: str, path: str, headers: Mapping[str, str] | None = None, **options: Any
    ) -> httpx.Response:
        transport = httpx.ASGITransport(self.app, raise_app_exceptions=False, client=(self.address, 40000))
        async with httpx.AsyncClient(
            transport=transport, base_url=self.base_url, cookies=self.cookies
        ) as client:
            answer = await client.request(method, path, headers={**self.says, **(headers or {})}, **options)
            self.cookies = client.cookies
        return answer


class Open(Protocol):
    """Opens a browser on the app."""

    def __call__(self, *, host: str = "127.0.0.1", **options: Any) -> Browser: ...


@pytest.fixture
def browser_on(database: None, redis: Redis) -> Iterator[Open]:
    """Opens browsers on apps that are served at any address, and that have a page and an API to use."""
    before = get_settings()

    def open_(*, host: str = "127.0.0.1", **options: Any) -> Browser:
        # It imports the Celery app, which can only be imported once the broker is known.
        from accession.web.app import create_app

        use_settings(before.model_copy(update={"web_host": host}))
        return Browser(with_something_to_use(create_app()), **options)

    yield open_
    use_settings(before)


@pytest.fixture
def browser(browser_on: Open) -> Browser:
    """A browser on the app as it is served unless somebody chooses otherwise."""
    return browser_on()


@pytest.fixture
def redis(queues: Redis) -> Iterator[Redis]:
    """The broker, in which failed logins are counted, without any."""
    with queues:
        yield queues


@pytest.fixture
def ann(session: Session) -> str:
    """An operator, whose password is `PASSWORD`."""
    return make_user(session, "ann", Role.OPERATOR)


@pytest.fixture
def vic(session: Session) -> str:
    """A viewer with the same password."""
    return make_user(session, "vic", Role.VIEWER)


def make_user(session: Session, name: str, role: Role) -> str:
    add_user(session, name, SecretStr(PASSWORD), role)
    session.commit()
    return name


def make_token(session: Session, name: str = "script", role: Role = Role.OPERATOR) -> str:
    token = add_token(session, name, role)
    session.commit()
    return token.get_secret_value()


def make_feed_token(session: Session, *feeds: Feed, collection: str | None = None) -> str:
    token = add_feed_token(session, "app", feeds or [Feed.OPDS], collection)
    session.commit()
    return token.get_secret_value()


def with_something_to_use(app: FastAPI) -> FastAPI:
    """The app with a page, an API and feeds that say who asks, one deed of each, and a bug."""
    for path in ("/who", "/api/v1/who"):
        app.add_api_route(path, _show, methods=["GET"], include_in_schema=False)
        app.add_api_route(path, _change, methods=["POST", "PUT", "PATCH", "DELETE"], include_in_schema=False)
    for path in ("/oai/who", "/opds/who"):
        app.add_api_route(path, _show_reader, methods=["GET"], include_in_schema=False)
        app.add_api_route(f"{path}/everything", _show, methods=["GET"], include_in_schema=False)
    broken: Callable[[], None] = _break
    for path in ("/broken", "/api/v1/broken"):
        app.add_api_route(path, broken, methods=["GET"], include_in_schema=False)
    app.add_api_route("/picture", _picture, methods=["GET"], include_in_schema=False)
    return app


def _show(principal: Viewer) -> dict[str, str]:
    return {"name": principal.name, "role": principal.role, "by": principal.by}


def _show_reader(reader: Reader) -> dict[str, str | int | None]:
    return {"name": reader.name, "collection_id": reader.collection_id}


def _change(principal: Operator) -> dict[str, str]:
    return {"changed_by": principal.name}


def _break() -> None:
    raise RuntimeError("a bug")


def _picture(_: Viewer) -> Response:
    return Response(b"", headers={"Cache-Control": "private, max-age=60"})
