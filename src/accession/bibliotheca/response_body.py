"""Read response bodies within limits of size, time and memory."""

import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from http import HTTPStatus
from typing import cast

import httpx

from accession.bibliotheca.errors import BadResponseException, RequestTimedOut, ResponseContext

MAX_BODY_BYTES = 20 * 1024 * 1024
# An error response only needs its message: read no more of it.
_MAX_ERROR_BODY_BYTES = 64 * 1024
# A kilobyte of gzip can decompress to a megabyte.
_DECOMPRESSED_CHUNK_BYTES = 64 * 1024
_GZIP_WBITS = zlib.MAX_WBITS | 16


@dataclass(frozen=True)
class Deadline:
    """The moment at which a response must be complete."""

    limit: timedelta
    moment: datetime
    clock: Callable[[], datetime]

    @classmethod
    def after(cls, limit: timedelta, clock: Callable[[], datetime]) -> "Deadline":
        """Return the deadline that passes after `limit`, counted from now."""
        return cls(limit, clock() + limit, clock)

    def has_passed(self) -> bool:
        """Return whether the time limit is exceeded."""
        return self.clock() > self.moment


def read_body(response: httpx.Response, context: ResponseContext, deadline: Deadline) -> bytes:
    """Return the decompressed body of a streamed response; the first 64 KiB if its status is not 200.

    Raises:
        BadResponseException: the body is larger than 20 MiB, or its gzip encoding is invalid.
        RequestTimedOut: the body is not complete at the deadline.
    """
    is_ok = response.status_code == HTTPStatus.OK
    max_bytes = MAX_BODY_BYTES if is_ok else _MAX_ERROR_BODY_BYTES
    body = bytearray()
    for chunk in _decompressed_chunks(response, context):
        body += chunk
        if len(body) > max_bytes:
            if not is_ok:
                break
            problem = f"the vendor's response is larger than {MAX_BODY_BYTES // 1024**2} MiB"
            raise context.error(BadResponseException, problem, bytes(body))
        if deadline.has_passed():
            problem = f"the vendor's response took longer than {deadline.limit.total_seconds():.0f} seconds"
            raise context.error(RequestTimedOut, problem, bytes(body))
    return bytes(body)


def _decompressed_chunks(response: httpx.Response, context: ResponseContext) -> Iterator[bytes]:
    """Yield the body in small chunks, decompressed if its Content-Encoding is gzip.

    httpx could decompress too, but without a limit on memory, and it accepts a truncated gzip stream as
    complete, so that a body cut early enough would look empty.
    """
    raw_chunks = cast(Iterable[bytes], response.stream)
    encoding = response.headers.get("Content-Encoding", "").strip().lower()
    if "," in encoding:
        raise context.error(
            BadResponseException, "the vendor sent a response with more than one content encoding"
        )
    if encoding not in ("gzip", "x-gzip"):
        yield from raw_chunks
        return
    gzip, has_data = zlib.decompressobj(_GZIP_WBITS), False
    for chunk in raw_chunks:
        has_data = has_data or bool(chunk)
        try:
            yield b"" if gzip.eof else gzip.decompress(chunk, _DECOMPRESSED_CHUNK_BYTES)
            while gzip.unconsumed_tail:
                yield gzip.decompress(gzip.unconsumed_tail, _DECOMPRESSED_CHUNK_BYTES)
        except zlib.error as error:
            problem = "the vendor sent a response whose gzip encoding is invalid"
            raise context.error(BadResponseException, problem) from context.cause(error)
    yield gzip.flush()
    if has_data and not gzip.eof:
        raise context.error(
            BadResponseException, "the vendor sent a truncated response: its gzip stream is incomplete"
        )
