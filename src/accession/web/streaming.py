"""Answers that are written while they are read: nothing of them is kept, however long they are."""

import io
import threading
import time
from collections.abc import Callable, Iterator
from queue import Full, Queue
from typing import BinaryIO, cast

_CHUNK = 64 * 1024
_CHUNKS = 16
_LOOK_SECONDS = 0.2
# A reader that stands still would keep its place, and the database's old rows, for ever.
_PATIENCE_SECONDS = 60.0


class _ReaderGone(Exception):
    """Nobody reads what is written."""


class _Sink(io.RawIOBase):
    """Takes chunks as far as the reader keeps up."""

    def __init__(self, chunks: "Queue[bytes | BaseException | None]", gone: threading.Event) -> None:
        self._chunks = chunks
        self._gone = gone

    def writable(self) -> bool:
        return True

    def write(self, data: "bytes | bytearray | memoryview") -> int:  # type: ignore[override]
        self.put(bytes(data))
        return len(data)

    def put(self, chunk: bytes | BaseException | None) -> None:
        """Hand the chunk over, an error that ends it all, or None at the end; raises `_ReaderGone`."""
        until = time.monotonic() + _PATIENCE_SECONDS
        while not self._gone.is_set() and time.monotonic() < until:
            try:
                self._chunks.put(chunk, timeout=_LOOK_SECONDS)
            except Full:
                continue
            return
        raise _ReaderGone


def streamed(write: Callable[[BinaryIO], object]) -> Iterator[bytes]:
    """What `write` writes, in chunks; it goes on in a thread of its own while there is a reader.

    What it raises is raised here, so that an answer that is not whole does not end as if it were.
    """
    chunks: Queue[bytes | BaseException | None] = Queue(_CHUNKS)
    gone = threading.Event()
    sink = _Sink(chunks, gone)

    def work() -> None:
        try:
            out = io.BufferedWriter(cast("io.RawIOBase", sink), _CHUNK)
            write(cast("BinaryIO", out))
            out.flush()
            sink.put(None)
        except _ReaderGone:
            gone.set()
        except BaseException as error:
            sink.put(error)

    threading.Thread(target=work, daemon=True).start()
    try:
        while (chunk := chunks.get()) is not None:
            if isinstance(chunk, BaseException):
                raise chunk
            yield chunk
    finally:
        gone.set()
