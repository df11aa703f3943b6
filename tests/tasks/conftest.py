"""A worker in a thread of this process, on the real broker; and links delivered by hand, where order matters."""

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest
import structlog
import time_machine
from celery import Celery
from celery.app.trace import trace_task
from celery.contrib.testing.worker import start_worker
from redis import Redis
from sqlalchemy import func, select
from sqlalchemy.orm import Session
from structlog.contextvars import merge_contextvars
from structlog.testing import capture_logs
from structlog.typing import EventDict

from accession.catalog.ledger import Workflow, find_run, is_active
from accession.catalog.models import ApplyOutbox, Collection, Run, Timestamp
from accession.database import transaction
from accession.local.servers import ServerUrls
from tests.vendor import Vendor

DEADLINE_SECONDS = 20


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Celery stores results with a call that redis-py would rather not see; here all warnings are errors."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.filterwarnings("ignore:Call to deprecated setex:DeprecationWarning"))


def eventually(look: Callable[[], Any], what: str) -> Any:
    """What `look` returns once that is true; fails after 20 seconds."""
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not (seen := look()):
        assert time.monotonic() < deadline, f"in {DEADLINE_SECONDS} s it did not come true that {what}"
        time.sleep(0.005)
    return seen


def today_is(moment: datetime) -> AbstractContextManager[Any]:
    """For a while it is `moment`, in every thread, and time goes on from there."""
    return time_machine.travel(moment, tick=True)


@dataclass
class WatchedVendor(Vendor):
    """A vendor that lets a test look, or wait, when a request has come and before it is answered."""

    watch: Callable[[httpx.Request], object] = field(default=lambda request: None)

    def _answer(self, request: httpx.Request) -> httpx.Response:
        self.watch(request)
        return super()._answer(request)


@pytest.fixture
def vendor(monkeypatch: pytest.MonkeyPatch) -> Iterator[WatchedVendor]:
    """The vendor that every request of this process reaches."""
    vendor = WatchedVendor()
    with vendor.client() as http:
        monkeypatch.setattr("accession.bibliotheca.client.http_client", lambda: http)
        yield vendor


@pytest.fixture(scope="session")
def app(servers: ServerUrls) -> Celery:
    """The app on the servers of this test process."""
    from accession.tasks.app import app

    return app


@dataclass(frozen=True)
class Broker:
    """The broker, and what lies in it."""

    redis: "Redis"
    app: Celery

    def clear(self) -> None:
        """Throw messages, locks and results away, but not the queues' bindings, which workers declare once."""
        for key in self.redis.scan_iter(count=1000):
            if not key.startswith(b"_kombu.binding"):
                self.redis.delete(key)

    def messages(self, queue: str = "default") -> list[bytes]:
        """What waits in a queue, the next to be taken last."""
        return self.redis.lrange(queue, 0, -1)  # type: ignore[return-value]

    def unacknowledged(self) -> int:
        """How many messages are with a worker, or were with one that died."""
        return self.redis.hlen("unacked")  # type: ignore[return-value]

    def is_idle(self) -> bool:
        """Whether nothing waits and nothing is under way, also a moment later.

        A message is nowhere to be seen between being taken and being noted as taken.
        """
        for _ in range(3):
            if self.messages() or self.messages("apply") or self.unacknowledged():
                return False
            time.sleep(0.002)
        return True

    def settle(self) -> None:
        """Afterwards the workers have nothing to do."""
        eventually(self.is_idle, "the workers are idle")

    def everything(self) -> bytes:
        """Every key and every value, as bytes."""
        return b"\n".join(self.redis.dump(key) + key for key in self.redis.scan_iter())  # type: ignore[operator]


@pytest.fixture
def broker(app: Celery, servers: ServerUrls) -> Iterator[Broker]:
    """The broker, emptied before and after the test."""
    with Redis.from_url(servers.redis_url) as client:
        broker = Broker(client, app)
        broker.clear()
        yield broker
        broker.clear()


@contextmanager
def _logging_left_alone() -> Iterator[None]:
    root, structure = logging.getLogger(), structlog.get_config()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:], root.level = handlers, level
    structlog.configure(**structure)


@contextmanager
def running_worker(app: Celery) -> Iterator[None]:
    """A worker that takes one message at a time from both queues."""
    with (
        _logging_left_alone(),
        start_worker(app, pool="solo", perform_ping_check=False, shutdown_timeout=DEADLINE_SECONDS),
    ):
        yield
