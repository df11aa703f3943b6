"""Login page, login with throttling, and logout."""

import math
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl

import structlog
from anyio import CapacityLimiter, to_thread
from fastapi import APIRouter
from pydantic import SecretStr
from starlette.requests import Request
from starlette.responses import Response

from accession.auth.audit import Actor, ActorKind, AuditAction, record
from accession.auth.oidc import get_provider
from accession.auth.oidc_errors import ProviderError
from accession.auth.users import LoginRefusal, authenticate_user, is_provider_user, user_exists
from accession.core.settings import get_settings
from accession.db.engine import transaction
from accession.web.addresses import absolute_url, cookie_path, redirect_to
from accession.web.errors import HTTPProblem
from accession.web.pages.rendering import render
from accession.web.principal import Principal
from accession.web.request_checks import client_address
from accession.web.sessions import expired_cookie, session_cookie
from accession.web.throttle import register_attempt, reset_attempts

log = structlog.get_logger(__name__)

router = APIRouter(include_in_schema=False)

ID_TOKEN_COOKIE = "accession_id_token"  # noqa: S105
"""Cookie with the ID token of the login at the provider; browsers send it to the logout only."""

_MAX_BODY_BYTES = 10_000
# Checking a password takes 64 MiB, and anyone may send any number of logins at once.
_password_checks = CapacityLimiter(2)


@dataclass(frozen=True)
class _LoginResult:
    """Outcome of a login attempt: a session cookie, seconds to wait, or why a right password is refused.

    After a wrong password there is none of them.
    """

    cookie: str | None = None
    retry_after_seconds: int = 0
    refusal: str | None = None


@router.get("/login")
def show_login(request: Request, next: str = "/") -> Response:  # noqa: A002 - name of the query parameter
    """Show the login page; redirect to `next` if the user is logged in already."""
    if request.state.principal is not None:
        return redirect_to(local_path(next))
    return login_page(request, next=local_path(next))


@router.post("/login")
async def log_in(request: Request) -> Response:
    """Start a session and redirect to `next`, or show the login page with an error."""
    fields = await _form_fields(request)
    name, password = fields.get("name", ""), SecretStr(fields.get("password", ""))
    next_path = local_path(fields.get("next", "/"))
    result = await to_thread.run_sync(_attempt_login, request, name, password, limiter=_password_checks)
    if result.cookie is not None:
        response: Response = redirect_to(next_path)
        response.headers.append("set-cookie", result.cookie)
        return response
    if result.refusal is not None:
        return login_page(request, 403, next=next_path, name=name, error=result.refusal)
    seconds = result.retry_after_seconds
    if not seconds:
        return login_page(request, 401, next=next_path, name=name, error="Wrong name or password.")
    error = f"Too many failed logins: try again in {math.ceil(seconds / 60)} min."
    return login_page(request, 429, {"Retry-After": str(seconds)}, next=next_path, name=name, error=error)


@router.post("/logout")
def log_out(request: Request) -> Response:
    """End the session in this browser, and go to the logout of the provider or to the login page."""
    principal: Principal | None = request.state.principal
    provider_url = None
    if principal is not None:
        with transaction() as session:
            record(session, principal.actor, AuditAction.USER_LOGOUT, principal.name)
            is_from_provider = is_provider_user(session, principal.name)
        provider_url = _provider_logout_url(request) if is_from_provider else None
    response: Response = redirect_to("/login")
    if provider_url is not None:
        # The policy of the page with the form forbids a redirect of the form to another site.
        response = render(request, "logout.html", url=provider_url)
        response.delete_cookie(ID_TOKEN_COOKIE, path=cookie_path("/logout"))
    response.headers.append("set-cookie", expired_cookie(secure=request.url.is_secure))
    return response


def _provider_logout_url(request: Request) -> str | None:
    """Return where the browser logs out of the provider; None if that is impossible."""
    provider = get_provider()
    if provider is None:
        return None
    try:
        return provider.logout_url(absolute_url(request, "/login"), request.cookies.get(ID_TOKEN_COOKIE))
    except ProviderError as error:
        log.warning("logout at provider failed", reason=error.reason)
        return None


def local_path(path: str) -> str:
    """Return the path if every browser resolves it to this site; otherwise `/`."""
    # Browsers remove tabs and line ends from URLs, and treat a backslash as a slash.
    is_plain = path.isascii() and path.isprintable() and not {" ", "\\"} & set(path)
    return path if is_plain and path.startswith("/") and not path.startswith("//") else "/"


def _attempt_login(request: Request, name: str, password: SecretStr) -> _LoginResult:
    address = client_address(request)
    seconds = register_attempt(name, address)
    if seconds:
        log.warning("login rejected: too many failed attempts", address=address)
        return _LoginResult(retry_after_seconds=seconds)
    with transaction() as session:
        user = authenticate_user(session, name, password)
        if user is None:
            # Another name is not logged: people sometimes type their password into that field.
            log.warning("login failed", address=address)
            known_name = name if user_exists(session, name) else ""
            anonymous = Actor(ActorKind.ANONYMOUS, "", address)
            record(session, anonymous, AuditAction.USER_LOGIN_FAILED, known_name)
            return _LoginResult()
        if isinstance(user, LoginRefusal):
            log.warning("login refused", address=address, reason=user.reason)
            anonymous = Actor(ActorKind.ANONYMOUS, "", address)
            record(session, anonymous, AuditAction.USER_LOGIN_FAILED, name, {"reason": user.reason})
            return _LoginResult(refusal=user.message)
        record(session, Actor(ActorKind.USER, name, address), AuditAction.USER_LOGIN, name)
        cookie = session_cookie(user, secure=request.url.is_secure)
    reset_attempts(name, address)
    log.info("user logged in", user=name, address=address)
    return _LoginResult(cookie)


async def _form_fields(request: Request) -> dict[str, str]:
    """Return the fields of the submitted form; an empty dict when the body is malformed.

    Raises:
        HTTPProblem: the body is longer than any login.
    """
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > _MAX_BODY_BYTES:
            raise HTTPProblem(413, f"The login form is too long: send at most {_MAX_BODY_BYTES:,} bytes.")
    try:
        return dict(parse_qsl(body.decode(errors="replace"), keep_blank_values=True, max_num_fields=10))
    except ValueError:
        return {}


def login_page(
    request: Request, status: int = 200, headers: dict[str, str] | None = None, **context: Any
) -> Response:
    """Return the login page; `context` has the path `next`, and may have `name` and `error`."""
    settings = get_settings()
    provider_label = settings.oidc_button_label if settings.oidc_issuer is not None else None
    defaults = {
        "name": "",
        "error": None,
        "provider_label": provider_label,
        "is_provider_required": settings.oidc_required,
    }
    response = render(request, "login.html", status=status, **{**defaults, **context})
    response.headers.update(headers or {})
    return response
