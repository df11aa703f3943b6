"""Free ports of the loopback address, and whether a web server responds at one."""

import secrets
import socket
from contextlib import closing
from http.client import HTTPConnection, HTTPException
from itertools import count

LOOPBACK = "127.0.0.1"
# Below the ephemeral port range of Linux.
_PORTS = range(20_000, 32_768)


def free_port() -> int:
    """Return a free port outside the ephemeral port range."""
    return next(filter(port_is_free, (secrets.choice(_PORTS) for _ in count())))


def port_is_free(port: int) -> bool:
    """Return whether the port is free at this moment."""
    with socket.socket() as probe:
        # As servers do, so that connections in TIME_WAIT do not count.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
        return True


def responds(host: str, port: int) -> bool:
    """Return whether a web server responds to requests at this address."""
    with closing(HTTPConnection(host, port, timeout=1)) as connection:
        try:
            connection.request("GET", "/healthz")
            connection.getresponse()
        except (OSError, HTTPException):
            return False
    return True
