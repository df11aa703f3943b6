"""Channels: added, listed without their URL, re-encrypted, removed."""

import dataclasses

import pytest
from cryptography.fernet import Fernet
from pydantic import SecretStr
from sqlalchemy import select
from sqlalchemy.orm import Session

from accession.accounts.keys import decrypt_channel_url, key_rotation
from accession.core.errors import InvalidInput, NotFound, UserError
from accession.db.engine import transaction
from accession.db.models import Notification, NotificationChannel, NotificationRule
from accession.notifications.channels import (
    add_channel,
    channel_views,
    find_channel,
    get_channel,
    remove_channel,
)
from accession.notifications.delivery import send_test
from tests.fixtures.notifications import PASSWORD_IN_URL, WebhookReceiver, make_channel

URL = SecretStr(f"json://ops:{PASSWORD_IN_URL}@127.0.0.1:9/path")


def test_channel_is_listed_without_its_url(session: Session) -> None:
    channel = add_channel(session, "ops", SecretStr(f"  {URL.get_secret_value()}\n"))
    session.commit()
    (view,) = channel_views(session)
    assert (view.name, view.service, view.rules, view.last_state) == ("ops", "JSON", 0, None)
    assert PASSWORD_IN_URL not in str(dataclasses.asdict(view))
    assert PASSWORD_IN_URL.encode() not in channel.url_encrypted
    assert decrypt_channel_url(channel) == URL


def test_name_in_use_is_rejected(session: Session) -> None:
    add_channel(session, "ops", URL)
    with pytest.raises(UserError, match='"ops" already exists'):
        add_channel(session, "ops", URL)


@pytest.mark.parametrize("name", ["", " ops", "a\nb", "x" * 101])
def test_invalid_name_is_rejected(session: Session, name: str) -> None:
    with pytest.raises(UserError, match="notification channel name"):
        add_channel(session, name, URL)


def test_unsupported_url_adds_no_channel(session: Session) -> None:
    with pytest.raises(InvalidInput):
        add_channel(session, "ops", SecretStr("nosuchservice://x"))
    assert channel_views(session) == []


def test_unknown_channel_is_not_found(session: Session) -> None:
    with pytest.raises(NotFound):
        find_channel(session, "ops")
    with pytest.raises(NotFound):
        get_channel(session, 7)


def test_test_message_is_sent_and_logged(session: Session, webhook: WebhookReceiver) -> None:
    channel = make_channel(session, webhook.url)
    assert send_test(channel.id) is None
    assert webhook.titles == ["Accession: Test"]
    (view,) = channel_views(session)
    assert (view.last_state, view.last_error) == ("sent", None)
    assert view.last_sent_at is not None


def test_failed_test_message_is_explained_and_logged(session: Session, webhook: WebhookReceiver) -> None:
    channel = make_channel(session, webhook.url)
    webhook.status = 500
    error = send_test(channel.id)
    assert error is not None
    assert "status 500" in error
    (view,) = channel_views(session)
    assert (view.last_state, view.last_error) == ("failed", error)


def test_removed_channel_loses_rules_and_keeps_its_log(session: Session, webhook: WebhookReceiver) -> None:
    channel = make_channel(session, webhook.url)
    send_test(channel.id)
    remove_channel(session, channel)
    session.commit()
    assert session.scalars(select(NotificationRule)).all() == []
    (logged,) = session.scalars(select(Notification))
    assert (logged.channel, logged.channel_id) == ("ops", None)


def test_key_rotation_reencrypts_urls(session: Session) -> None:
    channel = make_channel(session, URL.get_secret_value())
    before = channel.url_encrypted
    with key_rotation() as rotation, transaction() as other:
        assert rotation.reencrypt(other).channels == 1
    session.expire_all()
    assert channel.url_encrypted != before
    assert decrypt_channel_url(session.get_one(NotificationChannel, channel.id)) == URL


def test_url_encrypted_with_another_key_is_explained(session: Session) -> None:
    channel = make_channel(session, URL.get_secret_value())
    channel.url_encrypted = Fernet(Fernet.generate_key()).encrypt(URL.get_secret_value().encode())
    session.commit()
    with pytest.raises(UserError, match='URL of notification channel "ops" was encrypted with another key'):
        send_test(channel.id)
