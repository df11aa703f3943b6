"""The configuration in a browser: export a file, change it, check its plan, and apply it."""

from pathlib import Path

import pytest
from playwright.sync_api import FilePayload, Page, expect
from sqlalchemy.orm import Session

from accession.db.models import Collection
from tests.fixtures.dashboard import Dashboard, OpenDashboard
from tests.fixtures.factories import make_collection

CHANGES = """
  schedules: {purchases: {cron: "30 2 * * *", time_zone: Europe/Berlin}}
  limits: {max_concurrency: 2}
"""


@pytest.fixture
def collections(session: Session, collection: Collection) -> None:
    """Store two collections."""
    make_collection(session, "Birch Library of the City and the County")


def upload(page: Page, text: str, *, prune: bool = False) -> None:
    """Fill and submit the form that shows the plan of a file."""
    file = FilePayload(name="accession.yaml", mimeType="application/yaml", buffer=text.encode())
    page.get_by_label("File in YAML or TOML").set_input_files(file)
    if prune:
        page.get_by_label("Remove what is not in the file").check()
    page.get_by_role("button", name="Show plan").click()


def export(dashboard: Dashboard) -> str:
    """Download the configuration, and return its text."""
    page = dashboard.open("/configuration")
    with page.expect_download() as download:
        page.get_by_role("link", name="Export YAML").click()
    return Path(download.value.path()).read_text()


def test_exported_file_is_changed_and_applied(
    collections: None, open_dashboard: OpenDashboard, dashboard_url: str
) -> None:
    dashboard = open_dashboard(dashboard_url)
    exported = export(dashboard)
    upload(dashboard.page, exported.replace("  pauses: []\n", CHANGES.removeprefix("\n"), 1))
    expect(dashboard.page.get_by_role("row", name="Change schedule of purchases")).to_contain_text(
        "cron: inherited → 30 2 * * *"
    )
    dashboard.page.get_by_role("button", name="Make 2 changes").click()
    expect(dashboard.page.get_by_role("status")).to_have_text("2 changes made.")
    assert "max_concurrency: 2" in export(dashboard)


def test_removal_is_shown_before_it_is_made(
    collections: None, open_dashboard: OpenDashboard, dashboard_url: str
) -> None:
    page = open_dashboard(dashboard_url).open("/")
    page.get_by_role("button", name="Administration").click()
    page.get_by_role("link", name="Configuration").click()
    upload(page, "collections: []", prune=True)
    expect(page.get_by_role("row", name='Mark collection "Alder Library" for deletion')).to_be_visible()
    page.get_by_role("button", name="Make 2 changes, of which 2 removals").click()
    expect(page.get_by_role("status")).to_have_text("2 changes made.")


def test_pages_of_the_configuration_are_accessible(
    collections: None, open_dashboard: OpenDashboard, dashboard_url: str
) -> None:
    dashboard = open_dashboard(dashboard_url, color_scheme="light")
    for text, status in (("", None), ("collections: []", None), ("collection: []", "422")):
        dashboard.open("/configuration")
        dashboard.expected_status = status
        if text:
            upload(dashboard.page, text, prune=True)
        dashboard.assert_accessible_in_both_themes()


def test_pages_of_the_configuration_fit_a_phone_screen(
    collections: None, open_dashboard: OpenDashboard, dashboard_url: str
) -> None:
    dashboard = open_dashboard(dashboard_url, viewport={"width": 390, "height": 844})
    page = dashboard.open("/configuration")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    upload(page, "collections: []", prune=True)
    expect(page.get_by_role("button", name="Make 2 changes")).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
