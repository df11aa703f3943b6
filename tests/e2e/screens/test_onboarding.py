"""First use of a running installation: add a collection, import it, search it, and fix a wrong key."""

import re

from playwright.sync_api import expect

from tests.fixtures.dashboard import InstallationWithVendor, OpenDashboard


def test_collection_is_added_imported_and_searched(
    open_dashboard: OpenDashboard, installation: InstallationWithVendor
) -> None:
    sandbox = installation.vendor.sandbox
    catalogue = sandbox.catalogue
    dashboard = open_dashboard(installation.base_url)
    page = dashboard.page
    dashboard.add_collection("Alder Library", installation.vendor.base_url)
    page.get_by_role("button", name="Test connection").click()
    expect(page.get_by_role("status").first).to_contain_text('accepted the account of "Alder Library"')
    # Slow enough for the progress to be seen on any machine.
    sandbox.latency_ms = 2_000
    page.get_by_role("button", name="Start the first import").click()

    # The page updates itself without being reloaded.
    page.get_by_role("link", name="Overview").click()
    row = page.get_by_role("row", name="Alder Library")
    expect(row.get_by_role("progressbar")).to_be_visible()
    expect(row).to_contain_text(re.compile(r"\d+ %"))
    requests = len(dashboard.requested_urls)
    sandbox.latency_ms = 0
    expect(row.locator("[data-label=Titles]")).to_have_text(f"{len(catalogue) - catalogue.unusable}")
    expect(row.get_by_role("progressbar")).to_have_count(0)
    assert all(url.startswith(dashboard.base_url) for url in dashboard.requested_urls)
    assert len(dashboard.requested_urls) > requests
    dashboard.assert_accessible()

    title = next(purchase.work.title for purchase in catalogue.purchases if purchase.flaw is None)
    page.get_by_role("link", name="Catalogue").click()
    page.get_by_label("Title, author, ISBN or id").fill(title.upper())
    page.get_by_role("button", name="Search").click()
    page.locator(".covers").get_by_role("link", name=title).first.click()
    expect(page.get_by_role("heading", level=1)).to_have_text(title)
    expect(page.get_by_role("heading", name="MARC record")).to_be_visible()
    dashboard.assert_accessible()

    page.get_by_role("link", name="Rejected records", exact=True).click()
    page.get_by_role("row", name="Alder Library").get_by_role("link").click()
    page.get_by_text("Raw record, as the vendor sent it").click()
    expect(page.get_by_role("region", name="Raw XML")).to_be_visible()


def test_wrong_account_key_is_reported_and_corrected(
    open_dashboard: OpenDashboard, installation: InstallationWithVendor
) -> None:
    dashboard = open_dashboard(installation.base_url)
    page = dashboard.page
    dashboard.add_collection("Birch Library", installation.vendor.base_url, account_key="mistyped")
    page.get_by_role("button", name="Start the first import").click()
    page.get_by_role("link", name="Overview").click()
    row = page.get_by_role("row", name="Birch Library")
    expect(row).to_contain_text("check the account id and the account key")
    expect(page.get_by_role("status")).to_contain_text("failing")
    dashboard.assert_accessible()

    page.get_by_role("link", name="Birch Library").click()
    page.get_by_role("link", name="Edit").click()
    page.get_by_label("Account key").fill(installation.vendor.account.account_key)
    page.get_by_role("button", name="Save").click()
    page.get_by_role("button", name="Test connection").click()
    expect(page.get_by_role("status").first).to_contain_text("accepted the account")
    page.get_by_role("button", name="Run purchases now").click()
    page.get_by_role("link", name="Overview").click()
    expect(row).to_contain_text("healthy")
