"""Webhooks in a browser: add one, test it, read its deliveries."""

import pytest
from playwright.sync_api import expect
from sqlalchemy.orm import Session

from accession.db.models import Collection
from accession.webhooks.delivery import deliver_events
from tests.fixtures.dashboard import OpenDashboard
from tests.fixtures.factories import store_title
from tests.fixtures.webhooks import Receiver, make_webhook, receiver

__all__ = ["receiver"]

PATHS = [
    "/webhooks",
    "/webhooks/add",
    "/webhooks/1",
    "/webhooks/1/edit",
    "/webhooks/1/remove",
    "/webhooks/1/rotate-secret",
    "/webhooks/deliveries/1",
    "/webhooks/deliveries/2",
]


@pytest.fixture
def failing_webhook(session: Session, collection: Collection, receiver: Receiver) -> None:
    """Store a webhook with a delivered, a failed and a waiting event."""
    make_webhook(session, receiver.url, "Discovery index")
    for number, name in enumerate("abc"):
        receiver.status, receiver.response = (500, "Index is read-only.") if number else (200, "ok")
        store_title(session, collection, name, description="A long description. " * 30)
        deliver_events(1)


def test_webhook_is_added_tested_and_paused(
    collection: Collection, receiver: Receiver, open_dashboard: OpenDashboard, dashboard_url: str
) -> None:
    page = open_dashboard(dashboard_url).open("/")
    page.get_by_role("button", name="Administration").click()
    page.get_by_role("link", name="Webhooks").click()
    expect(page.get_by_text("No webhooks")).to_be_visible()
    page.get_by_role("link", name="Add webhook").first.click()
    page.get_by_label("Name").fill("Discovery index")
    page.get_by_label("URL").fill(receiver.url)
    page.get_by_label("run.finished").uncheck()
    page.get_by_label("Collections").select_option("Alder Library")
    page.get_by_role("button", name="Add", exact=True).click()
    assert page.get_by_label("Secret").input_value().startswith("whsec_")
    page.get_by_role("link", name="Done").click()
    page.get_by_role("button", name="Send test").click()
    expect(page.get_by_role("status")).to_have_text("Test event accepted.")
    assert receiver.types == ["webhook.test"]
    page.get_by_label("Reason").fill("The index is being rebuilt.")
    page.get_by_role("button", name="Pause").click()
    expect(page.locator("#facts")).to_contain_text("The index is being rebuilt.")
    page.get_by_role("button", name="Resume").click()
    expect(page.locator("#facts")).to_contain_text("active")


def test_failed_event_is_read_and_skipped(
    failing_webhook: None, open_dashboard: OpenDashboard, dashboard_url: str
) -> None:
    page = open_dashboard(dashboard_url).open("/webhooks")
    page.get_by_role("link", name="Discovery index").click()
    page.get_by_label("State").select_option("pending")
    page.get_by_role("button", name="Filter").click()
    page.get_by_role("link", name="Delivery 2").click()
    expect(page.locator("#body")).to_contain_text('"identifier": "b"')
    expect(page.locator("#response")).to_have_text("Index is read-only.")
    expect(page.get_by_role("link", name="b", exact=True)).to_have_attribute(
        "href", "/titles/b/collections/1"
    )
    page.get_by_role("button", name="Skip").click()
    expect(page.get_by_role("status")).to_contain_text("Event skipped.")
    page.get_by_role("button", name="Send again").click()
    expect(page.get_by_role("status")).to_have_text("The event will be sent again.")


def test_pages_of_webhooks_are_accessible(
    failing_webhook: None, open_dashboard: OpenDashboard, dashboard_url: str
) -> None:
    dashboard = open_dashboard(dashboard_url, color_scheme="light")
    for path in PATHS:
        dashboard.open(path)
        dashboard.assert_accessible_in_both_themes()


def test_pages_of_webhooks_fit_a_phone_screen(
    failing_webhook: None, open_dashboard: OpenDashboard, dashboard_url: str
) -> None:
    dashboard = open_dashboard(dashboard_url, viewport={"width": 390, "height": 844})
    for path in PATHS:
        page = dashboard.open(path)
        assert page.evaluate("document.documentElement.scrollWidth") <= 390, path
