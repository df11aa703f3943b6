"""One page of purchase records: what is asked of the vendor, what is stored, and how far that is complete."""

from datetime import UTC, date, datetime, timedelta, timezone
from io import BytesIO

import httpx
import pytest
from pymarc import MARCReader
from sqlalchemy import select
from sqlalchemy.orm import Session
from structlog.testing import capture_logs

from accession.bibliotheca.errors import (
    RETRYABLE,
    BadResponseException,
    RemoteInitiatedServerError,
    RemoteIntegrationException,
    RequestTimedOut,
)
from accession.catalog.apply import apply_outbox
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
from accession.imports.purchases import (
    DEFAULT_PURCHASE_RECORD_START_TIME,
    BibliothecaPurchaseRecordImporter,
    PageImportResult,
)
from accession.imports.vendor import api_for
from accession.imports.windows import Place
from accession.runs.ledger import Counters, timestamp
from tests.fixtures.factories import NOON, day, make_pool
from tests.fixtures.holdings import outbox, warnings
from tests.fixtures.vendor import Vendor, error_document, item, marc, marc_page

MAY_1, MAY_2, MAY_3 = day(2024, 5, 1), day(2024, 5, 2), day(2024, 5, 3)
LATER = day(2024, 6, 1)


def checkpoint(session: Session, collection: Collection) -> datetime | None:
    return timestamp(session, collection, Workflow.PURCHASES).finish


def pools(session: Session) -> list[str]:
    query = select(Identifier.identifier).join(LicensePool, LicensePool.identifier_id == Identifier.id)
    return list(session.scalars(query.order_by(Identifier.identifier)))


def records(session: Session) -> list[tuple[str, date]]:
    query = (
        select(Identifier.identifier, PurchaseRecord.purchased_on)
        .join(LicensePool, LicensePool.identifier_id == Identifier.id)
        .join(PurchaseRecord, PurchaseRecord.license_pool_id == LicensePool.id)
    )
    return list(session.execute(query.order_by(Identifier.identifier, PurchaseRecord.purchased_on)))


def counts(result: PageImportResult) -> tuple[int, int, int, int]:
    return (
        result.records_fetched,
        result.records_rejected,
        result.titles_new,
        result.titles_changed,
    )


def names(count: int, prefix: str = "t") -> list[str]:
    return [f"{prefix}{n:03}" for n in range(count)]


def apply(session: Session, result: PageImportResult) -> None:
    apply_outbox(session, result.outbox_ids)
    session.commit()


# Where to start


def test_a_collection_never_imported_starts_with_the_vendors_first_year(
    importer: BibliothecaPurchaseRecordImporter,
) -> None:
    assert importer.get_start() == DEFAULT_PURCHASE_RECORD_START_TIME == datetime(2014, 1, 1, tzinfo=UTC)


def test_a_collection_goes_on_where_it_is_complete(
    session: Session, importer: BibliothecaPurchaseRecordImporter
) -> None:
    importer.import_page(Place(MAY_1), LATER)
    session.commit()

    assert importer.get_start() == MAY_2


def test_a_forced_reimport_forgets_how_far_it_was(
    session: Session, collection: Collection, importer: BibliothecaPurchaseRecordImporter
) -> None:
    importer.import_page(Place(MAY_1), LATER)

    importer.clear_checkpoint()

    assert checkpoint(session, collection) is None
    assert importer.get_start() == DEFAULT_PURCHASE_RECORD_START_TIME


# The window


@pytest.mark.parametrize(
    ("start", "cutoff", "end"),
    [
        (MAY_1, LATER, MAY_2),
        (MAY_1, MAY_2, MAY_2),
        (MAY_1, day(2024, 5, 1, 9, 30), day(2024, 5, 1, 9, 30)),
        (day(2024, 5, 1, 9, 30), LATER, MAY_2),
        (day(2024, 5, 1, 9, 30), day(2024, 5, 2, 9, 30), MAY_2),
        (day(2024, 5, 1, 9, 30), day(2024, 5, 1, 9, 31), day(2024, 5, 1, 9, 31)),
        (day(2024, 2, 29, 23, 59), LATER, day(2024, 3, 1)),
        (day(2023, 12, 31), LATER, day(2024, 1, 1)),
    ],
)
def test_a_window_ends_with_its_day_or_at_the_cutoff(
    session: Session,
    collection: Collection,
    vendor: Vendor,
    importer: BibliothecaPurchaseRecordImporter,
    start: datetime,
    cutoff: datetime,
    end: datetime,
) -> None:
    result = importer.import_page(Place(start), cutoff)

    assert (result.window.start, result.window.end) == (start, end)
    assert checkpoint(session, collection) == end
    assert vendor.marc_requests() == [
        {
            "startdate": start.strftime("%Y-%m-%dT%H:%M:%S"),
            "enddate": end.strftime("%Y-%m-%dT%H:%M:%S"),
            "offset": "1",
            "limit": "50",
        }
    ]


def test_a_day_is_a_day_in_utc_in_whatever_zone_its_start_is_told(
    session: Session, vendor: Vendor, importer: BibliothecaPurchaseRecordImporter
) -> None:
    """It is the 2nd of May in Berlin already."""
    vendor.sells(day(2024, 5, 1, 23), "abc")
    start = datetime(2024, 5, 2, 0, 30, tzinfo=timezone(timedelta(hours=2)))

    result = importer.import_page(Place(start), LATER)

    assert result.window.end == MAY_2
    assert vendor.marc_requests()[0]["startdate"] == "2024-05-01T22:30:00"
    assert records(session) == [("abc", date(2024, 5, 1))]


def test_a_moment_without_a_zone_is_refused_before_anything_is_asked(
    session: Session, vendor: Vendor, importer: BibliothecaPurchaseRecordImporter
) -> None:
    with pytest.raises(ValueError, match="carry a time zone"):
        importer.import_page(Place(datetime(2024, 5, 1)), LATER)  # noqa: DTZ001

    assert vendor.requests == []
    assert session.scalars(select(Timestamp)).all() == []


def test_windows_that_follow_each_other_meet_and_do_not_overlap(
    session: Session, vendor: Vendor, importer: BibliothecaPurchaseRecordImporter
) -> None:
    vendor.sells(MAY_1, "at-midnight")
    vendor.sells(day(2024, 5, 1, 23, 59), "before-midnight")
    vendor.sells(MAY_2, "next-midnight")
    moment = day(2024, 5, 1)
    while moment < MAY_3:
        moment = importer.import_page(Place(moment), MAY_3).window.end

    assert records(session) == [
        ("at-midnight", date(2024, 5, 1)),
        ("before-midnight", date(2024, 5, 1)),
        ("next-midnight", date(2024, 5, 2)),
    ]


# Pages


def test_an_empty_window_is_done(
    session: Session, collection: Collection, importer: BibliothecaPurchaseRecordImporter
) -> None:
    result = importer.import_page(Place(MAY_1), LATER)

    assert counts(result) == (0, 0, 0, 0)
    assert (result.next, result.outbox_ids) == (Place(MAY_2, empty=1), ())
    assert checkpoint(session, collection) == MAY_2


def test_a_blank_answer_is_believed_when_it_comes_twice(
    session: Session, collection: Collection, vendor: Vendor, importer: BibliothecaPurchaseRecordImporter
) -> None:
    vendor.answers.extend([httpx.Response(200), httpx.Response(200, text=" \n")])

    result = importer.import_page(Place(MAY_1), LATER)

    assert (result.records_fetched, result.next) == (0, Place(MAY_2, empty=1))
    assert len(vendor.marc_requests()) == 2
    assert checkpoint(session, collection) == MAY_2


def test_a_blank_answer_that_came_once_is_a_slip(
    session: Session, vendor: Vendor, importer: BibliothecaPurchaseRecordImporter
) -> None:
    vendor.sells(MAY_1, "abc")
    vendor.answers.append(httpx.Response(200))

    assert importer.import_page(Place(MAY_1), LATER).titles_new == 1


def test_a_partial_page_ends_its_window(
    session: Session, collection: Collection, vendor: Vendor, importer: BibliothecaPurchaseRecordImporter
) -> None:
    vendor.sells(MAY_1, *names(49))

    result = importer.import_page(Place(MAY_1), LATER)

    assert counts(result) == (49, 0, 49, 0)
    assert result.counters == Counters(49, 49, 0, 49, 0)
    assert result.next == Place(MAY_2)
    assert checkpoint(session, collection) == MAY_2


def test_a_full_page_leaves_the_checkpoint_at_the_windows_start(
    session: Session, collection: Collection, vendor: Vendor, importer: BibliothecaPurchaseRecordImporter
) -> None:
    vendor.sells(day(2024, 5, 1, 10), *names(60))
    start = day(2024, 5, 1, 9)

    first = importer.import_page(Place(start), LATER)
    assert (first.records_fetched, first.next.current_day, first.next.offset) == (50, start, 51)
    assert checkpoint(session, collection) == start

    second = importer.import_page(first.next, LATER)
    assert (second.records_fetched, second.next) == (10, Place(MAY_2))
    assert checkpoint(session, collection) == MAY_2
    assert [request["offset"] for request in vendor.marc_requests()] == ["1", "51"]
    assert pools(session) == names(60)


def test_the_checkpoint_moves_forward_and_over_no_gap(
    session: Session, collection: Collection, vendor: Vendor, importer: BibliothecaPurchaseRecordImporter
) -> None:
    """A message can name a day beyond what is complete, when its run is of a ledger that is no more."""
    importer.import_page(Place(MAY_1), LATER)

    importer.import_page(Place(day(2024, 5, 20)), LATER)
    assert checkpoint(session, collection) == MAY_2, "nobody has asked for the days between"

    importer.import_page(Place(day(2024, 4, 1)), LATER)
    assert checkpoint(session, collection) == MAY_2, "what is complete stays so"


def test_a_window_of_exactly_a_page_is_done_after_an_empty_one(
    session: Session, collection: Collection, vendor: Vendor, importer: BibliothecaPurchaseRecordImporter
) -> None:
    vendor.sells(MAY_1, *names(50))

    first = importer.import_page(Place(MAY_1), LATER)
    second = importer.import_page(first.next, LATER)

    assert (first.next.offset, second.next) == (51, Place(MAY_2))
    assert checkpoint(session, collection) == MAY_2


def test_a_page_that_repeats_the_one_before_ends_the_window_with_a_warning(
    session: Session, collection: Collection, vendor: Vendor, importer: BibliothecaPurchaseRecordImporter
) -> None:
    vendor.sells(MAY_1, *names(50))
    first = importer.import_page(Place(MAY_1), LATER)
    vendor.repeats_pages = True

    with capture_logs() as logs:
        second = importer.import_page(first.next, LATER)

    assert counts(second) == (0, 0, 0, 0)
    assert (second.next, second.outbox_ids) == (Place(MAY_2), ())
    assert checkpoint(session, collection) == MAY_2
    assert warnings(logs) == ["the vendor repeats a page at a higher offset; the window ends here"]


def test_the_first_page_of_a_window_is_never_a_repetition(
    session: Session, vendor: Vendor, importer: BibliothecaPurchaseRecordImporter
) -> None:
    vendor.sells(MAY_1, *names(50))
    importer.import_page(Place(MAY_1), LATER)

    assert importer.import_page(Place(MAY_1), LATER).records_fetched == 50


def test_pages_of_records_without_identifiers_are_told_apart_by_what_they_say(
    session: Session, vendor: Vendor, importer: BibliothecaPurchaseRecordImporter
) -> None:
    vendor.sold = [(MAY_1, marc(title=f"Title {n}")) for n in range(100)]

    first = importer.import_page(Place(MAY_1), LATER)
    second = importer.import_page(first.next, LATER)

    assert (first.records_rejected, second.records_rejected) == (50, 50)
    assert len(session.scalars(select(RejectedRecord)).all()) == 100


def test_a_full_page_of_unusable_records_that_is_repeated_ends_the_window_too(
    session: Session, vendor: Vendor, importer: BibliothecaPurchaseRecordImporter
) -> None:
    """The vendor stamps its records anew in each answer."""
    vendor.sold = [(MAY_1, marc(title=f"Title {n}")) for n in range(50)]
    first = importer.import_page(Place(MAY_1), LATER)
    vendor.sold = [(MAY_1, marc(title=f"Title {n}")) for n in range(50)]
    vendor.repeats_pages = True

    assert importer.import_page(first.next, LATER).next == Place(MAY_2)


# Titles


def test_a_purchase_record_becomes_a_pool_with_its_record_and_its_metadata_in_the_outbox(
    session: Session, collection: Collection, vendor: Vendor, importer: BibliothecaPurchaseRecordImporter
) -> None:
    vendor.sells(MAY_1, "abc")

    result = importer.import_page(Place(MAY_1), LATER)
    session.commit()

    assert counts(result) == (1, 0, 1, 0)
    assert pools(session) == ["abc"]
    assert records(session) == [("abc", date(2024, 5, 1))]
    marc21 = session.scalars(select(PurchaseRecord.marc)).one()
    (record,) = MARCReader(BytesIO(marc21))
    assert record is not None
    assert record["001"].data == "abc"
    waiting = outbox(session)
    assert tuple(waiting) == result.outbox_ids
    ((_, data),) = waiting.values()
    assert data.bibliographic is not None
    assert data.bibliographic.title == "Title abc"

    apply(session, result)
    (view,) = title_views(session)
    assert (view.title, view.licenses_owned, view.purchased_on) == ("Title abc", 1, "2024-05-01")


def test_every_title_of_a_page_is_looked_up_25_at_a_time_whether_new_or_not(
    session: Session, collection: Collection, vendor: Vendor, importer: BibliothecaPurchaseRecordImporter
) -> None:
    vendor.sells(MAY_1, *names(50))
    make_pool(session, collection, "t007")

    result = importer.import_page(Place(MAY_1), LATER)

    assert sorted(vendor.item_requests()) == [names(50)[:25], names(50)[25:]]
    assert (result.titles_new, result.titles_changed) == (49, 1)
    assert len(result.outbox_ids) == 50


def test_a_window_without_usable_records_looks_nothing_up(
    vendor: Vendor, importer: BibliothecaPurchaseRecordImporter
) -> None:
    vendor.sold = [(MAY_1, marc())]

    importer.import_page(Place(MAY_1), LATER)

    assert vendor.item_requests() == []


def test_only_what_needs_apply_is_in_the_outbox(
    session: Session, vendor: Vendor, importer: BibliothecaPurchaseRecordImporter
) -> None:
    vendor.sells(MAY_1, "same", "described-anew", "counted-anew")
    apply(session, importer.import_page(Place(MAY_1), LATER))
    vendor.sells(MAY_1, "new")
    vendor.items["described-anew"] = item("described-anew", title="Another title")
    vendor.items["counted-anew"] = item("counted-anew", title="Title counted-anew", available=0, holds=3)

    result = importer.import_page(Place(MAY_1), LATER)

    assert counts(result) == (4, 0, 1, 2)
    waiting = outbox(session)
    described = {name: data.bibliographic is not None for name, data in waiting.values()}
    assert described == {"counted-anew": False, "described-anew": True, "new": True}
    assert set(waiting) == set(result.outbox_ids)


def test_a_title_that_the_vendor_does_not_return_gets_its_pool_and_a_warning(
    session: Session, vendor: Vendor, importer: BibliothecaPurchaseRecordImporter
) -> None:
    vendor.sells(MAY_1, "abc", "gone")
    del vendor.items["gone"]

    with capture_logs() as logs:
        result = importer.import_page(Place(MAY_1), LATER)

    assert counts(result) == (2, 0, 2, 0)
    assert pools(session) == ["abc", "gone"]
    assert records(session) == [("abc", date(2024, 5, 1)), ("gone", date(2024, 5, 1))]
    assert len(result.outbox_ids) == 1
    assert [(line["event"], line["title"]) for line in logs if line["log_level"] == "warning"] == [
        ("the vendor has no metadata for a title it has sold", "gone")
    ]


def test_a_known_title_that_the_vendor_does_not_return_keeps_what_is_known_of_it(
    session: Session, vendor: Vendor, importer: BibliothecaPurchaseRecordImporter
) -> None:
    vendor.sells(MAY_1, "abc")
    apply(session, importer.import_page(Place(MAY_1), LATER))
    vendor.items.clear()

    assert importer.import_page(Place(MAY_1), LATER).outbox_ids == ()

    (view,) = title_views(session)
    assert (view.title, view.licenses_owned, view.status) == ("Title abc", 1, "active")


def test_a_malformed_item_is_reported_once_and_the_others_are_taken(
    session: Session, vendor: Vendor, importer: BibliothecaPurchaseRecordImporter
) -> None:
    vendor.sells(MAY_1, "abc", "bad")
    vendor.items["bad"] = item("bad", TotalCopies="many")

    with capture_logs() as logs:
        result = importer.import_page(Place(MAY_1), LATER)

    assert [name for name, _ in outbox(session).values()] == ["abc"]
    assert (result.titles_new, pools(session)) == (2, ["abc", "bad"])
    assert [(line["event"], line["title"], line["reason"]) for line in logs] == [
        ("title's metadata cannot be used", "bad", "TotalCopies is not a count: 'many'")
    ]


def test_metadata_nobody_asked_for_is_left_alone(
    session: Session, vendor: Vendor, importer: BibliothecaPurchaseRecordImporter
) -> None:
    vendor.sells(MAY_1, "abc")
    vendor.items["abc"] += item("other")

    importer.import_page(Place(MAY_1), LATER)

    assert [name for name, _ in outbox(session).values()] == ["abc"]
    assert pools(session) == ["abc"]


def test_a_title_twice_on_a_page_is_one_title(
    session: Session, vendor: Vendor, importer: BibliothecaPurchaseRecordImporter
) -> None:
    vendor.sells(MAY_1, "abc", "abc")

    result = importer.import_page(Place(MAY_1), LATER)

    assert counts(result) == (2, 0, 1, 0)
    assert (pools(session), vendor.item_requests()) == (["abc"], [["abc"]])
    assert records(session) == [("abc", date(2024, 5, 1))]
    assert len(result.outbox_ids) == 1


def test_a_title_bought_again_keeps_both_records_and_the_day_of_the_first(
    session: Session, vendor: Vendor, importer: BibliothecaPurchaseRecordImporter
) -> None:
    vendor.sells(MAY_1, "abc")
    vendor.sells(day(2024, 5, 2, 9), "abc")
    apply(session, importer.import_page(Place(MAY_2), LATER))

    again = importer.import_page(Place(MAY_1), LATER)

    assert counts(again) == (1, 0, 0, 0)
    assert records(session) == [("abc", date(2024, 5, 1)), ("abc", date(2024, 5, 2))]
    (view,) = title_views(session)
    assert view.purchased_on == "2024-05-01"


def test_an_identifier_with_white_space_around_it_is_the_identifier_within(
    session: Session, vendor: Vendor, importer: BibliothecaPurchaseRecordImporter
) -> None:
    vendor.sold = [(MAY_1, marc(" abc ", " "))]
    vendor.items["abc"] = item("abc")

    assert counts(importer.import_page(Place(MAY_1), LATER)) == (1, 0, 1, 0)
    assert pools(session) == ["abc"]


def test_documents_that_had_to_be_repaired_are_counted(
    session: Session, vendor: Vendor, importer: BibliothecaPurchaseRecordImporter
) -> None:
    vendor.sells(MAY_1, *names(50))
    vendor.sold[0] = (MAY_1, marc("t000", title="TITLE").replace("TITLE", "&ldquo;Solaris&rdquo;"))
    vendor.items["t030"] = item("t030", title="TITLE").replace("TITLE", "Salt &supl; Pepper")

    result = importer.import_page(Place(MAY_1), LATER)

    assert (result.repairs, result.counters.repairs) == (2, 2)
    assert counts(result) == (50, 0, 50, 0)
    assert importer.import_page(Place(MAY_2), LATER).repairs == 0


# When it goes wrong


FAULTS: list[tuple[list[httpx.Response | Exception], type[RemoteIntegrationException]]] = [
    ([httpx.Response(502)], BadResponseException),
    ([httpx.Response(200, text="<html/>")], BadResponseException),
    ([httpx.Response(200, text=error_document("Unknown error"))], RemoteInitiatedServerError),
    ([httpx.Response(200, text=marc_page([marc("abc")])[:-30])], BadResponseException),
    ([httpx.ReadTimeout("slow")], RequestTimedOut),
    ([httpx.Response(401)], RemoteIntegrationException),
    ([httpx.Response(200, text=marc_page([marc("abc")])), httpx.Response(200)], RemoteInitiatedServerError),
    ([httpx.Response(200, text=marc_page([marc("abc"), marc()])), httpx.Response(503)], BadResponseException),
]


@pytest.mark.parametrize(("answers", "error"), FAULTS)
def test_a_vendor_fault_leaves_nothing_written(
    session: Session,
    vendor: Vendor,
    importer: BibliothecaPurchaseRecordImporter,
    answers: list[httpx.Response | Exception],
    error: type[RemoteIntegrationException],
) -> None:
    vendor.answers.extend(answers)

    with pytest.raises(error) as raised:
        importer.import_page(Place(MAY_1), LATER)

    assert raised.type is error
    # Committed on purpose: there is nothing to roll back.
    session.commit()
    for model in (LicensePool, PurchaseRecord, RejectedRecord, ApplyOutbox, Timestamp, Identifier):
        assert session.execute(select(table_of(model))).all() == []
    assert (error in RETRYABLE) == (error is not RemoteIntegrationException)


def test_a_fault_at_the_second_lookup_loses_the_first_too(
    session: Session, vendor: Vendor, importer: BibliothecaPurchaseRecordImporter
) -> None:
    vendor.sells(MAY_1, *names(50))
    page = marc_page(record for _, record in vendor.sold)
    found = "".join(vendor.items[name] for name in names(25))
    vendor.answers.extend(
        [
            httpx.Response(200, text=page),
            httpx.Response(200, text=f"<ArrayOfItem>{found}</ArrayOfItem>"),
            httpx.ConnectError("gone"),
        ]
    )

    with pytest.raises(RequestTimedOut):
        importer.import_page(Place(MAY_1), LATER)
    session.commit()

    assert pools(session) == []
    assert counts(importer.import_page(Place(MAY_1), LATER)) == (50, 0, 50, 0)


def test_a_crash_before_the_commit_leaves_nothing_of_the_page(
    session: Session, collection: Collection, vendor: Vendor, importer: BibliothecaPurchaseRecordImporter
) -> None:
    vendor.sells(MAY_1, *names(3))
    vendor.sold.append((MAY_1, marc()))
    importer.import_page(Place(MAY_1), LATER)
    session.flush()
    session.rollback()

    for name, table in Base.metadata.tables.items():
        rows = session.execute(select(table)).all()
        assert len(rows) == (1 if name == "collections" else 0)

    result = importer.import_page(Place(MAY_1), LATER)
    session.commit()
    assert counts(result) == (4, 1, 3, 0)
    assert checkpoint(session, collection) == MAY_2


def test_the_checkpoint_never_passes_a_record_that_is_neither_stored_nor_rejected(
    session: Session, collection: Collection, vendor: Vendor, importer: BibliothecaPurchaseRecordImporter
) -> None:
    """Looked at after every page, with a fault before each that must lose nothing."""
    end = day(2024, 5, 4, 12)
    for moment, sold in ((MAY_1, 120), (day(2024, 5, 2, 23, 59), 50), (day(2024, 5, 4, 11), 3)):
        vendor.sells(moment, *names(sold, f"d{moment.day}-"))
        vendor.sold.append((moment, marc(title=f"Without an identifier {moment}")))
    place = Place(MAY_1)
    while place.current_day < end:
        vendor.answers.append(httpx.Response(502))
        with pytest.raises(BadResponseException):
            importer.import_page(place, end)
        session.rollback()
        page = importer.import_page(place, end)
        session.commit()

        reached = importer.get_start()
        passed = sum(sold_at < reached for sold_at, _ in vendor.sold)
        kept = len(records(session)) + len(session.scalars(select(RejectedRecord)).all())
        assert passed <= kept
        place = page.next

    assert (kept, reached) == (176, end)


def test_a_page_processed_again_leaves_the_same_rows(
    session: Session, collection: Collection, vendor: Vendor, importer: BibliothecaPurchaseRecordImporter
) -> None:
    vendor.sells(MAY_1, *names(3))
    vendor.sold.append((MAY_1, marc()))

    first = importer.import_page(Place(MAY_1), LATER)
    session.commit()
    before = (pools(session), records(session), len(session.scalars(select(RejectedRecord)).all()))
    second = importer.import_page(Place(MAY_1), LATER)
    session.commit()

    assert first.outbox_ids == second.outbox_ids
    assert len(outbox(session)) == 3
    assert before == (pools(session), records(session), len(session.scalars(select(RejectedRecord)).all()))
    assert checkpoint(session, collection) == MAY_2


# The vendor of a collection


def test_a_collection_asks_its_own_vendor_with_its_own_account(
    session: Session, collection: Collection, vendor: Vendor
) -> None:
    api_for(collection).marc_page(MAY_1, MAY_2)

    (request,) = vendor.requests
    assert str(request.url).startswith("http://127.0.0.1:9/cirrus/library/alder/data/marc?")
    assert request.headers["3mcl-Authorization"].startswith("3MCLAUTH library.alder:")


def test_a_collection_whose_address_cannot_be_used_is_named(session: Session, collection: Collection) -> None:
    collection.base_url = "http://partner.example"

    with pytest.raises(UserError, match='base URL of collection "Alder Library" is invalid'):
        api_for(collection)


def test_noon_is_in_the_window_of_its_day(
    session: Session, vendor: Vendor, importer: BibliothecaPurchaseRecordImporter
) -> None:
    vendor.sells(NOON, "abc")

    assert importer.import_page(Place(MAY_1), LATER).titles_new == 1
