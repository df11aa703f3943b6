"""The sweep: a batch of titles at a time, what differs is applied, and what the vendor leaves out is gone."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import httpx
import pytest
import time_machine
from sqlalchemy import Engine, func, select
from sqlalchemy.orm import Session

from accession.bibliotheca.errors import (
    RETRYABLE,
    BadResponseException,
    RemoteInitiatedServerError,
    RemoteIntegrationException,
    RequestTimedOut,
)
from accession.catalog.apply import put_in_outbox
from accession.catalog.circulation import record_events
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
from accession.imports.vendor import api_for
from accession.runs.ledger import Counters, timestamp
from tests.fixtures.factories import NOON, day, event_data, make_collection, make_pool, title_data
from tests.fixtures.holdings import apply, held, hold, names, outbox, warnings
from tests.fixtures.importers import logged, rows_written
from tests.fixtures.vendor import Vendor, error_document, item

GONE = (0, 0, 0, 0, "exhausted")
NO_LONGER = "the vendor no longer has a title; its copies become zero"
ASKED_AGAIN = "the vendor leaves out every title of a batch and is asked again"


def ids_of(session: Session, *identifiers: str) -> list[int]:
    rows = {row.identifier: row.id for row in session.scalars(select(Identifier))}
    return [rows[name] for name in identifiers]


def checkpoint(session: Session, collection: Collection) -> tuple[int | None, datetime | None]:
    row = timestamp(session, collection, Workflow.CIRCULATION)
    return row.counter, row.finish


def sweep(session: Session, updater: BibliothecaCirculationUpdater) -> list[BatchUpdateResult]:
    """From the checkpoint to the end, each batch committed and applied."""
    results: list[BatchUpdateResult] = []
    offset: int | None = updater.get_offset()
    while offset is not None:
        results.append(updater.update_batch(offset))
        apply(session, results[-1].outbox_ids)
        offset = results[-1].next_offset
    return results


def everything(session: Session) -> dict[str, Sequence[Any]]:
    """What a sweep may write."""
    tables = (LicensePool, Edition, ApplyOutbox, SweptBatch, Timestamp)
    return {model.__tablename__: session.execute(select(table_of(model))).all() for model in tables}


def answer(*elements: str) -> httpx.Response:
    return httpx.Response(200, text=f"<ArrayOfItem>{''.join(elements)}</ArrayOfItem>")


# Where to go on


def test_a_collection_never_swept_begins_at_the_beginning(updater: BibliothecaCirculationUpdater) -> None:
    assert updater.get_offset() == 0


def test_a_full_batch_leaves_the_id_of_its_last_identifier(
    session: Session, collection: Collection, vendor: Vendor, updater: BibliothecaCirculationUpdater
) -> None:
    hold(session, collection, vendor, *names(30))
    (last,) = ids_of(session, "t0024")

    result = updater.update_batch(0)
    session.commit()

    assert (result.titles_asked, result.next_offset) == (25, last)
    assert checkpoint(session, collection) == (last, None)
    assert updater.get_offset() == last


def test_the_last_batch_stamps_the_end_and_the_next_sweep_begins_anew(
    session: Session, collection: Collection, vendor: Vendor, updater: BibliothecaCirculationUpdater
) -> None:
    hold(session, collection, vendor, *names(30))
    first = updater.update_batch(0)
    assert first.next_offset is not None

    with time_machine.travel(NOON, tick=False):
        second = updater.update_batch(first.next_offset)
    session.commit()

    assert (second.titles_asked, second.next_offset) == (5, None)
    assert checkpoint(session, collection) == (0, NOON)
    assert updater.get_offset() == 0
    assert vendor.item_requests() == [names(30)[:25], names(30)[25:]]


def test_a_sweep_that_is_under_way_leaves_the_end_of_the_one_before(
    session: Session, collection: Collection, vendor: Vendor, updater: BibliothecaCirculationUpdater
) -> None:
    hold(session, collection, vendor, *names(30))
    with time_machine.travel(NOON, tick=False):
        sweep(session, updater)

    updater.update_batch(0)

    assert checkpoint(session, collection) == (ids_of(session, "t0024")[0], NOON)


@pytest.mark.parametrize("titles", [25, 50])
def test_titles_that_fill_their_batches_end_with_one_that_asks_nothing(
    session: Session,
    collection: Collection,
    vendor: Vendor,
    updater: BibliothecaCirculationUpdater,
    titles: int,
) -> None:
    hold(session, collection, vendor, *names(titles))

    with time_machine.travel(NOON, tick=False):
        *full, last = sweep(session, updater)

    assert [result.titles_asked for result in full] == [25] * (titles // 25)
    assert last == BatchUpdateResult(0, 0, 0, 0, None, (), 0)
    assert len(vendor.requests) == titles // 25
    assert checkpoint(session, collection) == (0, NOON)


def test_an_empty_collection_is_done_at_once(
    session: Session, collection: Collection, vendor: Vendor, updater: BibliothecaCirculationUpdater
) -> None:
    with time_machine.travel(NOON, tick=False):
        assert updater.update_batch(0) == BatchUpdateResult(0, 0, 0, 0, None, (), 0)

    assert vendor.requests == []
    assert checkpoint(session, collection) == (0, NOON)


def test_titles_are_asked_for_in_the_order_of_their_identifiers_ids(
    session: Session, collection: Collection, vendor: Vendor, updater: BibliothecaCirculationUpdater
) -> None:
    """Which is neither that of their names nor that of their pools."""
    make_pool(session, make_collection(session, "Birch Library"), "shared")
    for name in ("z", "a", "m", "shared"):
        hold(session, collection, vendor, name)

    updater.update_batch(0)
    updater.update_batch(ids_of(session, "a")[0])

    assert vendor.item_requests() == [["shared", "z", "a", "m"], ["m"]]


def test_only_what_the_collection_has_of_this_vendor_is_asked_for(
    session: Session, collection: Collection, vendor: Vendor, updater: BibliothecaCirculationUpdater
) -> None:
    other = make_collection(session, "Birch Library")
    hold(session, other, vendor, "theirs", "shared")
    hold(session, collection, vendor, "shared", "mine")
    pool = make_pool(session, collection, "of-another-vendor")
    pool.data_source = "Somebody else"
    session.commit()
    vendor.items.clear()
    vendor.items["mine"] = item("mine", title="Title mine")

    sweep(session, updater)

    assert vendor.item_requests() == [["shared", "mine"]]
    statuses = {(view.collection, view.identifier): view.status for view in title_views(session)}
    assert statuses == {
        ("Alder Library", "mine"): "active",
        ("Alder Library", "of-another-vendor"): "unknown",
        ("Alder Library", "shared"): "exhausted",
        ("Birch Library", "shared"): "active",
        ("Birch Library", "theirs"): "active",
    }


def test_a_crash_before_the_commit_goes_on_from_the_counter(
    session: Session, collection: Collection, vendor: Vendor, updater: BibliothecaCirculationUpdater
) -> None:
    hold(session, collection, vendor, *names(60))
    updater.update_batch(0)
    session.commit()
    before = everything(session)
    vendor.items.clear()
    updater.update_batch(updater.get_offset())
    session.flush()
    session.rollback()
    assert everything(session) == before
    hold(session, collection, vendor, *names(60))

    sweep(session, updater)

    batches = [names(60)[:25], names(60)[25:50], names(60)[50:]]
    assert [asked for asked in vendor.item_requests() if len(asked) > 1] == [
        batches[0],
        batches[1],
        batches[1],
        batches[1],
        batches[2],
    ]
    assert set(held(session).values()) == {(1, 1, 0, 0, "active")}


def test_the_sweep_has_a_checkpoint_of_its_own(
    session: Session, collection: Collection, vendor: Vendor, updater: BibliothecaCirculationUpdater
) -> None:
    timestamp(session, collection, Workflow.PURCHASES).finish = day(2024, 5, 1)
    hold(session, collection, vendor, *names(30))

    updater.update_batch(0)

    stamps = {row.service: row for row in session.scalars(select(Timestamp))}
    assert {name: (row.service_type, row.finish, row.counter) for name, row in stamps.items()} == {
        "Bibliotheca Purchase Record Importer": ("task", day(2024, 5, 1), None),
        "Bibliotheca Circulation Update": ("task", None, ids_of(session, "t0024")[0]),
    }


# What differs


def test_nothing_is_put_in_the_outbox_when_nothing_has_changed(
    session: Session, collection: Collection, vendor: Vendor, updater: BibliothecaCirculationUpdater
) -> None:
    hold(session, collection, vendor, *names(3))
    before = held(session)

    result = updater.update_batch(0)

    assert result == BatchUpdateResult(3, 3, 0, 0, None, (), 0)
    assert (outbox(session), held(session)) == ({}, before)


def test_a_description_and_counts_differ_each_in_its_own_way(
    session: Session, collection: Collection, vendor: Vendor, updater: BibliothecaCirculationUpdater
) -> None:
    hold(session, collection, vendor, "both", "counts", "description", "same", owned=3, available=2)
    vendor.items["both"] = item("both", title="Another title", owned=4, available=0, holds=1)
    vendor.items["counts"] = item("counts", title="Title counts", owned=3, available=0, holds=5)
    vendor.items["description"] = item("description", title="A third title", owned=3, available=2)

    result = updater.update_batch(0)

    assert (result.titles_changed, result.titles_gone) == (3, 0)
    assert result.counters == Counters(records_fetched=4, records_stored=4, titles_changed=3)
    waiting = outbox(session)
    assert tuple(waiting) == result.outbox_ids
    assert {
        name: data.bibliographic.title if data.bibliographic else None for name, data in waiting.values()
    } == {"both": "Another title", "counts": None, "description": "A third title"}

    apply(session, result.outbox_ids)
    assert held(session) == {
        "both": (4, 0, 0, 1, "active"),
        "counts": (3, 0, 0, 5, "active"),
        "description": (3, 2, 0, 0, "active"),
        "same": (3, 2, 0, 0, "active"),
    }
    assert {view.identifier: view.title for view in title_views(session)} == {
        "both": "Another title",
        "counts": "Title counts",
        "description": "A third title",
        "same": "Title same",
    }
    assert sweep(session, updater) == [BatchUpdateResult(4, 4, 0, 0, None, (), 0)]


def test_counts_that_events_have_moved_are_seen_though_the_vendor_says_what_it_said(
    session: Session, collection: Collection, vendor: Vendor, updater: BibliothecaCirculationUpdater
) -> None:
    hold(session, collection, vendor, "abc", owned=2, available=2)
    pools = {"abc": make_pool(session, collection, "abc")}
    record_events(session, collection, pools, [event_data("event-1", "CHECKOUT", "abc")])
    session.commit()
    assert held(session) == {"abc": (2, 1, 0, 0, "active")}

    result = updater.update_batch(0)

    ((name, data),) = outbox(session).values()
    assert (name, data.bibliographic, data.circulation.licenses_available) == ("abc", None, 2)
    apply(session, result.outbox_ids)
    assert held(session) == {"abc": (2, 2, 0, 0, "active")}


def test_copies_that_are_set_aside_for_patrons_are_no_difference(
    session: Session, collection: Collection, vendor: Vendor, updater: BibliothecaCirculationUpdater
) -> None:
    """The vendor's items do not tell how many they are."""
    hold(session, collection, vendor, "abc", owned=1, available=0, holds=1)
    pools = {"abc": make_pool(session, collection, "abc")}
    record_events(session, collection, pools, [event_data("event-1", "RESERVED", "abc")])
    vendor.items["abc"] = item("abc", title="Title abc", owned=1, available=0, holds=0)

    assert updater.update_batch(0).titles_changed == 0
    assert held(session) == {"abc": (1, 0, 1, 0, "active")}


def test_a_title_of_which_nothing_was_known_is_described(
    session: Session, collection: Collection, vendor: Vendor, updater: BibliothecaCirculationUpdater
) -> None:
    make_pool(session, collection, "abc")
    vendor.items["abc"] = item("abc", title="Solaris", owned=2)

    (result,) = sweep(session, updater)

    assert result.titles_changed == 1
    assert held(session) == {"abc": (2, 1, 0, 0, "active")}
    assert [view.title for view in title_views(session)] == ["Solaris"]


def test_documents_that_had_to_be_repaired_are_counted(
    session: Session, collection: Collection, vendor: Vendor, updater: BibliothecaCirculationUpdater
) -> None:
    hold(session, collection, vendor, "abc")
    vendor.items["abc"] = item("abc", title="TITLE").replace("TITLE", "Salt &supl; Pepper")

    result = updater.update_batch(0)

    assert (result.repairs, result.counters.repairs) == (1, 1)


def test_a_sweep_of_two_thousand_unchanged_titles_writes_no_row_of_the_catalogue(
    own: Engine, vendor: Vendor
) -> None:
    with own.connect() as writer, Session(writer) as session:
        collection = make_collection(session, "Alder Library")
        updater = BibliothecaCirculationUpdater(session, collection, api_for(collection))
        hold(session, collection, vendor, *names(2000))
        before = rows_written(writer, own)

        for _ in range(2):
            results = sweep(session, updater)

        assert rows_written(writer, own) == before
        assert (before["license_pools"], before["editions"]) == (4000, 2000)
        assert [result.titles_asked for result in results] == [25] * 80 + [0]
        assert len(vendor.requests) == 2 * 80
        told = session.scalars(select(func.cardinality(SweptBatch.identifier_ids)))
        assert sum(told) == 2000

        vendor.items["t0007"] = item("t0007", title="Title t0007", available=0)
        del vendor.items["t1999"]
        sweep(session, updater)

        after = rows_written(writer, own)
    # In the outbox a row was added and deleted for each.
    assert {name: after[name] - before[name] for name in after if after[name] != before[name]} == {
        "license_pools": 2,
        "title_changes": 2,
        "apply_outbox": 4,
    }


# Titles that the vendor leaves out


def test_a_title_that_is_left_out_is_gone_and_once_warned_of(
    session: Session, collection: Collection, vendor: Vendor, updater: BibliothecaCirculationUpdater
) -> None:
    hold(session, collection, vendor, "abc", "gone", owned=4, available=1, holds=2)
    pool = make_pool(session, collection, "gone")
    record_events(session, collection, {"gone": pool}, [event_data("event-1", "RESERVED", "gone")])
    session.commit()
    assert held(session)["gone"] == (4, 1, 1, 1, "active")
    del vendor.items["gone"]

    with logged() as logs:
        result = updater.update_batch(0)
    apply(session, result.outbox_ids)

    assert (result.titles_asked, result.titles_changed, result.titles_gone) == (2, 1, 1)
    assert [(line["event"], line["title"]) for line in logs] == [(NO_LONGER, "gone")]
    assert held(session) == {"abc": (4, 1, 0, 2, "active"), "gone": GONE}
    assert {view.identifier: view.title for view in title_views(session)}["gone"] == "Title gone"
    assert outbox(session) == {}

    before = everything(session)["license_pools"]
    with logged() as logs:
        again = updater.update_batch(0)
    assert (again.titles_changed, again.titles_gone, list(logs)) == (0, 0, [])
    assert everything(session)["license_pools"] == before


def test_a_title_that_is_gone_comes_back_when_the_vendor_has_it_again(
    session: Session, collection: Collection, vendor: Vendor, updater: BibliothecaCirculationUpdater
) -> None:
    hold(session, collection, vendor, "abc", "gone")
    back = vendor.items.pop("gone")
    sweep(session, updater)
    assert held(session)["gone"] == GONE
    vendor.items["gone"] = back

    result = updater.update_batch(0)

    assert (result.titles_changed, result.titles_gone) == (1, 0)
    apply(session, result.outbox_ids)
    assert held(session)["gone"] == (1, 1, 0, 0, "active")


def test_a_title_that_was_never_described_is_gone_once(
    session: Session, collection: Collection, vendor: Vendor, updater: BibliothecaCirculationUpdater
) -> None:
    hold(session, collection, vendor, "abc")
    make_pool(session, collection, "unseen")
    assert held(session)["unseen"] == (0, 0, 0, 0, "unknown")

    with logged() as logs:
        results = sweep(session, updater) + sweep(session, updater)

    assert [result.titles_gone for result in results] == [1, 0]
    assert [line["title"] for line in logs] == ["unseen"]
    assert held(session)["unseen"] == GONE


def test_a_title_of_which_the_vendor_has_no_copy_is_not_gone_anew(
    session: Session, collection: Collection, vendor: Vendor, updater: BibliothecaCirculationUpdater
) -> None:
    hold(session, collection, vendor, "abc", "sold-out", owned=1)
    vendor.items["sold-out"] = item("sold-out", title="Title sold-out", owned=0, available=0)
    sweep(session, updater)
    assert held(session)["sold-out"] == GONE
    del vendor.items["sold-out"]

    with logged() as logs:
        (result,) = sweep(session, updater)

    assert (result.titles_changed, list(logs)) == (0, [])


def test_an_older_word_that_is_still_to_be_applied_does_not_bring_a_title_back(
    session: Session, collection: Collection, vendor: Vendor, updater: BibliothecaCirculationUpdater
) -> None:
    hold(session, collection, vendor, "abc", "gone")
    older = title_data("gone", as_of=NOON, licenses_owned=7)
    outbox_ids = put_in_outbox(session, [(make_pool(session, collection, "gone"), older)])
    del vendor.items["gone"]

    updater.update_batch(0)
    apply(session, outbox_ids)

    assert held(session)["gone"] == GONE


def test_an_older_word_does_not_bring_a_title_back_that_had_gone_before_either(
    session: Session, collection: Collection, vendor: Vendor, updater: BibliothecaCirculationUpdater
) -> None:
    """Gone, there again for one sweep, whose word is not applied yet, and gone again."""
    hold(session, collection, vendor, "abc", "gone")
    back = vendor.items.pop("gone")
    sweep(session, updater)
    vendor.items["gone"] = back
    outbox_ids = updater.update_batch(0).outbox_ids
    session.commit()
    del vendor.items["gone"]

    updater.update_batch(0)
    apply(session, outbox_ids)

    assert held(session)["gone"] == GONE


# Silence is not absence

DOCUMENT = f"<ArrayOfItem>{''.join(item(name, owned=9) for name in names(25))}</ArrayOfItem>"
FAULTS: list[tuple[httpx.Response | Exception, type[RemoteIntegrationException]]] = [
    (httpx.Response(200), RemoteInitiatedServerError),
    (httpx.Response(200, text=" \n"), RemoteInitiatedServerError),
    (httpx.Response(200, text=error_document("Unknown error")), RemoteInitiatedServerError),
    (httpx.Response(500, text=error_document("Unknown error")), RemoteInitiatedServerError),
    (
        httpx.Response(200, text=f"<ArrayOfItem>{error_document('')}</ArrayOfItem>"),
        RemoteInitiatedServerError,
    ),
    (httpx.Response(200, text="<html><body>Maintenance</body></html>"), BadResponseException),
    (httpx.Response(200, text=DOCUMENT[: len(DOCUMENT) // 2]), BadResponseException),
    (httpx.Response(200, text="<ArrayOfItem>"), BadResponseException),
    (httpx.Response(502), BadResponseException),
    (httpx.ReadTimeout("slow"), RequestTimedOut),
]


@pytest.mark.parametrize(("fault", "error"), FAULTS)
def test_an_answer_that_is_none_leaves_nothing_written(
    session: Session,
    collection: Collection,
    vendor: Vendor,
    updater: BibliothecaCirculationUpdater,
    fault: httpx.Response | Exception,
    error: type[RemoteIntegrationException],
) -> None:
    hold(session, collection, vendor, *names(60))
    result = updater.update_batch(0)
    session.commit()
    before = everything(session)
    assert result.next_offset is not None
    vendor.answers.append(fault)

    with pytest.raises(error) as raised, logged() as logs:
        updater.update_batch(result.next_offset)

    assert raised.type is error
    assert error in RETRYABLE
    # Committed on purpose: there is nothing to roll back.
    session.commit()
    assert everything(session) == before
    assert logs == []
    assert updater.update_batch(updater.get_offset()).titles_changed == 0


def test_a_fault_at_the_second_time_of_asking_leaves_nothing_written(
    session: Session, collection: Collection, vendor: Vendor, updater: BibliothecaCirculationUpdater
) -> None:
    hold(session, collection, vendor, *names(25))
    before = everything(session)
    for answers in ([answer(), httpx.Response(502)], [answer(), answer(), httpx.Response(502)]):
        vendor.answers.extend(answers)

        with pytest.raises(BadResponseException):
            updater.update_batch(0)

        session.commit()
        assert everything(session) == before


def test_a_title_whose_item_cannot_be_used_is_not_gone(
    session: Session, collection: Collection, vendor: Vendor, updater: BibliothecaCirculationUpdater
) -> None:
    hold(session, collection, vendor, "abc", "bad", "gone")
    vendor.items["bad"] = item("bad", TotalCopies="many")
    del vendor.items["gone"]

    with logged() as logs:
        (result,) = sweep(session, updater)

    assert (result.titles_asked, result.titles_gone) == (3, 1)
    assert held(session) == {"abc": (1, 1, 0, 0, "active"), "bad": (1, 1, 0, 0, "active"), "gone": GONE}
    assert [(line["event"], line["title"]) for line in logs] == [
        ("title's metadata cannot be used", "bad"),
        (NO_LONGER, "gone"),
    ]


def test_beside_an_item_without_an_id_none_is_gone(
    session: Session, collection: Collection, vendor: Vendor, updater: BibliothecaCirculationUpdater
) -> None:
    """It may be any of those that are missing."""
    hold(session, collection, vendor, "a", "b", "c", "d")
    vendor.items["a"] = item("")
    vendor.items["b"] = item("b", title="Title b", owned=3)
    del vendor.items["c"], vendor.items["d"]

    (result,) = sweep(session, updater)

    assert (result.titles_changed, result.titles_gone) == (1, 0)
    assert held(session) == dict.fromkeys("acd", (1, 1, 0, 0, "active")) | {"b": (3, 1, 0, 0, "active")}
    # What was not told of may have changed before: its older events still count.
    assert session.scalars(select(SweptBatch.identifier_ids)).all() == [ids_of(session, "b")]


def test_items_that_nobody_asked_for_say_nothing_of_those_that_are_missing(
    session: Session, collection: Collection, vendor: Vendor, updater: BibliothecaCirculationUpdater
) -> None:
    hold(session, collection, vendor, "abc", "gone")
    vendor.items["abc"] += item("other", owned=5)
    del vendor.items["gone"]

    (result,) = sweep(session, updater)

    assert result.titles_gone == 1
    assert held(session) == {"abc": (1, 1, 0, 0, "active"), "gone": GONE}


# Answers without any of the titles


def test_a_batch_left_out_as_a_whole_is_asked_for_again_and_what_is_said_then_counts(
    session: Session, collection: Collection, vendor: Vendor, updater: BibliothecaCirculationUpdater
) -> None:
    hold(session, collection, vendor, *names(25))
    vendor.items["t0003"] = item("t0003", title="Title t0003", owned=6)
    del vendor.items["t0009"]
    vendor.answers.append(answer())

    with logged() as logs:
        result = updater.update_batch(0)
    apply(session, result.outbox_ids)

    assert (result.titles_changed, result.titles_gone) == (2, 1)
    assert vendor.item_requests() == [names(25), names(25)]
    assert warnings(logs) == [ASKED_AGAIN, NO_LONGER]
    assert held(session) == dict.fromkeys(names(25), (1, 1, 0, 0, "active")) | {
        "t0003": (6, 1, 0, 0, "active"),
        "t0009": GONE,
    }


@pytest.mark.parametrize("titles", [2, 25])
def test_a_batch_that_is_left_out_three_times_is_gone(
    session: Session,
    collection: Collection,
    vendor: Vendor,
    updater: BibliothecaCirculationUpdater,
    titles: int,
) -> None:
    """For all, for all again, and for one alone."""
    hold(session, collection, vendor, *names(titles))
    vendor.items.clear()

    result = updater.update_batch(0)
    apply(session, result.outbox_ids)

    assert result.titles_gone == titles
    assert [len(asked) for asked in vendor.item_requests()] == [titles, titles, 1]
    assert held(session) == dict.fromkeys(names(titles), GONE)


def test_a_batch_that_is_left_out_but_for_the_title_asked_for_alone_stops_the_sweep(
    session: Session, collection: Collection, vendor: Vendor, updater: BibliothecaCirculationUpdater
) -> None:
    hold(session, collection, vendor, *names(25))
    before = everything(session)
    vendor.answers.extend([answer(), answer()])

    with pytest.raises(RemoteIntegrationException) as raised:
        updater.update_batch(0)

    assert raised.type is RemoteIntegrationException
    assert str(raised.value) == (
        'Collection "Alder Library": the vendor left out all 25 titles of a batch, but has one of them when '
        "it is asked for it alone; nothing was changed, start the update again later."
    )
    assert [len(asked) for asked in vendor.item_requests()] == [25, 25, 1]
    session.commit()
    assert everything(session) == before


def test_the_title_asked_for_alone_is_one_that_the_vendor_had_until_now(
    session: Session, collection: Collection, vendor: Vendor, updater: BibliothecaCirculationUpdater
) -> None:
    """Of one that is gone already, silence says nothing about the others."""
    hold(session, collection, vendor, *names(25))
    del vendor.items["t0000"]
    sweep(session, updater)
    vendor.answers.extend([answer(), answer()])

    with pytest.raises(RemoteIntegrationException, match="left out all 25 titles"):
        updater.update_batch(0)

    assert held(session)["t0001"] == (1, 1, 0, 0, "active")


def test_a_batch_that_was_gone_before_is_asked_for_once(
    session: Session, collection: Collection, vendor: Vendor, updater: BibliothecaCirculationUpdater
) -> None:
    hold(session, collection, vendor, *names(3))
    vendor.items.clear()
    sweep(session, updater)
    vendor.requests.clear()

    with logged() as logs:
        (result,) = sweep(session, updater)

    assert (result.titles_changed, len(vendor.requests), list(logs)) == (0, 1, [])


def test_a_title_alone_in_its_batch_is_asked_for_once(
    session: Session, collection: Collection, vendor: Vendor, updater: BibliothecaCirculationUpdater
) -> None:
    hold(session, collection, vendor, "gone")
    vendor.items.clear()

    (result,) = sweep(session, updater)

    assert (result.titles_gone, len(vendor.requests)) == (1, 1)
    assert held(session) == {"gone": GONE}


# When somebody asks for some titles


def test_a_refresh_applies_at_once_what_the_vendor_says(
    session: Session, collection: Collection, vendor: Vendor, updater: BibliothecaCirculationUpdater
) -> None:
    hold(session, collection, vendor, "counts", "described", "gone", "left-alone", "same")
    timestamp(session, collection, Workflow.CIRCULATION).counter = 3
    session.commit()
    before = everything(session)
    vendor.items["counts"] = item("counts", title="Title counts", owned=5, available=0, holds=2)
    vendor.items["described"] = item("described", title="Another title", owned=2)
    vendor.items["left-alone"] = item("left-alone", title="Not asked for", owned=7)
    del vendor.items["gone"]

    with logged() as logs:
        result = updater.refresh(["same", "gone", "described", "counts"])
    session.commit()

    assert result == RefreshResult(titles_changed=3, gone=("gone",))
    assert [(line["event"], line["title"]) for line in logs] == [(NO_LONGER, "gone")]
    assert held(session) == {
        "counts": (5, 0, 0, 2, "active"),
        "described": (2, 1, 0, 0, "active"),
        "gone": GONE,
        "left-alone": (1, 1, 0, 0, "active"),
        "same": (1, 1, 0, 0, "active"),
    }
    assert {view.identifier: view.title for view in title_views(session)}["described"] == "Another title"
    assert len(vendor.requests) == 1
    after = everything(session)
    for table in ("timestamps", "apply_outbox", "swept_batches"):
        assert after[table] == before[table]


def test_a_refresh_of_titles_that_are_as_they_were_changes_nothing(
    session: Session, collection: Collection, vendor: Vendor, updater: BibliothecaCirculationUpdater
) -> None:
    hold(session, collection, vendor, "abc", "gone")
    del vendor.items["gone"]
    updater.refresh(["abc", "gone"])
    session.commit()
    before = everything(session)

    with logged() as logs:
        assert updater.refresh(["abc", "gone"]) == RefreshResult(titles_changed=0, gone=())
    session.commit()

    assert (everything(session), list(logs)) == (before, [])


def test_a_refresh_asks_for_many_titles_in_several_requests_each_title_once(
    session: Session, collection: Collection, vendor: Vendor, updater: BibliothecaCirculationUpdater
) -> None:
    hold(session, collection, vendor, *names(60))
    del vendor.items["t0055"]
    vendor.items["t0001"] = item("t0001", title="Title t0001", owned=2)

    result = updater.refresh([*reversed(names(60)), "t0001", "t0055", "t0001"])

    assert result == RefreshResult(titles_changed=2, gone=("t0055",))
    assert vendor.item_requests() == [names(60)[:25], names(60)[25:50], names(60)[50:]]


@pytest.mark.parametrize("unknown", ["nobodys", "theirs"])
def test_a_refresh_of_a_title_that_the_collection_does_not_hold_asks_nothing(
    session: Session,
    collection: Collection,
    vendor: Vendor,
    updater: BibliothecaCirculationUpdater,
    unknown: str,
) -> None:
    hold(session, collection, vendor, "abc")
    hold(session, make_collection(session, "Birch Library"), vendor, "theirs")
    vendor.items["abc"] = item("abc", title="Another title")
    before = everything(session)

    with pytest.raises(UserError) as raised:
        updater.refresh(["abc", unknown])

    assert str(raised.value) == (
        f'Collection "Alder Library" holds no title with id "{unknown}": see `accession titles list`.'
    )
    session.commit()
    assert (vendor.requests, everything(session)) == ([], before)


def test_a_refresh_of_what_two_collections_hold_is_of_the_one_that_asks(
    session: Session, collection: Collection, vendor: Vendor, updater: BibliothecaCirculationUpdater
) -> None:
    hold(session, collection, vendor, "shared")
    hold(session, make_collection(session, "Birch Library"), vendor, "shared")
    vendor.items.clear()

    updater.refresh(["shared"])

    assert [(view.collection, view.status) for view in title_views(session)] == [
        ("Alder Library", "exhausted"),
        ("Birch Library", "active"),
    ]


def test_a_fault_in_the_last_request_of_a_refresh_leaves_nothing_written(
    session: Session, collection: Collection, vendor: Vendor, updater: BibliothecaCirculationUpdater
) -> None:
    hold(session, collection, vendor, *names(30))
    before = everything(session)
    vendor.answers.extend([answer(*(item(name, owned=9) for name in names(25))), httpx.Response(502)])

    with pytest.raises(BadResponseException):
        updater.refresh(names(30))
    session.commit()

    assert everything(session) == before


def test_a_refresh_believes_an_answer_without_any_title_no_sooner_than_the_sweep(
    session: Session, collection: Collection, vendor: Vendor, updater: BibliothecaCirculationUpdater
) -> None:
    hold(session, collection, vendor, *names(3))
    vendor.answers.extend([answer(), answer()])

    with pytest.raises(RemoteIntegrationException, match="left out all 3 titles"):
        updater.refresh(names(3))

    assert len(vendor.requests) == 3
    assert set(held(session).values()) == {(1, 1, 0, 0, "active")}


def test_what_was_to_be_applied_before_a_refresh_does_not_undo_it(
    session: Session, collection: Collection, vendor: Vendor, updater: BibliothecaCirculationUpdater
) -> None:
    """The vendor has taken back what it said meanwhile, so that the refresh finds nothing changed."""
    hold(session, collection, vendor, "abc")
    said = vendor.items["abc"]
    vendor.items["abc"] = item("abc", title="Another title", owned=7)
    outbox_ids = updater.update_batch(0).outbox_ids
    session.commit()
    vendor.items["abc"] = said

    updater.refresh(["abc"])
    apply(session, outbox_ids)

    assert held(session) == {"abc": (1, 1, 0, 0, "active")}
    assert [view.title for view in title_views(session)] == ["Title abc"]
