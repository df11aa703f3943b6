"""All collections of a process share one pool of connections."""

import subprocess
import sys

import httpx
import pytest

from accession import __version__
from accession.accounts.account import Account
from accession.bibliotheca.client import BibliothecaAPI
from accession.bibliotheca.connection_pool import VendorTransport, vendor_transport
from accession.bibliotheca.errors import ConnectionFailed
from tests.fixtures.bibliotheca import END, KEY, PAGE, START, api_with
from tests.fixtures.internet import Internet, internet

__all__ = ["internet"]

PAGE_RESPONSE = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(PAGE), PAGE)


def test_requests_have_timeouts_and_the_programs_name() -> None:
    requests: list[httpx.Request] = []

    def respond(request: httpx.Request) -> httpx.Response:
        requests.append(request)
        return httpx.Response(200, content=PAGE)

    api_with(respond).fetch_marc_page(START, END)
    (request,) = requests
    assert request.extensions["timeout"] == {"connect": 10, "read": 60, "write": 60, "pool": 60}
    assert request.headers["User-Agent"] == f"accession/{__version__}"


def test_local_requests_use_no_proxy_and_no_cookie(internet: Internet, http_pool: VendorTransport) -> None:
    assert vendor_transport() is http_pool
    internet.answers["localhost"] = [["127.0.0.1"]]
    response = PAGE_RESPONSE.replace(b"\r\n", b"\r\nSet-Cookie: session=1\r\n", 1)
    with internet.serve(response) as vendor:
        assert [fetch(f"http://localhost:{vendor.port}") for _ in range(2)] == [3, 3]
    assert len(vendor.heads) == 2
    assert not any(b"cookie" in head.lower() for head in vendor.heads)


def fetch(base_url: str) -> int:
    """Return the number of records of a page from the vendor at this base URL."""
    return len(BibliothecaAPI(Account("Main", "rvs", "a", KEY, base_url)).fetch_marc_page(START, END).records)


def test_vendor_is_reached_at_the_address_that_was_checked(
    internet: Internet, http_pool: VendorTransport
) -> None:
    internet.answers["vendor.example"] = [["10.0.0.1"], ["127.0.0.1"]]
    with (
        internet.serve(PAGE_RESPONSE, "10.0.0.1", tls_name="vendor.example") as vendor,
        internet.serve(PAGE_RESPONSE, "127.0.0.1") as attacked,
    ):
        assert fetch("https://vendor.example") == 3
    assert (vendor.names, attacked.connections) == (["vendor.example"], 0)


@pytest.mark.parametrize("address", ["127.0.0.1", "169.254.169.254", "fd00:ec2::254"])
def test_vendor_at_forbidden_address_is_not_reached(
    internet: Internet, http_pool: VendorTransport, address: str
) -> None:
    internet.answers["vendor.example"] = [[address]]
    with internet.serve(PAGE_RESPONSE, address) as attacked:
        with pytest.raises(ConnectionFailed, match=f"not allowed at its address {address}"):
            fetch("https://vendor.example")
        assert attacked.connections == 0


def test_localhost_elsewhere_is_not_reached(internet: Internet, http_pool: VendorTransport) -> None:
    internet.answers["localhost"] = [["10.0.0.1"]]
    with internet.serve(PAGE_RESPONSE, "10.0.0.1") as attacked:
        with pytest.raises(ConnectionFailed, match=r"not allowed at its address 10\.0"):
            fetch("http://localhost:1")
        assert attacked.connections == 0


@pytest.mark.parametrize("variable", ["HTTPS_PROXY", "ALL_PROXY"])
def test_proxy_of_environment_resolves_the_vendor(
    internet: Internet, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    with internet.serve(b"HTTP/1.1 403 Forbidden\r\n\r\n") as proxy:
        monkeypatch.setenv(variable, f"127.0.0.1:{proxy.port}")
        with httpx.Client(transport=VendorTransport()) as client, pytest.raises(httpx.ProxyError):
            client.get("https://vendor.example/")
    assert proxy.heads[0].startswith(b"CONNECT vendor.example:443 ")
    assert internet.resolved == []


def test_vendor_in_no_proxy_is_checked(internet: Internet, monkeypatch: pytest.MonkeyPatch) -> None:
    internet.answers["vendor.example"] = [["127.0.0.1"]]
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("NO_PROXY", "example")
    with (
        httpx.Client(transport=VendorTransport()) as client,
        pytest.raises(httpx.ConnectError, match="not allowed"),
    ):
        client.get("https://vendor.example/")


def test_forked_process_has_its_own_pool() -> None:
    script = (
        "import os\n"
        "from accession.bibliotheca.connection_pool import vendor_transport\n"
        "parent = vendor_transport()\n"
        "pid = os.fork()\n"
        "if pid == 0: os._exit(vendor_transport() is parent)\n"
        "raise SystemExit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))"
    )

    assert subprocess.run([sys.executable, "-c", script], check=False, timeout=60).returncode == 0
