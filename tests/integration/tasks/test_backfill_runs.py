"""Backfills of past days; their messages are delivered by hand."""

from datetime import date, datetime

import httpx
import pytest
from sqlalchemy.orm import Session

from accession.auth.audit import Actor, ActorKind
from accession.core.errors import InvalidInput
from accession.core.settings import get_settings
from accession.core.workflow import Workflow
from accession.db.engine import transaction
from accession.db.models import Collection, Run
from accession.imports.backfill import count_backfill_requests
from accession.imports.purchases import BibliothecaPurchaseRecordImporter
from accession.imports.vendor_api import vendor_api_for
from accession.imports.windows import ImportCursor
from accession.runs.health import HealthState, collection_health
from accession.runs.progress import estimate_progress
from accession.runs.views import run_view
from tests.fixtures.broker import Broker
from tests.fixtures.factories import day
from tests.fixtures.holdings import commit_and_apply
from tests.fixtures.purchases import import_until, stored_purchases
from tests.fixtures.stored import all_runs, checkpoint_confirmed, checkpoint_finish, set_checkpoint
from tests.fixtures.workers import ObservedVendor, travel_to

ANN = Actor(ActorKind.USER, "ann", "192.0.2.1")
NOW = day(2014, 4, 15, 10)
MARCH = (date(2014, 3, 1), date(2014, 3, 31))


@pytest.fixture
def imported(session: Session, collection: Collection, vendor: ObservedVendor, broker: Broker) -> Collection:
    """A collection whose purchases since 25 February are imported day by day."""
    for month in (3, 4):
        vendor.add_purchases(day(2014, month, 5, 9), f"t{month}")
    importer = BibliothecaPurchaseRecordImporter(session, collection, vendor_api_for(collection))
    with travel_to(NOW):
        pages = import_until(session, importer, NOW, ImportCursor(day(2014, 2, 25)))
        commit_and_apply(session, [row_id for page in pages for row_id in page.outbox_ids])
    vendor.requests.clear()
    return collection


def backfill(
    collection: Collection, broker: Broker, days: tuple[date, date] = MARCH, now: datetime = NOW
) -> Run:
    """Run a backfill to its end."""
    from accession.tasks.backfill import start_backfill

    with travel_to(now):
        start_backfill(ANN, collection.id, *days)
        broker.deliver_all()
        broker.deliver_all("apply")
    return all_runs()[-1]


def test_backfill_stores_late_purchase_and_keeps_checkpoint(
    session: Session, imported: Collection, vendor: ObservedVendor, broker: Broker
) -> None:
    before = (checkpoint_finish(imported.id), checkpoint_confirmed(imported.id))
    vendor.add_purchases(day(2014, 3, 20, 9), "late")
    vendor.add_purchases(day(2014, 4, 10, 9), "outside")
    run = backfill(imported, broker)
    assert (run.workflow, run.state, run.records_fetched, run.titles_new) == ("backfill", "succeeded", 2, 1)
    purchases = stored_purchases(session)
    assert ("late", date(2014, 3, 20)) in purchases
    assert "outside" not in {title for title, _ in purchases}
    assert (checkpoint_finish(imported.id), checkpoint_confirmed(imported.id)) == before
    assert all(request["enddate"][:10] <= "2014-04-01" for request in vendor.marc_requests())


def test_backfill_after_checkpoint_does_not_skip_gap(
    session: Session, collection: Collection, vendor: ObservedVendor, broker: Broker
) -> None:
    """The days between the checkpoint and the range have not been imported."""
    vendor.add_purchases(day(2014, 2, 5, 9), "before")
    vendor.add_purchases(day(2014, 3, 5, 9), "within")
    set_checkpoint(collection.id, day(2014, 1, 10))
    assert backfill(collection, broker).state == "succeeded"
    assert checkpoint_finish(collection.id) == day(2014, 1, 10)
    assert {title for title, _ in stored_purchases(session)} == {"within"}


@pytest.mark.parametrize("window", ["day", "month", "adaptive"])
def test_backfill_makes_the_announced_requests(
    window: str,
    session: Session,
    imported: Collection,
    vendor: ObservedVendor,
    broker: Broker,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(get_settings(), "purchase_window", window)
    with travel_to(NOW):
        announced = count_backfill_requests(session, imported, *MARCH)
    backfill(imported, broker)
    assert len(vendor.requests) == announced


def test_backfill_of_today_ends_now(
    session: Session, imported: Collection, vendor: ObservedVendor, broker: Broker
) -> None:
    vendor.add_purchases(day(2014, 4, 15, 9), "today")
    backfill(imported, broker, (NOW.date(), NOW.date()))
    assert ("today", NOW.date()) in stored_purchases(session)


def test_empty_bodies_at_end_of_range_are_checked(
    session: Session, imported: Collection, vendor: ObservedVendor, broker: Broker
) -> None:
    """An empty body proves nothing, so the range is listed with a purchase that is known."""
    vendor.sends_empty_bodies = True
    vendor.add_purchases(day(2014, 3, 20, 9), "late")
    hidden = {"left": 3}

    def hide(request: httpx.Request) -> None:
        is_late = "2014-03-2" in str(request.url) and hidden["left"]
        if is_late and "/data/marc" in request.url.path:
            hidden["left"] -= 1
            vendor.responses.append(httpx.Response(200, text=""))

    vendor.on_request = hide
    run = backfill(imported, broker)
    assert (run.state, hidden["left"]) == ("succeeded", 0)
    assert ("late", date(2014, 3, 20)) in stored_purchases(session)


def test_range_without_any_purchase_ends(
    collection: Collection, vendor: ObservedVendor, broker: Broker
) -> None:
    vendor.sends_empty_bodies = True
    run = backfill(collection, broker)
    assert (run.state, run.records_fetched) == ("succeeded", 0)


def test_progress_of_backfill_is_that_of_its_range(
    session: Session, imported: Collection, vendor: ObservedVendor, broker: Broker
) -> None:
    from accession.tasks.backfill import start_backfill

    with travel_to(NOW):
        start_backfill(ANN, imported.id, *MARCH)
        fractions = []
        while broker.raw_messages():
            broker.deliver_next()
            session.expire_all()
            fractions.append(estimate_progress(session, session.get_one(Run, all_runs()[-1].id)).fraction)
    assert fractions == sorted(fractions)
    assert (fractions[0] < 0.1, fractions[-1]) == (True, 1.0)
    view = run_view(session, all_runs()[-1].id)
    assert (view.first_day, view.last_day) == MARCH


def test_cancelled_backfill_stops(imported: Collection, vendor: ObservedVendor, broker: Broker) -> None:
    from accession.tasks.backfill import start_backfill
    from accession.tasks.control import cancel_runs

    with travel_to(NOW):
        start_backfill(ANN, imported.id, *MARCH)
        broker.deliver_next()
        cancel_runs(ANN, [imported.id])
        broker.deliver_all()
    run = all_runs()[-1]
    assert (run.state, run.pages, broker.locks()) == ("cancelled", 1, {})


def test_failed_backfill_leaves_health_and_schedule_alone(
    imported: Collection, vendor: ObservedVendor, broker: Broker
) -> None:
    vendor.responses.append(httpx.Response(403))
    assert backfill(imported, broker).state == "failed"
    with transaction() as session, travel_to(NOW):
        (health,) = collection_health(session)
    assert health.health is not HealthState.FAILING
    assert [each.workflow for each in health.workflows][-1] == Workflow.BACKFILL


def test_backfill_of_impossible_days_is_refused(collection: Collection, broker: Broker) -> None:
    from accession.tasks.backfill import start_backfill

    with travel_to(NOW):
        for first, last, message in (
            (date(2014, 3, 2), date(2014, 3, 1), "2014-03-01 is before the first day 2014-03-02"),
            (date(2013, 12, 31), date(2014, 3, 1), "not between 2014-01-01"),
            (date(2014, 3, 1), date(2014, 4, 16), r"and today \(2014-04-15, UTC\)"),
        ):
            with pytest.raises(InvalidInput, match=message):
                start_backfill(ANN, collection.id, first, last)
    assert (all_runs(), broker.messages()) == ([], [])
