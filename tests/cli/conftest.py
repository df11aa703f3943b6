"""Commands as a person gives them: in this process where that is the same, in their own where it is not."""

import json
import logging
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Protocol

import pytest
import structlog
from pydantic import SecretStr
from redis import Redis
from sqlalchemy import Engine
from sqlalchemy.orm import Session
from typer.testing import CliRunner

from accession.catalog import keys
from accession.catalog.collections import add_collection
from accession.catalog.ledger import Workflow, timestamp
from accession.catalog.models import Collection
from accession.cli import main
from accession.clock import utc_now
from accession.database import engine
from accession.local.servers import ServerUrls
from accession.sandbox.activity import Activity
from accession.sandbox.catalogue import build_catalogue
from accession.sandbox.server import RunningSandbox, Sandbox, running_sandbox
from accession.settings import Settings, get_settings, use_settings
from tests.conftest import empty_broker
from tests.local.machine import eventually

PATIENCE_SECONDS = 60
DAYS_OF_SALES = 4


@dataclass(frozen=True)
class Answer:
    """What a command answered."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    @property
    def sentence(self) -> str:
        """The one line on standard error of a command that failed and printed nothing else."""
        assert (self.code, self.out) == (1, ""), self
        lines = self.err.splitlines()
        assert len(lines) == 1, self.err
        return lines[0]


class Run(Protocol):
    """Gives one command, in this process."""

    def __call__(
        self, *arguments: str, typed: str = "", program: Callable[[], None] = main.main
    ) -> Answer: ...


@contextmanager
def logging_left_alone() -> Iterator[None]:
    """Afterwards logging is as it was: a command sets it up for its own standard error.

    No logger keeps its first set-up: another test may have to hear it.
    """
    root, structure = logging.getLogger(), structlog.get_config()
    handlers, level = root.handlers[:], root.level
    configure = structlog.configure
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            structlog,
            "configure",
            lambda **options: configure(**options | {"cache_logger_on_first_use": False}),
        )
        yield
    root.handlers[:], root.level = handlers, level
    structlog.configure(**structure)


@pytest.fixture
def run(tasks: None, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs a command line in this process, on its servers, up to its exit code."""

    def run(*arguments: str, typed: str = "", program: Callable[[], None] = main.main) -> Answer:
        monkeypatch.setattr(sys, "argv", ["accession", *arguments])
        code: Any = 0
        with logging_left_alone(), CliRunner().isolation(input=typed) as (out, err, _):
            try:
                program()
            except SystemExit as end:
                code = end.code or 0
            sys.stdout.flush()
            sys.stderr.flush()
            return Answer(code, out.getvalue().decode(), err.getvalue().decode())

    return run


@pytest.fixture(scope="session")
def tasks(servers: ServerUrls) -> Iterator[None]:
    """The Celery app on the servers of this test process, whichever test asks for it first."""
    import accession.tasks.purchases  # noqa: F401

    yield
    for retired in _retired:
        retired.dispose()


@pytest.fixture
def broker(servers: ServerUrls) -> Iterator[Redis]:
    """The broker without messages, locks and results."""
    with Redis.from_url(servers.redis_url) as client:
        empty_broker(client)
        yield client


@contextmanager
def settings(**changes: Any) -> Iterator[None]:
    """For a while this process has these settings, and the connections and keys that go with them."""
    with _other_settings(Settings(**changes)):
        yield


@contextmanager
def read_anew(monkeypatch: pytest.MonkeyPatch, **variables: str) -> Iterator[None]:
    """For a while this process has the settings that its environment gives, with these variables."""
    with monkeypatch.context() as patch:
        for name, value in variables.items():
            patch.setenv(name, value)
        with _other_settings(None):
            yield


@contextmanager
def _other_settings(other: Settings | None) -> Iterator[None]:
    before = get_settings()
    same_database = other is not None and other.database_url == before.database_url
    try:
        use_settings(other)
        _forget(connections=not same_database)
        yield
    finally:
        use_settings(before)
        _forget(connections=not same_database)


_retired: list[Engine] = []


def _forget(*, connections: bool) -> None:
    keys._cipher.cache_clear()
    if connections:
        if engine.cache_info().currsize:
            _retired.append(engine())
        engine.cache_clear()


@pytest.fixture
def home(servers: ServerUrls, tmp_path: Path) -> Iterator[Path]:
    """A home of its own, with nothing in it, on the servers of this test process."""
    home = tmp_path / "home"
    urls = {"database_url": SecretStr(servers.database_url), "redis_url": SecretStr(servers.redis_url)}
    with settings(home=home, **urls):
        yield home


def environment(**changes: str) -> dict[str, str]:
    """The environment of a command in a process of its own; installations side by side serve no dashboard."""
    return {**os.environ, "COLUMNS": "160", "ACCESSION_WEB_PORT": "0", **changes}


def command(*arguments: str, env: dict[str, str], program: str = "-m accession") -> Answer:
    """What a command answers that runs in a process of its own."""
    done = subprocess.run(
        [sys.executable, *program.split(), *arguments],
        env=env,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )
    return Answer(done.returncode, done.stdout, done.stderr)


@contextmanager
def serving(
    titles: int = 12, *, latency_ms: int = 0, seed: int = 1, activity: int = 0
) -> Iterator[RunningSandbox]:
    """A vendor that has sold titles in the last few days, and lends them with so much activity an hour."""
    now = utc_now()
    catalogue = build_catalogue(titles, now - timedelta(days=DAYS_OF_SALES), now, seed=seed)
    lending = Activity(catalogue, activity, now - timedelta(hours=1), seed=seed)
    with running_sandbox(Sandbox(catalogue, latency_ms=latency_ms, activity=lending)) as sandbox:
        yield sandbox


def customer(session: Session, sandbox: RunningSandbox, name: str = "Alder Library") -> Collection:
    """A committed collection that buys from the sandbox and is complete up to its first sale."""
    collection = add_collection(
        session,
        name=name,
        library_id=sandbox.account.library_id,
        account_id=sandbox.account.account_id,
        account_key=SecretStr(sandbox.account.account_key),
        base_url=sandbox.base_url,
    )
    complete_up_to(session, collection, utc_now() - timedelta(days=DAYS_OF_SALES))
    session.commit()
    return collection


def complete_up_to(session: Session, collection: Collection, moment: datetime) -> None:
    """Set the checkpoint, so that a chain is short."""
    timestamp(session, collection, Workflow.PURCHASES).finish = moment


@contextmanager
def process(*arguments: str, env: dict[str, str]) -> "Iterator[subprocess.Popen[str]]":
    """A command that goes on, in a process of its own, ended in the end."""
    with subprocess.Popen(
        [sys.executable, "-m", "accession", *arguments],
        env=env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as running:
        try:
            yield running
        finally:
            running.terminate()
            running.wait(PATIENCE_SECONDS)


@contextmanager
def running_worker(servers: ServerUrls, home: Path) -> Iterator[None]:
    """`accession worker` on the servers of this test process."""
    from accession.tasks.app import app

    urls = {"ACCESSION_DATABASE_URL": servers.database_url, "ACCESSION_REDIS_URL": servers.redis_url}
    log = home / "worker.log"
    with log.open("w") as output:
        worker = subprocess.Popen(
            [sys.executable, "-m", "accession", "worker", "--concurrency", "1"],
            env=environment(ACCESSION_HOME=str(home), ACCESSION_RETRY_BACKOFF_SECONDS="0", **urls),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        eventually(lambda: app.control.ping(timeout=0.2), PATIENCE_SECONDS)
        yield
    finally:
        worker.terminate()
        worker.wait(PATIENCE_SECONDS)
