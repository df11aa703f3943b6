"""Buffer of what a process stores a second later, many items at once."""

import os
from collections.abc import Callable, Sequence
from threading import Lock, Timer
from typing import Generic, TypeVar

_BUFFER_SECONDS = 1.0

_Item = TypeVar("_Item")


class WriteBuffer(Generic[_Item]):
    """Items that this process has not stored yet.

    They are stored together a second after the first of them, because each write costs CPU time. If the
    process is killed before, they are lost. Any thread may use a buffer.
    """

    def __init__(self, write: Callable[[Sequence[_Item]], None]) -> None:
        self._write = write
        self._forget()
        # The parent process stores its items itself.
        os.register_at_fork(after_in_child=self._forget)

    def _forget(self) -> None:
        self._lock, self._write_lock = Lock(), Lock()
        self._items: list[_Item] = []

    def add(self, *items: _Item) -> None:
        """Add items, and store them within a second."""
        with self._lock:
            is_first = bool(items) and not self._items
            self._items.extend(items)
        if is_first:
            timer = Timer(_BUFFER_SECONDS, self.store)
            timer.daemon = True
            timer.start()

    def store(self) -> None:
        """Store all items now, and wait until those that another thread is storing are stored."""
        with self._write_lock:
            with self._lock:
                items, self._items = self._items, []
            if items:
                self._write(items)
