"""Real worker processes and HTTP: sharing work, being killed, being stopped, and what they log."""

import json
import os
import struct
from collections.abc import Iterator, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import psutil
import pytest
from celery.utils.nodenames import gethostname
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy.orm import Session

from accession.core.clock import utc_now
from accession.core.workflow import Workflow
from accession.db.models import (
    ApplyOutbox,
    Edition,
    LicensePool,
    Run,
)
from accession.local.servers import ServerUrls
from accession.sandbox.faults import Faults
from accession.tasks.heartbeats import record_worker_heartbeat
from tests.fixtures.broker import Broker
from tests.fixtures.commands import add_sandbox_collection
from tests.fixtures.factories import run_concurrently
from tests.fixtures.running_sandbox import RunningSandbox
from tests.fixtures.stored import all_runs, count_rows, set_checkpoint, titles_with_metadata
from tests.fixtures.waiting import DEADLINE_SECONDS, wait_until
from tests.fixtures.worker_processes import (
    LATENCY_MS,
    TITLES,
    WorkerPool,
    assert_imported,
    count_pages,
    library,
    wait_for_pages,
)
from tests.fixtures.workers import RunStarter, empty_servers


@pytest.fixture(scope="module")
def _worker_pool(servers: ServerUrls, tmp_path_factory: pytest.TempPathFactory) -> Iterator[WorkerPool]:
    empty_servers(servers)
    worker_pool = WorkerPool(servers, tmp_path_factory.mktemp("workers") / "log")
    worker_pool.ensure(2)
    yield worker_pool
    worker_pool.kill()


@pytest.fixture
def worker_pool(_worker_pool: WorkerPool, broker: Broker) -> WorkerPool:
    # Emptying the broker has deleted the heartbeats of the workers that are still running.
    for worker in _worker_pool.workers:
        record_worker_heartbeat(f"accession-{worker.pid}@{gethostname()}")
    return _worker_pool


def assert_pages_requested_once(run: Run, running: RunningSandbox) -> None:
    """Except for a few that were prefetched unnecessarily."""
    assert 0 <= running.statistics()["requests"]["marc"] - run.pages <= 6


def publish_lost(broker: Broker) -> None:
    """Publish outbox rows without a message, as a scheduled task does."""
    from accession.tasks.apply import publish_lost_applies

    publish_lost_applies()
    broker.wait_until_idle()


def test_two_workers_import_two_collections_in_parallel(
    session: Session, worker_pool: WorkerPool, run_starter: RunStarter, broker: Broker
) -> None:
    worker_pool.ensure(2)
    with (
        library(session, "Alder Library", seed=1) as alder,
        library(session, "Birch Library", seed=2) as birch,
    ):
        task_ids = [run_starter.start(collection) for collection, _ in (alder, birch)]
        for (collection, running), task_id in zip((alder, birch), task_ids, strict=True):
            run = run_starter.wait_for(task_id)
            assert_pages_requested_once(run, running)
            assert_imported(collection, running, task_id)
    assert broker.locks() == {}


def test_twenty_concurrent_starts_make_one_run(
    session: Session, worker_pool: WorkerPool, run_starter: RunStarter, broker: Broker
) -> None:
    worker_pool.ensure(2)
    with library(session, "Alder Library", seed=1, latency_ms=10) as alder:
        # A thread of its own may not load the attributes of the session's object, which has expired.
        session.refresh(alder[0])
        task_ids: list[str] = []
        run_concurrently(*[lambda: task_ids.append(run_starter.start(alder[0]))] * 20)
        started = wait_until(
            lambda: [run for run in all_runs() if run.state != "queued"], "a run has started"
        )
        run = run_starter.wait_for(started[0].task_id)
        broker.wait_until_idle()
        assert_pages_requested_once(run, alder[1])
        assert_imported(*alder, run.task_id)
    outcomes = sorted(str(broker.result(task_id)) for task_id in task_ids)
    assert outcomes == ["done", *["refused"] * 19]
    assert broker.locks() == {}


def test_fifty_collections_complete_and_none_starves(
    session: Session, worker_pool: WorkerPool, run_starter: RunStarter, broker: Broker
) -> None:
    """They own the same titles: each collection has its own pools, and they share the editions."""
    from accession.tasks.workflow_task import start_runs
    from accession.tasks.workflows import STEP_TASKS

    worker_pool.ensure(2)
    with library(session, "Library 0", seed=1, titles=6, days=2) as (first, running):
        collections = [first]
        collections += [
            add_sandbox_collection(session, running, f"Library {number}", days=3) for number in range(1, 50)
        ]
        # One call, so that the last message is queued before the first run can end.
        task_ids = start_runs(STEP_TASKS[Workflow.PURCHASES], [collection.id for collection in collections])
        for task_id in task_ids.values():
            run_starter.wait_for(task_id)
        broker.wait_until_idle()
        statistics = running.statistics()
    ended = all_runs()
    assert [run.state for run in ended] == ["succeeded"] * 50
    assert {run.records_fetched for run in ended} == {6}
    assert count_rows(LicensePool) == 50 * statistics["usable_titles"]
    assert count_rows(Edition) == statistics["usable_titles"] == len(titles_with_metadata())
    assert count_rows(ApplyOutbox) == 0
    assert max(run.started_at for run in ended) < min(run.finished_at for run in ended if run.finished_at), (
        "the last run started before the first ended"
    )


def test_metrics_of_two_workers_match_vendor_statistics(
    session: Session, worker_pool: WorkerPool, run_starter: RunStarter, broker: Broker
) -> None:
    worker_pool.ensure(2)
    faults = Faults.parse("bad-gateway=0.1", seed=5)
    with (
        library(session, "Alder Library", seed=1, latency_ms=10, faults=faults) as alder,
        library(session, "Birch Library", seed=2, latency_ms=10) as birch,
    ):
        for task_id in [run_starter.start(collection) for collection, _ in (alder, birch)]:
            run_starter.wait_for(task_id)
        statistics = [running.statistics() for _, running in (alder, birch)]

    def are_all_requests_counted() -> bool:
        samples = read_metrics()
        return all(
            samples.get((f"{SECONDS}_count", (endpoint,)))
            == sum(library["requests"][endpoint] for library in statistics)
            for endpoint in ("marc", "items")
        )

    wait_until(are_all_requests_counted, "the workers have counted their requests")
    samples = read_metrics()
    for endpoint in ("marc", "items"):
        requested = sum(library["requests"][endpoint] for library in statistics)
        counted = [
            n for (name, labels), n in samples.items() if (name, labels[:1]) == (REQUESTS, (endpoint,))
        ]
        assert sum(counted) == samples[f"{SECONDS}_count", (endpoint,)] == requested
        assert samples[f"{SECONDS}_sum", (endpoint,)] >= 0.01 * requested
    failed = sum(n for (name, labels), n in samples.items() if name == REQUESTS and labels[1] != "ok")
    assert failed == sum(statistics[0]["faults"].values()) > 0
    assert samples["accession_titles_applied_total", ("metadata",)] == len(titles_with_metadata())
    assert samples["accession_records_fetched_total", ("purchases",)] == 2 * TITLES


REQUESTS, SECONDS = "accession_vendor_requests_total", "accession_vendor_request_seconds"


def read_metrics() -> dict[tuple[str, tuple[str, ...]], float]:
    """Return the samples that Prometheus reads, by name and label values."""
    from accession.web.metrics import AccessionCollector

    registry = CollectorRegistry()
    registry.register(AccessionCollector())
    return {
        (sample.name, tuple(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(generate_latest(registry).decode())
        for sample in family.samples
    }


def test_run_continues_after_child_processes_are_killed(
    session: Session, worker_pool: WorkerPool, run_starter: RunStarter, broker: Broker
) -> None:
    with library(session, "Alder Library", seed=1, latency_ms=LATENCY_MS) as alder:
        workers = worker_pool.ensure(1)
        task_id = run_starter.start(alder[0])
        wait_for_pages()
        for worker in workers:
            for child in worker.children():
                child.kill()
        pages_before = count_pages()
        run = run_starter.wait_for(task_id)
        assert run.pages > pages_before
        publish_lost(broker)
        assert_imported(*alder, task_id)
    # The lock of a title expires five minutes after a child died between its commit and the release.
    assert [name for name in broker.locks() if not name.startswith("BibliographicApply:")] == []


def test_stopped_worker_finishes_its_page(
    session: Session, worker_pool: WorkerPool, run_starter: RunStarter, broker: Broker
) -> None:
    with library(session, "Alder Library", seed=1, latency_ms=LATENCY_MS) as alder:
        worker_pool.ensure(1)
        task_id = run_starter.start(alder[0])
        wait_for_pages()
        assert set(worker_pool.stop()) == {0}
        pages_before = count_pages()
        assert all_runs()[0].state == "running"
        assert broker.unacknowledged() == 0
        # The last message may be redelivered beside the next: Celery can stop before it acknowledges.
        assert {message.id for message in broker.messages()} == {task_id}
        worker_pool.ensure(1)
        run = run_starter.wait_for(task_id)
        assert run.pages > pages_before
        assert_pages_requested_once(run, alder[1])
        assert_imported(*alder, task_id)


def test_run_resumes_at_once_after_workers_are_killed(
    session: Session, worker_pool: WorkerPool, run_starter: RunStarter, broker: Broker
) -> None:
    """A worker that starts on the same machine takes over at once."""
    with library(session, "Alder Library", seed=1, latency_ms=LATENCY_MS) as alder:
        worker_pool.ensure(1)
        task_id = run_starter.start(alder[0])
        wait_for_pages()
        worker_pool.kill()
        (worker,) = worker_pool.ensure(1)
        run = run_starter.wait_for(task_id)
        assert run.worker == f"accession-{worker.pid}@{gethostname()}"
        assert_imported(*alder, task_id)


def test_worker_log_contains_no_key_or_signature(
    session: Session, worker_pool: WorkerPool, run_starter: RunStarter
) -> None:
    faults = Faults.parse("bad-gateway=0.2,error-document=0.2", seed=5)
    with library(session, "Alder Library", seed=1, faults=faults) as alder:
        set_checkpoint(alder[0].id, utc_now() - timedelta(days=6))
        worker_pool.ensure(1)
        assert run_starter.run_to_end(alder[0]).state == "succeeded"
        assert sum(alder[1].statistics()["faults"].values()) > 0
        assert run_starter.run_to_end(alder[0]).state == "succeeded"
    log = worker_pool.log.read_text()
    assert "retrying invalid response" in log
    assert "run completed" in log
    assert alder[1].account.account_key not in log
    assert "3MCLAUTH" not in log


# Events of a page; other events of a run may happen between two pages.
PAGE_EVENTS = {"page imported", "retrying invalid response", "retry scheduled", "run completed"}


def test_log_lines_name_collection_run_and_page(
    session: Session, worker_pool: WorkerPool, run_starter: RunStarter, broker: Broker
) -> None:
    faults = Faults.parse("bad-gateway=0.2,error-document=0.1", seed=5)
    with library(session, "Alder Library", seed=1, faults=faults) as alder:
        worker_pool.ensure(1)
        before = len(logged_lines(worker_pool.log))
        run = run_starter.run_to_end(alder[0])
        broker.wait_until_idle()
    lines = [
        line for line in logged_lines(worker_pool.log)[before:] if line["logger"].startswith("accession.")
    ]
    context = {"collection": alder[0].id, "workflow": "purchases", "run": run.task_id}
    run_lines = [line for line in lines if not belongs_to_no_run(line)]
    assert [line for line in run_lines if not line.items() >= context.items()] == []
    page_lines = [line for line in run_lines if line["event"] in PAGE_EVENTS]
    assert [line for line in page_lines if not 1 <= line.get("page", 0) <= run.pages] == []
    assert {"retrying invalid response", "run completed"} <= {line["event"] for line in page_lines}
    pages = [line["page"] for line in page_lines if line["event"] == "page imported"]
    assert pages == list(range(1, run.pages + 1))
    # After a redelivery, titles are applied for no particular page.
    applied = [line["page"] for line in run_lines if line["event"] == "titles applied" and "page" in line]
    assert applied
    assert set(applied) <= set(pages)


def belongs_to_no_run(line: Mapping[str, object]) -> bool:
    """Return whether a recovery task logged the line, or the apply of a stale message with nothing left."""
    if line["event"] == "titles applied":
        return line["pools"] == line["editions"] == 0
    return line["logger"] == "accession.tasks.recovery" or line["event"] == "publishing stale applies again"


def logged_lines(log: Path) -> list[dict[str, Any]]:
    """Return the JSON lines of the workers' log; Celery's banner is no JSON."""
    return [json.loads(line) for line in log.read_text().splitlines() if line.startswith("{")]


def test_worker_with_corrupted_pipe_exits_at_once(broker: Broker, worker_pool: WorkerPool) -> None:
    workers = worker_pool.ensure(1)
    worker = workers[-1]
    wait_until(lambda: len(broker.app.control.ping(timeout=0.5)) == len(workers), "the workers answer")
    child = worker.children()[0]
    Path(f"/proc/{child.pid}/fd/{pipe_to(worker, child)}").write_bytes(
        struct.pack("!i", 4) + b"\x01\x01\x01\x01"
    )

    worker_pool.workers.remove(worker)
    assert worker.wait(timeout=DEADLINE_SECONDS) == 1
    wait_until(lambda: not child.is_running(), "its child process has ended")
    assert "worker pool failed, exiting" in worker_pool.log.read_text()


def pipe_to(parent: psutil.Process, child: psutil.Process) -> str:
    """Return the child's file descriptor of the pipe for its results."""

    def pipes(process: psutil.Process, flag: int) -> dict[str, str]:
        descriptors: dict[str, str] = {}
        for descriptor in Path(f"/proc/{process.pid}/fd").iterdir():
            flags = (
                Path(f"/proc/{process.pid}/fdinfo/{descriptor.name}")
                .read_text()
                .split("flags:")[1]
                .split()[0]
            )
            if (
                os.readlink(descriptor).startswith("pipe:")
                and int(flags, 8) & (os.O_ACCMODE | os.O_NONBLOCK) == flag
            ):
                descriptors[os.readlink(descriptor)] = descriptor.name
        return descriptors

    parent_pipes = pipes(parent, os.O_RDONLY | os.O_NONBLOCK)
    return next(number for pipe, number in pipes(child, os.O_WRONLY).items() if pipe in parent_pipes)
