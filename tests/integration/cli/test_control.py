"""Commands that control workflows: pause, resume, cancel, retry, and imports for several collections."""

import json
from datetime import UTC, datetime

import pytest
from redis import Redis
from sqlalchemy import select
from sqlalchemy.orm import Session

from accession.core.settings import get_settings
from accession.core.workflow import Workflow
from accession.db.models import Collection, Run, RunState, WorkflowPause
from accession.runs.ledger import end_run, open_run, record_retry
from tests.fixtures.commands import Cli
from tests.fixtures.factories import make_collection

ALDER = "Alder Library"


@pytest.fixture(autouse=True)
def _celery(celery_app: None, broker: Redis) -> None:
    """The commands queue messages in the broker of the tests."""


def add_run(session: Session, collection: Collection, state: RunState | None = None) -> Run:
    """Store a purchases run: running, retrying, or ended in this state."""
    task_id = f"task {collection.id} {state}"
    open_run(session, collection.id, Workflow.PURCHASES, task_id, {"current_day": None, "offset": 1})
    run = session.scalars(select(Run).filter_by(task_id=task_id)).one()
    if state is RunState.RETRYING:
        record_retry(run, "The vendor is unavailable.", retry=1)
    elif state is not None:
        end_run(run, state, "The vendor is unavailable.")
    session.commit()
    return run


def states(session: Session) -> list[str]:
    session.expire_all()
    return list(session.scalars(select(Run.state).order_by(Run.id)))


def test_pause_until_local_time_is_listed_and_resumed(
    cli: Cli, session: Session, collection: Collection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(get_settings(), "time_zone", "Europe/Berlin")
    monkeypatch.setenv("ACCESSION_TIME_ZONE", "Europe/Berlin")
    pause = ("collections", "pause", ALDER, "--workflow", "purchases", "--reason", "vendor maintenance")
    result = cli(*pause, "--until", "2999-07-01T06:00")
    assert result.stdout == "1 workflow paused until 2999-07-01 04:00 UTC.\n"
    (row,) = session.scalars(select(WorkflowPause))
    assert (row.workflow, row.until) == ("purchases", datetime(2999, 7, 1, 4, tzinfo=UTC))
    status = cli("status").stdout
    assert "never, paused" in status
    assert "Alder Library, purchases: paused until 2999-07-01 04:00: vendor maintenance" in status
    assert json.loads(cli("status", "--json").stdout)[0]["pause"]["reason"] == "vendor maintenance"

    result = cli("import", "purchases", "--collection", ALDER)
    assert (result.exit_code, result.stdout) == (1, "")
    assert "is paused" in result.stderr
    assert cli("collections", "resume", ALDER).stdout == "1 workflow resumed.\n"
    assert cli("collections", "resume", "--all").stdout == "0 workflows resumed.\n"


def test_doctor_does_not_fail_for_paused_workflow(cli: Cli, session: Session, collection: Collection) -> None:
    add_run(session, collection, RunState.FAILED)
    check = f"FAIL purchases of {ALDER}"
    assert check in " ".join(cli("doctor").stdout.split())
    cli("collections", "pause", ALDER, "--reason", "moving")
    shown = " ".join(cli("doctor").stdout.split())
    assert check not in shown
    assert "failed: The vendor is unavailable. (paused: moving)" in shown


def test_pause_with_invalid_options_is_refused(cli: Cli, collection: Collection) -> None:
    reason = ("--reason", "vendor maintenance")
    for arguments, code, message in (
        ((ALDER,), 1, "needs a reason"),
        (reason, 2, "names of collections or --all"),
        ((ALDER, "--all", *reason), 2, "names of collections or --all"),
        ((ALDER, *reason, "--until", "tomorrow"), 2, "is not a time such as"),
        ((ALDER, *reason, "--until", "2014-01-01T00:00Z"), 1, "is over"),
        (("Unknown", *reason), 1, 'No collection found named "Unknown"'),
    ):
        result = cli("collections", "pause", *arguments)
        assert result.exit_code == code, result
        assert message in " ".join(result.stderr.replace("│", " ").split())


def test_paused_collections_are_skipped_by_import_all(
    cli: Cli, session: Session, collection: Collection
) -> None:
    make_collection(session, "Birch Library")
    cli("collections", "pause", ALDER, "--reason", "moving")
    result = cli("import", "events", "--import-all")
    assert result.stdout == "Skipped 1 paused collection.\nQueued 1 import. See: accession status\n"
    cli("collections", "pause", "--all", "--reason", "moving")
    result = cli("import", "events", "--import-all")
    assert "paused for all 2 collections (moving)" in result.stderr


def test_import_runs_for_several_and_failing_collections(
    cli: Cli, session: Session, collection: Collection
) -> None:
    birch = make_collection(session, "Birch Library")
    assert cli("import", "purchases", "--failing").stdout == "No collection is failing.\n"
    result = cli("import", "events", "--collection", ALDER, "--collection", birch.name)
    assert result.stdout.startswith("Queued 2 imports.")
    add_run(session, birch, RunState.FAILED)
    assert cli("import", "purchases", "--failing").stdout.startswith("Queued 1 import.")
    (latest,) = session.scalars(select(Run).order_by(Run.id.desc()).limit(1))
    assert (latest.collection_id, latest.workflow) == (birch.id, "purchases")


def test_runs_are_cancelled_by_number_and_collection(
    cli: Cli, session: Session, collection: Collection
) -> None:
    run = add_run(session, collection)
    assert cli("runs", "cancel", str(run.id)).stdout == f"Run {run.id} cancelled.\n"
    again = cli("runs", "cancel", str(run.id))
    assert (again.exit_code, "nothing to cancel" in again.stderr) == (1, True)
    add_run(session, make_collection(session, "Birch Library"))
    assert cli("runs", "cancel", "--collection", ALDER).stdout == "0 runs cancelled.\n"
    assert cli("runs", "cancel", "--all", "--workflow", "purchases").stdout == "1 run cancelled.\n"
    assert states(session) == ["cancelled", "cancelled"]
    assert cli("runs", "cancel").exit_code == 2
    assert cli("runs", "cancel", "1", "--all").exit_code == 2


def test_runs_are_retried_by_number_and_all_failing(
    cli: Cli, session: Session, collection: Collection
) -> None:
    retrying = add_run(session, collection, RunState.RETRYING)
    assert cli("runs", "retry", str(retrying.id)).stdout == f"Run {retrying.id} is continued.\n"
    failed = add_run(session, make_collection(session, "Birch Library"), RunState.FAILED)
    result = cli("runs", "retry", "--failing", "--workflow", "purchases")
    assert result.stdout == "1 run retried.\n"
    assert states(session) == ["running", "failed", "queued"]
    assert "was not retried" in cli("runs", "retry", str(failed.id)).stderr
    assert cli("runs", "retry").exit_code == 2


def test_backfill_tells_requests_and_is_queued(cli: Cli, session: Session, collection: Collection) -> None:
    days = ("--from", "2023-01-01", "--to", "2023-01-31")
    result = cli("import", "purchases", "--collection", ALDER, *days)
    first, second = result.stdout.splitlines()
    assert first.startswith("Importing 2023-01-01 to 2023-01-31 needs about ")
    assert second == "Queued 1 import. See: accession status"
    run = session.scalars(select(Run)).one()
    assert run.cursor == {"first_day": "2023-01-01", "last_day": "2023-01-31"}


def test_backfill_with_invalid_options_is_refused(cli: Cli, collection: Collection) -> None:
    days = ("--from", "2023-01-01", "--to", "2023-01-31")
    for arguments, code, message in (
        (("--collection", ALDER, "--from", "2023-01-01"), 2, "give --from and --to together"),
        (("--collection", ALDER, *days, "--force-reimport"), 2, "without --force-reimport"),
        (("--import-all", *days), 2, "exactly one --collection"),
        (("--collection", ALDER, "--from", "yesterday", "--to", "2023-01-31"), 2, "is not a day such as"),
        (("--collection", ALDER, "--from", "2023-02-01", "--to", "2023-01-31"), 1, "before the first day"),
    ):
        result = cli("import", "purchases", *arguments)
        assert result.exit_code == code, result
        assert message in " ".join(result.stderr.replace("│", " ").split())
