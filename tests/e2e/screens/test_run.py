"""The page of a run, as a person uses it: while it runs, after it has succeeded or failed, and cancelled."""

import re

import pytest
from playwright.sync_api import Page, expect
from sqlalchemy.orm import Session

from accession.core.clock import utc_now
from accession.db.models import Collection, RunState
from tests.fixtures.dashboard import InstallationWithVendor, OpenDashboard
from tests.fixtures.run_details import store_run

PHONE, DESKTOP, WIDE = ({"width": width, "height": 900} for width in (400, 1440, 1920))


def open_latest_run(page: Page) -> None:
    page.get_by_role("link", name="Runs", exact=True).click()
    page.locator("#runs tbody").get_by_role("link").first.click()


def test_run_is_watched_until_it_ends_and_read_then(
    open_dashboard: OpenDashboard, installation: InstallationWithVendor
) -> None:
    """Steps, requests and log lines come from workers in processes of their own."""
    dashboard = open_dashboard(installation.base_url, viewport=DESKTOP)
    page = dashboard.page
    dashboard.add_collection("Elm Library", installation.vendor.base_url)
    # Slow enough for the steps to be seen on any machine.
    installation.vendor.sandbox.latency_ms = 1_000
    page.get_by_role("button", name="Start the first import").click()
    open_latest_run(page)
    expect(page.locator("#state")).to_have_text(re.compile("running"))
    steps = page.get_by_role("region", name="Table of steps")
    expect(steps.get_by_role("row").nth(1)).to_contain_text("stored")
    expect(page.locator("#log-lines")).to_contain_text("page imported")
    installation.vendor.sandbox.latency_ms = 0

    expect(page.locator("#state")).to_have_text(re.compile("succeeded"))
    log = page.locator("#log-lines")
    expect(log).to_contain_text("run completed")
    expect(log).to_contain_text("titles applied")
    expect(page.get_by_role("region", name="Table of requests")).to_contain_text("items")
    expect(page.locator("#time")).to_contain_text("Waiting for the vendor")
    page.get_by_label("Level").select_option("warnings and errors")
    page.get_by_role("button", name="Filter log").click()
    expect(log).to_contain_text("purchase record rejected")
    expect(log).not_to_contain_text("page imported")
    page.get_by_role("link", name="Slowest first").click()
    expect(page.get_by_role("link", name="Slowest first")).to_have_attribute("aria-current", "true")
    expect(log).not_to_contain_text("page imported")
    dashboard.assert_accessible()
    page.locator("#counters").get_by_role("link", name="1", exact=True).click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Rejected records")


def test_failed_run_is_read_and_its_log_searched(
    open_dashboard: OpenDashboard, installation: InstallationWithVendor
) -> None:
    dashboard = open_dashboard(installation.base_url, viewport=DESKTOP)
    page = dashboard.page
    dashboard.add_collection("Fir Library", installation.vendor.base_url, account_key="mistyped")
    page.get_by_role("button", name="Start the first import").click()
    open_latest_run(page)
    expect(page.locator("#state")).to_have_text(re.compile("failed"))
    alert = page.get_by_role("alert")
    expect(alert).to_contain_text("check the account id and the account key")
    expect(alert).to_contain_text("The run has stored nothing.")
    expect(alert.get_by_text("status 401")).to_be_hidden()
    alert.get_by_text("Complete message").click()
    expect(alert.get_by_text("status 401")).to_be_visible()
    expect(page.get_by_role("region", name="Table of requests")).to_contain_text("refused")
    expect(page.get_by_role("region", name="Table of steps").get_by_role("row").nth(1)).to_contain_text(
        "failed"
    )
    page.get_by_label("Text in the log").fill("RUN FAILED")
    page.get_by_role("button", name="Filter log").click()
    expect(page.locator(".log-line")).to_have_count(1)
    expect(page.locator(".log-line")).not_to_contain_text("mistyped")
    dashboard.assert_accessible()
    page.get_by_role("button", name="Retry now").click()
    expect(page.get_by_role("status").first).to_be_visible()


def test_cancelled_run_keeps_its_steps(
    open_dashboard: OpenDashboard, installation: InstallationWithVendor
) -> None:
    dashboard = open_dashboard(installation.base_url, viewport=DESKTOP)
    page = dashboard.page
    dashboard.add_collection("Oak Library", installation.vendor.base_url)
    installation.vendor.sandbox.latency_ms = 1_000
    page.get_by_role("button", name="Start the first import").click()
    open_latest_run(page)
    steps = page.get_by_role("region", name="Table of steps")
    expect(steps.get_by_role("row").nth(1)).to_contain_text("stored")
    page.get_by_role("button", name="Cancel run").click()
    installation.vendor.sandbox.latency_ms = 0
    expect(page.locator("#state")).to_have_text(re.compile("cancelled"))
    expect(page.get_by_role("alert").first).to_contain_text("Cancelled by")
    expect(steps).to_contain_text("stored")


def test_past_days_are_imported_after_their_cost_is_shown(
    open_dashboard: OpenDashboard, installation: InstallationWithVendor
) -> None:
    dashboard = open_dashboard(installation.base_url, viewport=DESKTOP)
    page = dashboard.page
    dashboard.add_collection("Yew Library", installation.vendor.base_url)
    page.get_by_role("button", name="More").click()
    page.get_by_role("link", name="Import past days").click()
    page.get_by_label("First day").fill("2025-02-01")
    page.get_by_label("Last day").fill("2025-03-31")
    page.get_by_role("button", name="Show requests").click()
    expect(page.get_by_text(re.compile(r"2025-02-01 to 2025-03-31: about \d+ requests"))).to_be_visible()
    page.get_by_role("button", name="Import these days").click()
    expect(page.get_by_role("heading", level=1)).to_contain_text("backfill of Yew Library")
    expect(page.locator("#state")).to_have_text(re.compile("succeeded"))
    expect(page.locator("#counters")).to_contain_text("2025-02-01 to 2025-03-31")


@pytest.mark.parametrize("viewport", [PHONE, DESKTOP, WIDE], ids=["phone", "desktop", "wide"])
def test_page_fits_every_screen_in_both_themes(
    session: Session,
    collection: Collection,
    open_dashboard: OpenDashboard,
    dashboard_url: str,
    viewport: dict[str, int],
) -> None:
    store_run(session, collection, RunState.FAILED, steps=60)
    dashboard = open_dashboard(dashboard_url, viewport=viewport, color_scheme="light")
    page = dashboard.open("/runs/1")
    expect(page.get_by_role("heading", name="Records per second")).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    dashboard.assert_accessible_in_both_themes()


def test_table_of_chart_opens_by_keyboard_and_stays_open(
    session: Session, collection: Collection, open_dashboard: OpenDashboard, dashboard_url: str
) -> None:
    run = store_run(session, collection, RunState.RUNNING, steps=5, started_at=utc_now())
    page = open_dashboard(dashboard_url).open("/runs/1")
    page.locator("#rate-table summary").focus()
    page.keyboard.press("Enter")
    table = page.get_by_role("region", name="Records per second, as a table")
    expect(table.get_by_role("row").nth(1)).to_contain_text("0:05")
    page.get_by_label("Text in the log").focus()

    run.records_fetched = run.records_stored = 4321
    session.commit()
    page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")
    expect(page.locator("#counters")).to_contain_text("4,321")
    expect(table).to_be_visible()


def test_page_works_without_scripts(
    session: Session, collection: Collection, open_dashboard: OpenDashboard, dashboard_url: str
) -> None:
    store_run(session, collection, RunState.FAILED, steps=60)
    page = open_dashboard(dashboard_url, java_script_enabled=False).open("/runs/1")
    page.get_by_role("navigation", name="Pages of steps").get_by_role("link", name="Next").click()
    expect(page.get_by_role("region", name="Table of steps").get_by_role("row").nth(1)).to_contain_text("41")
    page.get_by_label("Outcome").select_option("failed")
    page.get_by_role("button", name="Filter steps").click()
    expect(page.get_by_role("region", name="Table of steps").get_by_role("row")).to_have_count(2)
    page.get_by_text("Table", exact=True).click()
    expect(page.get_by_role("region", name="Records per second, as a table")).to_be_visible()
