"""kombu's Redis transport with fewer commands for each message, and Unix sockets whose peer is checked."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from celery.app.backends import BACKEND_ALIASES
from celery.backends.redis import RedisBackend
from kombu.transport import TRANSPORT_ALIASES, redis

from accession.core.redis_url import PEER
from accession.tasks.broker import CheckedConnection, PeerCheck


class _QoS(redis.QoS):  # type: ignore[misc]
    """Records deliveries and acknowledgements without transactions.

    Each consists of two commands, which MULTI and EXEC make four. If a connection breaks between the two, a
    message can be lost or delivered again, as it can in other moments too: the run ledger handles both.
    """

    @contextmanager
    def pipe_or_acquire(self, pipe: Any = None, client: Any = None) -> Iterator[Any]:
        """Yield the pipeline, or by default one that is no transaction."""
        if pipe is not None:
            yield pipe
            return
        with self.channel.conn_or_acquire(client) as connected:
            yield connected.pipeline(transaction=False)


class _Channel(redis.Channel):  # type: ignore[misc]
    """Sends all commands with one client; kombu creates one for each command, which costs more than that."""

    QoS = _QoS
    _shared_client: Any = None

    def _connparams(self, asynchronous: bool = False) -> dict[str, Any]:
        parameters: dict[str, Any] = super()._connparams(asynchronous)
        if PEER in parameters:
            base = parameters["connection_class"]
            parameters["connection_class"] = type("Connection", (PeerCheck, base), {})
        return parameters

    @contextmanager
    def conn_or_acquire(self, client: Any = None) -> Iterator[Any]:
        """Yield the client, or by default the channel's."""
        if client is None:
            # The pool is replaced after a fork and when the connection is closed.
            if self._shared_client is None or self._shared_client.connection_pool is not self.pool:
                self._shared_client = self.Client(connection_pool=self.pool)
            client = self._shared_client
        yield client


class Transport(redis.Transport):  # type: ignore[misc]
    """The transport for brokers with the URL `redis://` or `rediss://`."""

    Channel = _Channel


class Backend(RedisBackend):  # type: ignore[misc]
    """Celery's storage of results, with checked Unix sockets."""

    def _params_from_url(self, url: str, defaults: dict[str, Any]) -> dict[str, Any]:
        parameters: dict[str, Any] = super()._params_from_url(url, defaults)
        if "path" in parameters:
            # Celery passes it on, but only connections over TCP have it.
            parameters.pop("socket_keepalive", None)
        if PEER in parameters:
            parameters["connection_class"] = CheckedConnection
        return parameters


def register_transport() -> None:
    """Make these the transport and the storage of results of the Redis URLs in this process."""
    BACKEND_ALIASES["redis"] = f"{__name__}:Backend"
    # Not Celery's setting `broker_transport`, with which kombu ignores the scheme `rediss` and thus TLS.
    for scheme in ("redis", "rediss"):
        TRANSPORT_ALIASES[scheme] = f"{__name__}:Transport"
