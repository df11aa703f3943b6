"""Command `collections schedule`."""

import pytest
from sqlalchemy.orm import Session

from accession.core.workflow import SCHEDULED_WORKFLOWS
from accession.db.models import Collection, WorkflowSchedule
from tests.fixtures.commands import Cli
from tests.fixtures.factories import day
from tests.fixtures.workers import travel_to

FIELDS = {"workflow", "cron", "time_zone", "jitter_minutes", "inherited", "description", "next_starts"}
NEW = ("--workflow", "purchases", "--cron", "30 2 * * *", "--time-zone", "Europe/Berlin", "--jitter", "0")


def schedule(cli: Cli, *options: str) -> list[dict[str, object]]:
    with travel_to(day(2024, 10, 25, 12)):
        result = cli("collections", "schedule", "Alder Library", *options, "--json")
    assert result.exit_code == 0, result
    rows: list[dict[str, object]] = result.json
    return rows


def test_schedules_are_listed_with_their_next_starts(cli: Cli, collection: Collection) -> None:
    rows = schedule(cli)
    assert [row["workflow"] for row in rows] == list(SCHEDULED_WORKFLOWS)
    assert all(row.keys() == FIELDS for row in rows)
    assert [row["cron"] for row in rows] == ["0 4 * * *", "0 * * * *", "0 5 * * *"]
    assert [row["jitter_minutes"] for row in rows] == [60, 30, 60]


def test_changed_schedule_is_stored_and_shown(cli: Cli, collection: Collection) -> None:
    (changed,) = schedule(cli, *NEW)
    starts = [f"2024-10-{at}:00Z" for at in ("26T00:30", "27T00:30", "28T01:30", "29T01:30", "30T01:30")]
    assert changed == {
        "workflow": "purchases",
        "cron": "30 2 * * *",
        "time_zone": "Europe/Berlin",
        "jitter_minutes": 0,
        "inherited": [],
        "description": "At 02:30 every day",
        "next_starts": starts,
    }
    assert schedule(cli, "--workflow", "purchases") == [changed]


def test_schedule_table_shows_local_times(cli: Cli, collection: Collection) -> None:
    with travel_to(day(2024, 10, 25, 12)):
        result = cli("collections", "schedule", "Alder Library", *NEW)
    assert "Next starts of purchases (At 02:30 every day):" in result.stdout
    assert "Sun 2024-10-27 02:30 CEST (00:30 UTC)" in result.stdout
    assert "Mon 2024-10-28 02:30 CET (01:30 UTC)" in result.stdout


def test_options_that_are_not_given_keep_their_values(cli: Cli, collection: Collection) -> None:
    schedule(cli, *NEW)
    (changed,) = schedule(cli, "--workflow", "purchases", "--jitter", "1h30m")
    assert (changed["cron"], changed["time_zone"], changed["jitter_minutes"]) == (
        "30 2 * * *",
        "Europe/Berlin",
        90,
    )


@pytest.mark.parametrize("selected", [(), ("--workflow", "purchases")])
def test_default_inherits_from_the_settings_again(
    selected: tuple[str, ...], cli: Cli, collection: Collection
) -> None:
    schedule(cli, *NEW)
    schedule(cli, "--default", *selected)
    row = schedule(cli)[0]
    assert (row["cron"], row["inherited"]) == ("0 4 * * *", ["cron", "time_zone", "jitter_minutes"])


def test_dry_run_changes_nothing(cli: Cli, collection: Collection, session: Session) -> None:
    (preview,) = schedule(cli, *NEW, "--dry-run")
    assert preview["cron"] == "30 2 * * *"
    assert session.query(WorkflowSchedule).count() == 0


@pytest.mark.parametrize(
    ("options", "error"),
    [
        (("--cron", "0 3 * * *"), "give the --workflow"),
        ((*NEW, "--default"), "give either --default or a new schedule"),
        (("--workflow", "events", "--jitter", "soon"), "'soon' is no duration"),
        (("--workflow", "events", "--jitter", ""), "'' is no duration"),
    ],
)
def test_contradictory_options_are_rejected(
    options: tuple[str, ...], error: str, cli: Cli, collection: Collection
) -> None:
    result = cli("collections", "schedule", "Alder Library", *options)
    assert result.exit_code == 2
    assert error in result.stderr.replace("\n", " ").replace("│", "").replace("  ", " ")


def test_invalid_cron_expression_is_rejected(cli: Cli, collection: Collection) -> None:
    error = cli(
        "collections", "schedule", "Alder Library", "--workflow", "events", "--cron", "0 25 * * *"
    ).error
    assert error.startswith("The cron expression '0 25 * * *' is invalid (bad hour): enter minute, hour,")


def test_schedule_of_unknown_collection_is_rejected(cli: Cli, database: None) -> None:
    assert cli("collections", "schedule", "Nowhere").error == 'No collection found named "Nowhere".'
