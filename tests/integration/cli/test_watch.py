"""Watching a chain when there is no worker, or no chain: what a terminal shows meanwhile."""

import importlib
import io
from typing import Any

import pytest
from redis import Redis
from rich.console import Console
from sqlalchemy.orm import Session

from accession.catalog.apply import put_in_outbox
from accession.core.clock import utc_now
from accession.core.workflow import Workflow
from accession.db.models import ApplyOutbox, Collection, RunState
from accession.runs.ledger import Counters, end_run, find_run, note_retry, open_run, record_page
from accession.runs.progress import progress_of
from tests.fixtures.commands import Run
from tests.fixtures.factories import Job, make_pool, title_data
from tests.fixtures.machine import eventually

# Celery stores results with a call that redis-py would rather not see.
pytestmark = pytest.mark.filterwarnings("ignore:Call to deprecated setex:DeprecationWarning")

TASK = "task-1"
STOPPED, REFUSED = "stopped", "refused"


@pytest.fixture
def watch(tasks: None) -> Any:
    """The module, which needs a broker to be known."""
    return importlib.import_module("accession.cli.watch")


@pytest.fixture
def terminal(watch: Any, monkeypatch: pytest.MonkeyPatch, broker: Redis) -> io.StringIO:
    """What a person sees who watches."""
    seen = io.StringIO()
    monkeypatch.setattr(watch, "error_console", Console(file=seen, force_terminal=True, width=160))
    monkeypatch.setattr(watch, "_POLL_SECONDS", 0.01)
    return seen


class Watching(Job):
    """Somebody watches the chain of one collection."""

    def __init__(self, watch: Any, collection: Collection) -> None:
        self.succeeded: bool | None = None
        names, task_ids = {collection.id: collection.name}, {collection.id: TASK}

        def look() -> None:
            self.succeeded = watch.watch(Workflow.PURCHASES, names, task_ids, join=True)

        super().__init__(look)


def end_task(result: object) -> None:
    from accession.tasks.app import app

    app.backend.store_result(TASK, result, "SUCCESS")


def test_whoever_forgot_to_start_a_worker_is_told(
    watch: Any, terminal: io.StringIO, collection: Collection, monkeypatch: pytest.MonkeyPatch
) -> None:
    watching = Watching(watch, collection)
    eventually(lambda: "waiting for a worker" in terminal.getvalue())
    monkeypatch.setattr(watch, "_NOBODY_AFTER_SECONDS", 0)
    eventually(lambda: "no worker has taken it yet: is `accession up` running?" in terminal.getvalue())
    end_task(STOPPED)
    watching.finish()
    assert watching.succeeded is False
    assert "Alder Library: the import did not start: stopped" in terminal.getvalue()


def test_whoever_stops_watching_is_told_that_the_import_goes_on(
    run: Run, watch: Any, collection: Collection, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lose_patience(seconds: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(watch.time, "sleep", lose_patience)
    answer = run("import", "purchases", "--import-all", "--wait")
    assert answer.code == 130
    assert "The import goes on without you. See: accession status" in answer.out


def test_a_refusal_whose_cause_is_gone_is_said(
    watch: Any, terminal: io.StringIO, collection: Collection
) -> None:
    end_task(REFUSED)
    watching = Watching(watch, collection)
    watching.finish()
    assert watching.succeeded is False
    assert "the import did not start: refused" in terminal.getvalue()


def test_day_records_share_retries_and_applies_are_shown(
    watch: Any, terminal: io.StringIO, session: Session, collection: Collection
) -> None:
    now = utc_now()
    half, since = now.replace(year=now.year - 1), now.replace(year=now.year - 2)
    open_run(session, collection.id, Workflow.PURCHASES, TASK, {"current_day": None, "offset": 1})
    run = find_run(session, TASK)
    assert run is not None
    session.commit()
    watching = Watching(watch, collection)
    record_page(
        run, Counters(1234, 1234), since=since, next_cursor={"current_day": half.isoformat(), "offset": 51}
    )
    session.commit()
    eventually(lambda: f"{half:%Y-%m-%d}" in terminal.getvalue())
    eventually(lambda: "1,234 records" in terminal.getvalue())
    assert 0.49 < progress_of(session, run).share < 0.51
    note_retry(run, "The vendor is away.", retry=1)
    session.commit()
    eventually(lambda: "retrying" in terminal.getvalue())
    pool = make_pool(session, collection, "abc")
    end_run(run, RunState.SUCCEEDED)
    put_in_outbox(session, [(pool, title_data("abc"))])
    session.commit()
    eventually(lambda: "applying 1 title" in terminal.getvalue())
    session.query(ApplyOutbox).delete()
    session.commit()
    watching.finish()
    assert watching.succeeded


def test_a_run_that_is_interrupted_is_said(
    watch: Any, terminal: io.StringIO, session: Session, collection: Collection
) -> None:
    open_run(session, collection.id, Workflow.PURCHASES, TASK, {"current_day": None, "offset": 1})
    run = find_run(session, TASK)
    assert run is not None
    end_run(run, RunState.INTERRUPTED, "The collection is marked for deletion.")
    session.commit()
    watching = Watching(watch, collection)
    watching.finish()
    assert watching.succeeded is False
    assert "Alder Library: interrupted: The collection is marked for deletion." in terminal.getvalue()
