"""The whole database in one file, and back, as an operator does it."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from redis import Redis
from sqlalchemy import Engine, text

from accession.core.workflow import Workflow
from accession.db import schema
from accession.local.home import owned_home
from accession.local.servers import ServerUrls
from tests.e2e.cli.test_up import at, database_of, imported_once, new_home
from tests.fixtures.commands import Run, customer, running_worker, serving, settings
from tests.fixtures.factories import NEWEST_SCHEMA, put_something_everywhere, rows_of, scratch_database
from tests.fixtures.machine import eventually


@pytest.fixture
def own_servers(servers: ServerUrls, broker: Redis, tmp_path: Path) -> Iterator[Engine]:
    """A database with a row in every table, and a home that is set to it."""
    with scratch_database() as own:
        url = own.url.set(drivername="postgresql").render_as_string(hide_password=False)
        with settings(home=tmp_path / "home", database_url=url, redis_url=servers.redis_url):
            schema.upgrade(own)
            put_something_everywhere(own)
            own.dispose()
            yield own


def test_a_backup_says_how_large_it_is_and_what_belongs_to_it(
    run: Run, own_servers: Engine, tmp_path: Path
) -> None:
    answer = run("backup", str(tmp_path / "file"))
    kilobytes = round((tmp_path / "file").stat().st_size / 1000)
    assert answer.out == (
        f"The database is in {tmp_path / 'file'}, {kilobytes} kB. Keep {tmp_path / 'home' / 'secret.key'} "
        "with it: the account keys in it are of no use without.\n"
    )


def test_a_restore_asks_first_and_drops_what_is_queued(
    run: Run, own_servers: Engine, tmp_path: Path, broker: Redis
) -> None:
    from accession.tasks.chain import send_link
    from accession.tasks.workflows import CHAINS

    file = str(tmp_path / "file")
    assert run("backup", file).code == 0
    before = rows_of(own_servers, "license_pools")
    with own_servers.begin() as connection:
        connection.execute(text("DELETE FROM license_pools"))
    own_servers.dispose()
    chain = CHAINS[Workflow.PURCHASES]
    send_link(chain, 1, "lost-run", {"current_day": "2024-05-01T00:00:00+00:00"})
    chain.kind.lock(1, "lost-run").hold()
    broker.hset("unacked", "tag", "a message that a worker had taken")

    refused = run("restore", file, typed="n\n")
    assert refused.code == 1
    assert refused.out.startswith("Replace all that is in the database by the backup of ")
    assert rows_of(own_servers, "license_pools") == []
    own_servers.dispose()
    assert broker.llen("default") == 1

    answer = run("restore", file, typed="y\n")

    assert answer.code == 0, answer
    assert "The database is what it was at " in answer.out
    assert answer.out.endswith("Start Accession again: accession up\n")
    assert rows_of(own_servers, "license_pools") == before
    assert (broker.llen("default"), broker.exists("unacked"), chain.kind.lock(1, "").taken_by()) == (
        0,
        0,
        None,
    )


def test_a_restore_says_from_which_schema_it_migrated_and_that_the_key_is_another(
    run: Run, own_servers: Engine, tmp_path: Path, servers: ServerUrls
) -> None:
    schema.downgrade(own_servers, "0002")
    own_servers.dispose()
    assert run("backup", str(tmp_path / "file")).code == 0
    url = own_servers.url.set(drivername="postgresql").render_as_string(hide_password=False)

    with settings(home=tmp_path / "other", database_url=url, redis_url=servers.redis_url):
        answer = run("restore", str(tmp_path / "file"), "--yes")

    assert answer.code == 0, answer
    assert f", migrated from schema 0002 to {NEWEST_SCHEMA}.\n" in answer.out
    assert "secret.key cannot be read" in answer.out
    assert schema.schema_state(own_servers).current


def test_with_a_worker_or_accession_running_nothing_is_restored(
    run: Run, own_servers: Engine, tmp_path: Path, servers: ServerUrls
) -> None:
    file = str(tmp_path / "file")
    assert run("backup", file).code == 0
    (tmp_path / "home").mkdir(exist_ok=True)
    with owned_home(tmp_path / "home"):
        assert "already running" in run("restore", file, "--yes").sentence
    with running_worker(servers, tmp_path):
        sentence = run("restore", file, "--yes").sentence
    assert sentence.startswith("Workers are running (accession-")
    assert sentence.endswith("): stop every one first; nothing was changed.")


def test_without_a_database_there_is_no_backup(run: Run, tmp_path: Path) -> None:
    with settings(home=tmp_path):
        sentence = run("backup", str(tmp_path / "file")).sentence
    assert sentence.startswith(f"Accession is not running in {tmp_path}: start it with `accession up`")


def test_an_import_that_was_at_work_goes_on_from_where_the_backup_was_made(tmp_path: Path) -> None:
    file = str(tmp_path / "file")
    with new_home() as home, serving(30, latency_ms=1000) as sandbox:
        assert at(home, "up", "--detach").code == 0
        with database_of(home) as session:
            customer(session, sandbox)
        assert at(home, "import", "purchases", "--import-all").code == 0
        eventually(lambda: sandbox.statistics()["requests"]["marc"] > 1)
        assert at(home, "backup", file).code == 0
        sandbox.sandbox.latency_ms = 0
        imported_once(home, sandbox)
        assert "already running" in at(home, "restore", file, "--yes").sentence
        assert at(home, "down").code == 0
        asked = sandbox.statistics()["requests"]["marc"]

        answer = at(home, "restore", file, "--yes")

        assert answer.code == 0, answer
        assert at(home, "up", "--detach").code == 0
        imported_once(home, sandbox)
        assert sandbox.statistics()["requests"]["marc"] > asked
