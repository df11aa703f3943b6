"""Addresses of the dashboard, which a reverse proxy may serve below a path.

Paths in this program are those of its routes, such as `/titles`. The root, such as `/accession`, is what
comes before them in the addresses that browsers see. It is added where a path becomes an address, and removed
from the paths of requests.
"""

from contextvars import ContextVar
from http import HTTPStatus
from urllib.parse import urlsplit

from starlette.requests import Request
from starlette.responses import RedirectResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from accession.core.public_url import public_url

_root: ContextVar[str] = ContextVar("root", default="")


def root() -> str:
    """Return what comes before the paths in this request's addresses, such as `/accession`, or `""`."""
    return _root.get()


def route_path(scope: Scope) -> str:
    """Return the path of a request without the root."""
    path: str = scope["path"]
    return path.removeprefix(root())


def absolute_url(request: Request, path: str) -> str:
    """Return the URL of a path: below the public URL, or else below the URL that the client has used."""
    return public_url(path) or str(request.base_url).removesuffix("/") + path


def redirect_to(path: str) -> RedirectResponse:
    """Return a redirect to a page of the dashboard, which the browser requests with GET."""
    return RedirectResponse(root() + path, HTTPStatus.SEE_OTHER)


def cookie_name(name: str) -> str:
    """Return the name of a cookie that is sent with all requests, such as `accession_session_accession`.

    It has the root, because browsers also send the cookies of another installation at `/` of the same host.
    """
    return name + root().replace("/", "_")


def cookie_path(path: str = "/") -> str:
    """Return the `Path` attribute of a cookie for this path and those below it."""
    return (root() + path).rstrip("/") or "/"


class RootPath:
    """ASGI middleware that sets the root: the path of the public URL, or else the server's `root_path`.

    Requests may have paths with and without the root, because some proxies remove it. The app gets them with
    the root, as the ASGI specification requires.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, with the root in its path."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        url = public_url()
        root_path = scope.get("root_path", "") if url is None else urlsplit(url).path
        path = f"{root_path}/" if scope["path"] == root_path else scope["path"]
        if not path.startswith(f"{root_path}/"):
            path = root_path + path
        token = _root.set(root_path)
        try:
            await self._app({**scope, "root_path": root_path, "path": path}, receive, send)
        finally:
            _root.reset(token)
