"""Details that workers record about runs: steps, requests and log lines."""

import logging
import os
import warnings
from collections.abc import Iterator, Sequence
from unittest.mock import Mock

import httpx
import pytest
import structlog
from celery.exceptions import Retry
from redis.exceptions import ConnectionError as RedisConnectionError
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from accession.auth.audit import Actor, ActorKind
from accession.bibliotheca.errors import RequestSlotUnavailable
from accession.core.logging import configure_logging
from accession.core.settings import Settings
from accession.core.workflow import Workflow
from accession.db.engine import transaction
from accession.db.models import Collection, StepOutcome
from accession.runs.run_details import (
    RunLogLineView,
    RunStepView,
    RunTotalsView,
    run_log,
    run_requests,
    run_steps,
    run_totals,
)
from accession.tasks.write_buffer import WriteBuffer
from tests.fixtures.broker import Broker, Message, finish_prefetches_and_counts
from tests.fixtures.factories import day
from tests.fixtures.holdings import title_ids
from tests.fixtures.stored import add_holdings, all_runs, set_checkpoint
from tests.fixtures.vendor import error_document
from tests.fixtures.workers import ObservedVendor, RunStarter, travel_to

TODAY = day(2014, 1, 4, 10)
ANN = Actor(ActorKind.USER, "ann", "192.0.2.1")


def stored_steps() -> list[RunStepView]:
    """Return the steps of the only run, in their order."""
    finish_prefetches_and_counts()
    (run,) = all_runs()
    with transaction() as session:
        return run_steps(session, run.id)[::-1]


def stored_requests() -> dict[tuple[str, str], int]:
    finish_prefetches_and_counts()
    (run,) = all_runs()
    with transaction() as session:
        return {(each.endpoint, each.outcome): each.requests for each in run_requests(session, run.id)}


def stored_totals() -> RunTotalsView:
    finish_prefetches_and_counts()
    with transaction() as session:
        return run_totals(session, all_runs()[0].id)


def stored_log() -> list[RunLogLineView]:
    finish_prefetches_and_counts()
    with transaction() as session:
        return run_log(session, all_runs()[0].id)


@pytest.fixture
def message(collection: Collection, run_starter: RunStarter, broker: Broker) -> Message:
    """The first message of a run."""
    run_starter.start(collection)
    return broker.pop()


# Steps


def test_purchase_steps_have_windows_and_requests(
    vendor: ObservedVendor, message: Message, broker: Broker
) -> None:
    vendor.add_purchases(day(2014, 1, 1, 9), *title_ids(25))
    with travel_to(TODAY):
        broker.deliver(message)
        broker.deliver_next()

    first, second = stored_steps()
    assert (first.number, first.outcome, first.records, first.requests) == (1, StepOutcome.STORED, 25, 2)
    assert (first.window_start, first.window_end) == (day(2014, 1, 1), day(2014, 1, 2))
    assert (second.number, second.records, second.requests) == (2, 0, 1)
    assert 0 < first.fetch_seconds < first.seconds
    totals = stored_totals()
    assert totals.steps == 2
    assert totals.fetch_seconds == pytest.approx(first.fetch_seconds + second.fetch_seconds)
    assert totals.slot_seconds > 0
    assert stored_requests() == {("marc", "ok"): 2, ("items", "ok"): 1}


def test_event_steps_have_slices(
    collection: Collection, vendor: ObservedVendor, run_starter: RunStarter, broker: Broker
) -> None:
    vendor.add_event(day(2014, 1, 4, 9), "PURCHASE", "abc")
    set_checkpoint(collection.id, day(2014, 1, 4, 9), Workflow.EVENTS)
    run_starter.start(collection, Workflow.EVENTS)
    with travel_to(TODAY):
        broker.deliver_next()
    (step,) = stored_steps()
    assert (step.window_start, step.window_end) == (day(2014, 1, 4, 8, 55), day(2014, 1, 4, 9))


def test_circulation_steps_have_offsets(
    session: Session, collection: Collection, vendor: ObservedVendor, run_starter: RunStarter, broker: Broker
) -> None:
    identifiers = add_holdings(session, vendor, collection, *title_ids(26))
    run_starter.start(collection, Workflow.CIRCULATION)
    broker.deliver_all()
    assert [(step.offset, step.records, step.window_start) for step in stored_steps()] == [
        (0, 25, None),
        (sorted(identifiers)[24], 1, None),
    ]


def test_prefetched_requests_count_for_the_run(
    collection: Collection,
    vendor: ObservedVendor,
    run_starter: RunStarter,
    broker: Broker,
    four_concurrent_requests: None,
) -> None:
    vendor.add_purchases(day(2014, 1, 1, 9), *(f"t{number}" for number in range(120)))
    run_starter.start(collection)
    with travel_to(TODAY):
        broker.deliver_all()
    numbers = stored_requests()
    assert sum(numbers.values()) == len(vendor.requests)
    assert sum(step.requests for step in stored_steps()) == len(vendor.requests)


def test_retried_step_is_recorded_each_time(vendor: ObservedVendor, message: Message, broker: Broker) -> None:
    vendor.responses.append(httpx.Response(200, text=error_document("Authentication failed")))
    with travel_to(TODAY):
        assert isinstance(broker.deliver(message), Retry)
        broker.deliver(broker.pop())
    retried, stored = stored_steps()
    assert [retried.outcome, stored.outcome] == [StepOutcome.RETRIED, StepOutcome.STORED]
    assert (retried.number, retried.requests, retried.fetch_seconds) == (1, 1, retried.seconds)
    assert (retried.records, retried.window_start) == (0, None)
    assert stored_requests() == {("marc", "server_error"): 1, ("marc", "ok"): 1}


@pytest.mark.parametrize(("status", "retries"), [(401, 0), (500, 4)])
def test_step_that_ends_the_run_has_failed(
    status: int, retries: int, vendor: ObservedVendor, message: Message, broker: Broker
) -> None:
    vendor.responses.append(httpx.Response(status))
    broker.deliver(Message(**(vars(message) | {"retries": retries})))
    assert [run.state for run in all_runs()] == ["failed"]
    assert [step.outcome for step in stored_steps()] == [StepOutcome.FAILED]


def test_step_of_run_cancelled_meanwhile_is_discarded(
    collection: Collection, vendor: ObservedVendor, message: Message, broker: Broker
) -> None:
    from accession.tasks.control import cancel_runs

    collection_id = collection.id
    vendor.on_request = lambda _: cancel_runs(ANN, [collection_id])
    broker.deliver(message)
    assert [step.outcome for step in stored_steps()] == [StepOutcome.DISCARDED]


def test_message_of_ended_run_is_no_step(vendor: ObservedVendor, message: Message, broker: Broker) -> None:
    with travel_to(TODAY):
        broker.deliver(message)
        broker.deliver(message)
    assert [step.number for step in stored_steps()] == [1]


@pytest.mark.parametrize("error", [RedisConnectionError, RequestSlotUnavailable])
def test_step_during_outage_is_recorded_as_retried(
    vendor: ObservedVendor,
    message: Message,
    broker: Broker,
    monkeypatch: pytest.MonkeyPatch,
    error: type[Exception],
) -> None:
    monkeypatch.setattr("accession.tasks.outages._WAITS_SECONDS", (0.0,))
    failures = [error("the broker is unavailable")]

    def fail_once(_: httpx.Request) -> None:
        if failures:
            raise failures.pop()

    vendor.on_request = fail_once
    with travel_to(TODAY):
        broker.deliver(message)
    assert [step.outcome for step in stored_steps()] == [StepOutcome.RETRIED, StepOutcome.STORED]


def test_details_recorded_while_database_is_away_are_kept(
    vendor: ObservedVendor, message: Message, broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    from accession.tasks import run_details

    broker.deliver(message)
    with monkeypatch.context() as patch:
        error = OperationalError("SELECT", {}, Exception("the server is away"))
        patch.setattr(run_details, "store_run_details", Mock(side_effect=error))
        run_details.store_recorded_details()
    assert [step.number for step in stored_steps()] == [1]


def test_forked_process_leaves_details_to_its_parent(broker: Broker) -> None:
    """Otherwise both would store them, or the child would wait for a lock that nobody releases."""
    written: list[Sequence[str]] = []
    buffer = WriteBuffer[str](written.append)
    buffer.add("of the parent")
    with warnings.catch_warnings(action="ignore", category=DeprecationWarning):
        child = os.fork()
    if not child:
        buffer.add("of the child")
        buffer.store()
        os._exit(0 if written == [["of the child"]] else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    buffer.store()
    assert written == [["of the parent"]]


# Log


@pytest.fixture
def worker_logging() -> Iterator[None]:
    """Logging as a worker configures it."""
    from accession.tasks.run_details import RunLogHandler

    root = logging.getLogger()
    before = root.handlers[:], root.level
    configure_logging(Settings(log_format="json"))
    structlog.configure(cache_logger_on_first_use=False)
    root.handlers[:] = [RunLogHandler()]
    yield
    root.handlers[:] = before[0]
    root.setLevel(before[1])
    structlog.reset_defaults()


@pytest.mark.usefixtures("worker_logging")
def test_log_of_run_has_its_lines(vendor: ObservedVendor, message: Message, broker: Broker) -> None:
    vendor.responses.append(httpx.Response(503))
    structlog.get_logger("other").info("scheduled run queued", collection=1)
    with travel_to(TODAY):
        broker.deliver(message)
        broker.deliver(broker.pop())
    retry, imported = stored_log()
    assert (retry.level, retry.event, retry.page) == ("warning", "retry scheduled", 1)
    assert retry.fields["retry"] == 1
    assert "status 503" in retry.fields["reason"]
    assert (imported.level, imported.event, imported.page) == ("info", "page imported", 1)
    assert imported.fields["day"] == "2014-01-01"
    assert {"run", "workflow", "collection", "timestamp", "logger"}.isdisjoint(imported.fields)


@pytest.mark.usefixtures("worker_logging")
def test_fields_of_log_lines_are_limited_and_sanitized(
    vendor: ObservedVendor, message: Message, broker: Broker
) -> None:
    from accession.tasks.run_details import MAX_TEXT_LENGTH

    with travel_to(TODAY):
        broker.deliver(message)
    finish_prefetches_and_counts()
    log = structlog.get_logger("accession.test")
    with structlog.contextvars.bound_contextvars(run=message.id, page=7):
        log.debug("not kept")
        log.info("first", title="a\x00\x1b[31m\ud800", reason="x" * 9999, titles=("a", "b"), ratio=0.5)
        try:
            raise ValueError("no such day")
        except ValueError:
            log.exception("second")
    first, second = stored_log()[-2:]
    assert (first.page, first.fields["title"], first.fields["ratio"]) == (7, "a  [31m ", 0.5)
    assert (len(first.fields["reason"]), first.fields["titles"]) == (MAX_TEXT_LENGTH, "('a', 'b')")
    assert (second.level, second.fields) == ("error", {"exception": "ValueError: no such day"})
