"""Commands of `accession webhooks`."""

from datetime import timedelta

import pytest
import standardwebhooks
from sqlalchemy.orm import Session

from accession.auth.audit import AuditFilter, audit_entries
from accession.db.engine import transaction
from accession.db.models import Collection, WebhookDelivery
from accession.webhooks.delivery import deliver_events
from tests.fixtures.commands import Cli
from tests.fixtures.factories import store_title
from tests.fixtures.webhooks import Receiver, make_webhook, receiver

__all__ = ["receiver"]


def actions() -> list[tuple[str, str]]:
    """Return what the audit log has, oldest first."""
    with transaction() as session:
        return [
            (entry.action, entry.subject)
            for entry in reversed(audit_entries(session, AuditFilter(action="webhook"), limit=100))
        ]


def test_webhook_is_added_tested_listed_and_removed(cli: Cli, database: None, receiver: Receiver) -> None:
    added = cli("webhooks", "add", "index", receiver.url)
    assert added.stderr == 'Added the webhook "index". Its secret is not shown again:\n'
    secret = added.stdout.strip()
    assert cli("webhooks", "test", "index").stdout == 'Sent a test event to the webhook "index".\n'
    (event,) = receiver.received
    assert standardwebhooks.Webhook(secret).verify(event.body, event.headers)["type"] == "webhook.test"
    (webhook,) = cli("webhooks", "list", "--json").json
    assert (webhook["name"], webhook["url"], webhook["collections"]) == ("index", receiver.url, [])
    listed = cli("webhooks", "list").stdout
    assert "title.added; title.changed; title.removed; run.finished" in listed
    assert "active" in listed
    assert secret not in listed + cli("--debug", "webhooks", "list", "--json").stdout
    assert cli("webhooks", "remove", "index").stdout == 'Removed the webhook "index".\n'
    assert cli("webhooks", "list").stdout.startswith("No webhooks. Add one with:")
    assert actions() == [("webhook.add", "index"), ("webhook.test", "index"), ("webhook.remove", "index")]


def test_update_changes_what_is_given(cli: Cli, session: Session, collection: Collection) -> None:
    make_webhook(session)
    updated = cli("webhooks", "update", "index", "--event", "title.removed", "--collection", collection.name)
    assert updated.stdout == 'Changed the webhook "index".\n'
    (webhook,) = cli("webhooks", "list", "--json").json
    assert webhook["url"] == "http://127.0.0.1:9/events"
    assert (webhook["events"], webhook["collections"]) == (["title.removed"], ["Alder Library"])
    cli("webhooks", "update", "index", "--rename", "search", "--all-collections")
    cli("webhooks", "update", "search", "--url", "https://search.example/events")
    (webhook,) = cli("webhooks", "list", "--json").json
    assert (webhook["name"], webhook["url"]) == ("search", "https://search.example/events")
    assert (webhook["events"], webhook["collections"]) == (["title.removed"], [])
    both = cli("webhooks", "update", "search", "--all-collections", "--collection", collection.name)
    assert both.exit_code == 2


@pytest.mark.parametrize(
    "command",
    [
        ("update", "x"),
        ("remove", "x"),
        ("pause", "x"),
        ("resume", "x"),
        ("test", "x"),
        ("rotate-secret", "x"),
    ],
)
def test_unknown_webhook_is_explained(cli: Cli, database: None, command: tuple[str, ...]) -> None:
    assert cli("webhooks", *command).error == 'No webhook is named "x": see `accession webhooks list`.'


def test_webhook_is_paused_and_resumed(cli: Cli, session: Session) -> None:
    make_webhook(session)
    paused = cli("webhooks", "pause", "index", "--reason", "maintenance")
    assert paused.stdout == 'Paused the webhook "index".\n'
    assert "maintenance" in cli("webhooks", "list").stdout
    assert cli("webhooks", "resume", "index").stdout == 'Resumed the webhook "index".\n'
    assert not cli("webhooks", "list", "--json").json[0]["is_paused"]


def test_secret_is_rotated(cli: Cli, database: None, receiver: Receiver) -> None:
    old = cli("webhooks", "add", "index", receiver.url).stdout.strip()
    new = cli("webhooks", "rotate-secret", "index").stdout.strip()
    assert new != old
    cli("webhooks", "test", "index")
    (event,) = receiver.received
    for secret in (old, new):
        standardwebhooks.Webhook(secret).verify(event.body, event.headers)


def test_failed_test_fails_the_command(cli: Cli, session: Session, receiver: Receiver) -> None:
    make_webhook(session, receiver.url)
    receiver.status = 500
    assert cli("webhooks", "test", "index").error == (
        'The test event was not accepted by the webhook "index": The receiver responded with status 500.'
    )


def test_deliveries_are_shown_skipped_and_replayed(
    cli: Cli, session: Session, collection: Collection, receiver: Receiver
) -> None:
    make_webhook(session, receiver.url)
    store_title(session, collection, "solaris")
    receiver.status = 500
    deliver_events(1)
    table = cli("webhooks", "deliveries", "index").stdout
    assert "The receiver responded with status 500." in table
    assert cli("webhooks", "skip", "1").stdout == "Skipped delivery 1.\n"
    assert "cannot be skipped, because it is skipped" in cli("webhooks", "skip", "1").error
    assert cli("webhooks", "replay", "--delivery", "1").stdout == "1 event will be sent again.\n"
    receiver.status = 200
    assert deliver_events(1) == 1
    (delivery,) = cli("webhooks", "deliveries", "--state", "delivered", "--json").json
    assert (delivery["event"], delivery["collection"]) == ("title.added", "Alder Library")
    assert delivery["body"] == receiver.received[0].body
    assert cli("webhooks", "deliveries", "--event", "run.finished").stdout == "No deliveries.\n"


def test_period_is_replayed(cli: Cli, session: Session, collection: Collection, receiver: Receiver) -> None:
    make_webhook(session, receiver.url)
    for name in "ab":
        store_title(session, collection, name)
    deliver_events(1)
    session.get_one(WebhookDelivery, 1).created_at -= timedelta(days=7)
    session.commit()
    replayed = cli("webhooks", "replay", "index", "--since", "8d", "--until", "6d")
    assert replayed.stdout == "1 event will be sent again.\n"
    assert deliver_events(1) == 1
    assert receiver.titles == ["a", "b", "a"]
    for wrong in (("replay",), ("replay", "index"), ("replay", "index", "--delivery", "1")):
        assert cli("webhooks", *wrong).exit_code == 2


def test_key_rotation_reencrypts_both_secrets(cli: Cli, session: Session, receiver: Receiver) -> None:
    old = cli("webhooks", "add", "index", receiver.url).stdout.strip()
    new = cli("webhooks", "rotate-secret", "index").stdout.strip()
    rotated = cli("collections", "rotate-key").stdout
    assert rotated.startswith("Re-encrypted 0 account keys and 1 webhook with the new key")
    assert cli("webhooks", "test", "index").exit_code == 0
    for secret in (old, new):
        standardwebhooks.Webhook(secret).verify(receiver.received[0].body, receiver.received[0].headers)
