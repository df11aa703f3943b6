"""Messages in the broker: those that are queued, and those that a worker has received and not acknowledged.

Each worker keeps the messages that it has received under keys of its own, so that those of a dead worker can
be queued again without touching those of the others.
"""

import base64
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, cast

from accession.tasks.broker import APPLY_QUEUE, DEFAULT_QUEUE, broker_client
from accession.tasks.heartbeats import list_workers

_KEY_OPTIONS = ("unacked_key", "unacked_index_key", "unacked_mutex_key")


@dataclass(frozen=True)
class PendingWork:
    """Ids of the tasks, and of the outbox rows to be applied, for which the broker has messages."""

    task_ids: frozenset[str]
    outbox_ids: frozenset[int]


def own_keys(worker: str) -> Mapping[str, str]:
    """Return the transport options with which a connection uses the keys of this worker."""
    return {name: f"{name.removesuffix('_key')}:{worker}" for name in _KEY_OPTIONS}


def unacknowledged_messages() -> Iterator[tuple[dict[str, Any], str]]:
    """Yield each message that a worker, alive or dead, has received, with its queue."""
    with broker_client().pipeline(transaction=False) as pipeline:
        for worker in list_workers():
            pipeline.hvals(own_keys(worker)["unacked_key"])
        for entries in pipeline.execute():
            for entry in entries:
                # kombu stores [message, exchange, routing key]; our routing keys are names of queues.
                message, _, queue = json.loads(entry)
                yield message, queue


def find_pending_work() -> PendingWork:
    """Return the work for which the broker has messages, queued or received.

    Raises:
        RedisError: the broker is unavailable.
    """
    queued = [
        (json.loads(message), queue)
        for queue in (DEFAULT_QUEUE, APPLY_QUEUE)
        for message in cast(Iterable[bytes], broker_client().lrange(queue, 0, -1))
    ]
    messages = [*queued, *unacknowledged_messages()]
    return PendingWork(
        frozenset(message["headers"]["id"] for message, _ in messages),
        frozenset(
            row_id for message, queue in messages if queue == APPLY_QUEUE for row_id in _outbox_ids(message)
        ),
    )


def _outbox_ids(message: Mapping[str, Any]) -> Iterable[int]:
    """Return the outbox rows of an apply message."""
    (outbox_ids,), _, _ = json.loads(base64.b64decode(message["body"]))
    return cast(list[int], outbox_ids)
