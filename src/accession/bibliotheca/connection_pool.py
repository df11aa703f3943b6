"""HTTP connections to the vendor: one pool per process, shared by all collections."""

import os
from functools import cache
from http.cookiejar import CookieJar, DefaultCookiePolicy

import httpx

from accession import __version__

READ_TIMEOUT_SECONDS = 60.0
_CONNECT_TIMEOUT_SECONDS = 10.0


@cache
def http_client() -> httpx.Client:
    """Return this process's HTTP client.

    Proxies and certificates are taken from the environment, but requests to this machine never use a proxy.
    Cookies are not stored: one account's cookie must not be sent with another account's request.
    """
    return httpx.Client(
        timeout=request_timeout(READ_TIMEOUT_SECONDS),
        follow_redirects=False,
        cookies=CookieJar(DefaultCookiePolicy(allowed_domains=())),
        headers={"User-Agent": f"accession/{__version__}"},
        mounts={f"all://{host}": None for host in ("localhost", "127.0.0.1", "[::1]")},
    )


# Parent and child would mix up their responses on a connection shared after a fork.
os.register_at_fork(after_in_child=http_client.cache_clear)


def request_timeout(seconds: float) -> httpx.Timeout:
    """Return httpx timeouts for a vendor that may stay silent for this long; connecting gets at most 10 s."""
    return httpx.Timeout(seconds, connect=min(seconds, _CONNECT_TIMEOUT_SECONDS))
