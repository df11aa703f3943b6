"""The JSON API: what a program can learn and do."""

from datetime import timedelta
from typing import Any

import httpx
import pytest
from redis import Redis
from sqlalchemy import select
from sqlalchemy.orm import Session

from accession.accounts.keys import account_key_of
from accession.catalog.purchase_records import PurchaseDate
from accession.catalog.rejected_records import Rejection, keep_rejected
from accession.core.workflow import Workflow
from accession.db.models import Collection, RejectedRecord, Run, RunState
from accession.runs.ledger import end_run, open_run
from accession.sandbox.catalogue import Catalogue
from accession.sandbox.server import Sandbox, SandboxAccount, running_sandbox
from tests.fixtures.factories import ACCOUNT_KEY, NOON, make_collection, make_pool
from tests.fixtures.web_client import Browser, make_token

ACCOUNT = {"library_id": "birch", "account_id": "library.birch", "account_key": "birch-account-key"}
API = "/api/v1"


@pytest.fixture
def api(browser: Browser, session: Session) -> Browser:
    """A program with a token, to which nothing else is granted than the token grants."""
    browser.says = {"Authorization": f"Bearer {make_token(session)}"}
    return browser


def told(answer: httpx.Response, status: int = 200) -> Any:
    """What a successful answer tells."""
    assert answer.status_code == status, answer.text
    return answer.json()


def problem(answer: httpx.Response, status: int) -> str:
    """The sentence of an answer that tells of a problem, in the form of RFC 9457."""
    assert answer.headers["content-type"] == "application/problem+json"
    said = told(answer, status)
    assert said["status"] == status
    return str(said["detail"])


def test_a_collection_is_added_changed_and_marked_for_deletion(api: Browser, session: Session) -> None:
    assert told(api.get(f"{API}/collections")) == []
    added = told(api.post(f"{API}/collections", json={"name": "Birch Library", **ACCOUNT}), 201)
    assert added["base_url"] == "https://partner.yourcloudlibrary.com"

    place = f"{API}/collections/{added['id']}"
    assert told(api.get(place))["standing"] == "new"
    changed = told(api.request("PATCH", f"{place}/account", json={"account_key": "another"}))
    assert changed == told(api.get(f"{place}/account")) == added
    collection = session.get_one(Collection, added["id"])
    assert account_key_of(collection).get_secret_value() == "another"

    assert api.request("DELETE", place).status_code == 204
    assert told(api.get(f"{API}/collections")) == []
    assert problem(api.get(place), 404) == f"There is no collection with the id {added['id']}."


def test_an_account_key_is_never_told(api: Browser, collection: Collection) -> None:
    schema = told(api.get(f"{API}/openapi.json"))
    places = [path for path, does in schema["paths"].items() if "get" in does]
    for path in places:
        answer = api.get(path.format(collection_id=collection.id, run_id=1, record_id=1, identifier="abc"))
        assert ACCOUNT_KEY not in answer.text
        assert "account_key" not in answer.text


def test_a_name_that_is_taken_and_an_account_that_cannot_be_are_told(
    api: Browser, collection: Collection
) -> None:
    new = {"name": collection.name, **ACCOUNT}
    assert problem(api.post(f"{API}/collections", json=new), 409).startswith("There is a collection named")
    insecure = {"name": "Birch", **ACCOUNT, "base_url": "http://vendor.example"}
    assert "give it as https://host" in problem(api.post(f"{API}/collections", json=insecure), 422)
    assert problem(api.post(f"{API}/collections", json={"name": "Birch"}), 422).startswith("library_id")


def test_the_account_is_tried_at_the_vendor(api: Browser) -> None:
    with running_sandbox(Sandbox(Catalogue([]))) as vendor:
        account = SandboxAccount()
        new = {
            "name": "Birch",
            "library_id": account.library_id,
            "account_id": account.account_id,
            "account_key": account.account_key,
            "base_url": vendor.base_url,
        }
        place = f"{API}/collections/{told(api.post(f'{API}/collections', json=new), 201)['id']}/account"
        assert "the account is right" in told(api.post(f"{place}/test"))["answer"]
        api.request("PATCH", place, json={"account_key": "mistyped"})
        assert "check the account id and the account key" in problem(api.post(f"{place}/test"), 502)


def test_an_import_is_started_and_found_in_the_ledger(
    api: Browser, session: Session, collection: Collection, redis: Redis
) -> None:
    place = f"{API}/collections/{collection.id}/runs"
    started = told(api.post(place, json={"workflow": "purchases", "force_reimport": True}), 202)
    run = session.scalars(select(Run)).one()
    assert started == {"task_ids": {str(collection.id): run.task_id}}
    assert run.cursor["reset_timestamp"]
    assert redis.llen("default") == 1
    assert told(api.get(f"{API}/collections"))[0]["standing"] == "working"

    refused = api.post(place, json={"workflow": "events", "force_reimport": True})
    assert problem(refused, 422).startswith("Only purchases can be imported again")


def test_a_workflow_of_every_collection_is_started(api: Browser, session: Session, redis: Redis) -> None:
    ids = [str(make_collection(session, name).id) for name in ("Alder", "Birch")]
    assert list(told(api.post(f"{API}/runs", json={"workflow": "circulation"}), 202)["task_ids"]) == ids
    assert redis.llen("default") == len(ids)


def test_long_lists_are_told_part_by_part_and_nothing_twice(
    api: Browser, session: Session, collection: Collection
) -> None:
    for number in range(5):
        open_run(session, collection.id, Workflow.EVENTS, f"task {number}", {"start": None})
    for run in session.scalars(select(Run)):
        end_run(run, RunState.SUCCEEDED)
    rejections = [Rejection("It has no id.", "<record/>", f"hash {number}") for number in range(5)]
    keep_rejected(session, collection, PurchaseDate(NOON.date()), rejections)
    for name in "vwxyz":
        make_pool(session, collection, name)
    session.commit()
    for path, key in (("runs", "id"), ("rejected-records", "id"), ("titles", "identifier")):
        found, cursor = [], ""
        while True:
            part = told(api.get(f"{API}/{path}?limit=2{cursor}"))
            found += [item[key] for item in part["items"]]
            if part["next"] is None:
                break
            cursor = f"&cursor={part['next']}"
        assert len(set(found)) == len(found) == 5, path


def test_a_run_tells_of_its_retries_and_unknown_things_are_told_as_such(
    api: Browser, session: Session, collection: Collection
) -> None:
    open_run(session, collection.id, Workflow.PURCHASES, "task", {"current_day": None, "offset": 1})
    session.commit()
    details = told(api.get(f"{API}/runs/1"))
    assert (details["run"]["state"], details["retries"], details["samples"]) == ("running", [], [])
    for path in (
        "runs/99",
        "titles/none",
        "rejected-records/99",
        "collections/99/purchases",
        "runs?collection=99",
    ):
        assert problem(api.get(f"{API}/{path}"), 404)
    assert problem(api.get(f"{API}/nothing"), 404) == "Not Found"


def test_a_rejected_record_is_resolved_once(api: Browser, session: Session, collection: Collection) -> None:
    keep_rejected(
        session, collection, PurchaseDate(NOON.date()), [Rejection("It has no id.", "<record/>", "hash")]
    )
    session.commit()
    place = f"{API}/rejected-records/1"
    assert told(api.get(place))["raw_xml"] == "<record/>"
    assert told(api.post(f"{place}/resolve", json={"note": "Taken back."}))["note"] == "Taken back."
    assert "resolved already" in problem(api.post(f"{place}/resolve", json={"note": "Again."}), 409)
    assert session.scalars(select(RejectedRecord)).one().resolved_at is not None


def test_a_collection_in_trouble_comes_first_and_says_why(api: Browser, session: Session) -> None:
    for name in ("Alder", "Birch"):
        make_collection(session, name)
    open_run(session, 2, Workflow.PURCHASES, "task", {"current_day": None, "offset": 1})
    end_run(session.scalars(select(Run)).one(), RunState.FAILED, "The vendor refused the account.")
    session.commit()
    first, second = told(api.get(f"{API}/collections"))
    assert (first["name"], first["standing"], second["standing"]) == ("Birch", "trouble", "new")
    assert first["trouble"] == "purchases: The vendor refused the account."


def test_a_collection_without_a_success_for_too_long_is_in_trouble(api: Browser, session: Session) -> None:
    collection = make_collection(session, "Alder")
    collection.created_at -= timedelta(days=2)
    session.commit()
    assert (
        "no run has succeeded since the collection was added"
        in told(api.get(f"{API}/collections"))[0]["trouble"]
    )
