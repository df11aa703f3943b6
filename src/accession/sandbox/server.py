"""HTTP server of the simulated vendor.

`/cirrus/library/{libraryId}/...` imitates the vendor and requires signed requests: see `vendor`.
`/sandbox/...` is unsigned and meant for tests and people:

- `GET statistics` and `GET titles` return the purchases and the requests so far.
- `POST faults` replaces the faults specification.
- `POST purchase/{time}` adds a purchase, in the past as well; `time` is a date or a UTC time (ISO 8601).
- `POST remove/{id}` withdraws a title.
- `POST activity/{events per hour}` changes the rate of circulation events; 0 stops them.
"""

import asyncio
import logging
import socket
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from email.utils import format_datetime
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.datastructures import MutableHeaders
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from accession.core.clock import parse_datetime
from accession.core.errors import UserError
from accession.sandbox.faults import WRITE, Faults
from accession.sandbox.vendor import Sandbox


@dataclass(frozen=True)
class _DateHeaderMiddleware:
    """Middleware that sets `Date` from the clock of the sandbox."""

    app: ASGIApp
    clock: Callable[[], datetime]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_date(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)["Date"] = format_datetime(self.clock(), usegmt=True)
            await send(message)

        await self.app(scope, receive, send_with_date)


def create_app(sandbox: Sandbox) -> Starlette:
    """Create the ASGI application of a sandbox."""

    async def statistics(_request: Request) -> Response:
        return JSONResponse(sandbox.statistics())

    async def titles(_request: Request) -> Response:
        return JSONResponse(sandbox.titles())

    async def change_faults(request: Request) -> Response:
        try:
            sandbox.faults = Faults.parse((await request.body()).decode(), sandbox.faults.seed)
        except UserError as error:
            return PlainTextResponse(str(error), 400)
        return JSONResponse(dict(sandbox.faults.shares))

    async def purchase(request: Request) -> Response:
        text = request.path_params["time"]
        try:
            moment = parse_datetime(text)
        except ValueError:
            return PlainTextResponse(f'"{text}" is not a time: give it as 2024-01-31T09:00:00, in UTC.', 400)
        return JSONResponse(sandbox.purchase(moment))

    async def remove(request: Request) -> Response:
        return Response(status_code=204 if sandbox.remove(request.path_params["item_id"]) else 404)

    async def change_activity(request: Request) -> Response:
        per_hour = request.path_params["per_hour"]
        if not per_hour.isdecimal():
            return PlainTextResponse(
                f'"{per_hour}" is not a number of events per hour: give a whole number, or 0 to stop.', 400
            )
        sandbox.activity.change_rate(int(per_hour), sandbox.clock())
        return JSONResponse(sandbox.activity.statistics())

    vendor = "/cirrus/library/{library_id}"
    return Starlette(
        routes=[
            Route(f"{vendor}/data/marc", sandbox.marc),
            Route(f"{vendor}/data/marc/{{item_id}}", sandbox.record),
            Route(f"{vendor}/data/cloudevents", sandbox.events),
            Route(f"{vendor}/items/{{item_ids}}", sandbox.items),
            Route("/sandbox/statistics", statistics),
            Route("/sandbox/titles", titles),
            Route("/sandbox/faults", change_faults, methods=["POST"]),
            Route("/sandbox/purchase/{time}", purchase, methods=["POST"]),
            Route("/sandbox/remove/{item_id}", remove, methods=["POST"]),
            Route("/sandbox/activity/{per_hour}", change_activity, methods=["POST"]),
        ],
        middleware=[Middleware(_DateHeaderMiddleware, clock=sandbox.clock)],
    )


def serve(port: int, sandbox: Sandbox, ready: Callable[[str], None]) -> None:
    """Serve on 127.0.0.1 until Ctrl-C or SIGTERM; port 0 selects a free port.

    Calls `ready` with the base URL once connections are accepted.

    Raises:
        UserError: the port is in use.
    """
    listener = listen(port)
    ready(base_url_of(listener))
    # uvicorn shuts down in order, then raises KeyboardInterrupt again.
    with suppress(KeyboardInterrupt):
        create_server(sandbox).run(sockets=[listener])


def listen(port: int) -> socket.socket:
    """Listen on `port` of 127.0.0.1; 0 selects a free one.

    Raises:
        UserError: the port is in use.
    """
    try:
        listener = socket.create_server(("127.0.0.1", port), backlog=256)
    except OSError as error:
        raise UserError(
            f"The sandbox cannot listen on port {port} ({error.strerror}): choose another port, or 0 for any."
        ) from error
    # Accepted connections inherit TCP_NODELAY. asyncio does not set it here, and without it the body of
    # each response waits 40 ms for the acknowledgement of its headers.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener


def base_url_of(listener: socket.socket) -> str:
    """Return the base URL of a sandbox that listens here."""
    return f"http://127.0.0.1:{listener.getsockname()[1]}"


class _RawWriteProtocol(H11Protocol):
    """HTTP/1.1 protocol that lets a response write raw bytes to the connection."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        app = self.app

        async def app_with_write(scope: Any, receive: Any, send: Any) -> None:
            await app(scope | {WRITE: transport.write}, receive, send)

        self.app = app_with_write


def create_server(sandbox: Sandbox) -> uvicorn.Server:
    """Create the HTTP server of a sandbox; its `run` takes the sockets to listen on."""
    config = uvicorn.Config(
        create_app(sandbox),
        http=_RawWriteProtocol,
        date_header=False,
        access_log=False,
        log_level="warning",
        log_config=None,
        lifespan="off",
        ws="none",
        timeout_graceful_shutdown=1,
    )
    logging.getLogger("uvicorn.error").addFilter(_is_unexpected)
    return uvicorn.Server(config)


def _is_unexpected(record: logging.LogRecord) -> bool:
    # Some faults never start or never finish their response.
    return record.getMessage() not in (
        "ASGI callable returned without starting response.",
        "ASGI callable returned without completing response.",
    )
