"""HTTP connections that end if their client is too slow, and a limit on how many a client may have.

The server would otherwise keep a connection for as long as its client likes (slowloris).
"""

import asyncio
import math
import resource
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, cast

import h11
import structlog
from uvicorn.protocols.http.h11_impl import H11Protocol

from accession.web.forwarded import ForwardedHeaders
from accession.web.request_checks import client_network

log = structlog.get_logger(__name__)

_MAX_CONNECTIONS = 500
# At most one line per minute says that connections are refused.
_WARNING_INTERVAL_SECONDS = 60.0


def _max_connections() -> int:
    """Return a number of connections that leaves half of the process's file descriptors for other uses."""
    soft_limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft_limit == resource.RLIM_INFINITY:
        return _MAX_CONNECTIONS
    return min(_MAX_CONNECTIONS, soft_limit // 2)


@dataclass(frozen=True)
class ConnectionLimits:
    """Limits of the connections of a web server.

    Attributes:
        head_seconds: time until the head of a request is complete, from the end of the previous one.
        body_seconds: time until the body of a request is complete, from the end of its head.
        stalled_seconds: time in which a client must read some of a response.
        per_client: number of connections of an IPv4 address or a /64 network of IPv6; trusted proxies, which
            connect for many clients, are exempt.
        total: number of connections of all clients.
    """

    head_seconds: float = 15.0
    body_seconds: float = 30.0
    stalled_seconds: float = 60.0
    per_client: int = 100
    total: int = field(default_factory=_max_connections)


def limited_protocol(limits: ConnectionLimits) -> type[asyncio.Protocol]:
    """Return the protocol class for the connections of one server."""
    return cast("type[asyncio.Protocol]", partial(_LimitedProtocol, _Admission(limits)))


class _Admission:
    """Decides which connection is closed when there are too many."""

    def __init__(self, limits: ConnectionLimits) -> None:
        self.limits = limits
        self._warned_at = -math.inf

    def make_room(self, new: "_LimitedProtocol", connections: Iterable[object]) -> None:
        """Close the connection that has waited longest for its client, or the new one if none waits."""
        present = [c for c in connections if isinstance(c, _LimitedProtocol) and not c.is_aborted]
        of_client = [c for c in present if c.network == new.network]
        if not new.is_proxy and len(of_client) > self.limits.per_client:
            candidates = of_client
        elif len(present) > self.limits.total:
            candidates = present
        else:
            return
        waiting = [c for c in candidates if c is not new and c.waiting_since is not None]
        min(waiting, key=lambda c: c.waiting_since or 0, default=new).abort()
        self._warn(new, len(candidates) - 1)

    def _warn(self, new: "_LimitedProtocol", connections: int) -> None:
        now = new.loop.time()
        if now - self._warned_at >= _WARNING_INTERVAL_SECONDS:
            self._warned_at = now
            log.warning("too many connections", address=new.network, connections=connections)


class _LimitedProtocol(H11Protocol):
    """HTTP/1.1 protocol with timeouts for what the client has to do."""

    def __init__(self, admission: _Admission, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._admission = admission
        self._limits = admission.limits
        self._timer: asyncio.TimerHandle | None = None
        self._stall_timer: asyncio.TimerHandle | None = None
        self._timed: tuple[object, object] | None = None
        self.network = ""
        self.is_proxy = False
        self.is_aborted = False
        self._request_awaited_since: float | None = None
        self._unread_since: float | None = None

    @property
    def waiting_since(self) -> float | None:
        """Since when the connection waits for its client, in the time of the loop; None if it does not."""
        return self._unread_since if self._request_awaited_since is None else self._request_awaited_since

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if self.client:
            self.client = (_unmap_ipv4(self.client[0]), self.client[1])
            self.network = client_network(self.client[0])
            # The loaded app is always this middleware, which knows the trusted proxies.
            self.is_proxy = self.client[0] in cast("ForwardedHeaders", self.app).trusted_hosts
        # Writing is then paused as long as anything is unsent.
        transport.set_write_buffer_limits(high=0)
        self._update_timer()
        self._admission.make_room(self, self.connections)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._update_timer()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._update_timer()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._watch_writing()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._unread_since = None
        if self._stall_timer is not None:
            self._stall_timer.cancel()

    def connection_lost(self, exc: Exception | None) -> None:
        for timer in (self._timer, self._stall_timer):
            if timer is not None:
                timer.cancel()
        super().connection_lost(exc)

    def abort(self) -> None:
        """Close the connection at once, without sending what is left."""
        self.is_aborted = True
        self.transport.abort()

    def _update_timer(self) -> None:
        """Start the timer for the head or the body of a request, if the connection now waits for another."""
        state = self.conn.their_state
        if (self.cycle, state) == self._timed:
            return
        self._timed = (self.cycle, state)
        if self._timer is not None:
            self._timer.cancel()
        seconds = {h11.IDLE: self._limits.head_seconds, h11.SEND_BODY: self._limits.body_seconds}.get(state)
        self._timer = None if seconds is None else self.loop.call_later(seconds, self._time_out, "request")
        self._request_awaited_since = None if seconds is None else self.loop.time()

    def _watch_writing(self) -> None:
        unsent = self.transport.get_write_buffer_size()
        self._unread_since = self.loop.time()
        self._stall_timer = self.loop.call_later(self._limits.stalled_seconds, self._check_writing, unsent)

    def _check_writing(self, unsent_before: int) -> None:
        if self.transport.get_write_buffer_size() < unsent_before:
            self._watch_writing()
        else:
            self._time_out("response")

    def _time_out(self, during: str) -> None:
        # Browsers open connections ahead, and may then not use them.
        is_unused = self.conn.their_state is h11.IDLE and not self.conn.trailing_data[0]
        if not is_unused:
            log.info("slow client disconnected", address=self.network, during=during)
        self.abort()


def _unmap_ipv4(address: str) -> str:
    """Return the IPv4 address of a client that a server on `::` sees as `::ffff:192.0.2.1`."""
    return address.removeprefix("::ffff:") if "." in address else address
