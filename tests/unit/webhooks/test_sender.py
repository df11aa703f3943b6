"""URLs of webhooks."""

import pytest

from accession.core.errors import InvalidInput
from accession.webhooks.sender import MAX_URL_LENGTH, check_url


@pytest.mark.parametrize(
    "url",
    [
        "https://index.library.example/events",
        "http://localhost:8080",
        "http://10.0.0.7/hook?token=abc",
        "https://[2001:db8::1]/",
    ],
)
def test_url_of_http_is_accepted(url: str) -> None:
    assert check_url(f" {url}\n") == url


@pytest.mark.parametrize(
    "url",
    [
        *("", "index.library.example", "ftp://index.library.example", "file:///etc/passwd", "https://"),
        *(
            "https://[::1",
            "https://index\0.example",
            "https://ann@index.example",
            "https://:pw@index.example",
        ),
        *("https://index.example/#top", "https://index.example/" + "x" * MAX_URL_LENGTH),
    ],
)
def test_other_url_is_rejected(url: str) -> None:
    with pytest.raises(InvalidInput, match="The URL of the webhook"):
        check_url(url)
