"""Workarounds for Celery's process pool: a worker survives losing its broker, or exits at once.

In Celery 5.7, losing the broker's connection while the worker is reading a child's message discards the part
that was read. The rest of the message is then misinterpreted: the worker waits for a message that never
comes, or fails and waits for its children for ever.
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
    """A result handler that finishes reading a message after the event loop was reset."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._unfinished: dict[int, tuple[Any, Iterator[None]]] = {}

    def _recv_message(
        self, add_reader: Callable[..., None], fd: int, callback: Callable[[Any], None]
    ) -> Iterator[None]:
        # The file descriptor may have been reused for another child.
        child = self.fileno_to_outq[fd]
        reading_child, reading = self._unfinished.get(fd, (None, None))
        if reading_child is not child or reading is None:
            reading = super()._recv_message(add_reader, fd, callback)
        self._unfinished[fd] = child, reading
        # Not `yield from`, which would close `reading` together with this generator.
        for _ in reading:
            yield
        del self._unfinished[fd]


class _Pool(asynpool.AsynPool):  # type: ignore[misc]
    ResultHandler = _ResultHandler


class TaskPool(prefork.TaskPool):  # type: ignore[misc]
    """The process pool for the setting `worker_pool`."""

    Pool = _Pool


class ExitOnPoolFailure(bootsteps.StartStopStep):  # type: ignore[misc]
    """A worker step that exits at once when the worker has failed, so that it is restarted.

    Celery would wait for its children first, and they for it. Their messages are delivered to another worker.
    """

    requires = ("celery.worker.components:Pool",)

    def stop(self, worker: Any) -> None:
        """Exit before Celery stops the pool, if the worker has failed."""
        if worker.exitcode == EX_FAILURE:
            log.critical("worker pool failed, exiting")
            os._exit(EX_FAILURE)


app.steps["worker"].add(ExitOnPoolFailure)
