"""The events' step: a slice of time, each event once, and counts that follow."""

import logging
import socket
import traceback
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta

import httpx
import pytest
import time_machine
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Engine, func, select, text
from sqlalchemy.orm import Session

from accession.bibliotheca.errors import (
    RETRYABLE,
    BadResponseException,
    RemoteInitiatedServerError,
    RemoteIntegrationException,
    RequestTimedOut,
)
from accession.catalog.apply import apply_outbox, apply_titles
from accession.core.workflow import Workflow
from accession.db.engine import engine
from accession.db.models import (
    ApplyOutbox,
    Base,
    CirculationEvent,
    Collection,
    Edition,
    Identifier,
    IdentifierEquivalent,
    LicensePool,
    RejectedRecord,
    Timestamp,
)
from accession.imports.circulation import BibliothecaCirculationUpdater
from accession.imports.events import SLICE_SIZE, BibliothecaEventImporter, SliceImportResult
from accession.imports.vendor import api_for
from accession.runs.ledger import timestamp
from tests.fixtures.factories import NOON, Job, make_collection, make_pool, title_data
from tests.fixtures.holdings import hold
from tests.fixtures.importers import everything_logged, logged, logged_as_in_use, rows_written
from tests.fixtures.vendor import (
    PATRON,
    PATRONS_CARD,
    Vendor,
    error_document,
    event,
    event_batch,
    item,
    marc_page,
)

SECOND = timedelta(seconds=1)
MINUTE = timedelta(minutes=1)
HOUR = timedelta(hours=1)


def finish(session: Session) -> datetime | None:
    return session.scalars(select(Timestamp.finish)).one()


def catch_up(
    session: Session, importer: BibliothecaEventImporter, start: datetime, cutoff: datetime
) -> list[SliceImportResult]:
    """Slice after slice as the chain does it, each committed and applied."""
    results: list[SliceImportResult] = []
    size = SLICE_SIZE
    while start < cutoff:
        result = importer.import_time_slice(start, cutoff, size)
        session.commit()
        apply_outbox(session, result.outbox_ids)
        session.commit()
        results.append(result)
        start, size = result.slice_end, result.next_slice_size
    return results


def pool_of(session: Session, name: str) -> LicensePool:
    session.expire_all()
    query = select(LicensePool).join(LicensePool.identifier).where(Identifier.identifier == name)
    return session.scalars(query).one()


def state(session: Session, name: str) -> tuple[int, int, int, int, str]:
    pool = pool_of(session, name)
    counts = pool.counts
    return counts.owned, counts.available, counts.reserved, counts.holds, pool.status


def kept(session: Session) -> list[str]:
    return list(session.scalars(select(CirculationEvent.event_id).order_by(CirculationEvent.id)))


def count(session: Session, model: type) -> int:
    return session.scalar(select(func.count()).select_from(model)) or 0


# Where it begins, and the checkpoint


def test_the_first_run_looks_back_five_minutes(event_importer: BibliothecaEventImporter) -> None:
    assert event_importer.get_start(NOON) == NOON - 5 * MINUTE


def test_later_runs_begin_five_minutes_before_what_is_complete(
    session: Session, collection: Collection, event_importer: BibliothecaEventImporter
) -> None:
    event_importer.import_time_slice(NOON, NOON + 3 * HOUR)

    assert event_importer.get_start(NOON + 3 * HOUR) == NOON
    stamped = session.scalars(select(Timestamp)).one()
    assert (stamped.service, stamped.service_type) == ("Bibliotheca Event Import", "task")
    assert stamped.finish == NOON + 5 * MINUTE


def test_a_slice_is_five_minutes_wide_and_ends_at_the_cutoff(
    vendor: Vendor, event_importer: BibliothecaEventImporter
) -> None:
    whole = event_importer.import_time_slice(NOON, NOON + HOUR)
    cut = event_importer.import_time_slice(NOON, NOON + 2 * MINUTE)

    assert (whole.slice_start, whole.slice_end) == (NOON, NOON + 5 * MINUTE)
    assert cut.slice_end == NOON + 2 * MINUTE
    assert vendor.event_requests() == [
        {"startdate": "2024-05-01T12:00:00", "enddate": "2024-05-01T12:05:00"},
        {"startdate": "2024-05-01T12:00:00", "enddate": "2024-05-01T12:02:00"},
    ]


@pytest.mark.parametrize(
    ("start", "after"),
    [
        (NOON - 2 * HOUR, NOON),  # Looking back does not take back what is complete.
        (NOON - 2 * MINUTE, NOON + 3 * MINUTE),
        (NOON, NOON + 5 * MINUTE),
        (NOON + MINUTE, NOON),  # A minute that nobody has asked for is not complete.
    ],
)
def test_the_checkpoint_moves_forward_and_over_no_gap(
    session: Session,
    collection: Collection,
    event_importer: BibliothecaEventImporter,
    start: datetime,
    after: datetime,
) -> None:
    timestamp(session, collection, Workflow.EVENTS).finish = NOON

    event_importer.import_time_slice(start, NOON + HOUR)

    assert finish(session) == after


def test_a_slice_narrowed_within_the_overlap_does_not_take_the_checkpoint_back(
    session: Session, vendor: Vendor, event_importer: BibliothecaEventImporter
) -> None:
    event_importer.import_time_slice(NOON - 5 * MINUTE, NOON + HOUR)
    for n in range(120):
        vendor.tells(NOON - 5 * MINUTE + n * 2 * SECOND, "HOLD", "abc")

    narrowed = event_importer.import_time_slice(event_importer.get_start(NOON + HOUR), NOON + HOUR)

    assert narrowed.slice_end == NOON - 2 * MINUTE - 30 * SECOND
    assert finish(session) == NOON
    catch_up(session, event_importer, narrowed.slice_end, NOON + HOUR)
    assert (len(kept(session)), finish(session)) == (120, NOON + HOUR)


def test_a_start_beyond_what_is_complete_leaves_it_so_until_somebody_asks(
    session: Session, vendor: Vendor, event_importer: BibliothecaEventImporter
) -> None:
    event_importer.import_time_slice(NOON - 5 * MINUTE, NOON + HOUR)
    vendor.tells(NOON + MINUTE, "HOLD", "abc")
    later = event_importer.import_time_slice(NOON + 30 * MINUTE, NOON + HOUR)
    assert (later.slice_end, finish(session)) == (NOON + 35 * MINUTE, NOON)

    catch_up(session, event_importer, event_importer.get_start(NOON + HOUR), NOON + HOUR)

    assert (kept(session), finish(session)) == (["event-1"], NOON + HOUR)


# How wide a slice is


def test_two_days_of_silence_are_a_dozen_requests(
    session: Session, vendor: Vendor, event_importer: BibliothecaEventImporter
) -> None:
    results = catch_up(session, event_importer, NOON, NOON + 48 * HOUR)

    widths = [(result.slice_end - result.slice_start) / MINUTE for result in results]
    assert widths[:9] == [5, 10, 20, 40, 80, 160, 320, 360, 360]
    assert len(vendor.event_requests()) == len(results) == 14
    assert finish(session) == NOON + 48 * HOUR


def test_after_events_the_next_slice_is_as_wide_as_this_one(
    vendor: Vendor, event_importer: BibliothecaEventImporter
) -> None:
    vendor.tells(NOON, "CHECKOUT", "abc")

    assert event_importer.import_time_slice(NOON, NOON + HOUR).next_slice_size == 5 * MINUTE
    wide = event_importer.import_time_slice(NOON, NOON + HOUR, 20 * MINUTE)
    assert wide.next_slice_size == 20 * MINUTE


def test_an_answer_that_may_be_cut_is_asked_for_again_in_halves(
    session: Session, vendor: Vendor, event_importer: BibliothecaEventImporter
) -> None:
    """The vendor tells the first hundred of a window and is silent about the rest."""
    told = [vendor.tells(NOON + n * 2 * SECOND, "CHECKOUT", f"t{n % 40}") for n in range(240)]
    vendor.tells(NOON + 58 * MINUTE, "CHECKOUT", "last")

    first = event_importer.import_time_slice(NOON, NOON + HOUR, HOUR)

    asked = [datetime.fromisoformat(r["enddate"]) for r in vendor.event_requests()]
    assert [(end - NOON.replace(tzinfo=None)).total_seconds() for end in asked] == [
        3600,
        1800,
        900,
        450,
        225,
        112,
    ]
    assert finish(session) == first.slice_end == NOON + 112 * SECOND
    assert first.events_new == first.events_fetched == 56
    results = [first, *catch_up(session, event_importer, first.slice_end, NOON + HOUR)]
    assert sorted(kept(session)) == sorted([*told, "event-241"])
    assert sum(result.events_new for result in results) == 241


@pytest.mark.parametrize(("events", "end"), [(99, NOON + 5 * MINUTE), (100, NOON + 150 * SECOND)])
def test_an_answer_of_a_hundred_events_may_be_cut_and_one_less_is_not(
    vendor: Vendor, event_importer: BibliothecaEventImporter, events: int, end: datetime
) -> None:
    for n in range(events):
        vendor.tells(NOON + n * 3 * SECOND, "HOLD", "abc")

    assert event_importer.import_time_slice(NOON, NOON + HOUR).slice_end == end


def test_events_that_cannot_be_used_count_towards_the_hundred(
    vendor: Vendor, event_importer: BibliothecaEventImporter
) -> None:
    for n in range(120):
        vendor.tells(NOON + n * 2 * SECOND, "HOLD", "abc", **({"EventId": ""} if n % 2 else {}))

    with logged() as lines:
        result = event_importer.import_time_slice(NOON, NOON + HOUR)

    assert result.slice_end == NOON + 150 * SECOND
    assert (result.events_fetched, result.events_rejected, len(lines)) == (75, 37, 38)


def test_a_minute_that_is_still_full_is_imported_with_a_warning(
    session: Session, vendor: Vendor, event_importer: BibliothecaEventImporter
) -> None:
    for n in range(130):
        vendor.tells(NOON + n % 60 * SECOND, "CHECKOUT", f"t{n % 7}")

    with logged() as lines:
        result = event_importer.import_time_slice(NOON, NOON + HOUR)

    assert (result.slice_end, result.events_new) == (NOON + MINUTE, 100)
    assert (finish(session), result.next_slice_size) == (NOON + MINUTE, MINUTE)
    warned = [line for line in lines if "busy minute" in line["event"]]
    assert [(line["log_level"], line["events"]) for line in warned] == [("warning", 100)]
    assert "sweep settles" in warned[0]["event"]


def test_after_a_rush_slices_grow_back_to_five_minutes(
    vendor: Vendor, event_importer: BibliothecaEventImporter
) -> None:
    for n in range(60):
        vendor.tells(NOON + n * SECOND, "CHECKOUT", "abc")
    vendor.tells(NOON + MINUTE, "CHECKIN", "abc")

    rush = event_importer.import_time_slice(NOON, NOON + HOUR, MINUTE)
    calm = event_importer.import_time_slice(NOON + MINUTE, NOON + HOUR, MINUTE)
    calmer = event_importer.import_time_slice(NOON + MINUTE, NOON + HOUR, 4 * MINUTE)

    sizes = [result.next_slice_size for result in (rush, calm, calmer)]
    assert sizes == [MINUTE, 2 * MINUTE, 5 * MINUTE]


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    span=st.integers(1, 600),
    bursts=st.lists(
        st.tuples(st.integers(0, 12) | st.integers(0, 599), st.integers(1, 99)),
        max_size=8,
        unique_by=lambda burst: burst[0],
    ),
)
def test_whatever_happens_every_moment_is_covered_and_every_event_arrives_once(
    database: None, vendor: Vendor, span: int, bursts: list[tuple[int, int]]
) -> None:
    """As long as no minute has more events than the vendor tells."""
    vendor.happened.clear()
    for minute, events in bursts:
        for n in range(events):
            vendor.tells(NOON + minute * MINUTE + n % 60 * SECOND, "HOLD", "abc")
    cutoff = NOON + span * MINUTE
    with Session(engine()) as session:  # Rolled back: the next example begins with nothing.
        collection = make_collection_here(session)
        importer = BibliothecaEventImporter(session, collection, api_for(collection))
        start, size = NOON, SLICE_SIZE
        while start < cutoff:
            result = importer.import_time_slice(start, cutoff, size)
            assert result.slice_start == start < result.slice_end <= cutoff
            start, size = result.slice_end, result.next_slice_size

        due = sum(events for minute, events in bursts if minute < span)
        assert count(session, CirculationEvent) == due
        assert timestamp(session, collection, Workflow.EVENTS).finish == cutoff


def make_collection_here(session: Session) -> Collection:
    """A collection that is not committed."""
    session.commit = session.flush  # type: ignore[method-assign]
    return make_collection(session, "Alder Library")


# Each event once


def test_the_same_slice_again_writes_nothing_and_asks_for_no_title(own: Engine, vendor: Vendor) -> None:
    for n, kind in enumerate(("PURCHASE", "CHECKOUT", "HOLD", "CHECKIN", "RESERVED", "REMOVED", "RENEWED")):
        vendor.tells(NOON + n * SECOND, kind, "abc")
        vendor.tells(NOON + n * SECOND, kind, "known")
    vendor.items["known"] = item("known", owned=3, available=2)
    with own.connect() as writer, Session(writer) as session:
        collection = make_collection(session, "Alder Library")
        importer = BibliothecaEventImporter(session, collection, api_for(collection))
        catch_up(session, importer, NOON, NOON + 5 * MINUTE)
        before = rows_written(writer, own)
        vendor.requests.clear()

        vendor.happened.reverse()
        (again,) = catch_up(session, importer, NOON, NOON + 5 * MINUTE)

        assert rows_written(writer, own) == before
    assert before["circulation_events"] == 14
    assert (again.events_fetched, again.events_new, again.titles_changed) == (14, 0, 0)
    assert vendor.item_requests() == []


def test_events_move_the_counts_with_their_slice(
    session: Session, vendor: Vendor, event_importer: BibliothecaEventImporter
) -> None:
    """Of these titles `items` has nothing to say, so that the events alone are heard."""
    for n, kind in enumerate(("PURCHASE", "PURCHASE", "CHECKOUT", "CHECKOUT", "HOLD", "CHECKIN", "RESERVED")):
        vendor.tells(NOON + n * SECOND, kind, "abc")

    result = event_importer.import_time_slice(NOON, NOON + HOUR)

    assert (result.events_fetched, result.events_rejected, result.events_new) == (7, 0, 7)
    assert (result.titles_new, result.titles_changed, result.outbox_ids) == (1, 0, ())
    assert result.counters.records_fetched == 7
    assert state(session, "abc") == (2, 0, 1, 0, "active")


def test_an_event_that_is_told_late_counts_at_its_own_moment(
    session: Session, collection: Collection, vendor: Vendor, event_importer: BibliothecaEventImporter
) -> None:
    """A return of which nothing was known, before the checkout: in the other order a copy would be free."""
    hold(session, collection, vendor, "abc")
    vendor.items.clear()
    vendor.tells(NOON + 4 * MINUTE, "CHECKOUT", "abc")
    catch_up(session, event_importer, NOON, NOON + 5 * MINUTE)
    vendor.tells(NOON + MINUTE, "CHECKIN", "abc")

    start = event_importer.get_start(NOON + 10 * MINUTE)
    results = catch_up(session, event_importer, start, NOON + 10 * MINUTE)

    assert (start, sum(result.events_new for result in results)) == (NOON, 1)
    assert state(session, "abc") == (1, 0, 0, 0, "active")


def test_collections_that_are_told_the_same_each_count_it(
    session: Session, collection: Collection, vendor: Vendor, event_importer: BibliothecaEventImporter
) -> None:
    other = make_collection(session, "Birch Library")
    vendor.tells(NOON, "PURCHASE", "abc")
    catch_up(session, event_importer, NOON, NOON + 5 * MINUTE)

    catch_up(session, BibliothecaEventImporter(session, other, api_for(other)), NOON, NOON + 5 * MINUTE)

    owned = session.execute(select(LicensePool.collection_id, LicensePool.licenses_owned))
    assert sorted(owned) == [(collection.id, 1), (other.id, 1)]


@pytest.mark.parametrize(
    ("kind", "after"),
    [
        ("PURCHASE", (4, 2, 0, 2)),
        ("REMOVED", (2, 2, 0, 2)),
        ("CHECKOUT", (3, 1, 0, 2)),
        ("CHECKIN", (3, 2, 0, 2)),
        ("HOLD", (3, 0, 0, 3)),
        ("RESERVED", (3, 2, 1, 1)),
    ],
)
def test_each_kind_of_event_moves_the_counts_of_a_known_title(
    session: Session,
    collection: Collection,
    vendor: Vendor,
    event_importer: BibliothecaEventImporter,
    kind: str,
    after: tuple[int, int, int, int],
) -> None:
    hold(session, collection, vendor, "abc", owned=3, available=2, holds=2)
    vendor.items.clear()
    vendor.tells(NOON, kind, "abc")

    result = event_importer.import_time_slice(NOON, NOON + HOUR)

    assert state(session, "abc") == (*after, "active")
    changed = int(after != (3, 2, 0, 2))
    assert (result.titles_new, result.titles_changed, result.outbox_ids) == (0, changed, ())


def test_where_the_vendors_counts_agree_with_the_events_nothing_is_applied(
    session: Session, vendor: Vendor, event_importer: BibliothecaEventImporter
) -> None:
    vendor.items["abc"] = item("abc", owned=2, available=2)
    vendor.tells(NOON, "PURCHASE", "abc")
    with time_machine.travel(NOON + 10 * MINUTE, tick=False):
        catch_up(session, event_importer, NOON, NOON + 5 * MINUTE)
    vendor.tells(NOON + 20 * MINUTE, "CHECKOUT", "abc")
    vendor.items["abc"] = item("abc", owned=2, available=1)

    with time_machine.travel(NOON + 30 * MINUTE, tick=False):
        result = event_importer.import_time_slice(NOON + 20 * MINUTE, NOON + 25 * MINUTE)

    assert (result.titles_changed, result.outbox_ids) == (1, ())
    assert state(session, "abc")[:2] == (2, 1)
    assert pool_of(session, "abc").circulation_as_of == NOON + 10 * MINUTE


def test_where_they_differ_the_vendors_word_is_applied(
    session: Session, vendor: Vendor, event_importer: BibliothecaEventImporter
) -> None:
    vendor.items["abc"] = item("abc", owned=2, available=2)
    vendor.tells(NOON, "PURCHASE", "abc")
    with time_machine.travel(NOON + 10 * MINUTE, tick=False):
        catch_up(session, event_importer, NOON, NOON + 5 * MINUTE)
    vendor.tells(NOON + 20 * MINUTE, "HOLD", "abc")  # It was cancelled since, of which no event tells.

    with time_machine.travel(NOON + 30 * MINUTE, tick=False):
        result = event_importer.import_time_slice(NOON + 20 * MINUTE, NOON + 25 * MINUTE)
    assert state(session, "abc")[:4] == (2, 0, 0, 1)
    assert [set(data) for data in session.scalars(select(ApplyOutbox.data))] == [{"circulation"}]
    apply_outbox(session, result.outbox_ids)
    session.commit()

    assert state(session, "abc")[:4] == (2, 2, 0, 0)


# Titles


def test_a_title_first_seen_in_an_event_gets_its_pool_its_isbn_and_its_description(
    session: Session, vendor: Vendor, event_importer: BibliothecaEventImporter
) -> None:
    vendor.items["abc"] = item("abc", title="Solaris", owned=1, available=1)
    vendor.tells(NOON, "PURCHASE", "abc", isbn="978-0-306-40615-7")
    vendor.tells(NOON, "PURCHASE", "bare", isbn="no isbn")

    result = event_importer.import_time_slice(NOON, NOON + HOUR)
    session.commit()

    assert (result.titles_new, result.titles_changed, len(result.outbox_ids)) == (2, 0, 1)
    query = select(Identifier.identifier, IdentifierEquivalent.data_source).join(
        IdentifierEquivalent, IdentifierEquivalent.equivalent_id == Identifier.id
    )
    assert session.execute(query).all() == [("9780306406157", "Bibliotheca")]
    apply_outbox(session, result.outbox_ids)
    session.commit()
    assert session.scalars(select(Edition.title)).all() == ["Solaris"]
    assert state(session, "abc") == (1, 1, 0, 0, "active"), "its purchase is in the vendor's counts already"
    assert session.execute(query).all() == [("9788308068298", "Bibliotheca")], "the description's own ISBN"


def test_a_title_that_is_described_gets_no_isbn_from_an_event(
    session: Session, collection: Collection, vendor: Vendor, event_importer: BibliothecaEventImporter
) -> None:
    """Its description says which it has."""
    pool = make_pool(session, collection, "abc")
    apply_titles(session, {pool.id: title_data("abc", isbns=())})
    vendor.tells(NOON, "PURCHASE", "abc")

    assert event_importer.import_time_slice(NOON, NOON + HOUR).titles_new == 0

    assert count(session, IdentifierEquivalent) == 0


def test_whether_a_title_is_first_met_in_a_purchase_or_in_an_event_its_isbn_is_the_same(
    session: Session, collection: Collection, vendor: Vendor, event_importer: BibliothecaEventImporter
) -> None:
    """The vendor has no metadata for it: all that is known is what its events tell."""
    make_pool(session, collection, "abc")
    vendor.tells(NOON, "PURCHASE", "abc")

    event_importer.import_time_slice(NOON, NOON + HOUR)

    assert count(session, IdentifierEquivalent) == 1


def test_the_titles_of_a_slice_are_looked_up_together(
    vendor: Vendor, event_importer: BibliothecaEventImporter
) -> None:
    for n in range(26):
        vendor.tells(NOON, "PURCHASE", f"t{n:02}")
        vendor.tells(NOON, "CHECKOUT", f"t{n:02}")

    with logged() as lines:
        event_importer.import_time_slice(NOON, NOON + HOUR)

    assert [len(ids) for ids in vendor.item_requests()] == [25, 1]
    assert {line["event"] for line in lines} == {
        "the vendor has no metadata for a title that it tells events of"
    }


def test_an_event_older_than_the_last_full_snapshot_is_kept_and_changes_nothing(
    session: Session, vendor: Vendor, collection: Collection, event_importer: BibliothecaEventImporter
) -> None:
    """The title's counts came at noon; a sweep an hour later found them unchanged and wrote nothing."""
    make_pool(session, collection, "abc")
    vendor.items["abc"] = item("abc", owned=2, available=1)
    updater = BibliothecaCirculationUpdater(session, collection, api_for(collection))
    for moment in (NOON, NOON + HOUR):
        with time_machine.travel(moment, tick=False):
            swept = updater.update_batch(0)
            apply_outbox(session, swept.outbox_ids)
            session.commit()
    assert pool_of(session, "abc").circulation_as_of == NOON
    vendor.items.clear()
    vendor.tells(NOON - MINUTE, "CHECKOUT", "abc")
    vendor.tells(NOON + 30 * MINUTE, "CHECKOUT", "abc")

    event_importer.import_time_slice(NOON - MINUTE, NOON + 3 * HOUR, HOUR)

    assert kept(session) == ["event-1", "event-2"]
    assert state(session, "abc")[:2] == (2, 1)
    vendor.tells(NOON + 90 * MINUTE, "CHECKOUT", "abc")
    event_importer.import_time_slice(NOON + HOUR, NOON + 3 * HOUR, HOUR)
    assert state(session, "abc")[:2] == (2, 0)


# What cannot be used


def test_an_unknown_type_is_logged_and_kept_and_does_not_stop_the_slice(
    session: Session, vendor: Vendor, event_importer: BibliothecaEventImporter
) -> None:
    vendor.tells(NOON, "RENEWED", "abc")
    vendor.tells(NOON, "PURCHASE", "abc")

    with logged() as lines:
        result = event_importer.import_time_slice(NOON, NOON + HOUR)

    assert [line for line in lines if line["event"] == "event of an unknown type"] == [
        {
            "event": "event of an unknown type",
            "log_level": "warning",
            "event_id": "event-1",
            "type": "RENEWED",
        }
    ]
    assert (result.events_new, kept(session)) == (2, ["event-1", "event-2"])
    assert state(session, "abc")[:2] == (1, 1)


def test_a_malformed_event_is_kept_as_rejected_and_the_others_are_imported(
    session: Session, vendor: Vendor, event_importer: BibliothecaEventImporter
) -> None:
    vendor.tells(NOON, "PURCHASE", "abc")
    vendor.tells(NOON, "PURCHASE", "../etc")
    vendor.tells(NOON, "PURCHASE", "def", EventId="")

    with logged() as lines:
        result = event_importer.import_time_slice(NOON, NOON + HOUR)

    assert (result.events_fetched, result.events_rejected, result.events_new) == (3, 2, 1)
    assert (result.counters.records_stored, result.counters.records_rejected) == (1, 2)
    reasons = [
        "Its ItemId is not one the vendor can be asked for: '../etc'.",
        "It has no EventId (type 'PURCHASE').",
    ]
    said = [(line["event_id"], line["reason"]) for line in lines if line["event"] == "event rejected"]
    assert said == [("event-2", reasons[0]), (None, reasons[1])]
    rejected = session.scalars(select(RejectedRecord)).all()
    assert {record.reason for record in rejected} == set(reasons)
    assert {(record.workflow, record.purchased_on) for record in rejected} == {("events", NOON.date())}
    assert kept(session) == ["event-1"]


def test_a_rejected_event_is_kept_once_however_often_it_is_told(
    session: Session, vendor: Vendor, event_importer: BibliothecaEventImporter
) -> None:
    vendor.tells(NOON, "PURCHASE", "../etc")

    for _ in range(2):
        event_importer.import_time_slice(NOON, NOON + HOUR)

    assert len(session.scalars(select(RejectedRecord)).all()) == 1


def test_a_rejected_event_that_has_become_usable_is_imported_and_resolved(
    session: Session, vendor: Vendor, event_importer: BibliothecaEventImporter
) -> None:
    vendor.tells(NOON, "PURCHASE", "../etc")
    event_importer.import_time_slice(NOON, NOON + HOUR)
    rejected = session.scalars(select(RejectedRecord)).one()
    assert event_importer.retry_rejected(rejected) is None
    assert rejected.resolved_at is None

    rejected.reason = "A reason of before."
    assert event_importer.retry_rejected(rejected) is None
    assert rejected.reason.startswith("Its ItemId")

    rejected.raw_xml = rejected.raw_xml.replace("../etc", "abc")
    assert event_importer.retry_rejected(rejected) == ()
    assert rejected.resolved_at is not None
    assert kept(session) == ["event-1"]
    assert state(session, "abc")[:2] == (1, 1)


def test_one_that_has_been_told_rightly_meanwhile_counts_once(
    session: Session, vendor: Vendor, event_importer: BibliothecaEventImporter
) -> None:
    vendor.tells(NOON, "PURCHASE", "abc", EventId="e-9")
    vendor.tells(NOON, "PURCHASE", "../etc", EventId="e-9")
    event_importer.import_time_slice(NOON, NOON + HOUR)
    rejected = session.scalars(select(RejectedRecord)).one()
    rejected.raw_xml = rejected.raw_xml.replace("../etc", "abc")

    assert event_importer.retry_rejected(rejected) == ()

    assert rejected.resolved_at is not None
    assert (kept(session), state(session, "abc")[:2]) == (["e-9"], (1, 1))


def test_a_blank_answer_that_comes_twice_means_that_nothing_happened(
    session: Session, vendor: Vendor, event_importer: BibliothecaEventImporter
) -> None:
    vendor.answers += [httpx.Response(200, text=""), httpx.Response(200, text=" ")]

    result = event_importer.import_time_slice(NOON, NOON + HOUR)

    assert (result.events_fetched, finish(session)) == (0, NOON + 5 * MINUTE)
    assert len(vendor.event_requests()) == 2


def test_a_blank_answer_that_came_once_is_a_slip(
    vendor: Vendor, event_importer: BibliothecaEventImporter
) -> None:
    vendor.tells(NOON, "PURCHASE", "abc")
    vendor.answers.append(httpx.Response(200))

    assert event_importer.import_time_slice(NOON, NOON + HOUR).events_new == 1


def test_documents_that_had_to_be_repaired_are_counted(
    vendor: Vendor, event_importer: BibliothecaEventImporter
) -> None:
    vendor.happened.append((NOON, event("1", "HOLD", "abc", NOON, ISBN="NONE").replace("NONE", "&none;")))
    vendor.items["abc"] = item("abc", title="TITLE").replace("TITLE", "Salt &supl; Pepper")

    result = event_importer.import_time_slice(NOON, NOON + HOUR)

    assert (result.events_new, result.repairs, result.counters.repairs) == (1, 2, 2)


NAMED = event_batch([event("1", "HOLD", "abc", NOON)])
SAID = f"Unknown error about {PATRON} {PATRONS_CARD}"
FAILURES: list[tuple[httpx.Response | Exception, type[RemoteIntegrationException]]] = [
    (httpx.Response(200, text=error_document(SAID)), RemoteInitiatedServerError),
    (httpx.Response(500, text=error_document(SAID)), RemoteInitiatedServerError),
    (
        httpx.Response(200, text=f"<LibraryEventBatch>{error_document(SAID)}</LibraryEventBatch>"),
        RemoteInitiatedServerError,
    ),
    (httpx.Response(200, text=f"<html><body>{PATRON}</body></html>"), BadResponseException),
    (httpx.Response(200, text=f"{PATRON} <html>"), BadResponseException),
    (httpx.Response(200, text=marc_page([])), BadResponseException),
    (httpx.Response(200, text=f"<{PATRON}/>"), BadResponseException),
    (httpx.Response(200, text=NAMED[:-20]), BadResponseException),
    (httpx.Response(200, text=NAMED.replace("</PatronId>", f"</{PATRON}>")), BadResponseException),
    (httpx.Response(200, text=f"<!DOCTYPE x [<!ENTITY p '{PATRON}'>]>{NAMED}"), BadResponseException),
    (httpx.Response(502, text=f"Bad Gateway {SAID}"), BadResponseException),
    (httpx.Response(429, text=SAID), BadResponseException),
    (
        httpx.Response(302, headers={"Location": f"https://vendor.example/{PATRON}"}),
        BadResponseException,
    ),
    (httpx.Response(400, text=SAID), RemoteIntegrationException),
    (httpx.Response(403, text=SAID), RemoteIntegrationException),
    (httpx.ReadTimeout("too slow"), RequestTimedOut),
    (httpx.RemoteProtocolError(f"illegal chunk header: {PATRON.encode()!r}"), RequestTimedOut),
    (httpx.DecodingError(f"what is {PATRON}?"), BadResponseException),
]


@pytest.mark.parametrize(("answer", "kind"), FAILURES)
def test_an_answer_that_is_none_leaves_nothing_written(
    session: Session,
    vendor: Vendor,
    event_importer: BibliothecaEventImporter,
    answer: httpx.Response | Exception,
    kind: type[RemoteIntegrationException],
) -> None:
    event_importer.import_time_slice(NOON - 5 * MINUTE, NOON)
    session.commit()
    vendor.tells(NOON, "PURCHASE", "abc")
    vendor.answers.append(answer)

    with pytest.raises(RemoteIntegrationException) as raised:
        event_importer.import_time_slice(NOON, NOON + HOUR)

    assert raised.type is kind
    assert (kind in RETRYABLE) == (kind is not RemoteIntegrationException)
    # Committed on purpose: there is nothing to roll back.
    session.commit()
    assert [count(session, model) for model in (CirculationEvent, LicensePool, Identifier)] == [0, 0, 0]
    assert finish(session) == NOON


@pytest.mark.parametrize("fault", [httpx.Response(502), httpx.Response(200), httpx.ReadTimeout("too slow")])
def test_titles_that_cannot_be_looked_up_lose_no_event(
    session: Session,
    vendor: Vendor,
    event_importer: BibliothecaEventImporter,
    fault: httpx.Response | Exception,
) -> None:
    event_importer.import_time_slice(NOON - 5 * MINUTE, NOON)
    vendor.tells(NOON, "PURCHASE", "abc")
    vendor.answers.extend([httpx.Response(200, text=event_batch(vendor.happened[0][1:])), fault])

    with pytest.raises(RETRYABLE):
        event_importer.import_time_slice(NOON, NOON + HOUR)
    session.commit()

    assert [count(session, model) for model in (CirculationEvent, LicensePool, Identifier)] == [0, 0, 0]
    assert finish(session) == NOON
    assert event_importer.import_time_slice(NOON, NOON + HOUR).events_new == 1


def test_a_fault_in_the_narrower_half_leaves_nothing_written(
    session: Session, vendor: Vendor, event_importer: BibliothecaEventImporter
) -> None:
    event_importer.import_time_slice(NOON - 5 * MINUTE, NOON)
    for n in range(120):
        vendor.tells(NOON + n * 2 * SECOND, "HOLD", "abc")
    full = event_batch([told for _, told in vendor.happened][:100])
    vendor.answers.extend([httpx.Response(200, text=full), httpx.Response(502)])

    with pytest.raises(BadResponseException):
        event_importer.import_time_slice(NOON, NOON + HOUR)
    session.commit()

    assert (kept(session), finish(session)) == ([], NOON)


# Patrons

EVERY_KIND = ("PURCHASE", "CHECKOUT", "CHECKIN", "HOLD", "RESERVED", "REMOVED", "RENEWED")


def tell_everything(vendor: Vendor) -> None:
    """Every kind of event, and some that cannot be used."""
    for kind in (*EVERY_KIND, ""):
        vendor.tells(NOON, kind, "abc")
    vendor.tells(NOON, "HOLD", "../etc")
    vendor.tells(NOON, "HOLD", "def", EventId="")
    vendor.tells(NOON, "HOLD", "def", EventStartDateTimeInUTC="soon")
    vendor.items["abc"] = item("abc")


def stored(session: Session) -> list[str]:
    """Every row of every table, with all its columns."""
    query = "SELECT table_name FROM information_schema.tables WHERE table_schema = 'public'"
    tables = session.scalars(text(query)).all()
    assert set(Base.metadata.tables) <= set(tables)
    dumps = (session.scalars(text(f"SELECT t::text FROM {table} t")) for table in tables)  # noqa: S608
    return [row for rows in dumps for row in rows]


def shown(error: BaseException) -> list[str]:
    """All that can be seen of an error: its text, what it carries on its way, and its traceback."""
    return [str(error), repr(error), repr(vars(error)), *traceback.format_exception(error)]


def naming_patrons(lines: Iterable[object]) -> list[str]:
    return [line for line in map(str, lines) if PATRON in line or PATRONS_CARD in line]


def test_nobody_learns_which_patron_it_was(
    session: Session, vendor: Vendor, event_importer: BibliothecaEventImporter
) -> None:
    """Not from the database, not from any log at any level, and not from an error or its traceback."""
    tell_everything(vendor)
    session.commit()  # A connection looks only once whether it is to log.
    told: list[str] = []
    with everything_logged() as libraries, logged() as ours:
        catch_up(session, event_importer, NOON, NOON + 5 * MINUTE)
        for answer, _ in FAILURES:
            vendor.answers.append(answer)
            with pytest.raises(RemoteIntegrationException) as raised:
                event_importer.import_time_slice(NOON, NOON + 5 * MINUTE)
            session.commit()
            told += shown(raised.value)

    assert naming_patrons(text for _, text in vendor.happened), "there is something to learn"
    assert count(session, CirculationEvent) == len(EVERY_KIND)
    for heard in ("HTTP Request: GET", "INSERT INTO circulation_events"):
        assert any(heard in line for line in libraries)
    assert {line["event"] for line in ours} == {"event rejected", "event of an unknown type"}
    assert naming_patrons([*stored(session), *libraries, *ours, *told]) == []


@contextmanager
def vendor_that_sends(*answers: bytes) -> Iterator[str]:
    """The base URL of a vendor on this machine that sends one answer a request and hangs up."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(30)

        def serve() -> None:
            for answer in answers:
                connection, _ = server.accept()
                with connection:
                    connection.recv(65_536)
                    connection.sendall(answer)

        job = Job(serve)
        yield f"http://127.0.0.1:{server.getsockname()[1]}"
        job.finish()


OK = b"HTTP/1.1 200 OK\r\n"


@pytest.mark.parametrize("log_format", ["json", "console"])
def test_nor_does_anybody_from_a_connection_that_breaks(
    session: Session,
    collection: Collection,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    log_format: str,
) -> None:
    """HTTP libraries quote what they cannot read, in their errors and at DEBUG also in their logs."""
    body = NAMED.encode()
    whole = OK + b"Content-Length: %d\r\n\r\n%s" % (len(body), body)
    items = OK + b"Content-Length: 28\r\n\r\n<ArrayOfItem></ArrayOfItem>\n"
    broken = [
        OK + b"Transfer-Encoding: chunked\r\n\r\n" + body,
        OK + b"Content-Length: 99999\r\n\r\n" + body,
        OK + b"Content-Encoding: gzip\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body),
        OK + body + b"\r\n\r\n",
        body + b"\r\n\r\n",
        b"HTTP/1.1 302 Found\r\nContent-Length: 0\r\nLocation: http://" + body + b"\r\n\r\n",
    ]
    told: list[str] = []
    with (
        vendor_that_sends(whole, items, *broken) as collection.base_url,
        httpx.Client(trust_env=False) as http,
        logged() as ours,
        logged_as_in_use(log_level="debug", log_format=log_format),
    ):
        monkeypatch.setattr("accession.bibliotheca.client.http_client", lambda: http)
        monkeypatch.setattr("accession.bibliotheca.client.ASK_AGAIN_TIMES", 0)
        importer = BibliothecaEventImporter(session, collection, api_for(collection))
        assert importer.import_time_slice(NOON, NOON + 5 * MINUTE).events_new == 1
        for _ in broken:
            with pytest.raises(RemoteIntegrationException) as raised:
                importer.import_time_slice(NOON, NOON + 5 * MINUTE)
            logging.getLogger("celery.task").error("the page has failed", exc_info=raised.value)
            told += shown(raised.value)
    session.commit()

    logs = capsys.readouterr().err.splitlines()
    assert sum("the page has failed" in line for line in logs) == len(broken)
    assert naming_patrons([*stored(session), *logs, *ours, *told]) == []
