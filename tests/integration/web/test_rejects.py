"""Rejected records on pages and in the API: reasons, bulk retry and resolution, and differences."""

from typing import Any

import httpx
import pytest
from lxml import html
from redis import Redis
from sqlalchemy.orm import Session

from accession.bibliotheca.marc import marc_record_from_xml
from accession.catalog.purchase_dates import PurchaseDate
from accession.catalog.purchase_records import PurchaseRecordData, store_purchase_records
from accession.catalog.rejected_records import (
    RejectedRecordData,
    rejected_record_views,
    store_rejected_records,
)
from accession.db.models import Collection
from tests.fixtures.factories import NOON, make_collection, make_pool
from tests.fixtures.vendor import ScriptedVendor, item, raw_record
from tests.fixtures.web_client import Browser, bearer, make_token

DATE = PurchaseDate(NOON.date())
API = "/api/v1/rejected-records"
NO_ID = "It has no title identifier (001)."


def reject(session: Session, collection: Collection, *records: tuple[str, str]) -> None:
    """Store and commit records with these reasons and XML."""
    rejected = [RejectedRecordData(reason, xml, f"hash {n}") for n, (reason, xml) in enumerate(records)]
    store_rejected_records(session, collection, DATE, rejected)
    session.commit()


@pytest.fixture
def rejected(session: Session, collection: Collection) -> None:
    """Reject record 1 for one reason, and 2 and 3 for another."""
    others = [("It has 'a/b' as id.", "<record/>"), ("It has 'c/d' as id.", "<record/>")]
    reject(session, collection, (NO_ID, raw_record()), *others)


def open_ids(session: Session) -> list[int]:
    session.rollback()
    session.expire_all()
    return [view.id for view in rejected_record_views(session)]


def table(page: str, caption: str) -> list[list[str]]:
    rows = html.document_fromstring(page).xpath(f"//table[starts-with(caption, '{caption}')]/tbody/tr")
    return [[" ".join(cell.text_content().split()) for cell in row.xpath("th|td")] for row in rows]


def form_fields(page: str, action: str, reason: str) -> dict[str, Any]:
    """Return the fields of the only form with this action that selects the records with a reason."""
    forms = [
        dict(form.form_values()) for form in html.document_fromstring(page).forms if form.action == action
    ]
    (fields,) = [fields for fields in forms if fields["reason"] == reason]
    return fields


def test_reasons_are_listed_with_links(browser: Browser, rejected: None) -> None:
    page = browser.get("/rejected-records").text

    assert [row[:2] for row in table(page, "Reasons")] == [["It has … as id.", "2"], [NO_ID, "1"]]
    assert len(table(page, "Rejected")) == 3
    (link,) = html.document_fromstring(page).xpath("//a[text()='It has … as id.']/@href")
    assert [row[0] for row in table(browser.get(str(link)).text, "Rejected")] == ["2", "3"]


def test_records_with_a_reason_are_resolved_together(
    browser: Browser, session: Session, rejected: None
) -> None:
    reason = "It has … as id."
    page = browser.get("/rejected-records", params={"reason": reason}).text
    fields = form_fields(page, "/rejected-records/resolve", reason)

    browser.post("/rejected-records/resolve", data={**fields, "note": "Withdrawn."})

    assert open_ids(session) == [1]
    assert "2 records resolved." in browser.get("/rejected-records").text


def test_bulk_resolution_requires_a_note(browser: Browser, session: Session, rejected: None) -> None:
    data = {"reason": NO_ID, "last_id": "3", "note": " "}
    response = browser.post("/rejected-records/resolve", data=data)

    assert "A note is required" in browser.get(response.headers["location"]).text
    assert open_ids(session) == [1, 2, 3]


def test_record_rejected_after_the_page_was_shown_stays_open(
    browser: Browser, session: Session, collection: Collection, rejected: None
) -> None:
    page = browser.get("/rejected-records", params={"reason": NO_ID}).text
    fields = form_fields(page, "/rejected-records/resolve", NO_ID)
    other = RejectedRecordData(NO_ID, "<record/>", "later")
    store_rejected_records(session, collection, DATE, [other])
    session.commit()

    browser.post("/rejected-records/resolve", data={**fields, "note": "Withdrawn."})

    assert open_ids(session) == [2, 3, 4]


def test_records_of_other_collections_stay_open(
    browser: Browser, session: Session, collection: Collection, rejected: None
) -> None:
    reject(session, make_collection(session, "Birch Library"), (NO_ID, "<record/>"))

    browser.post(
        "/rejected-records/resolve",
        data={"collection": str(collection.id), "reason": NO_ID, "last_id": "99", "note": "Withdrawn."},
    )

    assert open_ids(session) == [2, 3, 4]


def test_bulk_retry_is_queued_for_each_record(
    browser: Browser, session: Session, redis: Redis, rejected: None
) -> None:
    page = browser.get("/rejected-records").text

    fields = form_fields(page, "/rejected-records/retry", "It has … as id.")
    browser.post("/rejected-records/retry", data=fields)

    assert redis.llen("default") == 2
    assert "Retry queued: 2 records." in browser.get("/rejected-records").text


def test_retry_of_all_open_records_is_queued(
    browser: Browser, session: Session, redis: Redis, rejected: None
) -> None:
    page = browser.get("/rejected-records").text

    browser.post("/rejected-records/retry", data=form_fields(page, "/rejected-records/retry", ""))

    assert redis.llen("default") == 3


def test_raw_record_is_below_the_reason_and_folded(browser: Browser, rejected: None) -> None:
    page = html.document_fromstring(browser.get("/rejected-records/1").text)

    (raw,) = page.xpath("//details[not(@open)]//*[@aria-label='Raw XML']")
    (reason,) = page.xpath(f"//p[text()='{NO_ID}']")
    assert reason in raw.xpath("preceding::p")


def test_viewer_sees_reasons_without_actions(browser: Browser, vic: str, rejected: None) -> None:
    browser.log_in(vic)

    page = browser.get("/rejected-records", params={"reason": NO_ID}).text

    assert table(page, "Reasons")
    assert "Resolve all" not in page
    for action in ("retry", "resolve"):
        assert browser.post(f"/rejected-records/{action}", data={"last_id": "3"}).status_code == 403


def test_no_match_is_not_shown_as_no_records(browser: Browser, rejected: None) -> None:
    page = browser.get("/rejected-records", params={"received_from": "2999-01-01"}).text

    assert "No matching records" in page


def test_api_retries_and_resolves_many(
    browser: Browser, session: Session, redis: Redis, rejected: None
) -> None:
    headers = bearer(make_token(session))

    reasons = browser.get(f"{API}/reasons", headers=headers).json()
    queued = browser.post(f"{API}/retry", json={}, headers=headers)
    resolved = browser.post(f"{API}/resolve", json={"reason": NO_ID, "note": "Gone."}, headers=headers)

    assert [(reason["reason"], reason["records"]) for reason in reasons] == [
        ("It has … as id.", 2),
        (NO_ID, 1),
    ]
    assert (queued.status_code, queued.json(), redis.llen("default")) == (202, {"queued": 3}, 3)
    assert resolved.json() == {"resolved": 1}
    assert browser.post(f"{API}/retry", json={"collection_id": 99}, headers=headers).status_code == 404


def test_page_and_api_show_differences_from_the_stored_record(
    browser: Browser, session: Session, collection: Collection
) -> None:
    stored = marc_record_from_xml(raw_record("abc", title="Solaris"))
    data = PurchaseRecordData(make_pool(session, collection, "abc"), stored.as_marc21, "hash")
    store_purchase_records(session, {DATE: [data]})
    reject(session, collection, (NO_ID, raw_record("abc", "abd", title="<b>Eden</b>")))

    rows = table(browser.get("/rejected-records/1").text, "Fields of both")

    assert ["−stored only", "245 10 $aSolaris"] in rows
    assert ["+rejected only", "245 10 $a<b>Eden</b>"] in rows
    assert ["both", "001 abc"] in rows
    diff = browser.get(f"{API}/1").json()["diff"]
    assert (diff["identifier"], diff["purchased_on"]) == ("abc", "2024-05-01")
    assert {"change": "added", "text": "001 abd"} in diff["lines"]


def test_record_without_stored_title_has_no_differences(browser: Browser, rejected: None) -> None:
    assert "Differences" not in browser.get("/rejected-records/1").text
    assert browser.get(f"{API}/1").json()["diff"] is None


def test_queued_retry_imports_the_record(
    session: Session, collection: Collection, vendor: ScriptedVendor, redis: Redis
) -> None:
    from accession.tasks.rejected_records import retry_rejected_record

    vendor.items["new"] = item("new")
    reject(session, collection, (NO_ID, raw_record("new")), (NO_ID, raw_record()))

    for record_id in (1, 2, 99):
        retry_rejected_record.apply((record_id,)).get()

    assert open_ids(session) == [2]


def test_queued_retry_is_repeated_after_an_outage_of_the_vendor(
    session: Session, collection: Collection, vendor: ScriptedVendor, redis: Redis
) -> None:
    from celery.exceptions import Retry

    from accession.tasks.rejected_records import retry_rejected_record

    vendor.responses.append(httpx.Response(503))
    vendor.items["new"] = item("new")
    reject(session, collection, (NO_ID, raw_record("new")))

    with pytest.raises(Retry):
        retry_rejected_record.apply((1,), throw=True)

    assert open_ids(session) == [1]
