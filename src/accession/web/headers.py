"""Security headers on every response: no foreign scripts, images or frames, no caching of pages."""

from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from accession.web.addresses import route_path
from accession.web.error_handlers import error_response
from accession.web.errors import INTERNAL_ERROR

_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self' data:; font-src 'self'; connect-src 'self'; frame-src 'self'; form-action 'self'; "
    "base-uri 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), display-capture=(), geolocation=(), microphone=(), payment=(), usb=()",
}
MAIL_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; img-src 'self'; form-action 'none'; base-uri 'none'; "
    "frame-ancestors 'self'"
)
"""Content-Security-Policy of a mail that is shown in a frame: inline styles, and nothing else."""
_NO_STORE = "no-store"
_CACHED_FOR_A_DAY = "public, max-age=86400"
_HSTS_FOR_A_YEAR = "max-age=31536000"


class SecurityHeaders:
    """ASGI middleware that adds the headers to every response, including those to unexpected errors."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on; if the app raises before it responds, respond with 500 and raise again."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        has_started = False

        async def send_with_headers(message: Message) -> None:
            nonlocal has_started
            if message["type"] == "http.response.start":
                has_started = True
                _add_headers(scope, message)
            await send(message)

        try:
            await self._app(scope, receive, send_with_headers)
        except Exception:
            if not has_started:
                # Otherwise Starlette would respond, outside all middleware and without the headers.
                await error_response(Request(scope), INTERNAL_ERROR)(scope, receive, send_with_headers)
            raise


def _add_headers(scope: Scope, message: Message) -> None:
    headers = MutableHeaders(scope=message)
    for name, value in _HEADERS.items():
        # A route may set its own Content-Security-Policy, as mails do.
        headers.setdefault(name, value)
    is_asset = route_path(scope).startswith("/static/") and message["status"] < 400
    # A route may set its own Cache-Control, as covers do.
    headers.setdefault("Cache-Control", _CACHED_FOR_A_DAY if is_asset else _NO_STORE)
    if scope["scheme"] == "https":
        headers["Strict-Transport-Security"] = _HSTS_FOR_A_YEAR
