"""However much a vendor sends, and however it is packed, the client takes a bounded share of memory."""

import socket
import subprocess
import sys
import threading
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from itertools import chain, repeat

import pytest

MIB = 1024 * 1024
MOST_MIB = 100

ASKING = """
import sys
from datetime import UTC, datetime
from pydantic import SecretStr
from accession.bibliotheca import client
from accession.bibliotheca.errors import RETRYABLE

def peak_kib():
    # Not getrusage: that counts the parent's, too, from before the program was replaced.
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmHWM"))

client.ASK_AGAIN_TIMES = 0
account = client.Account("Main", "rvs", "a", SecretStr("k"), sys.argv[1])
api = client.BibliothecaAPI(account, timeout_seconds=2)
before = peak_kib()
try:
    api.marc_page(datetime(2024, 4, 30, tzinfo=UTC), datetime(2024, 5, 1, tzinfo=UTC))
except RETRYABLE as error:
    print(error)
print((peak_kib() - before) // 1024)
"""

OK = b"HTTP/1.1 200 OK\r\n"


def bomb() -> Iterator[bytes]:
    """A gzip stream without end, of which each MiB is a KiB on the wire."""
    packer = zlib.compressobj(9, wbits=zlib.MAX_WBITS | 16)
    yield packer.compress(b"<a>") + packer.flush(zlib.Z_FULL_FLUSH)
    yield from repeat((packer.compress(bytes(MIB)) + packer.flush(zlib.Z_FULL_FLUSH)) * 64)


def after_the_end() -> Iterator[bytes]:
    """A whole gzip stream, and bytes without end behind it."""
    packer = zlib.compressobj(wbits=zlib.MAX_WBITS | 16)
    yield packer.compress(b"<a/>") + packer.flush()
    yield from repeat(b"x" * MIB)


FLOODS: dict[str, Callable[[], Iterable[bytes]]] = {
    "a body": lambda: chain([OK + b"\r\n"], repeat(b"x" * MIB)),
    "one chunk": lambda: chain([OK + b"Transfer-Encoding: chunked\r\n\r\nfffffffff\r\n"], repeat(b"x" * MIB)),
    "a page that says how large it is": lambda: chain(
        [OK + b"Content-Length: 99999999999\r\n\r\n"], repeat(b"x" * MIB)
    ),
    "a gzip bomb": lambda: chain([OK + b"Content-Encoding: gzip\r\n\r\n"], bomb()),
    "bytes behind gzip": lambda: chain([OK + b"Content-Encoding: gzip\r\n\r\n"], after_the_end()),
    "a gzip bomb with a refusal": lambda: chain(
        [b"HTTP/1.1 502 Bad Gateway\r\nContent-Encoding: gzip\r\n\r\n"], bomb()
    ),
    "one header": lambda: chain([OK + b"X: "], repeat(b"x" * MIB)),
    "headers": lambda: chain([OK], repeat(b"X: y\r\n" * 100_000)),
    "a status line": lambda: repeat(b"H" * MIB),
    "a chunk's size": lambda: chain([OK + b"Transfer-Encoding: chunked\r\n\r\n"], repeat(b"1" * MIB)),
}


@contextmanager
def vendor_that_floods(flood: str) -> Iterator[str]:
    """The base URL of a vendor that answers every request without end."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            with suppress(OSError):
                while True:
                    connection, _ = server.accept()
                    with connection, suppress(OSError):
                        connection.recv(65_536)
                        for part in FLOODS[flood]():
                            connection.sendall(part)

        thread = threading.Thread(target=serve)
        thread.start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}"
        server.shutdown(socket.SHUT_RDWR)
        thread.join()


@pytest.mark.parametrize("flood", FLOODS)
def test_a_flood_is_cut_off_with_bounded_memory(flood: str) -> None:
    with vendor_that_floods(flood) as base_url:
        asked = subprocess.run(
            [sys.executable, "-c", ASKING, base_url], capture_output=True, text=True, timeout=60, check=True
        )
    *_, sentence, grown_mib = asked.stdout.splitlines()
    assert sentence.startswith('Collection "Main": ')
    assert int(grown_mib) < MOST_MIB
