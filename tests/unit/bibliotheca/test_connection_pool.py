"""All collections of a process share one pool of connections."""

import subprocess
import sys

import httpx

from accession.bibliotheca.client import BibliothecaAPI
from accession.bibliotheca.connection_pool import http_client
from tests.fixtures.bibliotheca import END, PAGE, START, socket_vendor


def test_pool_is_shared_with_timeouts_and_no_redirects(http_pool: httpx.Client) -> None:
    assert http_client() is http_pool
    assert (http_pool.timeout.connect, http_pool.timeout.read) == (10, 60)
    assert not http_pool.follow_redirects


def test_local_request_uses_no_proxy_and_keeps_no_cookie(http_pool: httpx.Client) -> None:
    response = b"HTTP/1.1 200 OK\r\nSet-Cookie: session=1\r\nContent-Length: %d\r\n\r\n%s" % (len(PAGE), PAGE)

    with socket_vendor(lambda: [response]) as account:
        page = BibliothecaAPI(account).fetch_marc_page(START, END)

    assert len(page.records) == 3
    assert len(http_pool.cookies) == 0


def test_forked_process_has_its_own_pool() -> None:
    script = (
        "import os\n"
        "from accession.bibliotheca.connection_pool import http_client\n"
        "parent = http_client()\n"
        "pid = os.fork()\n"
        "if pid == 0: os._exit(http_client() is parent)\n"
        "raise SystemExit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))"
    )

    assert subprocess.run([sys.executable, "-c", script], check=False, timeout=60).returncode == 0
