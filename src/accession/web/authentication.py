"""Authentication of requests: bearer tokens, feed tokens, and session cookies.

Tokens with a role are accepted only as bearer tokens. Reading apps and harvesters often support no bearer
token, so a feed token may also be the password of HTTP Basic or the query parameter `token`; it allows
reading its feeds and nothing else.
"""

from base64 import b64decode
from dataclasses import dataclass

from pydantic import SecretStr
from sqlalchemy.orm import Session
from starlette.datastructures import Headers
from starlette.requests import Request

from accession.auth.roles import FeedKind, UserRole
from accession.auth.tokens import TOKEN_PREFIX, use_token
from accession.auth.users import find_session_user, is_login_required
from accession.web.addresses import cookie_name, route_path
from accession.web.errors import HTTPProblem
from accession.web.feed_paths import feed_prefix, is_feed_path, is_feed_read
from accession.web.principal import Principal
from accession.web.request_checks import client_address, require_local_request
from accession.web.sessions import COOKIE, read_session, session_cookie

BASIC_CHALLENGE = {"WWW-Authenticate": 'Basic realm="Accession", charset="UTF-8"'}
_INVALID_TOKEN_CHALLENGE = {"WWW-Authenticate": 'Bearer error="invalid_token"'}

LOGIN_PATHS = ("/login", "/logout", "/login/oidc", "/login/oidc/callback")


@dataclass(frozen=True)
class AuthResult:
    """The caller, None when unknown, and the session cookie to send if the session has to be renewed."""

    principal: Principal | None
    renewed_cookie: str | None = None


def authenticate(
    session: Session, request: Request, token: SecretStr | None, *, on_loopback: bool
) -> AuthResult:
    """Identify the caller by the token, or else by the session cookie.

    `on_loopback` tells whether the dashboard is served on a loopback address: there, while no login is
    required, everyone on this machine is an administrator.

    Raises:
        HTTPProblem: the token is invalid or does not allow the request, or the request is not local.
    """
    if token is not None:
        return AuthResult(_token_principal(session, request, token))
    if on_loopback and not is_login_required(session):
        require_local_request(request)
        return AuthResult(Principal("local", UserRole.ADMINISTRATOR, "local", client_address(request)))
    return _session_result(session, request)


def request_token(request: Request) -> SecretStr | None:
    """Return the token that the request carries; HTTP Basic and `?token=` count on paths of feeds only."""
    bearer = _bearer_token(request.headers)
    if bearer is not None or not is_feed_path(route_path(request.scope)):
        return bearer
    query_token = request.query_params.get("token")
    return _basic_token(request.headers) if query_token is None else SecretStr(query_token)


def _token_principal(session: Session, request: Request, secret: SecretStr) -> Principal:
    token = use_token(session, secret)
    is_bearer = _bearer_token(request.headers) is not None
    challenge = _INVALID_TOKEN_CHALLENGE if is_bearer else BASIC_CHALLENGE
    if token is None:
        raise HTTPProblem(
            401, "This token is unknown or revoked: create another with `accession tokens add`.", challenge
        )
    if not (is_bearer or token.feeds):
        raise HTTPProblem(
            401, f'The token "{token.name}" has a role: send it as Authorization: Bearer acc_...', challenge
        )
    if token.role is not None:
        return Principal(token.name, UserRole(token.role), "token", client_address(request))
    feeds = [FeedKind(name) for name in token.feeds or ()]
    if not any(is_feed_read(feed, request.method, route_path(request.scope)) for feed in feeds):
        paths = " and ".join(feed_prefix(feed) for feed in feeds)
        raise HTTPProblem(403, f'The token "{token.name}" only allows reading {paths}.')
    return Principal(token.name, UserRole.VIEWER, "token", client_address(request), token.collection_id)


def _session_result(session: Session, request: Request) -> AuthResult:
    web_session = read_session(request.cookies.get(cookie_name(COOKIE), ""))
    if web_session is None:
        return AuthResult(None)
    user = find_session_user(session, web_session.user_id, web_session.session_key)
    if user is None:
        return AuthResult(None)
    # A user whom the provider does not know any more is logged out when the session ends.
    is_renewable = web_session.is_to_be_renewed and user.oidc_issuer is None
    # These paths set the session cookie themselves.
    is_renewed = is_renewable and route_path(request.scope) not in LOGIN_PATHS
    cookie = session_cookie(user, secure=request.url.is_secure) if is_renewed else None
    principal = Principal(user.name, UserRole(user.role), "session", client_address(request))
    return AuthResult(principal, cookie)


def _bearer_token(headers: Headers) -> SecretStr | None:
    scheme, _, token = headers.get("authorization", "").partition(" ")
    return SecretStr(token.strip()) if scheme.lower() == "bearer" else None


def _basic_token(headers: Headers) -> SecretStr | None:
    """Return the password of HTTP Basic if it looks like a token: a proxy may have logins of its own."""
    scheme, _, encoded = headers.get("authorization", "").partition(" ")
    try:
        _, _, password = b64decode(encoded).decode().partition(":")
    except ValueError:
        return None
    return SecretStr(password) if scheme.lower() == "basic" and password.startswith(TOKEN_PREFIX) else None
