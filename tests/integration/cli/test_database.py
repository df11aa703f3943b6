"""Command `env`, and the commands of `accession db`."""

import re
import subprocess
from datetime import timedelta
from types import SimpleNamespace

import pytest
import time_machine
from sqlalchemy import Engine, func, inspect, select
from sqlalchemy.orm import Session

from accession.cli.connect import require_schema
from accession.core.clock import utc_now
from accession.core.settings import get_settings
from accession.core.workflow import Workflow
from accession.db import schema
from accession.db.models import AuditEntry, Collection, Run
from accession.local.servers import ServerUrls
from accession.runs.ledger import RunCounters, find_run, open_run, record_step
from tests.fixtures.commands import Cli, migrate_to_unknown_schema, settings, settings_from_environment
from tests.fixtures.factories import SCHEMA_REVISION


def test_env_prints_server_urls(cli: Cli, servers: ServerUrls) -> None:
    assert cli("env").stdout.splitlines() == [
        f"ACCESSION_DATABASE_URL={servers.database_url}",
        f"ACCESSION_REDIS_URL={servers.redis_url}",
    ]


def test_env_prints_any_url_for_a_shell(cli: Cli) -> None:
    url = "postgresql://ann:it's@db.example/accession?sslmode=verify-full&sslrootcert=/a b"
    with settings(database_url=url, redis_url="redis://:pw@broker.example/0"):
        script = f'{cli("env").stdout}printf "%s|%s" "$ACCESSION_DATABASE_URL" "$ACCESSION_REDIS_URL"'
    output = subprocess.check_output(["/bin/sh", "-c", script], text=True)
    assert output == f"{url}|redis://:pw@broker.example/0"


def test_configured_url_takes_precedence_over_running_server(
    cli: Cli, servers: ServerUrls, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = str(get_settings().home)
    with settings_from_environment(monkeypatch, ACCESSION_HOME=home):
        assert f"ACCESSION_DATABASE_URL={servers.database_url}\n" in cli("env").stdout
        assert cli("db", "check").exit_code == 0
    with settings_from_environment(
        monkeypatch, ACCESSION_HOME=home, ACCESSION_REDIS_URL="redis://elsewhere/3"
    ):
        assert cli("env").stdout.splitlines() == [
            f"ACCESSION_DATABASE_URL={servers.database_url}",
            "ACCESSION_REDIS_URL=redis://elsewhere/3",
        ]


def test_empty_database_is_migrated(cli: Cli, unmigrated_database: Engine) -> None:
    missing = (
        f"The database has schema none, this version needs {SCHEMA_REVISION}: run `accession db upgrade`."
    )
    assert cli("db", "check").error == missing
    older = "The database schema is older than this version: run `accession db upgrade`."
    assert cli("status").error == older
    assert cli("db", "upgrade").stdout == f"Migrated the database from schema none to {SCHEMA_REVISION}.\n"
    assert "license_pools" in inspect(unmigrated_database).get_table_names()
    assert cli("db", "check").stdout == f"The database has schema {SCHEMA_REVISION}, the current one.\n"
    assert cli("db", "upgrade").stdout == f"The database already has schema {SCHEMA_REVISION}.\n"
    assert cli("status").exit_code == 0


@pytest.mark.parametrize("process", ["worker", "beat", "web"])
def test_process_does_not_start_with_an_older_schema(
    cli: Cli, unmigrated_database: Engine, process: str
) -> None:
    result = cli(process)
    assert (result.exit_code, result.error) == (
        1,
        "The database schema is older than this version: run `accession db upgrade`.",
    )


def test_processes_can_wait_for_the_schema(
    unmigrated_database: Engine, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    outputs: list[str] = []

    def sleep(_: float) -> None:
        outputs.append(capsys.readouterr().err)
        if len(outputs) == 2:
            schema.upgrade(unmigrated_database)

    monkeypatch.setattr("accession.cli.connect.time", SimpleNamespace(sleep=sleep))
    require_schema(waits=True)
    older = "Waiting. The database schema is older than this version: run `accession db upgrade`.\n"
    assert outputs == [older, ""]


@pytest.mark.parametrize("arguments", ["status", "db check", "db upgrade", "import purchases --import-all"])
def test_newer_database_is_not_touched(cli: Cli, unmigrated_database: Engine, arguments: str) -> None:
    migrate_to_unknown_schema(unmigrated_database)
    assert cli(*arguments.split()).error == (
        "The database has schema 9999, which this version of Accession does not know: "
        "install the newer Accession that created it."
    )


# Sizes and pruning


def add_old_runs(session: Session, collection: Collection) -> None:
    """Add and commit three runs that ended 91 days ago."""
    with time_machine.travel(utc_now() - timedelta(days=91), tick=False):
        for number in range(3):
            open_run(session, collection.id, Workflow.EVENTS, f"task-{number}", {})
            run = find_run(session, f"task-{number}")
            assert run is not None
            record_step(run, RunCounters(records_fetched=7, records_stored=7), since=None, next_cursor=None)
    session.commit()


def test_sizes_show_tables_and_retention(cli: Cli, session: Session, collection: Collection) -> None:
    add_old_runs(session, collection)
    lines = cli("db", "sizes").stdout.splitlines()

    assert re.fullmatch(r"All tables and indexes: [\d.]+ MB\.", lines[0])
    assert any(line.split()[:1] == ["circulation_events"] for line in lines)
    runs = next(line.split() for line in reversed(lines) if line.startswith("runs "))
    oldest = (utc_now() - timedelta(days=91)).date().isoformat()
    assert (runs[1], runs[4:8]) == ("3", [oldest, "90", "days", "2"])


def test_sizes_as_json_have_numbers(cli: Cli, session: Session, collection: Collection) -> None:
    add_old_runs(session, collection)
    report = cli("db", "sizes", "--json").json

    assert set(report) == {"bytes", "bytes_per_day", "retention", "tables"}
    assert set(report["tables"][0]) == {"name", "rows", "bytes", "bytes_per_day"}
    runs = next(kind for kind in report["retention"] if kind["name"] == "runs")
    assert (runs["rows"], runs["days"], runs["prunable_rows"]) == (3, 90, 2)


def test_dry_run_deletes_nothing(cli: Cli, session: Session, collection: Collection) -> None:
    add_old_runs(session, collection)
    output = cli("db", "prune", "runs", "--dry-run").stdout

    assert [line.split()[0] for line in output.splitlines()] == ["Kind", "runs"]
    assert session.scalar(select(func.count()).select_from(Run)) == 3


def test_prune_deletes_and_is_recorded(cli: Cli, session: Session, collection: Collection) -> None:
    add_old_runs(session, collection)

    assert cli("db", "prune", "runs").stdout == "runs: deleted 2 rows\n"
    assert session.scalar(select(func.count()).select_from(Run)) == 1
    entry = session.scalars(select(AuditEntry)).one()
    assert (entry.action, entry.subject) == ("database.prune", "runs")
    assert cli("db", "prune").stdout.startswith("Nothing is old enough to be deleted.")


def test_prune_of_unknown_kind_is_refused(cli: Cli, database: None) -> None:
    result = cli("db", "prune", "logs")
    assert result.exit_code == 1
    assert 'There is no kind of data "logs" to prune' in result.stderr
