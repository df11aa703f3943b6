"""Starting imports: the two commands, and what they queue."""

import json
import subprocess
import sys
from base64 import b64decode
from pathlib import Path
from typing import Any

import pytest
from redis import Redis
from sqlalchemy.orm import Session

from accession.catalog.models import Collection
from accession.cli.scripts import purchase_record_import
from accession.clock import utc_now
from accession.local.servers import ServerUrls
from tests.cli.conftest import PATIENCE_SECONDS, Answer, Run, environment
from tests.making import make_collection

ROOT = Path(__file__).parents[2]
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


def script(run: Run, *arguments: str) -> Answer:
    """`bibliotheca_purchase_record_import`, in this process."""
    return run(*arguments, program=purchase_record_import)


# Both commands


@pytest.fixture(params=["import", "script"])
def start(request: pytest.FixtureRequest, run: Run) -> Any:
    """`accession import purchases`, and `bibliotheca_purchase_record_import`."""

    def start(*arguments: str) -> Answer:
        if request.param == "script":
            return script(run, *arguments)
        return run("import", "purchases", *arguments)

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
    start: Any, broker: Redis, session: Session, collection: Collection
) -> None:
    make_collection(session, "Birch")
    answer = start("--collection", "Alder Library")
    assert answer.code == 0
    assert answer.out.startswith("Queued the import for Alder Library.") or answer.out == (
        "Queued 1 import. See: accession status\n"
    )
    assert queued(broker) == [(BY_COLLECTION, [collection.id], {})]


def test_a_forced_reimport_begins_in_2014(start: Any, broker: Redis, collection: Collection) -> None:
    assert start("--collection", "Alder Library", "--force-reimport").code == 0
    assert queued(broker) == [(BY_COLLECTION, [collection.id], FORCED)]


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
    run: Run, broker: Redis, database: None, more: tuple[str, ...]
) -> None:
    answer = run("import", "purchases", "--import-all", *more)
    assert answer == Answer(0, "No collections yet. Add one with: accession collections add NAME ...\n", "")


@pytest.mark.parametrize("forced", [False, True])
def test_the_script_queues_the_fan_out(run: Run, broker: Redis, database: None, forced: bool) -> None:
    answer = script(run, "--import-all", *(["--force-reimport"] if forced else []))
    assert answer == Answer(0, "Queued the import for all collections.\n", "")
    assert queued(broker) == [(FOR_ALL, [], {"force_reimport": forced})]


def test_the_script_explains_itself(run: Run) -> None:
    answer = script(run, "--help")
    assert answer.code == 0
    assert "Queue the import of purchase records" in answer.out
    for option in ("--collection", "--import-all", "--force-reimport"):
        assert option in answer.out


@pytest.mark.parametrize(
    "program",
    [
        [str(ROOT / "bin" / "bibliotheca_purchase_record_import")],
        [str(Path(sys.executable).with_name("bibliotheca_purchase_record_import"))],
    ],
    ids=["bin", "installed"],
)
def test_the_script_is_there_to_be_called(
    program: list[str], servers: ServerUrls, broker: Redis, collection: Collection
) -> None:
    urls = {"ACCESSION_DATABASE_URL": servers.database_url, "ACCESSION_REDIS_URL": servers.redis_url}
    done = subprocess.run(
        [*program, "--collection", "Alder Library"],
        env=environment(**urls),
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "Queued the import for Alder Library.\n", "")
    assert queued(broker) == [(BY_COLLECTION, [collection.id], {})]
    assert (ROOT / "bin" / "bibliotheca_purchase_record_import").stat().st_mode & 0o111
