"""Rejected records: seen, read, and tried again once they can pass."""

import pytest
from redis import Redis
from sqlalchemy import select
from sqlalchemy.orm import Session

from accession.catalog.purchase_records import PurchaseDate
from accession.catalog.rejected_records import Rejection, keep_rejected
from accession.core.workflow import Workflow
from accession.db.models import ApplyOutbox, CirculationEvent, Collection, PurchaseRecord, RejectedRecord
from accession.local.servers import ServerUrls
from tests.fixtures.commands import Run, settings
from tests.fixtures.factories import NOON
from tests.fixtures.vendor import Vendor, event, event_batch, item, raw

FIELDS = {"id", "collection", "workflow", "purchased_on", "reason", "created_at", "resolved_at", "note"}
NO_ID = "It has no title identifier (001)."


def reject(
    session: Session,
    collection: Collection,
    raw_xml: str,
    reason: str = NO_ID,
    workflow: Workflow = Workflow.PURCHASES,
) -> RejectedRecord:
    """A committed rejected record of 1 May 2024."""
    rejection = Rejection(reason, raw_xml, content_hash=str(hash(raw_xml)))
    keep_rejected(session, collection, PurchaseDate(NOON.date()), [rejection], workflow)
    session.commit()
    return session.scalars(select(RejectedRecord).order_by(RejectedRecord.id.desc())).first()  # type: ignore[return-value]


def test_rejected_records_are_listed(run: Run, session: Session, collection: Collection) -> None:
    kept = reject(session, collection, raw())
    (row,) = run("rejects", "list", "--json").json
    assert set(row) == FIELDS
    assert (row["id"], row["collection"], row["purchased_on"]) == (kept.id, "Alder Library", "2024-05-01")
    assert (row["reason"], row["resolved_at"]) == (NO_ID, None)
    table = run("rejects", "list", "--collection", "Alder Library").out
    assert NO_ID in table
    assert "2024-05-01" in table


def test_no_rejected_records_is_said(run: Run, database: None) -> None:
    assert run("rejects", "list").out == "No rejected records.\n"
    assert run("rejects", "list", "--json").json == []
    assert run("rejects", "retry").out == "No rejected records.\n"


def test_a_rejected_record_is_shown_as_the_vendor_sent_it_but_harmless(
    run: Run, session: Session, collection: Collection
) -> None:
    kept = reject(session, collection, "<record>\n  \x1b[31mred [bold]\n</record>", "It has \x1b[2J no id.")
    shown = run("rejects", "show", str(kept.id))
    assert shown.code == 0
    assert shown.out.splitlines() == [
        "It has  [2J no id.",
        "In the window of 2024-05-01",
        "<record>",
        "   [31mred [bold]",
        "</record>",
    ]


@pytest.mark.parametrize(
    ("verb", "where"),
    [
        ("show", "rejects list --all"),
        ("retry", "rejects list"),
        ("resolve --note Gone", "rejects list --all"),
    ],
)
def test_an_unknown_rejected_record_is_said(run: Run, database: None, verb: str, where: str) -> None:
    sentence = run("rejects", *verb.split(), "7").sentence
    assert "rejected record 7" in sentence
    assert sentence.endswith(f"see `accession {where}`.")


def test_a_record_that_can_pass_now_is_stored_and_resolved(
    run: Run, session: Session, collection: Collection, vendor: Vendor, broker: Redis
) -> None:
    vendor.items["abc"] = item("abc")
    kept = reject(session, collection, raw())
    kept.raw_xml = raw("abc")
    session.commit()
    other = reject(session, collection, raw("one", "two"), "It has two.")
    answer = run("rejects", "retry", str(kept.id), str(kept.id))
    assert answer.code == 0
    assert answer.out == "Of 1 record 1 passed. See: accession rejects list --all\n"
    (row,) = run("titles", "list", "--json").json
    assert (row["identifier"], row["purchased_on"]) == ("abc", "2024-05-01")
    session.expire_all()
    assert session.scalars(select(PurchaseRecord)).one().purchased_on == NOON.date()
    assert session.scalars(select(ApplyOutbox)).one().data["bibliographic"]["title"] == "A title"
    assert broker.llen("apply") == 1
    assert [row["id"] for row in run("rejects", "list", "--json").json] == [other.id]
    every = {row["id"]: row["resolved_at"] for row in run("rejects", "list", "--all", "--json").json}
    assert every[kept.id] is not None
    assert every[other.id] is None
    assert "There is no unresolved rejected record" in run("rejects", "retry", str(kept.id)).sentence


def test_records_that_still_cannot_pass_stay_with_the_reason_of_now(
    run: Run, session: Session, collection: Collection, vendor: Vendor, broker: Redis
) -> None:
    reject(session, collection, raw("one", "two"))
    reject(session, collection, raw())
    assert run("rejects", "retry").out == "Of 2 records 0 passed. See: accession rejects list --all\n"
    reasons = [row["reason"] for row in run("rejects", "list", "--json").json]
    assert reasons == ["It has 2 title identifiers (001): one, two.", NO_ID]
    assert broker.llen("apply") == 0


def test_an_event_that_can_pass_now_is_counted_and_resolved(
    run: Run, session: Session, collection: Collection, vendor: Vendor, broker: Redis
) -> None:
    vendor.items["abc"] = item("abc", owned=1, available=1)
    told = event_batch([event("event-1", "PURCHASE", "abc", NOON)])
    reject(session, collection, told, "It has no EventType.", Workflow.EVENTS)
    assert run("rejects", "list", "--json").json[0]["workflow"] == "events"

    assert run("rejects", "retry").out == "Of 1 record 1 passed. See: accession rejects list --all\n"

    (kept,) = session.scalars(select(CirculationEvent)).all()
    assert (kept.event_id, kept.event_type, kept.occurred_at) == ("event-1", "PURCHASE", NOON)
    assert [row["identifier"] for row in run("titles", "list", "--json").json] == ["abc"]
    assert broker.llen("apply") == 1
    assert run("rejects", "list", "--json").json == []


def test_a_retry_needs_the_broker_before_it_stores_anything(
    run: Run, servers: ServerUrls, session: Session, collection: Collection
) -> None:
    reject(session, collection, raw("abc"))
    with settings(database_url=servers.database_url, redis_url="redis://127.0.0.1:9/0"):
        assert "The broker does not answer" in run("rejects", "retry").sentence
    assert run("titles", "list", "--json").json == []


def test_a_retry_that_the_vendor_refuses_keeps_the_record(
    run: Run, session: Session, collection: Collection
) -> None:
    reject(session, collection, raw("abc"))
    assert "the connection to the vendor failed" in run("rejects", "retry").sentence
    assert len(run("rejects", "list", "--json").json) == 1


def test_a_rejected_record_is_resolved_by_hand_with_a_note(
    run: Run, session: Session, collection: Collection
) -> None:
    kept, other = (reject(session, collection, raw(*ids)) for ids in ((), ("a", "b")))
    number = str(kept.id)

    done = run("rejects", "resolve", number, "--note", "The vendor has taken it back.")

    assert done.out == f"Record {number} is resolved. See: accession rejects list --all\n"
    assert [row["id"] for row in run("rejects", "list", "--json").json] == [other.id]
    resolved, _ = run("rejects", "list", "--all", "--json").json
    assert (resolved["id"], resolved["note"]) == (kept.id, "The vendor has taken it back.")
    assert resolved["resolved_at"] is not None
    assert "The vendor has taken it back." in " ".join(run("rejects", "list", "--all").out.split())
    again = run("rejects", "resolve", number, "--note", "Again.").sentence
    assert again == f"The rejected record {number} is resolved already: see `accession rejects list --all`."
    assert run("rejects", "resolve", number).code == 2
