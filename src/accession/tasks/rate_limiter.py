"""Rate limiter of vendor requests, shared by all workers through Redis."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from hashlib import sha256
from itertools import count
from typing import cast
from uuid import uuid4

from redis import Redis
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from accession.accounts.libraries import vendor_account
from accession.accounts.limits import max_concurrency, max_requests_per_second
from accession.bibliotheca.errors import RequestSlotUnavailable
from accession.core.settings import get_settings
from accession.db.models import Collection
from accession.tasks.app import app
from accession.tasks.broker import broker_unavailable

_POLL_MS = 5


def request_slot(collection: Collection, task_id: str) -> Callable[[], AbstractContextManager[None]]:
    """Return a context manager that holds one of the request slots of the collection's account.

    Entering it waits until the account has fewer requests in flight than it may have
    (`accession.accounts.limits`), and its last request is as long ago as its rate demands, counting all
    workers and all collections of the account. The slots of a dead worker expire.
    """
    return _RequestSlots(collection, task_id).hold


def release_leftover_slots(collection: Collection, task_id: str) -> None:
    """Release the slots that the task still holds because its worker died or the broker was unavailable."""
    client: Redis = app.backend.client
    slots = _slots(collection)
    for slot, holder in zip(slots, _holders(client, slots), strict=True):
        if holder is not None and holder.startswith(_holder_prefix(task_id)):
            client.delete(slot)


class _RequestSlots:
    """The request slots of an account, as one step uses them.

    A slot is a key that expires. Its value is the holder: the task and, because a task can be delivered
    again, the delivery. Acquiring a free slot and releasing it takes one command each.
    """

    def __init__(self, collection: Collection, task_id: str) -> None:
        # Celery would open a new connection in each thread; this one is shared.
        self._client: Redis = app.backend.client
        self._slots = _slots(collection)
        self._rate = max_requests_per_second(collection)
        self._last_request = f"vendor:last-request:{_account_key(collection)}"
        self._holder = f"{_holder_prefix(task_id)}{uuid4()}"
        # Requests that are sent at the same time try different slots first.
        self._numbers = count()

    @contextmanager
    def hold(self) -> Iterator[None]:
        """Hold a slot until the context ends.

        Raises:
            RequestSlotUnavailable: the broker is unavailable.
        """
        with _slot_errors():
            while (slot := self._try_to_acquire()) is None:
                pass
        # Somebody else may hold a slot that has expired.
        expiry = time.monotonic() + _slot_expiry_ms() / 1000
        try:
            yield
        finally:
            if time.monotonic() < expiry:
                with _slot_errors():
                    self._client.delete(slot)

    def _try_to_acquire(self) -> str | None:
        """Return an acquired slot; or wait for a while and return None."""
        slot = self._acquire_free_slot()
        if slot is None:
            time.sleep(_POLL_MS / 1000)
        elif wait_ms := self._register_request():
            self._client.delete(slot)
            time.sleep(wait_ms / 1000)
        else:
            return slot
        return None

    def _acquire_free_slot(self) -> str | None:
        slot = self._slots[next(self._numbers) % len(self._slots)]
        if self._acquire(slot):
            return slot
        for slot, holder in zip(self._slots, _holders(self._client, self._slots), strict=True):
            if holder is None and self._acquire(slot):
                return slot
        return None

    def _acquire(self, slot: str) -> bool:
        return bool(self._client.set(slot, self._holder, nx=True, px=_slot_expiry_ms()))

    def _register_request(self) -> int:
        """Return 0 if a request may be sent now, else after how many milliseconds to try again."""
        if self._rate is None:
            return 0
        interval_ms = round(1000 / self._rate)
        if self._client.set(self._last_request, self._holder, nx=True, px=interval_ms):
            return 0
        return max(1, self._client.pttl(self._last_request))


@contextmanager
def _slot_errors() -> Iterator[None]:
    """Replace errors of an unavailable broker, which the packages below do not know."""
    try:
        yield
    except (RedisConnectionError, RedisTimeoutError) as error:
        raise RequestSlotUnavailable(broker_unavailable(error)) from error


def _slots(collection: Collection) -> list[str]:
    account = _account_key(collection)
    return [f"vendor:slots:{account}:{n}" for n in range(max_concurrency(collection))]


def _account_key(collection: Collection) -> str:
    return sha256(str(vendor_account(collection)).encode()).hexdigest()[:16]


def _holders(client: Redis, slots: Sequence[str]) -> list[str | None]:
    values = cast(Sequence[bytes | None], client.mget(slots))
    return [None if value is None else value.decode() for value in values]


def _holder_prefix(task_id: str) -> str:
    return f"{task_id}/"


def _slot_expiry_ms() -> int:
    # Connecting, and twice the timeout for reading the whole response.
    return round(3 * get_settings().vendor_timeout_seconds * 1000)
