"""Encryption of the connection to the mail server, with certificates of an own authority."""

import ssl
from pathlib import Path

import pytest
from pydantic import SecretStr

from accession.core.smtp_url import parse_smtp_url
from accession.digests.smtp import MailConnection, ServerUnavailable
from tests.fixtures.certificates import Authority
from tests.fixtures.digests import RECIPIENT, SENDER, SMTP_PASSWORD, running_mail_server

LOGIN = f"accession:{SMTP_PASSWORD}@"


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


@pytest.fixture
def tls(authority: Authority) -> ssl.SSLContext:
    """The context of a server with a certificate for localhost."""
    files = authority.issue("localhost")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(files.certificate, files.key)
    return context


@pytest.fixture
def trusted(authority: Authority, monkeypatch: pytest.MonkeyPatch) -> None:
    """This process trusts the authority, as the how-to guide describes."""
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.certificate))


@pytest.fixture(autouse=True)
def server_is_remote(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server on this machine needs no encryption; this one counts as one of another machine."""
    monkeypatch.setattr("accession.core.smtp_url.is_loopback", lambda host: False)


def send(url: str) -> None:
    with MailConnection(parse_smtp_url(SecretStr(url))) as connection:
        assert connection.send(SENDER, RECIPIENT, b"Subject: test\r\n\r\ntext\r\n", lambda: True)


@pytest.mark.parametrize("login", ["", LOGIN])
def test_offered_encryption_is_used(tls: ssl.SSLContext, trusted: None, login: str) -> None:
    with running_mail_server(tls, starttls=True) as server:
        send(f"smtp://{login}localhost:{server.port}")
    assert server.is_encrypted == [True]


def test_connection_is_encrypted_from_the_beginning(tls: ssl.SSLContext, trusted: None) -> None:
    with running_mail_server(tls) as server:
        send(f"smtps://localhost:{server.port}")
    assert server.is_encrypted == [True]


def test_server_without_encryption_gets_mail_without_login() -> None:
    with running_mail_server() as server:
        send(f"smtp://localhost:{server.port}")
    assert server.is_encrypted == [False]


@pytest.mark.parametrize(("scheme", "starttls"), [("smtp", True), ("smtps", False)])
def test_unknown_authority_is_rejected(tls: ssl.SSLContext, scheme: str, starttls: bool) -> None:
    with (
        running_mail_server(tls, starttls=starttls) as server,
        pytest.raises(ServerUnavailable, match="its certificate is not valid"),
    ):
        send(f"{scheme}://localhost:{server.port}")
    assert server.mails == []


def test_certificate_of_another_host_is_rejected(tls: ssl.SSLContext, trusted: None) -> None:
    with (
        running_mail_server(tls) as server,
        pytest.raises(ServerUnavailable, match="its certificate is not valid"),
    ):
        send(f"smtps://127.0.0.1:{server.port}")
