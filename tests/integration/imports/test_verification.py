"""Tests of the verification of past months: what it finds, what it repairs, and faults of the vendor."""

from collections.abc import Callable, Iterable
from datetime import date, datetime, timedelta

import httpx
import pytest
import time_machine
from sqlalchemy import select
from sqlalchemy.orm import Session

from accession.bibliotheca.errors import BadResponseException, RemoteInitiatedServerError
from accession.catalog.purchase_dates import PurchaseDate
from accession.catalog.purchase_records import PurchaseRecordData, store_purchase_records
from accession.catalog.verification import finding_views, list_verified_months
from accession.catalog.written_rows import count_rows_written_since, read_table_state
from accession.core.settings import get_settings
from accession.core.workflow import Workflow
from accession.db.models import Collection, Identifier, LicensePool, ListedRecord, PurchaseRecord, Run
from accession.imports.purchases import BibliothecaPurchaseRecordImporter
from accession.imports.vendor_api import vendor_api_for
from accession.imports.verification import (
    PurchaseVerifier,
    VerificationCursor,
    begin_due_verification,
    begin_verification,
)
from accession.imports.verification_summary import verification_summary
from accession.runs.ledger import RunCounters, find_run, get_or_create_checkpoint, open_run, record_step
from tests.fixtures.factories import day, make_pool
from tests.fixtures.holdings import title_ids
from tests.fixtures.purchases import count_rejected, import_listed_days, requested_pages, stored_purchases
from tests.fixtures.vendor import ScriptedVendor, marc

NOW = day(2024, 7, 1, 10)
APRIL, JUNE = date(2024, 4, 1), date(2024, 6, 1)
EMPTY = httpx.Response(200)

Found = tuple[str, str, str, str | None]


def days_of(session: Session, title: str) -> list[date]:
    """Return the days under which purchases of the title are stored."""
    return [purchased_on for identifier, purchased_on in stored_purchases(session) if identifier == title]


class VerificationRun:
    """A run that imports and then verifies the purchases of a collection, page by page."""

    def __init__(self, session: Session, collection: Collection, vendor: ScriptedVendor) -> None:
        open_run(session, collection.id, Workflow.VERIFICATION, "task", {})
        run = find_run(session, "task")
        assert run is not None
        self._run: Run = run
        self._session, self._collection, self._vendor = session, collection, vendor
        api = vendor_api_for(collection)
        self._importer = BibliothecaPurchaseRecordImporter(session, collection, api, run)
        self._verifier = PurchaseVerifier(session, collection, api, run)

    def import_all(self, now: datetime = NOW) -> None:
        """Import everything that the vendor lists."""
        import_listed_days(self._session, self._collection, self._importer, self._vendor, now)

    def verify(
        self, cursor: VerificationCursor, *, before_page: Callable[[int], object] = lambda _: None
    ) -> int:
        """Verify page after page, calling `before_page` with the number of each; return their number."""
        pages = 0
        while not cursor.is_complete:
            assert pages < 300, f"the verification does not end; its cursor is {cursor}"
            before_page(pages)
            pages += 1
            step = self._verifier.verify_page(cursor, NOW)
            self._record(step.counters)
            cursor = step.next_cursor
        return pages

    def verify_months(
        self,
        first: date | None = None,
        last: date | None = None,
        *,
        with_days: bool = False,
        repairs: bool = False,
        before_page: Callable[[int], object] = lambda _: None,
    ) -> int:
        """Verify the months from the first to the last."""
        cursor = begin_verification(
            self._session,
            self._collection,
            first_month=first,
            last_month=last,
            with_days=with_days,
            repairs=repairs,
        )
        return self.verify(cursor, before_page=before_page)

    def _record(self, counters: RunCounters) -> None:
        record_step(self._run, counters, since=None, next_cursor={})
        self._session.commit()


@pytest.fixture
def run(session: Session, collection: Collection, vendor: ScriptedVendor) -> VerificationRun:
    """A run at a vendor that sends empty bodies for windows without purchases."""
    vendor.sends_empty_bodies = True
    return VerificationRun(session, collection, vendor)


@pytest.fixture(autouse=True)
def present() -> Iterable[None]:
    with time_machine.travel(NOW, tick=False):
        yield


def import_three_months(run: VerificationRun, vendor: ScriptedVendor) -> None:
    """Import purchases of March, April and June."""
    vendor.add_purchases(day(2024, 3, 10, 9), "march")
    vendor.add_purchases(day(2024, 4, 5, 9), "april-5")
    vendor.add_purchases(day(2024, 4, 20, 9), "april-20")
    vendor.add_purchases(day(2024, 6, 7, 9), "june")
    run.import_all()
    vendor.requests.clear()


def move_purchase(vendor: ScriptedVendor, identifier: str, moment: datetime) -> None:
    """Let the vendor list the title's purchases at another time."""
    withdraw_purchases(vendor, identifier)
    vendor.add_purchases(moment, identifier)


def withdraw_purchases(vendor: ScriptedVendor, identifier: str) -> None:
    vendor.purchases = [(at, record) for at, record in vendor.purchases if f">{identifier}<" not in record]


def findings(session: Session, *, with_resolved: bool = False) -> list[Found]:
    return [
        (each.kind, each.identifier, each.purchased_on, each.moved_to)
        for each in finding_views(session, with_resolved=with_resolved)
    ]


def checkpoint(session: Session, collection: Collection) -> tuple[datetime | None, datetime | None]:
    row = get_or_create_checkpoint(session, collection, Workflow.PURCHASES)
    session.refresh(row)
    return row.finish, row.confirmed


def listings(session: Session) -> dict[str, int]:
    """Return how often each stored title is listed on all its days."""
    query = select(Identifier.identifier, PurchaseRecord.listed)
    query = query.join(LicensePool, LicensePool.identifier_id == Identifier.id)
    rows = session.execute(query.join(PurchaseRecord, PurchaseRecord.license_pool_id == LicensePool.id))
    return dict(rows.all())


# Months without differences


def test_equal_months_are_verified_without_writing(
    session: Session, collection: Collection, vendor: ScriptedVendor, run: VerificationRun
) -> None:
    import_three_months(run, vendor)
    before, state = checkpoint(session, collection), read_table_state(session)
    session.commit()

    run.verify_months(repairs=True)

    assert count_rows_written_since(session, state) == 0
    assert checkpoint(session, collection) == before
    assert findings(session) == []
    assert requested_pages(vendor) == [
        ("01-01", "04-01", "1"),
        ("04-01", "06-01", "1"),
        ("06-01", "07-01", "1"),
    ]
    verified = list_verified_months(session, collection)
    assert (len(verified), {month.verified_at for month in verified.values()}) == (126, {NOW})
    assert {month: view.listed for month, view in verified.items() if view.listed} == {
        date(2024, 3, 1): 1,
        date(2024, 4, 1): 2,
        date(2024, 6, 1): 1,
    }
    assert session.scalars(select(ListedRecord)).all() == []


def test_month_without_purchases_is_verified_with_its_neighbour(
    session: Session, collection: Collection, vendor: ScriptedVendor, run: VerificationRun
) -> None:
    import_three_months(run, vendor)

    run.verify_months(date(2024, 5, 1), date(2024, 5, 1))

    assert requested_pages(vendor) == [("04-01", "06-01", "1")]
    assert sorted(list_verified_months(session, collection)) == [date(2024, 4, 1), date(2024, 5, 1)]


def test_collection_without_purchases_has_nothing_to_verify(
    session: Session, collection: Collection, vendor: ScriptedVendor, run: VerificationRun
) -> None:
    run.import_all()
    vendor.requests.clear()

    assert run.verify_months(repairs=True) == 0
    assert begin_due_verification(session, collection).is_complete
    assert verification_summary(session, collection).requests == 0
    assert vendor.requests == []


def test_days_not_imported_yet_are_not_compared(
    session: Session, vendor: ScriptedVendor, run: VerificationRun
) -> None:
    import_three_months(run, vendor)
    vendor.add_purchases(day(2024, 7, 1, 9), "today")

    run.verify_months()

    assert findings(session) == []


# Missing purchases


def test_missing_purchases_are_found_and_not_imported(
    session: Session, collection: Collection, vendor: ScriptedVendor, run: VerificationRun
) -> None:
    import_three_months(run, vendor)
    vendor.add_purchases(day(2024, 4, 9, 9), "late", "later")
    vendor.add_purchases(day(2024, 6, 9, 9), "june")
    before = stored_purchases(session)

    run.verify_months()

    assert findings(session) == [
        ("missing", "late", "2024-04 to 2024-05", None),
        ("missing", "later", "2024-04 to 2024-05", None),
        ("missing", "june", "2024-06", None),
    ]
    assert stored_purchases(session) == before
    verified = list_verified_months(session, collection)
    assert [verified[date(2024, month, 1)].missing for month in (3, 4, 5, 6)] == [0, 2, 0, 1]


def test_missing_purchases_are_imported_under_their_day(
    session: Session, collection: Collection, vendor: ScriptedVendor, run: VerificationRun
) -> None:
    import_three_months(run, vendor)
    vendor.add_purchases(day(2024, 2, 9, 9), "earliest")
    vendor.add_purchases(day(2024, 4, 9, 9), "late")
    vendor.add_purchases(day(2024, 5, 9, 9), "alone")
    before = checkpoint(session, collection)

    run.verify_months(repairs=True)

    assert set(stored_purchases(session)) >= {
        ("earliest", date(2024, 2, 9)),
        ("late", date(2024, 4, 9)),
        ("alone", date(2024, 5, 9)),
    }
    assert findings(session) == []
    assert findings(session, with_resolved=True) == [
        ("missing", "earliest", "2024-02-09", None),
        ("missing", "alone", "2024-05-09", None),
        ("missing", "late", "2024-04-09", None),
    ]
    assert checkpoint(session, collection) == before


def test_missing_purchase_of_a_stored_title_is_imported(
    session: Session, vendor: ScriptedVendor, run: VerificationRun
) -> None:
    """The title is listed on another day before: reading that must not end the search."""
    import_three_months(run, vendor)
    vendor.add_purchases(day(2024, 4, 28, 9), "april-5")

    run.verify_months(APRIL, APRIL, repairs=True)

    assert ("april-5", date(2024, 4, 28)) in stored_purchases(session)
    assert findings(session) == []


def test_repair_of_many_purchases_imports_all_days(
    session: Session, vendor: ScriptedVendor, run: VerificationRun
) -> None:
    import_three_months(run, vendor)
    days = {identifier: (1, 15, 30)[number % 3] for number, identifier in enumerate(title_ids(120))}
    for identifier, number in days.items():
        vendor.add_purchases(day(2024, 6, number, 9), identifier)

    run.verify_months(JUNE, repairs=True)

    stored = dict(stored_purchases(session))
    assert {identifier: stored[identifier].day for identifier in days} == days
    assert findings(session) == []


def test_missing_invalid_record_is_stored_as_rejected(
    session: Session, vendor: ScriptedVendor, run: VerificationRun
) -> None:
    import_three_months(run, vendor)
    vendor.purchases.append((day(2024, 4, 9, 9), marc()))

    run.verify_months(APRIL, APRIL, repairs=True)
    assert (count_rejected(session), findings(session)) == (1, [])

    vendor.requests.clear()
    run.verify_months(APRIL, APRIL, repairs=True)
    assert len(vendor.marc_requests()) == 1


def test_finding_is_resolved_once_the_purchase_is_imported(
    session: Session, vendor: ScriptedVendor, run: VerificationRun
) -> None:
    import_three_months(run, vendor)
    vendor.add_purchases(day(2024, 4, 9, 9), "late")
    run.verify_months(APRIL, APRIL)
    run.import_all()

    run.verify_months(APRIL, APRIL)

    assert findings(session) == []
    assert findings(session, with_resolved=True) == [("missing", "late", "2024-04-09", None)]


# Extra and moved purchases


def test_withdrawn_purchase_is_reported_and_kept(
    session: Session, vendor: ScriptedVendor, run: VerificationRun
) -> None:
    import_three_months(run, vendor)
    withdraw_purchases(vendor, "april-20")
    before = stored_purchases(session)

    for _ in range(2):
        run.verify_months(APRIL, APRIL, repairs=True)

    assert findings(session, with_resolved=True) == [("extra", "april-20", "2024-04-20", None)]
    assert stored_purchases(session) == before


def test_extra_purchase_is_resolved_once_listed_again(
    session: Session, vendor: ScriptedVendor, run: VerificationRun
) -> None:
    import_three_months(run, vendor)
    purchases = list(vendor.purchases)
    withdraw_purchases(vendor, "april-20")
    run.verify_months(APRIL, APRIL)
    vendor.purchases = purchases

    run.verify_months(APRIL, APRIL)

    assert findings(session) == []


@pytest.mark.parametrize("moment", [day(2024, 3, 20, 9), day(2024, 6, 20, 9)], ids=["earlier", "later"])
def test_purchase_moved_to_another_month_is_stored_there_only(
    session: Session, vendor: ScriptedVendor, run: VerificationRun, moment: datetime
) -> None:
    import_three_months(run, vendor)
    move_purchase(vendor, "april-20", moment)

    run.verify_months()
    assert ("moved", "april-20", "2024-04-20", f"{moment:%Y-%m}") in [
        (kind, identifier, stored, (moved_to or "")[-7:] or None)
        for kind, identifier, stored, moved_to in findings(session)
    ]

    run.verify_months(repairs=True)
    assert days_of(session, "april-20") == [moment.date()]
    assert findings(session) == []


@pytest.mark.parametrize("moment", [day(2024, 3, 20, 9), day(2024, 6, 20, 9)], ids=["earlier", "later"])
def test_moved_purchase_is_repaired_in_one_verification(
    session: Session, vendor: ScriptedVendor, run: VerificationRun, moment: datetime
) -> None:
    import_three_months(run, vendor)
    move_purchase(vendor, "april-20", moment)

    run.verify_months(repairs=True)

    assert days_of(session, "april-20") == [moment.date()]
    assert findings(session) == []


def test_only_purchase_of_a_month_can_be_moved(
    session: Session, vendor: ScriptedVendor, run: VerificationRun
) -> None:
    """The vendor's body for the month is then empty, rightly."""
    import_three_months(run, vendor)
    move_purchase(vendor, "march", day(2024, 6, 20, 9))

    run.verify_months(repairs=True)

    assert ("march", date(2024, 6, 20)) in stored_purchases(session)
    assert ("march", date(2024, 3, 10)) not in stored_purchases(session)
    assert findings(session) == []


@pytest.mark.parametrize("moved_to", [5, 12], ids=["day with purchases", "day without"])
def test_purchase_moved_within_a_month_is_found_by_days(
    session: Session, vendor: ScriptedVendor, run: VerificationRun, moved_to: int
) -> None:
    import_three_months(run, vendor)
    move_purchase(vendor, "april-20", day(2024, 4, moved_to, 10))

    run.verify_months(APRIL, APRIL, repairs=True)
    assert findings(session) == []
    assert ("april-20", date(2024, 4, 20)) in stored_purchases(session)

    run.verify_months(APRIL, APRIL, with_days=True)
    assert [each[:3] for each in findings(session) if each[0] == "moved"] == [
        ("moved", "april-20", "2024-04-20")
    ]

    run.verify_months(APRIL, APRIL, with_days=True, repairs=True)
    assert days_of(session, "april-20") == [date(2024, 4, moved_to)]
    assert findings(session) == []


def test_purchase_known_to_be_moved_is_repaired_without_days(
    session: Session, vendor: ScriptedVendor, run: VerificationRun
) -> None:
    import_three_months(run, vendor)
    move_purchase(vendor, "april-20", day(2024, 4, 12, 10))
    run.verify_months(APRIL, APRIL, with_days=True)

    run.verify_months(APRIL, APRIL, repairs=True)

    assert ("april-20", date(2024, 4, 12)) in stored_purchases(session)
    assert ("april-20", date(2024, 4, 20)) not in stored_purchases(session)


def test_days_are_compared_with_a_request_each(vendor: ScriptedVendor, run: VerificationRun) -> None:
    import_three_months(run, vendor)

    pages = run.verify_months(APRIL, APRIL, with_days=True)

    assert requested_pages(vendor) == [
        ("04-05", "04-06", "1"),
        ("04-20", "04-21", "1"),
        ("04-01", "06-01", "1"),
    ]
    assert pages == 3


# Titles that are listed several times


def test_title_listed_twice_on_a_day_is_known_to_the_daily_check(
    session: Session,
    vendor: ScriptedVendor,
    run: VerificationRun,
    importer: BibliothecaPurchaseRecordImporter,
) -> None:
    for _ in range(2):
        vendor.add_purchases(day(2024, 6, 20, 9), "twice")
    run.import_all()
    vendor.requests.clear()

    now = NOW + timedelta(days=1)
    page = importer.import_day(importer.first_cursor(now), now)

    assert page.next_cursor.is_complete(now)
    assert listings(session) == {"twice": 2}


def test_title_listed_on_two_pages_of_a_day_is_counted_once_each(
    session: Session, vendor: ScriptedVendor, run: VerificationRun
) -> None:
    ids = title_ids(120)
    for identifier in ["first", *ids[:60], "first", *ids[60:], "first", "last"]:
        vendor.add_purchases(day(2024, 6, 20, 9), identifier)

    run.import_all()
    assert {number for name, number in listings(session).items() if name != "first"} == {1}
    assert listings(session)["first"] == 3

    state = read_table_state(session)
    session.commit()
    vendor.purchases.remove(next(each for each in vendor.purchases if ">last<" in each[1]))
    run.verify_months(repairs=True)
    assert findings(session) == [("extra", "last", "2024-06-20", None)]
    assert count_rows_written_since(session, state) == 0


def test_reimport_of_a_day_does_not_add_listings(
    session: Session, vendor: ScriptedVendor, run: VerificationRun
) -> None:
    for identifier in ["first", *title_ids(60), "first"]:
        vendor.add_purchases(day(2024, 6, 20, 9), identifier)
    for _ in range(2):
        run.import_all()

    assert listings(session)["first"] == 2


def test_purchase_missing_on_the_day_of_another_is_added(
    session: Session, vendor: ScriptedVendor, run: VerificationRun
) -> None:
    import_three_months(run, vendor)
    vendor.add_purchases(day(2024, 6, 7, 12), "june")

    run.verify_months(JUNE, repairs=True)

    assert listings(session)["june"] == 2
    assert findings(session) == []


def test_purchases_known_by_month_only_are_verified(
    session: Session, collection: Collection, vendor: ScriptedVendor, run: VerificationRun
) -> None:
    import_three_months(run, vendor)
    vendor.add_purchases(day(2024, 4, 9, 9), "monthly")
    pool = make_pool(session, collection, "monthly")
    record = PurchaseRecordData(pool, lambda: b"marc", "hash", 1)
    store_purchase_records(session, {PurchaseDate(date(2024, 4, 1), month_only=True): [record]})

    pages = run.verify_months(APRIL, APRIL, with_days=True, repairs=True)

    assert (pages, findings(session, with_resolved=True)) == (1, [])


# Pages


def test_months_of_several_pages_are_compared_as_a_whole(
    session: Session, vendor: ScriptedVendor, run: VerificationRun
) -> None:
    ids = title_ids(130)
    for number, identifier in enumerate(ids):
        vendor.add_purchases(day(2024, 6, 1 + number // 45, 9), identifier)
    run.import_all()
    vendor.requests.clear()
    withdraw_purchases(vendor, ids[3])
    vendor.add_purchases(day(2024, 6, 28, 9), "late")

    run.verify_months()

    assert requested_pages(vendor) == [("01-01", "07-01", offset) for offset in ("1", "50", "99")]
    assert [each[:2] for each in findings(session)] == [("missing", "late"), ("extra", ids[3])]


def test_shift_between_two_pages_starts_the_month_again(
    session: Session, vendor: ScriptedVendor, run: VerificationRun
) -> None:
    ids = title_ids(60)
    for identifier in ids:
        vendor.add_purchases(day(2024, 6, 1, 9), identifier)
    run.import_all()
    vendor.requests.clear()

    def withdraw_first(page: int) -> None:
        if page == 1:
            withdraw_purchases(vendor, ids[0])

    run.verify_months(before_page=withdraw_first)

    assert [offset for _, _, offset in requested_pages(vendor)] == ["1", "50", "1", "50"]
    assert [each[:2] for each in findings(session)] == [("extra", ids[0])]


def test_pages_that_contradict_each_other_are_an_error(
    session: Session, collection: Collection, vendor: ScriptedVendor, run: VerificationRun
) -> None:
    for identifier in title_ids(60):
        vendor.add_purchases(day(2024, 6, 1, 9), identifier)
    run.import_all()
    vendor.is_repeating_pages = True

    with pytest.raises(BadResponseException, match="contradict"):
        run.verify_months()
    session.rollback()
    assert list_verified_months(session, collection) == {}


# Empty bodies


@pytest.mark.parametrize("empty_bodies", [1, 2, 3])
def test_empty_bodies_prove_nothing(
    session: Session, collection: Collection, vendor: ScriptedVendor, run: VerificationRun, empty_bodies: int
) -> None:
    import_three_months(run, vendor)

    def send_empty_bodies(page: int) -> None:
        if not page:
            vendor.responses.extend([EMPTY] * empty_bodies)

    run.verify_months(repairs=True, before_page=send_empty_bodies)

    assert findings(session, with_resolved=True) == []
    assert len(list_verified_months(session, collection)) == 126


def test_vendor_without_any_purchase_left_is_an_error(
    session: Session, collection: Collection, vendor: ScriptedVendor, run: VerificationRun
) -> None:
    import_three_months(run, vendor)
    vendor.purchases.clear()

    with pytest.raises(RemoteInitiatedServerError, match="empty responses"):
        run.verify_months(repairs=True)
    session.rollback()

    assert (findings(session), list_verified_months(session, collection)) == ([], {})
    assert len(stored_purchases(session)) == 4


def test_empty_collection_proves_that_a_month_is_empty(
    session: Session, vendor: ScriptedVendor, run: VerificationRun
) -> None:
    import_three_months(run, vendor)
    vendor.sends_empty_bodies = False
    withdraw_purchases(vendor, "june")

    assert run.verify_months(JUNE) == 1
    assert findings(session) == [("extra", "june", "2024-06-07", None)]


def test_empty_body_in_place_of_a_later_page_is_an_error(
    session: Session, vendor: ScriptedVendor, run: VerificationRun
) -> None:
    for identifier in title_ids(60):
        vendor.add_purchases(day(2024, 6, 1, 9), identifier)
    run.import_all()

    def send_empty_bodies(page: int) -> None:
        if page == 1:
            vendor.responses.extend([EMPTY] * 3)

    with pytest.raises(RemoteInitiatedServerError):
        run.verify_months(before_page=send_empty_bodies)


# Months that are due


def due_months(session: Session, collection: Collection) -> list[str]:
    return [f"{month:%Y-%m}" for month in begin_due_verification(session, collection).months]


def due_on(session: Session, collection: Collection, days: int) -> list[str]:
    """Return the months that are due so many days from now."""
    with time_machine.travel(NOW + timedelta(days=days), tick=False):
        return due_months(session, collection)


def test_never_verified_months_are_due_first_within_the_budget(
    session: Session,
    collection: Collection,
    vendor: ScriptedVendor,
    run: VerificationRun,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(get_settings(), "verification_requests", 2)
    import_three_months(run, vendor)
    assert due_months(session, collection) == ["2014-01", "2024-04"]

    run.verify(begin_due_verification(session, collection))
    assert due_months(session, collection) == []
    with time_machine.travel(day(2024, 7, 2, 10), tick=False):
        run.import_all(now=day(2024, 7, 2, 10))
        assert due_months(session, collection) == ["2024-06"]


def test_months_found_to_differ_are_due_for_a_week(
    session: Session, collection: Collection, vendor: ScriptedVendor, run: VerificationRun
) -> None:
    import_three_months(run, vendor)
    vendor.add_purchases(day(2024, 4, 9, 9), "late")
    vendor.add_purchases(day(2024, 6, 8, 9), "more")
    run.import_all()
    withdraw_purchases(vendor, "june")
    vendor.add_purchases(day(2024, 4, 10, 9), "later")
    run.verify_months()

    assert [due_on(session, collection, days) for days in (1, 6, 7)] == [["2024-04"], ["2024-04"], []]


def test_no_months_are_due_without_a_budget(
    session: Session,
    collection: Collection,
    vendor: ScriptedVendor,
    run: VerificationRun,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(get_settings(), "verification_requests", 0)
    import_three_months(run, vendor)

    assert begin_due_verification(session, collection).is_complete


# Cost


def test_cost_is_the_number_of_requests_made(
    session: Session, collection: Collection, vendor: ScriptedVendor, run: VerificationRun
) -> None:
    import_three_months(run, vendor)
    for number, identifier in enumerate(title_ids(130)):
        vendor.add_purchases(day(2024, 5, 1 + number // 65, 9), identifier)
    run.import_all()
    summary = verification_summary(session, collection)

    vendor.requests.clear()
    assert run.verify_months() == len(vendor.marc_requests()) == summary.requests == 6
    vendor.requests.clear()
    assert run.verify_months(with_days=True) == len(vendor.marc_requests()) == summary.requests_with_days
