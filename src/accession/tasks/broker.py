"""Connections to the broker, and the error messages about it."""

import socket
from collections.abc import Mapping
from functools import cache
from typing import Any

from redis import ConnectionPool, Redis
from redis.connection import UnixDomainSocketConnection, parse_url

from accession.core.errors import UserError
from accession.core.redis_url import PEER, with_verification
from accession.core.settings import Settings, get_settings
from accession.core.unix_socket import require_peer

DEFAULT_QUEUE = "default"
APPLY_QUEUE = "apply"

_TIMEOUT_SECONDS = 2.0

# A broker whose machine has disappeared, or that was cut off, is noticed within this time.
_SILENCE_SECONDS = 25
# A connection that has fallen silent, as after a firewall has forgotten it, is replaced after this time
# without a response. Workers check at this interval whether the response to waiting for messages is overdue,
# and replace that connection within 21 seconds.
RESPONSE_SECONDS = 5
CHECK_SECONDS = 10


class BrokerUnavailable(UserError):
    """The broker does not respond; later it may."""


def socket_options() -> Mapping[str, Any]:
    """Return the options with which a connection notices that the broker's machine has disappeared.

    Some of the socket's options do not exist on macOS, where it takes longer.
    """
    options = {
        "TCP_KEEPIDLE": 10,
        "TCP_KEEPALIVE": 10,  # what macOS calls TCP_KEEPIDLE
        "TCP_KEEPINTVL": 5,
        "TCP_KEEPCNT": 3,
        "TCP_USER_TIMEOUT": 1000 * _SILENCE_SECONDS,
    }
    available = {getattr(socket, name): value for name, value in options.items() if hasattr(socket, name)}
    return {"socket_keepalive": True, "socket_keepalive_options": available}


def broker_url(settings: Settings) -> str:
    """Return the URL of the broker.

    Raises:
        UserError: no broker is configured and none is embedded.
    """
    if settings.redis_url is None:
        raise UserError("No broker is running: start one with `accession up`, or set ACCESSION_REDIS_URL.")
    return with_verification(settings.redis_url.get_secret_value())


def broker_client() -> Redis:
    """Return this process's client for calls that must not hang: it gives up after two seconds.

    Raises:
        UserError: no broker is configured and none is embedded.
    """
    return _client(broker_url(get_settings()))


@cache
def _client(url: str) -> Redis:
    return redis_client(url, socket_timeout=_TIMEOUT_SECONDS, socket_connect_timeout=_TIMEOUT_SECONDS)


class PeerCheck:
    """Part of a connection class: checks whose process listens before it sends the password."""

    def __init__(self, *, requirepeer: str, **options: Any) -> None:
        super().__init__(**options)
        self._required_peer = requirepeer

    def _connect(self) -> socket.socket:
        connection: socket.socket = super()._connect()  # type: ignore[misc]
        try:
            require_peer(connection, self._required_peer)
        except OSError:
            connection.close()
            raise
        return connection


class CheckedConnection(PeerCheck, UnixDomainSocketConnection):
    """Connection to a Unix socket at which a process of a certain user must listen."""


def redis_client(url: str, **options: Any) -> Redis:
    """Return a client that does not retry; the options are those of its connections."""
    parameters = {**options, "retry": None, **parse_url(url)}  # type: ignore[no-untyped-call]
    if PEER in parameters:
        parameters["connection_class"] = CheckedConnection
    return Redis.from_pool(ConnectionPool(**parameters))


def broker_unavailable(error: Exception | None = None) -> str:
    """Return the message for a user when the broker cannot be reached.

    `error` is quoted; leave it out where its host name must not be shown.
    """
    cause = "" if error is None else f" ({error})"
    return (
        f"The broker is unavailable{cause}: check that it is running and that ACCESSION_REDIS_URL is correct."
    )
