"""Celery's pool of processes, mended: a worker outlives the loss of its broker, or ends at once.

Seen with Celery 5.7: when the connection to the broker is lost while the worker has read a part of what a
child tells it, that part is forgotten. What comes next is then taken for something else: the worker waits
for ever for the rest of a message that nobody has sent, or fails, and waits for ever for its children.
"""

import os
from collections.abc import Callable, Iterator
from typing import Any

import structlog
from celery import bootsteps
from celery.concurrency import asynpool, prefork
from celery.platforms import EX_FAILURE

from accession.tasks.app import app

log = structlog.get_logger(__name__)


class _ResultHandler(asynpool.ResultHandler):  # type: ignore[misc]
    """Goes on with a message that it has read a part of, also after the event loop has begun anew."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._unfinished: dict[int, tuple[Any, Iterator[None]]] = {}

    def _recv_message(
        self, add_reader: Callable[..., None], fd: int, callback: Callable[[Any], None]
    ) -> Iterator[None]:
        # A descriptor can be another child's by now.
        child = self.fileno_to_outq[fd]
        whose, reading = self._unfinished.get(fd, (None, None))
        if whose is not child or reading is None:
            reading = super()._recv_message(add_reader, fd, callback)
        self._unfinished[fd] = child, reading
        # Not `yield from`: that would end the reading together with this generator.
        for _ in reading:
            yield
        del self._unfinished[fd]


class _Pool(asynpool.AsynPool):  # type: ignore[misc]
    ResultHandler = _ResultHandler


class TaskPool(prefork.TaskPool):  # type: ignore[misc]
    """The pool of processes that `worker_pool` names."""

    Pool = _Pool


class EndAtOnceWhenBroken(bootsteps.StartStopStep):  # type: ignore[misc]
    """Has a worker that has met an error of its own end at once, and be started again.

    Celery would wait for its children first, and they for it. What they are at comes back to another worker.
    """

    requires = ("celery.worker.components:Pool",)

    def stop(self, worker: Any) -> None:
        """Before the pool is stopped."""
        if worker.exitcode == EX_FAILURE:
            log.critical("the worker is broken and ends")
            os._exit(EX_FAILURE)


app.steps["worker"].add(EndAtOnceWhenBroken)
