"""HTTP connections to the vendor: one pool per process, shared by all collections."""

import os
from functools import cache
from urllib.request import getproxies, proxy_bypass

import httpx

from accession.core.loopback import is_loopback
from accession.core.outgoing_http import CheckedTransport, is_allowed_for_operators

READ_TIMEOUT_SECONDS = 60.0
_CONNECT_TIMEOUT_SECONDS = 10.0


@cache
def vendor_transport() -> "VendorTransport":
    """Return this process's transport."""
    return VendorTransport()


class VendorTransport(httpx.BaseTransport):
    """Transport that sends requests through the proxies of the environment, or else to checked addresses.

    Certificates are taken from the environment too. Requests to this machine never use a proxy. A proxy
    resolves the host itself, and decides which addresses may be reached.

    It is used without an `httpx.Client`, whose handling of cookies and redirects costs CPU time and is not
    needed. One account's cookie must not be sent with another account's request.
    """

    def __init__(self) -> None:
        self._direct = CheckedTransport(is_allowed_for_operators)
        self._proxies = {
            scheme: httpx.HTTPTransport(proxy=url if "://" in url else f"http://{url}")
            for scheme, url in getproxies().items()
            if scheme in ("http", "https", "all")
        }

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request."""
        url = request.url
        proxy = self._proxies.get(url.scheme, self._proxies.get("all"))
        if proxy is None or is_loopback(url.host) or proxy_bypass(url.host):
            return self._direct.handle_request(request)
        return proxy.handle_request(request)

    def close(self) -> None:
        """Close all connections."""
        for transport in (self._direct, *self._proxies.values()):
            transport.close()


# Parent and child would mix up their responses on a connection shared after a fork.
os.register_at_fork(after_in_child=vendor_transport.cache_clear)


def request_timeout(seconds: float) -> httpx.Timeout:
    """Return httpx timeouts for a vendor that may stay silent for this long; connecting gets at most 10 s."""
    return httpx.Timeout(seconds, connect=min(seconds, _CONNECT_TIMEOUT_SECONDS))
