"""Pages of operation in a browser: missing processes, storage, settings, totals, and retries of records."""

import re

from playwright.sync_api import expect
from redis import Redis
from sqlalchemy import select
from sqlalchemy.orm import Session

from accession.catalog.purchase_dates import PurchaseDate
from accession.catalog.rejected_records import RejectedRecordData, store_rejected_records
from accession.core.workflow import Workflow
from accession.db.models import Collection, Run, RunState
from accession.runs.ledger import end_run, open_run
from tests.fixtures.dashboard import OpenDashboard
from tests.fixtures.factories import NOON
from tests.fixtures.heartbeats import record_heartbeats


def test_missing_processes_are_named_until_they_run(
    collection: Collection, queues: Redis, open_dashboard: OpenDashboard, dashboard_url: str
) -> None:
    page = open_dashboard(dashboard_url).open("/")
    banner = page.locator("#processes").get_by_role("alert")
    expect(banner).to_contain_text("No worker is running")
    expect(banner).to_contain_text("The scheduler is not running")
    page.get_by_role("link", name=re.compile(r"Accession \d")).click()
    expect(page.get_by_role("heading", level=1)).to_have_text("About")
    expect(page.get_by_role("alert")).to_have_count(2)
    record_heartbeats(queues, "accession-42@alder")
    page.reload()
    expect(page.get_by_role("region", name="Running workers")).to_contain_text("alder")
    expect(page.get_by_role("region", name="Depth of queues").get_by_role("row")).to_have_count(3)
    page.get_by_role("link", name="Overview").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Overview")
    expect(banner).to_have_count(0)


def test_old_rows_are_deleted_on_request(
    stored_collection: Collection, queues: Redis, open_dashboard: OpenDashboard, dashboard_url: str
) -> None:
    page = open_dashboard(dashboard_url).open("/")
    page.get_by_role("link", name="Storage").last.click()
    runs = page.get_by_role("region", name="Kinds of rows").get_by_role("row", name="Ended runs")
    expect(runs).to_contain_text("90 days")
    page.get_by_role("button", name="Delete old rows now").click()
    expect(page.get_by_role("status")).to_contain_text("Old rows are being deleted")
    assert queues.llen("default") == 1


def test_settings_are_narrowed_to_those_that_differ(
    database: None, open_dashboard: OpenDashboard, dashboard_url: str
) -> None:
    page = open_dashboard(dashboard_url).open("/settings")
    settings = page.get_by_role("region", name="All settings")
    row = settings.get_by_role("row").filter(has=page.get_by_text("ACCESSION_TIME_ZONE", exact=True))
    expect(row.get_by_role("cell").last).to_have_text("default")
    page.get_by_label("Only settings that differ").check()
    page.get_by_role("button", name="Filter").click()
    expect(settings).to_contain_text("ACCESSION_DATABASE_URL")
    expect(row).to_have_count(0)


def test_totals_per_day_are_read_and_filtered(
    session: Session, collection: Collection, open_dashboard: OpenDashboard, dashboard_url: str
) -> None:
    open_run(session, collection.id, Workflow.PURCHASES, "task", {"current_day": None, "offset": 1})
    end_run(session.scalars(select(Run)).one(), RunState.SUCCEEDED)
    session.commit()
    page = open_dashboard(dashboard_url).open("/runs")
    page.get_by_role("link", name="Totals per day").click()
    page.get_by_label("Time").select_option("1 year")
    page.get_by_role("button", name="Filter").click()
    days = page.get_by_role("region", name="Days (UTC), newest first").last
    expect(days.get_by_role("row")).to_have_count(2)
    expect(page.get_by_role("img", name="Runs per day", exact=True)).to_be_visible()
    page.get_by_label("Workflow").select_option("events")
    page.get_by_role("button", name="Filter").click()
    expect(page.get_by_role("heading", name="No runs")).to_be_visible()


def test_records_with_a_reason_are_retried_together(
    session: Session,
    stored_collection: Collection,
    queues: Redis,
    open_dashboard: OpenDashboard,
    dashboard_url: str,
) -> None:
    reason = "It has no title identifier (001)."
    others = [
        RejectedRecordData(reason, "<record/>", "second"),
        RejectedRecordData("Other.", "<a/>", "third"),
    ]
    store_rejected_records(session, stored_collection, PurchaseDate(NOON.date()), others)
    session.commit()
    page = open_dashboard(dashboard_url).open("/rejected-records")
    page.get_by_role("button", name=f"Retry all 2: {reason}").click()
    expect(page.get_by_role("status")).to_have_text("Retry queued: 2 records.")
    assert queues.llen("default") == 2
