"""Counters that all workers share, and the depths of the queues.

The counters are kept in the broker. If it loses its data they restart at zero, as counters may.
"""

from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from typing import TypeAlias

from redis.exceptions import RedisError

from accession.bibliotheca.outcomes import Endpoint, RequestOutcome
from accession.tasks.broker import broker_client
from accession.tasks.deliveries import unacknowledged_messages
from accession.tasks.write_buffer import WriteBuffer

LATENCY_BUCKETS = (0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 120.0)
"""Upper bounds in seconds; slower requests are counted in one further bucket."""

_REQUESTS = "metrics:requests"
_SECONDS = "metrics:seconds"
_APPLIED = "metrics:applied"

# The duration is in seconds.
_Request: TypeAlias = tuple[Endpoint, RequestOutcome, float]


class AppliedKind(StrEnum):
    """The part of a title that an apply has written."""

    METADATA = "metadata"
    COUNTS = "counts"


@dataclass(frozen=True)
class Latency:
    """Durations of the requests to one endpoint.

    `requests` has the number of requests in each bucket of `LATENCY_BUCKETS` and, last, of slower ones;
    `seconds` is the sum of all durations.
    """

    requests: tuple[int, ...]
    seconds: float


@dataclass(frozen=True)
class WorkerMetrics:
    """The counters of all workers, since the broker's data began."""

    requests: Mapping[tuple[Endpoint, RequestOutcome], int]
    latency: Mapping[Endpoint, Latency]
    applied: Mapping[AppliedKind, int]


@dataclass(frozen=True)
class QueueDepth:
    """The messages of a queue: those waiting for a worker, and those a worker processes or will retry."""

    waiting: int
    unacknowledged: int


def count_request(endpoint: Endpoint, outcome: RequestOutcome, seconds: float) -> None:
    """Count a vendor request that took so many seconds, a second later; any thread may call it.

    The count is lost if the process is killed before, or the broker is unavailable then.
    """
    _buffer.add((endpoint, outcome, seconds))


def store_counted_requests() -> None:
    """Store the requests that this process has counted."""
    _buffer.store()


def _store_requests(requests: Sequence[_Request]) -> None:
    numbers = Counter(
        _request_field(endpoint, outcome, bisect_left(LATENCY_BUCKETS, seconds))
        for endpoint, outcome, seconds in requests
    )
    durations: dict[Endpoint, float] = defaultdict(float)
    for endpoint, _, seconds in requests:
        durations[endpoint] += seconds
    with suppress(RedisError), broker_client().pipeline(transaction=False) as pipeline:
        for field, number in numbers.items():
            pipeline.hincrby(_REQUESTS, field, number)
        for endpoint, seconds in durations.items():
            pipeline.hincrbyfloat(_SECONDS, endpoint, seconds)
        pipeline.execute()


_buffer = WriteBuffer(_store_requests)


def _request_field(endpoint: Endpoint, outcome: RequestOutcome, bucket: int) -> str:
    return f"{endpoint}/{outcome}/{bucket}"


def count_applied(*, metadata: int, counts: int) -> None:
    """Count titles whose metadata or counts an apply has written; skipped if the broker is unavailable."""
    with suppress(RedisError), broker_client().pipeline() as pipeline:
        pipeline.hincrby(_APPLIED, AppliedKind.METADATA, metadata)
        pipeline.hincrby(_APPLIED, AppliedKind.COUNTS, counts)
        pipeline.execute()


def read_worker_metrics() -> WorkerMetrics:
    """Return all counters, with 0 for what has not happened yet.

    Raises:
        RedisError: the broker is unavailable.
    """
    with broker_client().pipeline() as pipeline:
        for name in (_REQUESTS, _SECONDS, _APPLIED):
            pipeline.hgetall(name)
        hashes: list[dict[bytes, bytes]] = pipeline.execute()
    requests, seconds, applied = (_decode(fields) for fields in hashes)
    buckets = range(len(LATENCY_BUCKETS) + 1)

    def number(endpoint: Endpoint, outcome: RequestOutcome, bucket: int) -> int:
        return int(requests.get(_request_field(endpoint, outcome, bucket), 0))

    return WorkerMetrics(
        {
            (endpoint, outcome): sum(number(endpoint, outcome, bucket) for bucket in buckets)
            for endpoint in Endpoint
            for outcome in RequestOutcome
        },
        {
            endpoint: Latency(
                tuple(sum(number(endpoint, each, bucket) for each in RequestOutcome) for bucket in buckets),
                float(seconds.get(endpoint, 0)),
            )
            for endpoint in Endpoint
        },
        {kind: int(applied.get(kind, 0)) for kind in AppliedKind},
    )


def _decode(fields: Mapping[bytes, bytes]) -> dict[str, str]:
    return {name.decode(): value.decode() for name, value in fields.items()}


def queue_depths(queues: Sequence[str]) -> dict[str, QueueDepth]:
    """Return the number of messages in each queue.

    Raises:
        RedisError: the broker is unavailable.
    """
    with broker_client().pipeline() as pipeline:
        for queue in queues:
            pipeline.llen(queue)
        waiting = pipeline.execute()
    received = [queue for _, queue in unacknowledged_messages()]
    return {
        queue: QueueDepth(length, received.count(queue))
        for queue, length in zip(queues, waiting, strict=True)
    }
