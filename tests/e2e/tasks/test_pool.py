"""The worker's process pool: a partly read message survives the loss of the broker."""

import os
import pickle
import struct
from collections.abc import Iterator
from select import select

import pytest
from celery import Celery
from celery.concurrency.asynpool import WORKER_UP
from kombu.asynchronous import Hub


class Parent:
    """The parent process of a pool: a real pipe from a child, and the event loop that reads it."""

    def __init__(self) -> None:
        from accession.tasks.pool import TaskPool

        self.read, self.write = os.pipe()
        os.set_blocking(self.read, False)
        self.received: list[int] = []
        self.children: dict[int, object] = {self.read: "a child"}
        self.handler = TaskPool.Pool.ResultHandler(
            *[None] * 9, fileno_to_outq=self.children, on_process_alive=self.received.append
        )
        self.hub = Hub()
        self.connect()

    def connect(self) -> None:
        """Register with the event loop, as a worker does after it has connected to its broker."""
        self.handler.register_with_event_loop(self.hub)
        self.hub.add_reader(self.read, self.handler.handle_event, self.read)
        self.loop = self.hub.create_loop()

    def lose_connection(self) -> None:
        self.hub.reset()

    def read_available(self) -> None:
        """Read all that the child has written."""
        while select([self.read], [], [], 0)[0]:
            next(self.loop)

    def close(self) -> None:
        self.hub.close()
        os.close(self.read)
        os.close(self.write)


@pytest.fixture
def parent(app: Celery) -> Iterator[Parent]:
    parent = Parent()
    yield parent
    parent.close()


def message(number: int) -> bytes:
    """Return a child's message as billiard sends it: its length and its pickled body."""
    body = pickle.dumps((WORKER_UP, (number,)))
    return struct.pack("!i", len(body)) + body


@pytest.mark.parametrize("size", [1, 4, 11])
def test_partly_read_message_is_finished_after_reconnect(parent: Parent, size: int) -> None:
    first = message(1)
    os.write(parent.write, first[:size])
    parent.read_available()
    for _ in range(2):
        parent.lose_connection()
        parent.connect()
    os.write(parent.write, first[size:] + message(2))
    parent.read_available()
    os.write(parent.write, message(3))
    parent.read_available()

    assert parent.received == [1, 2, 3]


def test_partly_read_message_of_ended_child_is_discarded(parent: Parent) -> None:
    os.write(parent.write, message(1)[:5])
    parent.read_available()
    parent.lose_connection()
    # The operating system reuses file descriptors.
    parent.children[parent.read] = "another child"
    parent.connect()
    os.write(parent.write, message(2))
    parent.read_available()

    assert parent.received == [2]
