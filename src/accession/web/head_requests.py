"""HEAD requests: every GET has one, with the same status and headers and no body."""

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send


class _Answered(Exception):
    """The headers have been sent, so that the body of a streaming response need not be produced."""


class HeadRequests:
    """ASGI middleware that answers HEAD requests with the headers of the GET request.

    The server leaves out the body. That of a streaming response is not even produced.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a HEAD request on as a GET request."""
        if scope["type"] != "http" or scope["method"] != "HEAD":
            await self._app(scope, receive, send)
            return

        async def send_head(message: Message) -> None:
            await send(message)
            if message["type"] == "http.response.start" and "content-length" not in Headers(scope=message):
                raise _Answered

        try:
            await self._app({**scope, "method": "GET"}, receive, send_head)
        except _Answered:
            # Two parts, so that the response is compressed as a body of several chunks would be.
            await send({"type": "http.response.body", "body": b"", "more_body": True})
            await send({"type": "http.response.body", "body": b""})
