"""`accession runs show`: a run, its steps, requests and log lines."""

import pytest
from sqlalchemy.orm import Session

from accession.db.models import Collection, RunState
from tests.fixtures.commands import Cli
from tests.fixtures.run_details import REASON, store_run


@pytest.fixture
def failed_run(session: Session, collection: Collection) -> None:
    """Run 1, which has failed after three steps."""
    store_run(session, collection, RunState.FAILED, steps=3)


@pytest.mark.usefixtures("failed_run")
def test_run_is_shown_with_error_and_outlook(cli: Cli) -> None:
    lines = [" ".join(line.split()) for line in cli("runs", "show", "1").stdout.splitlines()]
    assert "state failed" in lines
    assert "started 2024-05-01 12:00:00" in lines
    assert "records fetched 60" in lines
    assert f"error {REASON}" in lines
    assert "attempts of the step 1" in lines
    assert any(line.startswith("next run 2") for line in lines)
    assert not any(line.startswith("records rejected") for line in lines), "zeros are left out"


@pytest.mark.usefixtures("failed_run")
def test_steps_are_listed_latest_or_slowest_first(cli: Cli) -> None:
    assert [step["number"] for step in cli("runs", "show", "1", "--steps", "--json").json] == [4, 3, 2, 1]
    assert [step["number"] for step in cli("runs", "show", "1", "--slowest", "--json").json] == [4, 3, 2, 1]
    heading, first, second, *_ = cli("runs", "show", "1", "--steps").stdout.splitlines()
    assert heading.split() == [
        *("Step", "Started", "Window", "Outcome", "Seconds", "Vendor", "Storing", "Requests", "Records")
    ]
    assert first.split() == ["4", "2024-05-01", "12:00:04", "failed", "0.65", "0.4", "0.25", "1", "0"]
    assert second.split()[3:5] == ["2024-03-05", "stored"]


@pytest.mark.usefixtures("failed_run")
def test_requests_are_listed_by_endpoint_and_outcome(cli: Cli) -> None:
    _, ok, failed = cli("runs", "show", "1", "--requests").stdout.splitlines()
    assert ok.split() == ["marc", "ok", "3", "0.2", "0.25"]
    assert failed.split() == ["marc", "bad", "response", "1", "0.3", "0.3"]


@pytest.mark.usefixtures("failed_run")
def test_log_is_printed_in_the_order_of_time(cli: Cli) -> None:
    lines = cli("runs", "show", "1", "--log").stdout.splitlines()
    assert lines[0] == "2024-05-01 12:00:01 info     page imported step=1 day=2024-03-03 records=10"
    assert lines[-1] == f"2024-05-01 12:00:04 error    run failed step=4 reason={REASON}"
    assert cli("runs", "show", "1", "--log", "--level", "error").stdout.splitlines() == lines[-1:]
    (line,) = cli("runs", "show", "1", "--log", "--text", "2024-03-04", "--json").json
    assert (line["page"], line["fields"]["records"]) == (2, 20)


def test_run_without_details_says_so(cli: Cli, session: Session, collection: Collection) -> None:
    store_run(session, collection, RunState.SUCCEEDED)
    assert cli("runs", "show", "1", "--steps").stdout == "No steps were recorded.\n"
    assert cli("runs", "show", "1", "--requests").stdout == "No requests were recorded.\n"
    assert cli("runs", "show", "1", "--log").stdout == "No log lines were kept.\n"


@pytest.mark.usefixtures("failed_run")
def test_run_is_shown_as_json(cli: Cli) -> None:
    summary = cli("runs", "show", "1", "--json").json
    assert (summary["run"]["state"], summary["totals"]["steps"], summary["retries"]) == ("failed", 4, [])
    assert (
        summary["outlook"]["cause"] == "The vendor responded with 503 Service Unavailable; try again later."
    )


def test_runs_are_listed_by_workflow_and_state(cli: Cli, session: Session, collection: Collection) -> None:
    for number, state in enumerate((RunState.FAILED, RunState.SUCCEEDED), start=1):
        store_run(session, collection, state, task_id=f"task-{number}")
    for filters, numbers in (
        (("--state", "failed"), [1]),
        (("--workflow", "purchases"), [2, 1]),
        (("--workflow", "events"), []),
    ):
        assert [run["id"] for run in cli("runs", "list", *filters, "--json").json] == numbers


def test_unknown_run_or_two_lists_are_refused(cli: Cli, collection: Collection) -> None:
    unknown = cli("runs", "show", "99", "--log")
    assert "There is no run 99" in unknown.error
    both = cli("runs", "show", "1", "--log", "--steps")
    assert both.exit_code == 2
    assert "give only one of" in both.stderr
