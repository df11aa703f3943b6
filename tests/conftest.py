"""Real servers for every test process, emptied before each test."""

import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import SecretStr
from redis import Redis
from sqlalchemy import text
from sqlalchemy.orm import Session

from accession.catalog import schema
from accession.catalog.models import Base, Collection
from accession.database import engine, transaction
from accession.local.postgres import remove_home_data
from accession.local.servers import EmbeddedServers, ServerUrls
from accession.settings import Settings, use_settings
from tests.making import make_collection
from tests.vendor import Vendor

# A shell starts its background jobs with Ctrl-C ignored, and nohup with the end of the terminal, and children
# inherit that; ours are to mind both.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The demo takes longest: it starts first, and the others run beside it."""
    items.sort(key=lambda item: item.path.name != "test_demo.py")


@pytest.fixture(autouse=True, scope="session")
def _no_settings_of_the_machine() -> None:
    for name in list(os.environ):
        if name.startswith("ACCESSION_"):
            del os.environ[name]


@pytest.fixture(scope="session")
def servers(_no_settings_of_the_machine: None) -> Iterator[ServerUrls]:
    """A PostgreSQL and a Valkey of this test process, migrated, with this process's settings on them."""
    home = Path(tempfile.mkdtemp(prefix="accession-test-"))
    with EmbeddedServers(home, durable=False) as urls:
        use_settings(
            Settings(
                home=home,
                database_url=SecretStr(urls.database_url),
                redis_url=SecretStr(urls.redis_url),
                retry_backoff_seconds=0,
            )
        )
        schema.upgrade(engine())
        yield urls
        engine().dispose()
    remove_home_data(home)
    shutil.rmtree(home, ignore_errors=True)


@pytest.fixture
def database(servers: ServerUrls) -> None:
    """The servers with nothing in the database."""
    empty_database()


def empty_database() -> None:
    """Afterwards no table holds a row, and ids begin at 1 again."""
    with transaction() as session:
        tables = ", ".join(Base.metadata.tables)
        session.execute(text(f"TRUNCATE {tables} RESTART IDENTITY CASCADE"))


def empty_broker(client: Redis) -> None:
    """Throw messages, locks and results away; not the bindings: workers declare their queues only once."""
    for key in client.scan_iter(count=1000):
        if not key.startswith(b"_kombu.binding"):
            client.delete(key)


@pytest.fixture
def session(database: None) -> Iterator[Session]:
    """A session on the emptied database; the test commits what others shall see."""
    with Session(engine()) as session:
        yield session


@pytest.fixture
def vendor(monkeypatch: pytest.MonkeyPatch) -> Iterator[Vendor]:
    """The vendor that every request of this process reaches; an answer of its script is not asked for again
    at once."""
    monkeypatch.setattr("accession.bibliotheca.client.ASK_AGAIN_TIMES", 0)
    vendor = Vendor()
    with vendor.client() as http:
        monkeypatch.setattr("accession.bibliotheca.client.http_client", lambda: http)
        yield vendor


@pytest.fixture
def collection(session: Session) -> Collection:
    """A committed collection."""
    return make_collection(session, "Alder Library")


@pytest.fixture
def queues(servers: ServerUrls) -> Redis:
    """The broker, emptied of messages, locks and results."""
    client = Redis.from_url(servers.redis_url)
    client.flushall()
    return client
