"""Real worker processes on real HTTP: what holds when they share the work, are killed, and are stopped."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import datetime, timedelta

import psutil
import pytest
from pydantic import SecretStr
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from accession.catalog.collections import add_collection
from accession.catalog.models import (
    ApplyOutbox,
    Collection,
    Edition,
    LicensePool,
    PurchaseRecord,
    RejectedRecord,
    Run,
)
from accession.clock import utc_now
from accession.database import transaction
from accession.local.servers import ServerUrls
from accession.sandbox.catalogue import build_catalogue
from accession.sandbox.server import RunningSandbox, Sandbox, running_sandbox
from accession.settings import get_settings
from tests.tasks.conftest import Broker, Chains, eventually, number_of, runs, set_checkpoint

DAYS = 40
TITLES = 120


@contextmanager
def library(
    session: Session, name: str, *, seed: int, latency_ms: int = 0
) -> Iterator[tuple[Collection, RunningSandbox]]:
    """A collection of 120 titles bought within 40 days, of which nothing is imported yet, and its vendor."""
    until = utc_now().replace(microsecond=0)
    since = until - timedelta(days=DAYS)
    sandbox = Sandbox(build_catalogue(TITLES, since, until, seed=seed), latency_ms=latency_ms)
    with running_sandbox(sandbox) as running:
        collection = add_collection(
            session,
            name=name,
            library_id=running.account.library_id,
            account_id=running.account.account_id,
            account_key=SecretStr(running.account.account_key),
            base_url=running.base_url,
        )
        session.commit()
        set_checkpoint(collection.id, since)
        yield collection, running


@contextmanager
def worker_process(servers: ServerUrls) -> Iterator[psutil.Popen]:
    """A worker as an operator starts it by hand, killed with its children if the test leaves it running."""
    environment = os.environ | {
        "ACCESSION_DATABASE_URL": servers.database_url,
        "ACCESSION_REDIS_URL": servers.redis_url,
        "ACCESSION_HOME": str(get_settings().home),
        "ACCESSION_RETRY_BACKOFF_SECONDS": "0",
    }
    command = "-m celery -A accession.tasks.app worker --pool prefork --concurrency 2 -Q default,apply"
    options = ["--without-gossip", "--without-mingle", "-n", f"worker-{datetime.now().timestamp()}@%h"]  # noqa: DTZ005
    process = psutil.Popen(
        [sys.executable, *command.split(), *options],
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
        if process.poll() is None:
            process.terminate()
            process.communicate(timeout=20)
    finally:
        if process.poll() is None:
            for child in process.children(recursive=True):
                child.kill()
            process.kill()
            process.communicate()


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


def test_two_workers_import_two_collections_side_by_side(
    session: Session, servers: ServerUrls, chains: Chains, broker: Broker
) -> None:
    with ExitStack() as stack:
        for _ in range(2):
            stack.enter_context(worker_process(servers))
        alder = stack.enter_context(library(session, "Alder Library", seed=1))
        birch = stack.enter_context(library(session, "Birch Library", seed=2))
        task_ids = [chains.start(collection) for collection, _ in (alder, birch)]
        ended = [chains.ended(task_id) for task_id in task_ids]
        for (collection, running), task_id in zip((alder, birch), task_ids, strict=True):
            assert_imported(collection, running, task_id)
    assert [run.pages for run in ended] == [
        running.statistics()["requests"]["marc"] for _, running in (alder, birch)
    ]
    assert broker.locks() == {}


def test_killed_worker_children_are_followed_by_others_that_go_on(
    session: Session, servers: ServerUrls, chains: Chains, broker: Broker
) -> None:
    with worker_process(servers) as worker, library(session, "Alder Library", seed=1, latency_ms=10) as alder:
        task_id = chains.start(alder[0])
        eventually(lambda: pages() >= 5, "the chain is on its way")
        for child in worker.children():
            child.send_signal(signal.SIGKILL)
        reached = pages()
        run = chains.ended(task_id)
        assert run.pages > reached
        assert_imported(*alder, task_id)


def test_a_stopped_worker_finishes_its_page_and_another_goes_on(
    session: Session, servers: ServerUrls, chains: Chains, broker: Broker
) -> None:
    with library(session, "Alder Library", seed=1, latency_ms=10) as alder:
        with worker_process(servers) as worker:
            task_id = chains.start(alder[0])
            eventually(lambda: pages() >= 5, "the chain is on its way")
            worker.terminate()
            _, log = worker.communicate(timeout=20)
            assert worker.returncode == 0, log
        stopped_at = pages()
        assert runs()[0].state == "running"
        assert broker.unacknowledged() == 0
        assert [message.id for message in broker.messages()] == [task_id]
        with worker_process(servers):
            run = chains.ended(task_id)
        assert run.pages > stopped_at
        assert run.pages == alder[1].statistics()["requests"]["marc"]
        assert_imported(*alder, task_id)


def test_a_killed_worker_is_followed_at_once_by_one_that_goes_on(
    session: Session, servers: ServerUrls, chains: Chains, broker: Broker
) -> None:
    """As `accession up` does it after everything was killed, instead of after an hour."""
    from accession.tasks.recovery import resume_interrupted_work

    with library(session, "Alder Library", seed=1, latency_ms=10) as alder:
        with worker_process(servers) as worker:
            task_id = chains.start(alder[0])
            eventually(lambda: pages() >= 5, "the chain is on its way")
            everyone = [worker, *worker.children()]
            for process in everyone:
                process.kill()
            worker.communicate()
        assert resume_interrupted_work() == 1
        with worker_process(servers):
            chains.ended(task_id)
        assert_imported(*alder, task_id)


def test_the_worker_logs_neither_account_key_nor_signature(
    session: Session, servers: ServerUrls, chains: Chains
) -> None:
    with library(session, "Alder Library", seed=1) as alder, worker_process(servers) as worker:
        set_checkpoint(alder[0].id, utc_now() - timedelta(days=3))
        alder[1].sandbox.faults = alder[1].sandbox.faults.parse("bad-gateway=0.3", 3)
        chains.ended(chains.start(alder[0]))
        worker.terminate()
        _, log = worker.communicate(timeout=20)
    assert "the run is complete" in log
    assert alder[1].account.account_key not in log
    assert "3MCLAUTH" not in log
