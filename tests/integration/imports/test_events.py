"""Tests of importing a time slice of events: slice sizes, counts, new titles, failures, patron privacy."""

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
    AuthenticationFailed,
    BadResponseException,
    ConnectionFailed,
    PermanentVendorError,
    RemoteInitiatedServerError,
    RemoteIntegrationException,
    RequestTimedOut,
    TransientVendorError,
)
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
from accession.imports.rejected_records import RetryResult
from accession.imports.vendor_api import vendor_api_for
from accession.runs.ledger import find_run, get_or_create_checkpoint, open_run
from tests.fixtures.factories import (
    NOON,
    BackgroundThread,
    apply_titles,
    make_collection,
    make_pool,
    title_data,
)
from tests.fixtures.holdings import commit_and_apply, store_titles
from tests.fixtures.importers import (
    capture_all_logs,
    capture_step_logs,
    count_written_rows,
    production_logging,
)
from tests.fixtures.vendor import (
    PATRON,
    PATRON_CARD,
    ScriptedVendor,
    error_document,
    event,
    event_batch,
    item,
    marc_page,
)

SECOND = timedelta(seconds=1)
MINUTE = timedelta(minutes=1)
HOUR = timedelta(hours=1)
DEADLINE_SECONDS = 60
EVENT_TYPES = ("PURCHASE", "CHECKOUT", "CHECKIN", "HOLD", "RESERVED", "REMOVED", "RENEWED")


def checkpoint(session: Session) -> datetime | None:
    return session.scalars(select(Timestamp.finish)).one()


def import_slices(
    session: Session, importer: BibliothecaEventImporter, start: datetime, cutoff: datetime
) -> list[SliceImportResult]:
    """Import slice after slice as a run does, committing and applying each."""
    results: list[SliceImportResult] = []
    size = SLICE_SIZE
    while start < cutoff:
        result = importer.import_time_slice(start, cutoff, size)
        commit_and_apply(session, result.outbox_ids)
        results.append(result)
        start, size = result.slice_end, result.next_slice_size
    return results


def pool_of(session: Session, name: str) -> LicensePool:
    session.expire_all()
    query = select(LicensePool).join(LicensePool.identifier).where(Identifier.identifier == name)
    return session.scalars(query).one()


def counts_and_status(session: Session, name: str) -> tuple[int, int, int, int, str]:
    pool = pool_of(session, name)
    counts = pool.counts
    return counts.owned, counts.available, counts.reserved, counts.holds, pool.status


def stored_event_ids(session: Session) -> list[str]:
    return list(session.scalars(select(CirculationEvent.event_id).order_by(CirculationEvent.id)))


def count_rows(session: Session, model: type) -> int:
    return session.scalar(select(func.count()).select_from(model)) or 0


# Start and checkpoint


def test_first_run_starts_five_minutes_before_the_cutoff(event_importer: BibliothecaEventImporter) -> None:
    assert event_importer.get_start(NOON) == NOON - 5 * MINUTE


def test_later_run_starts_five_minutes_before_checkpoint(
    session: Session, collection: Collection, event_importer: BibliothecaEventImporter
) -> None:
    event_importer.import_time_slice(NOON, NOON + 3 * HOUR)

    assert event_importer.get_start(NOON + 3 * HOUR) == NOON
    row = session.scalars(select(Timestamp)).one()
    assert (row.service, row.service_type) == ("Bibliotheca Event Import", "task")
    assert row.finish == NOON + 5 * MINUTE


def test_slice_is_five_minutes_wide_and_ends_at_the_cutoff(
    vendor: ScriptedVendor, event_importer: BibliothecaEventImporter
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
        (NOON - 2 * HOUR, NOON),  # An earlier slice does not move the checkpoint back.
        (NOON - 2 * MINUTE, NOON + 3 * MINUTE),
        (NOON, NOON + 5 * MINUTE),
        (NOON + MINUTE, NOON),  # The minute in between was not requested.
    ],
)
def test_checkpoint_moves_forward_and_never_over_a_gap(
    session: Session,
    collection: Collection,
    event_importer: BibliothecaEventImporter,
    start: datetime,
    after: datetime,
) -> None:
    get_or_create_checkpoint(session, collection, Workflow.EVENTS).finish = NOON

    event_importer.import_time_slice(start, NOON + HOUR)

    assert checkpoint(session) == after


def test_narrowed_slice_does_not_move_the_checkpoint_back(
    session: Session, vendor: ScriptedVendor, event_importer: BibliothecaEventImporter
) -> None:
    event_importer.import_time_slice(NOON - 5 * MINUTE, NOON + HOUR)
    for n in range(120):
        vendor.add_event(NOON - 5 * MINUTE + n * 2 * SECOND, "HOLD", "abc")

    narrowed = event_importer.import_time_slice(event_importer.get_start(NOON + HOUR), NOON + HOUR)

    assert narrowed.slice_end == NOON - 2 * MINUTE - 30 * SECOND
    assert checkpoint(session) == NOON
    import_slices(session, event_importer, narrowed.slice_end, NOON + HOUR)
    assert (len(stored_event_ids(session)), checkpoint(session)) == (120, NOON + HOUR)


def test_gap_after_the_checkpoint_is_imported_later(
    session: Session, vendor: ScriptedVendor, event_importer: BibliothecaEventImporter
) -> None:
    event_importer.import_time_slice(NOON - 5 * MINUTE, NOON + HOUR)
    vendor.add_event(NOON + MINUTE, "HOLD", "abc")
    later = event_importer.import_time_slice(NOON + 30 * MINUTE, NOON + HOUR)
    assert (later.slice_end, checkpoint(session)) == (NOON + 35 * MINUTE, NOON)

    import_slices(session, event_importer, event_importer.get_start(NOON + HOUR), NOON + HOUR)

    assert (stored_event_ids(session), checkpoint(session)) == (["event-1"], NOON + HOUR)


# Slice sizes


def test_two_days_without_events_need_14_requests(
    session: Session, vendor: ScriptedVendor, event_importer: BibliothecaEventImporter
) -> None:
    results = import_slices(session, event_importer, NOON, NOON + 48 * HOUR)

    widths = [(result.slice_end - result.slice_start) / MINUTE for result in results]
    assert widths[:9] == [5, 10, 20, 40, 80, 160, 320, 360, 360]
    assert len(vendor.event_requests()) == len(results) == 14
    assert checkpoint(session) == NOON + 48 * HOUR


def test_slice_with_events_keeps_the_slice_size(
    vendor: ScriptedVendor, event_importer: BibliothecaEventImporter
) -> None:
    vendor.add_event(NOON, "CHECKOUT", "abc")

    assert event_importer.import_time_slice(NOON, NOON + HOUR).next_slice_size == 5 * MINUTE
    wide = event_importer.import_time_slice(NOON, NOON + HOUR, 20 * MINUTE)
    assert wide.next_slice_size == 20 * MINUTE


def test_truncated_response_is_requested_again_in_halves(
    session: Session, vendor: ScriptedVendor, event_importer: BibliothecaEventImporter
) -> None:
    """The vendor returns only the first hundred events of a window."""
    event_ids = [vendor.add_event(NOON + n * 2 * SECOND, "CHECKOUT", f"t{n % 40}") for n in range(240)]
    vendor.add_event(NOON + 58 * MINUTE, "CHECKOUT", "last")

    first = event_importer.import_time_slice(NOON, NOON + HOUR, HOUR)

    requested_ends = [datetime.fromisoformat(query["enddate"]) for query in vendor.event_requests()]
    assert [(end - NOON.replace(tzinfo=None)).total_seconds() for end in requested_ends] == [
        3600,
        1800,
        900,
        450,
        225,
        112,
    ]
    assert checkpoint(session) == first.slice_end == NOON + 112 * SECOND
    assert first.events_new == first.events_fetched == 56
    results = [first, *import_slices(session, event_importer, first.slice_end, NOON + HOUR)]
    assert sorted(stored_event_ids(session)) == sorted([*event_ids, "event-241"])
    assert sum(result.events_new for result in results) == 241


@pytest.mark.parametrize(("events", "end"), [(99, NOON + 5 * MINUTE), (100, NOON + 150 * SECOND)])
def test_response_of_100_events_counts_as_truncated(
    vendor: ScriptedVendor, event_importer: BibliothecaEventImporter, events: int, end: datetime
) -> None:
    for n in range(events):
        vendor.add_event(NOON + n * 3 * SECOND, "HOLD", "abc")

    assert event_importer.import_time_slice(NOON, NOON + HOUR).slice_end == end


def test_invalid_events_count_towards_the_truncation_limit(
    vendor: ScriptedVendor, event_importer: BibliothecaEventImporter
) -> None:
    for n in range(120):
        vendor.add_event(NOON + n * 2 * SECOND, "HOLD", "abc", **({"EventId": ""} if n % 2 else {}))

    with capture_step_logs() as logs:
        result = event_importer.import_time_slice(NOON, NOON + HOUR)

    assert result.slice_end == NOON + 150 * SECOND
    assert (result.events_fetched, result.events_rejected, len(logs)) == (75, 37, 38)


def test_truncated_minute_is_imported_with_a_warning(
    session: Session, vendor: ScriptedVendor, event_importer: BibliothecaEventImporter
) -> None:
    for n in range(130):
        vendor.add_event(NOON + n % 60 * SECOND, "CHECKOUT", f"t{n % 7}")

    with capture_step_logs() as logs:
        result = event_importer.import_time_slice(NOON, NOON + HOUR)

    assert (result.slice_end, result.events_new) == (NOON + MINUTE, 100)
    assert (checkpoint(session), result.next_slice_size) == (NOON + MINUTE, MINUTE)
    warnings = [entry for entry in logs if entry["event"] == "events response may be truncated"]
    assert [(entry["log_level"], entry["events"]) for entry in warnings] == [("warning", 100)]


def test_slices_grow_back_to_five_minutes(
    vendor: ScriptedVendor, event_importer: BibliothecaEventImporter
) -> None:
    for n in range(60):
        vendor.add_event(NOON + n * SECOND, "CHECKOUT", "abc")
    vendor.add_event(NOON + MINUTE, "CHECKIN", "abc")

    rush = event_importer.import_time_slice(NOON, NOON + HOUR, MINUTE)
    calm = event_importer.import_time_slice(NOON + MINUTE, NOON + HOUR, MINUTE)
    calmer = event_importer.import_time_slice(NOON + MINUTE, NOON + HOUR, 4 * MINUTE)

    sizes = [result.next_slice_size for result in (rush, calm, calmer)]
    assert sizes == [MINUTE, 2 * MINUTE, 5 * MINUTE]


@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    span=st.integers(1, 600),
    bursts=st.lists(
        st.tuples(st.integers(0, 12) | st.integers(0, 599), st.integers(1, 99)),
        max_size=4,
        unique_by=lambda burst: burst[0],
    ),
)
def test_slices_cover_every_moment_and_event_exactly_once(
    database: None, vendor: ScriptedVendor, span: int, bursts: list[tuple[int, int]]
) -> None:
    """No minute has more events than the vendor returns at once."""
    vendor.events.clear()
    for minute, events in bursts:
        for n in range(events):
            vendor.add_event(NOON + minute * MINUTE + n % 60 * SECOND, "HOLD", "abc")
    cutoff = NOON + span * MINUTE
    with Session(engine()) as session:  # Rolled back, so that each example starts without rows.
        collection = add_uncommitted_collection(session)
        importer = BibliothecaEventImporter(session, collection, vendor_api_for(collection))
        start, size = NOON, SLICE_SIZE
        while start < cutoff:
            result = importer.import_time_slice(start, cutoff, size)
            assert result.slice_start == start < result.slice_end <= cutoff
            start, size = result.slice_end, result.next_slice_size

        expected = sum(events for minute, events in bursts if minute < span)
        assert count_rows(session, CirculationEvent) == expected
        assert get_or_create_checkpoint(session, collection, Workflow.EVENTS).finish == cutoff


def add_uncommitted_collection(session: Session) -> Collection:
    session.commit = session.flush  # type: ignore[method-assign]
    return make_collection(session, "Alder Library")


# Counts


def test_slice_imported_again_writes_no_row(isolated_database: Engine, vendor: ScriptedVendor) -> None:
    for n, event_type in enumerate(EVENT_TYPES):
        vendor.add_event(NOON + n * SECOND, event_type, "abc")
        vendor.add_event(NOON + n * SECOND, event_type, "known")
    vendor.items["known"] = item("known", owned=3, available=2)
    with isolated_database.connect() as writer, Session(writer) as session:
        collection = make_collection(session, "Alder Library")
        importer = BibliothecaEventImporter(session, collection, vendor_api_for(collection))
        import_slices(session, importer, NOON, NOON + 5 * MINUTE)
        before = count_written_rows(writer, isolated_database)
        vendor.requests.clear()

        vendor.events.reverse()
        (again,) = import_slices(session, importer, NOON, NOON + 5 * MINUTE)

        assert count_written_rows(writer, isolated_database) == before
    assert before["circulation_events"] == 14
    assert (again.events_fetched, again.events_new, again.titles_changed) == (14, 0, 0)
    assert vendor.item_requests() == []


def test_events_change_the_counts_of_their_titles(
    session: Session, vendor: ScriptedVendor, event_importer: BibliothecaEventImporter
) -> None:
    """The vendor returns no items for the titles, so that only the events count."""
    types = ("PURCHASE", "PURCHASE", "CHECKOUT", "CHECKOUT", "HOLD", "CHECKIN", "RESERVED")
    for n, event_type in enumerate(types):
        vendor.add_event(NOON + n * SECOND, event_type, "abc")

    result = event_importer.import_time_slice(NOON, NOON + HOUR)

    assert (result.events_fetched, result.events_rejected, result.events_new) == (7, 0, 7)
    assert (result.titles_new, result.titles_changed, result.outbox_ids) == (1, 0, ())
    assert result.counters.records_fetched == 7
    assert counts_and_status(session, "abc") == (2, 0, 1, 0, "active")


def test_late_event_counts_at_its_own_time(
    session: Session, collection: Collection, vendor: ScriptedVendor, event_importer: BibliothecaEventImporter
) -> None:
    """A checkin becomes known after a later checkout; in the other order a copy would be available."""
    store_titles(session, collection, vendor, "abc")
    vendor.items.clear()
    vendor.add_event(NOON + 4 * MINUTE, "CHECKOUT", "abc")
    import_slices(session, event_importer, NOON, NOON + 5 * MINUTE)
    vendor.add_event(NOON + MINUTE, "CHECKIN", "abc")

    start = event_importer.get_start(NOON + 10 * MINUTE)
    results = import_slices(session, event_importer, start, NOON + 10 * MINUTE)

    assert (start, sum(result.events_new for result in results)) == (NOON, 1)
    assert counts_and_status(session, "abc") == (1, 0, 0, 0, "active")


def test_same_event_counts_for_each_collection(
    session: Session, collection: Collection, vendor: ScriptedVendor, event_importer: BibliothecaEventImporter
) -> None:
    other = make_collection(session, "Birch Library")
    vendor.add_event(NOON, "PURCHASE", "abc")
    import_slices(session, event_importer, NOON, NOON + 5 * MINUTE)

    other_importer = BibliothecaEventImporter(session, other, vendor_api_for(other))
    import_slices(session, other_importer, NOON, NOON + 5 * MINUTE)

    owned = session.execute(select(LicensePool.collection_id, LicensePool.licenses_owned))
    assert sorted(owned) == [(collection.id, 1), (other.id, 1)]


def test_event_of_each_type_changes_counts_of_a_known_title(
    session: Session, collection: Collection, vendor: ScriptedVendor, event_importer: BibliothecaEventImporter
) -> None:
    before = (3, 2, 0, 2, "active")
    after = {
        "PURCHASE": (4, 2, 0, 2, "active"),
        "REMOVED": (2, 2, 0, 2, "active"),
        "CHECKOUT": (3, 1, 0, 2, "active"),
        "CHECKIN": before,
        "HOLD": (3, 0, 0, 3, "active"),
        "RESERVED": (3, 2, 1, 1, "active"),
    }
    titles = {event_type: f"title-{event_type}" for event_type in after}
    store_titles(session, collection, vendor, *titles.values(), owned=3, available=2, holds=2)
    vendor.items.clear()
    for event_type, title in titles.items():
        assert counts_and_status(session, title) == before
        vendor.add_event(NOON, event_type, title)

    result = event_importer.import_time_slice(NOON, NOON + HOUR)

    assert {each: counts_and_status(session, title) for each, title in titles.items()} == after
    assert (result.titles_new, result.titles_changed, result.outbox_ids) == (0, 5, ())


def test_vendor_counts_equal_to_events_are_not_applied(
    session: Session, vendor: ScriptedVendor, event_importer: BibliothecaEventImporter
) -> None:
    vendor.items["abc"] = item("abc", owned=2, available=2)
    vendor.add_event(NOON, "PURCHASE", "abc")
    with time_machine.travel(NOON + 10 * MINUTE, tick=False):
        import_slices(session, event_importer, NOON, NOON + 5 * MINUTE)
    vendor.add_event(NOON + 20 * MINUTE, "CHECKOUT", "abc")
    vendor.items["abc"] = item("abc", owned=2, available=1)

    with time_machine.travel(NOON + 30 * MINUTE, tick=False):
        result = event_importer.import_time_slice(NOON + 20 * MINUTE, NOON + 25 * MINUTE)

    assert (result.titles_changed, result.outbox_ids) == (1, ())
    assert counts_and_status(session, "abc")[:2] == (2, 1)
    assert pool_of(session, "abc").circulation_as_of == NOON + 10 * MINUTE


def test_vendor_counts_that_differ_from_events_are_applied(
    session: Session, vendor: ScriptedVendor, event_importer: BibliothecaEventImporter
) -> None:
    vendor.items["abc"] = item("abc", owned=2, available=2)
    vendor.add_event(NOON, "PURCHASE", "abc")
    with time_machine.travel(NOON + 10 * MINUTE, tick=False):
        import_slices(session, event_importer, NOON, NOON + 5 * MINUTE)
    vendor.add_event(NOON + 20 * MINUTE, "HOLD", "abc")  # Cancelled since; there is no event for that.

    with time_machine.travel(NOON + 30 * MINUTE, tick=False):
        result = event_importer.import_time_slice(NOON + 20 * MINUTE, NOON + 25 * MINUTE)
    assert counts_and_status(session, "abc")[:4] == (2, 0, 0, 1)
    assert [set(data) for data in session.scalars(select(ApplyOutbox.data))] == [{"circulation"}]
    commit_and_apply(session, result.outbox_ids)

    assert counts_and_status(session, "abc")[:4] == (2, 2, 0, 0)


def test_event_before_first_counts_of_its_title_is_not_counted(
    session: Session, collection: Collection, vendor: ScriptedVendor
) -> None:
    """The run looks up the title once, with the first slice, and the counts are those of the events."""
    open_run(session, collection.id, Workflow.EVENTS, "task", {})
    run = find_run(session, "task")
    importer = BibliothecaEventImporter(session, collection, vendor_api_for(collection), run)
    vendor.items["abc"] = item("abc", owned=1, available=1)
    vendor.add_event(NOON, "PURCHASE", "abc")
    vendor.add_event(NOON + 7 * MINUTE, "HOLD", "abc")  # Cancelled since; there is no event for that.

    with time_machine.travel(NOON + 30 * MINUTE, tick=False):
        import_slices(session, importer, NOON, NOON + 10 * MINUTE)

    assert len(vendor.item_requests()) == 1
    assert counts_and_status(session, "abc") == (1, 1, 0, 0, "active")


# Titles


def test_new_title_of_an_event_gets_pool_isbn_and_metadata(
    session: Session, vendor: ScriptedVendor, event_importer: BibliothecaEventImporter
) -> None:
    vendor.items["abc"] = item("abc", title="Solaris", owned=1, available=1)
    vendor.add_event(NOON, "PURCHASE", "abc", isbn="978-0-306-40615-7")
    vendor.add_event(NOON, "PURCHASE", "bare", isbn="no isbn")

    result = event_importer.import_time_slice(NOON, NOON + HOUR)
    session.commit()

    assert (result.titles_new, result.titles_changed, len(result.outbox_ids)) == (2, 0, 1)
    query = select(Identifier.identifier, IdentifierEquivalent.data_source).join(
        IdentifierEquivalent, IdentifierEquivalent.equivalent_id == Identifier.id
    )
    assert session.execute(query).all() == [("9780306406157", "Bibliotheca")]
    commit_and_apply(session, result.outbox_ids)
    assert session.scalars(select(Edition.title)).all() == ["Solaris"]
    assert counts_and_status(session, "abc") == (1, 1, 0, 0, "active")
    assert session.execute(query).all() == [("9788308068298", "Bibliotheca")], "the ISBN of the metadata"


def test_title_with_metadata_gets_no_isbn_from_an_event(
    session: Session, collection: Collection, vendor: ScriptedVendor, event_importer: BibliothecaEventImporter
) -> None:
    """The metadata lists all ISBNs of the title."""
    pool = make_pool(session, collection, "abc")
    apply_titles(session, {pool.id: title_data("abc", isbns=())})
    vendor.add_event(NOON, "PURCHASE", "abc")

    assert event_importer.import_time_slice(NOON, NOON + HOUR).titles_new == 0

    assert count_rows(session, IdentifierEquivalent) == 0


def test_known_title_without_metadata_gets_isbn_of_an_event(
    session: Session, collection: Collection, vendor: ScriptedVendor, event_importer: BibliothecaEventImporter
) -> None:
    """The vendor has no metadata for the title, so that the events are the only source."""
    make_pool(session, collection, "abc")
    vendor.add_event(NOON, "PURCHASE", "abc")

    event_importer.import_time_slice(NOON, NOON + HOUR)

    assert count_rows(session, IdentifierEquivalent) == 1


def test_titles_of_a_slice_are_looked_up_together(
    vendor: ScriptedVendor, event_importer: BibliothecaEventImporter
) -> None:
    for n in range(26):
        vendor.add_event(NOON, "PURCHASE", f"t{n:02}")
        vendor.add_event(NOON, "CHECKOUT", f"t{n:02}")

    with capture_step_logs() as logs:
        event_importer.import_time_slice(NOON, NOON + HOUR)

    assert sorted(len(ids) for ids in vendor.item_requests()) == [1, 25]
    assert {entry["event"] for entry in logs} == {"no metadata for a title with events"}


def test_event_before_the_last_sweep_changes_no_counts(
    session: Session, vendor: ScriptedVendor, collection: Collection, event_importer: BibliothecaEventImporter
) -> None:
    """The title's counts are of noon; a sweep an hour later found them unchanged and did not write them."""
    make_pool(session, collection, "abc")
    vendor.items["abc"] = item("abc", owned=2, available=1)
    updater = BibliothecaCirculationUpdater(session, collection, vendor_api_for(collection))
    for moment in (NOON, NOON + HOUR):
        with time_machine.travel(moment, tick=False):
            swept = updater.update_batch(0)
            commit_and_apply(session, swept.outbox_ids)
    assert pool_of(session, "abc").circulation_as_of == NOON
    vendor.items.clear()
    vendor.add_event(NOON - MINUTE, "CHECKOUT", "abc")
    vendor.add_event(NOON + 30 * MINUTE, "CHECKOUT", "abc")

    event_importer.import_time_slice(NOON - MINUTE, NOON + 3 * HOUR, HOUR)

    assert stored_event_ids(session) == ["event-1", "event-2"]
    assert counts_and_status(session, "abc")[:2] == (2, 1)
    vendor.add_event(NOON + 90 * MINUTE, "CHECKOUT", "abc")
    event_importer.import_time_slice(NOON + HOUR, NOON + 3 * HOUR, HOUR)
    assert counts_and_status(session, "abc")[:2] == (2, 0)


# Invalid events and failures


def test_unknown_event_type_is_logged_and_stored(
    session: Session, vendor: ScriptedVendor, event_importer: BibliothecaEventImporter
) -> None:
    vendor.add_event(NOON, "RENEWED", "abc")
    vendor.add_event(NOON, "PURCHASE", "abc")

    with capture_step_logs() as logs:
        result = event_importer.import_time_slice(NOON, NOON + HOUR)

    assert [entry for entry in logs if entry["event"] == "unknown event type"] == [
        {
            "event": "unknown event type",
            "log_level": "warning",
            "event_id": "event-1",
            "type": "RENEWED",
        }
    ]
    assert (result.events_new, stored_event_ids(session)) == (2, ["event-1", "event-2"])
    assert counts_and_status(session, "abc")[:2] == (1, 1)


def test_invalid_event_is_rejected_and_others_are_imported(
    session: Session, vendor: ScriptedVendor, event_importer: BibliothecaEventImporter
) -> None:
    vendor.add_event(NOON, "PURCHASE", "abc")
    vendor.add_event(NOON, "PURCHASE", "../etc")
    vendor.add_event(NOON, "PURCHASE", "def", EventId="")

    with capture_step_logs() as logs:
        result = event_importer.import_time_slice(NOON, NOON + HOUR)

    assert (result.events_fetched, result.events_rejected, result.events_new) == (3, 2, 1)
    assert (result.counters.records_stored, result.counters.records_rejected) == (1, 2)
    reasons = [
        "Its ItemId is invalid: '../etc'.",
        "It has no EventId (type 'PURCHASE').",
    ]
    logged = [(entry["event_id"], entry["reason"]) for entry in logs if entry["event"] == "event rejected"]
    assert logged == [("event-2", reasons[0]), (None, reasons[1])]
    rejected = session.scalars(select(RejectedRecord)).all()
    assert {record.reason for record in rejected} == set(reasons)
    assert {(record.workflow, record.purchased_on) for record in rejected} == {("events", NOON.date())}
    assert stored_event_ids(session) == ["event-1"]


def test_repeated_invalid_event_is_rejected_once(
    session: Session, vendor: ScriptedVendor, event_importer: BibliothecaEventImporter
) -> None:
    vendor.add_event(NOON, "PURCHASE", "../etc")

    for _ in range(2):
        event_importer.import_time_slice(NOON, NOON + HOUR)

    assert len(session.scalars(select(RejectedRecord)).all()) == 1


def test_retry_of_repaired_event_imports_and_resolves_it(
    session: Session, vendor: ScriptedVendor, event_importer: BibliothecaEventImporter
) -> None:
    vendor.add_event(NOON, "PURCHASE", "../etc")
    event_importer.import_time_slice(NOON, NOON + HOUR)
    rejected = session.scalars(select(RejectedRecord)).one()
    assert event_importer.retry_rejected(rejected) == RetryResult(is_resolved=False)
    assert rejected.resolved_at is None

    rejected.reason = "A reason given by an older version."
    assert event_importer.retry_rejected(rejected) == RetryResult(is_resolved=False)
    assert rejected.reason.startswith("Its ItemId")

    rejected.raw_xml = rejected.raw_xml.replace("../etc", "abc")
    assert event_importer.retry_rejected(rejected) == RetryResult(is_resolved=True)
    assert rejected.resolved_at is not None
    assert stored_event_ids(session) == ["event-1"]
    assert counts_and_status(session, "abc")[:2] == (1, 1)


def test_retry_of_event_stored_meanwhile_counts_it_once(
    session: Session, vendor: ScriptedVendor, event_importer: BibliothecaEventImporter
) -> None:
    vendor.add_event(NOON, "PURCHASE", "abc", EventId="e-9")
    vendor.add_event(NOON, "PURCHASE", "../etc", EventId="e-9")
    event_importer.import_time_slice(NOON, NOON + HOUR)
    rejected = session.scalars(select(RejectedRecord)).one()
    rejected.raw_xml = rejected.raw_xml.replace("../etc", "abc")

    assert event_importer.retry_rejected(rejected) == RetryResult(is_resolved=True)

    assert rejected.resolved_at is not None
    assert (stored_event_ids(session), counts_and_status(session, "abc")[:2]) == (["e-9"], (1, 1))


# Empty bodies

BLANK = httpx.Response(200, text=" ")
DAY = timedelta(days=1)


def confirmed_until(session: Session) -> datetime | None:
    return session.scalars(select(Timestamp.confirmed)).one()


def windows(vendor: ScriptedVendor) -> list[tuple[str, str]]:
    """Return the hours and minutes of each requested window."""
    return [(query["startdate"][11:16], query["enddate"][11:16]) for query in vendor.event_requests()]


def test_empty_document_confirms_its_slice(
    session: Session, vendor: ScriptedVendor, event_importer: BibliothecaEventImporter
) -> None:
    event_importer.import_time_slice(NOON, NOON + HOUR)

    assert (checkpoint(session), confirmed_until(session)) == (NOON + 5 * MINUTE, NOON + 5 * MINUTE)


def test_empty_body_without_known_event_confirms_nothing(
    session: Session, vendor: ScriptedVendor, event_importer: BibliothecaEventImporter
) -> None:
    vendor.responses.append(BLANK)

    result = event_importer.import_time_slice(NOON, NOON + HOUR)

    assert (result.events_fetched, len(vendor.event_requests())) == (0, 1)
    assert (checkpoint(session), confirmed_until(session)) == (NOON + 5 * MINUTE, NOON)


def test_empty_body_is_believed_after_a_day(
    session: Session, vendor: ScriptedVendor, event_importer: BibliothecaEventImporter
) -> None:
    """The daily circulation update has corrected the counts by then."""
    vendor.responses += [BLANK] * 9
    cutoff = NOON + 2 * DAY
    import_slices(session, event_importer, NOON, cutoff)

    assert checkpoint(session) == cutoff
    assert confirmed_until(session) == cutoff - DAY


def test_hidden_events_are_requested_with_the_known_one_before(
    session: Session, vendor: ScriptedVendor, event_importer: BibliothecaEventImporter
) -> None:
    known = vendor.add_event(NOON + MINUTE, "PURCHASE", "abc")
    event_importer.import_time_slice(NOON, NOON + HOUR)
    hidden = vendor.add_event(NOON + 7 * MINUTE, "CHECKOUT", "abc")
    vendor.responses.append(BLANK)

    result = event_importer.import_time_slice(NOON + 5 * MINUTE, NOON + HOUR)

    assert windows(vendor) == [("12:00", "12:05"), ("12:05", "12:10"), ("12:01", "12:10")]
    assert (result.events_new, stored_event_ids(session)) == (1, [known, hidden])
    assert confirmed_until(session) == NOON + 10 * MINUTE


def test_empty_body_for_a_known_event_is_an_error(
    session: Session, vendor: ScriptedVendor, event_importer: BibliothecaEventImporter
) -> None:
    vendor.add_event(NOON + MINUTE, "PURCHASE", "abc")
    event_importer.import_time_slice(NOON, NOON + HOUR)
    session.commit()
    vendor.responses += [BLANK, BLANK]

    with pytest.raises(RemoteInitiatedServerError, match="empty response for a time span with events"):
        event_importer.import_time_slice(NOON + 5 * MINUTE, NOON + HOUR)
    session.rollback()
    assert checkpoint(session) == NOON + 5 * MINUTE


def test_first_events_confirm_what_was_before_them(
    session: Session, vendor: ScriptedVendor, event_importer: BibliothecaEventImporter
) -> None:
    hidden = vendor.add_event(NOON + MINUTE, "PURCHASE", "abc")
    shown = vendor.add_event(NOON + 7 * MINUTE, "CHECKOUT", "abc")
    vendor.responses.append(BLANK)

    import_slices(session, event_importer, NOON, NOON + 10 * MINUTE)

    assert windows(vendor) == [
        ("12:00", "12:05"),
        ("12:05", "12:10"),
        ("12:00", "12:07"),
        ("12:07", "12:10"),
    ]
    assert stored_event_ids(session) == [hidden, shown]
    assert confirmed_until(session) == NOON + 10 * MINUTE


def test_event_hidden_less_than_a_day_is_found_with_the_next(
    session: Session, vendor: ScriptedVendor, event_importer: BibliothecaEventImporter
) -> None:
    """The slice that shows the next event ends more than a day after the hidden one."""
    hidden = vendor.add_event(NOON + MINUTE, "PURCHASE", "abc")
    shown = vendor.add_event(NOON + 23 * HOUR, "CHECKOUT", "abc")
    vendor.responses += [BLANK] * 8

    import_slices(session, event_importer, NOON, NOON + 2 * DAY)

    assert stored_event_ids(session) == [hidden, shown]
    assert confirmed_until(session) == NOON + 2 * DAY


def test_known_event_a_day_before_the_slice_is_requested(
    session: Session, vendor: ScriptedVendor, event_importer: BibliothecaEventImporter
) -> None:
    known = vendor.add_event(NOON, "PURCHASE", "abc")
    event_importer.import_time_slice(NOON, NOON + 4 * DAY)
    hidden = vendor.add_event(NOON + 29 * HOUR, "CHECKOUT", "abc")
    vendor.responses.append(BLANK)

    event_importer.import_time_slice(NOON + DAY, NOON + 4 * DAY, 6 * HOUR)

    assert stored_event_ids(session) == [known, hidden]


def test_empty_body_for_half_of_a_slice_with_events_is_an_error(
    session: Session, vendor: ScriptedVendor, event_importer: BibliothecaEventImporter
) -> None:
    """The truncated response to the whole slice has listed events of the first half."""
    for n in range(120):
        vendor.add_event(NOON + n * 2 * SECOND, "HOLD", "abc")
    full = event_batch([element for _, element in vendor.events][:100])
    vendor.responses += [httpx.Response(200, text=full), BLANK]

    with pytest.raises(RemoteInitiatedServerError, match="empty response for a time span with events"):
        event_importer.import_time_slice(NOON, NOON + HOUR)


def test_empty_bodies_after_a_known_event_widen_the_slices(
    session: Session, vendor: ScriptedVendor, event_importer: BibliothecaEventImporter
) -> None:
    """The known event, which is requested again with each slice, is not an event of the slice."""
    vendor.add_event(NOON, "PURCHASE", "abc")
    vendor.sends_empty_bodies = True

    results = import_slices(session, event_importer, NOON, NOON + 12 * HOUR)

    ends = [(result.slice_end - NOON) / MINUTE for result in results]
    assert ends == [5, 10, 20, 40, 80, 160, 320, 640, 720]
    assert checkpoint(session) == confirmed_until(session) == NOON + 12 * HOUR


def test_repaired_documents_are_counted(
    vendor: ScriptedVendor, event_importer: BibliothecaEventImporter
) -> None:
    vendor.events.append((NOON, event("1", "HOLD", "abc", NOON, ISBN="NONE").replace("NONE", "&none;")))
    vendor.items["abc"] = item("abc", title="TITLE").replace("TITLE", "Salt &supl; Pepper")

    result = event_importer.import_time_slice(NOON, NOON + HOUR)

    assert (result.events_new, result.repairs, result.counters.repairs) == (1, 2, 2)


EVENTS_DOCUMENT = event_batch([event("1", "HOLD", "abc", NOON)])
COMPLAINT = f"Unknown error about {PATRON} {PATRON_CARD}"
FAILURES: dict[str, tuple[httpx.Response | Exception, type[RemoteIntegrationException]]] = {
    "error document": (httpx.Response(200, text=error_document(COMPLAINT)), RemoteInitiatedServerError),
    "error document with status 500": (
        httpx.Response(500, text=error_document(COMPLAINT)),
        RemoteInitiatedServerError,
    ),
    "nested error document": (
        httpx.Response(200, text=f"<LibraryEventBatch>{error_document(COMPLAINT)}</LibraryEventBatch>"),
        RemoteInitiatedServerError,
    ),
    "HTML": (httpx.Response(200, text=f"<html><body>{PATRON}</body></html>"), BadResponseException),
    "text before HTML": (httpx.Response(200, text=f"{PATRON} <html>"), BadResponseException),
    "MARC document": (httpx.Response(200, text=marc_page([])), BadResponseException),
    "unknown root": (httpx.Response(200, text=f"<{PATRON}/>"), BadResponseException),
    "truncated": (httpx.Response(200, text=EVENTS_DOCUMENT[:-20]), BadResponseException),
    "wrong end tag": (
        httpx.Response(200, text=EVENTS_DOCUMENT.replace("</PatronId>", f"</{PATRON}>")),
        BadResponseException,
    ),
    "entity declaration": (
        httpx.Response(200, text=f"<!DOCTYPE x [<!ENTITY p '{PATRON}'>]>{EVENTS_DOCUMENT}"),
        BadResponseException,
    ),
    "bad gateway": (httpx.Response(502, text=f"Bad Gateway {COMPLAINT}"), BadResponseException),
    "too many requests": (httpx.Response(429, text=COMPLAINT), BadResponseException),
    "redirect": (
        httpx.Response(302, headers={"Location": f"https://vendor.example/{PATRON}"}),
        BadResponseException,
    ),
    "bad request": (httpx.Response(400, text=COMPLAINT), PermanentVendorError),
    "forbidden": (httpx.Response(403, text=COMPLAINT), AuthenticationFailed),
    "read timeout": (httpx.ReadTimeout("too slow"), RequestTimedOut),
    "broken chunks": (
        httpx.RemoteProtocolError(f"illegal chunk header: {PATRON.encode()!r}"),
        ConnectionFailed,
    ),
    "undecodable": (httpx.DecodingError(f"what is {PATRON}?"), BadResponseException),
}


def test_vendor_failure_leaves_nothing_written(
    session: Session,
    vendor: ScriptedVendor,
    event_importer: BibliothecaEventImporter,
    subtests: pytest.Subtests,
) -> None:
    event_importer.import_time_slice(NOON - 5 * MINUTE, NOON)
    session.commit()
    vendor.add_event(NOON, "PURCHASE", "abc")

    for name, (failure, error) in FAILURES.items():
        with subtests.test(name):
            vendor.responses.append(failure)

            with pytest.raises(RemoteIntegrationException) as raised:
                event_importer.import_time_slice(NOON, NOON + HOUR)

            assert raised.type is error
            assert issubclass(error, TransientVendorError) != issubclass(error, PermanentVendorError)
            # Committed on purpose: there is nothing to roll back.
            session.commit()
            rows = [count_rows(session, model) for model in (CirculationEvent, LicensePool, Identifier)]
            assert rows == [0, 0, 0]
            assert checkpoint(session) == NOON


@pytest.mark.parametrize(
    "failure",
    [httpx.Response(502), httpx.Response(200), httpx.ReadTimeout("too slow")],
    ids=["bad gateway", "empty body", "read timeout"],
)
def test_failed_title_lookup_loses_no_event(
    session: Session,
    vendor: ScriptedVendor,
    event_importer: BibliothecaEventImporter,
    failure: httpx.Response | Exception,
) -> None:
    event_importer.import_time_slice(NOON - 5 * MINUTE, NOON)
    vendor.add_event(NOON, "PURCHASE", "abc")
    vendor.responses.extend([httpx.Response(200, text=event_batch(vendor.events[0][1:])), failure])

    with pytest.raises(TransientVendorError):
        event_importer.import_time_slice(NOON, NOON + HOUR)
    session.commit()

    assert [count_rows(session, model) for model in (CirculationEvent, LicensePool, Identifier)] == [0, 0, 0]
    assert checkpoint(session) == NOON
    assert event_importer.import_time_slice(NOON, NOON + HOUR).events_new == 1


def test_failure_in_the_first_half_leaves_nothing_written(
    session: Session, vendor: ScriptedVendor, event_importer: BibliothecaEventImporter
) -> None:
    event_importer.import_time_slice(NOON - 5 * MINUTE, NOON)
    for n in range(120):
        vendor.add_event(NOON + n * 2 * SECOND, "HOLD", "abc")
    full = event_batch([element for _, element in vendor.events][:100])
    vendor.responses.extend([httpx.Response(200, text=full), httpx.Response(502)])

    with pytest.raises(BadResponseException):
        event_importer.import_time_slice(NOON, NOON + HOUR)
    session.commit()

    assert (stored_event_ids(session), checkpoint(session)) == ([], NOON)


# Patrons


def add_valid_and_invalid_events(vendor: ScriptedVendor) -> None:
    """Add an event of each type, and some invalid ones."""
    for event_type in (*EVENT_TYPES, ""):
        vendor.add_event(NOON, event_type, "abc")
    vendor.add_event(NOON, "HOLD", "../etc")
    vendor.add_event(NOON, "HOLD", "def", EventId="")
    vendor.add_event(NOON, "HOLD", "def", EventStartDateTimeInUTC="soon")
    vendor.items["abc"] = item("abc")


def stored_rows(session: Session) -> list[str]:
    """Return the rows of all tables as text."""
    query = "SELECT table_name FROM information_schema.tables WHERE table_schema = 'public'"
    tables = session.scalars(text(query)).all()
    assert set(Base.metadata.tables) <= set(tables)
    dumps = (session.scalars(text(f"SELECT t::text FROM {table} t")) for table in tables)  # noqa: S608
    return [row for rows in dumps for row in rows]


def error_texts(error: BaseException) -> list[str]:
    """Return all texts of an error: message, attributes and traceback."""
    return [str(error), repr(error), repr(vars(error)), *traceback.format_exception(error)]


def lines_with_patrons(lines: Iterable[object]) -> list[str]:
    return [line for line in map(str, lines) if PATRON in line or PATRON_CARD in line]


def test_patron_ids_are_never_stored_logged_or_in_errors(
    session: Session, vendor: ScriptedVendor, event_importer: BibliothecaEventImporter
) -> None:
    """They are in no table, no log at any level, no error and no traceback."""
    add_valid_and_invalid_events(vendor)
    session.commit()  # A new connection checks only once whether to log.
    errors: list[str] = []
    with capture_all_logs() as library_logs, capture_step_logs() as step_logs:
        import_slices(session, event_importer, NOON, NOON + 5 * MINUTE)
        for failure, _ in FAILURES.values():
            vendor.responses.append(failure)
            with pytest.raises(RemoteIntegrationException) as raised:
                event_importer.import_time_slice(NOON, NOON + 5 * MINUTE)
            session.commit()
            errors += error_texts(raised.value)

    assert lines_with_patrons(element for _, element in vendor.events), "there are patron ids to find"
    assert count_rows(session, CirculationEvent) == len(EVENT_TYPES)
    assert any("INSERT INTO circulation_events" in line for line in library_logs)
    assert {entry["event"] for entry in step_logs} == {"event rejected", "unknown event type"}
    assert lines_with_patrons([*stored_rows(session), *library_logs, *step_logs, *errors]) == []


@contextmanager
def serve_responses(*responses: bytes) -> Iterator[str]:
    """Serve one response per connection on this machine; yields the base URL."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(DEADLINE_SECONDS)

        def serve() -> None:
            for response in responses:
                connection, _ = server.accept()
                with connection:
                    connection.recv(65_536)
                    connection.sendall(response)

        thread = BackgroundThread(serve)
        yield f"http://127.0.0.1:{server.getsockname()[1]}"
        thread.finish()


OK = b"HTTP/1.1 200 OK\r\n"


@pytest.mark.parametrize("log_format", ["json", "console"])
def test_broken_connection_does_not_reveal_patron_ids(
    session: Session,
    collection: Collection,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    log_format: str,
) -> None:
    """HTTP libraries quote unreadable responses in their errors, and at DEBUG in their logs as well."""
    body = EVENTS_DOCUMENT.encode()
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
    errors: list[str] = []
    with (
        serve_responses(whole, items, *broken) as collection.base_url,
        httpx.HTTPTransport(trust_env=False) as transport,
        capture_step_logs() as step_logs,
        production_logging(log_level="debug", log_format=log_format),
    ):
        monkeypatch.setattr("accession.bibliotheca.client.vendor_transport", lambda: transport)
        monkeypatch.setattr("accession.bibliotheca.client.IMMEDIATE_RETRIES", 0)
        importer = BibliothecaEventImporter(session, collection, vendor_api_for(collection))
        assert importer.import_time_slice(NOON, NOON + 5 * MINUTE).events_new == 1
        for _ in broken:
            with pytest.raises(RemoteIntegrationException) as raised:
                importer.import_time_slice(NOON, NOON + 5 * MINUTE)
            logging.getLogger("celery.task").error("slice failed", exc_info=raised.value)
            errors += error_texts(raised.value)
    session.commit()

    logs = capsys.readouterr().err.splitlines()
    assert sum("slice failed" in line for line in logs) == len(broken)
    assert lines_with_patrons([*stored_rows(session), *logs, *step_logs, *errors]) == []
