"""Commands that need a running worker: `import --wait`, `titles refresh`, `restore` and the demo."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography.fernet import Fernet
from pydantic import SecretStr
from redis import Redis
from sqlalchemy import Engine, func, select
from sqlalchemy.orm import Session

from accession.accounts.keys import encrypt_secret
from accession.auth.audit import Actor, ActorKind
from accession.cli import demo
from accession.core.clock import truncate_to_second, utc_now
from accession.core.settings import get_settings
from accession.db.models import CirculationEvent, Collection, LicensePool, PurchaseRecord, RunState
from accession.db.models import Run as LedgerRun
from accession.local.servers import ServerUrls
from accession.runs.ledger import find_latest_run
from accession.sandbox.faults import Fault, Faults
from tests.fixtures.commands import (
    Cli,
    CommandResult,
    add_sandbox_collection,
    running_worker,
    server_variables,
    set_checkpoint,
    simulated_vendor,
)
from tests.fixtures.factories import make_collection
from tests.fixtures.keys import KEY_FILE_DAMAGE
from tests.fixtures.running_sandbox import RunningSandbox
from tests.fixtures.servers import delete_all_rows, flush_broker
from tests.fixtures.waiting import wait_until

# Rich would take this name for markup.
ALDER = "Alder [/Library]"


@pytest.fixture(scope="module")
def worker(servers: ServerUrls, celery_app: None) -> Iterator[Path]:
    """One worker for all tests of this module, which starts with empty servers; yields its log."""
    delete_all_rows()
    with Redis.from_url(servers.redis_url) as client:
        flush_broker(client)
    with running_worker(servers, get_settings().home) as log:
        yield log


@pytest.fixture
def sandbox() -> Iterator[RunningSandbox]:
    with simulated_vendor() as sandbox:
        yield sandbox


def add_alder(session: Session, sandbox: RunningSandbox) -> Collection:
    return add_sandbox_collection(session, sandbox, ALDER)


def import_and_wait(cli: Cli, *options: str) -> CommandResult:
    return cli("import", "purchases", "--collection", ALDER, "--wait", *options)


def count_titles(session: Session) -> int:
    return session.scalar(select(func.count()).select_from(LicensePool)) or 0


# Imports


def test_import_wait_ends_when_all_titles_are_applied(
    cli: Cli, worker: Path, broker: Redis, session: Session, sandbox: RunningSandbox
) -> None:
    add_alder(session, sandbox)
    first_day = utc_now().date()
    result = import_and_wait(cli)
    assert result.exit_code == 0, result
    assert ALDER in result.stderr
    days = {first_day, utc_now().date()}
    assert any(day.isoformat() in result.stderr for day in days)
    assert "12 records" in result.stderr
    assert "done" in result.stderr
    assert count_titles(session) == 12
    row, *_ = cli("status", "--json").json
    assert (row["state"], row["titles_new"], row["pending_updates"]) == ("succeeded", 12, 0)
    titles = {title["title"] for title in cli("titles", "list", "--json").json}
    assert titles == {purchase.work.title for purchase in sandbox.catalogue.purchases}


def test_import_wait_shows_each_collection(
    cli: Cli, worker: Path, broker: Redis, session: Session, sandbox: RunningSandbox
) -> None:
    add_alder(session, sandbox)
    add_sandbox_collection(session, sandbox, "Birch")
    result = cli("import", "purchases", "--import-all", "--wait")
    assert result.exit_code == 0, result
    assert ALDER in result.stderr
    assert "Birch" in result.stderr
    assert count_titles(session) == 24


def test_import_wait_succeeds_if_already_up_to_date(
    cli: Cli, worker: Path, broker: Redis, session: Session, sandbox: RunningSandbox
) -> None:
    set_checkpoint(session, add_alder(session, sandbox), utc_now() + timedelta(days=365))
    assert import_and_wait(cli).exit_code == 0
    assert count_titles(session) == 0


def test_import_wait_reports_reason_of_failure(
    cli: Cli, worker: Path, broker: Redis, session: Session, sandbox: RunningSandbox
) -> None:
    add_alder(session, sandbox)
    sandbox.sandbox.account = type(sandbox.account)(account_key="another")
    result = import_and_wait(cli)
    assert result.exit_code == 1
    reasons = [line for line in result.stderr.splitlines() if line.startswith(f"{ALDER}: failed: ")]
    assert len(reasons) == 1
    assert "The vendor refused the credentials" in reasons[0]
    assert reasons[0].endswith("See: accession runs show 1")
    assert "http" not in reasons[0]
    row, *_ = cli("status", "--json").json
    assert row["state"] == "failed"


def test_import_wait_shows_records_of_each_workflow(
    cli: Cli, worker: Path, broker: Redis, session: Session
) -> None:
    with simulated_vendor(activity=240) as sandbox:
        add_alder(session, sandbox)
        assert import_and_wait(cli).exit_code == 0
        results = {
            workflow: cli("import", workflow, "--collection", ALDER, "--wait")
            for workflow in ("events", "circulation")
        }
        vendor_ids = {title["id"] for title in sandbox.sandbox.titles()}
    assert {result.exit_code for result in results.values()} == {0}, results
    assert re.search(r"Alder \[/Library\].* \d+ events", results["events"].stderr)
    assert re.search(r"\d+ titles", results["circulation"].stderr)
    rows = {row["workflow"]: row for row in cli("status", "--json").json}
    assert {row["state"] for row in rows.values()} == {"succeeded"}
    assert all(row["checkpoint"] for row in rows.values())
    events = list(session.scalars(select(CirculationEvent.event_id)))
    assert rows["events"]["records_fetched"] == len(events) > 0
    titles = {row["identifier"] for row in cli("titles", "list", "--json").json}
    assert rows["circulation"]["records_fetched"] == len(titles)
    assert titles <= vendor_ids


def test_import_wait_joins_active_run_unless_forced(
    cli: Cli,
    worker: Path,
    broker: Redis,
    session: Session,
    sandbox: RunningSandbox,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from accession.cli import watch
    from accession.tasks.control import retry_now

    collection_id = add_alder(session, sandbox).id
    # The first run waits for its next attempt until the last command has found it.
    sandbox.sandbox.faults = Faults({Fault.UNAVAILABLE: 1})
    sandbox.sandbox.retry_after_seconds = 900

    def retry_and_find(*arguments: Any) -> LedgerRun | None:
        sandbox.sandbox.faults = Faults()
        retry_now(Actor(ActorKind.USER, "ann", ""), [collection_id])
        return find_latest_run(*arguments)

    assert cli("import", "purchases", "--collection", ALDER).exit_code == 0
    wait_until(lambda: cli("status", "--json").json[0]["state"] == "retrying")
    forced = import_and_wait(cli, "--force-reimport")
    monkeypatch.setattr(watch, "find_latest_run", retry_and_find)
    joined = import_and_wait(cli)
    assert forced.exit_code == 1
    assert "not started, because another run is active: retry when it has ended" in forced.stderr
    assert joined.exit_code == 0, joined
    assert f"{ALDER}: another run is already active; watching that one.\n" in joined.stderr
    runs = session.scalars(select(LedgerRun)).all()
    assert [run.state for run in runs] == [RunState.SUCCEEDED]
    assert session.scalar(select(func.count()).select_from(PurchaseRecord)) == 12


def test_damaged_key_file_fails_run_without_traceback(
    cli: Cli, worker: Path, broker: Redis, collection: Collection, session: Session
) -> None:
    key_file = get_settings().home / "secret.key"
    original = key_file.read_bytes()
    log_start = len(worker.read_text())
    for damage, message in KEY_FILE_DAMAGE.items():
        # With a key that the worker has not read yet: it caches the last one.
        key_file.write_bytes(Fernet.generate_key())
        collection.account_key_encrypted = encrypt_secret(SecretStr("key"))
        session.commit()
        damage(key_file)
        try:
            result = cli("import", "purchases", "--collection", collection.name, "--wait")
        finally:
            restore_key_file(key_file, original)
        assert result.exit_code == 1
        assert f"{collection.name}: failed: " in result.stderr
        assert message in result.stderr.splitlines()[-1]
        assert message in cli("status").stdout
        wait_until(lambda message=message: message in worker.read_text()[log_start:])  # type: ignore[misc]
    assert "Traceback" not in worker.read_text()[log_start:]


def restore_key_file(file: Path, content: bytes) -> None:
    if file.is_dir():
        file.rmdir()
    file.write_bytes(content)
    file.chmod(0o600)


# Titles


def test_titles_refresh_stores_changes_at_once(
    cli: Cli, worker: Path, broker: Redis, session: Session, sandbox: RunningSandbox
) -> None:
    add_alder(session, sandbox)
    assert import_and_wait(cli).exit_code == 0
    withdrawn, unchanged = (purchase.item_id for purchase in sandbox.catalogue.purchases[:2])
    sandbox.sandbox.remove(withdrawn)

    result = cli("titles", "refresh", unchanged, withdrawn, "--collection", ALDER)

    assert result.exit_code == 0, result
    assert result.stdout.splitlines()[-1] == (
        f"Refreshed 2 titles, 1 changed; withdrawn by the vendor: {withdrawn}."
    )
    assert [line.split()[0] for line in result.stdout.splitlines()[1:-1]] == [withdrawn, unchanged]
    (row,) = cli("titles", "refresh", withdrawn, "--collection", ALDER, "--json").json
    assert (row["identifier"], row["licenses_owned"], row["status"]) == (withdrawn, 0, "exhausted")
    assert {row["workflow"] for row in cli("runs", "list", "--json").json} == {"purchases"}


def test_titles_refresh_reports_unknown_title(cli: Cli, session: Session, sandbox: RunningSandbox) -> None:
    add_alder(session, sandbox)
    assert cli("titles", "refresh", "nothing", "--collection", ALDER).error == (
        f'Collection "{ALDER}" holds no title with id "nothing": see `accession titles list`.'
    )
    assert cli("titles", "refresh", "x", "--collection", "Nobody").error == (
        'No collection found named "Nobody".'
    )


# Restore


def test_restore_is_refused_while_a_worker_runs(
    cli: Cli, worker: Path, populated_database: Engine, tmp_path: Path
) -> None:
    file = str(tmp_path / "file")
    assert cli("backup", file).exit_code == 0
    error = cli("restore", file, "--yes").error
    assert error.startswith("Workers are running (accession-")
    assert error.endswith("): stop all of them first; nothing was changed.")


# Demo


def test_demo_with_external_servers_removes_its_collection(
    cli: Cli,
    worker: Path,
    broker: Redis,
    servers: ServerUrls,
    session: Session,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The demo runs with this module's worker, and imports one day instead of twelve years."""
    from accession.tasks import purchases

    @contextmanager
    def running_installation(titles: int, *, keep: bool) -> Iterator[str]:
        with simulated_vendor(titles, activity=1000) as sandbox:
            yield sandbox.base_url

    make_collection(session, demo.NAME)
    start = truncate_to_second(utc_now()) - timedelta(days=1)
    monkeypatch.setattr(purchases, "DEFAULT_PURCHASE_RECORD_START_TIME", start)
    monkeypatch.setattr(demo, "_running_installation", running_installation)
    for name, value in server_variables(servers).items():
        monkeypatch.setenv(name, value)

    result = cli("demo", "--titles", "5")

    assert f"{demo.NAME} 2" in result.stderr
    titles = re.search(r"Titles  (\d+) \(the vendor sold (\d+), 0 with an unusable record\)", result.stdout)
    assert titles
    # Titles that were sold before the imported day are missing in the catalogue.
    count, sold = titles.groups()
    is_different = count != sold
    assert (f"The catalogue has {count} titles instead of {sold}.\n" in result.stdout) is is_different
    assert result.exit_code == int(is_different)
    assert "Rows written by the second import  0\n" in result.stdout
    assert [row["name"] for row in cli("collections", "list", "--json").json] == [demo.NAME]
