"""Changing a schedule and the request limits in a browser, as a person does."""

from playwright.sync_api import expect

from accession.db.models import Collection
from tests.fixtures.dashboard import OpenDashboard


def test_schedule_is_previewed_and_saved(
    stored_collection: Collection, open_dashboard: OpenDashboard, dashboard_url: str
) -> None:
    page = open_dashboard(dashboard_url).open(f"/collections/{stored_collection.id}")
    page.get_by_role("link", name="Change the schedule of purchases").click()
    page.get_by_label("Cron expression").fill("30 2 * * *")
    page.get_by_label("Time zone").fill("Europe/Berlin")
    page.get_by_label("Jitter window in minutes").fill("0")
    page.get_by_role("button", name="Show next starts").click()
    expect(page.get_by_role("heading", name="Next starts if saved")).to_be_visible()
    expect(page.get_by_role("cell", name="02:30 CE")).to_have_count(5)
    page.get_by_role("button", name="Save").click()
    expect(page.get_by_text("Schedule changed: purchases.")).to_be_visible()
    expect(page.get_by_text("At 02:30 every day (Europe/Berlin)")).to_be_visible()


def test_invalid_schedule_can_be_corrected(
    stored_collection: Collection, open_dashboard: OpenDashboard, dashboard_url: str
) -> None:
    dashboard = open_dashboard(dashboard_url)
    dashboard.expected_status = "422"
    page = dashboard.open(f"/collections/{stored_collection.id}/schedules/events")
    page.get_by_label("Cron expression").fill("0 25 * * *")
    page.get_by_role("button", name="Save").click()
    expect(page.get_by_role("alert")).to_contain_text("is invalid (bad hour)")
    expect(page.get_by_label("Cron expression")).to_have_value("0 25 * * *")
    page.get_by_label("Cron expression").fill("0 */2 * * *")
    page.get_by_role("button", name="Save").click()
    expect(page.get_by_text("Schedule changed: events.")).to_be_visible()


def test_request_limits_are_changed(
    stored_collection: Collection, open_dashboard: OpenDashboard, dashboard_url: str
) -> None:
    page = open_dashboard(dashboard_url).open(f"/collections/{stored_collection.id}")
    page.get_by_role("link", name="Change the request limits").click()
    page.get_by_label("Simultaneous requests").fill("2")
    page.get_by_label("Requests per second").fill("0.5")
    page.get_by_role("button", name="Save").click()
    expect(page.get_by_text("Request limits changed.")).to_be_visible()
    expect(page.get_by_text("2 at once, 0.5 per second")).to_be_visible()
