"""Commands that show the state of many collections: status, causes of failures, and runs per hour."""

from datetime import timedelta

import pytest
from sqlalchemy import select
from sqlalchemy.orm import Session

from accession.cli.output import console
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
    assert names(cli) == ["Birch", "Cedar", "Ash"]
    assert names(cli, "--filter", "failing", "--sort=-name") == ["Cedar", "Birch"]
    assert names(cli, "--sort", "name") == ["Ash", "Birch", "Cedar"]
    assert names(cli, "--text", "a") == ["Cedar", "Ash"]
    assert cli("status", "--filter", "paused").stdout == "No collection matches.\n"


def test_wide_status_has_one_line_for_each_collection(cli: Cli, failed: None) -> None:
    header, *rows = cli("status").stdout.splitlines()
    assert header.split()[:4] == ["Collection", "Purchases", "Events", "Circulation"]
    assert [row.split()[:4] for row in rows[:3]] == [
        ["Birch", "failed", "never", "never"],
        ["Cedar", "failed", "never", "never"],
        ["Ash", "never", "never", "never"],
    ]


def test_narrow_status_names_each_collection_once(
    cli: Cli, failed: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(console, "width", 70)
    header, *rows = cli("status").stdout.splitlines()
    assert header.split() == ["Collection", "Workflow", "State", "Synced", "through", "Next", "run"]
    assert rows[0].split()[:3] == ["Birch", "purchases", "failed"]
    assert rows[1].split()[:2] == ["events", "never"]
    assert sum(row.startswith("Birch") for row in rows[:9]) == 1
    assert all(len(row) <= 70 for row in rows[:9])


def test_status_states_a_common_cause_once_without_url(cli: Cli, failed: None) -> None:
    *_, error, summary = cli("status").stdout.splitlines()
    assert error == "Birch, Cedar: The key is wrong; check it."
    assert summary == "3 collections: 2 failing, 1 new"
    *_, error = cli("status", "--text", "Birch").stdout.splitlines()
    assert error == "Birch, purchases: The key is wrong; check it."


def test_status_names_the_cause_of_an_overdue_workflow(cli: Cli, session: Session) -> None:
    make_collection(session, "Ash").created_at -= timedelta(days=2)
    session.commit()
    *_, cause = cli("status").stdout.splitlines()
    assert cause == (
        "Ash, purchases, events, circulation: No run has succeeded since it was due; "
        "check that a worker and the scheduler are running."
    )


def test_status_of_a_long_name_fits_the_terminal(cli: Cli, session: Session) -> None:
    make_collection(session, "A" * 300)
    assert all(len(line) <= console.width for line in cli("status").stdout.splitlines())


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
