"""Middleware that authenticates every request, or rejects it before a route runs.

Callers authenticate with a session cookie (people) or a token (programs). While no user exists and the
dashboard is served on a loopback address, everyone on this machine may do everything. A change (any method
but GET, HEAD and OPTIONS) must carry a token or come from a page of this dashboard.
"""

from http import HTTPStatus
from urllib.parse import quote

from fastapi import FastAPI
from pydantic import SecretStr
from sqlalchemy.exc import OperationalError
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from accession.auth.roles import FeedKind
from accession.core.loopback import is_loopback
from accession.core.settings import get_settings
from accession.db.engine import transaction
from accession.web.addresses import redirect_to, route_path
from accession.web.authentication import (
    BASIC_CHALLENGE,
    LOGIN_PATHS,
    AuthResult,
    authenticate,
    request_token,
)
from accession.web.error_handlers import error_response, is_machine_path
from accession.web.errors import HANDLED_ERRORS, HTTPProblem, problem_response
from accession.web.feed_paths import is_feed_path, is_path_of
from accession.web.headers import SecurityHeaders
from accession.web.opds_authentication import AUTHENTICATION_PATH, authentication_response
from accession.web.principal import BEARER_CHALLENGE
from accession.web.request_checks import SAFE_METHODS, require_same_site, require_short_body

# Used by probes and by the login page; they must work without the database. Browsers and crawlers request the
# two files that do not exist, and would take the login page for them.
_PUBLIC_PATHS = ("/healthz", "/readyz", "/favicon.ico", "/robots.txt", AUTHENTICATION_PATH)
_PUBLIC_FOLDER = "/static/"


def install_access(app: FastAPI) -> None:
    """Add error handlers, authentication and security headers to the app."""
    for error_type in HANDLED_ERRORS:
        app.add_exception_handler(error_type, error_response)
    app.add_middleware(AccessMiddleware, host=get_settings().web_host)
    # Added last, it is the outermost: rejected requests get the headers too.
    app.add_middleware(SecurityHeaders)


class AccessMiddleware:
    """ASGI middleware that sets `request.state.principal`, or answers instead of the app.

    The principal is None only on public paths, and those of login and logout.
    """

    def __init__(self, app: ASGIApp, *, host: str) -> None:
        """Wrap `app`, which is served at the address `host`."""
        self._app = app
        self._on_loopback = is_loopback(host)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on if the caller may make it; refuse web sockets."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
        elif scope["type"] == "http":
            await self._handle_request(Request(scope), receive, send)
        else:
            # The dashboard has no web sockets.
            await send({"type": "websocket.close", "code": 1008})

    async def _handle_request(self, request: Request, receive: Receive, send: Send) -> None:
        try:
            result = await self._authenticate(request)
        except HTTPProblem as problem:
            await _denied_response(request, problem)(request.scope, receive, send)
            return
        except OperationalError as error:
            await error_response(request, error)(request.scope, receive, send)
            return
        request.state.principal = result.principal
        if result.renewed_cookie is not None:
            send = _with_cookie(send, result.renewed_cookie)
        await self._app(request.scope, receive, send)

    async def _authenticate(self, request: Request) -> AuthResult:
        path = route_path(request.scope)
        require_short_body(request)
        token = request_token(request)
        if token is None:
            require_same_site(request)
        if path in _PUBLIC_PATHS or path.startswith(_PUBLIC_FOLDER):
            return AuthResult(None)
        result = await run_in_threadpool(self._look_up_caller, request, token)
        if result.principal is None and path not in LOGIN_PATHS:
            challenge = BASIC_CHALLENGE if is_feed_path(path) else BEARER_CHALLENGE
            raise HTTPProblem(
                401, "Authentication required: send a token as Authorization: Bearer acc_...", challenge
            )
        return result

    def _look_up_caller(self, request: Request, token: SecretStr | None) -> AuthResult:
        with transaction() as session:
            return authenticate(session, request, token, on_loopback=self._on_loopback)


def _denied_response(request: Request, problem: HTTPProblem) -> Response:
    """Return the problem, or a redirect to the login page for a person who is not logged in."""
    path = route_path(request.scope)
    has_token = request_token(request) is not None
    if problem.status == HTTPStatus.UNAUTHORIZED and is_path_of(FeedKind.OPDS, path):
        return authentication_response(request, problem, has_token=has_token)
    if has_token:
        return problem_response(problem)
    if problem.status != HTTPStatus.UNAUTHORIZED or is_machine_path(path):
        return error_response(request, problem)
    if request.method not in SAFE_METHODS:
        return redirect_to("/login")
    query = request.scope.get("query_string", b"").decode("latin-1")
    return redirect_to(f"/login?next={quote(f'{path}?{query}' if query else path)}")


def _with_cookie(send: Send, cookie: str) -> Send:
    async def send_with_cookie(message: Message) -> None:
        if message["type"] == "http.response.start":
            MutableHeaders(scope=message).append("set-cookie", cookie)
        await send(message)

    return send_with_cookie
