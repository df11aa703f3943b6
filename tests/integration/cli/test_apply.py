"""Commands `apply` and `collections export`."""

import re
from base64 import b64encode
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from accession.accounts.collections import find_collection, get_account, list_collections
from accession.accounts.keys import (
    decrypt_channel_url,
    decrypt_previous_webhook_secret,
    decrypt_webhook_secret,
)
from accession.accounts.limits import VendorLimits, stored_limits
from accession.auth.audit import AuditFilter, audit_entries
from accession.core.workflow import Workflow
from accession.db.models import AuditEntry, Collection, WebhookEvent
from accession.digests.options import DigestOptions, Frequency, find_options
from accession.notifications.channels import find_channel
from accession.notifications.rules import find_rule
from accession.runs.pauses import list_pauses
from accession.runs.schedules import ScheduleOverride, find_override
from accession.webhooks.registry import find_webhook
from tests.fixtures.commands import Cli, CommandResult, settings
from tests.fixtures.factories import make_collection
from tests.fixtures.notifications import webhook

__all__ = ["webhook"]

ROOT = Path(__file__).parents[3]
KEY = "key-of-the-consortium"
HOOK = "json://ops:hook-password@127.0.0.1/"
SECRET, NEW_SECRET = (f"whsec_{b64encode(letter * 24).decode()}" for letter in (b"a", b"b"))
FILE = """
collections:
  - name: Alder Library
    library_id: county
    account_id: consortium.county
    account_key: {env: COUNTY_KEY}
    limits: {max_concurrency: 2, max_requests_per_second: 5}
    schedules:
      purchases: {cron: "30 2 * * *", time_zone: Europe/Berlin, jitter_minutes: 30}
  - name: Birch Library
    library_id: county
    account_id: consortium.county
    account_key: {env: COUNTY_KEY}
    pauses:
      - reason: building works
        workflows: [events]
        until: 2030-01-01T06:00
notifications:
  channels:
    - name: operators
      url: {env: OPERATORS_URL}
  rules:
    - name: failures
      channel: operators
      events: [run_failed, recovered]
      collections: [Alder Library]
      quiet_hours: 22:00-07:00
      time_zone: Europe/Berlin
webhooks:
  - name: index
    url: http://127.0.0.1:9/events
    secret: {env: INDEX_SECRET}
    events: [title.added, title.removed]
    collections: [Alder Library]
digests:
  - collection: Alder Library
    frequency: daily
    time: "07:30"
    time_zone: Europe/Berlin
    recipients: [ann@library.example]
"""

Apply = Callable[..., CommandResult]


@pytest.fixture
def secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    """Set the environment variables that the file names."""
    monkeypatch.setenv("COUNTY_KEY", KEY)
    monkeypatch.setenv("OPERATORS_URL", HOOK)
    monkeypatch.setenv("INDEX_SECRET", SECRET)


@pytest.fixture
def apply(cli: Cli, home: Path, database: None, broker: None, tmp_path: Path) -> Apply:
    """Apply a text as the file `accession.yaml` (or another one), with further options."""

    def run(text: str, *options: str, file: str = "accession.yaml", typed: str = "") -> CommandResult:
        path = tmp_path / file
        path.write_text(text)
        return cli("apply", "-f", str(path), *options, typed=typed)

    return run


def problems(result: CommandResult) -> list[str]:
    """Return the mistakes that a command has printed, without the folder of the file."""
    assert (result.exit_code, result.stdout) == (1, ""), result
    lines = result.stderr.splitlines()
    assert lines[-1].endswith("so nothing was changed."), lines
    return [re.sub(r"^/\S*/", "", line) for line in lines[:-1]]


def count_entries(session: Session) -> int:
    session.rollback()
    return session.scalar(select(func.count()).select_from(AuditEntry)) or 0


def names(session: Session) -> list[str]:
    session.rollback()
    return [collection.name for collection in list_collections(session)]


def test_file_is_applied_to_an_empty_installation(apply: Apply, session: Session, secrets: None) -> None:
    result = apply(FILE)
    assert (result.exit_code, result.stdout.splitlines()[-1]) == (0, "9 changes made."), result
    alder, birch = find_collection(session, "Alder Library"), find_collection(session, "Birch Library")
    assert get_account(birch).public_fields() == {
        "library_id": "county",
        "account_id": "consortium.county",
        "base_url": "https://partner.yourcloudlibrary.com",
    }
    assert get_account(birch).account_key.get_secret_value() == KEY
    assert stored_limits(alder) == stored_limits(birch) == VendorLimits(2, 5)
    override = ScheduleOverride("30 2 * * *", "Europe/Berlin", 30)
    assert find_override(session, alder, Workflow.PURCHASES) == override
    assert find_override(session, birch, Workflow.PURCHASES) == ScheduleOverride()
    (pause,) = list_pauses(session).items()
    assert pause[0] == (birch.id, "events")
    assert (pause[1].reason, pause[1].until) == ("building works", datetime(2030, 1, 1, 6, tzinfo=UTC))
    channel = find_channel(session, "operators")
    assert decrypt_channel_url(channel).get_secret_value() == HOOK
    rule = find_rule(session, "failures")
    assert (rule.channel, rule.collections, rule.quiet_hours) == (
        "operators",
        ("Alder Library",),
        "22:00-07:00",
    )
    webhook = find_webhook(session, "index")
    assert decrypt_webhook_secret(webhook).get_secret_value() == SECRET
    assert (webhook.url, webhook.events, webhook.collection_ids) == (
        "http://127.0.0.1:9/events",
        ["title.added", "title.removed"],
        [alder.id],
    )
    assert find_options(session, alder) == DigestOptions(
        Frequency.DAILY, time="07:30", time_zone="Europe/Berlin", recipients=("ann@library.example",)
    )
    assert find_options(session, birch) is None
    for secret in (KEY, HOOK, SECRET):
        assert secret not in result.stdout + result.stderr


def test_second_apply_writes_nothing(apply: Apply, session: Session, secrets: None) -> None:
    apply(FILE)
    entries = count_entries(session)
    result = apply(FILE)
    assert (result.exit_code, result.stdout) == (0, "No differences.\n")
    assert count_entries(session) == entries


def test_changes_are_recorded_with_origin_configuration(
    apply: Apply, session: Session, secrets: None
) -> None:
    apply(FILE)
    recorded = audit_entries(session, AuditFilter(), limit=100)[::-1]
    assert [(entry.action, entry.subject) for entry in recorded] == [
        ("collection.add", "Alder Library"),
        ("collection.add", "Birch Library"),
        ("collection.set_limits", "Alder Library"),
        ("collection.set_schedule", "Alder Library"),
        ("collection.pause", "Birch Library"),
        ("notification_channel.add", "operators"),
        ("notification_rule.add", "failures"),
        ("webhook.add", "index"),
        ("digest.set", "Alder Library"),
        ("configuration.apply", ""),
    ]
    assert recorded[-1].details["changes"] == 9
    assert recorded[-1].details["files"][0].endswith("accession.yaml")
    assert {(entry.actor_kind, entry.origin) for entry in recorded} == {("os user", "configuration")}


def test_plan_prints_differences_and_changes_nothing(apply: Apply, session: Session, secrets: None) -> None:
    result = apply(FILE, "--plan")
    assert result.exit_code == 2
    assert result.stdout.splitlines() == [
        'Add collection "Alder Library" (library_id: county; account_id: consortium.county; '
        "base_url: https://partner.yourcloudlibrary.com)",
        'Add collection "Birch Library" (library_id: county; account_id: consortium.county; '
        "base_url: https://partner.yourcloudlibrary.com)",
        'Set request limits of the account of "Alder Library" (max_concurrency: inherited → 2; '
        "max_requests_per_second: inherited → 5)",
        'Change schedule of purchases of "Alder Library" (cron: inherited → 30 2 * * *; '
        "time_zone: inherited → Europe/Berlin; jitter_minutes: inherited → 30)",
        'Pause events of "Birch Library" (reason: building works; until: 2030-01-01 06:00 UTC)',
        'Add notification channel "operators" (service: JSON)',
        'Add notification rule "failures" (channel: operators)',
        'Add webhook "index" (host: 127.0.0.1)',
        'Add digest of "Alder Library" (schedule: At 07:30 every day (Europe/Berlin))',
        "9 differences. Nothing was changed.",
    ]
    assert (names(session), count_entries(session)) == ([], 0)
    apply(FILE)
    assert apply(FILE, "--plan").exit_code == 0


CHANGED_FILE = """
collections:
  - name: Alder Library
    library_id: city
    account_id: consortium.county
    account_key: {env: COUNTY_KEY}
    limits: {max_requests_per_second: 5}
    schedules:
      purchases: {time_zone: Europe/Berlin, jitter_minutes: 30}
  - name: Birch Library
    library_id: city
    account_id: consortium.county
    account_key: {env: COUNTY_KEY}
    pauses: []
notifications:
  rules:
    - name: failures
      channel: operators
      min_severity: error
webhooks:
  - name: index
    url: http://127.0.0.1:9/events?token=url-token
    secret: {env: INDEX_SECRET}
digests:
  - collection: Alder Library
    time_zone: Europe/Berlin
    recipients: [bo@library.example, ann@library.example]
"""


def test_changed_values_are_stored(apply: Apply, session: Session, secrets: None) -> None:
    apply(FILE)
    result = apply(CHANGED_FILE)
    assert result.exit_code == 0, result
    assert 'Resume events of "Birch Library"' in result.stdout
    assert "library_id: county → city" in result.stdout
    assert "events: recovered, run_failed → all" in result.stdout
    alder, birch = find_collection(session, "Alder Library"), find_collection(session, "Birch Library")
    assert (alder.library_id, birch.library_id) == ("city", "city")
    assert stored_limits(alder) == stored_limits(birch) == VendorLimits(None, 5)
    override = ScheduleOverride(None, "Europe/Berlin", 30)
    assert find_override(session, alder, Workflow.PURCHASES) == override
    assert list_pauses(session) == {}
    rule = find_rule(session, "failures")
    assert (rule.events, rule.collections, rule.min_severity) == ((), (), "error")
    assert 'Change webhook "index" (url: replaced; events: title.added, title.removed → ' in result.stdout
    assert "url-token" not in result.stdout
    webhook = find_webhook(session, "index")
    assert webhook.url.endswith("?token=url-token")
    assert (webhook.events, webhook.collection_ids) == (list(WebhookEvent), None)
    assert (
        'Change digest of "Alder Library" (frequency: daily → weekly; time: 07:30 → 07:00; '
        "recipients: ann@library.example → ann@library.example, bo@library.example)"
    ) in result.stdout
    options = find_options(session, alder)
    assert options is not None
    assert options.recipients == ("bo@library.example", "ann@library.example")
    assert apply(CHANGED_FILE, "--plan").stdout == "No differences.\n"


def test_new_account_key_and_url_are_stored(
    apply: Apply, session: Session, secrets: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    apply(FILE)
    monkeypatch.setenv("COUNTY_KEY", "another-key")
    monkeypatch.setenv("OPERATORS_URL", "json://127.0.0.1/another")
    result = apply(FILE)
    assert 'Change collection "Alder Library" (account_key: replaced)' in result.stdout
    assert 'Change notification channel "operators" (url: replaced)' in result.stdout
    assert "another" not in result.stdout + result.stderr
    account = get_account(find_collection(session, "Alder Library"))
    assert account.account_key.get_secret_value() == "another-key"
    url = decrypt_channel_url(find_channel(session, "operators"))
    assert url.get_secret_value() == "json://127.0.0.1/another"
    (entry,) = audit_entries(session, AuditFilter(action="notification_channel.edit"), limit=2)
    assert entry.details == {"url": "replaced"}


def test_new_secret_of_a_webhook_is_valid_beside_the_old(
    apply: Apply, session: Session, secrets: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    apply(FILE)
    monkeypatch.setenv("INDEX_SECRET", NEW_SECRET)
    assert apply(FILE).stdout == 'Replace the secret of webhook "index"\n1 change made.\n'
    webhook = find_webhook(session, "index")
    assert decrypt_webhook_secret(webhook).get_secret_value() == NEW_SECRET
    assert decrypt_previous_webhook_secret(webhook).get_secret_value() == SECRET
    (entry,) = audit_entries(session, AuditFilter(action="webhook.rotate_secret"), limit=2)
    assert (entry.subject, entry.details) == ("index", {})
    assert apply(FILE).stdout == "No differences.\n"


@pytest.mark.parametrize("secret", ["s3cret", "whsec_", "whsec_c2hvcnQ=", "whsec_!", f"x{SECRET}"])
def test_invalid_secret_of_a_webhook_is_a_mistake(
    apply: Apply, session: Session, secrets: None, monkeypatch: pytest.MonkeyPatch, secret: str
) -> None:
    monkeypatch.setenv("INDEX_SECRET", secret)
    (shown,) = problems(apply(FILE))
    assert "The secret of the webhook is invalid: enter whsec_ and 24 to 64 random bytes in Base64" in shown
    assert names(session) == []


def test_mistakes_in_webhooks_and_digests_have_lines(apply: Apply, session: Session, secrets: None) -> None:
    text = """
webhooks:
  - name: index
    url: http://user:s3cret@127.0.0.1/
    secret: whsec_s3cret
    events: []
  - name: other
    url: https://index.example
    secret: {env: NO_SECRET}
    collections: [Cedar Library]
digests:
  - collection: Cedar Library
    recipients: [ann]
  - collection: Cedar Library
    time: 12:30
    max_titles: 0
  - collection: Elm Library
"""
    expected = [
        (4, "The URL of the webhook contains a user, a password or a fragment: leave it out, because"),
        (5, "The value of secret must not be in the file: enter {env: NAME} for an environment"),
        (6, "The value of events is invalid: tuple should have at least 1 item"),
        (9, 'There is no secret of webhook "other": the environment variable NO_SECRET does not'),
        (10, 'No collection is named "Cedar Library": correct the name, or add it.'),
        (12, "The recipient 'ann' is invalid: enter an address as name@library.example."),
        (14, 'The collection "Cedar Library" is there twice.'),
        (15, "The value of time is invalid: it must be text; write texts such as 0123 and no in quotes."),
        (16, "The value of max_titles is invalid: input should be greater than or equal to 1."),
        (17, 'No collection is named "Elm Library": correct the name, or add it.'),
    ]
    result = apply(text)
    shown = problems(result)
    assert len(shown) == len(expected), shown
    for line, (number, message) in zip(shown, expected, strict=True):
        assert line.startswith(f"accession.yaml:{number}: {message}")
    assert "s3cret" not in result.stderr


def test_key_is_read_from_a_file(apply: Apply, session: Session, tmp_path: Path) -> None:
    (tmp_path / "key").write_text(f"{KEY}\n")
    text = FILE.partition("notifications:")[0].replace("env: COUNTY_KEY", f"file: {tmp_path}/key")
    assert apply(text).exit_code == 0
    account = get_account(find_collection(session, "Alder Library"))
    assert account.account_key.get_secret_value() == KEY
    (tmp_path / "key").write_text("\n")
    first, second = problems(apply(text))
    assert first.startswith("accession.yaml:6: The file /")
    assert second.endswith("key is empty: put the secret there, and nothing else.")


def test_all_mistakes_are_listed_with_their_lines(apply: Apply, session: Session, secrets: None) -> None:
    text = """
collections:
  - name: Alder Library
    libary_id: county
    account_id: "has spaces in it"
    account_key: {env: COUNTY_KEY}
    base_url: ftp://vendor.example
    schedules:
      purchases: {cron: every night, jitter: 5}
      weekly: {}
    limits: {max_concurrency: 100}
    account_id: again
  - name: Birch Library
    library_id: 0123
    account_id: county
    account_key: {env: COUNTY_KEY, file: /run/secrets/key}
    pauses: [{reason: " ", until: tomorrow}]
  - name: Birch Library
    library_id: county
    account_id: county
    account_key: {env: NO_KEY}
collectoins: []
notifications:
  channels:
    - name: operators
      url: {env: COUNTY_KEY}
  rules:
    - name: failures
      channel: operator
      collections: [Cedar Library]
      quiet_hours: at night
    - name: disks
      channel: operator
"""
    expected = {
        3: 'The key "library_id" is missing.',
        4: 'The key "libary_id" is unknown: did you mean "library_id"?',
        7: 'The base URL of collection "Alder Library" is invalid: enter it as https://host, without user '
        "name, path or query (plain http:// is allowed for this machine only).",
        9: 'The key "jitter" is unknown: did you mean "jitter_minutes"?',
        10: 'The key "weekly" is unknown: the keys are purchases, events, circulation.',
        11: "The value of max_concurrency is invalid: input should be less than or equal to 32.",
        12: 'The key "account_id" is there twice.',
        14: "The value of library_id is invalid: it must be text; write texts such as 0123 and no in quotes.",
        16: "The value of account_key is invalid: enter either env or file.",
        17: "The value of until is invalid: enter a time such as 2026-12-01T06:00 or 2026-12-01T05:00Z.",
        18: 'The name "Birch Library" is there twice.',
        21: 'There is no account key of "Birch Library": the environment variable NO_KEY does not exist, '
        "or may not be read from here.",
        22: 'The key "collectoins" is unknown: did you mean "collections"?',
        26: "The URL is not one that Apprise supports: enter it in the form that "
        "https://appriseit.com/services/ describes for your service, without names of files.",
        28: "The quiet hours 'at night' are invalid: enter them as 22:00-07:00.",
        33: 'No notification channel is named "operator": correct the name, or add it.',
    }
    shown = [line.removeprefix("accession.yaml:").partition(": ") for line in problems(apply(text))]
    numbers = [int(number) for number, _, _ in shown]
    assert numbers == sorted(numbers)
    assert {int(number): message for number, _, message in shown} == expected
    assert numbers.count(9) == numbers.count(17) == 2
    assert (names(session), count_entries(session)) == ([], 0)


def test_account_key_in_the_file_is_refused(apply: Apply, session: Session) -> None:
    text = FILE.partition("notifications:")[0].replace("{env: COUNTY_KEY}", f'"{KEY}"', 1)
    result = apply(text)
    assert problems(result)[0] == (
        "accession.yaml:6: The value of account_key must not be in the file: enter {env: NAME} for an "
        "environment variable or {file: /path} for a file."
    )
    assert KEY not in result.stdout + result.stderr
    assert names(session) == []


def test_mistake_in_one_entry_changes_nothing(apply: Apply, session: Session, secrets: None) -> None:
    assert apply(FILE.replace("channel: operators", "channel: nobody")).exit_code == 1
    assert (names(session), count_entries(session)) == ([], 0)


def test_toml_is_applied_and_its_mistakes_have_lines(apply: Apply, session: Session, secrets: None) -> None:
    text = """
[[collections]]
name = "Alder Library"
library_id = "county"
account_id = "consortium.county"
account_key = { env = "COUNTY_KEY" }

[collections.schedules.purchases]
cron = "30 2 * * *"

[[collections.pauses]]
reason = "building works"
until = 2030-01-01T06:00:00Z

[[notifications.channels]]
name = "operators"
url.env = "OPERATORS_URL"
"""
    assert apply(text, file="accession.toml").exit_code == 0
    alder = find_collection(session, "Alder Library")
    assert find_override(session, alder, Workflow.PURCHASES).cron == "30 2 * * *"
    assert len(list_pauses(session)) == len(Workflow)
    wrong = text.replace("30 2 * * *", "never").replace("reason", "raeson")
    assert [line.partition(": ")[0] for line in problems(apply(wrong, file="accession.toml"))] == [
        "accession.toml:9",
        "accession.toml:11",
        "accession.toml:12",
    ]
    assert problems(apply("a = = 1", file="accession.toml")) == [
        "accession.toml:1: This is not valid TOML: correct the syntax."
    ]


def test_folder_and_several_files_are_joined(
    cli: Cli, broker: None, database: None, home: Path, secrets: None, session: Session, tmp_path: Path
) -> None:
    collections, notifications = FILE.split("notifications:")
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "collections.yaml").write_text(collections)
    (folder / "notes.txt").write_text("not a configuration")
    (tmp_path / "notifications.yml").write_text(f"notifications:{notifications}")
    result = cli("apply", "-f", str(folder), "-f", str(tmp_path / "notifications.yml"))
    assert (result.exit_code, names(session)) == (0, ["Alder Library", "Birch Library"])


def test_file_is_read_from_standard_input(
    cli: Cli, broker: None, database: None, home: Path, secrets: None, session: Session
) -> None:
    assert cli("apply", "-f", "-", typed=FILE).exit_code == 0
    assert names(session) == ["Alder Library", "Birch Library"]
    result = cli("apply", "-f", "-", "--prune", typed="collections: []")
    assert (result.exit_code, len(names(session))) == (1, 2)
    assert "repeat the command with --yes" in result.stderr


def test_absent_collections_are_kept_and_named(apply: Apply, session: Session, secrets: None) -> None:
    make_collection(session, "Cedar Library")
    result = apply(FILE)
    assert names(session) == ["Alder Library", "Birch Library", "Cedar Library"]
    assert 'kept without pruning: Mark collection "Cedar Library" for deletion.' in result.stderr
    assert apply(FILE, "--plan").exit_code == 0


def test_prune_removes_what_is_absent_after_a_question(apply: Apply, session: Session, secrets: None) -> None:
    apply(FILE)
    text = FILE[: FILE.index("  - name: Birch")] + (
        "notifications: {channels: [], rules: []}\nwebhooks: []\ndigests: []"
    )
    refused = apply(text, "--prune", typed="n\n")
    assert refused.exit_code == 1
    assert refused.stdout.splitlines()[:5] == [
        'Remove notification rule "failures"',
        'Remove notification channel "operators"',
        'Remove webhook "index"',
        'Remove digest of "Alder Library"',
        'Mark collection "Birch Library" for deletion',
    ]
    assert names(session) == ["Alder Library", "Birch Library"]
    assert apply(text, "--prune", typed="y\n").stdout.endswith("5 changes made.\n")
    assert names(session) == ["Alder Library"]
    assert apply(text, "--prune", "--plan").exit_code == 0


def test_prune_with_yes_asks_nothing(apply: Apply, session: Session, collection: Collection) -> None:
    result = apply("collections: []", "--prune", "--yes")
    assert result.stdout == 'Mark collection "Alder Library" for deletion\n1 change made.\n'
    assert names(session) == []


def test_prune_leaves_lists_that_are_not_in_the_file(apply: Apply, session: Session, secrets: None) -> None:
    apply(FILE)
    text = FILE[FILE.index("notifications:") :]
    assert apply(text, "--prune").stdout == "No differences.\n"
    assert len(names(session)) == 2


def test_collection_is_renamed_by_its_previous_name(apply: Apply, session: Session, secrets: None) -> None:
    apply(FILE)
    id_ = find_collection(session, "Alder Library").id
    text = FILE.replace("name: Alder Library", "name: Ash Library\n    previous_name: Alder Library").replace(
        "[Alder Library]", "[Ash Library]"
    )
    text = text.replace("collection: Alder", "collection: Ash")
    assert apply(text).stdout == 'Rename collection "Alder Library" to "Ash Library"\n1 change made.\n'
    session.rollback()
    assert find_collection(session, "Ash Library").id == id_
    assert apply(text).stdout == "No differences.\n"
    assert problems(apply(text.replace("Birch Library", "Alder Library"))) == [
        'accession.yaml:4: The previous name "Alder Library" is the name of a collection in the file: '
        "remove it."
    ]


def test_pauses_that_the_file_leaves_out_stay(
    apply: Apply, cli: Cli, session: Session, secrets: None
) -> None:
    apply(FILE)
    cli("collections", "pause", "Alder Library", "--reason", "emergency")
    assert apply(FILE).stdout == "No differences.\n"
    over = FILE.replace("2030-01-01", "2020-01-01")
    assert 'Resume events of "Birch Library"' in apply(over).stdout
    assert apply(over).stdout == "No differences.\n"


def test_different_limits_of_one_account_are_refused(apply: Apply, session: Session, secrets: None) -> None:
    text = FILE.replace("    pauses:", "    limits: {max_concurrency: 3}\n    pauses:")
    assert problems(apply(text)) == [
        "accession.yaml:14: Another collection with this account has other limits: enter the same."
    ]


def test_limits_move_with_no_collection(apply: Apply, session: Session, secrets: None) -> None:
    apply(FILE)
    moved = FILE.replace("account_id: consortium.county", "account_id: alder.own", 1).replace(
        "    limits: {max_concurrency: 2, max_requests_per_second: 5}\n", ""
    )
    assert apply(moved).exit_code == 0
    alder, birch = find_collection(session, "Alder Library"), find_collection(session, "Birch Library")
    assert stored_limits(alder) == stored_limits(birch) == VendorLimits()
    assert apply(moved).stdout == "No differences.\n"


def test_key_of_a_stored_collection_may_be_missing(
    apply: Apply, session: Session, secrets: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    apply(FILE)
    monkeypatch.delenv("COUNTY_KEY")
    result = apply(FILE)
    assert (result.exit_code, result.stdout) == (0, "No differences.\n")
    assert result.stderr == (
        "Stored secrets are kept, because these are missing or may not be read from here: "
        "the environment variable COUNTY_KEY.\n"
    )


def test_exported_file_has_no_difference(
    apply: Apply, cli: Cli, session: Session, secrets: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    apply(FILE)
    exported = cli("collections", "export")
    assert exported.exit_code == 0
    assert exported.stdout.count("env: ACCOUNT_KEY_ALDER_LIBRARY") == 2
    assert "env: CHANNEL_URL_OPERATORS" in exported.stdout
    assert "env: WEBHOOK_SECRET_INDEX" in exported.stdout
    for secret in (KEY, HOOK, SECRET):
        assert secret not in exported.stdout
    assert apply(exported.stdout, "--plan", "--prune").exit_code == 0
    cli("collections", "remove", "Alder Library", "--yes")
    cli("collections", "remove", "Birch Library", "--yes")
    monkeypatch.setenv("ACCOUNT_KEY_ALDER_LIBRARY", KEY)
    assert apply(exported.stdout).exit_code == 0
    assert cli("collections", "export").stdout == exported.stdout


def test_rule_of_a_removed_collection_gets_the_new_one(
    apply: Apply, cli: Cli, session: Session, secrets: None
) -> None:
    apply(FILE)
    cli("collections", "remove", "Alder Library", "--yes")
    assert "failures" not in cli("collections", "export").stdout
    shown = apply(FILE).stdout
    assert 'Change notification rule "failures" (collections: none that is left → Alder Library)' in shown
    assert apply(FILE).stdout == "No differences.\n"
    assert "failures" in cli("collections", "export").stdout


def test_mistakes_are_listed_without_servers(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "accession.yaml").write_text("collections: [{}]")
    with settings(home=tmp_path / "home"):
        result = cli("apply", "-f", str(tmp_path / "accession.yaml"), "--plan")
        assert len(problems(result)) == 4
        (tmp_path / "accession.yaml").write_text("collections: []")
        assert "is not running" in cli("apply", "-f", str(tmp_path / "accession.yaml")).error


def test_schema_is_printed_without_servers(cli: Cli) -> None:
    schema = cli("apply", "--schema").json
    entry: dict[str, Any] = schema["$defs"]["CollectionEntry"]
    assert entry["required"] == ["name", "library_id", "account_id", "account_key"]
    assert schema["additionalProperties"] is False


@pytest.mark.parametrize("language", ["yaml", "toml"])
def test_example_of_the_documentation_is_applied(
    apply: Apply, cli: Cli, session: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, language: str
) -> None:
    (tmp_path / "url").write_text(HOOK)
    (tmp_path / "secret").write_text(SECRET)
    monkeypatch.setenv("COUNTY_ACCOUNT_KEY", KEY)
    page = (ROOT / "docs" / "how-to" / "configuration-as-code.md").read_text()
    example = page.partition(f"```{language}\n")[2].partition("```")[0]
    text = example.replace("/run/secrets/operators_url", str(tmp_path / "url"))
    text = text.replace("/run/secrets/index_secret", str(tmp_path / "secret"))
    applied = apply(text, file=f"example.{language}")
    assert applied.stdout.endswith("11 changes made.\n"), applied
    assert apply(text, "--plan", "--prune", file=f"example.{language}").stdout == "No differences.\n"
    assert names(session) == ["Alder Library", "Birch Library", "Cedar Library"]
    assert {stored_limits(each) for each in list_collections(session)} == {VendorLimits(2, 5)}
    other = page.partition("```yaml\n")[2].partition("```")[0]
    monkeypatch.delenv("COUNTY_ACCOUNT_KEY")
    assert apply(other, "--plan", "--prune").exit_code == 0


def test_plan_of_the_documentation_is_as_printed(apply: Apply, session: Session, secrets: None) -> None:
    page = (ROOT / "docs" / "how-to" / "configuration-as-code.md").read_text()
    bare = """
collections:
  - name: Alder Library
    library_id: county
    account_id: county
    account_key: {env: COUNTY_KEY}
"""
    apply(bare)
    text = bare + '    schedules: {purchases: {cron: "30 2 * * *"}}\n'
    shown = apply(text, "--plan").stdout + "$ accession apply -f collections.yaml\n" + apply(text).stdout
    assert shown in page
    mistakes = bare.lstrip().replace("library_id", "libary_id").replace("{env: COUNTY_KEY}", "secret")
    result = apply(mistakes, file="collections.yaml")
    lines = [line for line in result.stderr.splitlines() if "is missing" not in line]
    for line in lines[:-1]:
        assert re.sub(r"^/\S*/", "", line) in page


def test_missing_file_is_explained(cli: Cli, home: Path, tmp_path: Path) -> None:
    assert "No such file or directory" in cli("apply", "-f", str(tmp_path / "missing.yaml")).error
    assert "has no file whose name ends in" in cli("apply", "-f", str(tmp_path)).error
    assert cli("apply").exit_code == 2
