"""Connections to the broker, and the error messages about it."""

import socket
from collections.abc import Mapping
from functools import cache
from typing import Any

from redis import Redis

from accession.core.errors import UserError
from accession.core.redis_url import with_verification
from accession.core.settings import Settings, get_settings

DEFAULT_QUEUE = "default"
APPLY_QUEUE = "apply"

_TIMEOUT_SECONDS = 2.0

# A broker whose machine has disappeared, or that was cut off, is noticed within this time.
SILENCE_SECONDS = 25


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
        "TCP_USER_TIMEOUT": 1000 * SILENCE_SECONDS,
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
    return Redis.from_url(
        url, retry=None, socket_timeout=_TIMEOUT_SECONDS, socket_connect_timeout=_TIMEOUT_SECONDS
    )


def broker_unavailable(error: Exception | None = None) -> str:
    """Return the message for a user when the broker cannot be reached.

    `error` is quoted; leave it out where its host name must not be shown.
    """
    cause = "" if error is None else f" ({error})"
    return (
        f"The broker is unavailable{cause}: check that it is running and that ACCESSION_REDIS_URL is correct."
    )
