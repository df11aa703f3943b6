"""Decide whether a host is this machine's loopback interface."""

from ipaddress import ip_address


def is_loopback(host: str) -> bool:
    """Return whether `host` (a name, or an IP address without brackets) belongs to this machine only."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"
