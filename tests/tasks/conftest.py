"""A worker in a thread of this process, on the real broker; and messages delivered by hand."""

import gc
import json
import re
import time
import warnings
from base64 import b64decode
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, cast

import httpx
import pytest
import structlog
import time_machine
from celery import Celery
from celery._state import _set_task_join_will_block, task_join_will_block
from celery.app.trace import trace_task
from celery.contrib.testing.worker import start_worker
from redis import Redis
from sqlalchemy import func, select
from sqlalchemy.orm import Session
from structlog.contextvars import merge_contextvars
from structlog.testing import LogCapture
from structlog.typing import EventDict

from accession.catalog.apply import put_in_outbox
from accession.catalog.ledger import Workflow, find_run, is_active, timestamp
from accession.catalog.models import (
    ApplyOutbox,
    Base,
    Collection,
    Edition,
    Identifier,
    LicensePool,
    Run,
    Timestamp,
)
from accession.database import transaction
from accession.local.servers import ServerUrls
from accession.settings import get_settings
from tests.conftest import empty_broker, empty_database
from tests.making import make_pool, title_data
from tests.vendor import Vendor, item

DEADLINE_SECONDS = 20


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Celery stores results with a call that redis-py would rather not see; here all warnings are errors."""
    for test in items:
        if Path(__file__).parent in test.path.parents:
            test.add_marker(pytest.mark.filterwarnings("ignore:Call to deprecated setex:DeprecationWarning"))


def eventually(look: Callable[[], Any], what: str, seconds: float = DEADLINE_SECONDS) -> Any:
    """What `look` returns once that is true; fails when it stays false too long."""
    deadline = time.monotonic() + seconds
    while not (seen := look()):
        assert time.monotonic() < deadline, f"in {seconds} s it did not come true that {what}"
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
    """The vendor that every request of this process reaches; an answer of its script is not asked for again
    at once, and is for the page whose turn it is."""
    monkeypatch.setattr("accession.bibliotheca.client.ASK_AGAIN_TIMES", 0)
    monkeypatch.setattr(get_settings(), "vendor_max_concurrency", 1)
    vendor = WatchedVendor()
    with vendor.client() as http:
        monkeypatch.setattr("accession.bibliotheca.client.http_client", lambda: http)
        yield vendor


@pytest.fixture
def four_at_once(vendor: WatchedVendor, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pages are read ahead, as they are unless a test needs its script to be followed in order."""
    monkeypatch.setattr(get_settings(), "vendor_max_concurrency", 4)


@pytest.fixture(scope="session")
def app(servers: ServerUrls) -> Celery:
    """The app on the servers of this test process."""
    from accession.tasks.app import app

    return app


@contextmanager
def _not_waiting_for_results() -> Iterator[None]:
    """Publish as a worker's child does: without subscribing to the results of what is published."""
    before = task_join_will_block()
    _set_task_join_will_block(True)
    try:
        yield
    finally:
        _set_task_join_will_block(before)


@dataclass(frozen=True)
class Message:
    """A task message as it lies in the broker."""

    task: str
    id: str
    args: list[Any]
    kwargs: dict[str, Any]
    retries: int
    eta: datetime | None

    @classmethod
    def decoded(cls, raw: bytes) -> "Message":
        message = json.loads(raw)
        headers = message["headers"]
        args, kwargs, _ = json.loads(b64decode(message["body"]))
        eta = datetime.fromisoformat(headers["eta"]) if headers["eta"] else None
        return cls(headers["task"], headers["id"], args, kwargs, headers["retries"], eta)


@dataclass(frozen=True)
class Broker:
    """The broker, and what lies in it."""

    redis: "Redis"
    app: Celery

    def clear(self) -> None:
        """Throw messages, locks and results away."""
        empty_broker(self.redis)

    def raw_messages(self, queue: str = "default") -> list[bytes]:
        return cast(list[bytes], self.redis.lrange(queue, 0, -1))[::-1]

    def messages(self, queue: str = "default") -> list[Message]:
        """What waits in a queue, the next to be taken first."""
        return [Message.decoded(raw) for raw in self.raw_messages(queue)]

    def take(self, queue: str = "default") -> Message:
        """Take the next message away, as a worker does that acknowledges at once."""
        return Message.decoded(cast(bytes, self.redis.rpop(queue)))

    def unacknowledged(self) -> int:
        """How many messages are with a worker, or were with one that died."""
        return self.redis.hlen("unacked")

    def deliver(self, message: Message, *, redelivered: bool = False) -> Any:
        """Run a task as a worker's child does with this message; what it returns or raises."""
        request = {
            "id": message.id,
            "root_id": message.id,
            "retries": message.retries,
            "is_eager": False,
            "delivery_info": {"redelivered": redelivered, "routing_key": "default"},
        }
        task = self.app.tasks[message.task]
        result, info, *_ = trace_task(task, message.id, message.args, message.kwargs, request, app=self.app)
        return info.retval if info else result

    def deliver_next(self, queue: str = "default") -> Any:
        """Run the task of the message that is next."""
        return self.deliver(self.take(queue))

    def is_idle(self) -> bool:
        """Whether nothing waits and nothing is under way, also a moment later.

        A message is nowhere to be seen between being taken and being noted as taken.
        """
        for _ in range(3):
            if self.raw_messages() or self.raw_messages("apply") or self.unacknowledged():
                return False
            time.sleep(0.002)
        return True

    def settle(self) -> None:
        """Afterwards the workers have nothing to do."""
        eventually(self.is_idle, "the workers are idle")

    def result(self, task_id: str) -> Any:
        """What the task has returned or raised; None when it has not."""
        return self.app.backend.get_result(task_id)

    def holder(self, lock: str) -> str | None:
        """Who has the lock of this name."""
        return cast(bytes, found).decode() if (found := self.redis.get(lock)) is not None else None

    def locks(self) -> dict[str, str | None]:
        """Every lock and its holder."""
        names = [key.decode() for key in self.redis.scan_iter() if re.fullmatch(rb"[A-Za-z]+:\d+", key)]
        return {name: self.holder(name) for name in names}

    def everything(self) -> bytes:
        """Every key and every value."""
        readers: dict[bytes, Callable[[bytes], Any]] = {
            b"string": self.redis.get,
            b"list": lambda key: self.redis.lrange(key, 0, -1),
            b"hash": self.redis.hgetall,
            b"set": self.redis.smembers,
            b"zset": lambda key: self.redis.zrange(key, 0, -1),
        }
        found = [(key, readers[self.redis.type(key)](key)) for key in self.redis.scan_iter()]  # type: ignore[index]
        return repr(found).encode()


@pytest.fixture
def broker(app: Celery, database: None, servers: ServerUrls) -> Iterator[Broker]:
    """The broker, emptied before and after the test; workers must be idle when it ends."""
    with Redis.from_url(servers.redis_url) as client, _not_waiting_for_results():
        broker = Broker(client, app)
        broker.clear()
        yield broker
        broker.clear()


@dataclass(frozen=True)
class Chains:
    """What a test starts, and what the ledger says of it."""

    broker: Broker
    patience_seconds: float = DEADLINE_SECONDS

    def start(
        self, collection: Collection, workflow: Workflow = Workflow.PURCHASES, *, force: bool = False
    ) -> str:
        """Queue a chain as the command line does; its task id."""
        from accession.tasks.chain import start_chains
        from accession.tasks.purchases import start_arguments
        from accession.tasks.workflows import CHAINS

        arguments = start_arguments(force_reimport=force)
        return start_chains(CHAINS[workflow], [collection.id], **arguments)[collection.id]

    def send(self, collection: Collection, task_id: str, **arguments: Any) -> None:
        """Queue one link."""
        from accession.tasks.purchases import import_purchase_records_by_collection as task

        task.apply_async((collection.id,), arguments, task_id=task_id)

    def run(self, task_id: str) -> Run | None:
        """The ledger's row, as it is now."""
        with transaction() as session:
            session.expire_on_commit = False
            return find_run(session, task_id)

    def ended(self, task_id: str) -> Run:
        """The ledger's row once the chain and its applies are over."""

        def ended_run() -> Run | None:
            run = self.run(task_id)
            return run if run is not None and not is_active(run) else None

        run: Run = eventually(ended_run, f"the run {task_id} has ended", self.patience_seconds)
        self.broker.settle()
        return run

    def imported(
        self, collection: Collection, workflow: Workflow = Workflow.PURCHASES, *, force: bool = False
    ) -> Run:
        """Start a chain and see it end."""
        return self.ended(self.start(collection, workflow, force=force))


@pytest.fixture
def chains(broker: Broker) -> Chains:
    return Chains(broker)


def runs() -> list[Run]:
    """Every row of the ledger, oldest first."""
    with transaction() as session:
        session.expire_on_commit = False
        return list(session.scalars(select(Run).order_by(Run.id)))


def checkpoint(collection_id: int, workflow: Workflow = Workflow.PURCHASES) -> datetime | None:
    """Up to where the workflow is complete for the collection."""
    with transaction() as session:
        query = select(Timestamp.finish).filter_by(collection_id=collection_id, service=workflow.service)
        return session.scalars(query).one_or_none()


def counter(collection_id: int) -> int | None:
    """After which identifier the sweep goes on."""
    with transaction() as session:
        query = select(Timestamp.counter).filter_by(
            collection_id=collection_id, service=Workflow.CIRCULATION.service
        )
        return session.scalars(query).one_or_none()


def set_checkpoint(collection_id: int, finish: datetime, workflow: Workflow = Workflow.PURCHASES) -> None:
    """Have the workflow complete up to `finish` for the collection."""
    with transaction() as session:
        timestamp(session, session.get_one(Collection, collection_id), workflow).finish = finish


def number_of(model: type[Base]) -> int:
    """How many rows a table has."""
    with transaction() as session:
        return session.scalar(select(func.count()).select_from(model)) or 0


def applied_titles() -> set[str]:
    """The titles whose editions are described."""
    with transaction() as session:
        query = select(Identifier.identifier).join(Edition, Edition.identifier_id == Identifier.id)
        return set(session.scalars(query.where(Edition.content_hash.is_not(None))))


def hold(session: Session, vendor: Vendor, collection: Collection, *names: str) -> list[int]:
    """The collection holds the titles, and the vendor has them; the ids of their identifiers."""
    for name in names:
        vendor.items[name] = item(name, title=f"Title {name}", owned=2, available=1)
    return [make_pool(session, collection, name).identifier_id for name in names]


def counts() -> dict[str, tuple[int, int, int]]:
    """Owned, available and holds of each title."""
    columns = (LicensePool.licenses_owned, LicensePool.licenses_available, LicensePool.patrons_in_hold_queue)
    with transaction() as session:
        rows = session.execute(select(Identifier.identifier, *columns).join(LicensePool.identifier))
        return {name: tuple(numbers) for name, *numbers in rows}  # type: ignore[misc]


def found(session: Session, collection: Collection, *names: str) -> list[int]:
    """Outbox rows that say how these titles are, as a page leaves them."""
    pools = [(make_pool(session, collection, name), title_data(name)) for name in names]
    row_ids = put_in_outbox(session, pools)
    session.commit()
    return row_ids


def rows_left() -> list[int]:
    """The outbox rows that there are."""
    with transaction() as session:
        return sorted(session.scalars(select(ApplyOutbox.id)))


def publish(row_ids: Sequence[int]) -> None:
    """Queue the apply of outbox rows."""
    from accession.tasks.apply import publish_applies

    publish_applies(row_ids)


@contextmanager
def logged() -> Iterator[list[EventDict]]:
    """Our own log lines, of every thread, with what each is about."""
    from accession import imports, tasks
    from accession.tasks import apply, chain, recovery

    workflows = [getattr(package, name) for package in (imports, tasks) for name in Workflow]
    capture = LogCapture()
    with pytest.MonkeyPatch.context() as patch:
        for module in (apply, chain, recovery, imports.titles, *workflows):
            patch.setattr(module, "log", structlog.wrap_logger(None, [merge_contextvars, capture]))
        yield capture.entries


def forget_everything(app: Celery, servers: ServerUrls) -> None:
    """Empty database and broker: a worker that starts goes on with whatever it finds there."""
    empty_database()
    with Redis.from_url(servers.redis_url) as client:
        empty_broker(client)


@contextmanager
def running_worker(app: Celery) -> Iterator[None]:
    """A worker in a thread of this process, which takes one message at a time from both queues."""
    with pytest.MonkeyPatch.context() as patch:
        # It takes itself for a process of its own, with its parent's connections and its own log.
        patch.setattr("accession.tasks.app.forget_connections", lambda: None)
        patch.setattr("accession.tasks.app.set_up_logging", lambda settings: None)
        with (
            start_worker(app, pool="solo", perform_ping_check=False, shutdown_timeout=DEADLINE_SECONDS),
            _not_waiting_for_results(),
        ):
            yield
    # Celery leaves the sockets of a worker that has stopped to the garbage collector.
    with warnings.catch_warnings(action="ignore", category=ResourceWarning):
        gc.collect()


@pytest.fixture(scope="module")
def _module_worker(app: Celery, servers: ServerUrls) -> Iterator[None]:
    forget_everything(app, servers)
    with running_worker(app):
        yield


@pytest.fixture
def worker(_module_worker: None, broker: Broker) -> Iterator[None]:
    """A worker, which is idle again when the test ends."""
    yield
    broker.settle()
