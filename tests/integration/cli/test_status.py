"""Commands that show the state of many collections: status, causes of failures, and runs per hour."""

import pytest
from sqlalchemy import select
from sqlalchemy.orm import Session

from accession.core.workflow import Workflow
from accession.db.models import Run, RunState
from accession.runs.ledger import end_run, open_run
from tests.fixtures.commands import Cli
from tests.fixtures.factories import make_collection


@pytest.fixture
def failed(session: Session) -> None:
    """Add three collections, of which the last two have failed for one reason."""
    for name in ("Ash", "Birch", "Cedar"):
        collection = make_collection(session, name)
        if name != "Ash":
            open_run(session, collection.id, Workflow.PURCHASES, name, {"current_day": None, "offset": 1})
            run = session.scalars(select(Run).filter_by(task_id=name)).one()
            error = f'Collection "{name}": the key is wrong; check it (https://vendor.example/x, status 401).'
            end_run(run, RunState.FAILED, error)
    session.commit()


def names(cli: Cli, *options: str) -> list[str]:
    """Return the names of the listed collections, in order."""
    return list(dict.fromkeys(each["collection"] for each in cli("status", *options, "--json").json))


def test_status_is_filtered_and_sorted(cli: Cli, failed: None) -> None:
    assert names(cli) == ["Ash", "Birch", "Cedar"]
    assert names(cli, "--filter", "failing", "--sort=-name") == ["Cedar", "Birch"]
    assert names(cli, "--sort", "health") == ["Birch", "Cedar", "Ash"]
    assert names(cli, "--text", "a") == ["Ash", "Cedar"]
    assert cli("status", "--filter", "paused").stdout == "No collection matches.\n"


def test_status_with_unknown_order_is_refused(cli: Cli, failed: None) -> None:
    result = cli("status", "--sort", "size")
    assert result.exit_code == 1
    assert "'size' is not a sort order: enter one of health, name" in result.stderr


def test_failures_are_listed_by_cause(cli: Cli, failed: None) -> None:
    lines = cli("runs", "failures").stdout.splitlines()
    assert lines[0] == "The key is wrong. Check it."
    assert lines[1].startswith("  2 collections since ")
    assert lines[1].endswith(": Birch, Cedar")
    (group,) = cli("runs", "failures", "--json").json
    assert (group["collections"], len(group["failures"]), len(group["id"])) == (2, 2, 12)


def test_no_failures_are_reported_as_such(cli: Cli, session: Session) -> None:
    assert cli("runs", "failures").stdout == "No workflow is failing.\n"
    assert cli("runs", "hours").stdout == "No run has ended in the last 24 hours.\n"


def test_runs_of_the_last_hours_are_counted(cli: Cli, failed: None) -> None:
    hours = cli("runs", "hours", "--json").json
    assert sum(hour["failed"] for hour in hours) == 2
    assert "purchases" in cli("runs", "hours").stdout
