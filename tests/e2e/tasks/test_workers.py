"""Real worker processes on real HTTP: what holds when they share the work, are killed, and are stopped."""

import json
import os
import struct
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import psutil
import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families
from pydantic import SecretStr
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from accession.accounts.collections import add_collection
from accession.core.clock import utc_now
from accession.core.settings import get_settings
from accession.db.engine import transaction
from accession.db.models import (
    ApplyOutbox,
    Collection,
    Edition,
    LicensePool,
    PurchaseRecord,
    RejectedRecord,
    Run,
)
from accession.local.servers import ServerUrls
from accession.sandbox.catalogue import build_catalogue
from accession.sandbox.faults import Faults
from accession.sandbox.server import RunningSandbox, Sandbox, running_sandbox
from tests.fixtures.factories import side_by_side
from tests.fixtures.workers import (
    Broker,
    Chains,
    applied_titles,
    eventually,
    forget_everything,
    number_of,
    runs,
    set_checkpoint,
)

DAYS = 24
TITLES = 120
PATIENCE_SECONDS = 60


@contextmanager
def library(
    session: Session,
    name: str,
    *,
    seed: int,
    titles: int = TITLES,
    days: int = DAYS,
    latency_ms: int = 0,
    faults: Faults | None = None,
) -> Iterator[tuple[Collection, RunningSandbox]]:
    """A collection of titles bought in the last days, of which nothing is imported yet, and its vendor."""
    until = utc_now().replace(microsecond=0)
    sold = build_catalogue(titles, until - timedelta(days=days), until, seed=seed)
    with running_sandbox(Sandbox(sold, faults=faults, latency_ms=latency_ms)) as running:
        yield customer(session, name, running, days=days), running


def customer(session: Session, name: str, running: RunningSandbox, *, days: int) -> Collection:
    """A committed collection that buys from the vendor, and of which nothing is imported yet."""
    collection = add_collection(
        session,
        name=name,
        library_id=running.account.library_id,
        account_id=running.account.account_id,
        account_key=SecretStr(running.account.account_key),
        base_url=running.base_url,
    )
    session.commit()
    # One day more: the vendor may have begun to sell seconds before.
    set_checkpoint(collection.id, utc_now() - timedelta(days=days + 1))
    return collection


@dataclass
class Crew:
    """Workers as an operator starts them by hand; those that a test leaves alive serve the next."""

    servers: ServerUrls
    log: Path
    workers: list[psutil.Popen] = field(default_factory=list)

    def at_work(self, number: int) -> list[psutil.Popen]:
        """At least so many workers, started where they are missing."""
        self.workers = [worker for worker in self.workers if worker.poll() is None]
        self.workers += [self._start() for _ in range(number - len(self.workers))]
        return self.workers

    def stop(self) -> list[int]:
        """Ask all to end when their pages are done, and wait for that; their exit codes."""
        for worker in self.workers:
            worker.terminate()
        codes = [worker.wait(timeout=PATIENCE_SECONDS) for worker in self.workers]
        self.workers.clear()
        return codes

    def kill(self) -> None:
        """End all at once, children included."""
        for worker in self.workers:
            for process in [worker, *worker.children()]:
                process.kill()
            worker.wait()
        self.workers.clear()

    def _start(self) -> psutil.Popen:
        environment = os.environ | {
            "ACCESSION_DATABASE_URL": self.servers.database_url,
            "ACCESSION_REDIS_URL": self.servers.redis_url,
            "ACCESSION_HOME": str(get_settings().home),
            "ACCESSION_RETRY_BACKOFF_SECONDS": "0",
            "ACCESSION_LOG_FORMAT": "json",
        }
        command = "-m celery -A accession.tasks.app worker --pool prefork --concurrency 2 -Q default,apply"
        options = ("--without-mingle", "--without-gossip", f"--hostname={uuid4().hex}@%h")
        with self.log.open("a") as log:
            return psutil.Popen(
                [sys.executable, *command.split(), *options], env=environment, stdout=log, stderr=log
            )


@pytest.fixture(scope="module")
def _crew(servers: ServerUrls, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Crew]:
    from accession.tasks.app import app

    forget_everything(app, servers)
    crew = Crew(servers, tmp_path_factory.mktemp("workers") / "log")
    crew.at_work(2)
    yield crew
    crew.kill()


@pytest.fixture
def crew(_crew: Crew, broker: Broker) -> Crew:
    return _crew


@pytest.fixture
def chains(broker: Broker) -> Chains:
    """Chains that may wait for a worker to start on a busy machine."""
    return Chains(broker, PATIENCE_SECONDS)


def on_its_way() -> None:
    """Wait until a chain has stored its first five pages."""
    eventually(lambda: pages() >= 5, "the chain is on its way", PATIENCE_SECONDS)


def assert_imported(collection: Collection, running: RunningSandbox, task_id: str) -> None:
    """Nothing is lost, nothing is doubled: not a title, not a record, not a page of the ledger."""
    told = running.statistics()
    with transaction() as session:
        run = session.scalars(select(Run).filter_by(collection_id=collection.id)).one()
        assert (run.task_id, run.state, run.error) == (task_id, "succeeded", None)
        assert (run.records_fetched, run.records_rejected) == (TITLES, told["unusable_records"])
        assert run.titles_new == told["usable_titles"]

        def count(model: type[LicensePool] | type[RejectedRecord]) -> int | None:
            return session.scalar(
                select(func.count()).select_from(model).where(model.collection_id == collection.id)
            )

        assert count(LicensePool) == told["usable_titles"]
        assert count(RejectedRecord) == told["unusable_records"]
        records = select(func.count(PurchaseRecord.id)).join(
            LicensePool, PurchaseRecord.license_pool_id == LicensePool.id
        )
        records = records.where(LicensePool.collection_id == collection.id)
        assert session.scalar(records) == told["usable_titles"]
        editions = select(func.count(Edition.id)).join(
            LicensePool, LicensePool.identifier_id == Edition.identifier_id
        )
        editions = editions.where(LicensePool.collection_id == collection.id, Edition.title.is_not(None))
        assert session.scalar(editions) == told["usable_titles"] - 1  # one title is not listed by the vendor
    assert number_of(ApplyOutbox) == 0


def pages() -> int:
    return sum(run.pages for run in runs())


def sweep(broker: Broker) -> None:
    """Publish what was committed and not published, as the schedule does."""
    from accession.tasks.apply import publish_left_applies

    publish_left_applies(every_row=True)
    broker.settle()


def test_two_workers_import_two_collections_side_by_side(
    session: Session, crew: Crew, chains: Chains, broker: Broker
) -> None:
    crew.at_work(2)
    with (
        library(session, "Alder Library", seed=1) as alder,
        library(session, "Birch Library", seed=2) as birch,
    ):
        task_ids = [chains.start(collection) for collection, _ in (alder, birch)]
        for (collection, running), task_id in zip((alder, birch), task_ids, strict=True):
            run = chains.ended(task_id)
            assert run.pages == running.statistics()["requests"]["marc"]
            assert_imported(collection, running, task_id)
    assert broker.locks() == {}


def test_twenty_starts_at_once_on_four_workers_are_one_chain(
    session: Session, crew: Crew, chains: Chains, broker: Broker
) -> None:
    crew.at_work(4)
    with library(session, "Alder Library", seed=1, latency_ms=10) as alder:
        task_ids: list[str] = []
        side_by_side(*[lambda: task_ids.append(chains.start(alder[0]))] * 20)
        begun = eventually(lambda: [run for run in runs() if run.state != "queued"], "one has begun")
        run = chains.ended(begun[0].task_id)
        broker.settle()
        assert run.pages == alder[1].statistics()["requests"]["marc"], "each page was asked for once"
        assert_imported(*alder, run.task_id)
    outcomes = sorted(str(broker.result(task_id)) for task_id in task_ids)
    assert outcomes == ["done", *["refused"] * 19]
    assert broker.locks() == {}


def test_fifty_collections_at_once_on_two_workers_all_complete_and_none_starves(
    session: Session, crew: Crew, chains: Chains, broker: Broker
) -> None:
    """They own the same titles: each has pools of its own, and they share the editions."""
    crew.at_work(2)
    with library(session, "Library 0", seed=1, titles=12, days=5) as (first, running):
        collections = [first]
        collections += [customer(session, f"Library {number}", running, days=5) for number in range(1, 50)]
        for task_id in [chains.start(collection) for collection in collections]:
            chains.ended(task_id)
        broker.settle()
        told = running.statistics()
    ended = runs()
    assert [run.state for run in ended] == ["succeeded"] * 50
    assert {run.records_fetched for run in ended} == {12}
    assert number_of(LicensePool) == 50 * told["usable_titles"]
    assert number_of(Edition) == told["usable_titles"] == len(applied_titles())
    assert number_of(ApplyOutbox) == 0
    assert max(run.started_at for run in ended) < min(run.finished_at for run in ended if run.finished_at), (
        "the last had begun before the first was through"
    )


def test_killed_worker_children_are_followed_by_others_that_go_on(
    session: Session, crew: Crew, chains: Chains, broker: Broker
) -> None:
    with library(session, "Alder Library", seed=1, latency_ms=10) as alder:
        workers = crew.at_work(1)
        task_id = chains.start(alder[0])
        on_its_way()
        for worker in workers:
            for child in worker.children():
                child.kill()
        reached = pages()
        run = chains.ended(task_id)
        assert run.pages > reached
        sweep(broker)
        assert_imported(*alder, task_id)
    # A title's lock outlives a child that died between its commit and the release, for five minutes.
    assert [name for name in broker.locks() if not name.startswith("BibliographicApply:")] == []


def test_stopped_workers_finish_their_pages_and_another_goes_on(
    session: Session, crew: Crew, chains: Chains, broker: Broker
) -> None:
    with library(session, "Alder Library", seed=1, latency_ms=10) as alder:
        crew.at_work(1)
        task_id = chains.start(alder[0])
        on_its_way()
        assert set(crew.stop()) == {0}
        stopped_at = pages()
        assert runs()[0].state == "running"
        assert broker.unacknowledged() == 0
        # The last message may come back beside the next: Celery can stop before it has noted the end.
        assert {message.id for message in broker.messages()} == {task_id}
        crew.at_work(1)
        run = chains.ended(task_id)
        assert run.pages > stopped_at
        assert run.pages == alder[1].statistics()["requests"]["marc"]
        assert_imported(*alder, task_id)


def test_killed_workers_are_followed_at_once_by_one_that_goes_on(
    session: Session, crew: Crew, chains: Chains, broker: Broker
) -> None:
    """As `accession up` does it after everything was killed, instead of after an hour."""
    from accession.tasks.recovery import resume_interrupted_work

    with library(session, "Alder Library", seed=1, latency_ms=10) as alder:
        crew.at_work(1)
        task_id = chains.start(alder[0])
        on_its_way()
        crew.kill()
        assert resume_interrupted_work() == 1
        crew.at_work(1)
        chains.ended(task_id)
        assert_imported(*alder, task_id)


def test_faults_are_retried_and_no_account_key_or_signature_is_logged(
    session: Session, crew: Crew, chains: Chains
) -> None:
    faults = Faults.parse("bad-gateway=0.2,error-document=0.2", seed=5)
    with library(session, "Alder Library", seed=1, faults=faults) as alder:
        set_checkpoint(alder[0].id, utc_now() - timedelta(days=6))
        crew.at_work(1)
        assert chains.imported(alder[0]).state == "succeeded"
        assert sum(alder[1].statistics()["faults"].values()) > 0
        assert chains.imported(alder[0]).state == "succeeded"
    log = crew.log.read_text()
    assert "a spoilt answer is asked for again" in log
    assert "the run is complete" in log
    assert alder[1].account.account_key not in log
    assert "3MCLAUTH" not in log


def test_what_two_workers_count_is_what_the_vendor_was_asked_and_what_was_written(
    session: Session, crew: Crew, chains: Chains, broker: Broker
) -> None:
    crew.at_work(2)
    faults = Faults.parse("bad-gateway=0.1", seed=5)
    with (
        library(session, "Alder Library", seed=1, latency_ms=10, faults=faults) as alder,
        library(session, "Birch Library", seed=2, latency_ms=10) as birch,
    ):
        for task_id in [chains.start(collection) for collection, _ in (alder, birch)]:
            chains.ended(task_id)
        told = [running.statistics() for _, running in (alder, birch)]
    shown = exposition()
    for endpoint in ("marc", "items"):
        asked = sum(library["requests"][endpoint] for library in told)
        of_it = [n for (name, labels), n in shown.items() if (name, labels[:1]) == (REQUESTS, (endpoint,))]
        assert sum(of_it) == shown[f"{SECONDS}_count", (endpoint,)] == asked
        assert shown[f"{SECONDS}_sum", (endpoint,)] >= 0.01 * asked
    failed = sum(n for (name, labels), n in shown.items() if name == REQUESTS and labels[1] != "ok")
    assert failed == sum(told[0]["faults"].values()) > 0
    assert shown["accession_titles_applied_total", ("described",)] == len(applied_titles())
    assert shown["accession_records_fetched_total", ("purchases",)] == 2 * TITLES


REQUESTS, SECONDS = "accession_vendor_requests_total", "accession_vendor_request_seconds"


def exposition() -> dict[tuple[str, tuple[str, ...]], float]:
    """What Prometheus reads: each sample by its name and the values of its labels."""
    from accession.web.metrics import Figures

    registry = CollectorRegistry()
    registry.register(Figures())
    return {
        (sample.name, tuple(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(generate_latest(registry).decode())
        for sample in family.samples
    }


# A worker that connects sends the expected link once more.
ABOUT_NO_PAGE = (
    "this page is done already; the message was delivered twice",
    "a message of a run that has ended",
)


def test_each_line_of_a_chain_says_which_collection_run_and_page_it_is_about(
    session: Session, crew: Crew, chains: Chains, broker: Broker
) -> None:
    faults = Faults.parse("bad-gateway=0.2,error-document=0.1", seed=5)
    with library(session, "Alder Library", seed=1, faults=faults) as alder:
        crew.at_work(1)
        before = len(logged_lines(crew.log))
        run = chains.imported(alder[0])
        broker.settle()
    lines = [line for line in logged_lines(crew.log)[before:] if line["logger"].startswith("accession.")]
    about = {"collection": alder[0].id, "workflow": "purchases", "run": run.task_id}
    told = [
        line
        for line in lines
        if line["logger"] != "accession.tasks.recovery" and line["event"] not in ABOUT_NO_PAGE
    ]
    assert all(line.items() >= about.items() and 1 <= line["page"] <= run.pages for line in told), told
    assert {"a spoilt answer is asked for again", "the run is complete"} <= {line["event"] for line in told}
    pages = [line["page"] for line in told if line["event"] == "page imported"]
    assert pages == list(range(1, run.pages + 1))
    applied = [line["page"] for line in told if line["event"] == "titles applied"]
    assert applied
    assert set(applied) <= set(pages)


def logged_lines(log: Path) -> list[dict[str, Any]]:
    """What the workers have logged; Celery greets its operator in its own way."""
    return [json.loads(line) for line in log.read_text().splitlines() if line.startswith("{")]


def test_a_worker_whose_children_cannot_be_understood_ends_at_once(broker: Broker, crew: Crew) -> None:
    workers = crew.at_work(1)
    worker = workers[-1]
    eventually(lambda: len(broker.app.control.ping(timeout=0.5)) == len(workers), "it is at work")
    child = worker.children()[0]
    Path(f"/proc/{child.pid}/fd/{pipe_to(worker, child)}").write_bytes(
        struct.pack("!i", 4) + b"\x01\x01\x01\x01"
    )

    crew.workers.remove(worker)
    assert worker.wait(timeout=20) == 1
    eventually(lambda: not child.is_running(), "its children have ended, too")
    assert "the worker is broken and ends" in crew.log.read_text()


def pipe_to(parent: psutil.Process, child: psutil.Process) -> str:
    """The child's descriptor of the pipe by which it tells its parent what it has done."""

    def pipes(process: psutil.Process, flag: int) -> dict[str, str]:
        found: dict[str, str] = {}
        for link in Path(f"/proc/{process.pid}/fd").iterdir():
            flags = Path(f"/proc/{process.pid}/fdinfo/{link.name}").read_text().split("flags:")[1].split()[0]
            if (
                os.readlink(link).startswith("pipe:")
                and int(flags, 8) & (os.O_ACCMODE | os.O_NONBLOCK) == flag
            ):
                found[os.readlink(link)] = link.name
        return found

    listened_to = pipes(parent, os.O_RDONLY | os.O_NONBLOCK)
    return next(number for pipe, number in pipes(child, os.O_WRONLY).items() if pipe in listened_to)
