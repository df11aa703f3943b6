"""Requests to hosts that others name reach only the addresses that were checked."""

import threading
from collections.abc import Iterator
from ipaddress import ip_address

import httpx
import pytest

from accession.core.outgoing_http import CheckedTransport, is_allowed_for_operators, is_public_address
from tests.fixtures.bibliotheca import socket_vendor
from tests.fixtures.internet import Internet, internet

__all__ = ["internet"]

RESPONSE = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"

PUBLIC = ["8.8.8.8", "2606:4700::1111", "64:ff9b::8.8.8.8", "2002:808:808::1", "::ffff:8.8.8.8"]
PRIVATE = [
    "10.1.2.3",
    "172.31.0.1",
    "192.168.1.1",
    "100.64.0.1",
    "fd12::1",
    "::ffff:10.0.0.1",
    "64:ff9b::10.0.0.1",
]
LOOPBACK = ["127.0.0.1", "127.8.9.1", "::1", "::ffff:127.0.0.1", "64:ff9b::127.0.0.1", "2002:7f00:1::"]
METADATA = [
    "169.254.169.254",
    "::ffff:169.254.169.254",
    "64:ff9b::169.254.169.254",
    "168.63.129.16",
    "100.100.100.200",
    "192.0.0.192",
    "fd00:ec2::254",
    "fd20:ce::254",
]
SPECIAL = [
    "0.0.0.0",  # noqa: S104
    "::",
    "fe80::1",
    "fe80::1%1",
    "fec0::1",
    "224.0.0.1",
    "239.1.1.1",
    "ff02::1",
    "ff0e::1",
    "240.0.0.1",
    "255.255.255.255",
    "198.18.0.1",
    "64:ff9b:1::1",
    "2001::1",
    "::7f00:1",
    "4000::1",
]


@pytest.mark.parametrize("address", PUBLIC)
def test_public_address_is_allowed_for_every_host(address: str) -> None:
    assert is_public_address("a.example", ip_address(address))
    assert is_allowed_for_operators("a.example", ip_address(address))


@pytest.mark.parametrize("address", PRIVATE)
def test_private_address_is_allowed_for_operators_only(address: str) -> None:
    assert not is_public_address("a.example", ip_address(address))
    assert is_allowed_for_operators("a.example", ip_address(address))


@pytest.mark.parametrize("address", LOOPBACK)
def test_loopback_address_is_allowed_for_loopback_host_only(address: str) -> None:
    assert not is_public_address("localhost", ip_address(address))
    assert not is_allowed_for_operators("a.example", ip_address(address))
    assert is_allowed_for_operators("localhost", ip_address(address))


@pytest.mark.parametrize("address", [*METADATA, *SPECIAL])
def test_metadata_and_special_address_is_never_allowed(address: str) -> None:
    for host in ("a.example", "localhost"):
        assert not is_public_address(host, ip_address(address))
        assert not is_allowed_for_operators(host, ip_address(address))


@pytest.mark.parametrize("address", [*PUBLIC, *PRIVATE])
def test_other_address_is_not_allowed_for_localhost(address: str) -> None:
    """Plain HTTP is allowed to this machine only, whatever its hosts file says."""
    assert not is_allowed_for_operators("localhost", ip_address(address))


def get(url: str, *, follow_redirects: bool = False) -> httpx.Response:
    """Send a request to a host that another party has named."""
    with httpx.Client(
        transport=CheckedTransport(is_public_address), follow_redirects=follow_redirects, trust_env=False
    ) as client:
        return client.get(url)


def test_name_is_resolved_once_for_a_connection(internet: Internet) -> None:
    internet.answers["a.example"] = [["8.8.8.8"], ["127.0.0.1"]]
    with internet.serve(RESPONSE, "8.8.8.8") as public, internet.serve(RESPONSE, "127.0.0.1") as attacked:
        assert get("http://a.example:81/path").text == "ok"
    assert (public.connections, attacked.connections) == (1, 0)
    assert b"Host: a.example:81\r\n" in public.heads[0]
    assert internet.resolved == ["a.example"]


@pytest.mark.parametrize("answer", [["127.0.0.1"], ["8.8.8.8", "::1"], ["8.8.8.8", "169.254.169.254"]])
def test_name_with_a_forbidden_address_is_not_connected(internet: Internet, answer: list[str]) -> None:
    internet.answers["a.example"] = [answer]
    with internet.serve(RESPONSE, "127.0.0.1", "::1", "8.8.8.8", "169.254.169.254") as server:
        with pytest.raises(httpx.ConnectError, match=rf"requests to a\.example .* address {answer[-1]}"):
            get("http://a.example/")
        assert server.connections == 0


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "127.1", "2130706433", "0x7f000001", "[::1]", "[::ffff:7f00:1]"]
)
def test_address_in_place_of_a_name_is_checked(internet: Internet, host: str) -> None:
    with internet.serve(RESPONSE, "127.0.0.1", "::1") as server, pytest.raises(httpx.ConnectError):
        get(f"http://{host}:{server.port}/")
    assert server.connections == 0


def test_target_of_redirect_is_checked(internet: Internet) -> None:
    redirect = b"HTTP/1.1 302 Found\r\nLocation: http://b.example/\r\nContent-Length: 0\r\n\r\n"
    internet.answers |= {"a.example": [["8.8.8.8"]], "b.example": [["10.0.0.1"]]}
    with internet.serve(redirect, "8.8.8.8"), internet.serve(RESPONSE, "10.0.0.1") as attacked:
        with pytest.raises(httpx.ConnectError, match=r"address 10\.0"):
            get("http://a.example/", follow_redirects=True)
        assert attacked.connections == 0


def test_next_address_is_tried_if_one_cannot_be_reached(internet: Internet) -> None:
    internet.answers["a.example"] = [["2606:4700::1111", "8.8.4.4", "8.8.8.8"]]
    with internet.serve(RESPONSE, "8.8.8.8"):
        assert get("http://a.example/").text == "ok"


def test_certificate_must_be_that_of_the_name(internet: Internet) -> None:
    internet.answers |= {"a.example": [["8.8.8.8"]], "b.example": [["8.8.8.8"]]}
    with internet.serve(RESPONSE, "8.8.8.8", tls_name="a.example") as server:
        assert get("https://a.example/").text == "ok"
        with pytest.raises(httpx.ConnectError, match=r"b\.example"):
            get("https://b.example/")
    assert server.names == ["a.example", "b.example"]


@pytest.mark.parametrize("host", ["unknown.invalid", "a" * 64 + ".example"])
def test_name_without_address_is_a_connect_error(host: str) -> None:
    with pytest.raises(httpx.ConnectError):
        get(f"http://{host}/")


def test_server_that_sends_slowly_is_given_up() -> None:
    """Each byte arrives within the read timeout, but the head never ends."""
    client_is_done = threading.Event()

    def endless_head() -> Iterator[bytes]:
        yield b"HTTP/1.1 200 OK\r\nX-Slow: "
        while not client_is_done.wait(0.02):
            yield b"a"

    transport = CheckedTransport(is_allowed_for_operators, lifetime_seconds=0.3)
    with socket_vendor(endless_head) as account, httpx.Client(transport=transport, timeout=60) as client:
        with pytest.raises(httpx.ReadTimeout):
            client.get(account.base_url)
        client_is_done.set()
