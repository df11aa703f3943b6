"""Control of workflows in the JSON API and the dashboard: run, retry, cancel, pause, resume and backfill."""

from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
from lxml import html
from redis import Redis
from sqlalchemy import select
from sqlalchemy.orm import Session

from accession.core.clock import utc_now
from accession.core.settings import get_settings
from accession.core.workflow import Workflow
from accession.db.models import Collection, Run, RunState, WorkflowPause
from accession.runs.ledger import end_run, open_run, record_retry
from tests.fixtures.factories import make_collection
from tests.fixtures.web_client import Browser, bearer, make_token

API = "/api/v1"
TOMORROW = (utc_now() + timedelta(days=1)).replace(hour=6, minute=0, second=0, microsecond=0)


@pytest.fixture
def api(browser: Browser, session: Session) -> Browser:
    """Return a client that sends an operator's token."""
    browser.headers = bearer(make_token(session))
    return browser


@pytest.fixture
def others(session: Session, collection: Collection) -> list[int]:
    """Add two more collections, and return the ids of all three."""
    return [collection.id, *(make_collection(session, name).id for name in ("Birch", "Cedar"))]


def add_run(session: Session, collection_id: int, state: RunState | None = None) -> Run:
    """Store a purchases run: running, retrying, or ended in this state."""
    task_id = f"task {collection_id} {state}"
    open_run(session, collection_id, Workflow.PURCHASES, task_id, {"current_day": None, "offset": 1})
    run = session.scalars(select(Run).filter_by(task_id=task_id)).one()
    if state is RunState.RETRYING:
        record_retry(run, "The vendor is unavailable.", retry=1)
    elif state is not None:
        end_run(run, state, "The vendor is unavailable.")
    session.commit()
    return run


def payload(response: httpx.Response, status: int = 200) -> Any:
    assert response.status_code == status, response.text
    return response.json()


def states(session: Session) -> list[str]:
    session.expire_all()
    return list(session.scalars(select(Run.state).order_by(Run.id)))


def text_of(response: httpx.Response) -> str:
    assert response.status_code == 200, response.text
    return " ".join(html.fromstring(response.text).get_element_by_id("content").text_content().split())


def submit(browser: Browser, path: str, **data: Any) -> str:
    """Submit a form, and return the text of the page that it leads to."""
    response = browser.post(path, data=data)
    assert response.status_code == 303, response.text
    return text_of(browser.get(response.headers["location"]))


# API


def test_selected_collections_are_run(api: Browser, session: Session, others: list[int]) -> None:
    add_run(session, others[1])
    body = {"workflow": "purchases", "collection_ids": others[:2]}
    result = payload(api.post(f"{API}/runs", json=body), 202)
    assert list(result["task_ids"]) == [str(others[0])]
    assert [(each["collection"], each["reason"]) for each in result["skipped"]] == [
        ("Birch", "a run is active")
    ]


def test_all_failing_collections_are_retried(
    api: Browser, session: Session, others: list[int], redis: Redis
) -> None:
    add_run(session, others[0], RunState.FAILED)
    add_run(session, others[1], RunState.RETRYING)
    result = payload(api.post(f"{API}/runs/retry", json={"failing": True, "workflows": ["purchases"]}), 202)
    assert {each["collection"] for each in result["done"]} == {"Alder Library", "Birch"}
    assert (states(session), redis.llen("default")) == (["failed", "running", "queued"], 2)


def test_run_is_cancelled_and_retried_by_its_id(
    api: Browser, session: Session, collection: Collection
) -> None:
    run = add_run(session, collection.id)
    assert payload(api.post(f"{API}/runs/{run.id}/cancel"))["state"] == "cancelled"
    problem = payload(api.post(f"{API}/runs/{run.id}/cancel"), 409)
    assert problem["detail"] == f"Run {run.id} has cancelled already: there is nothing to cancel."
    assert payload(api.post(f"{API}/runs/{run.id}/retry"), 202)["state"] == "queued"
    assert payload(api.post(f"{API}/runs/cancel", json={}))["done"][0]["workflow"] == "purchases"
    assert states(session) == ["cancelled", "cancelled"]
    assert payload(api.post(f"{API}/runs/99/retry"), 404)["detail"].startswith("There is no run 99")


def test_pause_is_shown_in_status_and_health(api: Browser, session: Session, others: list[int]) -> None:
    body = {
        "collection_ids": others[:1],
        "workflows": ["purchases"],
        "reason": "vendor maintenance",
        "until": TOMORROW.isoformat(),
    }
    assert len(payload(api.post(f"{API}/collections/pause", json=body))["done"]) == 1
    (status,) = [each for each in payload(api.get(f"{API}/status")) if each["pause"]]
    assert (status["workflow"], status["pause"]["reason"]) == ("purchases", "vendor maintenance")
    assert datetime.fromisoformat(status["pause"]["until"]) == TOMORROW
    assert payload(api.get(f"{API}/collections/{others[0]}"))["health"] == "paused"

    start = api.post(f"{API}/collections/{others[0]}/runs", json={"workflow": "purchases"})
    assert "is paused" in payload(start, 409)["detail"]
    assert len(payload(api.post(f"{API}/collections/resume", json={}))["done"]) == 1
    assert session.scalars(select(WorkflowPause)).all() == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"reason": ""}, "reason is invalid"),
        ({"until": "2999-01-01T06:00"}, "until is invalid"),
        ({"until": "2014-01-01T06:00Z"}, "The end of the pause, 2014-01-01 06:00 UTC, is over"),
        ({"collection_ids": []}, "collection_ids is invalid"),
        ({"workflows": ["nothing"]}, "workflows"),
        ({"whatever": 1}, "whatever is invalid"),
    ],
)
def test_invalid_pause_is_rejected(
    changes: dict[str, Any], message: str, api: Browser, collection: Collection
) -> None:
    body = {"reason": "vendor maintenance", **changes}
    assert payload(api.post(f"{API}/collections/pause", json=body), 422)["detail"].startswith(message)


def test_unknown_collection_is_not_found(api: Browser, collection: Collection) -> None:
    for path, body in (
        ("runs", {"workflow": "purchases"}),
        ("runs/retry", {}),
        ("runs/cancel", {}),
        ("collections/pause", {"reason": "vendor maintenance"}),
        ("collections/resume", {}),
    ):
        problem = payload(api.post(f"{API}/{path}", json={"collection_ids": [99], **body}), 404)
        assert problem["detail"] == "There is no collection with the id 99."


def test_backfill_tells_its_cost_and_starts(api: Browser, session: Session, collection: Collection) -> None:
    url, days = f"{API}/collections/{collection.id}/backfill", {"first_day": "2023-01-01"}
    days["last_day"] = "2023-01-31"
    assert payload(api.get(url, params=days))["requests"] > 0
    payload(api.post(url, json=days), 202)
    run = session.scalars(select(Run)).one()
    assert (run.workflow, run.cursor) == ("backfill", days)
    late = {**days, "last_day": "2999-01-01"}
    assert "enter days within" in payload(api.get(url, params=late), 422)["detail"]
    problem = payload(api.post(f"{API}/runs", json={"workflow": "backfill"}), 422)
    assert problem["detail"].startswith("A backfill needs a first and a last day")


# Dashboard


def test_bulk_actions_apply_to_selected_collections(
    browser: Browser, session: Session, others: list[int]
) -> None:
    add_run(session, others[0])
    purchases = {"workflow": "purchases", "collections": others[:2]}
    assert "1 run queued, 1 skipped (a run is active)." in submit(browser, "/control/run", **purchases)
    assert "2 runs cancelled." in submit(browser, "/control/cancel", **purchases)
    assert states(session) == ["cancelled", "cancelled"]
    assert "2 runs retried." in submit(browser, "/control/retry", **purchases)


def test_retry_of_all_failing_leaves_healthy_ones_alone(
    browser: Browser, session: Session, others: list[int]
) -> None:
    add_run(session, others[0], RunState.FAILED)
    add_run(session, others[1], RunState.SUCCEEDED)
    assert "1 run retried" in submit(browser, "/control/retry", scope="matching", query="filter=failing")
    assert "Failures by cause" not in text_of(browser.get("/"))
    assert states(session) == ["failed", "succeeded", "queued"]


def test_all_that_match_are_paused_and_the_list_stays(
    browser: Browser, session: Session, others: list[int]
) -> None:
    query = "text=R&sort=-name"
    form = browser.post("/control/pause/form", data={"scope": "matching", "query": query})
    page = html.fromstring(form.text)
    assert page.xpath("//input[@name='collections']/@value") == [str(each) for each in reversed(others)]
    assert page.xpath("//a[text()='Cancel']/@href") == ["/?text=R&sort=-name"]
    data = {"collections": others[1:2], "workflow": "events", "reason": "moving", "query": f"{query}&page=2"}
    response = browser.post("/control/pause", data=data)
    assert response.headers["location"] == "/?text=R&sort=-name&page=2"
    assert session.scalars(select(WorkflowPause.collection_id)).all() == others[1:2]


def test_action_on_an_invalid_address_does_nothing(
    browser: Browser, session: Session, others: list[int]
) -> None:
    for query in ("filter=nonsense", "sort=nonsense", "cause=nonsense"):
        assert browser.post("/control/run", data={"scope": "matching", "query": query}).status_code == 422
    assert states(session) == []


@pytest.mark.parametrize("action", ["run", "retry", "cancel", "pause", "pause/form", "resume"])
def test_action_without_selection_asks_for_one(action: str, browser: Browser, collection: Collection) -> None:
    assert "Select at least one collection." in submit(browser, f"/control/{action}")


def test_pause_form_uses_local_time(
    browser: Browser, session: Session, others: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(get_settings(), "time_zone", "America/New_York")
    form = text_of(browser.post("/control/pause/form", data={"collections": others[:2]}))
    assert "Pause 2 collections" in form
    assert "America/New_York" in form
    data = {"collections": others[:2], "reason": "vendor maintenance", "until": "2999-01-01T06:00"}
    assert "10 workflows paused." in submit(browser, "/control/pause", **data)
    (end,) = set(session.scalars(select(WorkflowPause.until)))
    assert end == datetime(2999, 1, 1, 11, tzinfo=UTC)
    overview = text_of(browser.get("/"))
    assert "paused until 2999-01-01 11:00 UTC: vendor maintenance" in overview
    assert "· 2 paused" in overview
    submit(browser, "/control/pause", **data, time_zone="UTC")
    session.expire_all()
    (end,) = set(session.scalars(select(WorkflowPause.until)))
    assert end == datetime(2999, 1, 1, 6, tzinfo=UTC)
    assert "10 workflows resumed." in submit(browser, "/control/resume", collections=others)


def test_pause_form_shows_error_and_keeps_values(browser: Browser, collection: Collection) -> None:
    for until, message in (
        ("2014-01-01T06:00", "is over: enter a later time"),
        ("tomorrow", "'tomorrow' is no date and time"),
    ):
        data = {"collections": [collection.id], "reason": "moving", "until": until, "cancel_runs": "true"}
        response = browser.post("/control/pause", data=data)
        assert response.status_code == 422
        page = html.fromstring(response.text)
        assert message in page.xpath("//*[@role='alert']")[0].text_content()
        assert page.get_element_by_id("reason").get("value") == "moving"
        assert page.xpath("//input[@name='cancel_runs']/@checked")


def test_collection_page_offers_what_its_state_allows(
    browser: Browser, session: Session, collection: Collection
) -> None:
    def buttons() -> list[str]:
        page = html.fromstring(browser.get(f"/collections/{collection.id}").text)
        return page.xpath("//*[@id='purchases-actions']//button/text()")  # type: ignore[no-any-return]

    one = {"collections": [collection.id], "workflow": "purchases", "origin": "collection"}
    assert buttons() == [], "a new collection has one button, which starts the first import"
    add_run(session, collection.id, RunState.SUCCEEDED)
    assert buttons() == ["Run now"]
    add_run(session, collection.id, RunState.RETRYING)
    assert buttons() == ["Retry now", "Cancel run"]
    assert "1 run retried." in submit(browser, "/control/retry", **one)
    assert buttons() == ["Cancel run"]
    assert "1 workflow paused." in submit(browser, "/control/pause", **one, reason="moving", cancel_runs="1")
    assert buttons() == ["Resume"]
    assert "paused: moving" in text_of(browser.get(f"/collections/{collection.id}"))
    assert "1 workflow resumed." in submit(browser, "/control/resume", **one)
    assert states(session) == ["succeeded", "cancelled", "queued"]


def test_run_page_cancels_and_retries(browser: Browser, session: Session, collection: Collection) -> None:
    run = add_run(session, collection.id)
    page = text_of(browser.get(f"/runs/{run.id}"))
    assert ("Cancel run" in page, "Retry now" in page) == (True, False)
    page = submit(browser, f"/runs/{run.id}/cancel")
    assert ("Cancel run" in page, "Retry now" in page) == (False, True)
    assert "Cancelled by local." in page
    assert "Run is retried now." in submit(browser, f"/runs/{run.id}/retry")
    assert "Retry now" not in text_of(browser.get(f"/runs/{run.id}"))
    assert states(session) == ["cancelled", "queued"]


def test_backfill_page_shows_requests_before_start(
    browser: Browser, session: Session, collection: Collection
) -> None:
    path, days = f"/collections/{collection.id}/backfill", {"first_day": "2023-01-01"}
    assert "requests to the vendor" not in text_of(browser.get(path))
    assert "enter a first and a last day" in browser.get(path, params={**days, "last_day": ""}).text
    days["last_day"] = "2023-03-31"
    assert "requests to the vendor" in text_of(browser.get(path, params=days))
    assert browser.get(path, params={**days, "last_day": "2022-01-01"}).status_code == 422
    assert "Days2023-01-01 to 2023-03-31" in submit(browser, path, **days)


def test_viewer_sees_pause_but_no_actions(
    browser: Browser, session: Session, collection: Collection, ann: str, vic: str
) -> None:
    browser.log_in("ann")
    data = {"collections": [collection.id], "reason": "vendor maintenance"}
    submit(browser, "/control/pause", **data)
    browser.log_in("vic")
    overview = html.fromstring(browser.get("/").text)
    assert "vendor maintenance" in overview.text_content()
    assert not overview.xpath("//main//input[@type='checkbox'] | //form[@id='bulk']")
    for path in ("/control/run", "/control/resume", "/control/pause", "/control/pause/form"):
        assert browser.post(path, data=data).status_code == 403
