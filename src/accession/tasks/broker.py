"""The broker, for what must not wait for it."""

from functools import cache

from redis import Redis

from accession.core.errors import UserError
from accession.core.settings import get_settings

_ANSWERS_WITHIN_SECONDS = 2.0


def quick_broker() -> Redis:
    """The broker that answers within two seconds, or raises `RedisError`, whatever state it is in.

    It is this process's, or child's, for all its threads. Raises `UserError` when no broker is configured.
    """
    url = get_settings().redis_url
    if url is None:
        raise UserError("No broker is running: start one with `accession up`, or set ACCESSION_REDIS_URL.")
    return _client(url.get_secret_value())


@cache
def _client(url: str) -> Redis:
    return Redis.from_url(
        url,
        retry=None,
        socket_timeout=_ANSWERS_WITHIN_SECONDS,
        socket_connect_timeout=_ANSWERS_WITHIN_SECONDS,
    )
