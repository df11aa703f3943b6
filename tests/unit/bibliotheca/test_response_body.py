"""Response bodies are decompressed within limits of size, time and memory."""

import gzip
import subprocess
import sys
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from datetime import timedelta
from itertools import chain, pairwise, repeat

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from accession.bibliotheca.client import BibliothecaAPI
from accession.bibliotheca.errors import (
    BadResponseException,
    RequestTimedOut,
    TransientVendorError,
    UnknownLibrary,
)
from accession.bibliotheca.response_body import MAX_BODY_BYTES
from tests.fixtures.bibliotheca import (
    ACCOUNT,
    END,
    NOW,
    PAGE,
    START,
    EndlessBody,
    api_with,
    marc_error,
    socket_vendor,
)

OK = b"HTTP/1.1 200 OK\r\n"
GZIP = OK + b"Content-Encoding: gzip\r\n"

# Over a socket


@pytest.mark.usefixtures("http_pool")
@pytest.mark.parametrize(
    "sent",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"not HTTP at all\r\n\r\n", id="not HTTP"),
        pytest.param(OK + b"Content-Length: 99999\r\n\r\n" + PAGE, id="length too large"),
        pytest.param(OK + b"Content-Length: 500\r\n\r\n" + PAGE, id="length too small"),
        pytest.param(OK + b"Transfer-Encoding: chunked\r\n\r\n400\r\n" + PAGE[:0x400], id="chunk missing"),
        pytest.param(OK + b"Transfer-Encoding: chunked\r\n\r\nzzz\r\n", id="invalid chunk size"),
        pytest.param(GZIP + f"Content-Length: {len(PAGE)}\r\n\r\n".encode() + PAGE, id="not gzip"),
        pytest.param(GZIP + b"\r\n" + gzip.compress(PAGE)[:-400], id="truncated gzip"),
        pytest.param(GZIP + b"\r\n" + gzip.compress(PAGE, mtime=0)[:10], id="gzip header only"),
        pytest.param(GZIP + b"\r\n" + gzip.compress(b"", mtime=0)[:-1], id="truncated empty gzip"),
        pytest.param(
            GZIP.replace(b"gzip", b"gzip, gzip") + b"\r\n" + gzip.compress(gzip.compress(PAGE)),
            id="gzip twice",
        ),
    ],
)
def test_broken_transfer_is_transient(sent: bytes) -> None:
    with socket_vendor(lambda: [sent]) as account:
        assert isinstance(marc_error(BibliothecaAPI(account)), TransientVendorError)


@pytest.mark.usefixtures("http_pool")
@pytest.mark.parametrize(
    "sent",
    [OK + b"Content-Length: %d\r\n\r\n%s" % (len(PAGE), PAGE), GZIP + b"\r\n" + gzip.compress(PAGE)],
    ids=["plain", "gzip"],
)
def test_page_is_read_over_a_socket(sent: bytes) -> None:
    with socket_vendor(lambda: [sent]) as account:
        assert len(BibliothecaAPI(account).fetch_marc_page(START, END).records) == 3


@pytest.mark.usefixtures("http_pool")
@pytest.mark.parametrize(
    "body",
    [b"", gzip.compress(b"", mtime=0), gzip.compress(b" \n", mtime=0)],
    ids=["no bytes", "empty gzip", "gzip of white space"],
)
def test_compressed_empty_body_is_an_empty_page(body: bytes) -> None:
    with socket_vendor(lambda: [GZIP + b"\r\n" + body]) as account:
        page = BibliothecaAPI(account).fetch_marc_page(START, END)
    assert (page.records, page.is_blank) == ((), True)


# Gzip


def test_truncated_gzip_is_not_an_empty_body() -> None:
    """A gzip stream that is cut before its first byte of content must not look like an empty body."""
    truncated = httpx.Response(
        200, stream=httpx.ByteStream(gzip.compress(PAGE)[:10]), headers={"Content-Encoding": "gzip"}
    )

    error = marc_error(api_with(lambda _: truncated))

    assert isinstance(error, TransientVendorError)
    assert "its gzip stream is incomplete" in str(error)


@settings(deadline=None)
@given(
    st.lists(st.integers(1, 3000), max_size=8),
    st.sampled_from(["gzip", "x-gzip", " GZIP "]),
    st.integers(0, 9),
)
def test_gzip_page_is_independent_of_chunks_and_level(cuts: list[int], encoding: str, level: int) -> None:
    compressed = gzip.compress(PAGE + b" " * 200_000, level)
    chunks = [compressed[start:end] for start, end in pairwise([0, *sorted(cuts), len(compressed)])]

    class Chunks(httpx.SyncByteStream):
        def __iter__(self) -> Iterator[bytes]:
            yield from chunks

    page = api_with(
        lambda _: httpx.Response(200, stream=Chunks(), headers={"Content-Encoding": encoding})
    ).fetch_marc_page(START, END)

    assert len(page.records) == 3


# Limits


def test_endless_body_is_rejected_at_the_size_limit() -> None:
    bodies = []

    def respond(_: httpx.Request) -> httpx.Response:
        bodies.append(EndlessBody(b"x" * 1_000_000))
        return httpx.Response(200, stream=bodies[-1])

    error = marc_error(api_with(respond))

    assert type(error) is BadResponseException
    assert "larger than 20 MiB" in str(error)
    assert all(body.sent_bytes <= MAX_BODY_BYTES + 1_000_000 for body in bodies)


def test_size_limit_applies_to_decompressed_body() -> None:
    compressed = gzip.compress(b"<a>" + b" " * (MAX_BODY_BYTES + 1))
    stream = httpx.ByteStream(compressed)

    def respond(_: httpx.Request) -> httpx.Response:
        return httpx.Response(200, stream=stream, headers={"Content-Encoding": "gzip"})

    assert len(compressed) < 100_000
    assert "larger than 20 MiB" in str(marc_error(api_with(respond)))


def test_endless_error_body_is_cut_off() -> None:
    body = EndlessBody(b"x" * 10_000)

    error = marc_error(api_with(lambda _: httpx.Response(404, stream=body)))

    assert (type(error), error.status) == (UnknownLibrary, 404)
    assert body.sent_bytes < 100_000


@pytest.mark.parametrize(("timeout_seconds", "limit"), [(60, 120), (30, 60)])
def test_slow_body_times_out_after_twice_the_timeout(timeout_seconds: int, limit: int) -> None:
    body = EndlessBody(b"x")
    seconds = iter(range(0, 100_000, 10))
    transport = httpx.MockTransport(lambda _: httpx.Response(200, stream=body))
    clock = lambda: NOW + timedelta(seconds=next(seconds))  # noqa: E731

    error = marc_error(BibliothecaAPI(ACCOUNT, transport, clock, timeout_seconds=timeout_seconds))

    assert type(error) is RequestTimedOut
    assert f"took longer than {limit} seconds" in str(error)
    assert body.sent_bytes < 20


# Memory

MIB = 1024 * 1024
MAX_GROWTH_MIB = 100

# Requests each base URL in a forked process, so that the imports are paid for once.
MEASURE_MEMORY = """
import os
import sys
from datetime import UTC, datetime
from pydantic import SecretStr
from accession.accounts.account import Account
from accession.bibliotheca import client
from accession.bibliotheca.errors import TransientVendorError

def peak_kib():
    # Not getrusage: it includes the memory of this process from before exec.
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmHWM"))

def request(base_url):
    api = client.BibliothecaAPI(Account("Main", "rvs", "a", SecretStr("k"), base_url), timeout_seconds=1)
    before = peak_kib()
    try:
        api.fetch_marc_page(datetime(2024, 4, 30, tzinfo=UTC), datetime(2024, 5, 1, tzinfo=UTC))
    except TransientVendorError as error:
        print((peak_kib() - before) // 1024, error, flush=True)

client.IMMEDIATE_RETRIES = 0
for base_url in sys.argv[1:]:
    if (child := os.fork()) == 0:
        request(base_url)
        os._exit(0)
    os.waitpid(child, 0)
"""


def gzip_bomb() -> Iterator[bytes]:
    """Yield an endless gzip stream of which each MiB takes a KiB."""
    compressor = zlib.compressobj(9, wbits=zlib.MAX_WBITS | 16)
    yield compressor.compress(b"<a>") + compressor.flush(zlib.Z_FULL_FLUSH)
    yield from repeat((compressor.compress(bytes(MIB)) + compressor.flush(zlib.Z_FULL_FLUSH)) * 64)


def bytes_after_gzip() -> Iterator[bytes]:
    """Yield a complete gzip stream, then endless other bytes."""
    compressor = zlib.compressobj(wbits=zlib.MAX_WBITS | 16)
    yield compressor.compress(b"<a/>") + compressor.flush()
    yield from repeat(b"x" * MIB)


ENDLESS_RESPONSES: dict[str, Callable[[], Iterable[bytes]]] = {
    "body": lambda: chain([OK + b"\r\n"], repeat(b"x" * MIB)),
    "chunk": lambda: chain([OK + b"Transfer-Encoding: chunked\r\n\r\nfffffffff\r\n"], repeat(b"x" * MIB)),
    "body with a length": lambda: chain([OK + b"Content-Length: 99999999999\r\n\r\n"], repeat(b"x" * MIB)),
    "gzip bomb": lambda: chain([GZIP + b"\r\n"], gzip_bomb()),
    "bytes after gzip": lambda: chain([GZIP + b"\r\n"], bytes_after_gzip()),
    "gzip bomb with an error status": lambda: chain(
        [b"HTTP/1.1 502 Bad Gateway\r\nContent-Encoding: gzip\r\n\r\n"], gzip_bomb()
    ),
    "header": lambda: chain([OK + b"X: "], repeat(b"x" * MIB)),
    "headers": lambda: chain([OK], repeat(b"X: y\r\n" * 100_000)),
    "status line": lambda: repeat(b"H" * MIB),
    "chunk size": lambda: chain([OK + b"Transfer-Encoding: chunked\r\n\r\n"], repeat(b"1" * MIB)),
}


@pytest.fixture(scope="module")
def memory_growth() -> dict[str, tuple[int, str]]:
    """MiB of memory that each endless response took, and the error that it raised."""
    with ExitStack() as stack:
        urls = [stack.enter_context(socket_vendor(send)).base_url for send in ENDLESS_RESPONSES.values()]
        process = subprocess.run(
            [sys.executable, "-c", MEASURE_MEMORY, *urls],
            capture_output=True,
            text=True,
            timeout=300,
            check=True,
        )
    lines = (line.partition(" ") for line in process.stdout.splitlines())
    results = [(int(mib), error) for mib, _, error in lines]
    return dict(zip(ENDLESS_RESPONSES, results, strict=True))


@pytest.mark.parametrize("name", ENDLESS_RESPONSES)
def test_endless_response_takes_limited_memory(memory_growth: dict[str, tuple[int, str]], name: str) -> None:
    mib, error = memory_growth[name]

    assert error.startswith('Collection "Main": ')
    assert mib < MAX_GROWTH_MIB
