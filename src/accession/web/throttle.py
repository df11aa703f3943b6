"""Login throttling: failed attempts are counted in the broker, by user name and by client address."""

import hashlib
from datetime import timedelta

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
    replies = pipeline.execute()
    counters = zip(replies[1::3], replies[2::3], strict=True)
    return max((max(seconds, 1) for attempts, seconds in counters if attempts > MAX_ATTEMPTS), default=0)


def reset_attempts(name: str, address: str) -> None:
    """Clear the name's count after a successful login, and take this attempt off the address's count."""
    broker_client().eval(_RESET_SCRIPT, 2, _address_key(address), _name_key(name))


def _name_key(name: str) -> str:
    # Hashed: people sometimes type their password into the name field.
    return f"accession:logins:name:{hashlib.sha256(name.encode()).hexdigest()}"


def _address_key(address: str) -> str:
    return f"accession:logins:address:{client_network(address)}"
