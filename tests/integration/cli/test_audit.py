"""Command `accession audit`, and what commands record in the audit log."""

import csv
import io
import os
import pwd
from datetime import timedelta
from typing import Any

import pytest
import time_machine
from pydantic import SecretStr
from redis import Redis
from sqlalchemy.orm import Session

from accession.auth.audit import Actor, ActorKind, AuditAction, AuditFilter, read_audit_log, record
from accession.auth.roles import UserRole
from accession.auth.users import add_user
from accession.catalog.purchase_dates import PurchaseDate
from accession.catalog.rejected_records import RejectedRecordData, store_rejected_records
from accession.core.clock import utc_now
from accession.db.models import Collection
from tests.fixtures.commands import Cli
from tests.fixtures.factories import NOON, PASSWORD
from tests.fixtures.vendor import ScriptedVendor

ANN = Actor(ActorKind.USER, "ann", "192.0.2.1")
OS_USER = pwd.getpwuid(os.getuid()).pw_name


@pytest.fixture
def log(session: Session) -> None:
    with time_machine.travel(utc_now() - timedelta(days=9), tick=False):
        record(session, ANN, AuditAction.USER_ADD, "ben", {"role": "viewer"})
    record(session, ANN, AuditAction.RUN_START, "Alder Library", {"workflow": "events"})
    session.commit()


def actions(session: Session) -> list[tuple[str, str, dict[str, Any]]]:
    """Return action, subject and details of all entries, oldest first."""
    session.rollback()
    entries = list(read_audit_log(session, AuditFilter()))[::-1]
    assert {(entry.actor_kind, entry.actor, entry.origin) for entry in entries} <= {
        ("os user", OS_USER, "cli")
    }
    return [(entry.action, entry.subject, dict(entry.details)) for entry in entries]


# The command


def test_audit_prints_a_table(cli: Cli, log: None) -> None:
    output = cli("audit").stdout

    assert "ann (user)" in output
    assert output.index("run.start") < output.index("user.add")
    assert "role: viewer" in output


@pytest.mark.parametrize(
    ("options", "ids"),
    [
        ((), [2, 1]),
        (("--since", "7d"), [2]),
        (("--until", "7d"), [1]),
        (("--actor", "ben"), []),
        (("--action", "user"), [1]),
        (("--subject", "Alder Library"), [2]),
        (("--limit", "1"), [2]),
    ],
    ids=str,
)
def test_audit_options_select_entries(cli: Cli, log: None, options: tuple[str, ...], ids: list[int]) -> None:
    assert [entry["id"] for entry in cli("audit", "--format", "json", *options).json] == ids


def test_audit_writes_csv(cli: Cli, log: None) -> None:
    rows = list(csv.DictReader(io.StringIO(cli("audit", "--format", "csv").stdout)))

    assert [(row["actor"], row["action"], row["details"]) for row in rows] == [
        ("ann", "run.start", '{"workflow": "events"}'),
        ("ann", "user.add", '{"role": "viewer"}'),
    ]


def test_audit_without_entries_says_so(cli: Cli, database: None) -> None:
    assert cli("audit").stdout == "The audit log has no such entries.\n"


def test_invalid_time_is_explained(cli: Cli, database: None) -> None:
    assert '"yesterday" is not a valid time' in cli("audit", "--since", "yesterday").error


# What commands record


def test_changes_of_users_are_recorded(cli: Cli, session: Session) -> None:
    add_user(session, "ben", SecretStr(PASSWORD), UserRole.VIEWER)
    session.commit()

    cli("users", "add", "ann", "--role", "operator", typed=f"{PASSWORD}\n{PASSWORD}\n")
    cli("users", "set-role", "ben", "administrator")
    cli("users", "set-password", "ben", typed=f"{PASSWORD}\n{PASSWORD}\n")
    cli("users", "remove", "ben", "--yes")

    assert actions(session) == [
        ("user.add", "ann", {"role": "operator"}),
        ("user.set_role", "ben", {"role": "viewer → administrator"}),
        ("user.set_password", "ben", {}),
        ("user.remove", "ben", {}),
    ]


def test_changes_of_tokens_are_recorded(cli: Cli, session: Session) -> None:
    cli("tokens", "add", "script", "--role", "viewer")
    cli("tokens", "add", "app", "--feed", "opds")
    cli("tokens", "revoke", "app")

    assert actions(session) == [
        ("token.add", "script", {"role": "viewer"}),
        ("token.add", "app", {"feeds": ["opds"]}),
        ("token.revoke", "app", {}),
    ]


def test_changes_of_collections_are_recorded(
    cli: Cli, session: Session, vendor: ScriptedVendor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ACCESSION_ACCOUNT_KEY", "a new key")
    cli("collections", "add", "Birch", "--library-id", "birch", "--account-id", "library.birch")
    cli("collections", "test", "Birch")
    monkeypatch.setenv("ACCESSION_ACCOUNT_KEY", "another key")
    cli("collections", "set-key", "Birch")
    cli("collections", "rotate-key")
    cli("collections", "remove", "Birch", "--yes")

    account = {
        "library_id": "birch",
        "account_id": "library.birch",
        "base_url": "https://partner.yourcloudlibrary.com",
    }
    assert actions(session) == [
        ("collection.add", "Birch", account),
        ("collection.test", "Birch", {}),
        ("collection.edit", "Birch", {"account_key": "replaced"}),
        ("encryption_key.rotate", "", {"account_keys": 1}),
        ("collection.remove", "Birch", {}),
    ]


def test_actions_on_rejected_records_are_recorded(
    cli: Cli, session: Session, collection: Collection, broker: Redis
) -> None:
    records = [RejectedRecordData(reason, "<record/>", reason) for reason in ("one", "two")]
    store_rejected_records(session, collection, PurchaseDate(NOON.date()), records)
    session.commit()

    cli("rejects", "retry", "1")
    cli("rejects", "retry")
    cli("rejects", "resolve", "1", "--note", "Withdrawn.")

    assert actions(session) == [
        ("rejected_record.retry", "1", {"records": 1}),
        ("rejected_record.retry", "all open records", {"records": 2}),
        ("rejected_record.resolve", "1", {"note": "Withdrawn."}),
    ]


def test_started_import_is_recorded(
    cli: Cli, session: Session, collection: Collection, broker: Redis
) -> None:
    cli("import", "purchases", "--collection", "Alder Library", "--force-reimport")
    cli("import", "events", "--import-all")

    assert [(action, subject) for action, subject, _ in actions(session)] == [
        ("run.reimport", "Alder Library"),
        ("run.start", "Alder Library"),
    ]


def test_export_is_recorded_without_password_of_the_target(
    cli: Cli, session: Session, collection: Collection
) -> None:
    cli("export", "csv", "--output", "memory://ann:hunter2@host/titles.csv")

    assert actions(session) == [
        ("export.create", "csv", {"collections": "all", "file": "memory://host/titles.csv"})
    ]


def test_failed_change_is_not_recorded(cli: Cli, session: Session) -> None:
    assert cli("users", "set-role", "nobody", "viewer").exit_code == 1
    assert cli("tokens", "revoke", "nothing").exit_code == 1

    assert actions(session) == []


def test_user_of_sudo_is_recorded(cli: Cli, session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "getuid", lambda: 0)
    monkeypatch.setenv("SUDO_USER", "ann")

    cli("tokens", "add", "script", "--role", "viewer")

    (entry,) = read_audit_log(session, AuditFilter())
    assert entry.actor == "root (sudo by ann)"
