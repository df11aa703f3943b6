"""Webhooks in the JSON API and the dashboard."""

from datetime import timedelta

import httpx
import pytest
import standardwebhooks
from lxml import html
from sqlalchemy import select
from sqlalchemy.orm import Session

from accession.auth.audit import AuditFilter, audit_entries
from accession.auth.roles import UserRole
from accession.core.clock import utc_now
from accession.db.models import Collection, Webhook, WebhookDelivery
from accession.webhooks.delivery import deliver_events
from accession.webhooks.registry import webhook_views
from tests.fixtures.factories import store_title
from tests.fixtures.web_client import Browser, OpenBrowser, bearer, make_token, make_user
from tests.fixtures.webhooks import Receiver, make_webhook, receiver

__all__ = ["receiver"]

API = "/api/v1/webhooks"
PAGE = "/webhooks"
ALL_EVENTS = ["title.added", "title.changed", "title.removed", "run.finished"]


@pytest.fixture
def api(browser: Browser, session: Session) -> Browser:
    """Return a client that sends an administrator's token."""
    browser.headers = bearer(make_token(session, role=UserRole.ADMINISTRATOR))
    return browser


def text_of(response: httpx.Response) -> str:
    """Return the displayed text of the page's content, with single spaces."""
    content = html.fromstring(response.text).get_element_by_id("content")
    return " ".join(" ".join(content.itertext()).split())


def actions(session: Session) -> list[tuple[str, str]]:
    """Return action and subject of the audit log, oldest first."""
    session.rollback()
    entries = audit_entries(session, AuditFilter(action="webhook"), limit=100)
    return [(entry.action, entry.subject) for entry in reversed(entries)]


def states(session: Session) -> list[str]:
    """Return the states of the deliveries, oldest first."""
    session.rollback()
    return list(session.scalars(select(WebhookDelivery.state).order_by(WebhookDelivery.id)))


# API


def test_webhook_is_created_changed_and_deleted(
    api: Browser, session: Session, collection: Collection
) -> None:
    created = api.post(API, json={"name": "index", "url": "https://index.example/events"})
    assert created.status_code == 201
    assert created.json()["secret"].startswith("whsec_")
    webhook = created.json()["webhook"]
    assert webhook == {
        "id": 1,
        "name": "index",
        "url": "https://index.example/events",
        "events": ALL_EVENTS,
        "collections": [],
        "is_paused": False,
        "paused_at": None,
        "pause_reason": None,
        "pending": 0,
        "pending_since": None,
        "failing_since": None,
        "last_error": None,
        "last_delivered_at": None,
        "previous_secret_until": None,
        "created_at": webhook["created_at"],
    }
    assert api.get(API).json() == [webhook]
    assert created.json()["secret"] not in api.get(f"{API}/1").text
    changed = api.request(
        "PUT",
        f"{API}/1",
        json={
            "name": "search",
            "url": "https://search.example/",
            "events": ["title.removed"],
            "collections": [collection.name],
        },
    ).json()
    assert (changed["name"], changed["url"]) == ("search", "https://search.example/")
    assert (changed["events"], changed["collections"]) == (["title.removed"], ["Alder Library"])
    assert api.request("DELETE", f"{API}/1").status_code == 204
    assert api.get(API).json() == []
    assert actions(session) == [
        ("webhook.add", "index"),
        ("webhook.edit", "search"),
        ("webhook.remove", "search"),
    ]


@pytest.mark.parametrize(
    ("values", "status", "reason"),
    [
        ({"url": "ftp://index.example"}, 422, "such as https://"),
        ({"url": "https://user:secret@index.example"}, 422, "contains a user, a password"),
        ({"url": "https://index.example/#top"}, 422, "contains a user, a password"),
        ({"url": "https://[::1"}, 422, "such as https://"),
        ({"events": []}, 422, "at least 1 item"),
        ({"collections": ["Unknown"]}, 404, 'No collection found named "Unknown"'),
        ({"name": "second"}, 409, 'A webhook named "second" already exists'),
        ({"name": " padded "}, 422, "is invalid"),
        ({"secret": "whsec_"}, 422, "Extra inputs"),
    ],
)
@pytest.mark.parametrize("method", ["POST", "PUT"])
def test_invalid_webhook_is_rejected(
    api: Browser, session: Session, method: str, values: dict[str, object], status: int, reason: str
) -> None:
    make_webhook(session, name="first")
    make_webhook(session, name="second")
    path = API if method == "POST" else f"{API}/1"
    response = api.request(method, path, json={"name": "new", "url": "https://index.example", **values})
    assert response.status_code == status
    assert reason in response.text.replace('\\"', '"')
    assert "user:secret" not in response.text
    assert actions(session) == [("webhook.add", "first"), ("webhook.add", "second")]


def test_secret_is_rotated(api: Browser, session: Session, receiver: Receiver) -> None:
    old = api.post(API, json={"name": "index", "url": receiver.url}).json()["secret"]
    new = api.post(f"{API}/1/rotate-secret").json()["secret"]
    assert api.get(f"{API}/1").json()["previous_secret_until"] is not None
    assert api.post(f"{API}/1/test").json() == {"sent": True, "error": None}
    (event,) = receiver.received
    for secret in (old, new):
        standardwebhooks.Webhook(secret).verify(event.body, event.headers)
    assert [action for action, _ in actions(session)] == [
        *("webhook.add", "webhook.rotate_secret", "webhook.test")
    ]


def test_failed_test_is_reported(api: Browser, session: Session, receiver: Receiver) -> None:
    make_webhook(session, receiver.url)
    receiver.status = 404
    assert api.post(f"{API}/1/test").json() == {
        "sent": False,
        "error": "The receiver responded with status 404.",
    }


def test_webhook_is_paused_and_resumed(
    api: Browser, session: Session, collection: Collection, receiver: Receiver
) -> None:
    make_webhook(session, receiver.url)
    paused = api.post(f"{API}/1/pause", json={"reason": "maintenance"}).json()
    assert (paused["is_paused"], paused["pause_reason"]) == (True, "maintenance")
    store_title(session, collection, "solaris")
    assert deliver_events(1) == 0
    resumed = api.post(f"{API}/1/resume").json()
    assert (resumed["is_paused"], resumed["pause_reason"], resumed["pending"]) == (False, None, 1)
    assert deliver_events(1) == 1
    assert actions(session)[1:] == [("webhook.pause", "index"), ("webhook.resume", "index")]


def test_deliveries_are_listed_in_pages(api: Browser, session: Session, collection: Collection) -> None:
    make_webhook(session)
    for name in "abc":
        store_title(session, collection, name)
    first = api.get(f"{API}/1/deliveries?limit=2").json()
    assert [item["id"] for item in first["items"]] == [3, 2]
    second = api.get(f"{API}/1/deliveries?limit=2&cursor={first['next']}").json()
    assert ([item["id"] for item in second["items"]], second["next"]) == ([1], None)
    assert api.get(f"{API}/1/deliveries?state=delivered").json()["items"] == []
    assert api.get(f"{API}/1/deliveries?event=title.removed").json()["items"] == []
    assert api.get(f"{API}/2/deliveries").status_code == 404


def test_delivery_is_read_replayed_and_skipped(
    api: Browser, session: Session, collection: Collection, receiver: Receiver
) -> None:
    make_webhook(session, receiver.url)
    store_title(session, collection, "solaris")
    assert api.get(f"{API}/deliveries/1").json()["body"] is None
    assert api.post(f"{API}/deliveries/1/replay").status_code == 409
    deliver_events(1)
    delivery = api.get(f"{API}/deliveries/1").json()
    assert (delivery["state"], delivery["status"]) == ("delivered", 204)
    assert delivery["body"] == receiver.received[0].body
    skipped = api.post(f"{API}/deliveries/1/skip")
    assert "cannot be skipped, because it is delivered" in skipped.json()["detail"]
    assert api.post(f"{API}/deliveries/1/replay").json()["state"] == "pending"
    assert deliver_events(1) == 1
    first, second = receiver.received
    assert (first.id, first.body) == (second.id, second.body)
    api.post(f"{API}/deliveries/1/replay")
    assert api.post(f"{API}/deliveries/1/skip").json()["state"] == "skipped"
    assert deliver_events(1) == 0
    assert api.get(f"{API}/deliveries/2").status_code == 404
    assert actions(session)[1:] == [
        *(("webhook.replay", "index"), ("webhook.replay", "index"), ("webhook.skip", "index"))
    ]


def test_period_is_replayed(
    api: Browser, session: Session, collection: Collection, receiver: Receiver
) -> None:
    make_webhook(session, receiver.url)
    for name in "abc":
        store_title(session, collection, name)
    api.post(f"{API}/1/test")
    deliver_events(1)
    b = session.get_one(WebhookDelivery, 2)
    b.created_at -= timedelta(days=7)
    session.commit()
    now = utc_now()
    period = {
        "since": (now - timedelta(days=8)).isoformat(),
        "until": (now - timedelta(days=6)).isoformat(),
    }
    assert api.post(f"{API}/1/replay", json=period).json() == {"events": 1}
    assert deliver_events(1) == 1
    assert receiver.received[-1].title == "b"
    # The test is not an event.
    assert api.post(f"{API}/1/replay", json={"since": period["since"]}).json() == {"events": 3}
    wrong = api.post(f"{API}/1/replay", json={"since": period["until"], "until": period["since"]})
    assert wrong.status_code == 422
    assert "enter an end of the period after its start" in wrong.text


def test_webhooks_need_an_operator_or_administrator(
    open_browser: OpenBrowser, session: Session, collection: Collection
) -> None:
    """The URL may contain a token, so viewers do not see it."""
    make_webhook(session)
    store_title(session, collection, "solaris")
    make_user(session, "vic", UserRole.VIEWER)
    make_user(session, "otto", UserRole.OPERATOR)
    viewer, operator = open_browser(), open_browser()
    viewer.log_in("vic")
    operator.log_in("otto")
    for path in ("", "/1", "/1/deliveries", "/deliveries/1"):
        assert viewer.get(f"{API}{path}").status_code == 403
        assert operator.get(f"{API}{path}").status_code == 200
    for path in ("", "/1", "/deliveries/1"):
        assert viewer.get(f"{PAGE}{path}").status_code == 403
        assert operator.get(f"{PAGE}{path}").status_code == 200
    for path in ("/add", "/1/edit", "/1/rotate-secret", "/1/remove"):
        assert operator.get(f"{PAGE}{path}").status_code == 403
        assert operator.post(f"{PAGE}{path}", data={"name": "new"}).status_code == 403
    for path in ("/1/pause", "/1/resume", "/1/replay", "/deliveries/1/skip"):
        assert viewer.post(f"{PAGE}{path}", data={"first_day": "2024-05-01"}).status_code == 403
    assert "<code>accession users set-role</code>" in operator.get(f"{PAGE}/add").text
    assert "Edit" not in text_of(operator.get(f"{PAGE}/1"))
    assert operator.post(f"{PAGE}/1/pause").status_code == 303
    assert operator.request("DELETE", f"{API}/1").status_code == 403
    assert [webhook.name for webhook in session.scalars(select(Webhook))] == ["index"]


# Dashboard


def test_page_adds_changes_and_removes_a_webhook(
    browser: Browser, session: Session, collection: Collection
) -> None:
    assert "No webhooks" in text_of(browser.get(PAGE))
    assert html.fromstring(browser.get(f"{PAGE}/add").text).xpath("//input[@checked]/@value") == ALL_EVENTS
    form = {
        "name": "index",
        "url": "https://index.example/events",
        "events": ["title.added", "title.removed"],
        "collections": [collection.name],
    }
    added = browser.post(f"{PAGE}/add", data=form)
    (secret,) = html.fromstring(added.text).xpath("//input[@id='secret']/@value")
    assert secret.startswith("whsec_")
    listed = browser.get(PAGE)
    assert "index https://index.example/events title.added, title.removed Alder Library active" in text_of(
        listed
    )
    assert secret not in listed.text + browser.get(f"{PAGE}/1").text
    edit_form = html.fromstring(browser.get(f"{PAGE}/1/edit").text)
    assert edit_form.xpath("//input[@checked]/@value") == ["title.added", "title.removed"]
    assert edit_form.xpath("//option[@selected]/text()") == ["Alder Library"]
    changed = browser.post(f"{PAGE}/1/edit", data={**form, "name": "search", "collections": []})
    assert changed.status_code == 303
    session.rollback()
    (view,) = webhook_views(session)
    assert (view.name, view.collections) == ("search", ())
    confirmation = text_of(browser.get(f"{PAGE}/1/remove"))
    assert "Remove the webhook search? Its deliveries are deleted. " in confirmation
    assert browser.post(f"{PAGE}/1/remove").status_code == 303
    assert 'Webhook "search" removed.' in text_of(browser.get(PAGE))
    assert [action for action, _ in actions(session)] == ["webhook.add", "webhook.edit", "webhook.remove"]


@pytest.mark.parametrize("path", ["add", "1/edit"])
def test_invalid_form_keeps_what_was_entered(browser: Browser, session: Session, path: str) -> None:
    make_webhook(session)
    response = browser.post(
        f"{PAGE}/{path}", data={"name": "new", "url": "ftp://x", "events": ALL_EVENTS[:1]}
    )
    assert response.status_code == 422
    assert "The URL of the webhook is invalid" in text_of(response)
    page = html.fromstring(response.text)
    assert page.get_element_by_id("name").get("value") == "new"
    assert page.xpath("//input[@checked]/@value") == ["title.added"]
    assert "has no events" in text_of(browser.post(f"{PAGE}/{path}", data={"name": "new"}))


def test_page_tests_pauses_and_resumes(browser: Browser, session: Session, receiver: Receiver) -> None:
    make_webhook(session, receiver.url)
    browser.post(f"{PAGE}/1/test")
    assert "Test event accepted." in text_of(browser.get(f"{PAGE}/1"))
    receiver.status = 500
    browser.post(f"{PAGE}/1/test")
    assert "Test failed: The receiver responded with status 500." in text_of(browser.get(f"{PAGE}/1"))
    browser.post(f"{PAGE}/1/pause", data={"reason": "maintenance"})
    page = text_of(browser.get(f"{PAGE}/1"))
    assert "Webhook paused. Its events wait." in page
    assert "maintenance" in page
    browser.post(f"{PAGE}/1/resume")
    assert "State active" in text_of(browser.get(f"{PAGE}/1"))


def test_page_shows_and_replays_deliveries(
    browser: Browser, session: Session, collection: Collection, receiver: Receiver
) -> None:
    make_webhook(session, receiver.url)
    receiver.status, receiver.response = 500, "<b>out of order</b>"
    store_title(session, collection, "solaris", title="<script>Solaris</script>")
    assert "Not sent yet" in text_of(browser.get(f"{PAGE}/deliveries/1"))
    assert "deleted, also 1 pending event." in text_of(browser.get(f"{PAGE}/1/remove"))
    deliver_events(1)
    page = text_of(browser.get(f"{PAGE}/1"))
    assert "State failing" in page
    assert "The receiver responded with status 500. Next try:" in page
    delivery = text_of(browser.get(f"{PAGE}/deliveries/1"))
    assert '"title": "<script>Solaris</script>"' in delivery
    assert "<b>out of order</b>" in delivery
    assert browser.post(f"{PAGE}/deliveries/1/skip").headers["location"] == f"{PAGE}/deliveries/1"
    assert states(session) == ["skipped"]
    browser.post(f"{PAGE}/deliveries/1/replay")
    assert states(session) == ["pending"]
    receiver.status = 200
    browser.post(f"{PAGE}/1/resume")
    assert deliver_events(1) == 1
    today = utc_now().date().isoformat()
    browser.post(f"{PAGE}/1/replay", data={"first_day": today, "last_day": today})
    assert "1 event will be sent again." in text_of(browser.get(f"{PAGE}/1"))
    assert states(session) == ["pending"]
    wrong = browser.post(f"{PAGE}/1/replay", data={"first_day": "", "last_day": ""})
    assert (wrong.status_code, "enter the first day" in wrong.text) == (422, True)


def test_deliveries_are_filtered_and_continued(
    browser: Browser, session: Session, collection: Collection
) -> None:
    webhook = make_webhook(session)
    now = utc_now()
    session.add_all(
        WebhookDelivery(
            webhook_id=webhook.id,
            collection_id=collection.id,
            event="title.added",
            data={},
            state="delivered",
            created_at=now,
            due_at=now,
        )
        for _ in range(51)
    )
    session.commit()
    first = html.fromstring(browser.get(f"{PAGE}/1?state=delivered").text)
    (link,) = first.xpath("//a[text()='Next page']/@href")
    assert "Delivery 1: title.added" in browser.get(link).text
    assert "No matching deliveries." in text_of(browser.get(f"{PAGE}/1?state=pending"))
    assert "No matching deliveries." in text_of(browser.get(f"{PAGE}/1?event=run.finished"))


def test_page_replaces_the_secret(browser: Browser, session: Session) -> None:
    make_webhook(session)
    assert "Replace the secret of index?" in text_of(browser.get(f"{PAGE}/1/rotate-secret"))
    page = html.fromstring(browser.post(f"{PAGE}/1/rotate-secret").text)
    (secret,) = page.xpath("//input[@id='secret']/@value")
    assert secret.startswith("whsec_")
    assert "Previous secret valid until" in text_of(browser.get(f"{PAGE}/1"))


@pytest.mark.parametrize("path", ["1", "1/edit", "1/remove", "1/rotate-secret", "deliveries/1"])
def test_unknown_webhook_or_delivery_is_not_found(browser: Browser, database: None, path: str) -> None:
    assert browser.get(f"{PAGE}/{path}").status_code == 404
