"""HTTP requests to hosts whose names come from data or from a form (protection against SSRF).

A name is resolved once for each connection, which is made to an address that was checked. Resolving it a
second time could lead elsewhere (DNS rebinding). Redirects are requests of their own and checked again.
"""

import math
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from ssl import SSLContext
from typing import Any

import httpcore
import httpx

from accession.core.loopback import is_loopback

IPAddress = IPv4Address | IPv6Address

_MAX_ATTEMPTS = 4
_KEEPALIVE_SECONDS = 5.0
_MAX_CONNECTIONS = 100

# Networks of organisations, which may have servers of their own there. 100.64.0.0/10 is used by VPNs.
_PRIVATE_NETWORKS = tuple(
    ip_network(network)
    for network in ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "fc00::/7")
)
# Services of cloud providers for their machines, which hand out credentials. They do not count as
# link-local: Azure; Alibaba; Oracle with the other IETF assignments; AWS and Google over IPv6.
_METADATA_NETWORKS = tuple(
    ip_network(network)
    for network in (
        "168.63.129.16/32",
        "100.100.100.200/32",
        "192.0.0.0/24",
        "fd00:ec2::/32",
        "fd20:ce::254/128",
    )
)
_NAT64_NETWORK = IPv6Network("64:ff9b::/96")


class CheckedTransport(httpx.HTTPTransport):
    """Transport that connects directly, and only to addresses that are allowed for the host.

    Host header, TLS server name and certificate are those of the host. A request to a host with an address
    that is not allowed fails with `httpx.ConnectError`.
    """

    def __init__(
        self, is_allowed: Callable[[str, IPAddress], bool], *, lifetime_seconds: float = math.inf
    ) -> None:
        """Create a connection pool.

        Args:
            is_allowed: called with the host and each of its addresses.
            lifetime_seconds: how long a connection may last, even if the server keeps sending.
        """
        ssl_context = httpx.create_ssl_context()
        super().__init__(verify=ssl_context)
        # httpx has no parameter for the network backend of its pool.
        self._pool = httpcore.ConnectionPool(
            ssl_context=ssl_context,
            max_connections=_MAX_CONNECTIONS,
            keepalive_expiry=_KEEPALIVE_SECONDS,
            network_backend=_CheckedBackend(is_allowed, lifetime_seconds),
        )


class _CheckedBackend(httpcore.SyncBackend):
    def __init__(self, is_allowed: Callable[[str, IPAddress], bool], lifetime_seconds: float) -> None:
        self._is_allowed = is_allowed
        self._lifetime_seconds = lifetime_seconds

    def connect_tcp(self, host: str, port: int, *args: Any, **options: Any) -> httpcore.NetworkStream:
        addresses = _resolve(host, port)
        for address in addresses:
            if not self._is_allowed(host, address):
                raise httpcore.ConnectError(f"requests to {host} are not allowed at its address {address}")
        *alternatives, last = addresses[:_MAX_ATTEMPTS]
        for address in alternatives:
            with suppress(httpcore.ConnectError, httpcore.ConnectTimeout):
                return self._connect(address, port, *args, **options)
        return self._connect(last, port, *args, **options)

    def _connect(self, address: IPAddress, port: int, *args: Any, **options: Any) -> httpcore.NetworkStream:
        stream = super().connect_tcp(str(address), port, *args, **options)
        if math.isinf(self._lifetime_seconds):
            return stream
        return _LimitedStream(stream, time.monotonic() + self._lifetime_seconds)


class _LimitedStream(httpcore.NetworkStream):
    """Connection on which nothing can be read or written after a time (monotonic, in seconds)."""

    def __init__(self, stream: httpcore.NetworkStream, ends_at: float) -> None:
        self._stream = stream
        self._ends_at = ends_at

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._stream.read(max_bytes, self._remaining(timeout, httpcore.ReadTimeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._stream.write(buffer, self._remaining(timeout, httpcore.WriteTimeout))

    def start_tls(
        self, ssl_context: SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        remaining = self._remaining(timeout, httpcore.ConnectTimeout)
        return _LimitedStream(self._stream.start_tls(ssl_context, server_hostname, remaining), self._ends_at)

    def close(self) -> None:
        self._stream.close()

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)

    def _remaining(self, timeout: float | None, error: type[Exception]) -> float:
        remaining = self._ends_at - time.monotonic()
        if remaining <= 0:
            raise error("the server took too long")
        return remaining if timeout is None else min(timeout, remaining)


def limited_body(response: httpx.Response, max_bytes: int) -> Iterator[bytes]:
    """Yield the body of a streamed response in chunks, until it ends or has exceeded the limit."""
    size = 0
    for chunk in response.iter_raw():
        yield chunk
        size += len(chunk)
        if size > max_bytes:
            return


def is_public_address(_host: str, address: IPAddress) -> bool:
    """Return whether the address belongs to the internet, for hosts that other parties name."""
    address = _unwrap(address)
    is_special = address.is_multicast or address.is_reserved or _is_in(address, _METADATA_NETWORKS)
    is_site_local = isinstance(address, IPv6Address) and address.is_site_local
    return address.is_global and not is_special and not is_site_local


def is_allowed_for_operators(host: str, address: IPAddress) -> bool:
    """Return whether operators may name the host if this is its address.

    This may be an address of the internet or of a private network, and for a loopback host one of this
    machine. Addresses of the link, multicast and cloud metadata are not allowed.
    """
    if is_loopback(host):
        return _unwrap(address).is_loopback
    is_private = _is_in(_unwrap(address), _PRIVATE_NETWORKS) and not _is_in(address, _METADATA_NETWORKS)
    return is_private or is_public_address(host, address)


def _resolve(host: str, port: int) -> list[IPAddress]:
    try:
        answers = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise httpcore.ConnectError(str(error)) from error
    return [ip_address(answer[4][0]) for answer in answers]


def _unwrap(address: IPAddress) -> IPAddress:
    """Return the IPv4 address to which an IPv6 address of a transition mechanism leads, if it is one."""
    if isinstance(address, IPv4Address):
        return address
    if address in _NAT64_NETWORK:
        return IPv4Address(int(address) & 0xFFFF_FFFF)
    return address.ipv4_mapped or address.sixtofour or address


def _is_in(address: IPAddress, networks: tuple[IPv4Network | IPv6Network, ...]) -> bool:
    return any(address in network for network in networks)
