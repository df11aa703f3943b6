"""URLs of mail servers, and email addresses."""

import pytest
from pydantic import SecretStr

from accession.core.email_address import is_email_address
from accession.core.smtp_url import parse_smtp_url


@pytest.mark.parametrize(
    ("url", "host", "port", "is_tls", "user", "password"),
    [
        ("smtp://localhost", "localhost", 25, False, None, ""),
        ("smtp://mail.example:2525/", "mail.example", 2525, False, None, ""),
        ("smtp://ann:secret@mail.example", "mail.example", 587, False, "ann", "secret"),
        ("smtps://mail.example", "mail.example", 465, True, None, ""),
        ("smtps://a%40b.example:p%3Aq%2F@[::1]:1465", "::1", 1465, True, "a@b.example", "p:q/"),
    ],
)
def test_url_of_mail_server_is_parsed(
    url: str, host: str, port: int, is_tls: bool, user: str | None, password: str
) -> None:
    server = parse_smtp_url(SecretStr(url))
    assert (server.host, server.port, server.is_tls, server.user) == (host, port, is_tls, user)
    assert server.password.get_secret_value() == password


@pytest.mark.parametrize(
    "url",
    [
        "mail.example",
        "http://mail.example",
        "smtp://",
        "smtp://:secret@",
        "smtp://mail.example:port",
        "smtp://mail.example:0",
        "smtp://mail.example/path",
        "smtp://mail.example?to=secret",
        "smtp://secret@mail.example",
        "smtp://[::1",
    ],
)
def test_invalid_url_is_rejected_without_quoting_it(url: str) -> None:
    with pytest.raises(ValueError, match="enter it as smtp://host") as error:
        parse_smtp_url(SecretStr(url))
    assert "secret@" not in str(error.value)


def test_server_on_this_machine_is_local() -> None:
    assert parse_smtp_url(SecretStr("smtp://127.0.0.1")).is_local
    assert not parse_smtp_url(SecretStr("smtp://mail.example")).is_local


@pytest.mark.parametrize(
    ("address", "is_valid"),
    [
        ("ann@library.example", True),
        ("ann+digest.x@sub.library.example", True),
        ("ann", False),
        ("ann@localhost", False),
        ("ann@library..example", False),
        ("ann@library.example\n", False),
        ("ann bob@library.example", False),
        ('"ann"@library.example', False),
        ("änn@library.example", False),
        ("x" * 65 + "@library.example", False),
        ("ann@" + "x" * 250 + ".example", False),
    ],
)
def test_email_address_is_checked(address: str, is_valid: bool) -> None:
    assert is_email_address(address) is is_valid
