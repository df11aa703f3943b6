"""Only loopback names and addresses count as this machine."""

import pytest

from accession.core.loopback import is_loopback


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST", "127.0.0.1", "127.8.9.1", "::1"])
def test_loopback_host_is_recognised(host: str) -> None:
    assert is_loopback(host)


@pytest.mark.parametrize(
    "host",
    ["", "0.0.0.0", "::", "10.0.0.1", "localhost.example", "127.0.0.1.example"],  # noqa: S104
)
def test_other_host_is_not_loopback(host: str) -> None:
    assert not is_loopback(host)
