"""Page and API of one run: its outlook, steps, requests and log."""

from datetime import timedelta
from typing import Any

import pytest
from lxml import html
from sqlalchemy.orm import Session

from accession.core.clock import utc_now
from accession.core.settings import get_settings
from accession.core.workflow import Workflow
from accession.db.models import Collection, RunState, StepOutcome
from accession.runs.detail_store import RecordedDetails, store_run_details
from accession.runs.ledger import end_run, open_run
from accession.runs.pauses import store_pauses
from accession.runs.run_details import RunStepView
from tests.fixtures.run_details import REASON, store_run
from tests.fixtures.web_client import Browser

API = "/api/v1/runs/1"
CAUSE = "The vendor responded with 503 Service Unavailable; try again later."


def text_of(browser: Browser, path: str, element: str = "content") -> str:
    """Return the text of an element of a page."""
    response = browser.get(path)
    assert response.status_code == 200, response.text
    return " ".join(html.fromstring(response.text).get_element_by_id(element).text_content().split())


def rows(browser: Browser, path: str, element: str) -> list[list[str]]:
    """Return the cells of the rows of a table."""
    page = html.fromstring(browser.get(path).text)
    table = page.get_element_by_id(element).xpath(".//tbody/tr")
    return [[" ".join(cell.text_content().split()) for cell in row] for row in table]


def items(browser: Browser, path: str) -> list[dict[str, Any]]:
    """Return the items of all pages of a list of the API, requested two at a time."""
    listed: list[dict[str, Any]] = []
    cursor = ""
    while True:
        page = browser.get(f"{path}{'&' if '?' in path else '?'}limit=2{cursor}").json()
        listed += page["items"]
        if page["next"] is None:
            return listed
        cursor = f"&cursor={page['next']}"


# API


def test_api_lists_steps_in_pages_and_either_order(
    browser: Browser, session: Session, collection: Collection
) -> None:
    store_run(session, collection, RunState.FAILED, steps=7)
    assert [step["number"] for step in items(browser, f"{API}/steps")] == [8, 7, 6, 5, 4, 3, 2, 1]
    slowest = [step["number"] for step in items(browser, f"{API}/steps?order=slowest")]
    assert slowest == [6, 5, 4, 3, 2, 8, 1, 7]
    (failed,) = items(browser, f"{API}/steps?outcome=failed")
    assert (failed["number"], failed["window_start"], failed["requests"]) == (8, None, 1)


def test_api_filters_log_lines(browser: Browser, session: Session, collection: Collection) -> None:
    store_run(session, collection, RunState.FAILED, steps=3)
    assert [line["page"] for line in items(browser, f"{API}/log")] == [1, 2, 3, 4]
    assert [line["page"] for line in items(browser, f"{API}/log?order=latest")] == [4, 3, 2, 1]
    (line,) = items(browser, f"{API}/log?level=warning")
    assert (line["event"], line["fields"]) == ("run failed", {"reason": REASON})
    assert [line["page"] for line in items(browser, f"{API}/log?text=2024-03-04")] == [2]


def test_api_returns_requests_and_summary(browser: Browser, session: Session, collection: Collection) -> None:
    store_run(session, collection, RunState.FAILED, steps=3)
    assert [(row["outcome"], row["requests"]) for row in browser.get(f"{API}/requests").json()] == [
        ("ok", 3),
        ("bad_response", 1),
    ]
    summary = browser.get(API).json()
    assert (summary["totals"]["steps"], summary["totals"]["log_lines"]) == (4, 4)
    assert (summary["outlook"]["cause"], summary["outlook"]["attempts"]) == (CAUSE, 1)
    assert (summary["run"]["collection_id"], len(summary["samples"])) == (collection.id, 3)


@pytest.mark.parametrize("path", ["steps", "log", "requests"])
def test_api_knows_no_details_of_unknown_runs(browser: Browser, path: str) -> None:
    assert browser.get(f"/api/v1/runs/99/{path}").status_code == 404


# Outlook


def test_failed_run_shows_cause_and_next_start(
    browser: Browser, session: Session, collection: Collection
) -> None:
    store_run(session, collection, RunState.FAILED)
    outlook = text_of(browser, "/runs/1", "outlook")
    assert outlook.startswith(f"{CAUSE} The run has stored nothing. The next run starts in ")
    assert "by its schedule" in outlook
    assert REASON in outlook, "the complete message is folded"
    assert "Records fetched" not in text_of(browser, "/runs/1", "counters"), "zeros are left out"
    assert "Retry now" in text_of(browser, "/runs/1", "state")


def test_run_after_failed_one_is_linked(browser: Browser, session: Session, collection: Collection) -> None:
    store_run(session, collection, RunState.FAILED, steps=2)
    store_run(session, collection, RunState.SUCCEEDED, task_id="second", started_at=utc_now())
    outlook = text_of(browser, "/runs/1", "outlook")
    assert "What the run stored before is kept. Run 2 is the latest one of this workflow." in outlook
    assert text_of(browser, "/runs/2", "outlook") == ""


def test_failed_run_of_paused_workflow_says_so(
    browser: Browser, session: Session, collection: Collection
) -> None:
    store_run(session, collection, RunState.FAILED)
    keys = [(collection.id, Workflow.PURCHASES)]
    store_pauses(session, keys, reason="The vendor is moving.", until=None, stopped=set())
    session.commit()
    assert "The workflow is paused, so no run starts." in text_of(browser, "/runs/1", "outlook")


def test_retrying_run_shows_its_next_attempt(
    browser: Browser, session: Session, collection: Collection, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = get_settings()
    monkeypatch.setattr(settings, "retry_backoff_seconds", 90)
    store_run(session, collection, RunState.RETRYING, steps=2, started_at=utc_now() - timedelta(seconds=3))
    outlook = text_of(browser, "/runs/1", "outlook")
    assert "Step 3 was attempted 1 time. Next attempt: in 1 min, or later" in outlook
    summary = browser.get(API).json()
    retry = summary["retries"][0]["at"]
    assert summary["outlook"]["next_attempt_at"] > retry
    monkeypatch.setattr(settings, "retry_backoff_seconds", 0)
    assert "as soon as a worker is free" in text_of(browser, "/runs/1", "outlook")
    assert CAUSE in text_of(browser, "/runs/1", "retries")


def test_run_failed_after_retries_tells_their_number(
    browser: Browser, session: Session, collection: Collection
) -> None:
    run = store_run(session, collection, RunState.RETRYING, steps=2)
    last = RunStepView(3, utc_now(), StepOutcome.FAILED, seconds=0.5, fetch_seconds=0.5)
    store_run_details(session, {"task": RecordedDetails([last])})
    end_run(run, RunState.FAILED, REASON)
    session.commit()
    outlook = text_of(browser, "/runs/1", "outlook")
    assert "Step 3 was attempted 2 times. What the run stored before is kept." in outlook


def test_run_links_its_collection_and_rejected_records(
    browser: Browser, session: Session, collection: Collection
) -> None:
    run = store_run(session, collection, RunState.RUNNING, steps=2)
    run.records_rejected, run.records_fetched = 3, run.records_fetched + 3
    session.commit()
    page = html.fromstring(browser.get("/runs/1").text)
    assert page.xpath("//nav[@aria-label='Breadcrumb']//a/@href") == [
        "/runs",
        f"/collections/{collection.id}",
    ]
    (link,) = page.get_element_by_id("counters").xpath(".//a/@href")
    assert link == f"/rejected-records?collection={collection.id}"


# Lists of the page


def test_page_shows_steps_and_filters_them(
    browser: Browser, session: Session, collection: Collection
) -> None:
    store_run(session, collection, RunState.FAILED, steps=25)
    first, second, *_ = rows(browser, "/runs/1", "step-list")
    assert [first[index] for index in (0, 2, 3, 4)] == ["26", "–", "failed", "750 ms"]
    assert [second[index] for index in (0, 2, 3, 4)] == ["25", "2024-03-27", "stored", "650 ms"]
    assert [row[0] for row in rows(browser, "/runs/1?steps=20", "step-list")] == [
        "6",
        "5",
        "4",
        "3",
        "2",
        "1",
    ]
    assert [row[0] for row in rows(browser, "/runs/1?outcome=failed", "step-list")] == ["26"]
    assert [row[0] for row in rows(browser, "/runs/1?order=slowest", "step-list")][:3] == ["20", "13", "6"]
    assert "No step has this outcome." in text_of(browser, "/runs/1?outcome=discarded", "step-list")


def test_lists_keep_the_state_of_each_other(
    browser: Browser, session: Session, collection: Collection
) -> None:
    """Sorting the steps does not reset the filter of the log, and the other way round."""
    store_run(session, collection, RunState.FAILED, steps=25)
    page = html.fromstring(browser.get("/runs/1?order=slowest&steps=20&level=warning&text=run").text)
    links = page.get_element_by_id("steps").xpath(".//a/@href")
    assert links[:2] == ["?level=warning&text=run#steps", "?order=slowest&level=warning&text=run#steps"]
    assert links[2] == links[1], "the previous part is the first one"
    hidden = page.get_element_by_id("log").xpath(".//input[@type='hidden']")
    assert {each.get("name"): each.get("value") for each in hidden} == {"order": "slowest", "steps": "20"}


def test_page_shows_log_and_filters_it(browser: Browser, session: Session, collection: Collection) -> None:
    store_run(session, collection, RunState.FAILED, steps=60)
    log = text_of(browser, "/runs/1", "log-lines")
    assert "run failed step 61 reason=" in log
    assert "page imported step 60 day=2024-05-01 records=0" in log
    assert "step 10 " not in log
    assert "page imported step 10 " in text_of(browser, "/runs/1?lines=50", "log-lines")
    assert "page imported" not in text_of(browser, "/runs/1?level=error", "log-lines")
    assert text_of(browser, "/runs/1?text=nothing", "log-lines") == "No line matches."


def test_page_shows_where_the_time_went(browser: Browser, session: Session, collection: Collection) -> None:
    store_run(session, collection, RunState.SUCCEEDED, steps=4)
    shares = rows(browser, "/runs/1", "time")
    assert shares == [
        ["Waiting for the vendor", "1.3 s", "32 %"],
        ["Storing", "700 ms", "18 %"],
        ["Between steps", "2.0 s", "50 %"],
    ]
    chart = html.fromstring(browser.get("/runs/1").text).get_element_by_id("time").xpath(".//*[@role='img']")
    assert len(chart) == 1
    assert rows(browser, "/runs/1", "requests") == [["marc", "ok", "4", "225 ms", "300 ms"]]
    assert rows(browser, "/runs/1", "rate")[:2] == [["0:04", "40"], ["0:03", "30"]]


def test_long_run_tells_that_only_some_rows_are_kept(
    browser: Browser, session: Session, collection: Collection
) -> None:
    store_run(session, collection, RunState.SUCCEEDED, steps=250)
    assert "The run had 250 steps." in text_of(browser, "/runs/1", "step-list")
    assert "The run logged 250 lines." in text_of(browser, "/runs/1", "log-lines")


def test_run_without_steps_has_empty_states(
    browser: Browser, session: Session, collection: Collection
) -> None:
    open_run(session, collection.id, Workflow.EVENTS, "task", {"start": None})
    session.commit()
    page = text_of(browser, "/runs/1")
    assert "No step has been processed yet." in page
    assert "No lines yet." in page
    assert "Retries" not in page


@pytest.mark.parametrize("query", ["order=best", "steps=-1", "level=loud", "text=%00", "lines=99999"])
def test_invalid_parameters_of_the_page_are_refused(
    browser: Browser, session: Session, collection: Collection, query: str
) -> None:
    store_run(session, collection, RunState.SUCCEEDED)
    assert browser.get(f"/runs/1?{query}").status_code == 422


def test_page_is_updated_until_details_have_come(
    browser: Browser, session: Session, collection: Collection
) -> None:
    store_run(session, collection, RunState.SUCCEEDED, steps=1)
    store_run(session, collection, RunState.SUCCEEDED, task_id="recent", started_at=utc_now())
    assert "data-refresh" not in browser.get("/runs/1").text
    assert 'data-refresh="2"' in browser.get("/runs/2").text
