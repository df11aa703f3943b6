"""Commands `backup` and `restore` on external servers."""

import re
from pathlib import Path

import pytest
from cryptography.fernet import Fernet
from redis import Redis
from sqlalchemy import Engine, text

from accession.accounts.keys import KEY_FILE
from accession.core.workflow import Workflow
from accession.db import schema
from accession.db.engine import engine
from accession.local.home import lock_home
from accession.local.servers import ServerUrls
from tests.fixtures.commands import Cli, settings
from tests.fixtures.factories import SCHEMA_REVISION, table_rows


@pytest.fixture(autouse=True)
def _short_worker_ping(celery_app: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait only briefly for the replies of workers: none runs in these tests."""
    monkeypatch.setattr("accession.tasks.recovery._WORKER_PING_SECONDS", 0.1)


def back_up(cli: Cli, file: str) -> None:
    """Write a backup, and close the connections that a process of its own would close as it ends."""
    assert cli("backup", file).exit_code == 0
    engine().dispose()


def test_backup_reports_size_and_key_file(cli: Cli, populated_database: Engine, tmp_path: Path) -> None:
    file, key_file = tmp_path / "file", tmp_path / "home" / "secret.key"
    result = cli("backup", str(file))
    kilobytes = round(file.stat().st_size / 1000)
    assert result.stdout == (
        f"Wrote the backup to {file} ({kilobytes} kB). Keep {key_file} with it: "
        "without that key the account keys and other secrets in the backup cannot be decrypted.\n"
    )
    entry = cli("audit", "--format", "json").json[0]
    assert (entry["action"], entry["subject"]) == ("database.backup", str(file))


def test_restore_asks_and_discards_queued_work(
    cli: Cli, populated_database: Engine, tmp_path: Path, broker: Redis
) -> None:
    from accession.tasks.workflow_task import enqueue_step
    from accession.tasks.workflows import STEP_TASKS

    file = str(tmp_path / "file")
    back_up(cli, file)
    before = table_rows(populated_database, "license_pools")
    with populated_database.begin() as connection:
        connection.execute(text("DELETE FROM license_pools"))
    populated_database.dispose()
    task = STEP_TASKS[Workflow.PURCHASES]
    lock = task.lock_for(1, "lost-run")
    enqueue_step(task, 1, "lost-run", {"current_day": "2024-05-01T00:00:00+00:00"})
    lock.acquire_or_extend()
    broker.hset("unacked:birch", "tag", "a message that a worker has received")

    declined = cli("restore", file, typed="n\n")
    assert declined.exit_code == 1
    assert declined.stdout.startswith("Replace the whole database by the backup of ")
    assert table_rows(populated_database, "license_pools") == []
    populated_database.dispose()
    assert broker.llen("default") == 1

    result = cli("restore", file, typed="y\n")

    assert result.exit_code == 0, result
    assert "Restored the database of " in result.stdout
    assert result.stdout.endswith("Start Accession again: accession up\n")
    assert table_rows(populated_database, "license_pools") == before
    assert (broker.llen("default"), broker.exists("unacked:birch")) == (0, 0)
    assert lock.current_holder() is None
    entry = cli("audit", "--format", "json").json[0]
    assert (entry["action"], entry["subject"], entry["origin"]) == ("database.restore", file, "cli")


def test_restore_migrates_and_warns_about_other_key(
    cli: Cli, populated_database: Engine, tmp_path: Path, servers: ServerUrls, next_revision: str
) -> None:
    populated_database.dispose()
    file = str(tmp_path / "file")
    back_up(cli, file)
    url = populated_database.url.set(drivername="postgresql").render_as_string(hide_password=False)

    with settings(home=tmp_path / "other", database_url=url, redis_url=servers.redis_url):
        result = cli("restore", file, "--yes")

    assert result.exit_code == 0, result
    assert f", migrated from schema {SCHEMA_REVISION} to {next_revision}.\n" in result.stdout
    assert result.stdout.count("secret.key cannot be read") == 1
    assert schema.schema_state(populated_database).is_current


def test_restore_names_each_secret_of_another_key(
    cli: Cli, populated_database: Engine, tmp_path: Path, servers: ServerUrls
) -> None:
    file, other = str(tmp_path / "file"), tmp_path / "other"
    back_up(cli, file)
    populated_database.dispose()
    other.mkdir()
    (other / KEY_FILE).write_bytes(Fernet.generate_key())
    url = populated_database.url.set(drivername="postgresql").render_as_string(hide_password=False)
    with settings(home=other, database_url=url, redis_url=servers.redis_url):
        result = cli("restore", file, "--yes")
    assert result.exit_code == 0, result
    for noun in ("account key of collection", "URL of notification channel", "secret of webhook"):
        assert re.search(rf'The {noun} "[^"]+" was encrypted with another key file', result.stdout), noun


def test_restore_is_refused_while_home_is_in_use(
    cli: Cli, populated_database: Engine, tmp_path: Path
) -> None:
    file = str(tmp_path / "file")
    back_up(cli, file)
    (tmp_path / "home").mkdir(exist_ok=True)
    with lock_home(tmp_path / "home"):
        assert "already running" in cli("restore", file, "--yes").error


def test_backup_without_database_is_refused(cli: Cli, tmp_path: Path) -> None:
    with settings(home=tmp_path):
        error = cli("backup", str(tmp_path / "file")).error
    assert error.startswith(f"Accession is not running in {tmp_path}: start it with `accession up`")
