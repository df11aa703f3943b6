"""The audit log: what pages and API record, the page, its downloads, and the API."""

import csv
import io
from typing import Any

import pytest
from lxml import html
from sqlalchemy.orm import Session

from accession.auth.audit import (
    Actor,
    ActorKind,
    AuditAction,
    AuditEntryView,
    AuditFilter,
    read_audit_log,
    record,
)
from accession.auth.roles import UserRole
from accession.catalog.purchase_dates import PurchaseDate
from accession.catalog.rejected_records import RejectedRecordData, store_rejected_records
from accession.db.models import Collection
from tests.fixtures.factories import ACCOUNT_KEY, NOON
from tests.fixtures.vendor import ScriptedVendor
from tests.fixtures.web_client import Browser, bearer, make_token

ANN = Actor(ActorKind.USER, "ann", "192.0.2.1")
ACCOUNT = {"library_id": "birch", "account_id": "library.birch", "account_key": ACCOUNT_KEY}


def entries(session: Session) -> list[AuditEntryView]:
    """Return all entries, oldest first."""
    session.rollback()
    return list(read_audit_log(session, AuditFilter()))[::-1]


def actions(session: Session) -> list[tuple[str, str, dict[str, Any]]]:
    """Return action, subject and details of all entries, oldest first."""
    return [(entry.action, entry.subject, dict(entry.details)) for entry in entries(session)]


# What is recorded


def test_login_and_logout_are_recorded_with_address(browser: Browser, session: Session, ann: str) -> None:
    browser.log_in()
    browser.post("/logout")

    recorded = entries(session)
    assert [(entry.action, entry.subject) for entry in recorded] == [
        ("user.login", "ann"),
        ("user.logout", "ann"),
    ]
    assert {(entry.actor_kind, entry.actor, entry.origin) for entry in recorded} == {
        ("user", "ann", "127.0.0.1")
    }


@pytest.mark.parametrize(("name", "subject"), [("ann", "ann"), ("my-secret-password", "")])
def test_failed_login_is_recorded_without_unknown_name(
    browser: Browser, session: Session, ann: str, name: str, subject: str
) -> None:
    browser.log_in(name, "a wrong password")

    (entry,) = entries(session)
    assert (entry.actor_kind, entry.actor, entry.origin) == ("anonymous", "", "127.0.0.1")
    assert (entry.action, entry.subject, entry.details) == ("user.login_failed", subject, {})


def test_changes_of_a_collection_on_pages_are_recorded(browser: Browser, session: Session) -> None:
    form = {"name": "Birch Library", "base_url": "https://vendor.example", **ACCOUNT}
    browser.post("/collections/new", data=form)
    browser.post("/collections/1/edit", data={**form, "library_id": "birch2", "account_key": "another"})
    browser.post("/collections/1/runs", data={"workflow": "events"})
    browser.post("/collections/1/reimport")
    browser.post("/collections/1/verify", data={"first_month": "2019-03", "repair": "true"})
    browser.post("/collections/1/remove")

    name = "Birch Library"
    assert actions(session) == [
        (
            "collection.add",
            name,
            {"library_id": "birch", "account_id": "library.birch", "base_url": "https://vendor.example"},
        ),
        ("collection.edit", name, {"library_id": "birch → birch2", "account_key": "replaced"}),
        ("run.start", name, {"workflow": "events"}),
        ("run.reimport", name, {"workflow": "purchases"}),
        ("run.verify", name, {"from": "2019-03-01", "days": False, "repair": True}),
        ("collection.remove", name, {}),
    ]
    assert {entry.actor_kind for entry in entries(session)} == {"local"}
    assert ACCOUNT_KEY not in str(entries(session))


def test_changes_through_the_api_are_recorded_with_token(browser: Browser, session: Session) -> None:
    headers = bearer(make_token(session))

    def send(method: str, path: str, **json: Any) -> None:
        response = browser.request(method, f"/api/v1/{path}", json=json, headers=headers)
        assert response.is_success, response.text

    send("POST", "collections", name="Birch Library", **ACCOUNT)
    send("PATCH", "collections/1/account", account_key="another")
    send("POST", "collections/1/runs", workflow="circulation")
    send("POST", "runs", workflow="purchases", force_reimport=True)
    send("POST", "collections/1/verification", first_month="2019-03")
    send("DELETE", "collections/1")

    assert [(action, subject) for action, subject, _ in actions(session)] == [
        ("collection.add", "Birch Library"),
        ("collection.edit", "Birch Library"),
        ("run.start", "Birch Library"),
        ("run.reimport", "Birch Library"),
        ("run.verify", "Birch Library"),
        ("collection.remove", "Birch Library"),
    ]
    assert {(entry.actor_kind, entry.actor) for entry in entries(session)} == {("token", "script")}


def test_connection_test_and_export_are_recorded(
    browser: Browser, session: Session, collection: Collection, vendor: ScriptedVendor
) -> None:
    browser.post("/collections/1/test")
    browser.get("/exports/download?format=csv&collection=1")

    assert actions(session) == [
        ("collection.test", "Alder Library", {}),
        ("export.create", "csv", {"collections": ["Alder Library"]}),
    ]


def test_actions_on_rejected_records_are_recorded(
    browser: Browser, session: Session, collection: Collection
) -> None:
    reasons = ["one", "two", "two"]
    records = [RejectedRecordData(reason, "<record/>", f"hash {n}") for n, reason in enumerate(reasons)]
    store_rejected_records(session, collection, PurchaseDate(NOON.date()), records)
    session.commit()

    browser.post("/rejected-records/1/retry")
    browser.post("/rejected-records/1/resolve", data={"note": "Withdrawn."})
    browser.post("/rejected-records/retry", data={"reason": "two", "last_id": "3"})
    browser.post("/rejected-records/resolve", data={"reason": "two", "last_id": "3", "note": "Withdrawn."})

    assert actions(session) == [
        ("rejected_record.retry", "1", {}),
        ("rejected_record.resolve", "1", {"note": "Withdrawn."}),
        ("rejected_record.retry", "two", {"records": 2}),
        ("rejected_record.resolve", "two", {"records": 2, "note": "Withdrawn."}),
    ]


def test_failed_change_is_not_recorded(browser: Browser, session: Session, collection: Collection) -> None:
    browser.post("/collections/new", data={"name": "Alder Library", **ACCOUNT})
    browser.post("/collections/9/remove")

    assert actions(session) == []


# The page, downloads and API


@pytest.fixture
def log(session: Session) -> None:
    record(session, ANN, AuditAction.USER_ADD, "ben", {"role": "viewer"})
    record(session, ANN, AuditAction.RUN_START, "=Alder", {"workflow": "events"})
    session.commit()


def rows(page: str) -> list[list[str]]:
    table = html.document_fromstring(page).xpath("//tbody/tr")
    return [[" ".join(cell.text_content().split()) for cell in row.xpath("td")] for row in table]


def test_page_shows_entries_newest_first(browser: Browser, log: None) -> None:
    assert rows(browser.get("/audit").text) == [
        ["ann user", "192.0.2.1", "run.start", "=Alder", "workflow: events"],
        ["ann user", "192.0.2.1", "user.add", "ben", "role: viewer"],
    ]


@pytest.mark.parametrize(
    ("query", "number"),
    [
        ("actor=ann", 2),
        ("actor=ben", 0),
        ("action=user", 1),
        ("subject=ben", 1),
        ("first_day=2000-01-01", 2),
        ("last_day=2000-01-01", 0),
    ],
)
def test_page_is_filtered(browser: Browser, log: None, query: str, number: int) -> None:
    page = browser.get(f"/audit?{query}").text

    assert len(rows(page)) == number
    assert ("No matching entries" in page) is (number == 0)


def test_page_continues_with_older_entries(browser: Browser, session: Session) -> None:
    for number in range(51):
        record(session, ANN, AuditAction.USER_ADD, f"user {number}")
    session.commit()

    first = browser.get("/audit?actor=ann").text
    (link,) = html.document_fromstring(first).xpath("//a[text()='Next page']/@href")

    assert (len(rows(first)), len(rows(browser.get(str(link)).text))) == (50, 1)


def test_download_as_csv_escapes_formulas(browser: Browser, session: Session, log: None) -> None:
    response = browser.get("/audit/download?format=csv&actor=ann&action=&subject=&first_day=&last_day=")

    assert response.headers["content-type"] == "text/csv; charset=utf-8"
    table = list(csv.DictReader(io.StringIO(response.text)))
    assert [(row["action"], row["subject"], row["details"]) for row in table] == [
        ("run.start", "'=Alder", '{"workflow": "events"}'),
        ("user.add", "ben", '{"role": "viewer"}'),
    ]
    assert actions(session)[-1] == ("audit_log.export", "", {"format": "csv"})


def test_download_as_json_contains_all_fields(browser: Browser, log: None) -> None:
    (entry,) = browser.get("/audit/download?format=json&subject=ben").json()

    assert (entry["id"], entry["actor_kind"], entry["details"]) == (1, "user", {"role": "viewer"})


def test_empty_download_is_an_empty_list(browser: Browser, log: None) -> None:
    assert browser.get("/audit/download?format=json&subject=nobody").json() == []


def test_api_lists_entries_in_pages(browser: Browser, session: Session, log: None) -> None:
    headers = bearer(make_token(session, role=UserRole.ADMINISTRATOR))

    first = browser.get("/api/v1/audit?limit=1&since=2000-01-01T00:00:00Z", headers=headers).json()
    second = browser.get(f"/api/v1/audit?limit=1&cursor={first['next']}", headers=headers).json()

    assert [entry["action"] for page in (first, second) for entry in page["items"]] == [
        "run.start",
        "user.add",
    ]
    assert second["next"] is None


@pytest.mark.parametrize("path", ["/audit", "/audit/download?format=csv", "/api/v1/audit"])
def test_audit_log_needs_an_administrator(browser: Browser, ann: str, path: str) -> None:
    browser.log_in()

    response = browser.get(path)

    assert response.status_code == 403
    assert "is no administrator" in response.text
