"""Staying with the work while a server that it needs is away."""

import time
from collections.abc import Callable
from itertools import chain, repeat
from typing import TypeVar

import structlog
from kombu.exceptions import OperationalError as BrokerAway
from redis.exceptions import ConnectionError as RedisAway
from redis.exceptions import TimeoutError as RedisSilent
from sqlalchemy.exc import OperationalError as DatabaseAway

log = structlog.get_logger(__name__)

_AWAY = (DatabaseAway, BrokerAway, RedisAway, RedisSilent)
_WAITS_SECONDS = (1.0, 2.0, 5.0)

_Result = TypeVar("_Result")


def outlast_outages(work: Callable[[bool], _Result]) -> _Result:
    """What `work` returns once database and broker are there for all of it.

    As long as one is away it is begun again, after seconds: nobody else could do anything meanwhile, and
    it has cost none of the tries that a vendor's fault has. `work` is told whether it was begun before:
    then it may have been done, all but the answer to its commit.
    """
    waits = chain(_WAITS_SECONDS, repeat(_WAITS_SECONDS[-1]))
    begun_before = False
    while True:
        try:
            return work(begun_before)
        except _AWAY as error:
            wait = next(waits)
            log.warning(
                "a server is away; the task waits for it", reason=str(error).splitlines()[0], wait=wait
            )
        begun_before = True
        time.sleep(wait)
