"""A broker whose open connections fall silent: nothing is closed, and only new connections are served."""

import socket
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from sqlalchemy.orm import Session

from accession.db.models import ApplyOutbox
from accession.local.servers import ServerUrls
from accession.runs.ledger import is_active
from tests.fixtures.broker import Broker
from tests.fixtures.silent_proxy import SilentProxy, silent_proxy
from tests.fixtures.stored import count_rows
from tests.fixtures.waiting import repeated, wait_until
from tests.fixtures.worker_processes import (
    LATENCY_MS,
    WorkerPool,
    assert_imported,
    library,
    wait_for_pages,
)
from tests.fixtures.workers import RunStarter, empty_servers

SECONDS_BETWEEN_RESUMPTIONS = 10


@pytest.fixture(scope="module")
def proxy(servers: ServerUrls) -> Iterator[SilentProxy]:
    """A proxy in front of the broker."""
    path = urlsplit(servers.redis_url).path

    def connect() -> socket.socket:
        server = socket.socket(socket.AF_UNIX)
        server.connect(path)
        return server

    with silent_proxy(connect) as proxy:
        yield proxy


@pytest.fixture
def worker(proxy: SilentProxy, servers: ServerUrls, broker: Broker, tmp_path: Path) -> Iterator[None]:
    """A worker process that reaches the broker through the proxy, and has received its first message."""
    empty_servers(servers)
    password = urlsplit(servers.redis_url).password
    proxied = replace(servers, redis_url=f"redis://:{password}@127.0.0.1:{proxy.port}/0")
    pool = WorkerPool(proxied, tmp_path / "log")
    pool.ensure(1)
    wait_until(lambda: broker.app.control.ping(timeout=0.5), "the worker answers")
    yield
    pool.kill()


def hold(proxy: SilentProxy, broker: Broker) -> None:
    """Silence all connections, and wait until the broker delivers no messages to them any more."""
    proxy.hold()
    wait_until(lambda: broker.redis.info("clients")["blocked_clients"] == 0, "no connection waits")


def wait_for_import(run_starter: RunStarter, task_id: str) -> None:
    """Wait until the run has ended and its changes are applied.

    The broker may keep a message for longer, if the worker's acknowledgement was lost.
    """

    def is_complete() -> bool:
        run = run_starter.find(task_id)
        return run is not None and not is_active(run) and count_rows(ApplyOutbox) == 0

    wait_until(is_complete, f"the run {task_id} has ended, and its changes are applied")


def test_idle_worker_receives_runs_after_silence(
    session: Session, worker: None, proxy: SilentProxy, run_starter: RunStarter, broker: Broker
) -> None:
    with library(session, "Alder Library", seed=1) as alder:
        hold(proxy, broker)
        task_id = run_starter.start(alder[0])
        wait_for_import(run_starter, task_id)
        assert_imported(*alder, task_id)


def test_run_in_progress_continues_after_silence(
    session: Session, worker: None, proxy: SilentProxy, run_starter: RunStarter, broker: Broker
) -> None:
    from accession.tasks.recovery import resume_lost_work

    with library(session, "Alder Library", seed=1, latency_ms=LATENCY_MS) as alder:
        task_id = run_starter.start(alder[0])
        wait_for_pages()
        hold(proxy, broker)
        # As the schedule does every minute: a message may have been on its way.
        with repeated(resume_lost_work.delay, SECONDS_BETWEEN_RESUMPTIONS):
            wait_for_import(run_starter, task_id)
        assert_imported(*alder, task_id)
