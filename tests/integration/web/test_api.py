"""JSON API: collections, runs, titles and rejected records."""

from datetime import timedelta
from typing import Any

import httpx
import pytest
from redis import Redis
from sqlalchemy import select
from sqlalchemy.orm import Session

from accession.accounts.collections import mark_for_deletion
from accession.accounts.keys import decrypt_account_key
from accession.catalog.purchase_dates import PurchaseDate
from accession.catalog.rejected_records import RejectedRecordData, store_rejected_records
from accession.core.workflow import Workflow
from accession.db.models import Collection, RejectedRecord, Run, RunState
from accession.runs.ledger import end_run, open_run
from accession.sandbox.catalogue import Catalogue
from accession.sandbox.signatures import SandboxAccount
from accession.sandbox.vendor import Sandbox
from tests.fixtures.factories import ACCOUNT_KEY, NOON, make_collection, make_pool
from tests.fixtures.purchases import WARNING, store_record_in_part
from tests.fixtures.running_sandbox import running_sandbox
from tests.fixtures.web_client import Browser, bearer, make_token

ACCOUNT = {"library_id": "birch", "account_id": "library.birch", "account_key": "birch-account-key"}
API = "/api/v1"


@pytest.fixture
def api(browser: Browser, session: Session) -> Browser:
    """Return a client that sends an operator's token and nothing else."""
    browser.headers = bearer(make_token(session))
    return browser


def payload(response: httpx.Response, status: int = 200) -> Any:
    """Return the JSON of a response with this status."""
    assert response.status_code == status, response.text
    return response.json()


def problem(response: httpx.Response, status: int) -> str:
    """Return the detail of a problem document (RFC 9457)."""
    assert response.headers["content-type"] == "application/problem+json"
    document = payload(response, status)
    assert document["status"] == status
    return str(document["detail"])


def test_collection_is_added_changed_and_marked_for_deletion(api: Browser, session: Session) -> None:
    assert payload(api.get(f"{API}/collections")) == []
    added = payload(api.post(f"{API}/collections", json={"name": "Birch Library", **ACCOUNT}), 201)
    assert added["base_url"] == "https://partner.yourcloudlibrary.com"

    url = f"{API}/collections/{added['id']}"
    assert payload(api.get(url))["health"] == "new"
    changed = payload(api.request("PATCH", f"{url}/account", json={"account_key": "another"}))
    assert changed == payload(api.get(f"{url}/account")) == added
    collection = session.get_one(Collection, added["id"])
    assert decrypt_account_key(collection).get_secret_value() == "another"

    assert api.request("DELETE", url).status_code == 204
    assert payload(api.get(f"{API}/collections")) == []
    assert problem(api.get(url), 404) == f"There is no collection with the id {added['id']}."


def test_account_key_is_in_no_response(api: Browser, collection: Collection) -> None:
    schema = payload(api.get(f"{API}/openapi.json"))
    paths = [path for path, methods in schema["paths"].items() if "get" in methods]
    ids = dict.fromkeys(("run_id", "record_id", "webhook_id", "delivery_id"), 1)
    for path in paths:
        response = api.get(path.format(collection_id=collection.id, identifier="abc", name="unused", **ids))
        assert ACCOUNT_KEY not in response.text
        assert "account_key" not in response.text


def test_duplicate_name_and_invalid_account_are_rejected(api: Browser, collection: Collection) -> None:
    new = {"name": collection.name, **ACCOUNT}
    assert problem(api.post(f"{API}/collections", json=new), 409).startswith("A collection named")
    insecure = {"name": "Birch", **ACCOUNT, "base_url": "http://vendor.example"}
    assert "enter it as https://host" in problem(api.post(f"{API}/collections", json=insecure), 422)
    assert problem(api.post(f"{API}/collections", json={"name": "Birch"}), 422).startswith("library_id")


def test_connection_test_reports_the_result(api: Browser) -> None:
    with running_sandbox(Sandbox(Catalogue([]))) as vendor:
        account = SandboxAccount()
        new = {
            "name": "Birch",
            "library_id": account.library_id,
            "account_id": account.account_id,
            "account_key": account.account_key,
            "base_url": vendor.base_url,
        }
        url = f"{API}/collections/{payload(api.post(f'{API}/collections', json=new), 201)['id']}/account"
        assert "accepted the account" in payload(api.post(f"{url}/test"))["message"]
        api.request("PATCH", url, json={"account_key": "mistyped"})
        assert "check the account id and the account key" in problem(api.post(f"{url}/test"), 502)


def test_started_run_is_in_the_ledger_and_the_queue(
    api: Browser, session: Session, collection: Collection, redis: Redis
) -> None:
    url = f"{API}/collections/{collection.id}/runs"
    started = payload(api.post(url, json={"workflow": "purchases", "force_reimport": True}), 202)
    run = session.scalars(select(Run)).one()
    assert started == {"task_ids": {str(collection.id): run.task_id}}
    assert run.cursor["reset_timestamp"]
    assert redis.llen("default") == 1
    assert payload(api.get(f"{API}/collections"))[0]["health"] == "running"

    response = api.post(url, json={"workflow": "events", "force_reimport": True})
    assert problem(response, 422).startswith("Only purchases can be imported again")


def test_runs_are_started_for_every_collection(api: Browser, session: Session, redis: Redis) -> None:
    ids = [str(make_collection(session, name).id) for name in ("Alder", "Birch")]
    assert list(payload(api.post(f"{API}/runs", json={"workflow": "circulation"}), 202)["task_ids"]) == ids
    assert redis.llen("default") == len(ids)


def test_pages_of_lists_contain_every_item_once(
    api: Browser, session: Session, collection: Collection
) -> None:
    for number in range(5):
        open_run(session, collection.id, Workflow.EVENTS, f"task {number}", {"start": None})
    for run in session.scalars(select(Run)):
        end_run(run, RunState.SUCCEEDED)
    rejections = [RejectedRecordData("It has no id.", "<record/>", f"hash {number}") for number in range(5)]
    store_rejected_records(session, collection, PurchaseDate(NOON.date()), rejections)
    for name in "vwxyz":
        make_pool(session, collection, name)
    session.commit()
    for path, key in (("runs", "id"), ("rejected-records", "id"), ("titles", "identifier")):
        items, cursor = [], ""
        while True:
            page = payload(api.get(f"{API}/{path}?limit=2{cursor}"))
            items += [item[key] for item in page["items"]]
            if page["next"] is None:
                break
            cursor = f"&cursor={page['next']}"
        assert len(set(items)) == len(items) == 5, path


def test_run_is_shown_and_unknown_ids_are_not_found(
    api: Browser, session: Session, collection: Collection
) -> None:
    open_run(session, collection.id, Workflow.PURCHASES, "task", {"current_day": None, "offset": 1})
    session.commit()
    details = payload(api.get(f"{API}/runs/1"))
    assert (details["run"]["state"], details["retries"], details["samples"]) == ("running", [], [])
    for path in (
        "runs/99",
        "titles/none",
        "rejected-records/99",
        "collections/99/purchases",
        "runs?collection=99",
    ):
        assert problem(api.get(f"{API}/{path}"), 404)
    assert problem(api.get(f"{API}/nothing"), 404) == "There is nothing at this address: check its path."


def test_warnings_of_purchase_records_are_returned(
    api: Browser, session: Session, collection: Collection
) -> None:
    make_pool(session, collection, "good")
    store_record_in_part(session, collection, "part", NOON)
    (listed,) = payload(api.get(f"{API}/titles?with_warnings=true"))["items"]
    (shown,) = payload(api.get(f"{API}/titles/part"))
    (record,) = payload(api.get(f"{API}/titles/part/collections/{collection.id}/purchase-records"))
    assert listed["warnings"] == shown["warnings"] == record["warnings"] == [WARNING]


def test_rejected_record_is_resolved_only_once(
    api: Browser, session: Session, collection: Collection
) -> None:
    store_rejected_records(
        session,
        collection,
        PurchaseDate(NOON.date()),
        [RejectedRecordData("It has no id.", "<record/>", "hash")],
    )
    session.commit()
    url = f"{API}/rejected-records/1"
    assert payload(api.get(url))["raw_xml"] == "<record/>"
    assert payload(api.post(f"{url}/resolve", json={"note": "Taken back."}))["note"] == "Taken back."
    assert "already resolved" in problem(api.post(f"{url}/resolve", json={"note": "Again."}), 409)
    assert session.scalars(select(RejectedRecord)).one().resolved_at is not None


def test_failing_collection_is_listed_first_with_its_problem(api: Browser, session: Session) -> None:
    for name in ("Alder", "Birch"):
        make_collection(session, name)
    open_run(session, 2, Workflow.PURCHASES, "task", {"current_day": None, "offset": 1})
    end_run(session.scalars(select(Run)).one(), RunState.FAILED, "The vendor refused the account.")
    session.commit()
    first, second = payload(api.get(f"{API}/collections"))
    assert (first["name"], first["health"], second["health"]) == ("Birch", "failing", "new")
    assert first["problem"] == "purchases: The vendor refused the account."


def test_collection_without_recent_success_is_failing(api: Browser, session: Session) -> None:
    collection = make_collection(session, "Alder")
    collection.created_at -= timedelta(days=2)
    session.commit()
    assert (
        "no run has succeeded since the collection was added"
        in payload(api.get(f"{API}/collections"))[0]["problem"]
    )


def test_rejected_record_of_deleted_collection_is_not_found(
    api: Browser, session: Session, collection: Collection
) -> None:
    record = RejectedRecordData("It has no id.", "<record/>", "hash")
    store_rejected_records(session, collection, PurchaseDate(NOON.date()), [record])
    mark_for_deletion(collection)
    session.commit()
    url = f"{API}/rejected-records/1"
    responses = [api.get(url), api.post(f"{url}/retry"), api.post(f"{url}/resolve", json={"note": "Old."})]
    assert len({problem(response, 404) for response in responses}) == 1
