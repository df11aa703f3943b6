"""Sending messages with Apprise to receivers on this machine."""

import logging
import socket
from collections.abc import Iterator
from io import StringIO
from pathlib import Path

import pytest
from pydantic import SecretStr

from accession.core.errors import InvalidInput
from accession.core.logging import configure_logging
from accession.core.settings import Settings
from accession.notifications import services
from accession.notifications.messages import TEST_KIND, Message, write_message
from accession.notifications.services import check_url, send
from tests.fixtures.commands import preserved_logging
from tests.fixtures.notifications import PASSWORD_IN_URL, TOKEN_IN_URL, MailReceiver, WebhookReceiver

MESSAGE = Message("Accession: Import failed: Élan <b>, purchases", "Reason: a & b\nSince: today", "failure")


@pytest.fixture
def silent_server() -> Iterator[int]:
    """The port of a server that accepts connections and never responds."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def test_message_arrives_over_http_as_written(webhook: WebhookReceiver) -> None:
    assert send(SecretStr(webhook.url), MESSAGE) is None
    (message,) = webhook.received
    assert (message["title"], message["message"]) == (MESSAGE.title, MESSAGE.body)
    assert message["type"] == "failure"
    assert webhook.paths == [f"/{TOKEN_IN_URL}"]


def test_message_arrives_by_mail_as_written(mail_server: MailReceiver) -> None:
    assert send(SecretStr(mail_server.url), MESSAGE) is None
    (mail,) = mail_server.mails
    assert mail["Subject"] == MESSAGE.title
    assert mail["To"] == "ops@library.example"
    bodies = [part for part in mail.walk() if part.get_content_type() == "text/plain"] or [mail]
    payload = bodies[0].get_payload(decode=True)
    assert isinstance(payload, bytes)
    assert "Reason: a & b" in payload.decode()


def test_service_names_are_known_for_common_services() -> None:
    urls = {
        "slack://T1JJ3T3L2/A1BRTD4JD/TIiajkdnlazkcOXrIdevi7FQ": "Slack",
        "mailtos://user:password@mail.example?to=a@b.example": "E-Mail",
        "matrixs://user:password@matrix.example/!room": "Matrix",
        "pagerduty://A1BRTD4JD@TIiajkdnlazkcOXrIdevi7F": "Pager Duty",
    }
    assert {url: check_url(SecretStr(url)) for url in urls} == urls


@pytest.mark.parametrize(
    "url", ["", "hello", "nosuchservice://host", "json://", "slack://short", "json://h\nost", "x" * 3000]
)
def test_unsupported_url_is_rejected_without_quoting_it(url: str) -> None:
    with pytest.raises(InvalidInput, match="not one that Apprise supports") as error:
        check_url(SecretStr(url))
    assert len(url) < 6 or url not in str(error.value)


def test_url_that_names_a_file_is_rejected(tmp_path: Path) -> None:
    """An operator of the dashboard must not read files of the server through a channel."""
    secret = tmp_path / "secret.key"
    secret.write_text('{"text": "key"}')
    slack = "slack://T1JJ3T3L2/A1BRTD4JD/TIiajkdnlazkcOXrIdevi7FQ"
    check_url(SecretStr(slack))
    for parameter in (secret, f"file://{secret}", "http://127.0.0.1/template"):
        with pytest.raises(InvalidInput):
            check_url(SecretStr(f"{slack}?template={parameter}"))


def test_redirect_is_not_followed(webhook: WebhookReceiver) -> None:
    webhook.status, webhook.location = 307, f"http://127.0.0.1:{webhook.port}/elsewhere"
    assert send(SecretStr(f"{webhook.url}?redirect=yes"), MESSAGE) is not None
    assert len(webhook.paths) == 1


def test_rejected_message_is_explained_by_the_status(webhook: WebhookReceiver) -> None:
    webhook.status = 403
    error = send(SecretStr(webhook.url), MESSAGE)
    assert error == (
        "The message could not be sent to JSON, because it responded with status 403: "
        "check the URL of the channel and the service."
    )


def test_refused_connection_is_explained() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    for url in (f"json://127.0.0.1:{port}/x", f"mailto://127.0.0.1:{port}?from=a@b.example&to=c@d.example"):
        error = send(SecretStr(url), MESSAGE)
        assert error is not None
        assert "because its server refuses the connection" in error


def test_silent_server_is_given_up(silent_server: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(services, "_SOCKET_SECONDS", 0.2)
    error = send(SecretStr(f"json://127.0.0.1:{silent_server}/x?rto=600"), MESSAGE)
    assert error is not None
    assert "because its server does not respond in time" in error


def test_server_that_is_too_slow_is_given_up(silent_server: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Apprise stops waiting even if the timeouts of single reads have not expired."""
    monkeypatch.setattr(services, "_SOCKET_SECONDS", 2.0)
    monkeypatch.setattr(services, "_SEND_SECONDS", 0.2)
    error = send(SecretStr(f"json://127.0.0.1:{silent_server}/x"), MESSAGE)
    assert error is not None
    assert "because its server does not respond in time" in error


def test_secrets_of_the_url_are_neither_logged_nor_reported(webhook: WebhookReceiver) -> None:
    """Log as a process that is started with --debug."""
    log = StringIO()
    with preserved_logging():
        configure_logging(Settings(log_level="debug"))
        logging.getLogger().handlers[:] = [logging.StreamHandler(log)]
        logging.getLogger("urllib3").debug("This would be a URL.")
        logging.getLogger("accession").debug("logged")
        errors = [send(SecretStr(webhook.url), write_message(TEST_KIND, ()))]
        webhook.status = 500
        errors.append(send(SecretStr(webhook.url), MESSAGE))
        errors.append(send(SecretStr(f"json://ops:{PASSWORD_IN_URL}@127.0.0.1:1/{TOKEN_IN_URL}"), MESSAGE))
    assert errors[0] is None
    assert len(errors) == 3
    assert log.getvalue() == "logged\n"
    for secret in (PASSWORD_IN_URL, TOKEN_IN_URL):
        assert secret not in str(errors)
