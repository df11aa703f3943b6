"""Schedules and request limits in the dashboard and the API."""

from typing import Any

import httpx
import pytest
from lxml import html
from sqlalchemy.orm import Session

from accession.accounts.limits import VendorLimits, stored_limits
from accession.auth.roles import UserRole
from accession.core.workflow import SCHEDULED_WORKFLOWS, Workflow
from accession.db.models import Collection
from accession.runs.schedules import ScheduleOverride, find_override
from tests.fixtures.factories import day, make_collection
from tests.fixtures.web_client import Browser, bearer, make_token
from tests.fixtures.workers import travel_to

FORM = {"cron": "30 2 * * *", "time_zone": "Europe/Berlin", "jitter_minutes": "0"}
SCHEDULE = ScheduleOverride("30 2 * * *", "Europe/Berlin", 0)
FRIDAY = day(2024, 10, 25, 12)
API = "/api/v1"


@pytest.fixture
def url(collection: Collection) -> str:
    return f"/collections/{collection.id}"


def text(response: httpx.Response) -> str:
    """Return the words of a page's main part."""
    return " ".join(" ".join(html.fromstring(response.text).xpath("//main//text()")).split())


def payload(response: httpx.Response, status: int = 200) -> Any:
    assert response.status_code == status, response.text
    return response.json()


# Pages


def test_collection_page_shows_schedules_and_next_runs(browser: Browser, url: str) -> None:
    page = text(browser.get(url))
    assert "Schedule At 04:00 every day (UTC), within 60 min Change" in page
    assert "Schedule At the start of every hour (UTC), within 30 min Change" in page
    assert page.count("Next run 20") == 3
    assert "Request limits 4 at once, any number per second Change" in page
    assert text(browser.get("/")).count("next in ") == 3


def test_next_starts_are_shown_before_saving(
    browser: Browser, url: str, session: Session, collection: Collection
) -> None:
    with travel_to(FRIDAY):
        stored = text(browser.get(f"{url}/schedules/purchases"))
        preview = text(browser.get(f"{url}/schedules/purchases", params=FORM))
    assert "Next starts At 04:00 every day" in stored
    assert "Next starts if saved At 02:30 every day (Europe/Berlin)" in preview
    for start in ("Sat 2024-10-26 02:30 CEST", "Sun 2024-10-27 02:30 CEST", "Mon 2024-10-28 02:30 CET"):
        assert start in preview
    assert find_override(session, collection, Workflow.PURCHASES) == ScheduleOverride()


def test_saved_schedule_is_stored_and_shown(
    browser: Browser, url: str, session: Session, collection: Collection
) -> None:
    saved = browser.post(f"{url}/schedules/purchases", data=FORM)
    assert saved.headers["location"] == url
    assert "Schedule changed: purchases." in browser.get(url).text
    assert find_override(session, collection, Workflow.PURCHASES) == SCHEDULE
    assert "At 02:30 every day (Europe/Berlin)" in text(browser.get(url))
    form = html.fromstring(browser.get(f"{url}/schedules/purchases").text).xpath("//main//form")[-1]
    assert {name: form.fields[name] for name in FORM} == FORM


def test_empty_fields_inherit_from_the_settings_again(
    browser: Browser, url: str, session: Session, collection: Collection
) -> None:
    browser.post(f"{url}/schedules/purchases", data=FORM)
    browser.post(f"{url}/schedules/purchases", data=dict.fromkeys(FORM, ""))
    session.expire_all()
    assert find_override(session, collection, Workflow.PURCHASES) == ScheduleOverride()


@pytest.mark.parametrize(
    ("field", "value", "error"),
    [
        ("cron", "0 25 * * *", "The cron expression '0 25 * * *' is invalid (bad hour)"),
        ("time_zone", "Mars", "'Mars' is not a time zone"),
        ("jitter_minutes", "soon", "The jitter window 'soon' is invalid: enter a number, or nothing."),
        ("jitter_minutes", "1441", "The jitter window of 1441 minutes is invalid: enter 0 to 1440 minutes."),
    ],
)
def test_invalid_schedule_is_shown_again_with_the_error(
    field: str, value: str, error: str, browser: Browser, url: str, session: Session, collection: Collection
) -> None:
    values = {**FORM, field: value}
    for response in (
        browser.get(f"{url}/schedules/purchases", params=values),
        browser.post(f"{url}/schedules/purchases", data=values),
    ):
        assert response.status_code == 422
        assert error in text(response)
        assert html.fromstring(response.text).xpath("//main//form")[-1].fields[field] == value
    assert find_override(session, collection, Workflow.PURCHASES) == ScheduleOverride()


def test_workflow_without_schedule_has_no_form(browser: Browser, url: str) -> None:
    response = browser.get(f"{url}/schedules/verification")
    assert (response.status_code, "has no schedule" in response.text) == (422, True)


def test_limits_are_changed_for_all_collections_of_the_account(
    browser: Browser, url: str, session: Session, collection: Collection
) -> None:
    branch = make_collection(session, "Alder Branch")
    assert "They apply to Alder Branch, Alder Library together" in text(browser.get(f"{url}/limits"))
    form = {"max_concurrency": "2", "max_requests_per_second": "0.5"}
    assert browser.post(f"{url}/limits", data=form).headers["location"] == url
    assert "Request limits changed." in browser.get(url).text
    session.expire_all()
    assert stored_limits(branch) == stored_limits(collection) == VendorLimits(2, 0.5)
    shown = "Request limits 2 at once, 0.5 per second, shared by Alder Branch, Alder Library Change"
    assert shown in text(browser.get(url))
    stored = html.fromstring(browser.get(f"{url}/limits").text).xpath("//main//form")[-1].fields
    assert {name: stored[name] for name in form} == form


def test_whole_rate_is_shown_without_decimals(browser: Browser, url: str) -> None:
    browser.post(f"{url}/limits", data={"max_requests_per_second": "5"})
    assert "at once, 5 per second" in text(browser.get(url))
    assert "Now: 5 Save" in text(browser.get(f"{url}/limits"))


@pytest.mark.parametrize("value", ["0", "many", "nan"])
def test_invalid_limit_is_shown_again_with_the_error(value: str, browser: Browser, url: str) -> None:
    response = browser.post(f"{url}/limits", data={"max_requests_per_second": value})
    assert response.status_code == 422
    assert "is invalid: enter" in text(response)


def test_viewer_cannot_change_schedules_and_limits(browser: Browser, url: str, session: Session) -> None:
    browser.headers = bearer(make_token(session, role=UserRole.VIEWER))
    for path in ("schedules/events", "limits"):
        assert browser.get(f"{url}/{path}").status_code == 403
        assert browser.post(f"{url}/{path}", data={}).status_code == 403
        assert browser.request("PUT", f"{API}{url}/{path}", json={}).status_code == 403
    assert browser.get(f"{API}{url}/schedules").status_code == 200
    assert browser.get(f"{API}{url}/limits").status_code == 200


# API


def test_api_sets_previews_and_resets_a_schedule(browser: Browser, url: str) -> None:
    new = {"cron": "30 2 * * *", "time_zone": "Europe/Berlin", "jitter_minutes": 0}
    path = f"{API}{url}/schedules"
    with travel_to(FRIDAY):
        before = payload(browser.get(path))
        preview = payload(browser.request("PUT", f"{path}/purchases?dry_run=true", json=new))
        assert payload(browser.get(path)) == before
        assert payload(browser.request("PUT", f"{path}/purchases", json=new)) == preview
        assert payload(browser.get(path)) == [preview, *before[1:]]
        assert payload(browser.request("PUT", f"{path}/purchases", json={})) == before[0]
    assert [schedule["workflow"] for schedule in before] == list(SCHEDULED_WORKFLOWS)
    assert preview["inherited"] == []
    assert preview["next_starts"][:3] == [
        "2024-10-26T00:30:00Z",
        "2024-10-27T00:30:00Z",
        "2024-10-28T01:30:00Z",
    ]


@pytest.mark.parametrize(
    ("workflow", "new"),
    [
        ("purchases", {"cron": "0 25 * * *"}),
        ("purchases", {"time_zone": "Mars"}),
        ("purchases", {"jitter_minutes": -1}),
        ("purchases", {"at": "04:00"}),
        ("verification", {}),
        ("lunch", {}),
    ],
)
def test_api_rejects_an_invalid_schedule(
    workflow: str, new: dict[str, Any], browser: Browser, url: str
) -> None:
    payload(browser.request("PUT", f"{API}{url}/schedules/{workflow}", json=new), 422)


def test_api_sets_and_resets_limits(browser: Browser, url: str) -> None:
    path = f"{API}{url}/limits"
    inherited = payload(browser.get(path))
    changed = payload(browser.request("PUT", path, json={"max_concurrency": 2}))
    assert changed == payload(browser.get(path))
    assert changed == {
        "max_concurrency": 2,
        "max_requests_per_second": None,
        "inherited": ["max_requests_per_second"],
        "collections": ["Alder Library"],
    }
    assert payload(browser.request("PUT", path, json={})) == inherited
    payload(browser.request("PUT", path, json={"max_concurrency": 0}), 422)


def test_api_health_has_the_next_start(browser: Browser, url: str, collection: Collection) -> None:
    health = payload(browser.get(f"{API}{url}"))
    schedules = payload(browser.get(f"{API}{url}/schedules"))
    assert [each["next_start"] for each in health["workflows"]] == [
        schedule["next_starts"][0] for schedule in schedules
    ]
