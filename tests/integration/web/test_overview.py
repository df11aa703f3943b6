"""Overview page: filters, search, order, pages, failures by cause, timeline and missing processes."""

from datetime import timedelta
from typing import Any

import pytest
import time_machine
from lxml import html
from redis import Redis
from sqlalchemy import select
from sqlalchemy.orm import Session

from accession.core.workflow import Workflow
from accession.db.engine import engine
from accession.db.models import Collection, Run, RunState
from accession.runs.ledger import end_run, open_run, record_retry
from accession.runs.overview import cause_id
from accession.runs.pauses import store_pauses
from tests.fixtures.factories import NOON, make_collection, make_pool, record_statements
from tests.fixtures.heartbeats import record_heartbeats
from tests.fixtures.web_client import Browser, bearer, make_token

API = "/api/v1"
WRONG_KEY = "the vendor refused the credentials; check the account id and the account key"
URL = "https://vendor.example/cirrus/library/alder/data/marc?offset=1"


def add_run(
    session: Session,
    collection: Collection,
    state: RunState | None = None,
    workflow: Workflow = Workflow.PURCHASES,
    error: str | None = None,
) -> Run:
    """Store a run: running, retrying, or ended in this state."""
    number = len(session.scalars(select(Run.id)).all())
    open_run(session, collection.id, workflow, f"task {number}", {"current_day": None, "offset": 0})
    run = session.scalars(select(Run).filter_by(task_id=f"task {number}")).one()
    if state is RunState.RETRYING:
        record_retry(run, error or "", retry=1)
    elif state is not None:
        end_run(run, state, error)
    session.commit()
    return run


def open_page(browser: Browser, path: str = "/") -> Any:
    response = browser.get(path)
    assert response.status_code == 200, response.text
    return html.fromstring(response.text)


def names(page: Any) -> list[str]:
    return [str(name) for name in page.xpath("//table[contains(@class, 'overview')]/tbody/tr/th/a/text()")]


def words(element: Any) -> str:
    return " ".join(element.text_content().split())


@pytest.fixture
def states(session: Session) -> dict[str, Collection]:
    """Add a collection for each filter, and a healthy one."""
    names_of_states = ("Ash", "Birch", "Cedar", "Dogwood", "Elm")
    with time_machine.travel(NOON, tick=False):
        ash, birch, cedar, dogwood, elm = (make_collection(session, name) for name in names_of_states)
        for collection in (ash, birch, cedar, dogwood):
            for workflow in (Workflow.PURCHASES, Workflow.EVENTS, Workflow.CIRCULATION):
                add_run(session, collection, RunState.SUCCEEDED, workflow)
    with time_machine.travel(NOON + timedelta(minutes=10), tick=False):
        add_run(session, ash, RunState.FAILED, error=f'Collection "Ash": {WRONG_KEY} ({URL}, status 401).')
        add_run(session, birch)
    store_pauses(session, [(cedar.id, Workflow.EVENTS)], reason="moving", until=None, stopped=set())
    make_pool(session, dogwood, "abc")
    session.commit()
    return {each.name: each for each in (ash, birch, cedar, dogwood, elm)}


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        ("failing", ["Ash"]),
        ("running", ["Birch"]),
        ("paused", ["Cedar"]),
        ("never-imported", ["Elm"]),
        ("stale", []),
    ],
)
def test_overview_is_filtered_by_state(
    browser: Browser, states: dict[str, Collection], condition: str, expected: list[str]
) -> None:
    with time_machine.travel(NOON + timedelta(minutes=20), tick=False):
        page = open_page(browser, f"/?filter={condition}")
        assert names(page) == expected
        (tab,) = page.xpath("//*[@id='tabs']//a[@aria-current]")
        assert words(tab).split()[-1] == str(len(expected))
        listed = browser.get(f"{API}/collections?filter={condition}").json()
        assert [each["name"] for each in listed] == expected
        if not expected:
            assert "No collection matches" in words(page)


def test_workflow_without_timely_success_is_stale(browser: Browser, states: dict[str, Collection]) -> None:
    """Birch still runs, and Cedar's events are paused: both are stale all the same."""
    with time_machine.travel(NOON + timedelta(days=3), tick=False):
        assert names(open_page(browser, "/?filter=stale&sort=name")) == list(states)


def test_overview_is_searched_and_sorted(browser: Browser, states: dict[str, Collection]) -> None:
    with time_machine.travel(NOON + timedelta(minutes=20), tick=False):
        assert names(open_page(browser)) == ["Ash", "Birch", "Cedar", "Dogwood", "Elm"]
        assert names(open_page(browser, "/?text=D&sort=-name")) == ["Dogwood", "Cedar"]
        page = open_page(browser, "/?sort=-titles")
        assert names(page)[0] == "Dogwood"
        (heading,) = page.xpath("//th[@aria-sort]")
        assert (heading.get("aria-sort"), words(heading)) == ("descending", "Titles ↓")
        assert heading.xpath("a/@href") == ["/?sort=titles"]
        assert names(open_page(browser, "/?sort=purchases"))[0] == "Elm"
        for key in ("health", "purchased", "events", "circulation", "rejected"):
            assert len(names(open_page(browser, f"/?sort={key}"))) == 5
        listed = browser.get(f"{API}/collections?text=D&sort=-name").json()
        assert [each["name"] for each in listed] == ["Dogwood", "Cedar"]


def test_links_keep_filter_search_and_order(browser: Browser, states: dict[str, Collection]) -> None:
    with time_machine.travel(NOON + timedelta(minutes=20), tick=False):
        page = open_page(browser, "/?filter=failing&text=a&sort=-titles")
    assert "/?filter=failing&text=a&sort=name" in page.xpath("//thead//a/@href")
    assert "/?filter=paused&text=a&sort=-titles" in page.xpath("//*[@id='tabs']//a/@href")
    assert page.xpath("//input[@name='text']/@value") == ["a"]
    (query,) = page.xpath("//form[@id='bulk']/input[@name='query']/@value")
    assert query == "filter=failing&text=a&sort=-titles"
    assert browser.get("/?sort=nonsense").status_code == 422


def test_long_list_is_paged_with_constant_statements(browser: Browser, session: Session) -> None:
    def count_statements() -> int:
        with record_statements(engine()) as statements:
            open_page(browser)
        return len(statements)

    add_run(session, make_collection(session, "Collection 000"), RunState.FAILED, error="Wrong key.")
    of_one = count_statements()
    for number in range(1, 120):
        collection = make_collection(session, f"Collection {number:03}")
        add_run(session, collection, RunState.FAILED, error="Wrong key.")
    assert count_statements() == of_one
    page = open_page(browser, "/?page=2")
    assert names(page) == [f"Collection {number:03}" for number in range(50, 100)]
    assert page.xpath("//a[@rel='next']/@href") == ["/?page=3"]
    assert page.xpath("//a[@rel='prev']/@href") == ["/"]
    assert "Select all 120 that match" in words(page)
    assert len(names(open_page(browser, "/?page=99"))) == 20


def test_failures_are_grouped_by_cause(browser: Browser, session: Session) -> None:
    with time_machine.travel(NOON, tick=False) as clock:
        for name in ("Ash", "Birch"):
            collection = make_collection(session, name)
            add_run(session, collection, RunState.SUCCEEDED)
            clock.shift(timedelta(minutes=5))
            for offset in (1, 51):
                error = f'Collection "{name}": {WRONG_KEY} ({URL}&startdate={offset}, status 401).'
                add_run(session, collection, RunState.FAILED, error=error)
        add_run(session, make_collection(session, "Cedar"), RunState.RETRYING, error="Timeout.")
        session.commit()
        groups = browser.get(f"{API}/runs/failures").json()
        page = open_page(browser)
    first, second = groups
    assert (first["cause"], first["collections"]) == ("The vendor refused the credentials.", 2)
    assert first["advice"] == "Check the account id and the account key."
    assert first["since"] == (NOON + timedelta(minutes=5)).isoformat().replace("+00:00", "Z")
    assert [failure["collection"] for failure in first["failures"]] == ["Ash", "Birch"]
    assert (second["cause"], second["failures"][0]["state"]) == ("Timeout.", "retrying")
    (link,) = page.xpath("//*[@id='failures']//a[text()='2 collections']/@href")
    assert link == f"/?cause={first['id']}"
    assert URL not in page.text_content()
    with time_machine.travel(NOON + timedelta(minutes=20), tick=False):
        assert names(open_page(browser, link)) == ["Ash", "Birch"]


def test_failures_with_one_cause_are_retried_together(
    browser: Browser, session: Session, redis: Redis
) -> None:
    for name, error in (("Ash", "Wrong key."), ("Birch", "Timeout."), ("Cedar", "Wrong key.")):
        add_run(session, make_collection(session, name), RunState.FAILED, error=error)
    (form,) = open_page(browser, "/?sort=name").xpath("//form[.//button[text()='Retry all 2']]")
    data = {field.get("name"): field.get("value") for field in form.iter("input")}
    assert (data["scope"], data["query"]) == ("matching", f"cause={cause_id('Wrong key.')}")
    assert browser.post(form.get("action"), data=data).headers["location"] == "/?sort=name"
    queued = session.scalars(select(Run.collection_id).filter_by(state=RunState.QUEUED.value))
    assert sorted(queued) == [1, 3]


def test_overdue_workflow_names_worker_and_scheduler(browser: Browser, session: Session) -> None:
    collection = make_collection(session, "Ash")
    collection.created_at -= timedelta(days=2)
    session.commit()
    (group,) = browser.get(f"{API}/runs/failures").json()
    assert group["cause"] == "No run has succeeded since it was due."
    assert group["advice"] == "Check that a worker and the scheduler are running."


def test_timeline_counts_runs_of_each_hour(browser: Browser, session: Session) -> None:
    collection, other = make_collection(session, "Ash"), make_collection(session, "Birch")
    with time_machine.travel(NOON, tick=False) as clock:
        add_run(session, collection, RunState.SUCCEEDED, Workflow.EVENTS)
        clock.shift(timedelta(hours=2))
        add_run(session, collection, RunState.FAILED, Workflow.EVENTS, error="Timeout.")
        add_run(session, other, RunState.SUCCEEDED, Workflow.EVENTS)
        page, narrowed = open_page(browser), open_page(browser, "/?text=Birch")
        hours = browser.get(f"{API}/runs/hours").json()
        clock.shift(timedelta(hours=23))
        assert len(browser.get(f"{API}/runs/hours").json()) == 1
    titles = [words(title) for title in page.xpath("//*[@id='timeline']//*[local-name()='title']")]
    assert titles == ["12:00 to 13:00 UTC: 1 succeeded", "14:00 to 15:00 UTC: 1 succeeded, 1 failed"]
    assert [(hour["succeeded"], hour["failed"]) for hour in hours] == [(1, 0), (1, 1)]
    assert "3 runs · 1 failed" in words(page.get_element_by_id("timeline"))
    assert "Of the listed collections: 1 run · none failed" in words(narrowed.get_element_by_id("timeline"))
    link = page.xpath("//*[@id='timeline']//tbody//a/@href")[0]
    runs = open_page(browser, link)
    assert runs.xpath("//*[@id='runs']//tbody/tr/th/a/text()") == ["3", "2"]
    assert "Any time" in words(runs)


def test_missing_processes_are_named_with_what_to_do(browser: Browser, redis: Redis) -> None:
    text = words(open_page(browser).get_element_by_id("processes"))
    assert "No worker is running, so nothing is imported" in text
    assert "The scheduler is not running, so no scheduled run starts" in text
    assert "start it with accession up" in text
    record_heartbeats(redis, "alder")
    assert words(open_page(browser).get_element_by_id("processes")) == ""


def test_new_collection_offers_its_first_import(browser: Browser, session: Session, vic: str) -> None:
    make_collection(session, "Ash")
    browser.headers = {**browser.headers, **bearer(make_token(session))}
    page = open_page(browser)
    assert "Not imported yet" in words(page)
    assert page.xpath("//button[text()='Import now']")
    assert "never" not in words(page.xpath("//tbody/tr")[-1]).lower()


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (30, "just now"),
        (300, "5 min ago"),
        (3 * 3600, "3 h ago"),
        (50 * 3600, "2 d ago"),
        (800 * 86400, "2 y ago"),
    ],
)
def test_last_success_is_shown_by_its_age(
    browser: Browser, session: Session, seconds: int, text: str
) -> None:
    with time_machine.travel(NOON, tick=False) as clock:
        collection = make_collection(session, "Ash")
        add_run(session, collection, RunState.SUCCEEDED)
        clock.shift(seconds)
        page = open_page(browser)
    (time,) = page.xpath("//td[starts-with(@id, 'purchases-')]//a/time")
    assert (time.text_content(), time.get("title")) == (text, "2024-05-01 12:00 UTC")
