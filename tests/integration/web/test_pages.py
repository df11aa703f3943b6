"""Pages of the dashboard: escaping, forms, confirmation pages and filters."""

import re
from datetime import timedelta
from typing import Any

import pytest
from lxml import html
from redis import Redis
from sqlalchemy import select
from sqlalchemy.orm import Session

from accession.accounts.keys import decrypt_account_key
from accession.auth.audit import Actor, ActorKind, AuditAction, record
from accession.auth.roles import UserRole
from accession.auth.tokens import add_token
from accession.catalog.purchase_dates import PurchaseDate
from accession.catalog.rejected_records import RejectedRecordData, store_rejected_records
from accession.core.workflow import Workflow
from accession.db.models import Collection, FindingKind, Run, RunState
from accession.reports.registry import REPORTS
from accession.runs.detail_store import RecordedDetails, store_run_details
from accession.runs.ledger import end_run, get_or_create_checkpoint, open_run, record_retry
from accession.runs.pauses import store_pauses
from accession.runs.run_details import RunLogLineView
from tests.fixtures.factories import (
    ACCOUNT_KEY,
    NOON,
    apply_titles,
    day,
    make_collection,
    make_pool,
    person,
    store_title,
    subject,
    title_data,
)
from tests.fixtures.purchases import WARNING, purchase_title, store_record_in_part
from tests.fixtures.statistics import refresh_statistics
from tests.fixtures.verification import store_finding, store_verification
from tests.fixtures.web_client import Browser, make_user

HOSTILE = "\"'><img src=x onerror=alert(1)><script>alert(2)</script>{{ 1337 * 1337 }}"
PAGES = [
    "/",
    "/collections/1",
    "/collections/1/edit",
    "/collections/1/limits",
    "/collections/1/schedules/events",
    "/collections/1/reimport",
    "/collections/1/backfill?first_day=2023-01-01&last_day=2023-01-31",
    "/collections/1/remove",
    "/collections/1/verification?resolved=true",
    "/collections/1/verify",
    "/collections/new",
    "/runs",
    "/runs/1",
    "/runs/days",
    "/storage",
    "/titles",
    "/titles?text=solaris&availability=available&purchased_from=2014-01-01",
    "/titles/abc/collections/1",
    "/exports",
    "/rejected-records",
    "/rejected-records/1",
    "/reports",
    *(f"/reports/{name}" for name in REPORTS),
    "/reports/turnover?by=subject",
    "/titles?subject=x&lacks=cover&also_in=1",
]


@pytest.fixture
def hostile(session: Session) -> Collection:
    """Store a collection whose texts all contain HTML and template syntax."""
    collection = make_collection(session, "Alder Library")
    collection.name = collection.library_id = collection.account_id = HOSTILE
    pool = make_pool(session, collection, "abc")
    texts: dict[str, Any] = dict.fromkeys(("title", "subtitle", "publisher", "description"), HOSTILE)
    metadata = title_data("abc", contributors=(person(HOSTILE),), subjects=(subject(HOSTILE),), **texts)
    apply_titles(session, {pool.id: metadata})
    store_rejected_records(
        session, collection, PurchaseDate(NOON.date()), [RejectedRecordData(HOSTILE, HOSTILE, "hash")]
    )
    store_verification(session, collection)
    store_finding(session, collection, FindingKind.MISSING, HOSTILE, NOON.date())
    add_token(session, HOSTILE, UserRole.VIEWER)
    actor = Actor(ActorKind.USER, HOSTILE, HOSTILE)
    record(session, actor, AuditAction.USER_ADD, HOSTILE, {HOSTILE: HOSTILE})
    open_run(session, collection.id, Workflow.PURCHASES, "task", {"current_day": None, "offset": 1})
    run = session.scalars(select(Run)).one()
    record_retry(run, HOSTILE, retry=1)
    end_run(run, RunState.FAILED, HOSTILE)
    line = RunLogLineView(NOON, "error", HOSTILE, 1, {HOSTILE: HOSTILE})
    store_run_details(session, {"task": RecordedDetails(lines=[line])})
    keys = [(collection.id, Workflow.EVENTS)]
    store_pauses(session, keys, reason=HOSTILE, until=None, stopped=set())
    refresh_statistics(session)
    return collection


@pytest.mark.parametrize("path", PAGES)
def test_stored_text_is_escaped_on_every_page(browser: Browser, hostile: Collection, path: str) -> None:
    response = browser.get(path)
    assert response.status_code == 200, response.text
    page = html.fromstring(response.text)
    assert [script.get("src") for script in page.iter("script")] == [
        "/static/theme.js",
        "/static/vendor/js/vendor/tabler.min.js",
        "/static/app.js",
        "/static/shortcuts.js",
    ]
    assert not page.xpath("//@onerror | //@onclick | //@style")
    assert all(source.startswith(("/covers/", "/static/")) for source in page.xpath("//img/@src"))
    assert "1787569" not in page.text_content()
    assert ACCOUNT_KEY not in response.text


@pytest.mark.parametrize("role", UserRole)
def test_menu_has_only_pages_that_the_user_may_open(
    browser: Browser, session: Session, collection: Collection, role: UserRole
) -> None:
    browser.log_in(make_user(session, "pat", role))

    paths = html.fromstring(browser.get("/").text).xpath("//nav[@id='menu']//a/@href")

    assert ("/webhooks" in paths) == role.can_operate
    assert ("/tokens" in paths) == role.can_administer
    assert {browser.get(path).status_code for path in paths} == {200}


def test_new_collection_has_one_next_step(browser: Browser, collection: Collection) -> None:
    page = html.fromstring(browser.get("/collections/1").text)

    (form,) = [form for form in page.forms if form.action == "/collections/1/runs"]
    assert dict(form.form_values()) == {"workflow": "purchases"}
    assert page.xpath("//button[contains(@class, 'btn-primary')]/text()") == [
        "Start the first import",
        "Close",
    ]
    assert not page.xpath("//*[@id='totals']")
    assert page.xpath("//*[@id='events']//dt/text()") == ["State", "Next run", "Schedule"]
    assert page.xpath("//*[@id='events']//dd/text()")[0] == "no run yet"


def test_all_workflows_of_a_collection_are_run_at_once(
    browser: Browser, session: Session, collection: Collection, redis: Redis
) -> None:
    store_title(session, collection, "abc")
    page = html.fromstring(browser.get("/collections/1").text)
    (form,) = [form for form in page.forms if form.action == "/control/run"]

    response = browser.post("/control/run", data=dict(form.form_values()))

    assert response.headers["location"] == "/collections/1"
    assert redis.llen("default") == 3


def test_month_of_purchases_leads_to_its_titles(
    browser: Browser, session: Session, collection: Collection
) -> None:
    purchase_title(session, collection, "solaris", NOON)
    purchase_title(session, collection, "eden", NOON - timedelta(days=1))
    page = html.fromstring(browser.get("/collections/1").text)

    (in_chart,) = page.xpath("//*[@id='purchases-chart']//a[title[starts-with(., '2024-05')]]/@href")
    (in_table,) = page.xpath("//*[@id='purchases-table']//a[text()='2024-05']/@href")

    assert in_chart == in_table
    titles = browser.get(in_table).text
    assert "/titles/solaris/" in titles
    assert "/titles/eden/" not in titles


def test_failure_of_a_collection_states_a_common_cause_once(
    browser: Browser, session: Session, collection: Collection
) -> None:
    url = "https://vendor.example/data/marc"
    error = f'Collection "{collection.name}": the key is wrong; check it ({url}, status 401).'
    for workflow in (Workflow.PURCHASES, Workflow.CIRCULATION):
        open_run(session, collection.id, workflow, workflow, {"current_day": None, "offset": 1})
    for run in session.scalars(select(Run)):
        end_run(run, RunState.FAILED, error)
    session.commit()
    page = html.fromstring(browser.get("/collections/1").text)

    (alert,) = page.xpath("//*[@role='alert']")
    assert " ".join(alert.text_content().split()) == (
        "Purchases, circulation: The key is wrong; check it. Retry now"
    )
    assert url not in page.text_content()


def test_collection_page_names_the_time_that_is_unconfirmed(
    browser: Browser, session: Session, collection: Collection
) -> None:
    checkpoint = get_or_create_checkpoint(session, collection, Workflow.PURCHASES)
    checkpoint.finish = day(2024, 5, 1)
    for confirmed, shown in (
        (day(2014, 1, 1), "unconfirmed since 2014-01-01"),
        (day(2024, 5, 1), "2024-05-01"),
    ):
        checkpoint.confirmed = confirmed
        session.commit()
        page = html.fromstring(browser.get("/collections/1").text)
        (synced,) = page.xpath("//*[@id='purchases']//dt[.='Synced through']/following-sibling::dd[1]")
        assert synced.text_content().startswith(shown)


def test_title_on_order_is_shown_with_its_date(
    browser: Browser, session: Session, collection: Collection
) -> None:
    store_title(session, collection, "coming", on_sale="2999-03", licenses_owned=2, licenses_available=2)
    store_title(session, collection, "sold", licenses_owned=1, licenses_available=5)
    listed = html.fromstring(browser.get("/titles?availability=on_order").text)
    (card,) = listed.xpath("//ul[contains(@class, 'covers')]/li")
    assert "2 on order until 2999-03" in card.text_content()
    assert "1 of 1 available" in browser.get("/titles?availability=available").text
    page = html.fromstring(browser.get(f"/titles/coming/collections/{collection.id}").text)
    assert "2 on order until 2999-03" in page.text_content()
    totals = html.fromstring(browser.get(f"/collections/{collection.id}").text)
    cards = [card.text_content().split() for card in totals.xpath("//*[@id='totals']/div")]
    assert ["Copies", "owned", "3"] in cards
    assert ["Copies", "available", "1"] in cards


def test_invalid_form_is_shown_again_with_values_and_error(browser: Browser, session: Session) -> None:
    fields = {"name": "Birch", "library_id": "birch", "account_id": "a b", "account_key": "birch-key"}
    response = browser.post("/collections/new", data={**fields, "base_url": "https://vendor.example"})
    assert response.status_code == 422
    page = html.fromstring(response.text)
    assert "The account id of collection" in page.xpath("string(//*[@role='alert'])")
    assert page.xpath("//input[@id='name']/@value") == ["Birch"]
    assert "birch-key" not in response.text
    assert session.scalars(select(Collection)).all() == []


def test_page_names_collections_of_the_same_library(browser: Browser, collection: Collection) -> None:
    note = '"Alder Library" has the same library at the vendor'
    account = {"account_id": "library.alder", "account_key": "key", "base_url": collection.base_url}
    added = browser.post("/collections/new", data={"name": "Branch", "library_id": "alder", **account})
    page = html.fromstring(browser.get(added.headers["location"]).text)
    assert note in page.xpath("string(//*[@role='status'][contains(@class, 'alert')])")
    assert note in page.xpath("string(//*[@id='same-library'])")
    changed = browser.post(
        f"{added.headers['location']}/edit", data={"library_id": "birch", **account, "account_key": ""}
    )
    page = html.fromstring(browser.get(changed.headers["location"]).text)
    assert note not in page.text_content()


def test_empty_account_key_keeps_the_current_key(
    browser: Browser, session: Session, collection: Collection
) -> None:
    url = f"/collections/{collection.id}"
    fields = {"library_id": "cedar", "account_id": "library.cedar", "base_url": "https://vendor.example"}
    response = browser.post(f"{url}/edit", data={**fields, "account_key": ""})
    assert (response.status_code, response.headers["location"]) == (303, url)
    session.refresh(collection)
    assert (collection.library_id, decrypt_account_key(collection).get_secret_value()) == (
        "cedar",
        ACCOUNT_KEY,
    )
    assert "Account changed." in browser.get(url).text
    assert "Account changed." not in browser.get(url).text


def test_reimport_shows_its_cost_before_it_is_confirmed(
    browser: Browser, session: Session, collection: Collection, redis: Redis
) -> None:
    url = f"/collections/{collection.id}/reimport"
    assert re.search(r"about <strong>\d+ requests</strong>", browser.get(url).text)
    assert redis.llen("default") == 0
    assert browser.post(url).status_code == 303
    assert session.scalars(select(Run)).one().cursor["reset_timestamp"]
    assert redis.llen("default") == 1


def test_collection_marked_for_deletion_is_hidden(browser: Browser, collection: Collection) -> None:
    response = browser.post(f"/collections/{collection.id}/remove")
    assert response.headers["location"] == "/"
    assert "marked for deletion." in browser.get("/").text
    hidden = browser.get(f"/collections/{collection.id}")
    assert hidden.status_code == 404
    assert "There is no collection with the id" in hidden.text


def test_title_stored_in_part_is_listed_and_shows_its_warning(
    browser: Browser, session: Session, collection: Collection
) -> None:
    make_pool(session, collection, "good")
    store_record_in_part(session, collection, "part", NOON)
    page = html.fromstring(browser.get("/titles?with_warnings=true").text)
    assert page.xpath("//input[@name='with_warnings']/@checked")
    (link,) = page.xpath("//a[@class='cover-link']/@href")
    assert link == f"/titles/part/collections/{collection.id}"
    assert WARNING in html.fromstring(browser.get(link).text).xpath("string(//*[@class='failure small'])")
    assert "stored in part" not in browser.get(f"/titles/good/collections/{collection.id}").text
    assert "/titles?with_warnings=true" in browser.get("/rejected-records").text


def test_runs_are_filtered_by_workflow_state_and_collection(browser: Browser, hostile: Collection) -> None:
    assert 'href="/runs/1"' in browser.get("/runs?workflow=purchases&state=failed&collection=1").text
    assert 'href="/runs/1"' not in browser.get("/runs?workflow=events").text
    assert browser.get("/runs?workflow=nonsense").status_code == 422


def test_list_of_runs_without_a_row_says_what_to_do(browser: Browser, session: Session) -> None:
    make_collection(session, "Alder Library")
    assert "Runs appear here when" in browser.get("/runs").text
    assert "Use fewer filters." in browser.get("/runs?state=failed").text


def test_unknown_address_is_explained(browser: Browser, database: None) -> None:
    response = browser.get("/nothing")
    assert response.status_code == 404
    assert "There is nothing at this address: check its path." in response.text


def test_error_of_a_cancelled_run_is_no_failure(browser: Browser, session: Session) -> None:
    collection = make_collection(session, "Alder Library")
    for state in (RunState.CANCELLED, RunState.FAILED):
        open_run(session, collection.id, Workflow.EVENTS, state, {})
        end_run(session.scalars(select(Run).filter_by(task_id=state)).one(), state, f"It was {state}.")
    session.commit()
    page = html.fromstring(browser.get("/runs").text)
    assert page.xpath("//*[contains(@class, 'failure')]/text()") == ["It was failed."]
    assert "It was cancelled." in page.text_content()


def test_overview_summarises_the_health_of_collections(browser: Browser, session: Session) -> None:
    def summary() -> str:
        text = html.fromstring(browser.get("/").text).get_element_by_id("summary").text_content()
        return " ".join(text.split())

    assert summary() == "No collections yet"
    for name in ("Alder Library", "Birch Library"):
        make_collection(session, name)
    open_run(session, 1, Workflow.PURCHASES, "alder", {"current_day": None, "offset": 1})
    session.commit()
    assert summary() == "All healthy · 1 running · 0 titles"
    open_run(session, 2, Workflow.PURCHASES, "birch", {"current_day": None, "offset": 1})
    end_run(session.scalars(select(Run).where(Run.task_id == "birch")).one(), RunState.FAILED, "Wrong key.")
    session.commit()
    assert summary() == "1 of 2 failing · 1 running · 0 titles"
    open_run(session, 2, Workflow.EVENTS, "events", {})
    session.commit()
    assert summary() == "1 of 2 failing · 2 running · 0 titles"


def test_page_has_a_description_with_and_without_login(browser: Browser, session: Session) -> None:
    overview = browser.get("/").text
    make_user(session, "ann", UserRole.OPERATOR)
    for page in (overview, browser.get("/login").text):
        (description,) = html.fromstring(page).xpath("//head/meta[@name='description']/@content")
        assert "catalogue" in description
