"""Notifications in a browser: add a channel and a rule, test, read the delivery log."""

import pytest
from playwright.sync_api import expect
from sqlalchemy.orm import Session

from accession.db.models import Collection
from tests.fixtures.dashboard import OpenDashboard
from tests.fixtures.notifications import WebhookReceiver, populate_notifications, webhook

__all__ = ["webhook"]

PATHS = [
    "/notifications",
    "/notifications/channels/add",
    "/notifications/channels/1/remove",
    "/notifications/rules/add",
    "/notifications/rules/1/edit",
]


@pytest.fixture
def channel(session: Session, collection: Collection) -> None:
    """Store a channel with a rule and a message."""
    populate_notifications(session)
    session.commit()


def test_channel_is_added_tested_and_given_a_rule(
    collection: Collection, webhook: WebhookReceiver, open_dashboard: OpenDashboard, dashboard_url: str
) -> None:
    page = open_dashboard(dashboard_url).open("/")
    page.get_by_role("link", name="Notifications").click()
    expect(page.get_by_text("No channels")).to_be_visible()
    page.get_by_role("link", name="Add channel").click()
    page.get_by_label("Name").fill("Chat room")
    page.get_by_label("URL of the service").fill(webhook.url)
    page.get_by_role("button", name="Add").click()
    page.get_by_role("button", name="Send a test message to Chat room").click()
    expect(page.get_by_role("status")).to_have_text('Test message sent to "Chat room".')
    assert webhook.titles == ["Accession: Test"]
    page.get_by_role("link", name="Add rule").click()
    page.get_by_label("Name").fill("Nights")
    page.get_by_label("Run failed").check()
    page.get_by_label("Collections").select_option("Alder Library")
    page.get_by_label("Quiet hours", exact=True).fill("22:00-07:00")
    page.get_by_role("button", name="Add", exact=True).click()
    expect(page.locator("#rules")).to_contain_text("22:00-07:00 UTC")
    page.get_by_role("link", name="Remove rule Nights").click()
    page.get_by_role("button", name="Remove rule").click()
    expect(page.get_by_role("status")).to_have_text('Rule "Nights" removed.')


def test_log_shows_the_text_of_a_message(
    channel: None, open_dashboard: OpenDashboard, dashboard_url: str
) -> None:
    page = open_dashboard(dashboard_url).open("/notifications")
    page.get_by_text("Accession: Export failed: alder").click()
    expect(page.get_by_text("Reason: The target is full.")).to_be_visible()
    page.get_by_label("State").select_option("sent")
    page.get_by_role("button", name="Filter").click()
    expect(page.get_by_text("No matching messages.")).to_be_visible()


def test_pages_of_notifications_are_accessible(
    channel: None, open_dashboard: OpenDashboard, dashboard_url: str
) -> None:
    dashboard = open_dashboard(dashboard_url, color_scheme="light")
    for path in PATHS:
        dashboard.open(path)
        dashboard.assert_accessible_in_both_themes()


def test_pages_of_notifications_fit_a_phone_screen(
    channel: None, open_dashboard: OpenDashboard, dashboard_url: str
) -> None:
    dashboard = open_dashboard(dashboard_url, viewport={"width": 390, "height": 844})
    for path in PATHS:
        page = dashboard.open(path)
        assert page.evaluate("document.documentElement.scrollWidth") <= 390, path
