"""Login at the OpenID Connect provider: the way there, and the way back.

Meanwhile a signed cookie keeps what the response is checked with, so that nothing is stored for whoever never
comes back.
"""

import hmac
from dataclasses import astuple, dataclass, field
from datetime import timedelta
from functools import partial

import structlog
from anyio import CapacityLimiter, to_thread
from fastapi import APIRouter
from itsdangerous import BadData, URLSafeTimedSerializer
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from accession.accounts.keys import derive_key
from accession.auth.oidc import LoginRequest, Provider, get_provider
from accession.auth.oidc_errors import ProviderError, denied_error, expired_login
from accession.auth.oidc_users import log_in_identity
from accession.auth.users import LoginRefusal
from accession.db.engine import transaction
from accession.web.addresses import absolute_url, cookie_path, redirect_to
from accession.web.errors import HTTPProblem
from accession.web.login import ID_TOKEN_COOKIE, local_path, login_page
from accession.web.request_checks import client_address
from accession.web.sessions import MAX_AGE, session_cookie

log = structlog.get_logger(__name__)

router = APIRouter(prefix="/login/oidc", include_in_schema=False)

_COOKIE = "accession_oidc"
_MAX_AGE = timedelta(minutes=10)
# Browsers ignore cookies of more than 4,096 bytes, such as those with hundreds of groups.
_MAX_ID_TOKEN_LENGTH = 3800
# A provider that is slow must not occupy the threads of all other requests.
_provider_requests = CapacityLimiter(4)


@dataclass(frozen=True)
class _PendingLogin:
    """A login that waits for the provider's response, and the path to show after it."""

    request: LoginRequest
    next_path: str


@dataclass(frozen=True)
class _Login:
    """A completed login."""

    session_cookie: str = field(repr=False)
    id_token: str = field(repr=False)


@router.get("")
async def start_login(request: Request, next: str = "/") -> Response:  # noqa: A002 - name of the query parameter
    """Redirect to the provider, or show the login page with an error."""
    provider = _require_provider()
    next_path = local_path(next)
    if request.state.principal is not None:
        return redirect_to(next_path)
    login = LoginRequest.new(absolute_url(request, f"{router.prefix}/callback"))
    try:
        url = await to_thread.run_sync(provider.authorization_url, login, limiter=_provider_requests)
    except ProviderError as error:
        return _failed_login(request, 502, error, next_path)
    response = RedirectResponse(url, 303)
    cookie = _serializer().dumps([*astuple(login), next_path])
    _set_cookie(request, response, _COOKIE, cookie, _MAX_AGE, router.prefix)
    return response


@router.get("/callback")
async def finish_login(request: Request, state: str = "", code: str = "", error: str = "") -> Response:
    """Start a session after the provider has sent the browser back, or show the login page with an error."""
    provider = _require_provider()
    pending = _read_cookie(request)
    if pending is None or not hmac.compare_digest(pending.request.state.encode(), state.encode()):
        return _failed_login(request, 400, expired_login())
    if not code:
        return _failed_login(request, 403, denied_error(error), pending.next_path)
    log_in = partial(_log_in, request, provider, pending.request, code)
    try:
        result = await to_thread.run_sync(log_in, limiter=_provider_requests)
    except ProviderError as failure:
        return _failed_login(request, 502, failure, pending.next_path)
    if isinstance(result, LoginRefusal):
        response = login_page(request, 403, next=pending.next_path, error=result.message)
    else:
        response = redirect_to(pending.next_path)
        response.headers.append("set-cookie", result.session_cookie)
        if len(result.id_token) <= _MAX_ID_TOKEN_LENGTH:
            _set_cookie(request, response, ID_TOKEN_COOKIE, result.id_token, MAX_AGE, "/logout")
    _delete_cookie(response)
    return response


def _log_in(request: Request, provider: Provider, login: LoginRequest, code: str) -> _Login | LoginRefusal:
    """Return the session of the person who has logged in at the provider, or why there is none."""
    identity = provider.fetch_identity(login, code)
    address = client_address(request)
    with transaction() as session:
        user = log_in_identity(session, identity, address)
        if isinstance(user, LoginRefusal):
            log.warning("login refused", address=address, reason=user.reason)
            return user
        cookie = session_cookie(user, secure=request.url.is_secure)
        name = user.name
    log.info("user logged in", user=name, address=address)
    return _Login(cookie, identity.id_token)


def _failed_login(request: Request, status: int, error: ProviderError, next_path: str = "/") -> Response:
    log.warning("login at provider failed", address=client_address(request), reason=error.reason)
    response = login_page(request, status, next=next_path, error=str(error))
    _delete_cookie(response)
    return response


def _require_provider() -> Provider:
    provider = get_provider()
    if provider is None:
        raise HTTPProblem(404, "No OpenID Connect provider is configured: log in with a password.")
    return provider


def _set_cookie(
    request: Request, response: Response, name: str, value: str, max_age: timedelta, path: str
) -> None:
    # The provider is another site, from which browsers send no cookies that are strict.
    response.set_cookie(
        name,
        value,
        max_age=int(max_age.total_seconds()),
        path=cookie_path(path),
        secure=request.url.is_secure,
        httponly=True,
        samesite="lax",
    )


def _delete_cookie(response: Response) -> None:
    response.delete_cookie(_COOKIE, path=cookie_path(router.prefix))


def _read_cookie(request: Request) -> _PendingLogin | None:
    cookie = request.cookies.get(_COOKIE, "")
    try:
        *login, next_path = _serializer().loads(cookie, max_age=int(_MAX_AGE.total_seconds()))
    except BadData:
        return None
    return _PendingLogin(LoginRequest(*login), next_path)


def _serializer() -> URLSafeTimedSerializer:
    return URLSafeTimedSerializer(derive_key("logins at the provider"), salt="login")
