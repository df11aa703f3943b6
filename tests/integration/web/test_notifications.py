"""Notifications in the JSON API and the dashboard."""

from typing import Any

import httpx
import pytest
from lxml import html
from sqlalchemy import select
from sqlalchemy.orm import Session

from accession.auth.audit import AuditFilter, audit_entries
from accession.auth.roles import UserRole
from accession.core.clock import utc_now
from accession.db.models import Collection, Notification, NotificationChannel, NotificationRule
from accession.notifications.incidents import apply_rules
from accession.notifications.problems import DiskSpace, MachineState
from accession.notifications.rules import rule_views
from tests.fixtures.notifications import (
    PASSWORD_IN_URL,
    TOKEN_IN_URL,
    WebhookReceiver,
    make_channel,
    webhook,
)
from tests.fixtures.web_client import Browser, OpenBrowser, bearer, make_token, make_user

__all__ = ["webhook"]

API = "/api/v1/notifications"
PAGE = "/notifications"
RULE_FORM = {
    "name": "night",
    "channel": "ops",
    "min_severity": "error",
    "quiet_hours": "22:00-07:00",
    "time_zone": "Europe/Berlin",
    "still_failing_hours": "12",
    "no_success_hours": "30",
    "rejected_records": "5",
    "disk_free_percent": "20",
}


@pytest.fixture
def api(browser: Browser, session: Session) -> Browser:
    """Return a client that sends an administrator's token."""
    browser.headers = bearer(make_token(session, role=UserRole.ADMINISTRATOR))
    return browser


def text_of(response: httpx.Response) -> str:
    """Return the displayed text of the page's content, with single spaces."""
    content = html.fromstring(response.text).get_element_by_id("content")
    return " ".join(" ".join(content.itertext()).split())


def queue_message(session: Session, percent: int) -> None:
    disk = DiskSpace(f"disk:{percent}", f"disk {percent}", percent)
    apply_rules(session, MachineState({}, (disk,)), utc_now())
    session.commit()


def actions(session: Session) -> list[tuple[str, str, str]]:
    """Return actor, action and subject of the audit log, oldest first."""
    entries = audit_entries(session, AuditFilter(action="notification_channel"), limit=100)
    entries += audit_entries(session, AuditFilter(action="notification_rule"), limit=100)
    return [(entry.actor, entry.action, entry.subject) for entry in sorted(entries, key=lambda e: e.id)]


# API


def test_channel_is_created_tested_and_deleted(
    api: Browser, session: Session, webhook: WebhookReceiver
) -> None:
    created = api.post(f"{API}/channels", json={"name": "ops", "url": webhook.url})
    assert created.status_code == 201
    channel = created.json()
    assert channel.keys() == {
        *("id", "name", "service", "rules", "created_at"),
        *("last_sent_at", "last_state", "last_error"),
    }
    assert (channel["service"], channel["rules"]) == ("JSON", 1)
    assert api.post(f"{API}/channels/1/test").json() == {"sent": True, "error": None}
    assert webhook.titles == ["Accession: Test"]
    webhook.status = 500
    result = api.post(f"{API}/channels/1/test").json()
    assert not result["sent"]
    listed = api.get(f"{API}/channels")
    assert listed.json()[0]["last_error"] == result["error"]
    for secret in (PASSWORD_IN_URL, TOKEN_IN_URL):
        assert secret not in created.text + listed.text
    assert api.request("DELETE", f"{API}/channels/1").status_code == 204
    assert api.get(f"{API}/channels").json() == []
    assert len(api.get(f"{API}/log").json()["items"]) == 2
    assert actions(session) == [
        ("script", "notification_channel.add", "ops"),
        ("script", "notification_channel.test", "ops"),
        ("script", "notification_channel.test", "ops"),
        ("script", "notification_channel.remove", "ops"),
    ]


@pytest.mark.parametrize(
    ("channel", "status"),
    [
        ({"name": "ops", "url": f"nosuchservice://{TOKEN_IN_URL}"}, 422),
        ({"name": "ops", "url": ""}, 422),
        ({"name": "second", "url": "json://127.0.0.1:9"}, 409),
    ],
)
def test_invalid_channel_is_rejected(
    api: Browser, session: Session, channel: dict[str, str], status: int
) -> None:
    make_channel(session, "json://127.0.0.1:9", "second")
    response = api.post(f"{API}/channels", json=channel)
    assert response.status_code == status
    assert TOKEN_IN_URL not in response.text


def test_rule_is_created_replaced_and_deleted(api: Browser, session: Session, collection: Collection) -> None:
    make_channel(session, "json://127.0.0.1:9")
    rule = {"name": "night", "channel": "ops", "events": ["run_failed"], "collections": [collection.name]}
    created = api.post(f"{API}/rules", json=rule)
    assert created.status_code == 201
    stored = created.json()
    assert {**stored, **rule} == stored
    assert (stored["still_failing_hours"], stored["min_severity"]) == (24, "warning")
    path = f"{API}/rules/{stored['id']}"
    replaced = api.request("PUT", path, json={"name": "night", "channel": "ops", "min_severity": "critical"})
    assert (replaced.json()["events"], replaced.json()["min_severity"]) == ([], "critical")
    assert [each["name"] for each in api.get(f"{API}/rules").json()] == ["night", "ops"]
    assert api.request("DELETE", path).status_code == 204
    assert api.request("PUT", path, json=rule).status_code == 404


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({"quiet_hours": "at night"}, 422),
        ({"events": ["nonsense"]}, 422),
        ({"still_failing_hours": 0}, 422),
        ({"channel": "nowhere"}, 404),
        ({"collections": ["Nowhere"]}, 404),
        ({"name": "ops"}, 409),
        ({"unknown": 1}, 422),
    ],
)
def test_invalid_rule_is_rejected(
    api: Browser, session: Session, changes: dict[str, Any], status: int
) -> None:
    make_channel(session, "json://127.0.0.1:9")
    response = api.post(f"{API}/rules", json={"name": "night", "channel": "ops", **changes})
    assert response.status_code == status


def test_log_is_paged_and_filtered(api: Browser, session: Session) -> None:
    make_channel(session, "json://127.0.0.1:9")
    for percent in range(3):
        queue_message(session, percent)
    page = api.get(f"{API}/log?limit=2").json()
    assert [item["title"] for item in page["items"]] == [
        "Accession: Disk nearly full: disk 2",
        "Accession: Disk nearly full: disk 1",
    ]
    rest = api.get(f"{API}/log?limit=2&cursor={page['next']}").json()
    assert (len(rest["items"]), rest["next"]) == (1, None)
    assert api.get(f"{API}/log?state=sent").json()["items"] == []
    assert api.get(f"{API}/log?channel=nowhere").json()["items"] == []
    assert api.get(f"{API}/log?state=nonsense").status_code == 422


def test_roles_limit_what_a_token_may_change(browser: Browser, session: Session) -> None:
    """Only administrators may name hosts to which this server sends requests."""
    make_channel(session, "json://127.0.0.1:9")
    channel = {"name": "x", "url": "json://127.0.0.1:9"}
    rule = {"name": "x", "channel": "ops"}
    expected = {
        UserRole.VIEWER: (200, 403, 403, 403, 403),
        UserRole.OPERATOR: (200, 403, 403, 200, 201),
    }
    for role, statuses in expected.items():
        headers = bearer(make_token(session, role.value, role))
        responses = [
            browser.get(f"{API}/channels", headers=headers),
            browser.post(f"{API}/channels", json=channel, headers=headers),
            browser.request("DELETE", f"{API}/channels/1", headers=headers),
            browser.post(f"{API}/channels/1/test", headers=headers),
            browser.post(f"{API}/rules", json=rule, headers=headers),
        ]
        assert tuple(response.status_code for response in responses) == statuses


# Dashboard


def test_page_without_channels_says_what_to_do(browser: Browser, database: None) -> None:
    text = text_of(browser.get(PAGE))
    assert "No channels" in text
    assert "No messages yet." in text


def test_page_adds_tests_and_removes_a_channel(
    browser: Browser, session: Session, webhook: WebhookReceiver
) -> None:
    assert "Add a channel" in text_of(browser.get(f"{PAGE}/channels/add"))
    form = {"name": " ops ", "url": webhook.url, "default_rule": "true"}
    added = browser.post(f"{PAGE}/channels/add", data=form)
    assert (added.status_code, added.headers["location"]) == (303, PAGE)
    page = browser.get(PAGE)
    assert '"ops" added. Next: send a test message.' in text_of(page)
    assert browser.post(f"{PAGE}/channels/1/test").status_code == 303
    page = browser.get(PAGE)
    assert 'Test message sent to "ops".' in text_of(page)
    assert "Accession: Test" in text_of(page)
    for secret in (PASSWORD_IN_URL, TOKEN_IN_URL):
        assert secret not in page.text
    assert "Remove the channel ops?" in text_of(browser.get(f"{PAGE}/channels/1/remove"))
    browser.post(f"{PAGE}/channels/1/remove")
    assert 'Channel "ops" removed.' in text_of(browser.get(PAGE))
    assert session.scalars(select(NotificationChannel)).all() == []


def test_failed_test_message_is_explained_on_the_page(
    browser: Browser, session: Session, webhook: WebhookReceiver
) -> None:
    make_channel(session, webhook.url)
    webhook.status = 500
    browser.post(f"{PAGE}/channels/1/test")
    assert "because it responded with status 500" in text_of(browser.get(PAGE))


def test_invalid_channel_form_keeps_the_name_but_not_the_url(browser: Browser, database: None) -> None:
    form = {"name": "ops", "url": f"nosuchservice://{TOKEN_IN_URL}"}
    response = browser.post(f"{PAGE}/channels/add", data=form)
    assert response.status_code == 422
    assert "not one that Apprise supports" in text_of(response)
    assert 'value="ops"' in response.text
    assert TOKEN_IN_URL not in response.text


def test_page_adds_changes_and_removes_a_rule(
    browser: Browser, session: Session, collection: Collection
) -> None:
    make_channel(session, "json://127.0.0.1:9", "ops")
    assert "Add a rule" in text_of(browser.get(f"{PAGE}/rules/add"))
    form = {**RULE_FORM, "events": ["run_failed", "recovered"], "collections": [collection.name]}
    assert browser.post(f"{PAGE}/rules/add", data=form).status_code == 303
    text = text_of(browser.get(PAGE))
    assert "night ops run failed, recovered Alder Library error 22:00-07:00 Europe/Berlin" in text
    form_page = html.fromstring(browser.get(f"{PAGE}/rules/2/edit").text)
    checked = form_page.xpath("//input[@name='events'][@checked]/@value")
    assert checked == ["run_failed", "recovered"]
    assert form_page.xpath("//select[@name='collections']/option[@selected]/text()") == ["Alder Library"]
    assert browser.post(f"{PAGE}/rules/2/edit", data={**RULE_FORM, "name": "all"}).status_code == 303
    session.expire_all()
    rule = rule_views(session)[0]
    assert (rule.name, rule.events, rule.collections, rule.disk_free_percent) == ("all", (), (), 20)
    assert "Remove the rule all?" in text_of(browser.get(f"{PAGE}/rules/2/remove"))
    browser.post(f"{PAGE}/rules/2/remove")
    session.expire_all()
    assert [rule.name for rule in session.scalars(select(NotificationRule))] == ["ops"]
    assert actions(session) == [
        ("local", "notification_rule.add", "night"),
        ("local", "notification_rule.edit", "all"),
        ("local", "notification_rule.remove", "all"),
    ]


@pytest.mark.parametrize("path", ["add", "1/edit"])
def test_invalid_rule_form_keeps_what_was_entered(browser: Browser, session: Session, path: str) -> None:
    make_channel(session, "json://127.0.0.1:9")
    form = {**RULE_FORM, "quiet_hours": "at night", "events": ["run_failed"]}
    response = browser.post(f"{PAGE}/rules/{path}", data=form)
    assert response.status_code == 422
    assert "enter them as 22:00-07:00" in text_of(response)
    page = html.fromstring(response.text)
    assert page.get_element_by_id("quiet_hours").get("value") == "at night"
    assert page.xpath("//input[@name='events'][@checked]/@value") == ["run_failed"]


def test_delivery_log_is_filtered_and_continued(browser: Browser, session: Session) -> None:
    make_channel(session, "json://127.0.0.1:9")
    for percent in range(3):
        queue_message(session, percent)
    session.add_all(
        Notification(
            channel="gone",
            kind="test",
            severity="",
            cause="",
            items=[],
            state="sent",
            tries=1,
            created_at=utc_now(),
            due_at=utc_now(),
        )
        for _ in range(50)
    )
    session.commit()
    first = browser.get(PAGE)
    assert "Disk nearly full" not in text_of(first)
    (link,) = html.fromstring(first.text).xpath("//a[text()='Next page']/@href")
    text = text_of(browser.get(link))
    assert "Disk nearly full: disk 0" in text
    assert "Reason: 0 % are free, less than 10 %." in text
    assert "Accession: Test" not in text_of(browser.get(f"{PAGE}?state=pending"))
    assert "No matching messages." in text_of(browser.get(f"{PAGE}?state=failed&channel=ops"))


def test_viewer_sees_the_page_without_actions(open_browser: OpenBrowser, session: Session) -> None:
    make_channel(session, "json://127.0.0.1:9")
    make_user(session, "vic", UserRole.VIEWER)
    browser = open_browser()
    browser.log_in("vic")
    page = browser.get(PAGE)
    assert "ops" in text_of(page)
    for label in ("Send test", "Remove", "Edit", "Add rule", "Add channel"):
        assert label not in text_of(page)
    for path in ("channels/add", "rules/add", "rules/1/edit", "channels/1/remove"):
        assert browser.get(f"{PAGE}/{path}").status_code == 403
