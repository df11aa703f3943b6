"""Request log: one line per HTTP request."""

from time import perf_counter

import structlog
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from accession.web.addresses import route_path

log = structlog.get_logger(__name__)

_MAX_PATH_LENGTH = 500


class RequestLog:
    """ASGI middleware that logs each request when it ends, without its query, which may be private."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on; an exception is logged as status 500 and raised again."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        # The access middleware stores the principal here.
        state = scope.setdefault("state", {})
        started_at, status = perf_counter(), 500

        async def send_and_record_status(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = int(message["status"])
            await send(message)

        try:
            await self._app(scope, receive, send_and_record_status)
        finally:
            log.info(
                "request",
                method=scope["method"],
                path=route_path(scope)[:_MAX_PATH_LENGTH],
                status=status,
                milliseconds=round(1000 * (perf_counter() - started_at), 1),
                **_principal_field(state),
            )


def _principal_field(state: dict[str, object]) -> dict[str, str]:
    principal = state.get("principal")
    return {} if principal is None else {"principal": str(getattr(principal, "name", principal))}
