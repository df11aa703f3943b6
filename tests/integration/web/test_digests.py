"""Digests in the JSON API, the dashboard and the Atom feed."""

from datetime import date
from typing import Any

import httpx
import pytest
import time_machine
from lxml import etree, html
from sqlalchemy.orm import Session

from accession.auth.audit import AuditFilter, audit_entries
from accession.auth.roles import FeedKind, UserRole
from accession.core.workflow import Workflow
from accession.db.models import Collection
from accession.digests.issues import make_due_issues
from accession.digests.options import find_options
from accession.runs.ledger import get_or_create_checkpoint
from tests.fixtures.digests import RECIPIENT, MailServer, make_digest, smtp
from tests.fixtures.factories import day, make_collection
from tests.fixtures.web_client import Browser, bearer, make_feed_token, make_token
from tests.integration.digests.test_content import purchase, set_copies

__all__ = ["smtp"]

MONDAY = day(2024, 4, 29, 7)
FORM = {
    "frequency": "daily",
    "weekday": "monday",
    "time": "06:30",
    "time_zone": "Europe/Berlin",
    "recipients": f"{RECIPIENT}\r\nbob@library.example",
    "max_titles": "5",
    "send_empty": "true",
}


@pytest.fixture
def api(browser: Browser, session: Session) -> Browser:
    """Return a client that sends an operator's token."""
    browser.headers = bearer(make_token(session, role=UserRole.OPERATOR))
    return browser


def path_of(collection: Collection) -> str:
    return f"/collections/{collection.id}/digest"


def text_of(response: httpx.Response) -> str:
    """Return the displayed text of the page's content, with single spaces."""
    content = html.fromstring(response.text).get_element_by_id("content")
    return " ".join(" ".join(content.itertext()).split())


def actions(session: Session) -> list[tuple[str, str, str]]:
    entries = audit_entries(session, AuditFilter(action="digest"), limit=100)
    return [(entry.actor, entry.action, entry.subject) for entry in reversed(entries)]


def make_issue(session: Session, collection: Collection, titles: int = 1) -> None:
    """Make the issue of 22 to 28 April 2024, with purchased titles and an expired copy."""
    with time_machine.travel(day(2024, 4, 24), tick=False):
        make_digest(session, collection, time_zone="UTC", max_titles=2)
    for number in range(titles):
        purchase(session, collection, f"title-{number}", date(2024, 4, 25))
    set_copies(session, collection, "old", 3, date(2024, 4, 1))
    set_copies(session, collection, "old", 1, date(2024, 4, 25))
    checkpoint = get_or_create_checkpoint(session, collection, Workflow.PURCHASES)
    checkpoint.finish = checkpoint.confirmed = MONDAY
    session.commit()
    with time_machine.travel(MONDAY, tick=False):
        assert make_due_issues() == 1


# API


def test_digest_is_set_shown_and_removed(api: Browser, session: Session, collection: Collection) -> None:
    path = f"/api/v1{path_of(collection)}"
    assert api.get(path).status_code == 404
    new = {"frequency": "daily", "time": "06:30", "time_zone": "Europe/Berlin", "recipients": [RECIPIENT]}
    digest = api.request("PUT", path, json=new).json()
    assert digest["collection"] == collection.name
    assert digest["options"] == new | {"weekday": "monday", "send_empty": False, "max_titles": 20}
    assert digest["schedule"] == "At 06:30 every day (Europe/Berlin)"
    assert digest["latest"] is None
    assert digest["problem"].startswith("No mail server is configured")
    assert api.get(path).json() == digest
    assert api.get("/api/v1/digests").json() == [digest]
    assert api.request("DELETE", path).status_code == 204
    assert api.get("/api/v1/digests").json() == []
    assert actions(session) == [
        ("script", "digest.set", collection.name),
        ("script", "digest.remove", collection.name),
    ]


@pytest.mark.parametrize(
    "new",
    [
        {"time": "25:00"},
        {"time_zone": "Berlin"},
        {"recipients": ["nobody"]},
        {"max_titles": 0},
        {"weekday": "someday"},
        {"colour": "red"},
    ],
)
def test_invalid_options_are_rejected(api: Browser, collection: Collection, new: dict[str, Any]) -> None:
    assert api.request("PUT", f"/api/v1{path_of(collection)}", json=new).status_code == 422


def test_issues_and_preview_are_listed(api: Browser, session: Session, collection: Collection) -> None:
    make_issue(session, collection)
    path = f"/api/v1{path_of(collection)}"
    (issue,) = api.get(f"{path}/issues").json()["items"]
    assert (issue["first_day"], issue["last_day"]) == ("2024-04-22", "2024-04-28")
    assert (issue["purchased"], issue["removed"], issue["expired"]) == (1, 0, 1)
    assert [mail["state"] for mail in issue["mails"]] == ["pending"]
    with time_machine.travel(MONDAY, tick=False):
        preview = api.get(f"{path}/preview").json()
    assert preview["subject"] == f"{collection.name}: 1 purchased, 1 expired (22–28 April 2024)"
    assert "Title title-0" in preview["html"]
    assert "Title title-0" in preview["text"]
    assert preview["content"]["numbers"]["titles"] == 2


def test_issue_is_sent_now(api: Browser, session: Session, collection: Collection, smtp: MailServer) -> None:
    make_digest(session, collection)
    path = f"/api/v1{path_of(collection)}/issues"
    created = api.post(path, json={"recipients": ["bob@library.example"]})
    assert created.status_code == 201
    assert [(mail["recipient"], mail["state"]) for mail in created.json()["mails"]] == [
        ("bob@library.example", "sent")
    ]
    assert not created.json()["scheduled"]
    assert smtp.recipients == ["bob@library.example"]
    assert actions(session)[-1] == ("script", "digest.send", collection.name)


def test_viewer_cannot_change_or_send(browser: Browser, session: Session, collection: Collection) -> None:
    make_digest(session, collection)
    browser.headers = bearer(make_token(session, role=UserRole.VIEWER))
    path = path_of(collection)
    assert browser.get(f"/api/v1{path}").status_code == 200
    assert browser.request("PUT", f"/api/v1{path}", json={}).status_code == 403
    assert browser.request("DELETE", f"/api/v1{path}").status_code == 403
    assert browser.post(f"/api/v1{path}/issues", json={}).status_code == 403
    for page in (path, f"{path}/send", f"{path}/remove"):
        assert browser.post(page, data={}).status_code == 403


def test_viewer_sees_options_without_form(
    browser: Browser, session: Session, collection: Collection, ann: str, vic: str
) -> None:
    make_digest(session, collection)
    browser.log_in(vic)
    response = browser.get(path_of(collection))
    assert f"Recipients {RECIPIENT}" in text_of(response)
    assert "Send now" not in text_of(response)
    assert html.fromstring(response.text).findall(".//textarea") == []


# Dashboard


def test_digest_is_set_on_its_page(browser: Browser, session: Session, collection: Collection) -> None:
    path = path_of(collection)
    assert "Set up a digest" in text_of(browser.get(path))
    saved = browser.post(path, data=FORM)
    assert saved.headers["location"] == path
    page = text_of(browser.get(path))
    assert "Digest saved." in page
    assert "At 06:30 every day (Europe/Berlin)" in page
    assert "No mail server is configured" in page
    options = find_options(session, collection)
    assert options is not None
    assert options.recipients == (RECIPIENT, "bob@library.example")
    assert (options.max_titles, options.send_empty) == (5, True)
    assert RECIPIENT in text_of(browser.get(f"/collections/{collection.id}"))


def test_invalid_form_is_shown_again(browser: Browser, session: Session, collection: Collection) -> None:
    response = browser.post(path_of(collection), data=FORM | {"recipients": "ann"})
    assert response.status_code == 422
    assert "The recipient 'ann' is invalid" in text_of(response)
    assert html.fromstring(response.text).get_element_by_id("time").get("value") == "06:30"
    assert find_options(session, collection) is None


def test_form_previews_options_without_saving(
    browser: Browser, session: Session, collection: Collection
) -> None:
    response = browser.get(f"{path_of(collection)}/form", params=FORM)
    (frame,) = html.fromstring(response.text).iter("iframe")
    assert frame.get("src") == f"{path_of(collection)}/preview?frequency=daily&max_titles=5"
    assert "Preview with these options" in text_of(response)
    assert find_options(session, collection) is None


def test_preview_has_covers_of_this_server_and_its_own_policy(
    browser: Browser, session: Session, collection: Collection
) -> None:
    purchase(session, collection, "abc", date(2024, 4, 28))
    checkpoint = get_or_create_checkpoint(session, collection, Workflow.PURCHASES)
    checkpoint.finish = checkpoint.confirmed = MONDAY
    session.commit()
    with time_machine.travel(MONDAY, tick=False):
        response = browser.get(f"{path_of(collection)}/preview", params={"frequency": "daily"})
    page = html.fromstring(response.text)
    assert [image.get("src") for image in page.iter("img")] == ["/covers/abc"]
    policy = response.headers["content-security-policy"]
    assert "script-src" not in policy
    assert "frame-ancestors 'self'" in policy
    assert "frame-ancestors 'none'" in browser.get(path_of(collection)).headers["content-security-policy"]


def test_issue_is_listed_and_shown(browser: Browser, session: Session, collection: Collection) -> None:
    make_issue(session, collection)
    page = text_of(browser.get(path_of(collection)))
    assert "2024-04-22 – 2024-04-28" in page
    assert f"pending {RECIPIENT}" in page
    assert "Title title-0" in browser.get(f"{path_of(collection)}/issues/1").text
    other = make_collection(session, "Birch Library")
    assert browser.get(f"{path_of(other)}/issues/1").status_code == 404


def test_titles_that_the_mail_leaves_out_are_listed(
    browser: Browser, session: Session, collection: Collection
) -> None:
    make_issue(session, collection, titles=5)
    path = f"{path_of(collection)}/titles?section="
    days = "&first=2024-04-22&last=2024-04-28"
    page = text_of(browser.get(f"{path}purchased{days}"))
    assert "5 titles" in page
    assert all(f"Title title-{number}" in page for number in range(5))
    assert "2 copies expired or removed, 1 left" in text_of(browser.get(f"{path}expired{days}"))
    assert "No titles" in text_of(browser.get(f"{path}removed{days}"))
    assert browser.get(f"{path}removed&first=2024-04-28&last=2024-04-22").status_code == 422
    assert browser.get(f"{path}removed&first=2024-04-28&last=9999-12-31").status_code == 422


def test_sending_by_hand_shows_result(
    browser: Browser, session: Session, collection: Collection, smtp: MailServer
) -> None:
    make_digest(session, collection, recipients=())
    smtp.replies["bob@library.example"] = "550 no such user"
    path = path_of(collection)
    browser.post(f"{path}/send", data={"recipients": f"{RECIPIENT}, bob@library.example"})
    page = text_of(browser.get(path))
    assert f"Digest sent to {RECIPIENT}. bob@library.example: The mail server 127.0.0.1 rejects" in page
    assert "sent by hand" in page
    browser.post(f"{path}/send", data={})
    assert "has no recipients" in text_of(browser.get(path))


def test_digest_is_removed_after_confirmation(
    browser: Browser, session: Session, collection: Collection
) -> None:
    make_digest(session, collection)
    path = f"{path_of(collection)}/remove"
    assert f"Remove the digest of {collection.name}?" in text_of(browser.get(path))
    assert browser.post(path).headers["location"] == f"/collections/{collection.id}"
    assert find_options(session, collection) is None


# Feed


def test_feed_is_read_with_a_token_of_its_collection(
    browser: Browser, session: Session, collection: Collection
) -> None:
    make_issue(session, collection)
    other = make_collection(session, "Birch Library")
    make_digest(session, other)
    token = make_feed_token(session, FeedKind.DIGESTS, collection=collection.name)
    browser.headers = {}
    response = browser.get(f"/digests/{collection.id}.atom?token={token}")
    assert (response.status_code, response.headers["content-type"]) == (200, "application/atom+xml")
    assert len(etree.fromstring(response.content)) > 5
    assert browser.get(f"/digests/{other.id}.atom?token={token}").status_code == 403


def test_feed_of_another_kind_of_token_is_refused(
    browser: Browser, session: Session, collection: Collection
) -> None:
    make_issue(session, collection)
    token = make_feed_token(session, FeedKind.OPDS)
    assert browser.get(f"/digests/{collection.id}.atom", headers=bearer(token)).status_code == 403


def test_feed_without_digest_is_not_found(browser: Browser, collection: Collection) -> None:
    response = browser.get(f"/digests/{collection.id}.atom")
    assert response.status_code == 404
    assert "has no digest" in response.json()["detail"]


def test_unchanged_feed_is_not_sent_again(browser: Browser, session: Session, collection: Collection) -> None:
    make_issue(session, collection)
    path = f"/digests/{collection.id}.atom"
    etag = browser.get(path).headers["etag"]
    response = browser.get(path, headers={"If-None-Match": etag})
    assert (response.status_code, response.content) == (304, b"")
