"""What every answer tells the browser to forbid: scripts and pictures from elsewhere, frames, copies kept."""

from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from accession.web.problems import BUG
from accession.web.refusals import refusal

_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self' data:; font-src 'self'; connect-src 'self'; form-action 'self'; base-uri 'none'; "
    "frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), display-capture=(), geolocation=(), microphone=(), payment=(), usb=()",
}
_NOT_KEPT = "no-store"
_KEPT_FOR_A_DAY = "public, max-age=86400"
_TLS_FOR_A_YEAR = "max-age=31536000"


class SecurityHeaders:
    """Puts the headers on every answer, also on one to a request that met a bug of ours."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve the request, and answer 500 where the app raises before it answers; the error rises on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        has_begun = False

        async def send_with_headers(message: Message) -> None:
            nonlocal has_begun
            if message["type"] == "http.response.start":
                has_begun = True
                _add_headers(scope, message)
            await send(message)

        try:
            await self._app(scope, receive, send_with_headers)
        except Exception:
            if not has_begun:
                # Else Starlette would, outside of every middleware.
                await refusal(Request(scope), BUG)(scope, receive, send_with_headers)
            raise


def _add_headers(scope: Scope, message: Message) -> None:
    headers = MutableHeaders(scope=message)
    headers.update(_HEADERS)
    is_asset = scope["path"].startswith("/static/") and message["status"] < 400
    # A route may choose for itself, as one of pictures does.
    headers.setdefault("Cache-Control", _KEPT_FOR_A_DAY if is_asset else _NOT_KEPT)
    if scope["scheme"] == "https":
        headers["Strict-Transport-Security"] = _TLS_FOR_A_YEAR
