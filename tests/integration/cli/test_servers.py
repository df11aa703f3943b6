"""Servers from the command line: where they are, the database's schema, and what the doctor finds."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from redis import Redis
from sqlalchemy import Engine, inspect, text
from sqlalchemy.orm import Session

from accession.cli import checks
from accession.core.workflow import Workflow
from accession.db import schema
from accession.db.models import Collection, RunState
from accession.local.servers import ServerUrls
from accession.runs.ledger import end_run, find_run, open_run
from tests.fixtures.commands import Run, read_anew, settings
from tests.fixtures.factories import NEWEST_SCHEMA, make_collection, scratch_database


@pytest.fixture
def scratch(servers: ServerUrls) -> Iterator[Engine]:
    """A database of its own, without a table, in this process's settings."""
    with scratch_database() as scratch:
        url = scratch.url.set(drivername="postgresql").render_as_string(hide_password=False)
        with settings(database_url=url, redis_url=servers.redis_url):
            yield scratch


def make_newer(database: Engine) -> None:
    schema.upgrade(database)
    with database.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))


# Where they are


def test_env_prints_what_psql_and_friends_need(run: Run, servers: ServerUrls) -> None:
    assert run("env").out.splitlines() == [
        f"ACCESSION_DATABASE_URL={servers.database_url}",
        f"ACCESSION_REDIS_URL={servers.redis_url}",
    ]


def test_running_servers_of_the_home_are_found_and_a_url_that_is_set_wins(
    run: Run, servers: ServerUrls, monkeypatch: pytest.MonkeyPatch
) -> None:
    from accession.core.settings import get_settings

    home = str(get_settings().home)
    with read_anew(monkeypatch, ACCESSION_HOME=home):
        assert f"ACCESSION_DATABASE_URL={servers.database_url}\n" in run("env").out
        assert run("db", "check").code == 0
    with read_anew(monkeypatch, ACCESSION_HOME=home, ACCESSION_REDIS_URL="redis://elsewhere/3"):
        assert run("env").out.splitlines() == [
            f"ACCESSION_DATABASE_URL={servers.database_url}",
            "ACCESSION_REDIS_URL=redis://elsewhere/3",
        ]


# The schema


def test_an_empty_database_is_migrated(run: Run, scratch: Engine) -> None:
    missing = f"The database has schema none, this program wants {NEWEST_SCHEMA}: run `accession db upgrade`."
    assert run("db", "check").sentence == missing
    older = "The database has an older schema than this program: run `accession db upgrade`."
    assert run("status").sentence == older
    assert run("db", "upgrade").out == f"The database is migrated from schema none to {NEWEST_SCHEMA}.\n"
    assert "license_pools" in inspect(scratch).get_table_names()
    assert run("db", "check").out == f"The database has schema {NEWEST_SCHEMA}, as it should.\n"
    assert run("db", "upgrade").out == f"The database has schema {NEWEST_SCHEMA} already.\n"
    assert run("status").code == 0


@pytest.mark.parametrize("arguments", ["status", "db check", "db upgrade", "import purchases --import-all"])
def test_a_database_newer_than_the_program_is_left_alone(run: Run, scratch: Engine, arguments: str) -> None:
    make_newer(scratch)
    assert run(*arguments.split()).sentence == (
        "The database has schema 9999, which this version of Accession does not know: "
        "install the newer Accession that made it."
    )


# The doctor


@pytest.fixture
def no_patience(monkeypatch: pytest.MonkeyPatch, broker: Redis) -> None:
    """No worker runs, and nobody waits long for one."""
    monkeypatch.setattr(checks, "_WORKER_ANSWERS_WITHIN_SECONDS", 0.05)


def findings(run: Run) -> dict[str, tuple[bool, str]]:
    answer = run("doctor", "--json")
    found = {check["what"]: (check["ok"], check["finding"]) for check in answer.json}
    assert all(set(check) == {"what", "ok", "finding", "repaired"} for check in answer.json)
    assert answer.code == (0 if all(ok for ok, _ in found.values()) else 1)
    return found


def test_the_doctor_misses_a_worker(run: Run, collection: Collection, no_patience: None) -> None:
    answer = run("doctor")
    assert answer.code == 1
    lines = answer.out.splitlines()
    assert [line for line in lines if line.startswith("BAD")] == [
        "BAD  workers: none answers: start one with `accession up`, or `accession worker`",
        "BAD  beat: it has never looked at its schedule: start it with `accession up`, or `accession beat`",
    ]
    assert any(line.startswith("ok   database: PostgreSQL 1") for line in lines)
    assert any(line.startswith("ok   broker: valkey 9") for line in lines)
    found = findings(run)
    assert found["process postgres"][0]
    assert found["schema"] == (True, NEWEST_SCHEMA)
    assert found["account keys"] == (True, "all 1 can be decrypted")
    assert found["purchases of Alder Library"] == (True, "never")


def test_the_doctor_sees_a_run_that_failed(run: Run, session: Session, no_patience: None) -> None:
    made = make_collection(session, "Alder [/north] \x1b[2J")
    open_run(session, made.id, Workflow.PURCHASES, "task-1", {"current_day": None, "offset": 1})
    failed = find_run(session, "task-1")
    assert failed is not None
    end_run(failed, RunState.FAILED, "The [bold]key[/bold] is wrong.")
    session.commit()
    ok, finding = findings(run)["purchases of Alder [/north] \x1b[2J"]
    assert (ok, finding) == (False, "failed: The [bold]key[/bold] is wrong.")
    shown = run("doctor").out
    bad = "BAD  purchases of Alder [/north]  [2J: failed: The [bold]key[/bold] is wrong.\n"
    assert bad in shown


def test_the_doctor_looks_at_the_key_file(
    run: Run, home: Path, session: Session, no_patience: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert findings(run)["key file"] == (
        True,
        f"{home / 'secret.key'} is not there yet; the first collection makes it",
    )
    make_collection(session, "Alder Library")
    assert findings(run)["key file"] == (True, str(home / "secret.key"))
    (home / "secret.key").chmod(0o640)
    ok, finding = findings(run)["key file"]
    assert not ok
    assert finding.endswith(f"can be read by others (mode 640): chmod 600 {home / 'secret.key'}")
    (home / "secret.key").unlink()
    checks_keys = findings_anew(run)
    assert not checks_keys["account keys"][0]
    assert "put it back from your backup" in checks_keys["account keys"][1]


def findings_anew(run: Run) -> dict[str, tuple[bool, str]]:
    """With the key file read anew, as in a process of its own."""
    from accession.accounts import keys

    keys._cipher.cache_clear()
    return findings(run)


def test_the_doctor_knows_a_key_from_the_environment_and_a_wrong_one(
    run: Run, servers: ServerUrls, home: Path, session: Session, no_patience: None
) -> None:
    make_collection(session, "Alder Library")
    wrong = "MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE="
    urls = {"database_url": servers.database_url, "redis_url": servers.redis_url}
    with settings(home=home, secret_key=wrong, **urls):
        found = findings(run)
    assert found["key file"] == (True, "the key comes from ACCESSION_SECRET_KEY")
    ok, finding = found["account keys"]
    assert not ok
    assert 'The account key of collection "Alder Library" was encrypted with another key' in finding


def test_the_doctor_of_a_home_that_was_never_used(run: Run, tmp_path: Path) -> None:
    home = tmp_path / "home"
    with settings(home=home):
        found = findings(run)
    assert found["home"] == (False, f"{home} is not there yet; `accession up` makes it")
    assert [what for what, (ok, _) in found.items() if not ok] == [
        *("home", "database", "schema", "broker", "workers", "beat", "account keys")
    ]
    assert all("accession up" in finding for ok, finding in found.values() if not ok)


def test_the_doctor_of_servers_that_do_not_answer(run: Run, tmp_path: Path) -> None:
    dead = {
        "database_url": "postgresql://u:hidden@127.0.0.1:9/d",
        "redis_url": "redis://:hidden@127.0.0.1:9/0",
    }
    with settings(home=tmp_path, **dead):
        found = findings(run)
    bad = {what: finding for what, (ok, finding) in found.items() if not ok}
    assert list(bad) == ["database", "schema", "broker", "workers", "beat", "account keys"]
    assert "hidden" not in str(bad)


def test_the_doctor_of_a_database_that_is_newer_or_older(
    run: Run, scratch: Engine, no_patience: None
) -> None:
    assert findings(run)["schema"] == (False, f"none instead of {NEWEST_SCHEMA}: run `accession db upgrade`")
    make_newer(scratch)
    ok, finding = findings(run)["schema"]
    assert not ok
    assert "install the newer Accession" in finding
