"""Retrying while the database or the broker is unavailable."""

import time
from collections.abc import Callable
from itertools import chain, repeat
from typing import TypeVar

import structlog
from kombu.exceptions import OperationalError as BrokerError
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError
from sqlalchemy.exc import OperationalError as DatabaseError

from accession.bibliotheca.errors import RequestSlotUnavailable
from accession.db.blocking import describe_lock_timeout, is_lock_timeout

log = structlog.get_logger(__name__)

UNAVAILABLE_ERRORS = (
    DatabaseError,
    BrokerError,
    RedisConnectionError,
    RedisTimeoutError,
    RequestSlotUnavailable,
)
_WAITS_SECONDS = (1.0, 2.0, 5.0)

_Result = TypeVar("_Result")


def retry_while_unavailable(work: Callable[[bool], _Result]) -> _Result:
    """Call `work` until it does not fail because the database or the broker is unavailable.

    The task waits here instead of using up its retries, since no other task could proceed either. `work`
    gets True from the second call on: an earlier call may have committed before its connection broke.
    """
    waits = chain(_WAITS_SECONDS, repeat(_WAITS_SECONDS[-1]))
    is_repeat = False
    while True:
        try:
            return work(is_repeat)
        except UNAVAILABLE_ERRORS as error:
            wait = next(waits)
            if is_lock_timeout(error):
                log.warning("rows are locked, waiting", reason=describe_lock_timeout(), wait=wait)
            else:
                log.warning("server unavailable, waiting", reason=str(error).splitlines()[0], wait=wait)
        is_repeat = True
        time.sleep(wait)
