"""URLs of an OpenID Connect provider."""

import pytest

from accession.core.provider_url import is_provider_url


@pytest.mark.parametrize(
    ("url", "is_valid"),
    [
        ("https://login.example", True),
        ("https://login.example:8443/realms/staff/", True),
        ("https://login.example/token?api-version=2", True),
        ("http://127.0.0.1:8080", True),
        ("http://[::1]:8080/", True),
        ("http://localhost/realm", True),
        ("http://login.example", False),
        ("http://127.0.0.1.evil.example", False),
        ("https://user:password@login.example", False),
        ("https://login.example/#top", False),
        ("https://login.example:port", False),
        ("https://[login", False),
        ("https:///realm", False),
        ("https://login.example/a b", False),
        ("https://logín.example", False),
        ("file:///etc/passwd", False),
        ("", False),
    ],
)
def test_provider_url_is_https_or_loopback(url: str, is_valid: bool) -> None:
    assert is_provider_url(url) == is_valid
