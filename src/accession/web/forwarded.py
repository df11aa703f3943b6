"""Headers with which a trusted proxy tells how the browser has reached it."""

import re

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import Receive, Scope, Send
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

from accession.core.settings import ROOT_PATH_PATTERN
from accession.web.request_checks import is_loopback_host


class ForwardedHeaders(ProxyHeadersMiddleware):
    """ASGI middleware that takes `X-Forwarded-For`, `-Proto`, `-Host` and `-Prefix` from trusted proxies.

    Of a header with several values, the last one counts: the proxy has added it.
    """

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # type: ignore[override]
        """Pass the request on, with the client, scheme, host and root that the proxy reports."""
        peer, _ = scope.get("client") or (None, None)
        if scope["type"] == "http" and peer in self.trusted_hosts:
            scope = _with_host_and_root(scope)
        await super().__call__(scope, receive, send)  # type: ignore[arg-type]


def _with_host_and_root(scope: Scope) -> Scope:
    scope = dict(scope)
    headers = MutableHeaders(scope=scope)
    host, prefix = _last_value(headers, "x-forwarded-host"), _last_value(headers, "x-forwarded-prefix")
    # After DNS rebinding, a page of another site can send this header from a browser on this machine.
    if host and (is_loopback_host(headers.get("host", "")) or not is_loopback_host(host)):
        headers["host"] = host
    if re.fullmatch(ROOT_PATH_PATTERN, prefix.rstrip("/")):
        scope["root_path"] = prefix.rstrip("/")
    return scope


def _last_value(headers: Headers, name: str) -> str:
    values = ",".join(headers.getlist(name))
    return values.rpartition(",")[2].strip()
