"""Command `accession verify`; the messages that it queues are delivered while it waits."""

import importlib
import time
from collections.abc import Iterator
from datetime import date, datetime
from types import SimpleNamespace

import httpx
import pytest
from redis import Redis
from sqlalchemy.orm import Session

from accession.auth.audit import AuditFilter, read_audit_log
from accession.core.workflow import Workflow
from accession.db.models import Collection
from accession.imports.purchases import BibliothecaPurchaseRecordImporter
from accession.imports.vendor_api import vendor_api_for
from tests.fixtures.broker import Broker, without_result_subscriptions
from tests.fixtures.commands import Cli
from tests.fixtures.factories import day
from tests.fixtures.holdings import commit_and_apply
from tests.fixtures.purchases import import_listed_days, stored_purchases
from tests.fixtures.stored import all_runs
from tests.fixtures.vendor import ScriptedVendor

NOW = day(2024, 7, 1, 10)
ALDER = ("verify", "--collection", "Alder Library")


@pytest.fixture
def imported(session: Session, collection: Collection, vendor: ScriptedVendor) -> Collection:
    """A collection whose purchases of March and May are imported."""
    vendor.add_purchases(day(2024, 3, 10, 9), "march")
    vendor.add_purchases(day(2024, 5, 10, 9), "may")
    vendor.sends_empty_bodies = True
    importer = BibliothecaPurchaseRecordImporter(session, collection, vendor_api_for(collection))
    pages = import_listed_days(session, collection, importer, vendor, NOW)
    commit_and_apply(session, [row_id for page in pages for row_id in page.outbox_ids])
    return collection


@pytest.fixture(autouse=True)
def deliveries(celery_app: None, broker: Redis, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Deliver all messages whenever the command waits."""
    from accession.tasks.app import app

    messages = Broker(broker, app)

    def deliver(_: float) -> None:
        messages.deliver_all()
        messages.deliver_all("apply")

    watch = importlib.import_module("accession.cli.watch")
    monkeypatch.setattr(watch, "time", SimpleNamespace(sleep=deliver, monotonic=time.monotonic))
    with without_result_subscriptions():
        yield


def test_equal_purchases_are_reported_after_the_cost(imported: Collection, cli: Cli) -> None:
    result = cli(*ALDER)

    assert result.exit_code == 0
    assert "Verifying needs about 2 requests, and more where something differs." in result.stderr
    assert result.stdout == "The stored purchases are those that the vendor lists.\n"


def test_verification_is_recorded_in_the_audit_log(imported: Collection, session: Session, cli: Cli) -> None:
    cli(*ALDER, "--from", "2024-05", "--repair")

    (entry,) = read_audit_log(session, AuditFilter(action="run.verify"))
    assert entry.subject == "Alder Library"
    assert entry.details == {"from": "2024-05-01", "days": False, "repair": True}


def test_missing_purchase_is_listed_with_exit_code_1(
    imported: Collection, session: Session, vendor: ScriptedVendor, cli: Cli
) -> None:
    vendor.add_purchases(day(2024, 5, 20, 9), "late")

    result = cli(*ALDER)

    assert result.exit_code == 1
    assert "missing" in result.stdout
    assert "2024-05 to 2024-06" in result.stdout
    assert "Repair them with --repair" in result.stdout
    assert ("late", date(2024, 5, 20)) not in stored_purchases(session)


def test_repaired_purchase_is_listed_with_exit_code_0(
    imported: Collection, session: Session, vendor: ScriptedVendor, cli: Cli
) -> None:
    vendor.add_purchases(day(2024, 5, 20, 9), "late")

    result = cli(*ALDER, "--repair", "--json")

    assert result.exit_code == 0
    assert ("late", date(2024, 5, 20)) in stored_purchases(session)
    (finding,) = result.json
    assert datetime.fromisoformat(finding["resolved_at"]) >= datetime.fromisoformat(finding["found_at"])
    expected = {
        "collection": "Alder Library",
        "kind": "missing",
        "identifier": "late",
        "title": "Title late",
        "purchased_on": "2024-05-20",
        "moved_to": None,
        "purchases": 1,
    }
    assert {name: finding[name] for name in expected} == expected
    assert cli(*ALDER, "--json").json == []


def test_findings_of_other_months_are_not_listed(
    imported: Collection, vendor: ScriptedVendor, cli: Cli
) -> None:
    vendor.add_purchases(day(2024, 5, 20, 9), "late")
    vendor.add_purchases(day(2024, 3, 20, 9), "early")

    results = [
        cli(*ALDER, "--json", *months)
        for months in (
            ("--to", "2024-04"),
            ("--from", "2024-05-31"),
            ("--from", "2024-05", "--to", "2024-05"),
        )
    ]

    assert [[each["identifier"] for each in result.json] for result in results] == [
        ["early"],
        ["late"],
        ["late"],
    ]


def test_moved_purchase_is_found_by_days(imported: Collection, vendor: ScriptedVendor, cli: Cli) -> None:
    vendor.purchases.clear()
    vendor.add_purchases(day(2024, 3, 10, 9), "march")
    vendor.add_purchases(day(2024, 5, 20, 9), "may")

    assert cli(*ALDER).exit_code == 0
    result = cli(*ALDER, "--days", "--json")

    assert "Verifying needs about 4 requests" in result.stderr
    assert [(each["kind"], each["identifier"], each["purchased_on"]) for each in result.json] == [
        ("moved", "may", "2024-05-10")
    ]


def test_collection_without_purchases_cannot_be_verified(collection: Collection, cli: Cli) -> None:
    assert cli(*ALDER).error == (
        'No purchases of "Alder Library" are stored in these months, so that there is nothing to compare: '
        'import them first with `accession import purchases --collection "Alder Library"`.'
    )


@pytest.mark.parametrize("month", ["2024", "2024-13", "May", "2024-05-32"])
def test_invalid_month_is_refused(collection: Collection, cli: Cli, month: str) -> None:
    result = cli(*ALDER, "--from", month)

    assert (result.exit_code, result.stdout) == (2, "")
    assert "is not a month such as 2019-03" in " ".join(result.stderr.split())


def test_months_in_the_wrong_order_are_refused(collection: Collection, cli: Cli) -> None:
    assert "is before the first" in cli(*ALDER, "--from", "2024-05", "--to", "2024-04").error


def test_unknown_collection_is_refused(database: None, cli: Cli) -> None:
    assert cli("verify", "--collection", "Unknown").error == 'No collection found named "Unknown".'


def test_failed_verification_is_reported(imported: Collection, vendor: ScriptedVendor, cli: Cli) -> None:
    vendor.responses.append(httpx.Response(404))

    result = cli(*ALDER)

    assert (result.exit_code, result.stdout) == (1, "")
    assert "Alder Library: failed:" in result.stderr


def test_verification_continues_after_an_interrupt(
    imported: Collection, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(_: float) -> None:
        raise KeyboardInterrupt

    watch = importlib.import_module("accession.cli.watch")
    monkeypatch.setattr(watch, "time", SimpleNamespace(sleep=interrupt, monotonic=time.monotonic))

    result = cli(*ALDER)

    assert result.exit_code == 130
    assert "The verification continues in the background. See: accession status" in result.stderr
    assert [(run.workflow, run.state) for run in all_runs()] == [(Workflow.VERIFICATION, "queued")]


def test_doctor_fails_for_missing_purchases_only(
    imported: Collection, vendor: ScriptedVendor, cli: Cli, without_worker_wait: None
) -> None:
    def checks() -> list[tuple[bool, str]]:
        return [
            (check["ok"], check["finding"])
            for check in cli("doctor", "--json").json
            if check["name"] == "past purchases of Alder Library"
        ]

    del vendor.purchases[1]
    cli(*ALDER)
    assert checks() == [(True, "purchases that differ from the vendor's: 1 extra")]

    vendor.add_purchases(day(2024, 3, 20, 9), "late", "later")
    cli(*ALDER)
    assert checks() == [
        (
            False,
            "purchases that differ from the vendor's: 2 missing, 1 extra: "
            'run `accession verify --collection "Alder Library" --repair`',
        )
    ]
