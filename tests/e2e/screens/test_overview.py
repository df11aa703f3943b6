"""The overview in a browser, as an operator uses it: filters, order, selection, timeline and shortcuts."""

import pytest
from playwright.sync_api import Page, expect
from sqlalchemy import select
from sqlalchemy.orm import Session

from accession.core.workflow import Workflow
from accession.db.models import Run, RunState
from accession.runs.ledger import end_run, open_run
from tests.fixtures.dashboard import OpenDashboard
from tests.fixtures.factories import make_collection

ERROR = "the vendor refused the credentials; check the account id and the account key"


@pytest.fixture
def collections(session: Session) -> None:
    """Add 60 collections, of which the first three fail for one reason, and the next has succeeded."""
    for number in range(60):
        collection = make_collection(session, f"Library {number:02}")
        if number < 4:
            task_id = f"task {number}"
            open_run(session, collection.id, Workflow.PURCHASES, task_id, {"current_day": None, "offset": 1})
            run = session.scalars(select(Run).filter_by(task_id=task_id)).one()
            state, error = (RunState.FAILED, ERROR) if number < 3 else (RunState.SUCCEEDED, None)
            end_run(run, state, error)
    session.commit()


def expect_names(page: Page, *names: str) -> None:
    expect(page.locator("table.overview tbody th")).to_have_text(names)


def test_filters_are_kept_in_the_address(
    collections: None, open_dashboard: OpenDashboard, dashboard_url: str
) -> None:
    page = open_dashboard(dashboard_url).open("/")
    page.get_by_role("navigation", name="Filters").get_by_role("link", name="Failing 3").click()
    expect_names(page, "Library 00", "Library 01", "Library 02")
    page.get_by_role("columnheader", name="Collection").get_by_role("link").click()
    page.get_by_role("columnheader", name="Collection").get_by_role("link").click()
    expect_names(page, "Library 02", "Library 01", "Library 00")
    page.get_by_label("Name of the collection").fill("01")
    page.keyboard.press("Enter")
    expect_names(page, "Library 01")
    address = page.url
    assert address.endswith("/?filter=failing&text=01&sort=-name")
    page.go_back()
    expect_names(page, "Library 02", "Library 01", "Library 00")
    page.goto(address)
    expect_names(page, "Library 01")


def test_list_is_paged_sorted_and_searched_without_scripts(
    collections: None, open_dashboard: OpenDashboard, dashboard_url: str
) -> None:
    page = open_dashboard(dashboard_url, java_script_enabled=False).open("/")
    page.get_by_role("link", name="Next", exact=True).click()
    expect(page.locator("table.overview tbody th").last).to_have_text("Library 59")
    page.get_by_role("columnheader", name="Rejected").get_by_role("link").click()
    expect(page.get_by_role("columnheader", name="Rejected")).to_have_attribute("aria-sort", "descending")
    page.get_by_label("Name of the collection").fill("5")
    page.get_by_label("Order").select_option("name")
    page.get_by_role("button", name="Show").click()
    expect(page.locator("table.overview tbody th")).to_have_count(15)


def test_all_that_match_are_paused_on_every_page(
    collections: None, open_dashboard: OpenDashboard, dashboard_url: str
) -> None:
    dashboard = open_dashboard(dashboard_url)
    page = dashboard.open("/?text=Library&sort=name")
    page.get_by_label("Select Library 07").check()
    expect(page.get_by_text("1 selected on this page.")).to_be_visible()
    page.get_by_label("Select all 60 that match").check()
    expect(page.get_by_text("All that match are selected, on every page.")).to_be_visible()
    page.get_by_role("button", name="Pause").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Pause 60 collections")
    dashboard.assert_accessible()
    page.get_by_label("Reason").fill("maintenance")
    page.get_by_role("button", name="Pause").click()
    expect(page.locator(".alert-info")).to_have_text("300 workflows paused.")
    assert page.url.endswith("/?text=Library&sort=name")
    expect(page.get_by_role("link", name="Paused 60")).to_be_visible()


def test_failures_with_one_cause_are_listed_and_retried(
    collections: None, open_dashboard: OpenDashboard, dashboard_url: str
) -> None:
    page = open_dashboard(dashboard_url).open("/")
    failures = page.get_by_role("region", name="Failures by cause").last
    failures.get_by_role("link", name="3 collections").click()
    expect_names(page, "Library 00", "Library 01", "Library 02")
    expect(page.get_by_text("3 collections failing because of: The vendor refused")).to_be_visible()
    page.get_by_role("button", name="Retry all 3 collections").click()
    expect(page.locator(".alert-info")).to_contain_text("3 runs retried")


def test_timeline_leads_to_the_runs_of_an_hour(
    collections: None, open_dashboard: OpenDashboard, dashboard_url: str
) -> None:
    page = open_dashboard(dashboard_url).open("/")
    page.locator(".timeline a").first.click()
    expect(page.get_by_text("Any time")).to_be_visible()
    expect(page.locator("#runs tbody th")).to_have_count(4)
    page.go_back()
    page.get_by_text("Table", exact=True).click()
    page.get_by_role("region", name="Table of the runs per hour").get_by_role("link").first.click()
    expect(page.locator("#runs tbody th")).to_have_count(4)


def test_overview_with_failures_is_accessible(
    collections: None, open_dashboard: OpenDashboard, dashboard_url: str
) -> None:
    dashboard = open_dashboard(dashboard_url, color_scheme="light", viewport={"width": 390, "height": 844})
    page = dashboard.open("/?filter=failing")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    page.get_by_text("Table", exact=True).click()
    page.get_by_role("button", name="Keyboard shortcuts").click()
    dashboard.assert_accessible()
    page.keyboard.press("Escape")
    dashboard.assert_accessible_in_both_themes()


def test_shortcuts_search_navigate_and_show_help(
    collections: None, open_dashboard: OpenDashboard, dashboard_url: str
) -> None:
    page = open_dashboard(dashboard_url).open("/")
    page.keyboard.press("/")
    search = page.get_by_label("Name of the collection")
    expect(search).to_be_focused()
    page.keyboard.type("gc?/")
    expect(search).to_have_value("gc?/")
    page.keyboard.press("Tab")
    page.get_by_role("heading", level=1).click()
    page.keyboard.press("j")
    page.keyboard.press("j")
    page.keyboard.press("j")
    page.keyboard.press("k")
    expect(page.get_by_role("link", name="Library 01", exact=True)).to_be_focused()
    page.keyboard.press("?")
    expect(page.get_by_role("dialog", name="Keyboard shortcuts")).to_be_visible()
    page.keyboard.press("Escape")
    page.keyboard.press("g")
    page.keyboard.press("c")
    expect(page.get_by_role("heading", level=1)).to_have_text("Catalogue")


def test_shortcuts_ignore_modifiers_and_can_be_turned_off(
    collections: None, open_dashboard: OpenDashboard, dashboard_url: str
) -> None:
    page = open_dashboard(dashboard_url).open("/")
    dialog = page.get_by_role("dialog", name="Keyboard shortcuts")
    page.keyboard.press("Control+j")
    page.keyboard.press("Alt+j")
    expect(page.locator(":focus")).to_have_count(0)
    page.get_by_role("button", name="Keyboard shortcuts").click()
    dialog.get_by_label("Use keyboard shortcuts").uncheck()
    dialog.get_by_role("button", name="Close").click()
    page.reload()
    page.keyboard.press("j")
    page.keyboard.press("?")
    expect(dialog).to_be_hidden()
    expect(page.locator(":focus")).to_have_count(0)
    page.get_by_role("button", name="Keyboard shortcuts").click()
    dialog.get_by_label("Use keyboard shortcuts").check()
    page.keyboard.press("Escape")
    page.locator("body").press("?")
    expect(dialog).to_be_visible()
