"""Progress and errors that `import --wait` shows, without a worker."""

import importlib
import io
import time
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from redis import Redis
from rich.console import Console
from sqlalchemy.orm import Session

from accession.catalog.outbox import enqueue_changes
from accession.core.clock import utc_now
from accession.core.workflow import Workflow
from accession.db.models import ApplyOutbox, Collection, RunState
from accession.runs.ledger import RunCounters, end_run, find_run, open_run, record_retry, record_step
from accession.runs.progress import estimate_progress
from tests.fixtures.commands import Cli
from tests.fixtures.factories import BackgroundThread, make_pool, title_data
from tests.fixtures.waiting import wait_until

# Celery stores results with a call that redis-py has deprecated.
pytestmark = pytest.mark.filterwarnings("ignore:Call to deprecated setex:DeprecationWarning")

TASK_ID = "task-1"
STOPPED, REFUSED = "stopped", "refused"


@pytest.fixture
def watch(celery_app: None) -> Any:
    """Import the module, after the settings name the test servers."""
    return importlib.import_module("accession.cli.watch")


@pytest.fixture
def terminal(watch: Any, monkeypatch: pytest.MonkeyPatch, broker: Redis) -> io.StringIO:
    """Output on the terminal."""
    buffer = io.StringIO()
    monkeypatch.setattr(watch, "error_console", Console(file=buffer, force_terminal=True, width=160))
    monkeypatch.setattr(watch, "_POLL_SECONDS", 0.01)
    return buffer


class WatchThread(BackgroundThread):
    """Thread that watches the run of one collection."""

    def __init__(self, watch: Any, collection: Collection) -> None:
        self.succeeded: bool | None = None
        names, task_ids = {collection.id: collection.name}, {collection.id: TASK_ID}

        def run_watch() -> None:
            self.succeeded = watch.watch(Workflow.PURCHASES, names, task_ids, join=True)

        super().__init__(run_watch)


def end_task(result: object) -> None:
    from accession.tasks.app import app

    app.backend.store_result(TASK_ID, result, "SUCCESS")


def test_waiting_run_hints_at_missing_worker(
    watch: Any, terminal: io.StringIO, collection: Collection, monkeypatch: pytest.MonkeyPatch
) -> None:
    watcher = WatchThread(watch, collection)
    wait_until(lambda: "waiting for a worker" in terminal.getvalue())
    monkeypatch.setattr(watch, "_NO_WORKER_HINT_SECONDS", 0)
    wait_until(lambda: "no worker has started it: is `accession up` running?" in terminal.getvalue())
    end_task(STOPPED)
    watcher.finish()
    assert watcher.succeeded is False
    assert "Alder Library: the run did not start: stopped" in terminal.getvalue()


def test_interrupted_watch_says_that_run_continues(
    cli: Cli, watch: Any, collection: Collection, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(seconds: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(watch, "time", SimpleNamespace(sleep=interrupt, monotonic=time.monotonic))
    result = cli("import", "purchases", "--import-all", "--wait")
    assert result.exit_code == 130
    assert "The import continues in the background. See: accession status" in result.stdout


def test_refused_run_without_active_run_is_reported(
    watch: Any, terminal: io.StringIO, collection: Collection
) -> None:
    end_task(REFUSED)
    watcher = WatchThread(watch, collection)
    watcher.finish()
    assert watcher.succeeded is False
    assert "the run did not start: refused" in terminal.getvalue()


def test_progress_shows_day_records_retries_and_applies(
    watch: Any, terminal: io.StringIO, session: Session, collection: Collection
) -> None:
    now = utc_now()
    half, since = now - timedelta(days=400), now - timedelta(days=800)
    open_run(session, collection.id, Workflow.PURCHASES, TASK_ID, {"current_day": None, "offset": 1})
    run = find_run(session, TASK_ID)
    assert run is not None
    session.commit()
    watcher = WatchThread(watch, collection)
    record_step(
        run, RunCounters(1234, 1234), since=since, next_cursor={"current_day": half.isoformat(), "offset": 51}
    )
    session.commit()
    wait_until(lambda: f"{half:%Y-%m-%d}" in terminal.getvalue())
    wait_until(lambda: "1,234 records" in terminal.getvalue())
    assert 0.49 < estimate_progress(session, run).fraction < 0.51
    record_retry(run, "The vendor is unavailable.", retry=1)
    session.commit()
    wait_until(lambda: "retrying" in terminal.getvalue())
    pool = make_pool(session, collection, "abc")
    end_run(run, RunState.SUCCEEDED)
    enqueue_changes(session, [(pool, title_data("abc"))])
    session.commit()
    wait_until(lambda: "applying 1 title" in terminal.getvalue())
    session.query(ApplyOutbox).delete()
    session.commit()
    watcher.finish()
    assert watcher.succeeded


def test_interrupted_run_is_reported(
    watch: Any, terminal: io.StringIO, session: Session, collection: Collection
) -> None:
    open_run(session, collection.id, Workflow.PURCHASES, TASK_ID, {"current_day": None, "offset": 1})
    run = find_run(session, TASK_ID)
    assert run is not None
    end_run(run, RunState.INTERRUPTED, "The collection is marked for deletion.")
    session.commit()
    watcher = WatchThread(watch, collection)
    watcher.finish()
    assert watcher.succeeded is False
    assert "Alder Library: interrupted: The collection is marked for deletion." in terminal.getvalue()
