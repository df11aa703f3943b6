"""Runs of the event import and of the circulation sweep in a real worker."""

from datetime import timedelta

import httpx
import pytest
from sqlalchemy.orm import Session

from accession.core.clock import utc_now
from accession.core.workflow import Workflow
from accession.db.models import ApplyOutbox, Collection, Run
from tests.fixtures.broker import Broker
from tests.fixtures.factories import day, make_collection
from tests.fixtures.stored import (
    add_holdings,
    all_runs,
    checkpoint_counter,
    checkpoint_finish,
    copy_counts,
    count_rows,
    set_checkpoint,
    titles_with_metadata,
)
from tests.fixtures.vendor import PATRON, PATRON_CARD, error_document, item
from tests.fixtures.workers import ObservedVendor, RunStarter, captured_logs, travel_to

pytestmark = pytest.mark.usefixtures("worker")

NOW = day(2024, 5, 1, 12)
MINUTE = timedelta(minutes=1)
EVENTS, CIRCULATION = Workflow.EVENTS, Workflow.CIRCULATION


def slices(vendor: ObservedVendor) -> list[tuple[str, str]]:
    return [(query["startdate"][11:16], query["enddate"][11:16]) for query in vendor.event_requests()]


def summary(run: Run) -> tuple[str, int, int, int]:
    return run.state, run.pages, run.records_fetched, run.titles_changed


def test_first_event_run_covers_five_minutes(
    collection: Collection, vendor: ObservedVendor, run_starter: RunStarter, broker: Broker
) -> None:
    vendor.items["abc"] = item("abc", owned=2, available=2)
    vendor.add_event(NOW - 8 * MINUTE, "PURCHASE", "abc")
    vendor.add_event(NOW - 2 * MINUTE, "CHECKOUT", "abc")

    with travel_to(NOW), captured_logs() as lines:
        task_id = run_starter.start(collection, EVENTS)
        run = run_starter.wait_for(task_id)

    assert slices(vendor) == [("11:50", "11:55")]
    assert (run.state, run.pages, run.records_fetched, run.titles_new) == ("succeeded", 1, 1, 1)
    assert copy_counts() == {"abc": (2, 2, 0)}
    assert titles_with_metadata() == {"abc"}
    finish = checkpoint_finish(collection.id, EVENTS)
    assert finish is not None
    assert finish >= NOW - 5 * MINUTE
    assert finish.isoformat().startswith(vendor.event_requests()[-1]["enddate"])
    assert checkpoint_finish(collection.id) is None
    assert [line["event_id"] for line in lines if "event_id" in line] == []
    assert (broker.result(task_id), broker.locks()) == ("done", {})


def test_event_run_catches_up_two_days_in_few_requests(
    collection: Collection, vendor: ObservedVendor, run_starter: RunStarter
) -> None:
    set_checkpoint(collection.id, NOW - timedelta(days=2), EVENTS)
    vendor.add_event(NOW - timedelta(days=1), "PURCHASE", "abc")

    with travel_to(NOW):
        run = run_starter.run_to_end(collection, EVENTS)

    starts = [query["startdate"] for query in vendor.event_requests()]
    ends = [query["enddate"] for query in vendor.event_requests()]
    assert starts[0] == "2024-04-29T11:55:00"
    assert starts[1:] == ends[:-1], "without gaps"
    assert (run.state, run.pages, run.records_fetched, len(all_runs())) == ("succeeded", len(starts), 1, 1)
    assert len(starts) <= 16
    assert run.since == NOW - timedelta(days=2) - 5 * MINUTE


def test_start_argument_overrides_the_checkpoint(
    collection: Collection, vendor: ObservedVendor, run_starter: RunStarter, broker: Broker
) -> None:
    from accession.tasks.events import import_collection

    set_checkpoint(collection.id, NOW - 6 * MINUTE, EVENTS)
    with travel_to(NOW):
        import_collection.apply_async((collection.id,), {"start": "2024-05-01T11:30:00"}, task_id="the-task")
        run = run_starter.wait_for("the-task")

    assert (run.state, slices(vendor)[0]) == ("succeeded", ("11:30", "11:35"))
    assert (checkpoint_finish(collection.id, EVENTS) or NOW) >= NOW - 5 * MINUTE


def test_up_to_date_events_need_no_request(
    collection: Collection, vendor: ObservedVendor, run_starter: RunStarter
) -> None:
    set_checkpoint(collection.id, NOW + timedelta(hours=1), EVENTS)

    with travel_to(NOW):
        run = run_starter.run_to_end(collection, EVENTS)

    assert (*summary(run), vendor.requests) == ("succeeded", 0, 0, 0, [])
    assert checkpoint_finish(collection.id, EVENTS) == NOW + timedelta(hours=1)


def test_failed_slice_is_retried_without_patron_data_in_logs(
    collection: Collection, vendor: ObservedVendor, run_starter: RunStarter, broker: Broker
) -> None:
    dumps: list[bytes] = []
    vendor.responses.append(httpx.Response(500, text=error_document(f"failed for {PATRON} {PATRON_CARD}")))
    vendor.add_event(NOW - 8 * MINUTE, "PURCHASE", "abc")
    errors: list[str | None] = []

    def on_request(request: httpx.Request) -> None:
        dumps.append(broker.dump())
        errors.append(all_runs()[0].error if all_runs() else None)

    vendor.on_request = on_request
    with travel_to(NOW), captured_logs() as lines:
        run = run_starter.run_to_end(collection, EVENTS)

    assert (run.state, run.pages, copy_counts()) == ("succeeded", 1, {"abc": (1, 1, 0)})
    assert "the vendor reported an error" in (errors[1] or "")
    texts = [*map(repr, lines), *map(repr, dumps), *map(str, errors), repr(broker.dump())]
    assert "retry scheduled" in [line["event"] for line in lines]
    assert not [text for text in texts if PATRON in text or PATRON_CARD in text]


def test_sweep_requests_every_title_and_applies_changes(
    session: Session, collection: Collection, vendor: ObservedVendor, run_starter: RunStarter, broker: Broker
) -> None:
    names = [f"t{number:02}" for number in range(60)]
    ids = add_holdings(session, vendor, collection, *names)
    with travel_to(NOW - MINUTE):
        run_starter.run_to_end(collection, CIRCULATION)
    vendor.items["t07"] = item("t07", title="Title t07", owned=2, available=0, holds=4)
    vendor.items["t08"] = item("t08", title="Another title", owned=2, available=1)
    del vendor.items["t09"]
    vendor.requests.clear()
    counters: list[int | None] = []
    collection_id = collection.id
    vendor.on_request = lambda request: counters.append(checkpoint_counter(collection_id))

    with travel_to(NOW), captured_logs() as lines:
        run = run_starter.run_to_end(collection, CIRCULATION)
        finish = checkpoint_finish(collection.id, CIRCULATION)
        assert finish is not None
        assert NOW <= finish <= utc_now()

    assert vendor.item_requests() == [names[:25], names[25:50], names[50:]]
    assert counters == [0, ids[24], ids[49]]
    assert checkpoint_counter(collection.id) == 0
    assert summary(run) == ("succeeded", 3, 60, 3)
    counts = copy_counts()
    assert [counts[name] for name in ("t07", "t08", "t09", "t10")] == [
        (2, 0, 4),
        (2, 1, 0),
        (0, 0, 0),
        (2, 1, 0),
    ]
    assert [line["title"] for line in lines if line["event"] == "title withdrawn by the vendor"] == ["t09"]
    assert (count_rows(ApplyOutbox), broker.locks()) == (0, {})


def test_sweep_resumes_at_checkpoint_or_starts_at_offset(
    session: Session, collection: Collection, vendor: ObservedVendor, run_starter: RunStarter
) -> None:
    from accession.tasks.circulation import circulation_update_collection

    names = [f"t{number:02}" for number in range(60)]
    ids = add_holdings(session, vendor, collection, *names)
    requests = 0

    def on_request(request: httpx.Request) -> None:
        nonlocal requests
        requests += 1
        if requests == 2:
            vendor.responses.append(httpx.Response(404))

    vendor.on_request = on_request
    failed = run_starter.run_to_end(collection, CIRCULATION)
    assert (failed.state, failed.pages, checkpoint_counter(collection.id)) == ("failed", 1, ids[24])
    vendor.requests.clear()

    assert run_starter.run_to_end(collection, CIRCULATION).state == "succeeded"
    assert vendor.item_requests() == [names[25:50], names[50:]]
    vendor.requests.clear()

    circulation_update_collection.apply_async((collection.id,), {"offset": ids[39]}, task_id="the-task")
    assert run_starter.wait_for("the-task").state == "succeeded"
    assert vendor.item_requests() == [names[40:]]


def test_sweep_fails_if_a_whole_batch_is_omitted(
    session: Session, collection: Collection, vendor: ObservedVendor, run_starter: RunStarter, broker: Broker
) -> None:
    add_holdings(session, vendor, collection, *(f"t{number:02}" for number in range(25)))
    run_starter.run_to_end(collection, CIRCULATION)
    vendor.responses += [httpx.Response(200, text="<ArrayOfItem/>")] * 2

    run = run_starter.run_to_end(collection, CIRCULATION)

    assert run.state == "failed"
    assert "omitted all 25 titles of a batch" in (run.error or "")
    assert set(copy_counts().values()) == {(2, 1, 0)}
    assert broker.locks() == {}


@pytest.mark.parametrize("workflow", [EVENTS, CIRCULATION])
def test_fan_outs_start_a_run_per_collection_in_use(
    session: Session, collection: Collection, vendor: ObservedVendor, broker: Broker, workflow: Workflow
) -> None:
    from accession.tasks.workflows import FAN_OUT_TASKS

    birch = make_collection(session, "Birch Library").id
    make_collection(session, "Cedar Library").marked_for_deletion_at = utc_now()
    session.commit()

    FAN_OUT_TASKS[workflow].delay()
    broker.wait_until_idle()

    assert {(run.collection_id, run.workflow, run.state) for run in all_runs()} == {
        (collection.id, workflow.value, "succeeded"),
        (birch, workflow.value, "succeeded"),
    }
