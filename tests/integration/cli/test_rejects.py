"""Commands of `accession rejects`."""

import pytest
from redis import Redis
from sqlalchemy import select
from sqlalchemy.orm import Session

from accession.bibliotheca.marc import marc_record_from_xml
from accession.catalog.purchase_dates import PurchaseDate
from accession.catalog.purchase_records import PurchaseRecordData, store_purchase_records
from accession.catalog.rejected_records import RejectedRecordData, store_rejected_records
from accession.core.workflow import Workflow
from accession.db.models import ApplyOutbox, CirculationEvent, Collection, PurchaseRecord, RejectedRecord
from accession.local.servers import ServerUrls
from tests.fixtures.commands import Cli, settings
from tests.fixtures.factories import NOON, make_pool
from tests.fixtures.vendor import ScriptedVendor, event, event_batch, item, raw_record

FIELDS = {"id", "collection", "workflow", "purchased_on", "reason", "created_at", "resolved_at", "note"}
NO_ID = "It has no title identifier (001)."


def reject(
    session: Session,
    collection: Collection,
    raw_xml: str,
    reason: str = NO_ID,
    workflow: Workflow = Workflow.PURCHASES,
) -> RejectedRecord:
    """Store and commit a rejected record with the purchase date 1 May 2024."""
    rejection = RejectedRecordData(reason, raw_xml, content_hash=str(hash(raw_xml)))
    store_rejected_records(session, collection, PurchaseDate(NOON.date()), [rejection], workflow)
    session.commit()
    return session.scalars(select(RejectedRecord).order_by(RejectedRecord.id.desc())).first()  # type: ignore[return-value]


def test_list_shows_open_records(cli: Cli, session: Session, collection: Collection) -> None:
    record = reject(session, collection, raw_record())
    (row,) = cli("rejects", "list", "--json").json
    assert set(row) == FIELDS
    assert (row["id"], row["collection"], row["purchased_on"]) == (record.id, "Alder Library", "2024-05-01")
    assert (row["reason"], row["resolved_at"]) == (NO_ID, None)
    table = cli("rejects", "list", "--collection", "Alder Library").stdout
    assert NO_ID in table
    assert "2024-05-01" in table


def test_empty_list_is_reported(cli: Cli, database: None) -> None:
    assert cli("rejects", "list").stdout == "No rejected records.\n"
    assert cli("rejects", "list", "--json").json == []
    assert cli("rejects", "retry").stdout == "No rejected records.\n"


def test_show_prints_sanitized_raw_record(cli: Cli, session: Session, collection: Collection) -> None:
    record = reject(session, collection, "<record>\n  \x1b[31mred [bold]\n</record>", "It has \x1b[2J no id.")
    result = cli("rejects", "show", str(record.id))
    assert result.exit_code == 0
    assert result.stdout.splitlines() == [
        "It has  [2J no id.",
        "Purchase date: 2024-05-01",
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
def test_unknown_record_is_reported(cli: Cli, database: None, verb: str, where: str) -> None:
    error = cli("rejects", *verb.split(), "7").error
    assert "rejected record 7" in error
    assert error.endswith(f"see `accession {where}`.")


def test_retry_imports_and_resolves_usable_record(
    cli: Cli, session: Session, collection: Collection, vendor: ScriptedVendor, broker: Redis
) -> None:
    vendor.items["abc"] = item("abc")
    record = reject(session, collection, raw_record())
    record.raw_xml = raw_record("abc")
    session.commit()
    other = reject(session, collection, raw_record("one", "two"), "It has two.")
    result = cli("rejects", "retry", str(record.id), str(record.id))
    assert result.exit_code == 0
    assert result.stdout == "Retried 1 record, 1 imported. See: accession rejects list --all\n"
    (row,) = cli("titles", "list", "--json").json
    assert (row["identifier"], row["purchased_on"]) == ("abc", "2024-05-01")
    session.expire_all()
    assert session.scalars(select(PurchaseRecord)).one().purchased_on == NOON.date()
    assert session.scalars(select(ApplyOutbox)).one().data["bibliographic"]["title"] == "A title"
    assert broker.llen("apply") == 1
    assert [row["id"] for row in cli("rejects", "list", "--json").json] == [other.id]
    resolved_at_by_id = {
        row["id"]: row["resolved_at"] for row in cli("rejects", "list", "--all", "--json").json
    }
    assert resolved_at_by_id[record.id] is not None
    assert resolved_at_by_id[other.id] is None
    assert "There is no open rejected record" in cli("rejects", "retry", str(record.id)).error


def test_retry_keeps_unusable_record_with_new_reason(
    cli: Cli, session: Session, collection: Collection, vendor: ScriptedVendor, broker: Redis
) -> None:
    reject(session, collection, raw_record("one", "two"))
    reject(session, collection, raw_record())
    assert (
        cli("rejects", "retry").stdout == "Retried 2 records, 0 imported. See: accession rejects list --all\n"
    )
    reasons = [row["reason"] for row in cli("rejects", "list", "--json").json]
    assert reasons == ["It has 2 title identifiers (001): one, two.", NO_ID]
    assert broker.llen("apply") == 0


def test_retry_imports_and_resolves_usable_event(
    cli: Cli, session: Session, collection: Collection, vendor: ScriptedVendor, broker: Redis
) -> None:
    vendor.items["abc"] = item("abc", owned=1, available=1)
    batch = event_batch([event("event-1", "PURCHASE", "abc", NOON)])
    reject(session, collection, batch, "It has no EventType.", Workflow.EVENTS)
    assert cli("rejects", "list", "--json").json[0]["workflow"] == "events"

    assert (
        cli("rejects", "retry").stdout == "Retried 1 record, 1 imported. See: accession rejects list --all\n"
    )

    (stored,) = session.scalars(select(CirculationEvent)).all()
    assert (stored.event_id, stored.event_type, stored.occurred_at) == ("event-1", "PURCHASE", NOON)
    assert [row["identifier"] for row in cli("titles", "list", "--json").json] == ["abc"]
    assert broker.llen("apply") == 1
    assert cli("rejects", "list", "--json").json == []


def test_retry_without_broker_stores_nothing(
    cli: Cli, servers: ServerUrls, session: Session, collection: Collection
) -> None:
    reject(session, collection, raw_record("abc"))
    with settings(database_url=servers.database_url, redis_url="redis://127.0.0.1:9/0"):
        assert "The broker is unavailable" in cli("rejects", "retry").error
    assert cli("titles", "list", "--json").json == []


def test_retry_with_unreachable_vendor_keeps_record(
    cli: Cli, session: Session, collection: Collection
) -> None:
    reject(session, collection, raw_record("abc"))
    assert "the connection to the vendor failed" in cli("rejects", "retry").error
    assert len(cli("rejects", "list", "--json").json) == 1


def test_resolve_stores_note(cli: Cli, session: Session, collection: Collection) -> None:
    record, other = (reject(session, collection, raw_record(*ids)) for ids in ((), ("a", "b")))
    number = str(record.id)

    result = cli("rejects", "resolve", number, "--note", "The vendor has taken it back.")

    assert result.stdout == f"Resolved record {number}. See: accession rejects list --all\n"
    assert [row["id"] for row in cli("rejects", "list", "--json").json] == [other.id]
    resolved, _ = cli("rejects", "list", "--all", "--json").json
    assert (resolved["id"], resolved["note"]) == (record.id, "The vendor has taken it back.")
    assert resolved["resolved_at"] is not None
    assert "The vendor has taken it back." in " ".join(cli("rejects", "list", "--all").stdout.split())
    again = cli("rejects", "resolve", number, "--note", "Again.").error
    assert again == f"The rejected record {number} is already resolved: see `accession rejects list --all`."
    assert cli("rejects", "resolve", number).exit_code == 2


def test_show_of_record_whose_xml_was_deleted_says_so(
    cli: Cli, session: Session, collection: Collection
) -> None:
    record = reject(session, collection, "<record/>")
    record.raw_xml = ""
    session.commit()
    assert (
        "The XML was deleted, because the record was resolved long ago."
        in cli("rejects", "show", str(record.id)).stdout
    )


def test_reasons_are_counted(cli: Cli, session: Session, collection: Collection) -> None:
    reject(session, collection, "<a/>", "It has 'a' as id.")
    reject(session, collection, "<b/>", "It has 'b' as id.")

    (reason,) = cli("rejects", "reasons", "--json").json

    assert (reason["reason"], reason["records"]) == ("It has … as id.", 2)
    assert "It has … as id." in cli("rejects", "reasons", "--collection", "Alder Library").stdout


def test_records_with_a_reason_are_listed_and_resolved(
    cli: Cli, session: Session, collection: Collection
) -> None:
    reject(session, collection, "<a/>", "It has 'a' as id.")
    reject(session, collection, "<b/>", "It has 'b' as id.")
    reject(session, collection, raw_record())

    assert [row["id"] for row in cli("rejects", "list", "--reason", NO_ID, "--json").json] == [3]
    result = cli("rejects", "resolve", "--reason", "It has … as id.", "--note", "Withdrawn.")

    assert result.stdout == "Resolved 2 records. See: accession rejects list --all\n"
    assert [row["id"] for row in cli("rejects", "list", "--json").json] == [3]


@pytest.mark.parametrize("arguments", [(), ("1", "--reason", NO_ID), ("1", "--collection", "Alder Library")])
def test_resolve_needs_either_number_or_reason(cli: Cli, database: None, arguments: tuple[str, ...]) -> None:
    assert cli("rejects", "resolve", "--note", "Gone", *arguments).exit_code == 2


def test_records_with_a_reason_are_retried(
    cli: Cli, session: Session, collection: Collection, vendor: ScriptedVendor, broker: Redis
) -> None:
    vendor.items["new"] = item("new")
    reject(session, collection, raw_record("new"))
    reject(session, collection, raw_record("new2"), "It has 'a' as id.")

    result = cli("rejects", "retry", "--reason", NO_ID)

    assert result.stdout == "Retried 1 record, 1 imported. See: accession rejects list --all\n"


def test_show_prints_differences_from_the_stored_record(
    cli: Cli, session: Session, collection: Collection
) -> None:
    stored = marc_record_from_xml(raw_record("abc", title="Solaris"))
    data = PurchaseRecordData(make_pool(session, collection, "abc"), stored.as_marc21, "hash")
    store_purchase_records(session, {PurchaseDate(NOON.date()): [data]})
    reject(session, collection, raw_record("abc", "abd", title="Solaris"))

    lines = cli("rejects", "show", "1").stdout.splitlines()

    assert "- stored record of abc, 2024-05-01" in lines
    assert "  001 abc" in lines
    assert "+ 001 abd" in lines
