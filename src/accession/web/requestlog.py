"""A log line for each request: who has asked for what, and how it went."""

from time import perf_counter

import structlog
from starlette.types import ASGIApp, Message, Receive, Scope, Send

log = structlog.get_logger(__name__)

_LONGEST_PATH = 500


class RequestLog:
    """Logs each request when it is over, without its query, which may hold what a person has typed."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on; one that raises is logged with status 500, and the exception rises."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        # What comes to know the principal writes it here.
        state = scope.setdefault("state", {})
        began, status = perf_counter(), 500

        async def send_and_note(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = int(message["status"])
            await send(message)

        try:
            await self._app(scope, receive, send_and_note)
        finally:
            log.info(
                "request",
                method=scope["method"],
                path=scope["path"][:_LONGEST_PATH],
                status=status,
                milliseconds=round(1000 * (perf_counter() - began), 1),
                **_principal(state),
            )


def _principal(state: dict[str, object]) -> dict[str, str]:
    principal = state.get("principal")
    return {} if principal is None else {"principal": str(getattr(principal, "name", principal))}
