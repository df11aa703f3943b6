"""Commands of `accession notifications`."""

from pathlib import Path

import pytest
from sqlalchemy.orm import Session

from accession.auth.audit import AuditFilter, audit_entries
from accession.db.engine import transaction
from accession.db.models import Collection
from tests.fixtures.commands import Cli
from tests.fixtures.notifications import PASSWORD_IN_URL, TOKEN_IN_URL, WebhookReceiver, webhook

__all__ = ["webhook"]


def actions() -> list[tuple[str, str]]:
    """Return what the audit log has, oldest first."""
    with transaction() as session:
        return [
            (entry.action, entry.subject)
            for entry in reversed(audit_entries(session, AuditFilter(), limit=100))
        ]


def test_channel_is_added_tested_listed_and_removed(
    cli: Cli, database: None, webhook: WebhookReceiver
) -> None:
    added = cli("notifications", "add", "ops", typed=f"{webhook.url}\n")
    assert added.exit_code == 0
    assert 'Added "ops" (JSON). Next: accession notifications test "ops"' in added.stdout
    tested = cli("notifications", "test", "ops")
    assert tested.stdout == "Sent a test message to JSON.\n"
    assert webhook.titles == ["Accession: Test"]
    (channel,) = cli("notifications", "list", "--json").json
    assert (channel["name"], channel["rules"], channel["last_state"]) == ("ops", 1, "sent")
    (rule,) = cli("notifications", "rules", "list", "--json").json
    assert (rule["name"], rule["channel"], rule["events"]) == ("ops", "ops", [])
    (message,) = cli("notifications", "log", "--json").json
    assert (message["kind"], message["state"], message["tries"]) == ("test", "sent", 1)
    output = added.stdout + added.stderr + cli("--debug", "notifications", "list", "--json").stdout
    for secret in (PASSWORD_IN_URL, TOKEN_IN_URL):
        assert secret not in output
    assert cli("notifications", "remove", "ops").stdout == 'Removed the channel "ops".\n'
    assert cli("notifications", "list").stdout.startswith("No channels. Add one with:")
    assert cli("notifications", "rules", "list").stdout.startswith("No rules.")
    assert actions() == [
        ("notification_channel.add", "ops"),
        ("notification_channel.test", "ops"),
        ("notification_channel.remove", "ops"),
    ]


def test_url_is_read_from_the_environment(
    cli: Cli, database: None, webhook: WebhookReceiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ACCESSION_NOTIFICATION_URL", webhook.url)
    assert cli("notifications", "add", "ops", "--without-rule").exit_code == 0
    assert cli("notifications", "rules", "list", "--json").json == []


def test_unsupported_url_is_rejected(cli: Cli, database: None) -> None:
    result = cli("notifications", "add", "ops", typed="nosuchservice://secret\n")
    assert result.exit_code == 1
    assert "not one that Apprise supports" in result.stderr
    assert "secret" not in result.stderr


def test_failed_test_message_fails_the_command(cli: Cli, database: None, webhook: WebhookReceiver) -> None:
    cli("notifications", "add", "ops", typed=f"{webhook.url}\n")
    webhook.status = 500
    error = cli("notifications", "test", "ops").error
    assert "could not be sent to JSON, because it responded with status 500" in error
    (message,) = cli("notifications", "log", "--state", "failed", "--channel", "ops", "--json").json
    assert message["error"] == error
    assert cli("notifications", "log", "--state", "sent").stdout == "No messages.\n"


def test_rule_is_added_replaced_and_removed(
    cli: Cli, session: Session, collection: Collection, webhook: WebhookReceiver
) -> None:
    cli("notifications", "add", "ops", "--without-rule", typed=f"{webhook.url}\n")
    rules = ("notifications", "rules")
    options = (
        *("--event", "run_failed", "--event", "recovered", "--collection", collection.name),
        *("--min-severity", "error", "--quiet-hours", "22:00-07:00", "--time-zone", "Europe/Berlin"),
        *("--critical-waits", "--still-failing-hours", "12", "--rejected-records", "5"),
    )
    assert cli(*rules, "add", "night", "--channel", "ops", *options).stdout == 'Added the rule "night".\n'
    (rule,) = cli(*rules, "list", "--json").json
    assert rule == {
        "id": 1,
        "name": "night",
        "channel": "ops",
        "events": ["run_failed", "recovered"],
        "collections": ["Alder Library"],
        "min_severity": "error",
        "quiet_hours": "22:00-07:00",
        "time_zone": "Europe/Berlin",
        "critical_ignores_quiet_hours": False,
        "still_failing_hours": 12,
        "no_success_hours": 26,
        "rejected_records": 5,
        "disk_free_percent": 10,
    }
    assert "22:00-07:00 Europe/Berlin" in cli(*rules, "list").stdout
    assert "already exists" in cli(*rules, "add", "night", "--channel", "ops").error
    replaced = cli(*rules, "add", "night", "--channel", "ops", "--replace")
    assert replaced.stdout == 'Replaced the rule "night".\n'
    assert cli(*rules, "list", "--json").json[0]["events"] == []
    assert cli(*rules, "remove", "night").stdout == 'Removed the rule "night".\n'
    assert "No notification rule is named" in cli(*rules, "remove", "night").error
    assert actions()[1:] == [
        ("notification_rule.add", "night"),
        ("notification_rule.edit", "night"),
        ("notification_rule.remove", "night"),
    ]


def test_unknown_channel_is_explained(cli: Cli, database: None) -> None:
    for arguments in (("test", "ops"), ("remove", "ops"), ("rules", "add", "x", "--channel", "ops")):
        assert 'No notification channel is named "ops"' in cli("notifications", *arguments).error


def test_key_rotation_counts_channels(cli: Cli, home: Path, database: None, webhook: WebhookReceiver) -> None:
    cli("notifications", "add", "ops", typed=f"{webhook.url}\n")
    rotated = cli("collections", "rotate-key")
    assert rotated.stdout.startswith(
        "Re-encrypted 0 account keys and 1 notification channel with the new key"
    )
    assert cli("notifications", "test", "ops").exit_code == 0
    assert webhook.titles == ["Accession: Test"]
