"""Secrets and names of webhooks."""

import pytest
from cryptography.fernet import Fernet
from sqlalchemy.orm import Session

from accession.accounts.keys import decrypt_webhook_secret, key_rotation
from accession.core.errors import UserError
from accession.db.engine import transaction
from accession.db.models import Webhook
from accession.webhooks.registry import WebhookSpec, add_webhook, rotate_secret
from tests.fixtures.webhooks import ACTOR, make_webhook


def test_secret_is_stored_encrypted(session: Session) -> None:
    webhook, secret = add_webhook(session, ACTOR, WebhookSpec("index", "https://index.example"))
    assert secret.get_secret_value().encode() not in webhook.secret_encrypted
    assert decrypt_webhook_secret(webhook) == secret


def test_new_secret_replaces_one_whose_key_is_lost(session: Session) -> None:
    """Otherwise no event could be signed for a day, and no encryption key could be rotated any more."""
    webhook = make_webhook(session)
    webhook.secret_encrypted = Fernet(Fernet.generate_key()).encrypt(b"whsec_")
    session.commit()
    secret = rotate_secret(session, ACTOR, webhook)
    session.commit()
    assert decrypt_webhook_secret(webhook) == secret
    assert (webhook.previous_secret_encrypted, webhook.previous_secret_until) == (None, None)
    with key_rotation() as rotation, transaction() as rotating:
        assert rotation.reencrypt(rotating).webhooks == 1


def test_rotation_stops_at_a_secret_of_another_key(session: Session) -> None:
    make_webhook(session, name="first")
    other = make_webhook(session, name="second")
    other.secret_encrypted = Fernet(Fernet.generate_key()).encrypt(b"whsec_")
    session.commit()
    with (
        pytest.raises(UserError, match='secret of webhook "second" was encrypted with another key'),
        key_rotation() as rotation,
        transaction() as rotating,
    ):
        rotation.reencrypt(rotating)
    session.expire_all()
    decrypt_webhook_secret(session.get_one(Webhook, 1))
