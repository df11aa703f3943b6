"""Verification in daily purchase runs and in runs started by hand; their messages are delivered by hand."""

from datetime import date, datetime, timedelta

import httpx
import pytest
from sqlalchemy.orm import Session

from accession.catalog.verification import finding_views, list_verified_months
from accession.core.settings import get_settings
from accession.core.workflow import Workflow
from accession.db.engine import transaction
from accession.db.models import Collection, ListedRecord, Run
from accession.imports.purchases import BibliothecaPurchaseRecordImporter
from accession.imports.vendor_api import vendor_api_for
from accession.runs.health import HealthState, collection_health
from accession.runs.progress import estimate_progress
from accession.runs.views import status_views
from tests.fixtures.broker import Broker, Message
from tests.fixtures.factories import day
from tests.fixtures.holdings import commit_and_apply, title_ids
from tests.fixtures.purchases import import_listed_days, requested_pages, stored_purchases
from tests.fixtures.stored import (
    all_runs,
    checkpoint_confirmed,
    checkpoint_finish,
    count_rows,
    titles_with_metadata,
)
from tests.fixtures.vendor import marc
from tests.fixtures.workers import ObservedVendor, RunStarter, captured_logs, travel_to

FIRST_RUN = day(2014, 5, 10, 10)
ONE_DAY = timedelta(days=1)


@pytest.fixture
def imported(session: Session, collection: Collection, vendor: ObservedVendor, broker: Broker) -> Collection:
    """A collection whose purchases of January, March, April and May are imported."""
    for month in (1, 3, 4, 5):
        vendor.add_purchases(day(2014, month, 5, 9), f"t{month}")
    vendor.sends_empty_bodies = True
    importer = BibliothecaPurchaseRecordImporter(session, collection, vendor_api_for(collection))
    with travel_to(FIRST_RUN):
        pages = import_listed_days(session, collection, importer, vendor, FIRST_RUN)
        commit_and_apply(session, [row_id for page in pages for row_id in page.outbox_ids])
    vendor.requests.clear()
    return collection


def run_daily(collection: Collection, run_starter: RunStarter, broker: Broker, now: datetime) -> Run:
    """Run the purchase import of a day to its end."""
    with travel_to(now):
        run_starter.start(collection)
        broker.deliver_all()
        broker.deliver_all("apply")
    return all_runs()[-1]


def verify(collection: Collection, broker: Broker, *, repairs: bool = False) -> Run:
    """Run a verification to its end."""
    from accession.tasks.verification import start_verification

    with travel_to(FIRST_RUN):
        start_verification([collection.id], repairs=repairs)
        broker.deliver_all()
        broker.deliver_all("apply")
    return all_runs()[-1]


def open_findings() -> list[tuple[str, str]]:
    with transaction() as session:
        return [(finding.kind, finding.identifier) for finding in finding_views(session)]


def verified_on(collection: Collection) -> dict[date, int]:
    """Return on which day of May 2014 each month was verified last."""
    with transaction() as session:
        months = list_verified_months(session, session.get_one(Collection, collection.id))
        return {month: view.verified_at.day for month, view in months.items() if view.verified_at}


# Daily runs


def test_first_import_is_not_followed_by_a_verification(
    collection: Collection, vendor: ObservedVendor, run_starter: RunStarter, broker: Broker
) -> None:
    vendor.add_purchases(day(2014, 1, 5, 9), "t1")

    run = run_daily(collection, run_starter, broker, FIRST_RUN)

    assert (run.state, run.titles_new, verified_on(collection)) == ("succeeded", 1, {})


def test_daily_run_verifies_months_after_its_check(
    imported: Collection, vendor: ObservedVendor, run_starter: RunStarter, broker: Broker
) -> None:
    run = run_daily(imported, run_starter, broker, FIRST_RUN + ONE_DAY)

    assert requested_pages(vendor) == [
        ("03-05", "05-11", "1"),
        ("01-01", "03-01", "1"),
        ("03-01", "04-01", "1"),
        ("04-01", "05-01", "1"),
    ]
    assert (run.state, run.pages, run.records_fetched) == ("succeeded", 4, 0)
    assert verified_on(imported) == {date(2014, month, 1): 11 for month in (1, 2, 3, 4)}
    assert checkpoint_finish(imported.id) == checkpoint_confirmed(imported.id)
    assert count_rows(ListedRecord) == 0
    assert broker.locks() == {}


def test_daily_runs_verify_each_month_in_turn(
    imported: Collection,
    vendor: ObservedVendor,
    run_starter: RunStarter,
    broker: Broker,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(get_settings(), "verification_requests", 1)
    for days in range(1, 5):
        run_daily(imported, run_starter, broker, FIRST_RUN + days * ONE_DAY)

    assert verified_on(imported) == {
        date(2014, 1, 1): 11,
        date(2014, 2, 1): 11,
        date(2014, 3, 1): 12,
        date(2014, 4, 1): 13,
    }


def test_daily_run_without_a_budget_verifies_nothing(
    imported: Collection,
    vendor: ObservedVendor,
    run_starter: RunStarter,
    broker: Broker,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(get_settings(), "verification_requests", 0)

    run = run_daily(imported, run_starter, broker, FIRST_RUN + ONE_DAY)

    assert (run.pages, verified_on(imported)) == (1, {})


def test_daily_run_repairs_what_is_missing(
    imported: Collection, session: Session, vendor: ObservedVendor, run_starter: RunStarter, broker: Broker
) -> None:
    vendor.add_purchases(day(2014, 2, 20, 9), "backdated")

    with captured_logs() as lines:
        run = run_daily(imported, run_starter, broker, FIRST_RUN + ONE_DAY)

    assert ("backdated", date(2014, 2, 20)) in stored_purchases(session)
    assert (run.state, run.titles_new, open_findings()) == ("succeeded", 1, [])
    warnings = [line for line in lines if line["event"] == "purchases differ from those of the vendor"]
    assert [(line["missing"], line["moved"], line["extra"]) for line in warnings] == [(1, 0, 0)]


def test_forced_reimport_is_not_followed_by_a_verification(
    imported: Collection, vendor: ObservedVendor, run_starter: RunStarter, broker: Broker
) -> None:
    with travel_to(FIRST_RUN + ONE_DAY):
        run_starter.start(imported, force=True)
        broker.deliver_all()

    assert verified_on(imported) == {}


# Verifications started by hand


def test_verification_reports_differences_and_repairs_none(
    imported: Collection, session: Session, vendor: ObservedVendor, broker: Broker
) -> None:
    vendor.add_purchases(day(2014, 2, 20, 9), "backdated")
    before = stored_purchases(session)

    run = verify(imported, broker)

    assert (run.workflow, run.state, run.pages) == ("verification", "succeeded", 4)
    assert open_findings() == [("missing", "backdated")]
    assert stored_purchases(session) == before
    assert broker.locks() == {}


def test_verification_with_repair_imports_titles_and_metadata(
    imported: Collection, session: Session, vendor: ObservedVendor, broker: Broker
) -> None:
    vendor.add_purchases(day(2014, 2, 20, 9), "backdated")
    finish = checkpoint_finish(imported.id)

    run = verify(imported, broker, repairs=True)

    assert ("backdated", date(2014, 2, 20)) in stored_purchases(session)
    assert (run.titles_new, open_findings()) == (1, [])
    assert "backdated" in vendor.item_requests()[-1]
    assert "backdated" in titles_with_metadata()
    assert checkpoint_finish(imported.id) == finish


def test_verification_of_a_collection_without_purchases_succeeds(
    collection: Collection, vendor: ObservedVendor, broker: Broker
) -> None:
    run = verify(collection, broker)

    assert (run.state, run.pages, vendor.requests) == ("succeeded", 0, [])


def test_redelivered_steps_are_processed_once(
    imported: Collection, session: Session, vendor: ObservedVendor, broker: Broker
) -> None:
    from accession.tasks.verification import start_verification

    vendor.add_purchases(day(2014, 2, 20, 9), "backdated")
    vendor.add_purchases(day(2014, 3, 2, 9), *title_ids(50))
    processed: list[Message] = []
    with travel_to(FIRST_RUN):
        start_verification([imported.id], repairs=True)
        while broker.messages():
            message = broker.pop()
            is_copy = message in processed
            requests = len(vendor.requests)
            broker.deliver(message)
            assert (len(vendor.requests) == requests) is is_copy
            if not is_copy:
                requests = len(vendor.requests)
                broker.deliver(message, redelivered=True)
                assert len(vendor.requests) == requests
                processed.append(message)

    run = all_runs()[-1]
    assert (run.state, run.pages, open_findings()) == ("succeeded", len(processed), [])
    assert len(stored_purchases(session)) == 4 + 51


def test_steps_that_fail_are_repeated_without_a_trace(
    imported: Collection, session: Session, vendor: ObservedVendor, broker: Broker
) -> None:
    vendor.add_purchases(day(2014, 2, 20, 9), "backdated")
    vendor.add_purchases(day(2014, 3, 2, 9), *title_ids(50))
    failed: set[httpx.URL] = set()

    def fail_first_attempt(request: httpx.Request) -> None:
        if request.url not in failed:
            failed.add(request.url)
            vendor.responses.append(httpx.Response(502))

    vendor.on_request = fail_first_attempt
    run = verify(imported, broker, repairs=True)

    assert (run.state, open_findings()) == ("succeeded", [])
    assert len(stored_purchases(session)) == 4 + 51
    assert count_rows(ListedRecord) == 0


def test_failed_verification_leaves_the_month_to_the_next(
    imported: Collection, session: Session, vendor: ObservedVendor, broker: Broker
) -> None:
    vendor.add_purchases(day(2014, 2, 20, 9), "backdated")
    vendor.responses.extend([httpx.Response(404)])

    failed = verify(imported, broker, repairs=True)
    assert (failed.state, verified_on(imported), count_rows(ListedRecord)) == ("failed", {}, 0)

    assert verify(imported, broker, repairs=True).state == "succeeded"
    assert ("backdated", date(2014, 2, 20)) in stored_purchases(session)


def test_progress_of_a_verification_is_that_of_its_months(
    imported: Collection, session: Session, vendor: ObservedVendor, broker: Broker
) -> None:
    from accession.tasks.verification import start_verification

    fractions = []
    with travel_to(FIRST_RUN):
        start_verification([imported.id])
        while broker.messages():
            broker.deliver_next()
            session.expire_all()
            fractions.append(estimate_progress(session, all_runs()[-1]).fraction)

    assert fractions == [0.25, 0.5, 0.75, 1.0]


def test_failed_verification_is_listed_but_not_a_problem(
    imported: Collection, session: Session, vendor: ObservedVendor, broker: Broker
) -> None:
    assert [status.workflow for status in status_views(session)] == ["purchases", "events", "circulation"]
    vendor.responses.append(httpx.Response(404))

    verify(imported, broker)

    (status,) = (status for status in status_views(session) if status.workflow == Workflow.VERIFICATION)
    assert (status.state, status.checkpoint) == ("failed", None)
    with travel_to(FIRST_RUN):
        (health,) = collection_health(session)
    assert [workflow.health for workflow in health.workflows if workflow.workflow == "verification"] == [
        HealthState.FAILING
    ]
    assert "verification" not in (health.problem or "")
    assert health.health is not HealthState.FAILING


def test_verification_is_never_late(
    imported: Collection, session: Session, vendor: ObservedVendor, broker: Broker
) -> None:
    verify(imported, broker)

    with travel_to(FIRST_RUN + 400 * ONE_DAY):
        (health,) = collection_health(session)

    assert [workflow.health for workflow in health.workflows if workflow.workflow == "verification"] == [
        HealthState.HEALTHY
    ]


def test_invalid_record_found_by_a_verification_is_rejected_once(
    imported: Collection, session: Session, vendor: ObservedVendor, broker: Broker
) -> None:
    vendor.purchases.append((day(2014, 2, 20, 9), marc()))

    runs = [verify(imported, broker, repairs=True) for _ in range(2)]

    assert [run.records_rejected for run in runs] == [1, 0]
    assert open_findings() == []
