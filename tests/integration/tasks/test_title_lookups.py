"""Pending look-ups of runs that are killed, fail or are replaced; their steps are delivered by hand."""

from typing import Any

import httpx
import pytest
from sqlalchemy import select

from accession.db.engine import transaction
from accession.db.models import Collection, Run, RunTitle
from tests.fixtures.broker import Broker
from tests.fixtures.factories import day
from tests.fixtures.stored import all_runs, titles_with_metadata
from tests.fixtures.workers import ObservedVendor, RunStarter, travel_to

TODAY = day(2014, 1, 4, 10)


class WorkerDied(BaseException):
    """Simulates the end of a worker process."""


def pending_titles() -> list[tuple[str, str]]:
    """Return the task id of the run and the title of each pending look-up."""
    query = select(Run.task_id, RunTitle.identifier).join(RunTitle, RunTitle.run_id == Run.id)
    with transaction() as session:
        return list(session.execute(query.where(RunTitle.is_pending).order_by(RunTitle.identifier)))


def start_with_pending_title(
    collection: Collection, vendor: ObservedVendor, run_starter: RunStarter, broker: Broker
) -> str:
    """Process the first step of a run, whose title is pending then; return the run's task id."""
    vendor.add_purchases(day(2014, 1, 1, 9), "t1")
    task_id = run_starter.start(collection)
    broker.deliver_next()
    assert (pending_titles(), vendor.item_requests()) == ([(task_id, "t1")], [])
    return task_id


def deliver_everything(broker: Broker) -> None:
    """Deliver steps and applies until there are none."""
    broker.deliver_all()
    broker.deliver_all("apply")


@pytest.mark.parametrize("page", [1, 4], ids=["page with the title", "page with the look-up"])
@pytest.mark.parametrize(
    "function", ["record_step", "publish_split_applies"], ids=["before commit", "after commit"]
)
def test_killed_worker_loses_no_pending_title(
    page: int,
    function: str,
    collection: Collection,
    vendor: ObservedVendor,
    run_starter: RunStarter,
    broker: Broker,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from accession.tasks import steps

    def die(*_: Any, **__: Any) -> None:
        raise WorkerDied

    vendor.add_purchases(day(2014, 1, 1, 9), "t1")
    with travel_to(TODAY):
        run_starter.start(collection)
        for _ in range(page - 1):
            broker.deliver_next()
        message = broker.pop()
        with monkeypatch.context() as patch:
            patch.setattr(steps, function, die)
            with pytest.raises(WorkerDied):
                broker.deliver(message)
        broker.deliver(message, redelivered=True)
        deliver_everything(broker)

    (run,) = all_runs()
    assert (run.state, run.pages, run.titles_new, run.titles_changed) == ("succeeded", 4, 1, 0)
    assert (titles_with_metadata(), pending_titles(), run.pending_lookups) == ({"t1"}, [], 0)


def test_next_run_looks_up_title_of_failed_run(
    collection: Collection, vendor: ObservedVendor, run_starter: RunStarter, broker: Broker
) -> None:
    with travel_to(TODAY):
        failed = start_with_pending_title(collection, vendor, run_starter, broker)
        vendor.responses.append(httpx.Response(401))
        broker.deliver_next()
        assert pending_titles() == [(failed, "t1")]

        run_starter.start(collection)
        deliver_everything(broker)

    assert [run.state for run in all_runs()] == ["failed", "succeeded"]
    assert (titles_with_metadata(), vendor.item_requests(), pending_titles()) == ({"t1"}, [["t1"]], [])


def test_newer_run_takes_over_pending_titles(
    collection: Collection, vendor: ObservedVendor, run_starter: RunStarter, broker: Broker
) -> None:
    """The lock of the older run has expired."""
    with travel_to(TODAY):
        start_with_pending_title(collection, vendor, run_starter, broker)
        broker.clear()
        vendor.add_purchases(day(2014, 1, 3, 9), "t2")
        newer = run_starter.start(collection)
        broker.deliver_next()
        assert pending_titles() == [(newer, "t1")]
        deliver_everything(broker)

    assert [run.state for run in all_runs()] == ["interrupted", "succeeded"]
    assert (titles_with_metadata(), vendor.item_requests()) == ({"t1", "t2"}, [["t1", "t2"]])
    assert pending_titles() == []


def test_failed_lookup_is_retried_with_its_step(
    collection: Collection, vendor: ObservedVendor, run_starter: RunStarter, broker: Broker
) -> None:
    with travel_to(TODAY):
        start_with_pending_title(collection, vendor, run_starter, broker)
        broker.deliver_next()
        broker.deliver_next()
        vendor.on_request = lambda request: _fail_once(vendor, request)
        broker.deliver_next()
        (run,) = all_runs()
        assert (run.state, run.pages, run.pending_lookups) == ("retrying", 3, 1)
        deliver_everything(broker)

    (run,) = all_runs()
    assert (run.state, run.pages, titles_with_metadata()) == ("succeeded", 4, {"t1"})


def _fail_once(vendor: ObservedVendor, request: httpx.Request) -> None:
    if "/items/" in request.url.path and not vendor.item_requests():
        vendor.responses.append(httpx.Response(503))
