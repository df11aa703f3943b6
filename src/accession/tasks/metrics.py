"""What workers count together, on whichever machine each is, and what waits for them.

The counts lie in the broker. Should that lose its data they begin anew, as counters may.
"""

import json
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from typing import cast

from kombu.transport.redis import Channel
from redis import Redis
from redis.exceptions import RedisError

from accession.bibliotheca.client import CountRequest, Endpoint, Outcome
from accession.tasks.broker import quick_broker

LATENCY_BUCKETS = (0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 120.0)
"""Upper bounds in seconds; what took longer is in a bucket of its own."""

_REQUESTS = "metrics:requests"
_LATENCY = "metrics:latency"
_SECONDS = "metrics:seconds"
_APPLIED = "metrics:applied"


class Applied(StrEnum):
    """What of a title an apply has written."""

    DESCRIBED = "described"
    COUNTS = "counts"


@dataclass(frozen=True)
class Latency:
    """How long the requests to one endpoint took: how many fell into each of `LATENCY_BUCKETS` and beyond
    the last, and the sum of all."""

    requests: tuple[int, ...]
    seconds: float


@dataclass(frozen=True)
class Counts:
    """What all workers have counted since the broker's data began."""

    requests: Mapping[tuple[Endpoint, Outcome], int]
    latency: Mapping[Endpoint, Latency]
    applied: Mapping[Applied, int]


@dataclass(frozen=True)
class Depth:
    """Messages of a queue: those that wait for a worker, and those that one has, to work on or to retry."""

    waiting: int
    unacknowledged: int


def request_counter() -> CountRequest:
    """What counts the vendor's requests of this process with those of all others; a broker that is away
    loses counts, and stops nobody."""
    client = quick_broker()

    def count(endpoint: Endpoint, outcome: Outcome, seconds: float) -> None:
        with suppress(RedisError), client.pipeline() as counted:
            counted.hincrby(_REQUESTS, f"{endpoint}/{outcome}")
            counted.hincrby(_LATENCY, f"{endpoint}/{bisect_left(LATENCY_BUCKETS, seconds)}")
            counted.hincrbyfloat(_SECONDS, endpoint, seconds)
            counted.execute()

    return count


def count_applied(*, described: int, counts: int) -> None:
    """Count titles whose description, and whose counts, an apply has written; a broker that is away loses
    them."""
    with suppress(RedisError), quick_broker().pipeline() as counted:
        counted.hincrby(_APPLIED, Applied.DESCRIBED, described)
        counted.hincrby(_APPLIED, Applied.COUNTS, counts)
        counted.execute()


def read_counts() -> Counts:
    """All counts, with 0 for what has not happened. Raises `RedisError` when the broker does not answer."""
    with quick_broker().pipeline() as asked:
        for name in (_REQUESTS, _LATENCY, _SECONDS, _APPLIED):
            asked.hgetall(name)
        answers: list[dict[bytes, bytes]] = asked.execute()
    requests, latency, seconds, applied = (_decoded(answer) for answer in answers)
    return Counts(
        {
            (endpoint, outcome): int(requests.get(f"{endpoint}/{outcome}", 0))
            for endpoint in Endpoint
            for outcome in Outcome
        },
        {endpoint: _latency(endpoint, latency, float(seconds.get(endpoint, 0))) for endpoint in Endpoint},
        {kind: int(applied.get(kind, 0)) for kind in Applied},
    )


def _decoded(answer: Mapping[bytes, bytes]) -> dict[str, str]:
    return {name.decode(): value.decode() for name, value in answer.items()}


def _latency(endpoint: Endpoint, found: Mapping[str, str], seconds: float) -> Latency:
    buckets = range(len(LATENCY_BUCKETS) + 1)
    return Latency(tuple(int(found.get(f"{endpoint}/{bucket}", 0)) for bucket in buckets), seconds)


def queue_depths(queues: Sequence[str]) -> dict[str, Depth]:
    """How much there is in each of the queues. Raises `RedisError` when the broker does not answer."""
    client: Redis = quick_broker()
    with client.pipeline() as asked:
        for queue in queues:
            asked.llen(queue)
        asked.hvals(Channel.unacked_key)
        *waiting, taken = asked.execute()
    # A message that is with a worker is kept with its exchange and its routing key, which is its queue.
    routes = [json.loads(kept)[2] for kept in cast(list[bytes], taken)]
    return {queue: Depth(length, routes.count(queue)) for queue, length in zip(queues, waiting, strict=True)}
