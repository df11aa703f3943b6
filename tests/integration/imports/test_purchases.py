"""Tests of importing a page of purchase records: requests, stored rows and the checkpoint."""

from datetime import UTC, date, datetime, timedelta, timezone
from io import BytesIO

import httpx
import pytest
from pymarc import MARCReader
from sqlalchemy import select
from sqlalchemy.orm import Session
from structlog.testing import capture_logs

from accession.bibliotheca.errors import (
    AuthenticationFailed,
    BadResponseException,
    ConnectionFailed,
    RemoteInitiatedServerError,
    RemoteIntegrationException,
    RequestTimedOut,
    TransientVendorError,
)
from accession.catalog.titles import title_views
from accession.core.errors import UserError
from accession.core.workflow import Workflow
from accession.db.models import (
    ApplyOutbox,
    Base,
    Collection,
    Identifier,
    LicensePool,
    PurchaseRecord,
    RejectedRecord,
    Timestamp,
    table_of,
)
from accession.imports.page_result import DayImportResult
from accession.imports.purchases import DEFAULT_PURCHASE_RECORD_START_TIME, BibliothecaPurchaseRecordImporter
from accession.imports.vendor_api import vendor_api_for
from accession.imports.windows import Anchor, ImportCursor
from accession.runs.ledger import RunCounters, get_or_create_checkpoint
from tests.fixtures.factories import NOON, day, make_pool
from tests.fixtures.holdings import commit_and_apply, outbox_rows, title_ids, warning_events
from tests.fixtures.purchases import count_rejected, import_until, requested_pages, stored_purchases
from tests.fixtures.vendor import ScriptedVendor, error_document, item, marc, marc_page

Importer = BibliothecaPurchaseRecordImporter

MAY_1, MAY_2, MAY_3 = day(2024, 5, 1), day(2024, 5, 2), day(2024, 5, 3)
NOW = day(2024, 6, 1)


def checkpoint(session: Session, collection: Collection) -> datetime | None:
    return get_or_create_checkpoint(session, collection, Workflow.PURCHASES).finish


def stored_ids(session: Session) -> list[str]:
    query = select(Identifier.identifier).join(LicensePool, LicensePool.identifier_id == Identifier.id)
    return list(session.scalars(query.order_by(Identifier.identifier)))


def counts(result: DayImportResult) -> tuple[int, int, int, int]:
    """Return records fetched and rejected, and titles new and changed."""
    return (
        result.records_fetched,
        result.records_rejected,
        result.titles_new,
        result.titles_changed,
    )


# Start


def test_first_import_starts_in_2014(importer: Importer) -> None:
    assert importer.get_start() == DEFAULT_PURCHASE_RECORD_START_TIME == datetime(2014, 1, 1, tzinfo=UTC)


def test_import_continues_at_the_checkpoint(session: Session, importer: Importer) -> None:
    importer.import_day(ImportCursor(MAY_1), NOW)
    session.commit()

    assert importer.get_start() == MAY_2


def test_reimport_clears_the_checkpoint_with_its_first_page(
    session: Session, collection: Collection, importer: Importer
) -> None:
    importer.import_day(ImportCursor(MAY_1), NOW)
    first_day = DEFAULT_PURCHASE_RECORD_START_TIME

    importer.import_day(ImportCursor(first_day), NOW, clears_checkpoint=True)

    assert checkpoint(session, collection) == first_day + timedelta(days=1)


# Windows


@pytest.mark.parametrize(
    ("start", "now", "end"),
    [
        (MAY_1, NOW, MAY_2),
        (MAY_1, MAY_2, MAY_2),
        (MAY_1, day(2024, 5, 1, 9, 30), day(2024, 5, 1, 9, 30)),
        (day(2024, 5, 1, 9, 30), NOW, MAY_2),
        (day(2024, 5, 1, 9, 30), day(2024, 5, 2, 9, 30), MAY_2),
        (day(2024, 5, 1, 9, 30), day(2024, 5, 1, 9, 31), day(2024, 5, 1, 9, 31)),
        (day(2024, 2, 29, 23, 59), NOW, day(2024, 3, 1)),
        (day(2023, 12, 31), NOW, day(2024, 1, 1)),
    ],
)
def test_window_ends_at_midnight_or_now(
    session: Session,
    collection: Collection,
    vendor: ScriptedVendor,
    importer: Importer,
    start: datetime,
    now: datetime,
    end: datetime,
) -> None:
    result = importer.import_day(ImportCursor(start), now)

    assert (result.day_start, result.day_end) == (start, end)
    assert checkpoint(session, collection) == end
    assert vendor.marc_requests() == [
        {
            "startdate": start.strftime("%Y-%m-%dT%H:%M:%S"),
            "enddate": end.strftime("%Y-%m-%dT%H:%M:%S"),
            "offset": "1",
            "limit": "50",
        }
    ]


def test_window_is_a_utc_day_whatever_the_starts_time_zone(
    session: Session, vendor: ScriptedVendor, importer: Importer
) -> None:
    """In Berlin the start is on the 2nd of May, in UTC on the 1st."""
    vendor.add_purchases(day(2024, 5, 1, 23), "abc")
    start = datetime(2024, 5, 2, 0, 30, tzinfo=timezone(timedelta(hours=2)))

    result = importer.import_day(ImportCursor(start), NOW)

    assert result.day_end == MAY_2
    assert vendor.marc_requests()[0]["startdate"] == "2024-05-01T22:30:00"
    assert stored_purchases(session) == [("abc", date(2024, 5, 1))]


def test_start_without_time_zone_is_rejected_before_a_request(
    session: Session, vendor: ScriptedVendor, importer: Importer
) -> None:
    with pytest.raises(TypeError, match="offset-naive"):
        importer.import_day(ImportCursor(datetime(2024, 5, 1)), NOW)  # noqa: DTZ001

    assert vendor.requests == []
    assert session.scalars(select(Timestamp)).all() == []


def test_consecutive_windows_neither_overlap_nor_leave_gaps(
    session: Session, vendor: ScriptedVendor, importer: Importer
) -> None:
    vendor.add_purchases(MAY_1, "at-midnight")
    vendor.add_purchases(day(2024, 5, 1, 23, 59), "before-midnight")
    vendor.add_purchases(MAY_2, "next-midnight")

    import_until(session, importer, MAY_3, ImportCursor(MAY_1))

    assert stored_purchases(session) == [
        ("at-midnight", date(2024, 5, 1)),
        ("before-midnight", date(2024, 5, 1)),
        ("next-midnight", date(2024, 5, 2)),
    ]


# Pages


def test_empty_window_moves_the_checkpoint_to_its_end(
    session: Session, collection: Collection, importer: Importer
) -> None:
    result = importer.import_day(ImportCursor(MAY_1), NOW)

    assert counts(result) == (0, 0, 0, 0)
    assert (result.next_offset, result.outbox_ids) == (None, ())
    next_cursor = result.next_cursor
    assert (next_cursor.current_day, next_cursor.confirmed_until) == (MAY_2, MAY_2)
    assert checkpoint(session, collection) == MAY_2


def test_partial_page_is_the_last_of_its_window(
    session: Session, collection: Collection, vendor: ScriptedVendor, importer: Importer
) -> None:
    vendor.add_purchases(MAY_1, *title_ids(49))

    result = importer.import_day(ImportCursor(MAY_1), NOW)

    assert counts(result) == (49, 0, 49, 0)
    assert result.counters == RunCounters(49, 49, 0, 49, 0)
    assert result.next_offset is None
    next_cursor = result.next_cursor
    assert (next_cursor.current_day, next_cursor.confirmed_until) == (MAY_2, MAY_2)
    assert (next_cursor.anchor, next_cursor.records) == (Anchor(MAY_1, 49, "t0048"), 49)
    assert checkpoint(session, collection) == MAY_2


def test_full_page_leaves_the_checkpoint_at_the_window_start(
    session: Session, collection: Collection, vendor: ScriptedVendor, importer: Importer
) -> None:
    vendor.add_purchases(day(2024, 5, 1, 10), *title_ids(60))
    start = day(2024, 5, 1, 9)

    first = importer.import_day(ImportCursor(start), NOW)
    assert (first.records_fetched, first.next_cursor.current_day, first.next_offset) == (50, start, 51)
    assert checkpoint(session, collection) == start

    second = importer.import_day(first.next_cursor, NOW)
    assert (second.day_start, second.day_end) == (start, MAY_2)
    assert (second.records_fetched, second.next_cursor.current_day, second.next_offset) == (10, MAY_2, None)
    assert checkpoint(session, collection) == MAY_2
    assert [request["offset"] for request in vendor.marc_requests()] == ["1", "50"]
    assert stored_ids(session) == title_ids(60)


def test_checkpoint_moves_forward_and_never_over_a_gap(
    session: Session, collection: Collection, vendor: ScriptedVendor, importer: Importer
) -> None:
    """After a restore from a backup, a message of a run that is unknown there may name a later day."""
    importer.import_day(ImportCursor(MAY_1), NOW)

    importer.import_day(ImportCursor(day(2024, 5, 20)), NOW)
    assert checkpoint(session, collection) == MAY_2, "the days between were not requested"

    importer.import_day(ImportCursor(day(2024, 4, 1)), NOW)
    assert checkpoint(session, collection) == MAY_2, "the checkpoint does not move back"


def test_window_of_exactly_one_page_ends_with_its_anchor(
    session: Session, collection: Collection, vendor: ScriptedVendor, importer: Importer
) -> None:
    vendor.add_purchases(MAY_1, *title_ids(50))

    first = importer.import_day(ImportCursor(MAY_1), NOW)
    second = importer.import_day(first.next_cursor, NOW)

    assert (first.next_offset, second.next_offset) == (51, None)
    assert (counts(second), second.next_cursor.current_day) == ((0, 0, 0, 0), MAY_2)
    assert checkpoint(session, collection) == MAY_2


def test_day_after_purchases_is_requested_with_the_last_one(
    vendor: ScriptedVendor, importer: Importer
) -> None:
    """A healthy response is then never empty."""
    vendor.add_purchases(day(2024, 5, 1, 9), *title_ids(2))
    vendor.add_purchases(day(2024, 5, 3, 9), "abc")
    first = importer.import_day(ImportCursor(MAY_1), NOW)

    second = importer.import_day(first.next_cursor, NOW)
    third = importer.import_day(second.next_cursor, NOW)
    importer.import_day(third.next_cursor, NOW)

    assert [page.records_fetched for page in (first, second, third)] == [2, 0, 1]
    assert requested_pages(vendor) == [
        ("05-01", "05-02", "1"),
        ("05-01", "05-03", "2"),
        ("05-01", "05-04", "2"),
        ("05-03", "05-05", "1"),
    ]


@pytest.mark.parametrize("purchases", [2, 50], ids=["next day", "next page of a day"])
def test_empty_body_after_the_first_record_is_an_error(
    session: Session, collection: Collection, vendor: ScriptedVendor, importer: Importer, purchases: int
) -> None:
    vendor.add_purchases(MAY_1, *title_ids(purchases))
    first = importer.import_day(ImportCursor(MAY_1), NOW)
    finish, confirmed = checkpoint(session, collection), importer.get_start()
    vendor.responses.extend([httpx.Response(200)] * 2)

    with pytest.raises(RemoteInitiatedServerError, match="empty response"):
        importer.import_day(first.next_cursor, NOW)

    assert (checkpoint(session, collection), importer.get_start()) == (finish, confirmed)
    assert importer.import_day(first.next_cursor, NOW).next_cursor.records == purchases


def test_page_that_does_not_continue_is_not_stored(
    session: Session, collection: Collection, vendor: ScriptedVendor, importer: Importer
) -> None:
    vendor.add_purchases(MAY_1, *title_ids(50))
    first = importer.import_day(ImportCursor(MAY_1), NOW)
    vendor.is_repeating_pages = True

    with capture_logs() as logs:
        second = importer.import_day(first.next_cursor, NOW)

    assert (counts(second), second.outbox_ids) == ((0, 0, 0, 0), ())
    assert second.next_cursor == ImportCursor(MAY_1, confirmed=MAY_1, restarts=1, setback=MAY_2, records=50)
    assert checkpoint(session, collection) == MAY_1
    assert warning_events(logs) == ["page does not continue the one before, importing again"]


@pytest.mark.parametrize("purchases", [2, 50, 60])
def test_vendor_that_ignores_offsets_fails_the_import(
    session: Session, vendor: ScriptedVendor, importer: Importer, purchases: int
) -> None:
    """It goes back 20 times, because titles would otherwise be missing."""
    vendor.add_purchases(MAY_1, *title_ids(purchases))
    vendor.is_repeating_pages = True

    with capture_logs() as logs, pytest.raises(BadResponseException, match="pages contradict each other"):
        import_until(session, importer, NOW, ImportCursor(MAY_1))

    assert len(warning_events(logs)) == 21
    assert importer.get_start() <= MAY_2


def test_records_are_read_again_if_one_was_added_before(
    session: Session, vendor: ScriptedVendor, importer: Importer
) -> None:
    vendor.add_purchases(day(2024, 5, 1, 9), *title_ids(60))
    first = importer.import_day(ImportCursor(MAY_1), NOW)
    vendor.add_purchases(day(2024, 5, 1, 8), "added")

    import_until(session, importer, NOW, first.next_cursor)

    assert stored_purchases(session) == [(name, date(2024, 5, 1)) for name in ["added", *title_ids(60)]]


def test_first_page_imported_again_is_not_a_repeated_page(
    session: Session, vendor: ScriptedVendor, importer: Importer
) -> None:
    vendor.add_purchases(MAY_1, *title_ids(50))
    importer.import_day(ImportCursor(MAY_1), NOW)

    assert importer.import_day(ImportCursor(MAY_1), NOW).records_fetched == 50


def test_pages_without_ids_are_compared_by_content(
    session: Session, vendor: ScriptedVendor, importer: Importer
) -> None:
    """The vendor renews the time stamps of its records in every response."""
    vendor.purchases = [(MAY_1, marc(title=f"Title {n}")) for n in range(100)]
    first = importer.import_day(ImportCursor(MAY_1), NOW)
    vendor.purchases = [(MAY_1, marc(title=f"Title {n}")) for n in range(100)]

    second = importer.import_day(first.next_cursor, NOW)
    third = importer.import_day(second.next_cursor, NOW)

    assert [page.records_rejected for page in (first, second, third)] == [50, 49, 1]
    assert count_rejected(session) == 100


# Titles


def test_purchase_record_becomes_a_pool_with_metadata(
    session: Session, collection: Collection, vendor: ScriptedVendor, importer: Importer
) -> None:
    """The record is stored as MARC 21, and the metadata in the outbox until it is applied."""
    vendor.add_purchases(MAY_1, "abc")

    result = importer.import_day(ImportCursor(MAY_1), NOW)
    session.commit()

    assert counts(result) == (1, 0, 1, 0)
    assert stored_ids(session) == ["abc"]
    assert stored_purchases(session) == [("abc", date(2024, 5, 1))]
    marc21 = session.scalars(select(PurchaseRecord.marc)).one()
    (record,) = MARCReader(BytesIO(marc21))
    assert record is not None
    assert record["001"].data == "abc"
    pending = outbox_rows(session)
    assert tuple(pending) == result.outbox_ids
    ((_, data),) = pending.values()
    assert data.bibliographic is not None
    assert data.bibliographic.title == "Title abc"

    commit_and_apply(session, result.outbox_ids)
    (view,) = title_views(session)
    assert (view.title, view.licenses_owned, view.purchased_on) == ("Title abc", 1, "2024-05-01")


def test_all_titles_of_a_page_are_looked_up_25_per_request(
    session: Session, collection: Collection, vendor: ScriptedVendor, importer: Importer
) -> None:
    vendor.add_purchases(MAY_1, *title_ids(50))
    make_pool(session, collection, "t0007")

    result = importer.import_day(ImportCursor(MAY_1), NOW)

    assert sorted(vendor.item_requests()) == [title_ids(50)[:25], title_ids(50)[25:]]
    assert (result.titles_new, result.titles_changed) == (49, 1)
    assert len(result.outbox_ids) == 50


def test_window_without_valid_records_looks_up_no_title(vendor: ScriptedVendor, importer: Importer) -> None:
    vendor.purchases = [(MAY_1, marc())]

    importer.import_day(ImportCursor(MAY_1), NOW)

    assert vendor.item_requests() == []


def test_outbox_holds_only_new_and_changed_titles(
    session: Session, vendor: ScriptedVendor, importer: Importer
) -> None:
    vendor.add_purchases(MAY_1, "same", "other-metadata", "other-counts")
    commit_and_apply(session, importer.import_day(ImportCursor(MAY_1), NOW).outbox_ids)
    vendor.add_purchases(MAY_1, "new")
    vendor.items["other-metadata"] = item("other-metadata", title="Another title")
    vendor.items["other-counts"] = item("other-counts", title="Title other-counts", available=0, holds=3)

    result = importer.import_day(ImportCursor(MAY_1), NOW)

    assert counts(result) == (4, 0, 1, 2)
    pending = outbox_rows(session)
    has_metadata = {item_id: data.bibliographic is not None for item_id, data in pending.values()}
    assert has_metadata == {"other-counts": False, "other-metadata": True, "new": True}
    assert set(pending) == set(result.outbox_ids)


def test_purchased_title_without_metadata_gets_a_pool(
    session: Session, vendor: ScriptedVendor, importer: Importer
) -> None:
    vendor.add_purchases(MAY_1, "abc", "omitted")
    del vendor.items["omitted"]

    with capture_logs() as logs:
        result = importer.import_day(ImportCursor(MAY_1), NOW)

    assert counts(result) == (2, 0, 2, 0)
    assert stored_ids(session) == ["abc", "omitted"]
    assert stored_purchases(session) == [("abc", date(2024, 5, 1)), ("omitted", date(2024, 5, 1))]
    assert len(result.outbox_ids) == 1
    assert [(entry["event"], entry["title"]) for entry in logs if entry["log_level"] == "warning"] == [
        ("no metadata for a purchased title", "omitted")
    ]


def test_known_title_without_metadata_keeps_its_data(
    session: Session, vendor: ScriptedVendor, importer: Importer
) -> None:
    vendor.add_purchases(MAY_1, "abc")
    commit_and_apply(session, importer.import_day(ImportCursor(MAY_1), NOW).outbox_ids)
    vendor.items.clear()

    assert importer.import_day(ImportCursor(MAY_1), NOW).outbox_ids == ()

    (view,) = title_views(session)
    assert (view.title, view.licenses_owned, view.status) == ("Title abc", 1, "active")


def test_malformed_item_is_logged_once_and_others_are_stored(
    session: Session, vendor: ScriptedVendor, importer: Importer
) -> None:
    vendor.add_purchases(MAY_1, "abc", "bad")
    vendor.items["bad"] = item("bad", TotalCopies="many")

    with capture_logs() as logs:
        result = importer.import_day(ImportCursor(MAY_1), NOW)

    assert [item_id for item_id, _ in outbox_rows(session).values()] == ["abc"]
    assert (result.titles_new, stored_ids(session)) == (2, ["abc", "bad"])
    assert [(entry["event"], entry["title"], entry["reason"]) for entry in logs] == [
        ("invalid title metadata", "bad", "TotalCopies is not a count: 'many'")
    ]


def test_metadata_that_was_not_requested_is_ignored(
    session: Session, vendor: ScriptedVendor, importer: Importer
) -> None:
    vendor.add_purchases(MAY_1, "abc")
    vendor.items["abc"] += item("other")

    importer.import_day(ImportCursor(MAY_1), NOW)

    assert [item_id for item_id, _ in outbox_rows(session).values()] == ["abc"]
    assert stored_ids(session) == ["abc"]


def test_title_twice_on_a_page_is_stored_once(
    session: Session, vendor: ScriptedVendor, importer: Importer
) -> None:
    vendor.add_purchases(MAY_1, "abc", "abc")

    result = importer.import_day(ImportCursor(MAY_1), NOW)

    assert counts(result) == (2, 0, 1, 0)
    assert (stored_ids(session), vendor.item_requests()) == (["abc"], [["abc"]])
    assert stored_purchases(session) == [("abc", date(2024, 5, 1))]
    assert len(result.outbox_ids) == 1


def test_title_purchased_twice_keeps_the_first_date(
    session: Session, vendor: ScriptedVendor, importer: Importer
) -> None:
    vendor.add_purchases(MAY_1, "abc")
    vendor.add_purchases(day(2024, 5, 2, 9), "abc")
    commit_and_apply(session, importer.import_day(ImportCursor(MAY_2), NOW).outbox_ids)

    result = importer.import_day(ImportCursor(MAY_1), NOW)

    assert counts(result) == (1, 0, 0, 0)
    assert stored_purchases(session) == [("abc", date(2024, 5, 1)), ("abc", date(2024, 5, 2))]
    (view,) = title_views(session)
    assert view.purchased_on == "2024-05-01"


def test_white_space_around_an_id_is_removed(
    session: Session, vendor: ScriptedVendor, importer: Importer
) -> None:
    vendor.purchases = [(MAY_1, marc(" abc ", " "))]
    vendor.items["abc"] = item("abc")

    assert counts(importer.import_day(ImportCursor(MAY_1), NOW)) == (1, 0, 1, 0)
    assert stored_ids(session) == ["abc"]


def test_repaired_documents_are_counted(session: Session, vendor: ScriptedVendor, importer: Importer) -> None:
    vendor.add_purchases(MAY_1, *title_ids(50))
    vendor.purchases[0] = (MAY_1, marc("t0000", title="TITLE").replace("TITLE", "&ldquo;Solaris&rdquo;"))
    vendor.items["t0030"] = item("t0030", title="TITLE").replace("TITLE", "Salt &supl; Pepper")

    result = importer.import_day(ImportCursor(MAY_1), NOW)

    assert (result.repairs, result.counters.repairs) == (2, 2)
    assert counts(result) == (50, 0, 50, 0)
    assert importer.import_day(ImportCursor(MAY_2), NOW).repairs == 0


# Failures


PAGE = marc_page([marc("abc")])
FAILURES: dict[str, tuple[list[httpx.Response | Exception], type[RemoteIntegrationException]]] = {
    "bad gateway": ([httpx.Response(502)], BadResponseException),
    "HTML": ([httpx.Response(200, text="<html/>")], BadResponseException),
    "error document": (
        [httpx.Response(200, text=error_document("Unknown error"))],
        RemoteInitiatedServerError,
    ),
    "truncated page": ([httpx.Response(200, text=PAGE[:-30])], BadResponseException),
    "read timeout": ([httpx.ReadTimeout("slow")], RequestTimedOut),
    "unauthorised": ([httpx.Response(401)], AuthenticationFailed),
    "blank items": ([httpx.Response(200, text=PAGE), httpx.Response(200)], RemoteInitiatedServerError),
    "items unavailable": (
        [httpx.Response(200, text=marc_page([marc("abc"), marc()])), httpx.Response(503)],
        BadResponseException,
    ),
}


@pytest.mark.parametrize(("responses", "error"), FAILURES.values(), ids=FAILURES)
def test_vendor_failure_leaves_nothing_written(
    session: Session,
    vendor: ScriptedVendor,
    importer: Importer,
    responses: list[httpx.Response | Exception],
    error: type[RemoteIntegrationException],
) -> None:
    vendor.responses.extend(responses)

    with pytest.raises(error) as raised:
        importer.import_day(ImportCursor(MAY_1), NOW)

    assert raised.type is error
    # Committed on purpose: there is nothing to roll back.
    session.commit()
    for model in (LicensePool, PurchaseRecord, RejectedRecord, ApplyOutbox, Timestamp, Identifier):
        assert session.execute(select(table_of(model))).all() == []
    assert issubclass(error, TransientVendorError) == (error is not AuthenticationFailed)


def test_failed_second_lookup_discards_the_first(
    session: Session, vendor: ScriptedVendor, importer: Importer
) -> None:
    vendor.add_purchases(MAY_1, *title_ids(50))
    page = marc_page(record for _, record in vendor.purchases)
    items = "".join(vendor.items[item_id] for item_id in title_ids(25))
    vendor.responses.extend(
        [
            httpx.Response(200, text=page),
            httpx.Response(200, text=f"<ArrayOfItem>{items}</ArrayOfItem>"),
            httpx.ConnectError("refused"),
        ]
    )

    with pytest.raises(ConnectionFailed):
        importer.import_day(ImportCursor(MAY_1), NOW)
    session.commit()

    assert stored_ids(session) == []
    assert counts(importer.import_day(ImportCursor(MAY_1), NOW)) == (50, 0, 50, 0)


def test_crash_before_the_commit_leaves_nothing_of_the_page(
    session: Session, collection: Collection, vendor: ScriptedVendor, importer: Importer
) -> None:
    vendor.add_purchases(MAY_1, *title_ids(3))
    vendor.purchases.append((MAY_1, marc()))
    importer.import_day(ImportCursor(MAY_1), NOW)
    session.flush()
    session.rollback()

    for name, table in Base.metadata.tables.items():
        rows = session.execute(select(table)).all()
        assert len(rows) == (1 if name == "collections" else 0)

    result = importer.import_day(ImportCursor(MAY_1), NOW)
    session.commit()
    assert counts(result) == (4, 1, 3, 0)
    assert checkpoint(session, collection) == MAY_2


@pytest.mark.parametrize("empty_bodies", [False, True])
def test_checkpoint_never_passes_an_unstored_record(
    session: Session, vendor: ScriptedVendor, importer: Importer, empty_bodies: bool
) -> None:
    """Checked after each page; a failure before each page must lose nothing."""
    vendor.sends_empty_bodies = empty_bodies
    end = day(2024, 5, 4, 12)
    for moment, purchases in ((MAY_1, 120), (day(2024, 5, 2, 23, 59), 50), (day(2024, 5, 4, 11), 3)):
        vendor.add_purchases(moment, *title_ids(purchases, f"d{moment.day}-"))
        vendor.purchases.append((moment, marc(title=f"Without an identifier {moment}")))
    cursor = ImportCursor(day(2024, 4, 29))
    while not cursor.is_complete(end):
        vendor.responses.append(httpx.Response(502))
        with pytest.raises(BadResponseException):
            importer.import_day(cursor, end)
        session.rollback()
        page = importer.import_day(cursor, end)
        session.commit()

        reached = importer.get_start()
        passed = sum(moment < reached for moment, _ in vendor.purchases)
        stored = len(stored_purchases(session)) + count_rejected(session)
        assert passed <= stored
        cursor = page.next_cursor

    assert (stored, reached) == (176, end)


def test_page_processed_again_leaves_the_same_rows(
    session: Session, collection: Collection, vendor: ScriptedVendor, importer: Importer
) -> None:
    vendor.add_purchases(MAY_1, *title_ids(3))
    vendor.purchases.append((MAY_1, marc()))

    first = importer.import_day(ImportCursor(MAY_1), NOW)
    session.commit()
    before = (stored_ids(session), stored_purchases(session), count_rejected(session))
    second = importer.import_day(ImportCursor(MAY_1), NOW)
    session.commit()

    assert first.outbox_ids == second.outbox_ids
    assert len(outbox_rows(session)) == 3
    assert before == (stored_ids(session), stored_purchases(session), count_rejected(session))
    assert checkpoint(session, collection) == MAY_2


# The vendor's API


def test_collection_uses_its_own_account_and_base_url(
    session: Session, collection: Collection, vendor: ScriptedVendor
) -> None:
    vendor_api_for(collection).fetch_marc_page(MAY_1, MAY_2)

    (request,) = vendor.requests
    assert str(request.url).startswith("http://127.0.0.1:9/cirrus/library/alder/data/marc?")
    assert request.headers["3mcl-Authorization"].startswith("3MCLAUTH library.alder:")


def test_invalid_base_url_error_names_the_collection(session: Session, collection: Collection) -> None:
    collection.base_url = "http://partner.example"

    with pytest.raises(UserError, match='base URL of collection "Alder Library"'):
        vendor_api_for(collection)


def test_purchase_at_noon_is_in_the_window_of_its_day(
    session: Session, vendor: ScriptedVendor, importer: Importer
) -> None:
    vendor.add_purchases(NOON, "abc")

    assert importer.import_day(ImportCursor(MAY_1), NOW).titles_new == 1
