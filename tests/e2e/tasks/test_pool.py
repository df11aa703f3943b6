"""The worker's pool of processes: what of a message has been read is kept."""

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
    """The end of a worker's parent that hears from a child: a real pipe, and the loop that reads it."""

    def __init__(self) -> None:
        from accession.tasks.pool import TaskPool

        self.read, self.write = os.pipe()
        os.set_blocking(self.read, False)
        self.heard: list[int] = []
        self.children: dict[int, object] = {self.read: "a child"}
        self.handler = TaskPool.Pool.ResultHandler(
            *[None] * 9, fileno_to_outq=self.children, on_process_alive=self.heard.append
        )
        self.hub = Hub()
        self.connect()

    def connect(self) -> None:
        """As a worker does that has connected to its broker."""
        self.handler.register_with_event_loop(self.hub)
        self.hub.add_reader(self.read, self.handler.handle_event, self.read)
        self.loop = self.hub.create_loop()

    def lose_connection(self) -> None:
        self.hub.reset()

    def listen(self) -> None:
        """Read what there is to read."""
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
    """A child's message as billiard sends it: its length, and then itself."""
    body = pickle.dumps((WORKER_UP, (number,)))
    return struct.pack("!i", len(body)) + body


@pytest.mark.parametrize("at", [1, 4, 11])
def test_a_message_that_was_read_in_part_when_the_broker_was_lost_is_read_to_its_end(
    parent: Parent, at: int
) -> None:
    told = message(1)
    os.write(parent.write, told[:at])
    parent.listen()
    for _ in range(2):
        parent.lose_connection()
        parent.connect()
    os.write(parent.write, told[at:] + message(2))
    parent.listen()
    os.write(parent.write, message(3))
    parent.listen()

    assert parent.heard == [1, 2, 3]


def test_what_was_read_of_a_child_that_is_no_more_is_forgotten(parent: Parent) -> None:
    os.write(parent.write, message(1)[:5])
    parent.listen()
    parent.lose_connection()
    # Descriptors are given to the next who needs one.
    parent.children[parent.read] = "another child"
    parent.connect()
    os.write(parent.write, message(2))
    parent.listen()

    assert parent.heard == [2]
