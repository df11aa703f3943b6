"""No password is found by trying: failed logins are counted, by name and by address, and soon refused."""

import hashlib
import ipaddress
from datetime import timedelta
from functools import cache

from redis import Redis

from accession.core.errors import UserError
from accession.core.settings import get_settings

FAILURES = 5
WINDOW = timedelta(minutes=15)

_FORGIVE = (
    "if redis.call('exists', KEYS[1]) == 1 then redis.call('decr', KEYS[1]) end redis.call('del', KEYS[2])"
)


def count_try(name: str, address: str) -> int:
    """Count a login as failed before it is looked at, so that many at once are counted, too.

    Returns the seconds after which the next may be tried; 0 when this one may. The window begins with its
    first failure.
    """
    pipeline = _client().pipeline()
    for key in (_by_address(address), _by_name(name)):
        pipeline.set(key, 0, ex=WINDOW, nx=True)
        pipeline.incr(key)
        pipeline.ttl(key)
    answers = pipeline.execute()
    counted = zip(answers[1::3], answers[2::3], strict=True)
    return max((max(seconds, 1) for tries, seconds in counted if tries > FAILURES), default=0)


def forgive(name: str, address: str) -> None:
    """After a success: the name's count is cleared, and this try is not held against the address."""
    _client().eval(_FORGIVE, 2, _by_address(address), _by_name(name))


def _by_name(name: str) -> str:
    # Hashed: into the wrong field people type their password.
    return f"accession:logins:name:{hashlib.sha256(name.encode()).hexdigest()}"


def _by_address(address: str) -> str:
    return f"accession:logins:address:{_network(address)}"


def _network(address: str) -> str:
    """The address, or of IPv6 the network of which one customer has all addresses."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address
    return str(ipaddress.ip_network((parsed, 64), strict=False)) if parsed.version == 6 else address


def _client() -> Redis:
    url = get_settings().redis_url
    if url is None:
        raise UserError("No broker is running: start one with `accession up`, or set ACCESSION_REDIS_URL.")
    return _client_at(url.get_secret_value())


@cache
def _client_at(url: str) -> Redis:
    return Redis.from_url(url, socket_timeout=5, socket_connect_timeout=5)
