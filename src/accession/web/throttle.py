"""Login throttling: failed attempts are counted in the broker, by user name and by client address."""

import hashlib
from contextlib import suppress
from datetime import timedelta
from typing import cast

from redis import RedisError

from accession.tasks.broker import broker_client
from accession.web.request_checks import client_network

MAX_ATTEMPTS = 5
WINDOW = timedelta(minutes=15)

_RESET_SCRIPT = (
    "if redis.call('exists', KEYS[1]) == 1 then redis.call('decr', KEYS[1]) end redis.call('del', KEYS[2])"
)


def register_attempt(name: str, address: str) -> int:
    """Count a login attempt as failed, before its password is checked.

    Counting first also counts attempts that arrive at once. The window starts with the first failure.

    Returns:
        Seconds until the next attempt is allowed; 0 when this one is.
    """
    pipeline = broker_client().pipeline()
    for key in (_address_key(address), _name_key(name)):
        pipeline.set(key, 0, ex=WINDOW, nx=True)
        pipeline.incr(key)
        pipeline.ttl(key)
    pipeline.sadd(_addresses_key(name), _address_key(address))
    pipeline.expire(_addresses_key(name), WINDOW)
    replies = pipeline.execute()[:-2]
    counters = zip(replies[1::3], replies[2::3], strict=True)
    return max((max(seconds, 1) for attempts, seconds in counters if attempts > MAX_ATTEMPTS), default=0)


def reset_attempts(name: str, address: str) -> None:
    """Clear the name's count after a successful login, and take this attempt off the address's count."""
    broker_client().eval(_RESET_SCRIPT, 2, _address_key(address), _name_key(name))


def is_locked(name: str) -> bool:
    """Return whether logins with this name are refused, from any address or from one that has tried it."""
    client = broker_client()
    keys = [_name_key(name), *_addresses(name)]
    return any(int(count or 0) >= MAX_ATTEMPTS for count in client.mget(keys))


def unlock(name: str) -> None:
    """Allow logins with this name again, also from the addresses that have tried it.

    Raises:
        RedisError: the broker is unavailable.
    """
    broker_client().delete(_name_key(name), _addresses_key(name), *_addresses(name))


def unlock_if_possible(name: str) -> None:
    """Allow logins again after a change of the password, which counts also if the broker is unavailable."""
    with suppress(RedisError):
        unlock(name)


def _addresses(name: str) -> list[str]:
    """Return the keys of the addresses from which this name was tried."""
    members = cast(set[bytes], broker_client().smembers(_addresses_key(name)))
    return sorted(member.decode() for member in members)


def _addresses_key(name: str) -> str:
    return f"{_name_key(name)}:addresses"


def _name_key(name: str) -> str:
    # Hashed: people sometimes type their password into the name field.
    return f"accession:logins:name:{hashlib.sha256(name.encode()).hexdigest()}"


def _address_key(address: str) -> str:
    return f"accession:logins:address:{client_network(address)}"
