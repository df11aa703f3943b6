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
        self._timer: Timer | None = None

    def add(self, *items: _Item) -> None:
        """Add items, and store them within a second."""
        with self._lock:
            self._items.extend(items)
            if self._items and self._timer is None:
                self._timer = Timer(_BUFFER_SECONDS, self.store)
                self._timer.daemon = True
                self._timer.start()

    def store(self) -> None:
        """Store all items now, and wait until those that another thread is storing are stored."""
        with self._write_lock:
            with self._lock:
                items, self._items = self._items, []
                if self._timer is not None:
                    self._timer.cancel()
                    self._timer = None
            if items:
                self._write(items)
