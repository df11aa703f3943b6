"""Tests of looking up the titles of several pages together, in runs that are imported page by page."""

from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta

import httpx
import pytest
import time_machine
from sqlalchemy import event, select
from sqlalchemy.orm import Session

from accession.bibliotheca.errors import RemoteIntegrationException
from accession.core.clock import utc_now
from accession.core.workflow import Workflow
from accession.db.models import Collection, Identifier, LicensePool, Run, RunState, RunTitle
from accession.imports.page_result import DayImportResult
from accession.imports.purchases import BibliothecaPurchaseRecordImporter
from accession.imports.vendor_api import vendor_api_for
from accession.imports.windows import ImportCursor, Width
from accession.runs.ledger import end_run, find_run, open_run, record_step
from tests.fixtures.factories import apply_titles, day, make_collection, make_pool, title_data
from tests.fixtures.holdings import title_ids
from tests.fixtures.importers import capture_step_logs
from tests.fixtures.vendor import ScriptedVendor, marc, marc_page

FIRST, NOW = day(2024, 1, 1), day(2024, 4, 1)
ONE_DAY = timedelta(days=1)


class ImportRun:
    """A run whose pages are imported and committed one by one."""

    def __init__(self, session: Session, collection: Collection, task_id: str = "task") -> None:
        open_run(session, collection.id, Workflow.PURCHASES, task_id, {})
        run = find_run(session, task_id)
        assert run is not None
        self.run = run
        self._session = session
        self.importer = BibliothecaPurchaseRecordImporter(
            session, collection, vendor_api_for(collection), run
        )

    def pages(
        self, cursor: ImportCursor, now: datetime = NOW, width: Width = Width.DAY
    ) -> Iterator[DayImportResult]:
        """Import page after page until the run is complete."""
        while not cursor.is_complete(now):
            page = self.importer.import_day(cursor, now, width)
            record_step(self.run, page.counters, since=None, next_cursor={})
            self._session.commit()
            cursor = page.next_cursor
            yield page

    def complete(
        self, cursor: ImportCursor, now: datetime = NOW, width: Width = Width.DAY
    ) -> list[DayImportResult]:
        """Import all pages."""
        return list(self.pages(cursor, now, width))

    def fail(self) -> None:
        end_run(self.run, RunState.FAILED, "The vendor is unavailable.")
        self._session.commit()


@pytest.fixture
def import_run(session: Session, collection: Collection, vendor: ScriptedVendor) -> ImportRun:
    return ImportRun(session, collection)


def add_titles(vendor: ScriptedVendor, ids: Sequence[str], *, per_day: int) -> None:
    """Add purchases of so many titles on each day from the first on."""
    for start in range(0, len(ids), per_day):
        vendor.add_purchases(FIRST + start // per_day * ONE_DAY, *ids[start : start + per_day])


def pending_titles(session: Session) -> dict[str, list[str]]:
    """Return the pending titles by the task id of their run."""
    query = select(Run.task_id, RunTitle.identifier).join(RunTitle, RunTitle.run_id == Run.id)
    pending: dict[str, list[str]] = {}
    for task_id, title in session.execute(query.where(RunTitle.is_pending).order_by(RunTitle.identifier)):
        pending.setdefault(task_id, []).append(title)
    return pending


def stored_pools(session: Session) -> list[str]:
    query = select(Identifier.identifier).join(LicensePool, LicensePool.identifier_id == Identifier.id)
    return sorted(session.scalars(query))


@pytest.mark.parametrize("width", list(Width))
def test_titles_of_several_windows_share_requests(
    width: Width, vendor: ScriptedVendor, import_run: ImportRun
) -> None:
    ids = title_ids(35)
    for number, title in enumerate(ids):
        vendor.add_purchases(FIRST + number * ONE_DAY, title)

    import_run.complete(ImportCursor(FIRST), width=width)

    assert sorted(map(len, vendor.item_requests())) == [10, 25]
    assert sorted(title for request in vendor.item_requests() for title in request) == ids


def test_pending_titles_have_pools_and_no_metadata(
    session: Session, vendor: ScriptedVendor, import_run: ImportRun
) -> None:
    add_titles(vendor, title_ids(30), per_day=10)

    pages = import_run.pages(ImportCursor(FIRST))
    first, second = next(pages), next(pages)

    assert (stored_pools(session), vendor.item_requests()) == (title_ids(20), [])
    assert (first.titles_new, first.outbox_ids, second.titles_new, second.outbox_ids) == (10, (), 10, ())
    assert import_run.importer.get_start() == FIRST + 2 * ONE_DAY
    assert pending_titles(session) == {"task": title_ids(20)}
    assert import_run.run.pending_lookups == 20

    third = next(pages)

    # The oldest are looked up first.
    assert vendor.item_requests() == [title_ids(25)]
    assert (third.titles_new, third.titles_changed, len(third.outbox_ids)) == (10, 0, 25)
    assert pending_titles(session) == {"task": title_ids(30)[25:]}


def test_title_is_looked_up_after_50_further_pages(vendor: ScriptedVendor, import_run: ImportRun) -> None:
    """The title is purchased again each day, so that no gap is skipped."""
    for number in range(60):
        vendor.add_purchases(FIRST + number * ONE_DAY, "abc")

    pages = import_run.pages(ImportCursor(FIRST))
    waited = [next(pages).outbox_ids for _ in range(50)]

    assert (waited, vendor.item_requests()) == ([()] * 50, [])
    assert len(next(pages).outbox_ids) == 1
    assert vendor.item_requests() == [["abc"]]


def test_last_page_looks_up_all_pending_titles(
    session: Session, vendor: ScriptedVendor, import_run: ImportRun
) -> None:
    add_titles(vendor, title_ids(3), per_day=1)

    pages = import_run.complete(ImportCursor(FIRST))

    assert vendor.item_requests() == [title_ids(3)]
    assert (len(pages[-1].outbox_ids), pages[-1].titles_new, pages[-1].titles_changed) == (3, 0, 0)
    assert (import_run.run.titles_new, import_run.run.titles_changed) == (3, 0)
    assert (pending_titles(session), import_run.run.pending_lookups) == ({}, 0)


def test_daily_run_looks_up_its_new_title(
    session: Session, collection: Collection, vendor: ScriptedVendor, import_run: ImportRun
) -> None:
    vendor.add_purchases(day(2024, 3, 20), "abc")
    import_run.complete(ImportCursor(FIRST))
    vendor.requests.clear()
    vendor.add_purchases(day(2024, 4, 1, 9), "new")
    now = NOW + ONE_DAY
    daily = ImportRun(session, collection, "daily")

    daily.complete(daily.importer.first_cursor(now), now)

    assert vendor.item_requests() == [["new"]]
    assert (pending_titles(session), daily.run.titles_new) == ({}, 1)


def test_known_title_counts_as_changed_when_looked_up(
    session: Session, collection: Collection, vendor: ScriptedVendor, import_run: ImportRun
) -> None:
    pool = make_pool(session, collection, "known")
    apply_titles(session, {pool.id: title_data("known", as_of=FIRST, title="An earlier title")})
    vendor.add_purchases(FIRST, "known", "new")

    pages = import_run.complete(ImportCursor(FIRST))

    assert (pages[0].titles_new, pages[0].titles_changed) == (1, 0)
    assert (pages[-1].titles_new, pages[-1].titles_changed) == (0, 1)


def test_pending_title_purchased_again_is_looked_up_once(
    vendor: ScriptedVendor, import_run: ImportRun
) -> None:
    for number in range(3):
        vendor.add_purchases(FIRST + number * ONE_DAY, "abc", f"t{number}")

    import_run.complete(ImportCursor(FIRST))

    assert [sorted(request) for request in vendor.item_requests()] == [["abc", "t0", "t1", "t2"]]


def test_title_without_metadata_is_not_requested_again(
    session: Session, vendor: ScriptedVendor, import_run: ImportRun
) -> None:
    add_titles(vendor, ["abc", *title_ids(49)], per_day=25)
    vendor.purchases.append(vendor.purchases[0])
    del vendor.items["abc"]

    with capture_step_logs() as lines:
        import_run.complete(ImportCursor(FIRST))

    warnings = [line["title"] for line in lines if line["event"] == "no metadata for a purchased title"]
    assert warnings == ["abc"]
    assert [request.count("abc") for request in vendor.item_requests()] == [1, 0]
    assert pending_titles(session) == {}


def test_failed_lookup_leaves_titles_pending(
    session: Session, vendor: ScriptedVendor, import_run: ImportRun
) -> None:
    add_titles(vendor, title_ids(30), per_day=15)
    pages = import_run.pages(ImportCursor(FIRST))
    cursor = next(pages).next_cursor
    page = marc_page(marc(title) for title in title_ids(30)[14:])
    vendor.responses.extend([httpx.Response(200, text=page), httpx.Response(503)])

    with pytest.raises(RemoteIntegrationException):
        import_run.importer.import_day(cursor, NOW)
    session.rollback()

    assert (stored_pools(session), pending_titles(session)) == (title_ids(15), {"task": title_ids(15)})
    assert import_run.run.pending_lookups == 15
    vendor.requests.clear()
    import_run.complete(cursor)
    assert vendor.item_requests() == [title_ids(25), title_ids(30)[25:]]


def test_next_run_looks_up_what_a_failed_run_left(
    session: Session, collection: Collection, vendor: ScriptedVendor, import_run: ImportRun
) -> None:
    add_titles(vendor, title_ids(6), per_day=3)
    cursor = next(import_run.pages(ImportCursor(FIRST))).next_cursor
    import_run.fail()
    assert (vendor.item_requests(), pending_titles(session)) == ([], {"task": title_ids(3)})

    following = ImportRun(session, collection, "following")
    pages = following.complete(cursor)

    assert vendor.item_requests() == [title_ids(6)]
    assert (pending_titles(session), len(pages[-1].outbox_ids)) == ({}, 6)
    # Three titles were counted as new by the failed run.
    assert (following.run.titles_new, following.run.titles_changed) == (3, 0)


def test_reimport_after_a_failed_run_looks_up_each_title_once(
    session: Session, collection: Collection, vendor: ScriptedVendor, import_run: ImportRun
) -> None:
    add_titles(vendor, title_ids(30), per_day=10)
    next(import_run.pages(ImportCursor(FIRST)))
    import_run.fail()

    ImportRun(session, collection, "reimport").complete(ImportCursor(FIRST))

    assert vendor.item_requests() == [title_ids(25), title_ids(30)[25:]]
    assert pending_titles(session) == {}


def test_title_that_two_runs_left_is_looked_up_once(
    session: Session, collection: Collection, vendor: ScriptedVendor, import_run: ImportRun
) -> None:
    """A run that fails at its first page takes over nothing, and the vendor may list the title again."""
    vendor.add_purchases(FIRST, "abc")
    next(import_run.pages(ImportCursor(FIRST)))
    import_run.fail()
    second = ImportRun(session, collection, "second")
    session.add(RunTitle(run_id=second.run.id, identifier="abc", is_pending=True, is_new=False))
    second.fail()

    third = ImportRun(session, collection, "third")
    third.complete(ImportCursor(FIRST + ONE_DAY))

    assert (vendor.item_requests(), pending_titles(session)) == ([["abc"]], {})
    assert (third.run.titles_new, third.run.titles_changed) == (0, 0)


def test_pending_titles_of_others_are_not_taken_over(
    session: Session, vendor: ScriptedVendor, import_run: ImportRun
) -> None:
    """Neither those of another collection, nor those of an active run."""
    vendor.add_purchases(FIRST, "abc")
    next(import_run.pages(ImportCursor(FIRST)))
    other = ImportRun(session, make_collection(session, "Birch Library"), "other")
    vendor.purchases.clear()

    other.complete(ImportCursor(FIRST))

    assert (vendor.item_requests(), pending_titles(session)) == ([], {"task": ["abc"]})


def test_pending_titles_cost_an_empty_window_no_statement(
    session: Session, vendor: ScriptedVendor, import_run: ImportRun
) -> None:
    vendor.add_purchases(FIRST + 3 * ONE_DAY, "abc")
    pages = import_run.pages(ImportCursor(FIRST))

    # The clock stands still: a second later a step would store a sample of the run.
    with time_machine.travel(utc_now(), tick=False):
        next(pages)
        without_pending = count_statements(session, pages), count_statements(session, pages)
        with_title = count_statements(session, pages)
        with_pending = count_statements(session, pages), count_statements(session, pages)

    assert import_run.run.pending_lookups == 1
    assert with_pending == without_pending
    assert with_title > with_pending[0]


def count_statements(session: Session, pages: Iterator[DayImportResult]) -> int:
    """Import a page and return the number of SQL statements."""
    statements: list[str] = []

    def record(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        statements.append(statement)

    engine = session.get_bind()
    event.listen(engine, "before_cursor_execute", record)
    try:
        next(pages)
    finally:
        event.remove(engine, "before_cursor_execute", record)
    return len(statements)
