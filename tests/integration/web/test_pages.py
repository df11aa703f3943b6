"""The pages as documents: everything shown is text, and nothing that is secret is shown."""

import re
from typing import Any

import pytest
from lxml import html
from pydantic import SecretStr
from redis import Redis
from sqlalchemy import select
from sqlalchemy.orm import Session

from accession.accounts.collections import add_collection
from accession.accounts.keys import account_key_of
from accession.catalog.apply import apply_titles
from accession.catalog.purchase_records import PurchaseDate
from accession.catalog.rejected_records import Rejection, keep_rejected
from accession.core.workflow import Workflow
from accession.db.models import Collection, Run, RunState
from accession.runs.ledger import end_run, note_retry, open_run
from tests.fixtures.factories import ACCOUNT_KEY, NOON, make_pool, person, subject, title_data
from tests.fixtures.web_client import Browser

HOSTILE = "\"'><img src=x onerror=alert(1)><script>alert(2)</script>{{ 7 * 7 }}"
PAGES = [
    "/",
    "/collections/1",
    "/collections/1/edit",
    "/collections/1/reimport",
    "/collections/1/remove",
    "/collections/new",
    "/runs",
    "/runs/1",
    "/titles",
    "/titles?text=solaris&availability=available&purchased_from=2014-01-01",
    "/titles/abc/collections/1",
    "/exports",
    "/rejected-records",
    "/rejected-records/1",
]


@pytest.fixture
def hostile(session: Session) -> Collection:
    """A collection of which every text is hostile."""
    collection = add_collection(
        session,
        name=HOSTILE,
        library_id=HOSTILE,
        account_id=HOSTILE,
        account_key=SecretStr(ACCOUNT_KEY),
        base_url="http://127.0.0.1:9",
    )
    pool = make_pool(session, collection, "abc")
    texts: dict[str, Any] = dict.fromkeys(("title", "subtitle", "publisher", "description"), HOSTILE)
    said = title_data("abc", contributors=(person(HOSTILE),), subjects=(subject(HOSTILE),), **texts)
    apply_titles(session, {pool.id: said})
    keep_rejected(session, collection, PurchaseDate(NOON.date()), [Rejection(HOSTILE, HOSTILE, "hash")])
    open_run(session, collection.id, Workflow.PURCHASES, "task", {"current_day": None, "offset": 1})
    run = session.scalars(select(Run)).one()
    note_retry(run, HOSTILE, retry=1)
    end_run(run, RunState.FAILED, HOSTILE)
    session.commit()
    return collection


@pytest.mark.parametrize("path", PAGES)
def test_whatever_is_stored_is_shown_as_text(browser: Browser, hostile: Collection, path: str) -> None:
    answer = browser.get(path)
    assert answer.status_code == 200, answer.text
    page = html.fromstring(answer.text)
    assert [script.get("src") for script in page.iter("script")] == [
        "/static/theme.js",
        "/static/vendor/js/vendor/tabler.min.js",
        "/static/app.js",
    ]
    assert not page.xpath("//@onerror | //@onclick | //@style")
    assert all(source.startswith(("/covers/", "/static/")) for source in page.xpath("//img/@src"))
    assert "49" not in re.findall(r"\{\{|\b49\b", page.text_content())
    assert ACCOUNT_KEY not in answer.text


def test_a_form_that_cannot_be_used_comes_back_with_what_was_typed_and_why(
    browser: Browser, session: Session
) -> None:
    typed = {"name": "Birch", "library_id": "birch", "account_id": "a b", "account_key": "birch-key"}
    answer = browser.post("/collections/new", data={**typed, "base_url": "https://vendor.example"})
    assert answer.status_code == 422
    page = html.fromstring(answer.text)
    assert "The account id of collection" in page.xpath("string(//*[@role='alert'])")
    assert page.xpath("//input[@id='name']/@value") == ["Birch"]
    assert "birch-key" not in answer.text
    assert session.scalars(select(Collection)).all() == []


def test_an_account_is_changed_and_an_empty_key_leaves_the_one_there_is(
    browser: Browser, session: Session, collection: Collection
) -> None:
    place = f"/collections/{collection.id}"
    typed = {"library_id": "cedar", "account_id": "library.cedar", "base_url": "https://vendor.example"}
    answer = browser.post(f"{place}/edit", data={**typed, "account_key": ""})
    assert (answer.status_code, answer.headers["location"]) == (303, place)
    session.refresh(collection)
    assert (collection.library_id, account_key_of(collection).get_secret_value()) == ("cedar", ACCOUNT_KEY)
    assert "The account is changed." in browser.get(place).text
    assert "The account is changed." not in browser.get(place).text


def test_a_reimport_says_first_what_it_costs_and_is_queued_when_it_is_confirmed(
    browser: Browser, session: Session, collection: Collection, redis: Redis
) -> None:
    place = f"/collections/{collection.id}/reimport"
    assert re.search(r"about <strong>\d+ requests</strong>", browser.get(place).text)
    assert redis.llen("default") == 0
    assert browser.post(place).status_code == 303
    assert session.scalars(select(Run)).one().cursor["reset_timestamp"]
    assert redis.llen("default") == 1


def test_a_collection_that_is_marked_for_deletion_is_gone_from_the_pages(
    browser: Browser, collection: Collection
) -> None:
    answer = browser.post(f"/collections/{collection.id}/remove")
    assert answer.headers["location"] == "/"
    assert "is marked for deletion." in browser.get("/").text
    gone = browser.get(f"/collections/{collection.id}")
    assert gone.status_code == 404
    assert "There is no collection with the id" in gone.text


def test_runs_are_found_by_what_they_are(browser: Browser, hostile: Collection) -> None:
    assert 'href="/runs/1"' in browser.get("/runs?workflow=purchases&state=failed&collection=1").text
    assert 'href="/runs/1"' not in browser.get("/runs?workflow=events").text
    assert browser.get("/runs?workflow=nonsense").status_code == 422
