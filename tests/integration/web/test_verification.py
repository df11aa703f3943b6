"""Verification of past months in the JSON API and the dashboard."""

from collections.abc import Callable
from datetime import date
from typing import Any

import httpx
import pytest
from lxml import html
from redis import Redis
from sqlalchemy import select
from sqlalchemy.orm import Session

from accession.core.workflow import Workflow
from accession.db.models import Collection, FindingKind, Run, RunState
from accession.runs.ledger import end_run, open_run
from tests.fixtures.factories import apply_titles, make_collection, make_pool, title_data
from tests.fixtures.verification import store_finding, store_purchases, store_verification
from tests.fixtures.web_client import Browser, bearer, make_token

MANY = 53
API = "/api/v1/collections/1/verification"
PAGE = "/collections/1/verification"
FORM = "/collections/1/verify"


@pytest.fixture
def api(browser: Browser, session: Session, collection: Collection) -> Browser:
    """Return a client that sends an operator's token."""
    browser.headers = bearer(make_token(session))
    return browser


@pytest.fixture
def verified(session: Session, collection: Collection) -> Collection:
    """Store a title "Solaris", a verification, and findings."""
    pool = make_pool(session, collection, "abc")
    apply_titles(session, {pool.id: title_data("abc", title="Solaris")})
    store_verification(session, collection)
    return collection


def text_of(response: httpx.Response, element_id: str = "content") -> str:
    """Return the displayed text of an element, with single spaces."""
    assert response.status_code == 200, response.text
    texts = html.fromstring(response.text).get_element_by_id(element_id).itertext()
    return " ".join(" ".join(texts).split())


def table_rows(response: httpx.Response, element_id: str) -> list[list[str]]:
    """Return the displayed cells of a table's rows."""
    rows = html.fromstring(response.text).get_element_by_id(element_id).xpath(".//tbody/tr")
    return [[" ".join(cell.text_content().split()) for cell in row] for row in rows]


def started_cursors(session: Session) -> list[dict[str, Any]]:
    """Return the arguments of the verifications that were started."""
    runs = session.scalars(select(Run).filter_by(workflow=Workflow.VERIFICATION.value))
    return [dict(run.cursor) for run in runs]


# API


def test_summary_counts_months_findings_and_requests(api: Browser, verified: Collection) -> None:
    summary = api.get(API).json()
    months = {month.pop("month"): month for month in summary.pop("months")}
    assert summary == {
        "collection": "Alder Library",
        "never_verified": 123,
        "oldest_verified_at": "2024-05-01T12:00:00Z",
        "last_verified_at": "2024-05-01T12:00:00Z",
        "open_findings": {"missing": 1, "moved": 1, "extra": 1},
        "requests": 2,
        "requests_with_days": 5,
    }
    assert (len(months), min(months), max(months)) == (124, "2014-01-01", "2024-04-01")
    assert months["2024-04-01"]["verified_at"] is None
    assert months["2024-03-01"] == {
        "verified_at": "2024-05-01T12:00:00Z",
        "listed": 2,
        "missing": 1,
        "moved": 1,
        "extra": 1,
    }
    april = api.get(f"{API}?first_month=2024-04&last_month=2024-04").json()
    assert (april["requests"], april["requests_with_days"]) == (1, 2)


def test_summary_without_purchases_has_no_cost(api: Browser) -> None:
    summary = api.get(API).json()
    assert (summary["months"], summary["requests"], summary["oldest_verified_at"]) == ([], 0, None)


def test_findings_are_open_ones_unless_resolved_are_included(api: Browser, verified: Collection) -> None:
    findings = api.get(f"{API}/findings").json()["items"]
    assert [(each["kind"], each["identifier"], each["title"]) for each in findings] == [
        ("missing", "new", None),
        ("moved", "abc", "Solaris"),
        ("extra", "abc", "Solaris"),
    ]
    assert (findings[1]["purchased_on"], findings[1]["moved_to"]) == ("2024-03-05", "2024-03-07")
    with_resolved = api.get(f"{API}/findings?resolved=true").json()["items"]
    assert [each["identifier"] for each in with_resolved if each["resolved_at"]] == ["old"]


def test_finding_pages_contain_every_finding_once(
    api: Browser, session: Session, collection: Collection
) -> None:
    for number in range(5):
        store_finding(session, collection, FindingKind.MISSING, f"t{number}", date(2024, 3, 1))
    identifiers, cursor = [], ""
    while cursor is not None:
        page = api.get(f"{API}/findings?limit=2&cursor={cursor or 0}").json()
        identifiers += [each["identifier"] for each in page["items"]]
        cursor = page["next"]
    assert identifiers == ["t0", "t1", "t2", "t3", "t4"]


def test_other_collections_are_not_included(api: Browser, session: Session) -> None:
    other = make_collection(session, "Birch Library")
    store_verification(session, other)
    assert api.get(f"{API}/findings?resolved=true").json()["items"] == []
    assert set(api.get(API).json()["open_findings"].values()) == {0}


def test_started_verification_is_in_the_ledger_and_the_queue(
    api: Browser, session: Session, redis: Redis
) -> None:
    body = {"first_month": "2019-03", "last_month": "2020-01", "days": True, "repair": True}
    response = api.post(API, json=body)
    assert response.status_code == 202, response.text
    run = session.scalars(select(Run)).one()
    assert response.json() == {"task_ids": {"1": run.task_id}}
    assert (run.workflow, redis.llen("default")) == ("verification", 1)
    assert run.cursor == {
        "first_month": "2019-03-01",
        "last_month": "2020-01-01",
        "with_days": True,
        "repairs": True,
    }


def test_verification_without_months_covers_all_months(api: Browser, session: Session) -> None:
    api.post(API, json={})
    (cursor,) = started_cursors(session)
    assert cursor == {"first_month": None, "last_month": None, "with_days": False, "repairs": False}


@pytest.mark.parametrize(
    ("body", "detail"),
    [
        ({"first_month": "2019-13"}, "first_month is invalid: it must be a month such as 2019-03."),
        ({"last_month": "2019-03-01"}, "last_month is invalid: it must be a month such as 2019-03."),
        ({"first_month": 201903}, "first_month is invalid: it must be a month such as 2019-03."),
        ({"days": "yes"}, "days is invalid: Input should be a valid boolean."),
        ({"repairs": True}, "repairs is invalid: Extra inputs are not permitted."),
        (
            {"first_month": "2019-03", "last_month": "2019-01"},
            "The last month, 2019-01, is before the first, 2019-03: exchange them.",
        ),
    ],
)
def test_invalid_verification_is_rejected(
    api: Browser, session: Session, body: dict[str, Any], detail: str
) -> None:
    response = api.post(API, json=body)
    assert (response.status_code, response.json()["detail"]) == (422, detail)
    assert started_cursors(session) == []


@pytest.mark.parametrize(
    "request_it",
    [
        lambda api: api.get("/api/v1/collections/9/verification"),
        lambda api: api.get("/api/v1/collections/9/verification/findings"),
        lambda api: api.post("/api/v1/collections/9/verification", json={}),
        lambda api: api.get("/collections/9/verification"),
        lambda api: api.get("/collections/9/verify"),
        lambda api: api.post("/collections/9/verify"),
    ],
)
def test_verification_of_unknown_collection_is_not_found(
    api: Browser, session: Session, request_it: Callable[[Browser], httpx.Response]
) -> None:
    response = request_it(api)
    assert response.status_code == 404
    assert "There is no collection with the id 9" in response.text
    assert started_cursors(session) == []


# Dashboard


def test_page_shows_findings_and_months(browser: Browser, verified: Collection) -> None:
    response = browser.get(PAGE)
    assert [row[:4] for row in table_rows(response, "findings")] == [
        ["new", "missing", "–", "2024-03-01"],
        ["Solaris", "moved", "2024-03-05", "2024-03-07"],
        ["Solaris", "extra", "2024-03-06", "–"],
    ]
    links = html.fromstring(response.text).get_element_by_id("findings").xpath(".//a/@href")
    assert links == ["/titles/abc/collections/1"] * 2
    assert table_rows(response, "months")[:2] == [
        ["2024-04", "never", "", "", "", ""],
        ["2024-03", "2024-05-01 12:00 UTC", "2", "1", "1", "1"],
    ]
    assert "Never verified 123 months" in text_of(response, "verification")
    assert [row[0] for row in table_rows(browser.get(f"{PAGE}?resolved=true"), "findings")][-1] == "old"


def test_findings_page_links_to_the_next(browser: Browser, session: Session, collection: Collection) -> None:
    for number in range(MANY):
        store_finding(
            session, collection, FindingKind.MISSING, f"t{number}", date(2024, 3, 1), is_resolved=True
        )
    first = browser.get(f"{PAGE}?resolved=true")
    (link,) = html.fromstring(first.text).xpath("//a[text()='Next page']/@href")
    titles = [row[0] for page in (first, browser.get(link)) for row in table_rows(page, "findings")]
    assert titles == [f"t{number}" for number in range(MANY)]


def test_page_before_the_first_verification_says_so(
    browser: Browser, session: Session, collection: Collection
) -> None:
    store_purchases(session, collection, date(2024, 3, 5))
    months = text_of(browser.get(PAGE), "months")
    assert months.startswith("No month has been verified yet.")
    assert "2024-03" not in months


def test_pages_without_purchases_say_what_to_do(browser: Browser, collection: Collection) -> None:
    text = text_of(browser.get(PAGE))
    assert "No open findings." in text
    assert "No purchases to verify yet." in text
    assert "Verify …" not in text
    assert "import the purchases first." in text_of(browser.get(FORM))
    assert "Verification" not in text_of(browser.get("/collections/1"))


def test_form_tells_the_cost_of_the_selected_months(browser: Browser, verified: Collection) -> None:
    everything = text_of(browser.get(FORM))
    assert "All months: about 2 requests to the vendor." in everything
    assert "Compare single days too: about 5 requests in all" in everything
    assert "From 2024-04 on: about 1 request to" in text_of(browser.get(f"{FORM}?first_month=2024-04"))
    march = text_of(browser.get(f"{FORM}?first_month=2024-03&last_month=2024-03"))
    assert "2024-03: about 1 request to" in march
    assert "Up to 2024-03: about 1 request to" in text_of(browser.get(f"{FORM}?last_month=2024-03"))
    later = text_of(browser.get(f"{FORM}?first_month=2024-06"))
    assert "There are no purchases to verify in these months" in later


def test_form_starts_the_verification_that_it_shows(
    browser: Browser, session: Session, verified: Collection, redis: Redis
) -> None:
    page = html.fromstring(browser.get(f"{FORM}?first_month=2024-03&last_month=2024-04").text)
    (form,) = [form for form in page.forms if form.method == "POST" and not form.action]
    assert redis.llen("default") == 0
    fields = {name: value for name, value in form.form_values() if value}
    response = browser.post(FORM, data={**fields, "repair": "true"})
    assert (response.status_code, response.headers["location"]) == (303, PAGE)
    assert started_cursors(session) == [
        {"first_month": "2024-03-01", "last_month": "2024-04-01", "with_days": False, "repairs": True}
    ]
    assert redis.llen("default") == 1
    shown = text_of(browser.get(PAGE))
    assert "Run queued: verification." in shown
    assert "Latest run queued" in shown


def test_form_rejects_months_in_the_wrong_order(
    browser: Browser, session: Session, verified: Collection
) -> None:
    months = "first_month=2024-04&last_month=2024-03"
    response = browser.get(f"{FORM}?{months}")
    assert response.status_code == 422
    page = html.fromstring(response.text)
    assert "is before the first, 2024-04" in page.xpath("string(//*[@role='alert'])")
    assert page.xpath("//input[@id='first_month']/@value") == ["2024-04"]
    assert not page.xpath("//button[text()='Verify']")
    assert browser.get(f"{FORM}?first_month=march").status_code == 422
    response = browser.post(FORM, data={"first_month": "2024-04", "last_month": "2024-03"})
    assert response.status_code == 422
    assert started_cursors(session) == []


def test_viewer_sees_the_verification_but_cannot_start_one(
    browser: Browser, session: Session, verified: Collection, ann: str, vic: str
) -> None:
    browser.log_in(vic)
    for path in ("/collections/1", PAGE):
        text = text_of(browser.get(path))
        assert "Never verified" in text
        assert "Verify …" not in text
    assert browser.get(FORM).status_code == browser.post(FORM).status_code == 403
    browser.headers = {**browser.headers, "Accept": "application/json"}
    assert browser.post(API, json={}).status_code == 403
    assert started_cursors(session) == []


def test_collection_page_shows_findings_and_the_latest_run(
    browser: Browser, session: Session, verified: Collection
) -> None:
    open_run(session, verified.id, Workflow.VERIFICATION, "task", {})
    end_run(session.scalars(select(Run)).one(), RunState.FAILED, "The vendor is unavailable.")
    session.commit()
    response = browser.get("/collections/1")
    shown = text_of(response, "verification")
    assert "Latest run failed" in shown
    assert "The vendor is unavailable." in shown
    assert "Open findings: 1 missing, 1 moved, 1 extra" in shown
    page = html.fromstring(response.text)
    assert page.get_element_by_id("verification").xpath(".//a/@href") == ["/runs/1", PAGE]
    assert page.xpath("//form//input[@name='workflow']/@value") == ["purchases", "events", "circulation"]
    assert browser.get("/runs/1").status_code == 200


def test_overview_shows_findings_without_failing_the_collection(
    browser: Browser, session: Session, collection: Collection
) -> None:
    store_purchases(session, collection, date(2024, 3, 5))
    store_finding(session, collection, FindingKind.EXTRA, "abc", date(2024, 3, 5))
    open_run(session, collection.id, Workflow.VERIFICATION, "task", {})
    session.commit()
    response = browser.get("/")
    assert text_of(response, "health-1") == "new 1 open finding"
    assert text_of(response, "summary") == "All healthy · 1 running · 1 title"
    row = html.fromstring(response.text).get_element_by_id("row-1")
    headings = html.fromstring(response.text).xpath("//thead//th")
    assert len(row) == len(headings)
