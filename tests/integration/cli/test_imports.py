"""Starting imports: commands and scripts, and what they queue."""

import json
import subprocess
import sys
from base64 import b64decode
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from redis import Redis
from sqlalchemy.orm import Session

from accession.cli.scripts import circulation_update, event_import, purchase_record_import
from accession.core.clock import utc_now
from accession.db.models import Collection
from accession.local.servers import ServerUrls
from tests.fixtures.commands import PATIENCE_SECONDS, Answer, Run, environment
from tests.fixtures.factories import make_collection

ROOT = Path(__file__).parents[3]
FORCED = {"current_day": "2014-01-01T00:00:00+00:00", "reset_timestamp": True}
BY_COLLECTION = "accession.tasks.purchases.import_purchase_records_by_collection"
FOR_ALL = "accession.tasks.purchases.import_purchase_records_for_all_collections"

Queued = list[tuple[str, list[Any], dict[str, Any]]]


def queued(broker: Redis) -> Queued:
    """Task, arguments and keyword arguments of each message, oldest first."""
    messages = [json.loads(raw) for raw in reversed(broker.lrange("default", 0, -1))]
    bodies = [json.loads(b64decode(message["body"])) for message in messages]
    return [
        (message["headers"]["task"], body[0], body[1]) for message, body in zip(messages, bodies, strict=True)
    ]


class Way(NamedTuple):
    """A workflow, and what starts it."""

    command: str
    script: str
    program: Callable[[], None]
    task: str
    fan_out: str
    queued: str


WAYS = [
    Way(
        "purchases",
        "bibliotheca_purchase_record_import",
        purchase_record_import,
        BY_COLLECTION,
        FOR_ALL,
        "Queued the import for",
    ),
    Way(
        "events",
        "bibliotheca_import",
        event_import,
        "accession.tasks.events.import_collection",
        "accession.tasks.events.import_all_collections",
        "Queued the import for",
    ),
    Way(
        "circulation",
        "bibliotheca_circulation_update",
        circulation_update,
        "accession.tasks.circulation.circulation_update_collection",
        "accession.tasks.circulation.circulation_update_all_collections",
        "Queued the update for",
    ),
]


@pytest.fixture(params=WAYS, ids=[way.command for way in WAYS])
def way(request: pytest.FixtureRequest) -> Way:
    found: Way = request.param
    return found


# Both commands


@pytest.fixture(params=["import", "script"])
def start(request: pytest.FixtureRequest, run: Run, way: Way) -> Any:
    """The command of a workflow, and its console script."""

    def start(*arguments: str) -> Answer:
        if request.param == "script":
            return run(*arguments, program=way.program)
        return run("import", way.command, *arguments)

    return start


def test_neither_or_both_of_the_two_options_is_a_usage_error(start: Any, database: None) -> None:
    for arguments in ((), ("--collection", "Alder", "--import-all"), ("--nonsense",)):
        answer = start(*arguments)
        assert answer.code == 2
        assert "Usage:" in answer.err
        assert answer.out == ""
    assert "give either --collection NAME or --import-all" in start().err


def test_an_unknown_collection_is_said(start: Any, broker: Redis, database: None) -> None:
    assert start("--collection", "X").sentence == 'No collection found named "X".'
    assert queued(broker) == []


def test_one_collection_is_queued(
    start: Any, way: Way, broker: Redis, session: Session, collection: Collection
) -> None:
    make_collection(session, "Birch")
    answer = start("--collection", "Alder Library")
    assert answer.code == 0
    assert answer.out in (f"{way.queued} Alder Library.\n", "Queued 1 import. See: accession status\n")
    assert queued(broker) == [(way.task, [collection.id], {})]


@pytest.mark.parametrize("as_script", [False, True])
def test_a_forced_reimport_begins_in_2014(
    run: Run, broker: Redis, collection: Collection, as_script: bool
) -> None:
    arguments = ("--collection", "Alder Library", "--force-reimport")
    if as_script:
        assert run(*arguments, program=purchase_record_import).code == 0
    else:
        assert run("import", "purchases", *arguments).code == 0
    assert queued(broker) == [(BY_COLLECTION, [collection.id], FORCED)]


@pytest.mark.parametrize("workflow", ["events", "circulation"])
def test_there_is_nothing_to_force_in_the_other_workflows(run: Run, database: None, workflow: str) -> None:
    assert run("import", workflow, "--import-all", "--force-reimport").code == 2


# All collections


def test_all_collections_are_queued_and_counted(
    run: Run, broker: Redis, session: Session, collection: Collection
) -> None:
    birch = make_collection(session, "Birch")
    make_collection(session, "Cedar").marked_for_deletion_at = utc_now()
    session.commit()
    answer = run("import", "purchases", "--import-all", "--force-reimport")
    assert answer == Answer(0, "Queued 2 imports. See: accession status\n", "")
    assert queued(broker) == [(BY_COLLECTION, [key], FORCED) for key in (collection.id, birch.id)]


@pytest.mark.parametrize("more", [(), ("--wait",)])
def test_no_collections_to_import_says_what_to_do_next(
    run: Run, way: Way, broker: Redis, database: None, more: tuple[str, ...]
) -> None:
    answer = run("import", way.command, "--import-all", *more)
    assert answer == Answer(0, "No collections yet. Add one with: accession collections add NAME ...\n", "")


def test_the_script_queues_the_fan_out(run: Run, way: Way, broker: Redis, database: None) -> None:
    answer = run("--import-all", program=way.program)
    assert answer == Answer(0, f"{way.queued} all collections.\n", "")
    assert queued(broker) == [(way.fan_out, [], {})]


def test_the_script_can_force_all_to_begin_in_2014(run: Run, broker: Redis, database: None) -> None:
    answer = run("--import-all", "--force-reimport", program=purchase_record_import)
    assert answer == Answer(0, "Queued the import for all collections.\n", "")
    assert queued(broker) == [(FOR_ALL, [], {"force_reimport": True})]


def test_the_script_explains_itself(run: Run, way: Way) -> None:
    answer = run("--help", program=way.program)
    assert answer.code == 0
    assert "Queue the " in answer.out
    for option in ("--collection", "--import-all"):
        assert option in answer.out
    assert ("--force-reimport" in answer.out) is (way.command == "purchases")


@pytest.mark.parametrize("folder", [ROOT / "bin", Path(sys.executable).parent], ids=["bin", "installed"])
def test_the_script_is_there_to_be_called(
    folder: Path, way: Way, servers: ServerUrls, broker: Redis, collection: Collection
) -> None:
    urls = {"ACCESSION_DATABASE_URL": servers.database_url, "ACCESSION_REDIS_URL": servers.redis_url}
    done = subprocess.run(
        [folder / way.script, "--collection", "Alder Library"],
        env=environment(**urls),
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{way.queued} Alder Library.\n", "")
    assert queued(broker) == [(way.task, [collection.id], {})]
