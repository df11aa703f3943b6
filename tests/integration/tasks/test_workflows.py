"""The events' chain and the sweep's, which share all of the purchases' chain but their step."""

from datetime import timedelta

import httpx
import pytest
from sqlalchemy.orm import Session

from accession.core.clock import utc_now
from accession.core.workflow import Workflow
from accession.db.models import ApplyOutbox, Collection, Run
from tests.fixtures.factories import day, make_collection
from tests.fixtures.vendor import PATRON, PATRONS_CARD, error_document, item
from tests.fixtures.workers import (
    Broker,
    Chains,
    WatchedVendor,
    applied_titles,
    checkpoint,
    counter,
    counts,
    hold,
    logged,
    number_of,
    runs,
    set_checkpoint,
    today_is,
)

pytestmark = pytest.mark.usefixtures("worker")

NOW = day(2024, 5, 1, 12)
MINUTE = timedelta(minutes=1)
EVENTS, CIRCULATION = Workflow.EVENTS, Workflow.CIRCULATION


def slices(vendor: WatchedVendor) -> list[tuple[str, str]]:
    return [(asked["startdate"][11:16], asked["enddate"][11:16]) for asked in vendor.event_requests()]


def summary(run: Run) -> tuple[str, int, int, int]:
    return run.state, run.pages, run.records_fetched, run.titles_changed


def test_the_first_run_of_events_covers_ten_minutes_ago_to_five_minutes_ago(
    collection: Collection, vendor: WatchedVendor, chains: Chains, broker: Broker
) -> None:
    vendor.items["abc"] = item("abc", owned=2, available=2)
    vendor.tells(NOW - 8 * MINUTE, "PURCHASE", "abc")
    vendor.tells(NOW - 2 * MINUTE, "CHECKOUT", "abc")

    with today_is(NOW), logged() as lines:
        task_id = chains.start(collection, EVENTS)
        run = chains.ended(task_id)

    assert slices(vendor) == [("11:50", "11:55")]
    assert (run.state, run.pages, run.records_fetched, run.titles_new) == ("succeeded", 1, 1, 1)
    assert counts() == {"abc": (2, 2, 0)}
    assert applied_titles() == {"abc"}
    assert NOW - 5 * MINUTE <= (checkpoint(collection.id, EVENTS) or NOW) < NOW - 4 * MINUTE
    assert checkpoint(collection.id) is None
    assert [line["event_id"] for line in lines if "event_id" in line] == []
    assert (broker.result(task_id), broker.locks()) == ("done", {})


def test_after_two_days_of_downtime_a_dozen_requests_catch_up_under_one_task_id(
    collection: Collection, vendor: WatchedVendor, chains: Chains
) -> None:
    set_checkpoint(collection.id, NOW - timedelta(days=2), EVENTS)
    vendor.tells(NOW - timedelta(days=1), "PURCHASE", "abc")

    with today_is(NOW):
        run = chains.imported(collection, EVENTS)

    starts = [asked["startdate"] for asked in vendor.event_requests()]
    ends = [asked["enddate"] for asked in vendor.event_requests()]
    assert starts[0] == "2024-04-29T11:55:00"
    assert starts[1:] == ends[:-1], "without gaps"
    assert (run.state, run.pages, run.records_fetched, len(runs())) == ("succeeded", len(starts), 1, 1)
    assert len(starts) <= 16
    assert run.since == NOW - timedelta(days=2) - 5 * MINUTE


def test_a_start_that_is_given_is_used_as_it_is(
    collection: Collection, vendor: WatchedVendor, chains: Chains, broker: Broker
) -> None:
    from accession.tasks.events import import_collection

    set_checkpoint(collection.id, NOW - 6 * MINUTE, EVENTS)
    with today_is(NOW):
        import_collection.apply_async((collection.id,), {"start": "2024-05-01T11:30:00"}, task_id="given")
        run = chains.ended("given")

    assert (run.state, slices(vendor)[0]) == ("succeeded", ("11:30", "11:35"))
    assert (checkpoint(collection.id, EVENTS) or NOW) >= NOW - 5 * MINUTE


def test_events_that_are_complete_beyond_the_cutoff_need_no_request(
    collection: Collection, vendor: WatchedVendor, chains: Chains
) -> None:
    set_checkpoint(collection.id, NOW + timedelta(hours=1), EVENTS)

    with today_is(NOW):
        run = chains.imported(collection, EVENTS)

    assert (*summary(run), vendor.requests) == ("succeeded", 0, 0, 0, [])
    assert checkpoint(collection.id, EVENTS) == NOW + timedelta(hours=1)


def test_a_slice_that_meets_a_fault_runs_again_and_nobody_hears_of_the_patron(
    collection: Collection, vendor: WatchedVendor, chains: Chains, broker: Broker
) -> None:
    seen: list[bytes] = []
    vendor.answers.append(httpx.Response(500, text=error_document(f"failed for {PATRON} {PATRONS_CARD}")))
    vendor.tells(NOW - 8 * MINUTE, "PURCHASE", "abc")
    errors: list[str | None] = []

    def watch(request: httpx.Request) -> None:
        seen.append(broker.everything())
        errors.append(runs()[0].error if runs() else None)

    vendor.watch = watch
    with today_is(NOW), logged() as lines:
        run = chains.imported(collection, EVENTS)

    assert (run.state, run.pages, counts()) == ("succeeded", 1, {"abc": (1, 1, 0)})
    assert "the vendor reported an error of its own" in (errors[1] or "")
    said = [*map(repr, lines), *map(repr, seen), *map(str, errors), repr(broker.everything())]
    assert "the page will be tried again" in [line["event"] for line in lines]
    assert not [text for text in said if PATRON in text or PATRONS_CARD in text]


def test_a_sweep_asks_about_every_title_and_applies_what_differs(
    session: Session, collection: Collection, vendor: WatchedVendor, chains: Chains, broker: Broker
) -> None:
    names = [f"t{number:02}" for number in range(60)]
    ids = hold(session, vendor, collection, *names)
    with today_is(NOW - MINUTE):
        chains.imported(collection, CIRCULATION)
    vendor.items["t07"] = item("t07", title="Title t07", owned=2, available=0, holds=4)
    vendor.items["t08"] = item("t08", title="Another title", owned=2, available=1)
    del vendor.items["t09"]
    vendor.requests.clear()
    seen: list[int | None] = []
    collection_id = collection.id
    vendor.watch = lambda request: seen.append(counter(collection_id))

    with today_is(NOW), logged() as lines:
        run = chains.imported(collection, CIRCULATION)

    assert vendor.item_requests() == [names[:25], names[25:50], names[50:]]
    assert seen == [0, ids[24], ids[49]]
    assert counter(collection.id) == 0
    assert timedelta(0) <= (checkpoint(collection.id, CIRCULATION) or NOW) - NOW < MINUTE
    assert summary(run) == ("succeeded", 3, 60, 3)
    found = counts()
    assert [found[name] for name in ("t07", "t08", "t09", "t10")] == [
        (2, 0, 4),
        (2, 1, 0),
        (0, 0, 0),
        (2, 1, 0),
    ]
    assert [line["title"] for line in lines if "no longer has" in line["event"]] == ["t09"]
    assert (number_of(ApplyOutbox), broker.locks()) == (0, {})


def test_a_sweep_that_failed_goes_on_where_it_was_and_one_that_is_told_where_begins_there(
    session: Session, collection: Collection, vendor: WatchedVendor, chains: Chains
) -> None:
    from accession.tasks.circulation import circulation_update_collection

    names = [f"t{number:02}" for number in range(60)]
    ids = hold(session, vendor, collection, *names)
    requests = 0

    def watch(request: httpx.Request) -> None:
        nonlocal requests
        requests += 1
        if requests == 2:
            vendor.answers.append(httpx.Response(404))

    vendor.watch = watch
    failed = chains.imported(collection, CIRCULATION)
    assert (failed.state, failed.pages, counter(collection.id)) == ("failed", 1, ids[24])
    vendor.requests.clear()

    assert chains.imported(collection, CIRCULATION).state == "succeeded"
    assert vendor.item_requests() == [names[25:50], names[50:]]
    vendor.requests.clear()

    circulation_update_collection.apply_async((collection.id,), {"offset": ids[39]}, task_id="given")
    assert chains.ended("given").state == "succeeded"
    assert vendor.item_requests() == [names[40:]]


def test_a_vendor_that_contradicts_itself_fails_the_sweep_with_that_reason_and_takes_nothing_away(
    session: Session, collection: Collection, vendor: WatchedVendor, chains: Chains, broker: Broker
) -> None:
    hold(session, vendor, collection, *(f"t{number:02}" for number in range(25)))
    chains.imported(collection, CIRCULATION)
    vendor.answers += [httpx.Response(200, text="<ArrayOfItem/>")] * 2

    run = chains.imported(collection, CIRCULATION)

    assert run.state == "failed"
    assert "left out all 25 titles of a batch" in (run.error or "")
    assert set(counts().values()) == {(2, 1, 0)}
    assert broker.locks() == {}


@pytest.mark.parametrize("workflow", [EVENTS, CIRCULATION])
def test_the_fan_outs_start_every_collection_that_is_not_on_its_way_out(
    session: Session, collection: Collection, vendor: WatchedVendor, broker: Broker, workflow: Workflow
) -> None:
    from accession.tasks.workflows import FAN_OUTS

    birch = make_collection(session, "Birch Library").id
    make_collection(session, "Cedar Library").marked_for_deletion_at = utc_now()
    session.commit()

    FAN_OUTS[workflow].delay()
    broker.settle()

    assert {(run.collection_id, run.workflow, run.state) for run in runs()} == {
        (collection.id, workflow.value, "succeeded"),
        (birch, workflow.value, "succeeded"),
    }
