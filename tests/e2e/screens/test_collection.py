"""Collection and exports pages in a browser: charts, menus, copying, and downloads."""

import pytest
from playwright.sync_api import expect
from sqlalchemy.orm import Session

from accession.db.models import Collection
from tests.fixtures.dashboard import OpenDashboard
from tests.fixtures.factories import make_collection


def test_month_in_chart_shows_its_value_and_opens_titles(
    stored_collection: Collection, open_dashboard: OpenDashboard, dashboard_url: str
) -> None:
    page = open_dashboard(dashboard_url).open("/collections/1")
    column = page.locator("#purchases-chart a.chart-column").last
    column.hover()
    tooltip = page.locator(".chart-tooltip")
    expect(tooltip).to_have_text("2024-05: 1 purchase")
    expect(tooltip).to_be_in_viewport()
    column.click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Catalogue")
    expect(page.get_by_role("link", name="Solaris").first).to_be_visible()
    page.go_back()
    page.locator("#purchases-table summary").click()
    expect(page.get_by_role("link", name="2024-05", exact=True)).to_be_visible()


@pytest.mark.parametrize("has_scripts", [True, False])
def test_other_actions_are_in_a_menu(
    stored_collection: Collection, open_dashboard: OpenDashboard, dashboard_url: str, has_scripts: bool
) -> None:
    page = open_dashboard(dashboard_url, java_script_enabled=has_scripts).open("/collections/1")
    if has_scripts:
        expect(page.get_by_role("link", name="Mark for deletion")).to_be_hidden()
        page.get_by_role("button", name="More").click()
    page.get_by_role("link", name="Mark for deletion").click()
    expect(page.get_by_role("heading", level=1)).to_contain_text("Alder Library")


def test_new_collection_is_started_by_its_only_primary_button(
    session: Session, collection: Collection, open_dashboard: OpenDashboard, dashboard_url: str
) -> None:
    dashboard = open_dashboard(dashboard_url)
    page = dashboard.open("/collections/1")
    expect(page.get_by_role("heading", name="Not imported yet")).to_be_visible()
    dashboard.assert_accessible_in_both_themes()
    page.get_by_role("button", name="Start the first import").click()
    expect(page.locator(".alert-info")).to_have_text("Run queued: purchases.")
    expect(page.get_by_role("heading", name="Not imported yet")).to_have_count(0)


def test_address_of_a_feed_is_copied(
    stored_collection: Collection, open_dashboard: OpenDashboard, dashboard_url: str
) -> None:
    dashboard = open_dashboard(dashboard_url, permissions=["clipboard-read", "clipboard-write"])
    page = dashboard.open("/exports?collection=1")
    button = page.get_by_role("button", name="Copy the address of OPDS 2.0")
    button.click()
    expect(button).to_have_text("Copied")
    copied = page.evaluate("navigator.clipboard.readText()")
    assert copied == f"{dashboard_url}/opds/v2/collections/1"


def test_address_without_scripts_is_selected_by_a_click(
    stored_collection: Collection, open_dashboard: OpenDashboard, dashboard_url: str
) -> None:
    page = open_dashboard(dashboard_url, java_script_enabled=False).open("/exports?collection=1")
    expect(page.get_by_role("button", name="Copy")).to_have_count(0)
    expect(page.locator("#feed-1")).to_have_css("user-select", "all")


def test_file_is_downloaded_with_its_options(
    session: Session, stored_collection: Collection, open_dashboard: OpenDashboard, dashboard_url: str
) -> None:
    make_collection(session, "Birch Library")
    page = open_dashboard(dashboard_url).open("/exports")
    page.get_by_label("Collection").select_option("Alder Library")
    page.get_by_role("button", name="Show").click()
    expect(page.get_by_role("status")).to_have_text("1 title")
    card = page.get_by_role("region", name="CSV")
    card.get_by_text("Options").click()
    card.get_by_label("Delimiter").select_option("semicolon")
    card.get_by_label("Columns").select_option(["identifier", "status"])
    with page.expect_download() as download:
        card.get_by_role("button", name="Download CSV").click()
    assert download.value.path().read_text() == "identifier;status\nabc;active\n"
