"""Streaming responses: a writer thread produces the body while the client reads it, in bounded memory."""

import io
import threading
import time
from collections.abc import Callable, Iterator
from queue import Full, Queue
from typing import BinaryIO, cast

_CHUNK_BYTES = 64 * 1024
_MAX_QUEUED_CHUNKS = 16
_POLL_SECONDS = 0.2
# A client that stops reading would otherwise hold its database snapshot forever.
_STALLED_CLIENT_SECONDS = 60.0


class _ClientDisconnected(Exception):
    """The client has closed the connection or stopped reading."""


class _QueueWriter(io.RawIOBase):
    """Raw output stream that puts chunks on a bounded queue."""

    def __init__(self, chunks: "Queue[bytes | BaseException | None]", disconnected: threading.Event) -> None:
        self._chunks = chunks
        self._disconnected = disconnected

    def writable(self) -> bool:
        return True

    def write(self, data: "bytes | bytearray | memoryview") -> int:  # type: ignore[override]
        self.put(bytes(data))
        return len(data)

    def put(self, chunk: bytes | BaseException | None) -> None:
        """Queue a chunk, an error that ends the stream, or None for its regular end.

        Raises:
            _ClientDisconnected: the client disconnected or has not read for a minute.
        """
        deadline = time.monotonic() + _STALLED_CLIENT_SECONDS
        while not self._disconnected.is_set() and time.monotonic() < deadline:
            try:
                self._chunks.put(chunk, timeout=_POLL_SECONDS)
            except Full:
                continue
            return
        raise _ClientDisconnected


def stream_output(write: Callable[[BinaryIO], object]) -> Iterator[bytes]:
    """Yield what `write` writes to its argument, in chunks; `write` runs in a thread of its own.

    An exception of `write` is raised here, so that the server aborts the response instead of ending it as if
    it were complete.
    """
    chunks: Queue[bytes | BaseException | None] = Queue(_MAX_QUEUED_CHUNKS)
    disconnected = threading.Event()
    writer = _QueueWriter(chunks, disconnected)

    def run() -> None:
        try:
            out = io.BufferedWriter(cast("io.RawIOBase", writer), _CHUNK_BYTES)
            write(cast("BinaryIO", out))
            out.flush()
            writer.put(None)
        except _ClientDisconnected:
            disconnected.set()
        except BaseException as error:
            writer.put(error)

    threading.Thread(target=run, daemon=True).start()
    try:
        while (chunk := chunks.get()) is not None:
            if isinstance(chunk, BaseException):
                raise chunk
            yield chunk
    finally:
        disconnected.set()
