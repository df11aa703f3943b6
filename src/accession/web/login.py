"""The way in and the way out: a page with a name and a password, and the end of a session."""

import math
from typing import Any
from urllib.parse import parse_qsl

import structlog
from anyio import CapacityLimiter, to_thread
from fastapi import APIRouter
from pydantic import SecretStr
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from accession.auth.users import user_with_password
from accession.db.engine import transaction
from accession.web.access import address_of
from accession.web.pages.rendering import render
from accession.web.problems import Refused
from accession.web.sessions import ended_cookie, session_cookie
from accession.web.throttle import count_try, forgive

log = structlog.get_logger(__name__)

router = APIRouter(include_in_schema=False)

WRONG = "Name or password is wrong."

_FIELDS_BYTES = 10_000
# A password takes 64 MiB to look at, and strangers may send any number of them at once.
_looked_at_once = CapacityLimiter(2)


@router.get("/login")
def show_login(request: Request, next: str = "/") -> Response:  # noqa: A002 - the query's own word
    """The page, or for whoever is in already, the page they came for."""
    if request.state.principal is not None:
        return RedirectResponse(local_path(next), 303)
    return _page(request, next=local_path(next))


@router.post("/login")
async def log_in(request: Request) -> Response:
    """Begin a session and lead to the page they came for; or the page again, saying what is wrong."""
    fields = await _fields(request)
    name, password = fields.get("name", ""), SecretStr(fields.get("password", ""))
    next_path = local_path(fields.get("next", "/"))
    begun = await to_thread.run_sync(_begin, request, name, password, limiter=_looked_at_once)
    if isinstance(begun, str):
        answer: Response = RedirectResponse(next_path, 303)
        answer.headers.append("set-cookie", begun)
        return answer
    if begun == 0:
        return _page(request, 401, next=next_path, name=name, error=WRONG)
    error = f"There were too many failed logins: try again in {math.ceil(begun / 60)} min."
    headers = {"Retry-After": str(begun)}
    return _page(request, 429, headers, next=next_path, name=name, error=error)


@router.post("/logout")
def log_out(request: Request) -> Response:
    """End the session in this browser and lead to the login."""
    answer = RedirectResponse("/login", 303)
    answer.headers.append("set-cookie", ended_cookie(secure=request.url.is_secure))
    return answer


def local_path(path: str) -> str:
    """The path, if every browser takes it for one of this site; else that of the overview."""
    # Browsers drop tabs and line ends from an address, and take a backslash for a slash.
    is_plain = path.isascii() and path.isprintable() and not {" ", "\\"} & set(path)
    return path if is_plain and path.startswith("/") and not path.startswith("//") else "/"


def _begin(request: Request, name: str, password: SecretStr) -> str | int:
    """The session's cookie, or in how many seconds to try again: 0 for at once."""
    address = address_of(request)
    wait = count_try(name, address)
    if wait:
        log.warning("a login is refused after too many failures", address=address)
        return wait
    with transaction() as session:
        user = user_with_password(session, name, password)
        if user is None:
            # Without the name: into the wrong field people type their password.
            log.warning("a login has failed", address=address)
            return 0
        cookie = session_cookie(user, secure=request.url.is_secure)
    forgive(name, address)
    log.info("a user has logged in", user=name, address=address)
    return cookie


async def _fields(request: Request) -> dict[str, str]:
    """What the form says; raises `Refused` when it is longer than any that the page can send."""
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > _FIELDS_BYTES:
            raise Refused(413, "A login is a name and a password, and not as long as this.")
    try:
        return dict(parse_qsl(body.decode(errors="replace"), keep_blank_values=True, max_num_fields=10))
    except ValueError:
        return {}


def _page(
    request: Request, status: int = 200, headers: dict[str, str] | None = None, **context: Any
) -> Response:
    answer = render(request, "login.html", status=status, **{"name": "", "error": None, **context})
    answer.headers.update(headers or {})
    return answer
