"""Who may use dashboard and API: every request is somebody's, or is refused before a route sees it.

Three ways lead in. On a loopback address, while there is no user, whoever is on this machine may do
everything (`LOCAL`). Else a person logs in and has a session, and a program shows a token.

A token of feeds opens their paths and nothing else, for reading. Reading apps and harvesters, which know no
bearer, show it there as the password of HTTP Basic, or in the address as `?token=`; a token of a role, which
opens so much more, is taken from neither. Of one collection alone, it opens only what asks by `Reader`.

A change (any method but GET, HEAD and OPTIONS) must come from a page of ours, or with a token. Browsers
themselves tell where it comes from, and no page can make them tell otherwise: by `Sec-Fetch-Site`, or else
`Origin`, or else `Referer`. A change with none of these is refused, so a browser that sends none can change
nothing, and there is no form that has to carry a secret of its own, or can forget to.
"""

from base64 import b64decode
from dataclasses import dataclass
from typing import Annotated, Literal
from urllib.parse import quote, urlsplit

import structlog
from fastapi import Depends, FastAPI
from pydantic import SecretStr
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from accession.auth.users import TOKEN_PREFIX, Feed, Role, any_user, use_token, user_of_session
from accession.core.loopback import is_loopback
from accession.core.settings import get_settings
from accession.db.engine import transaction
from accession.web.headers import SecurityHeaders
from accession.web.errors import FORESEEN, Refused, problem
from accession.web.refusals import is_for_programs, refusal
from accession.web.sessions import COOKIE, read_session, session_cookie

log = structlog.get_logger(__name__)

_SAFE_METHODS = ("GET", "HEAD", "OPTIONS")
# Asked before anybody can have logged in, or by those who never do; they must not need the database.
_OPEN = ("/healthz", "/readyz", "/favicon.ico")
_OPEN_FOLDER = "/static/"
_WAY_IN_AND_OUT = ("/login", "/logout")


@dataclass(frozen=True)
class Principal:
    """Whoever makes a request: a user's name or a token's, and what may be done under it; `collection_id` is
    that of the only collection that may be seen, None where every one may."""

    name: str
    role: Role
    by: Literal["local", "session", "token"]
    collection_id: int | None = None


LOCAL = Principal("local", Role.OPERATOR, "local")

_CHALLENGE = {"WWW-Authenticate": "Bearer"}
_FEED_CHALLENGE = {"WWW-Authenticate": 'Basic realm="Accession", charset="UTF-8"'}


def reader(request: Request) -> Principal:
    """Whoever makes the request, for a route that shows nothing of other collections than the principal's."""
    principal: Principal | None = request.state.principal
    if principal is None:
        raise Refused(401, "This needs a login or a token.", _CHALLENGE)
    return principal


Reader = Annotated[Principal, Depends(reader)]


def viewer(principal: Reader) -> Principal:
    """Whoever makes the request, for a route that shows something."""
    if principal.collection_id is not None:
        raise Refused(403, f'The token "{principal.name}" opens the feeds of one collection, and not this.')
    return principal


Viewer = Annotated[Principal, Depends(viewer)]


def operator(principal: Viewer) -> Principal:
    """Whoever makes the request, for a route that changes something; a viewer is refused."""
    if not principal.role.may_operate:
        raise Refused(403, f'"{principal.name}" may see everything and change nothing: ask an operator.')
    return principal


Operator = Annotated[Principal, Depends(operator)]


def install_access(app: FastAPI) -> None:
    """Afterwards each request to the app is let in or refused as this module says, and each answer has the
    security headers."""
    for kind in FORESEEN:
        app.add_exception_handler(kind, refusal)
    app.add_middleware(AccessMiddleware, host=get_settings().web_host)
    # Added last, it is the outermost: refusals get their headers, too.
    app.add_middleware(SecurityHeaders)


@dataclass(frozen=True)
class _Entrance:
    """A request that goes on, and the cookie by which the session lasts longer, if it has to."""

    principal: Principal | None
    renewed_cookie: str | None = None


class AccessMiddleware:
    """Sets `request.state.principal`, or answers in the place of the app.

    Only on the way in, the way out and what is open to everybody is it None.
    """

    def __init__(self, app: ASGIApp, *, host: str) -> None:
        """`host` is the address that is served."""
        self._app = app
        self._on_loopback = is_loopback(host)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let the request in, or refuse it."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
        elif scope["type"] == "http":
            await self._serve(Request(scope), receive, send)
        else:
            # There are none, and so nobody has to guard them.
            await send({"type": "websocket.close", "code": 1008})

    async def _serve(self, request: Request, receive: Receive, send: Send) -> None:
        try:
            entrance = await self._entrance(request)
        except Refused as refused:
            await _turned_away(request, refused)(request.scope, receive, send)
            return
        except OperationalError as error:
            await refusal(request, error)(request.scope, receive, send)
            return
        request.state.principal = entrance.principal
        if entrance.renewed_cookie is not None:
            send = _with_cookie(send, entrance.renewed_cookie)
        await self._app(request.scope, receive, send)

    async def _entrance(self, request: Request) -> _Entrance:
        """Raises `Refused`."""
        path: str = request.scope["path"]
        token = _token(request)
        if token is None and request.method not in _SAFE_METHODS and _is_from_elsewhere(request.headers):
            log.warning(
                "a change that comes from elsewhere is refused", path=path, address=address_of(request)
            )
            raise Refused(
                403,
                "This change does not come from a page of this dashboard: make it there, or with a token "
                "of `accession tokens add`.",
            )
        if path in _OPEN or path.startswith(_OPEN_FOLDER):
            return _Entrance(None)
        entrance = await run_in_threadpool(self._look_up, request, token)
        if entrance.principal is None and path not in _WAY_IN_AND_OUT:
            challenge = _FEED_CHALLENGE if _is_of_a_feed(path) else _CHALLENGE
            raise Refused(401, "This needs a token, as in: Authorization: Bearer acc_...", challenge)
        return entrance

    def _look_up(self, request: Request, token: SecretStr | None) -> _Entrance:
        with transaction() as session:
            if token is not None:
                return _Entrance(_of_token(session, request, token))
            if self._on_loopback and not any_user(session):
                _refuse_strangers(request)
                return _Entrance(LOCAL)
            return _of_session(session, request)


def _of_token(session: Session, request: Request, token: SecretStr) -> Principal:
    """Raises `Refused`."""
    found = use_token(session, token)
    is_bearer = _bearer(request.headers) is not None
    if found is None or not (is_bearer or found.feeds):
        raise Refused(
            401,
            "This token is unknown or revoked: make another with `accession tokens add`."
            if found is None
            else f'The token "{found.name}" is of a role: send it as Authorization: Bearer acc_...',
            {"WWW-Authenticate": 'Bearer error="invalid_token"'} if is_bearer else _FEED_CHALLENGE,
        )
    if found.role is not None:
        return Principal(found.name, Role(found.role), "token")
    feeds = [Feed(name) for name in found.feeds or ()]
    if not any(feed.has(request.scope["path"]) and feed.reads_by(request.method) for feed in feeds):
        places = " and ".join(f"/{feed}" for feed in feeds)
        raise Refused(403, f'The token "{found.name}" is for reading {places}, and opens nothing else.')
    return Principal(found.name, Role.VIEWER, "token", found.collection_id)


def _of_session(session: Session, request: Request) -> _Entrance:
    begun = read_session(request.cookies.get(COOKIE, ""))
    user = user_of_session(session, begun.user_id, begun.session_key) if begun else None
    if begun is None or user is None:
        return _Entrance(None)
    # What ends the session sets a cookie of its own.
    to_be_renewed = begun.is_to_be_renewed and request.scope["path"] not in _WAY_IN_AND_OUT
    cookie = session_cookie(user, secure=request.url.is_secure) if to_be_renewed else None
    return _Entrance(Principal(user.name, Role(user.role), "session"), cookie)


def _refuse_strangers(request: Request) -> None:
    """Raises `Refused` where the open house would be shown to other machines: by a name that only now leads
    here (DNS rebinding), or by a proxy."""
    named = _host_of(f"//{request.headers.get('host', '')}")
    from_here = request.client is None or is_loopback(request.client.host)
    if named is None or not is_loopback(named) or not from_here:
        log.warning("a request to another name than this machine's is refused", address=address_of(request))
        raise Refused(
            403,
            "While there is no user, the dashboard is only for its own machine, as http://127.0.0.1 or "
            "http://localhost: add one with `accession users add NAME --role operator`.",
        )


def _turned_away(request: Request, refused: Refused) -> Response:
    """The refusal, or for a person who has not logged in, the way to the login."""
    path: str = request.scope["path"]
    if _token(request) is not None:
        return problem(refused)
    if refused.status != 401 or is_for_programs(path):
        return refusal(request, refused)
    if request.method not in _SAFE_METHODS:
        return RedirectResponse("/login", 303)
    query = request.scope.get("query_string", b"").decode("latin-1")
    return RedirectResponse(f"/login?next={quote(f'{path}?{query}' if query else path)}", 303)


def address_of(request: Request) -> str:
    """Where the request comes from; behind a proxy that is trusted, what that says."""
    return request.client.host if request.client else "unknown"


def _token(request: Request) -> SecretStr | None:
    """The token that the request shows, in a way that its path knows."""
    bearer = _bearer(request.headers)
    if bearer is not None or not _is_of_a_feed(request.scope["path"]):
        return bearer
    in_address = request.query_params.get("token")
    return _password(request.headers) if in_address is None else SecretStr(in_address)


def _is_of_a_feed(path: str) -> bool:
    return any(feed.has(path) for feed in Feed)


def _password(headers: Headers) -> SecretStr | None:
    """What HTTP Basic has as the password, if it can be a token: a proxy may have logins of its own."""
    scheme, _, coded = headers.get("authorization", "").partition(" ")
    try:
        _, _, password = b64decode(coded).decode().partition(":")
    except ValueError:
        return None
    return SecretStr(password) if scheme.lower() == "basic" and password.startswith(TOKEN_PREFIX) else None


def _bearer(headers: Headers) -> SecretStr | None:
    scheme, _, token = headers.get("authorization", "").partition(" ")
    return SecretStr(token.strip()) if scheme.lower() == "bearer" else None


def _is_from_elsewhere(headers: Headers) -> bool:
    """Whether a change was not sent from a page of ours, or does not say where it was sent from."""
    site = headers.get("sec-fetch-site")
    if site is not None:
        return site not in ("same-origin", "none")
    source = headers.get("origin", headers.get("referer", ""))
    host = headers.get("host", "").lower()
    try:
        return not host or urlsplit(source).netloc.rpartition("@")[2].lower() != host
    except ValueError:
        return True


def _host_of(url: str) -> str | None:
    try:
        return urlsplit(url).hostname
    except ValueError:
        return None


def _with_cookie(send: Send, cookie: str) -> Send:
    async def with_cookie(message: Message) -> None:
        if message["type"] == "http.response.start":
            MutableHeaders(scope=message).append("set-cookie", cookie)
        await send(message)

    return with_cookie
