"""Commands of `accession import` and console scripts, and the tasks that they queue."""

import json
import os
import shutil
import subprocess
import sys
from base64 import b64decode
from collections.abc import Callable
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from redis import Redis
from sqlalchemy.orm import Session

from accession.cli.scripts import circulation_update, event_import, purchase_record_import
from accession.core.clock import utc_now
from accession.db.models import Collection
from accession.local.servers import ServerUrls
from tests.fixtures.commands import COMMAND_TIMEOUT_SECONDS, Cli, CommandResult, environment, server_variables
from tests.fixtures.factories import make_collection

ROOT = Path(__file__).parents[3]
FORCED_ARGUMENTS = {"current_day": "2014-01-01T00:00:00+00:00", "reset_timestamp": True}
COLLECTION_TASK = "accession.tasks.purchases.import_purchase_records_by_collection"
FAN_OUT_TASK = "accession.tasks.purchases.import_purchase_records_for_all_collections"


def queued_tasks(broker: Redis) -> list[tuple[str, list[Any], dict[str, Any]]]:
    """Return name, arguments and keyword arguments of each queued task, oldest first."""
    messages = [json.loads(raw) for raw in reversed(broker.lrange("default", 0, -1))]
    bodies = [json.loads(b64decode(message["body"])) for message in messages]
    return [
        (message["headers"]["task"], body[0], body[1]) for message, body in zip(messages, bodies, strict=True)
    ]


class Starter(NamedTuple):
    """Command and console script that start a workflow, and the tasks that they queue.

    `output` is the beginning of the script's output.
    """

    command: str
    script: str
    program: Callable[[], None]
    task: str
    fan_out: str
    output: str


STARTERS = [
    Starter(
        "purchases",
        "bibliotheca_purchase_record_import",
        purchase_record_import,
        COLLECTION_TASK,
        FAN_OUT_TASK,
        "Queued the import for",
    ),
    Starter(
        "events",
        "bibliotheca_import",
        event_import,
        "accession.tasks.events.import_collection",
        "accession.tasks.events.import_all_collections",
        "Queued the import for",
    ),
    Starter(
        "circulation",
        "bibliotheca_circulation_update",
        circulation_update,
        "accession.tasks.circulation.circulation_update_collection",
        "accession.tasks.circulation.circulation_update_all_collections",
        "Queued the update for",
    ),
]


@pytest.fixture(params=STARTERS, ids=[starter.command for starter in STARTERS])
def starter(request: pytest.FixtureRequest) -> Starter:
    selected: Starter = request.param
    return selected


# Commands and scripts


@pytest.fixture(params=["import", "script"])
def start(request: pytest.FixtureRequest, cli: Cli, starter: Starter) -> Any:
    """Start a workflow, by its command or by its console script."""

    def start(*arguments: str) -> CommandResult:
        if request.param == "script":
            return cli(*arguments, program=starter.program)
        return cli("import", starter.command, *arguments)

    return start


def test_exactly_one_collection_option_is_required(start: Any, database: None) -> None:
    for arguments in ((), ("--collection", "Alder", "--import-all"), ("--nonsense",)):
        result = start(*arguments)
        assert result.exit_code == 2
        assert "Usage:" in result.stderr
        assert result.stdout == ""
    assert "give either --collection NAME" in start().stderr


def test_unknown_collection_is_reported(start: Any, broker: Redis, database: None) -> None:
    assert start("--collection", "X").error == 'No collection found named "X".'
    assert queued_tasks(broker) == []


def test_import_of_one_collection_is_queued(
    start: Any, starter: Starter, broker: Redis, session: Session, collection: Collection
) -> None:
    make_collection(session, "Birch")
    result = start("--collection", "Alder Library")
    assert result.exit_code == 0
    assert result.stdout in (f"{starter.output} Alder Library.\n", "Queued 1 import. See: accession status\n")
    assert queued_tasks(broker) == [(starter.task, [collection.id], {})]


@pytest.mark.parametrize("as_script", [False, True])
def test_forced_reimport_starts_in_2014(
    cli: Cli, broker: Redis, collection: Collection, as_script: bool
) -> None:
    arguments = ("--collection", "Alder Library", "--force-reimport")
    if as_script:
        assert cli(*arguments, program=purchase_record_import).exit_code == 0
    else:
        assert cli("import", "purchases", *arguments).exit_code == 0
    assert queued_tasks(broker) == [(COLLECTION_TASK, [collection.id], FORCED_ARGUMENTS)]


@pytest.mark.parametrize("workflow", ["events", "circulation"])
def test_other_workflows_have_no_force_option(cli: Cli, database: None, workflow: str) -> None:
    assert cli("import", workflow, "--import-all", "--force-reimport").exit_code == 2


# All collections


def test_import_of_all_collections_is_queued(
    cli: Cli, broker: Redis, session: Session, collection: Collection
) -> None:
    birch = make_collection(session, "Birch")
    make_collection(session, "Cedar").marked_for_deletion_at = utc_now()
    session.commit()
    result = cli("import", "purchases", "--import-all", "--force-reimport")
    assert result == CommandResult(0, "Queued 2 imports. See: accession status\n", "")
    assert queued_tasks(broker) == [
        (COLLECTION_TASK, [key], FORCED_ARGUMENTS) for key in (collection.id, birch.id)
    ]


@pytest.mark.parametrize("more", [(), ("--wait",)])
def test_import_without_collections_suggests_next_step(
    cli: Cli, starter: Starter, broker: Redis, database: None, more: tuple[str, ...]
) -> None:
    result = cli("import", starter.command, "--import-all", *more)
    assert result == CommandResult(
        0, "No collections yet. Add one with: accession collections add NAME ...\n", ""
    )


def test_script_queues_fan_out_task(cli: Cli, starter: Starter, broker: Redis, database: None) -> None:
    result = cli("--import-all", program=starter.program)
    assert result == CommandResult(0, f"{starter.output} all collections.\n", "")
    assert queued_tasks(broker) == [(starter.fan_out, [], {})]


def test_script_forces_reimport_of_all_collections(cli: Cli, broker: Redis, database: None) -> None:
    result = cli("--import-all", "--force-reimport", program=purchase_record_import)
    assert result == CommandResult(0, "Queued the import for all collections.\n", "")
    assert queued_tasks(broker) == [(FAN_OUT_TASK, [], {"force_reimport": True})]


def test_script_has_help(cli: Cli, starter: Starter) -> None:
    result = cli("--help", program=starter.program)
    assert result.exit_code == 0
    assert "Queue the " in result.stdout
    for option in ("--collection", "--import-all"):
        assert option in result.stdout
    assert ("--force-reimport" in result.stdout) is (starter.command == "purchases")


def test_console_script_is_installed(starter: Starter) -> None:
    (entry_point,) = entry_points(group="console_scripts", name=starter.script)
    assert entry_point.load() is starter.program
    assert os.access(Path(sys.executable).parent / starter.script, os.X_OK)


def test_bin_script_runs_installed_script(starter: Starter, tmp_path: Path) -> None:
    installed = tmp_path / ".venv" / "bin" / starter.script
    installed.parent.mkdir(parents=True)
    installed.write_text('#!/bin/sh\necho "$(basename "$0")" "$@"\n')
    installed.chmod(0o755)
    (tmp_path / "bin").mkdir()
    script = shutil.copy(ROOT / "bin" / starter.script, tmp_path / "bin")

    completed = subprocess.run([script, "--collection", "A B"], capture_output=True, text=True, check=True)

    assert completed.stdout == f"{starter.script} --collection A B\n"


def test_bin_script_queues_import(servers: ServerUrls, broker: Redis, collection: Collection) -> None:
    starter = STARTERS[0]
    completed = subprocess.run(
        [ROOT / "bin" / starter.script, "--collection", "Alder Library"],
        env=environment(**server_variables(servers)),
        capture_output=True,
        text=True,
        timeout=COMMAND_TIMEOUT_SECONDS,
        check=False,
    )
    assert (completed.returncode, completed.stdout) == (0, f"{starter.output} Alder Library.\n")
    assert completed.stderr == ""
    assert queued_tasks(broker) == [(starter.task, [collection.id], {})]
