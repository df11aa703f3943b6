"""Connection to the broker with short timeouts, and the error messages about the broker."""

from functools import cache

from redis import Redis

from accession.core.errors import UserError
from accession.core.settings import Settings, get_settings

_TIMEOUT_SECONDS = 2.0


def broker_url(settings: Settings) -> str:
    """Return the URL of the broker.

    Raises:
        UserError: no broker is configured and none is embedded.
    """
    if settings.redis_url is None:
        raise UserError("No broker is running: start one with `accession up`, or set ACCESSION_REDIS_URL.")
    return settings.redis_url.get_secret_value()


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
