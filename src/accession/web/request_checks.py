"""Checks of where a request comes from: cross-site requests, DNS rebinding, other machines."""

from ipaddress import ip_address, ip_network
from urllib.parse import urlsplit

import structlog
from starlette.datastructures import Headers
from starlette.requests import Request

from accession.core.loopback import is_loopback
from accession.web.addresses import route_path
from accession.web.errors import MAX_BODY_BYTES, HTTPProblem, body_too_long

log = structlog.get_logger(__name__)

SAFE_METHODS = ("GET", "HEAD", "OPTIONS")


def client_address(request: Request) -> str:
    """Return the client's IP address; behind a trusted proxy, the one that the proxy reports."""
    return request.client.host if request.client else "unknown"


def client_network(address: str) -> str:
    """Return an IPv4 address as it is, and the /64 network of an IPv6 one: customers own a whole /64."""
    try:
        parsed = ip_address(address)
    except ValueError:
        return address
    return str(ip_network((parsed, 64), strict=False)) if parsed.version == 6 else address


def require_same_site(request: Request) -> None:
    """Reject a change that another site made a browser send (CSRF).

    Browsers set `Sec-Fetch-Site`, `Origin` and `Referer` themselves, and no page can forge them. A change
    without any of the three is rejected too, so forms need no CSRF token.

    Raises:
        HTTPProblem: the request is a change and does not come from a page of this dashboard.
    """
    if request.method in SAFE_METHODS or not _is_cross_site(request.headers):
        return
    log.warning(
        "cross-site request rejected", path=route_path(request.scope), address=client_address(request)
    )
    raise HTTPProblem(
        403,
        "This change was not sent from a page of this dashboard: make it there, or send a token "
        "(create one with `accession tokens add`).",
    )


def _is_cross_site(headers: Headers) -> bool:
    site = headers.get("sec-fetch-site")
    if site is not None:
        return site not in ("same-origin", "none")
    source = headers.get("origin", headers.get("referer", ""))
    host = headers.get("host", "").lower()
    try:
        return not host or urlsplit(source).netloc.rpartition("@")[2].lower() != host
    except ValueError:
        return True


def require_short_body(request: Request) -> None:
    """Reject a request whose `Content-Length` is too large, before any of its body is read.

    Raises:
        HTTPProblem: the body is longer than `MAX_BODY_BYTES`.
    """
    length = request.headers.get("content-length", "")
    if length.isdecimal() and int(length) > MAX_BODY_BYTES:
        raise body_too_long()


def require_local_request(request: Request) -> None:
    """Reject a request that did not start on this machine, for the unauthenticated local mode.

    The Host header must be a loopback name, which stops DNS rebinding, and the client's address, which a
    trusted proxy may report, must be loopback too.

    Raises:
        HTTPProblem: the request names another host or comes from another machine.
    """
    is_local_client = request.client is None or is_loopback(request.client.host)
    if not is_loopback_host(request.headers.get("host", "")) or not is_local_client:
        log.warning("non-local request rejected: no user exists", address=client_address(request))
        raise HTTPProblem(
            403,
            "No user exists, so only this machine may open the dashboard, as http://127.0.0.1 or "
            "http://localhost: add a user with `accession users add NAME --role administrator`.",
        )


def is_loopback_host(host: str) -> bool:
    """Return whether a `Host` header, which may have a port, names this machine."""
    try:
        name = urlsplit(f"//{host}").hostname
    except ValueError:
        return False
    return name is not None and is_loopback(name)
