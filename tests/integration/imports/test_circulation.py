"""Tests of the circulation update: batches of titles, changes, withdrawn titles and vendor failures."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import httpx
import pytest
import time_machine
from sqlalchemy import Engine, func, select
from sqlalchemy.orm import Session

from accession.bibliotheca.errors import (
    BadResponseException,
    PermanentVendorError,
    RemoteInitiatedServerError,
    RemoteIntegrationException,
    RequestTimedOut,
    TransientVendorError,
)
from accession.catalog.circulation import record_events
from accession.catalog.outbox import enqueue_changes
from accession.catalog.titles import title_views
from accession.core.errors import UserError
from accession.core.workflow import Workflow
from accession.db.models import (
    ApplyOutbox,
    Collection,
    Edition,
    Identifier,
    LicensePool,
    SweptBatch,
    Timestamp,
    table_of,
)
from accession.imports.circulation import BatchUpdateResult, BibliothecaCirculationUpdater, RefreshResult
from accession.imports.vendor_api import vendor_api_for
from accession.runs.ledger import RunCounters, get_or_create_checkpoint
from tests.fixtures.factories import NOON, day, event_data, make_collection, make_pool, title_data
from tests.fixtures.holdings import (
    commit_and_apply,
    outbox_rows,
    store_titles,
    stored_counts,
    title_ids,
    warning_events,
)
from tests.fixtures.importers import capture_step_logs, count_written_rows
from tests.fixtures.vendor import ScriptedVendor, error_document, item

WITHDRAWN = (0, 0, 0, 0, "exhausted")
WITHDRAWN_EVENT = "title withdrawn by the vendor"
RETRY_EVENT = "response omits all titles of a batch, retrying"


def ids_of(session: Session, *identifiers: str) -> list[int]:
    rows = {row.identifier: row.id for row in session.scalars(select(Identifier))}
    return [rows[name] for name in identifiers]


def checkpoint(session: Session, collection: Collection) -> tuple[int | None, datetime | None]:
    row = get_or_create_checkpoint(session, collection, Workflow.CIRCULATION)
    return row.counter, row.finish


def sweep(session: Session, updater: BibliothecaCirculationUpdater) -> list[BatchUpdateResult]:
    """Update all batches from the checkpoint on, committing and applying each."""
    results: list[BatchUpdateResult] = []
    offset: int | None = updater.get_offset()
    while offset is not None:
        results.append(updater.update_batch(offset))
        commit_and_apply(session, results[-1].outbox_ids)
        offset = results[-1].next_offset
    return results


def writable_rows(session: Session) -> dict[str, Sequence[Any]]:
    """Return the rows of all tables that a sweep may write."""
    tables = (LicensePool, Edition, ApplyOutbox, SweptBatch, Timestamp)
    return {model.__tablename__: session.execute(select(table_of(model))).all() for model in tables}


def items_response(*elements: str) -> httpx.Response:
    return httpx.Response(200, text=f"<ArrayOfItem>{''.join(elements)}</ArrayOfItem>")


# Offsets and the checkpoint


def test_first_sweep_starts_at_offset_zero(updater: BibliothecaCirculationUpdater) -> None:
    assert updater.get_offset() == 0


def test_full_batch_stores_its_last_identifier_id(
    session: Session, collection: Collection, vendor: ScriptedVendor, updater: BibliothecaCirculationUpdater
) -> None:
    store_titles(session, collection, vendor, *title_ids(30))
    (last,) = ids_of(session, "t0024")

    result = updater.update_batch(0)
    session.commit()

    assert (result.titles_requested, result.next_offset) == (25, last)
    assert checkpoint(session, collection) == (last, None)
    assert updater.get_offset() == last


def test_last_batch_completes_the_sweep(
    session: Session, collection: Collection, vendor: ScriptedVendor, updater: BibliothecaCirculationUpdater
) -> None:
    store_titles(session, collection, vendor, *title_ids(30))
    first = updater.update_batch(0)
    assert first.next_offset is not None

    with time_machine.travel(NOON, tick=False):
        second = updater.update_batch(first.next_offset)
    session.commit()

    assert (second.titles_requested, second.next_offset) == (5, None)
    assert checkpoint(session, collection) == (0, NOON)
    assert updater.get_offset() == 0
    assert vendor.item_requests() == [title_ids(30)[:25], title_ids(30)[25:]]


def test_unfinished_sweep_keeps_the_previous_finish(
    session: Session, collection: Collection, vendor: ScriptedVendor, updater: BibliothecaCirculationUpdater
) -> None:
    store_titles(session, collection, vendor, *title_ids(30))
    with time_machine.travel(NOON, tick=False):
        sweep(session, updater)

    updater.update_batch(0)

    assert checkpoint(session, collection) == (ids_of(session, "t0024")[0], NOON)


@pytest.mark.parametrize("titles", [25, 50])
def test_sweep_of_full_batches_ends_with_an_empty_batch(
    session: Session,
    collection: Collection,
    vendor: ScriptedVendor,
    updater: BibliothecaCirculationUpdater,
    titles: int,
) -> None:
    store_titles(session, collection, vendor, *title_ids(titles))

    with time_machine.travel(NOON, tick=False):
        *full, last = sweep(session, updater)

    assert [result.titles_requested for result in full] == [25] * (titles // 25)
    assert last == BatchUpdateResult(0, 0, 0, 0, None, (), 0)
    assert len(vendor.requests) == titles // 25
    assert checkpoint(session, collection) == (0, NOON)


def test_sweep_of_empty_collection_sends_no_request(
    session: Session, collection: Collection, vendor: ScriptedVendor, updater: BibliothecaCirculationUpdater
) -> None:
    with time_machine.travel(NOON, tick=False):
        assert updater.update_batch(0) == BatchUpdateResult(0, 0, 0, 0, None, (), 0)

    assert vendor.requests == []
    assert checkpoint(session, collection) == (0, NOON)


def test_titles_are_requested_by_ascending_identifier_id(
    session: Session, collection: Collection, vendor: ScriptedVendor, updater: BibliothecaCirculationUpdater
) -> None:
    """The order differs from that of the vendor ids and from that of the pools."""
    make_pool(session, make_collection(session, "Birch Library"), "shared")
    for name in ("z", "a", "m", "shared"):
        store_titles(session, collection, vendor, name)

    updater.update_batch(0)
    updater.update_batch(ids_of(session, "a")[0])

    assert vendor.item_requests() == [["shared", "z", "a", "m"], ["m"]]


def test_sweep_requests_only_own_titles_of_this_vendor(
    session: Session, collection: Collection, vendor: ScriptedVendor, updater: BibliothecaCirculationUpdater
) -> None:
    other = make_collection(session, "Birch Library")
    store_titles(session, other, vendor, "theirs", "shared")
    store_titles(session, collection, vendor, "shared", "mine")
    pool = make_pool(session, collection, "other-vendor")
    pool.data_source = "Somebody else"
    session.commit()
    vendor.items.clear()
    vendor.items["mine"] = item("mine", title="Title mine")

    sweep(session, updater)

    assert vendor.item_requests() == [["shared", "mine"]]
    statuses = {(view.collection, view.identifier): view.status for view in title_views(session)}
    assert statuses == {
        ("Alder Library", "mine"): "active",
        ("Alder Library", "other-vendor"): "unknown",
        ("Alder Library", "shared"): "exhausted",
        ("Birch Library", "shared"): "active",
        ("Birch Library", "theirs"): "active",
    }


def test_sweep_resumes_from_the_counter_after_a_crash(
    session: Session, collection: Collection, vendor: ScriptedVendor, updater: BibliothecaCirculationUpdater
) -> None:
    store_titles(session, collection, vendor, *title_ids(60))
    updater.update_batch(0)
    session.commit()
    before = writable_rows(session)
    vendor.items.clear()
    updater.update_batch(updater.get_offset())
    session.flush()
    session.rollback()
    assert writable_rows(session) == before
    store_titles(session, collection, vendor, *title_ids(60))

    sweep(session, updater)

    batches = [title_ids(60)[:25], title_ids(60)[25:50], title_ids(60)[50:]]
    assert [batch for batch in vendor.item_requests() if len(batch) > 1] == [
        batches[0],
        batches[1],
        batches[1],
        batches[1],
        batches[2],
    ]
    assert set(stored_counts(session).values()) == {(1, 1, 0, 0, "active")}


def test_sweep_has_its_own_checkpoint(
    session: Session, collection: Collection, vendor: ScriptedVendor, updater: BibliothecaCirculationUpdater
) -> None:
    get_or_create_checkpoint(session, collection, Workflow.PURCHASES).finish = day(2024, 5, 1)
    store_titles(session, collection, vendor, *title_ids(30))

    updater.update_batch(0)

    stamps = {row.service: row for row in session.scalars(select(Timestamp))}
    assert {name: (row.service_type, row.finish, row.counter) for name, row in stamps.items()} == {
        "Bibliotheca Purchase Record Importer": ("task", day(2024, 5, 1), None),
        "Bibliotheca Circulation Update": ("task", None, ids_of(session, "t0024")[0]),
    }


# Changes


def test_unchanged_titles_are_not_enqueued(
    session: Session, collection: Collection, vendor: ScriptedVendor, updater: BibliothecaCirculationUpdater
) -> None:
    store_titles(session, collection, vendor, *title_ids(3))
    before = stored_counts(session)

    result = updater.update_batch(0)

    assert result == BatchUpdateResult(3, 3, 0, 0, None, (), 0)
    assert (outbox_rows(session), stored_counts(session)) == ({}, before)


def test_changed_metadata_and_counts_are_applied(
    session: Session, collection: Collection, vendor: ScriptedVendor, updater: BibliothecaCirculationUpdater
) -> None:
    store_titles(session, collection, vendor, "both", "counts", "metadata", "same", owned=3, available=2)
    vendor.items["both"] = item("both", title="Another title", owned=4, available=0, holds=1)
    vendor.items["counts"] = item("counts", title="Title counts", owned=3, available=0, holds=5)
    vendor.items["metadata"] = item("metadata", title="A third title", owned=3, available=2)

    result = updater.update_batch(0)

    assert (result.titles_changed, result.titles_withdrawn) == (3, 0)
    assert result.counters == RunCounters(records_fetched=4, records_stored=4, titles_changed=3)
    pending = outbox_rows(session)
    assert tuple(pending) == result.outbox_ids
    assert {
        name: data.bibliographic.title if data.bibliographic else None for name, data in pending.values()
    } == {"both": "Another title", "counts": None, "metadata": "A third title"}

    commit_and_apply(session, result.outbox_ids)
    assert stored_counts(session) == {
        "both": (4, 0, 0, 1, "active"),
        "counts": (3, 0, 0, 5, "active"),
        "metadata": (3, 2, 0, 0, "active"),
        "same": (3, 2, 0, 0, "active"),
    }
    assert {view.identifier: view.title for view in title_views(session)} == {
        "both": "Another title",
        "counts": "Title counts",
        "metadata": "A third title",
        "same": "Title same",
    }
    assert sweep(session, updater) == [BatchUpdateResult(4, 4, 0, 0, None, (), 0)]


def test_counts_changed_by_events_are_corrected(
    session: Session, collection: Collection, vendor: ScriptedVendor, updater: BibliothecaCirculationUpdater
) -> None:
    store_titles(session, collection, vendor, "abc", owned=2, available=2)
    pools = {"abc": make_pool(session, collection, "abc")}
    record_events(session, collection, pools, [event_data("event-1", "CHECKOUT", "abc")])
    session.commit()
    assert stored_counts(session) == {"abc": (2, 1, 0, 0, "active")}

    result = updater.update_batch(0)

    ((name, data),) = outbox_rows(session).values()
    assert (name, data.bibliographic, data.circulation.licenses_available) == ("abc", None, 2)
    commit_and_apply(session, result.outbox_ids)
    assert stored_counts(session) == {"abc": (2, 2, 0, 0, "active")}


def test_reserved_copies_are_not_a_change(
    session: Session, collection: Collection, vendor: ScriptedVendor, updater: BibliothecaCirculationUpdater
) -> None:
    """The vendor's items do not contain the number of reserved copies."""
    store_titles(session, collection, vendor, "abc", owned=1, available=0, holds=1)
    pools = {"abc": make_pool(session, collection, "abc")}
    record_events(session, collection, pools, [event_data("event-1", "RESERVED", "abc")])
    vendor.items["abc"] = item("abc", title="Title abc", owned=1, available=0, holds=0)

    assert updater.update_batch(0).titles_changed == 0
    assert stored_counts(session) == {"abc": (1, 0, 1, 0, "active")}


def test_title_without_metadata_gets_its_metadata(
    session: Session, collection: Collection, vendor: ScriptedVendor, updater: BibliothecaCirculationUpdater
) -> None:
    make_pool(session, collection, "abc")
    vendor.items["abc"] = item("abc", title="Solaris", owned=2)

    (result,) = sweep(session, updater)

    assert result.titles_changed == 1
    assert stored_counts(session) == {"abc": (2, 1, 0, 0, "active")}
    assert [view.title for view in title_views(session)] == ["Solaris"]


def test_repaired_documents_are_counted(
    session: Session, collection: Collection, vendor: ScriptedVendor, updater: BibliothecaCirculationUpdater
) -> None:
    store_titles(session, collection, vendor, "abc")
    vendor.items["abc"] = item("abc", title="TITLE").replace("TITLE", "Salt &supl; Pepper")

    result = updater.update_batch(0)

    assert (result.repairs, result.counters.repairs) == (1, 1)


def test_sweep_of_unchanged_titles_writes_no_catalogue_row(
    isolated_database: Engine, vendor: ScriptedVendor
) -> None:
    batches = 3
    with isolated_database.connect() as writer, Session(writer) as session:
        collection = make_collection(session, "Alder Library")
        updater = BibliothecaCirculationUpdater(session, collection, vendor_api_for(collection))
        store_titles(session, collection, vendor, *title_ids(25 * batches))
        before = count_written_rows(writer, isolated_database)

        for _ in range(2):
            results = sweep(session, updater)

        assert count_written_rows(writer, isolated_database) == before
        assert (before["license_pools"], before["editions"]) == (2 * 25 * batches, 25 * batches)
        assert [result.titles_requested for result in results] == [25] * batches + [0]
        assert len(vendor.requests) == 2 * batches
        swept = session.scalars(select(func.cardinality(SweptBatch.identifier_ids)))
        assert sum(swept) == 25 * batches

        vendor.items["t0007"] = item("t0007", title="Title t0007", available=0)
        del vendor.items["t0070"]
        sweep(session, updater)

        after = count_written_rows(writer, isolated_database)
    # For each changed title an outbox row is inserted and deleted.
    assert {name: after[name] - before[name] for name in after if after[name] != before[name]} == {
        "license_pools": 2,
        "title_changes": 2,
        "apply_outbox": 4,
    }


# Withdrawn titles


def test_omitted_title_is_withdrawn_and_logged_once(
    session: Session, collection: Collection, vendor: ScriptedVendor, updater: BibliothecaCirculationUpdater
) -> None:
    store_titles(session, collection, vendor, "abc", "omitted", owned=4, available=1, holds=2)
    pool = make_pool(session, collection, "omitted")
    record_events(session, collection, {"omitted": pool}, [event_data("event-1", "RESERVED", "omitted")])
    session.commit()
    assert stored_counts(session)["omitted"] == (4, 1, 1, 1, "active")
    del vendor.items["omitted"]

    with capture_step_logs() as logs:
        result = updater.update_batch(0)
    commit_and_apply(session, result.outbox_ids)

    assert (result.titles_requested, result.titles_changed, result.titles_withdrawn) == (2, 1, 1)
    assert [(entry["event"], entry["title"]) for entry in logs] == [(WITHDRAWN_EVENT, "omitted")]
    assert stored_counts(session) == {"abc": (4, 1, 0, 2, "active"), "omitted": WITHDRAWN}
    assert {view.identifier: view.title for view in title_views(session)}["omitted"] == "Title omitted"
    assert outbox_rows(session) == {}

    before = writable_rows(session)["license_pools"]
    with capture_step_logs() as logs:
        again = updater.update_batch(0)
    assert (again.titles_changed, again.titles_withdrawn, list(logs)) == (0, 0, [])
    assert writable_rows(session)["license_pools"] == before


def test_withdrawn_title_returns_when_the_vendor_lists_it(
    session: Session, collection: Collection, vendor: ScriptedVendor, updater: BibliothecaCirculationUpdater
) -> None:
    store_titles(session, collection, vendor, "abc", "omitted")
    element = vendor.items.pop("omitted")
    sweep(session, updater)
    assert stored_counts(session)["omitted"] == WITHDRAWN
    vendor.items["omitted"] = element

    result = updater.update_batch(0)

    assert (result.titles_changed, result.titles_withdrawn) == (1, 0)
    commit_and_apply(session, result.outbox_ids)
    assert stored_counts(session)["omitted"] == (1, 1, 0, 0, "active")


def test_omitted_title_without_metadata_is_withdrawn_once(
    session: Session, collection: Collection, vendor: ScriptedVendor, updater: BibliothecaCirculationUpdater
) -> None:
    store_titles(session, collection, vendor, "abc")
    make_pool(session, collection, "unseen")
    assert stored_counts(session)["unseen"] == (0, 0, 0, 0, "unknown")

    with capture_step_logs() as logs:
        results = sweep(session, updater) + sweep(session, updater)

    assert [result.titles_withdrawn for result in results] == [1, 0]
    assert [entry["title"] for entry in logs] == ["unseen"]
    assert stored_counts(session)["unseen"] == WITHDRAWN


def test_omitted_title_without_copies_is_not_changed(
    session: Session, collection: Collection, vendor: ScriptedVendor, updater: BibliothecaCirculationUpdater
) -> None:
    store_titles(session, collection, vendor, "abc", "sold-out", owned=1)
    vendor.items["sold-out"] = item("sold-out", title="Title sold-out", owned=0, available=0)
    sweep(session, updater)
    assert stored_counts(session)["sold-out"] == WITHDRAWN
    del vendor.items["sold-out"]

    with capture_step_logs() as logs:
        (result,) = sweep(session, updater)

    assert (result.titles_changed, list(logs)) == (0, [])


def test_older_pending_data_does_not_restore_a_title(
    session: Session, collection: Collection, vendor: ScriptedVendor, updater: BibliothecaCirculationUpdater
) -> None:
    store_titles(session, collection, vendor, "abc", "omitted")
    older = title_data("omitted", as_of=NOON, licenses_owned=7)
    outbox_ids = enqueue_changes(session, [(make_pool(session, collection, "omitted"), older)])
    del vendor.items["omitted"]

    updater.update_batch(0)
    commit_and_apply(session, outbox_ids)

    assert stored_counts(session)["omitted"] == WITHDRAWN


def test_older_pending_data_does_not_restore_a_title_again(
    session: Session, collection: Collection, vendor: ScriptedVendor, updater: BibliothecaCirculationUpdater
) -> None:
    """The title is withdrawn, listed again by a sweep whose change is still pending, and withdrawn again."""
    store_titles(session, collection, vendor, "abc", "omitted")
    element = vendor.items.pop("omitted")
    sweep(session, updater)
    vendor.items["omitted"] = element
    outbox_ids = updater.update_batch(0).outbox_ids
    session.commit()
    del vendor.items["omitted"]

    updater.update_batch(0)
    commit_and_apply(session, outbox_ids)

    assert stored_counts(session)["omitted"] == WITHDRAWN


# Failures

DOCUMENT = f"<ArrayOfItem>{''.join(item(name, owned=9) for name in title_ids(25))}</ArrayOfItem>"
FAILURES: dict[str, tuple[httpx.Response | Exception, type[RemoteIntegrationException]]] = {
    "empty body": (httpx.Response(200), RemoteInitiatedServerError),
    "white space": (httpx.Response(200, text=" \n"), RemoteInitiatedServerError),
    "error document": (
        httpx.Response(200, text=error_document("Unknown error")),
        RemoteInitiatedServerError,
    ),
    "error document with status 500": (
        httpx.Response(500, text=error_document("Unknown error")),
        RemoteInitiatedServerError,
    ),
    "nested error document": (
        httpx.Response(200, text=f"<ArrayOfItem>{error_document('')}</ArrayOfItem>"),
        RemoteInitiatedServerError,
    ),
    "HTML": (httpx.Response(200, text="<html><body>Maintenance</body></html>"), BadResponseException),
    "half a document": (httpx.Response(200, text=DOCUMENT[: len(DOCUMENT) // 2]), BadResponseException),
    "unclosed root": (httpx.Response(200, text="<ArrayOfItem>"), BadResponseException),
    "bad gateway": (httpx.Response(502), BadResponseException),
    "read timeout": (httpx.ReadTimeout("slow"), RequestTimedOut),
}


def test_vendor_failure_leaves_nothing_written(
    session: Session,
    collection: Collection,
    vendor: ScriptedVendor,
    updater: BibliothecaCirculationUpdater,
    subtests: pytest.Subtests,
) -> None:
    store_titles(session, collection, vendor, *title_ids(26))
    result = updater.update_batch(0)
    session.commit()
    before = writable_rows(session)
    assert result.next_offset is not None

    for name, (failure, error) in FAILURES.items():
        with subtests.test(name):
            vendor.responses.append(failure)

            with pytest.raises(error) as raised, capture_step_logs() as logs:
                updater.update_batch(result.next_offset)

            assert raised.type is error
            assert issubclass(error, TransientVendorError)
            # Committed on purpose: there is nothing to roll back.
            session.commit()
            assert writable_rows(session) == before
            assert logs == []
    assert updater.update_batch(updater.get_offset()).titles_changed == 0


def test_failure_while_confirming_leaves_nothing_written(
    session: Session, collection: Collection, vendor: ScriptedVendor, updater: BibliothecaCirculationUpdater
) -> None:
    store_titles(session, collection, vendor, *title_ids(25))
    before = writable_rows(session)
    for omissions in (1, 2):
        vendor.responses.extend([items_response()] * omissions)
        vendor.responses.append(httpx.Response(502))

        with pytest.raises(BadResponseException):
            updater.update_batch(0)

        session.commit()
        assert writable_rows(session) == before


def test_title_with_an_invalid_item_is_not_withdrawn(
    session: Session, collection: Collection, vendor: ScriptedVendor, updater: BibliothecaCirculationUpdater
) -> None:
    store_titles(session, collection, vendor, "abc", "bad", "omitted")
    vendor.items["bad"] = item("bad", TotalCopies="many")
    del vendor.items["omitted"]

    with capture_step_logs() as logs:
        (result,) = sweep(session, updater)

    assert (result.titles_requested, result.titles_withdrawn) == (3, 1)
    assert stored_counts(session) == {
        "abc": (1, 1, 0, 0, "active"),
        "bad": (1, 1, 0, 0, "active"),
        "omitted": WITHDRAWN,
    }
    assert [(entry["event"], entry["title"]) for entry in logs] == [
        ("invalid title metadata", "bad"),
        (WITHDRAWN_EVENT, "omitted"),
    ]


def test_item_without_id_prevents_withdrawals(
    session: Session, collection: Collection, vendor: ScriptedVendor, updater: BibliothecaCirculationUpdater
) -> None:
    """It may be any of the titles that are missing."""
    store_titles(session, collection, vendor, "a", "b", "c", "d")
    vendor.items["a"] = item("")
    vendor.items["b"] = item("b", title="Title b", owned=3)
    del vendor.items["c"], vendor.items["d"]

    (result,) = sweep(session, updater)

    assert (result.titles_changed, result.titles_withdrawn) == (1, 0)
    assert stored_counts(session) == dict.fromkeys("acd", (1, 1, 0, 0, "active")) | {
        "b": (3, 1, 0, 0, "active")
    }
    # The other titles are not recorded as swept, so that their older events still count.
    assert session.scalars(select(SweptBatch.identifier_ids)).all() == [ids_of(session, "b")]


def test_items_not_requested_do_not_prevent_withdrawals(
    session: Session, collection: Collection, vendor: ScriptedVendor, updater: BibliothecaCirculationUpdater
) -> None:
    store_titles(session, collection, vendor, "abc", "omitted")
    vendor.items["abc"] += item("other", owned=5)
    del vendor.items["omitted"]

    (result,) = sweep(session, updater)

    assert result.titles_withdrawn == 1
    assert stored_counts(session) == {"abc": (1, 1, 0, 0, "active"), "omitted": WITHDRAWN}


# Responses that omit all titles of a batch


def test_omitted_batch_is_retried_and_second_response_used(
    session: Session, collection: Collection, vendor: ScriptedVendor, updater: BibliothecaCirculationUpdater
) -> None:
    store_titles(session, collection, vendor, *title_ids(25))
    vendor.items["t0003"] = item("t0003", title="Title t0003", owned=6)
    del vendor.items["t0009"]
    vendor.responses.append(items_response())

    with capture_step_logs() as logs:
        result = updater.update_batch(0)
    commit_and_apply(session, result.outbox_ids)

    assert (result.titles_changed, result.titles_withdrawn) == (2, 1)
    assert vendor.item_requests() == [title_ids(25), title_ids(25)]
    assert warning_events(logs) == [RETRY_EVENT, WITHDRAWN_EVENT]
    assert stored_counts(session) == dict.fromkeys(title_ids(25), (1, 1, 0, 0, "active")) | {
        "t0003": (6, 1, 0, 0, "active"),
        "t0009": WITHDRAWN,
    }


@pytest.mark.parametrize("titles", [2, 25])
def test_batch_omitted_three_times_is_withdrawn(
    session: Session,
    collection: Collection,
    vendor: ScriptedVendor,
    updater: BibliothecaCirculationUpdater,
    titles: int,
) -> None:
    """The requests are for all titles, for all again, and for one alone."""
    store_titles(session, collection, vendor, *title_ids(titles))
    vendor.items.clear()

    result = updater.update_batch(0)
    commit_and_apply(session, result.outbox_ids)

    assert result.titles_withdrawn == titles
    assert [len(batch) for batch in vendor.item_requests()] == [titles, titles, 1]
    assert stored_counts(session) == dict.fromkeys(title_ids(titles), WITHDRAWN)


def test_contradicted_omission_of_a_batch_stops_the_sweep(
    session: Session, collection: Collection, vendor: ScriptedVendor, updater: BibliothecaCirculationUpdater
) -> None:
    store_titles(session, collection, vendor, *title_ids(25))
    before = writable_rows(session)
    vendor.responses.extend([items_response(), items_response()])

    with pytest.raises(RemoteIntegrationException) as raised:
        updater.update_batch(0)

    assert raised.type is PermanentVendorError
    assert str(raised.value) == (
        'Collection "Alder Library": the vendor omitted all 25 titles of a batch, but has one of them when '
        "it is requested alone; nothing was changed, start the update again later."
    )
    assert [len(batch) for batch in vendor.item_requests()] == [25, 25, 1]
    session.commit()
    assert writable_rows(session) == before


def test_omission_is_confirmed_with_a_title_not_withdrawn(
    session: Session, collection: Collection, vendor: ScriptedVendor, updater: BibliothecaCirculationUpdater
) -> None:
    """The omission of a title withdrawn before proves nothing about the others."""
    store_titles(session, collection, vendor, *title_ids(25))
    del vendor.items["t0000"]
    sweep(session, updater)
    vendor.responses.extend([items_response(), items_response()])

    with pytest.raises(RemoteIntegrationException, match="omitted all 25 titles"):
        updater.update_batch(0)

    assert stored_counts(session)["t0001"] == (1, 1, 0, 0, "active")


def test_batch_withdrawn_before_is_requested_once(
    session: Session, collection: Collection, vendor: ScriptedVendor, updater: BibliothecaCirculationUpdater
) -> None:
    store_titles(session, collection, vendor, *title_ids(3))
    vendor.items.clear()
    sweep(session, updater)
    vendor.requests.clear()

    with capture_step_logs() as logs:
        (result,) = sweep(session, updater)

    assert (result.titles_changed, len(vendor.requests), list(logs)) == (0, 1, [])


def test_batch_of_one_omitted_title_is_requested_once(
    session: Session, collection: Collection, vendor: ScriptedVendor, updater: BibliothecaCirculationUpdater
) -> None:
    store_titles(session, collection, vendor, "omitted")
    vendor.items.clear()

    (result,) = sweep(session, updater)

    assert (result.titles_withdrawn, len(vendor.requests)) == (1, 1)
    assert stored_counts(session) == {"omitted": WITHDRAWN}


# Refresh


def test_refresh_applies_changes_at_once(
    session: Session, collection: Collection, vendor: ScriptedVendor, updater: BibliothecaCirculationUpdater
) -> None:
    store_titles(session, collection, vendor, "counts", "metadata", "omitted", "not-requested", "same")
    get_or_create_checkpoint(session, collection, Workflow.CIRCULATION).counter = 3
    session.commit()
    before = writable_rows(session)
    vendor.items["counts"] = item("counts", title="Title counts", owned=5, available=0, holds=2)
    vendor.items["metadata"] = item("metadata", title="Another title", owned=2)
    vendor.items["not-requested"] = item("not-requested", title="Not requested", owned=7)
    del vendor.items["omitted"]

    with capture_step_logs() as logs:
        result = updater.refresh(["same", "omitted", "metadata", "counts"])
    session.commit()

    assert result == RefreshResult(titles_changed=3, withdrawn=("omitted",))
    assert [(entry["event"], entry["title"]) for entry in logs] == [(WITHDRAWN_EVENT, "omitted")]
    assert stored_counts(session) == {
        "counts": (5, 0, 0, 2, "active"),
        "metadata": (2, 1, 0, 0, "active"),
        "omitted": WITHDRAWN,
        "not-requested": (1, 1, 0, 0, "active"),
        "same": (1, 1, 0, 0, "active"),
    }
    assert {view.identifier: view.title for view in title_views(session)}["metadata"] == "Another title"
    assert len(vendor.requests) == 1
    after = writable_rows(session)
    for table in ("timestamps", "apply_outbox", "swept_batches"):
        assert after[table] == before[table]


def test_refresh_of_unchanged_titles_changes_nothing(
    session: Session, collection: Collection, vendor: ScriptedVendor, updater: BibliothecaCirculationUpdater
) -> None:
    store_titles(session, collection, vendor, "abc", "omitted")
    del vendor.items["omitted"]
    updater.refresh(["abc", "omitted"])
    session.commit()
    before = writable_rows(session)

    with capture_step_logs() as logs:
        assert updater.refresh(["abc", "omitted"]) == RefreshResult(titles_changed=0, withdrawn=())
    session.commit()

    assert (writable_rows(session), list(logs)) == (before, [])


def test_refresh_requests_each_title_once_in_batches(
    session: Session, collection: Collection, vendor: ScriptedVendor, updater: BibliothecaCirculationUpdater
) -> None:
    store_titles(session, collection, vendor, *title_ids(60))
    del vendor.items["t0055"]
    vendor.items["t0001"] = item("t0001", title="Title t0001", owned=2)

    result = updater.refresh([*reversed(title_ids(60)), "t0001", "t0055", "t0001"])

    assert result == RefreshResult(titles_changed=2, withdrawn=("t0055",))
    assert vendor.item_requests() == [title_ids(60)[:25], title_ids(60)[25:50], title_ids(60)[50:]]


@pytest.mark.parametrize("unknown", ["unknown", "theirs"])
def test_refresh_of_unknown_title_sends_no_request(
    session: Session,
    collection: Collection,
    vendor: ScriptedVendor,
    updater: BibliothecaCirculationUpdater,
    unknown: str,
) -> None:
    store_titles(session, collection, vendor, "abc")
    store_titles(session, make_collection(session, "Birch Library"), vendor, "theirs")
    vendor.items["abc"] = item("abc", title="Another title")
    before = writable_rows(session)

    with pytest.raises(UserError) as raised:
        updater.refresh(["abc", unknown])

    assert str(raised.value) == (
        f'Collection "Alder Library" holds no title with id "{unknown}": see `accession titles list`.'
    )
    session.commit()
    assert (vendor.requests, writable_rows(session)) == ([], before)


def test_refresh_changes_only_its_own_collection(
    session: Session, collection: Collection, vendor: ScriptedVendor, updater: BibliothecaCirculationUpdater
) -> None:
    store_titles(session, collection, vendor, "shared")
    store_titles(session, make_collection(session, "Birch Library"), vendor, "shared")
    vendor.items.clear()

    updater.refresh(["shared"])

    assert [(view.collection, view.status) for view in title_views(session)] == [
        ("Alder Library", "exhausted"),
        ("Birch Library", "active"),
    ]


def test_failed_last_request_of_refresh_writes_nothing(
    session: Session, collection: Collection, vendor: ScriptedVendor, updater: BibliothecaCirculationUpdater
) -> None:
    store_titles(session, collection, vendor, *title_ids(30))
    before = writable_rows(session)
    changed_items = [item(name, owned=9) for name in title_ids(25)]
    vendor.responses.extend([items_response(*changed_items), httpx.Response(502)])

    with pytest.raises(BadResponseException):
        updater.refresh(title_ids(30))
    session.commit()

    assert writable_rows(session) == before


def test_refresh_confirms_the_omission_of_all_titles(
    session: Session, collection: Collection, vendor: ScriptedVendor, updater: BibliothecaCirculationUpdater
) -> None:
    store_titles(session, collection, vendor, *title_ids(3))
    vendor.responses.extend([items_response(), items_response()])

    with pytest.raises(RemoteIntegrationException, match="omitted all 3 titles"):
        updater.refresh(title_ids(3))

    assert len(vendor.requests) == 3
    assert set(stored_counts(session).values()) == {(1, 1, 0, 0, "active")}


def test_refresh_is_not_undone_by_older_pending_changes(
    session: Session, collection: Collection, vendor: ScriptedVendor, updater: BibliothecaCirculationUpdater
) -> None:
    """The vendor has reverted the change since, so that the refresh finds the stored data unchanged."""
    store_titles(session, collection, vendor, "abc")
    item_before = vendor.items["abc"]
    vendor.items["abc"] = item("abc", title="Another title", owned=7)
    outbox_ids = updater.update_batch(0).outbox_ids
    session.commit()
    vendor.items["abc"] = item_before

    updater.refresh(["abc"])
    commit_and_apply(session, outbox_ids)

    assert stored_counts(session) == {"abc": (1, 1, 0, 0, "active")}
    assert [view.title for view in title_views(session)] == ["Title abc"]
