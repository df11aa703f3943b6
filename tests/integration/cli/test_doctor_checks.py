"""Checks of `accession doctor` that only read: home, keys, servers, processes and latest runs."""

import re
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace

import pytest
from cryptography.fernet import Fernet
from sqlalchemy import Engine
from sqlalchemy.orm import Session

from accession.accounts import keys
from accession.core.clock import utc_now
from accession.core.settings import get_settings, use_settings
from accession.core.workflow import Workflow
from accession.db.models import Collection, RunState, TableSize
from accession.db.sizes import table_sizes
from accession.local.servers import ServerUrls
from accession.runs.ledger import end_run, find_run, get_or_create_checkpoint, open_run
from tests.fixtures.commands import Cli, migrate_to_unknown_schema, settings
from tests.fixtures.factories import SCHEMA_REVISION, day, make_collection
from tests.fixtures.notifications import make_channel
from tests.fixtures.oidc import simulated_provider
from tests.fixtures.webhooks import make_webhook


def findings(cli: Cli) -> dict[str, tuple[bool, str]]:
    result = cli("doctor", "--json")
    results = {check["name"]: (check["ok"], check["finding"]) for check in result.json}
    assert all(set(check) == {"name", "ok", "finding", "repaired"} for check in result.json)
    assert result.exit_code == (0 if all(ok for ok, _ in results.values()) else 1)
    return results


def test_doctor_reports_missing_worker_and_scheduler(
    cli: Cli, collection: Collection, without_worker_wait: None
) -> None:
    result = cli("doctor")
    assert result.exit_code == 1
    lines = result.stdout.splitlines()
    assert [line for line in lines if line.startswith("FAIL")] == [
        "FAIL  workers: no heartbeat in the last 30 seconds: "
        "start a worker with `accession up`, or `accession worker`",
        "FAIL  scheduler: no tick of the scheduler is recorded: "
        "start it with `accession up`, or `accession beat`",
    ]
    assert any(line.startswith("ok    database: PostgreSQL 1") for line in lines)
    assert any(line.startswith("ok    broker: valkey 9") for line in lines)
    results = findings(cli)
    assert results["process postgres"][0]
    assert results["schema"] == (True, SCHEMA_REVISION)
    assert results["account keys"] == (True, "1 can be decrypted")
    assert results["secrets of webhooks"] == (True, "none are stored")
    assert results["purchases of Alder Library"] == (True, "never")


def test_doctor_reports_failed_run(cli: Cli, session: Session, without_worker_wait: None) -> None:
    collection = make_collection(session, "Alder Library")
    # Such a name cannot be entered: it stands for any hostile text in the database.
    collection.name = "Alder [/north] \x1b[2J"
    open_run(session, collection.id, Workflow.PURCHASES, "task-1", {"current_day": None, "offset": 1})
    failed = find_run(session, "task-1")
    assert failed is not None
    end_run(failed, RunState.FAILED, "The [bold]key[/bold] is wrong.")
    session.commit()
    ok, finding = findings(cli)["purchases of Alder [/north] \x1b[2J"]
    assert (ok, finding) == (False, "failed: The [bold]key[/bold] is wrong.")
    output = cli("doctor").stdout
    line = "FAIL  purchases of Alder [/north]  [2J: failed: The [bold]key[/bold] is wrong.\n"
    assert line in output


def test_doctor_names_the_time_that_is_unconfirmed(
    cli: Cli, session: Session, collection: Collection, without_worker_wait: None
) -> None:
    """A collection that has never shown a record: the vendor's empty bodies are no proof."""
    checkpoint = get_or_create_checkpoint(session, collection, Workflow.PURCHASES)
    checkpoint.confirmed, checkpoint.finish = day(2014, 1, 1), day(2024, 5, 1)
    open_run(session, collection.id, Workflow.PURCHASES, "task-1", {"current_day": None, "offset": 1})
    run = find_run(session, "task-1")
    assert run is not None
    end_run(run, RunState.SUCCEEDED)
    session.commit()
    assert findings(cli)["purchases of Alder Library"] == (
        True,
        "succeeded, but unconfirmed since 2014-01-01: empty responses prove nothing",
    )


def test_doctor_checks_key_file(cli: Cli, home: Path, session: Session, without_worker_wait: None) -> None:
    assert findings(cli)["key file"] == (
        True,
        f"{home / 'secret.key'} does not exist yet; adding the first collection creates it",
    )
    make_collection(session, "Alder Library")
    assert findings(cli)["key file"] == (True, str(home / "secret.key"))
    (home / "secret.key").chmod(0o640)
    ok, finding = findings(cli)["key file"]
    assert not ok
    assert finding.endswith(f"is readable by others (mode 640): run chmod 600 {home / 'secret.key'}")
    (home / "secret.key").unlink()
    results = findings_with_reread_key(cli)
    assert not results["account keys"][0]
    assert "restore it from your backup" in results["account keys"][1]


def test_doctor_checks_secrets_of_channels_and_webhooks(
    cli: Cli, session: Session, without_worker_wait: None
) -> None:
    channel, webhook = make_channel(session, "json://127.0.0.1:9"), make_webhook(session)
    results = findings(cli)
    assert results["URLs of notification channels"] == (True, "1 can be decrypted")
    assert results["secrets of webhooks"] == (True, "1 can be decrypted")
    lost = Fernet(Fernet.generate_key()).encrypt(b"x")
    channel.url_encrypted = webhook.previous_secret_encrypted = lost
    session.commit()
    results = findings(cli)
    ok, finding = results["URLs of notification channels"]
    assert not ok
    assert finding.startswith('The URL of notification channel "ops" was encrypted with another key file')
    ok, finding = results["secrets of webhooks"]
    assert not ok
    assert finding.startswith('The secret of webhook "index" was encrypted with another key file')
    assert results["account keys"][0]


@pytest.mark.parametrize(
    ("content", "is_secret"),
    [
        ('time_zone = "Europe/Berlin"', False),
        ('redis_url = "redis://:pw@broker.example/0"', True),
        ('[[exports]]\ntarget = "sftp://ann:pw@files.example/"', True),
        ('[[exports]]\ntarget = "/srv/exports"', False),
    ],
)
def test_doctor_checks_settings_file_with_secrets(
    cli: Cli, home: Path, session: Session, without_worker_wait: None, content: str, is_secret: bool
) -> None:
    home.mkdir()
    (home / "accession.toml").write_text(content)
    (home / "accession.toml").chmod(0o644)
    readable = f"{home / 'accession.toml'} is readable by others (mode 644): run chmod 600 "
    ok, finding = findings(cli)["home"]
    assert (ok, finding.startswith(readable)) == (not is_secret, is_secret)
    (home / "accession.toml").chmod(0o600)
    assert findings(cli)["home"] == (True, str(home))


def test_doctor_checks_openid_connect_provider(cli: Cli, session: Session, without_worker_wait: None) -> None:
    urls = get_settings().model_dump(include={"home", "database_url", "redis_url"})
    client = {"oidc_client_id": "accession", "oidc_group_roles": {"staff": "viewer", "it": "administrator"}}
    with simulated_provider() as provider:
        with settings(**urls, **client, oidc_issuer=provider.issuer):
            assert findings(cli)["OpenID Connect"] == (
                True,
                f"{provider.issuer} publishes its configuration and keys; groups give the roles "
                "administrator, viewer",
            )
        with settings(**urls, **client, oidc_issuer=f"{provider.issuer}/"):
            ok, finding = findings(cli)["OpenID Connect"]
            assert (ok, f"calls itself {provider.issuer}, not {provider.issuer}/" in finding) == (False, True)
    with settings(**urls, **client, oidc_issuer=provider.issuer):
        ok, finding = findings(cli)["OpenID Connect"]
        assert (ok, "cannot be reached" in finding) == (False, True)


def findings_with_reread_key(cli: Cli) -> dict[str, tuple[bool, str]]:
    """Return the findings of a new process, which reads the key file."""
    keys._cipher.cache_clear()
    return findings(cli)


def test_doctor_checks_key_from_environment(
    cli: Cli, servers: ServerUrls, home: Path, session: Session, without_worker_wait: None
) -> None:
    make_collection(session, "Alder Library")
    other_key = "MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE="
    urls = {"database_url": servers.database_url, "redis_url": servers.redis_url}
    with settings(home=home, secret_key=other_key, **urls):
        results = findings(cli)
    assert results["key file"] == (True, "the key comes from ACCESSION_SECRET_KEY")
    ok, finding = results["account keys"]
    assert not ok
    assert 'The account key of collection "Alder Library" was encrypted with another key' in finding


def test_doctor_with_unused_home(cli: Cli, tmp_path: Path) -> None:
    home = tmp_path / "home"
    with settings(home=home):
        results = findings(cli)
    assert results["home"] == (False, f"{home} does not exist yet; `accession up` creates it")
    assert [name for name, (ok, _) in results.items() if not ok] == [
        *("home", "database", "schema", "database locks"),
        *("broker", "workers", "scheduler", "account keys"),
        *("URLs of notification channels", "secrets of webhooks", "storage"),
    ]
    assert all("accession up" in finding for ok, finding in results.values() if not ok)


def test_doctor_with_unreachable_servers(cli: Cli, tmp_path: Path) -> None:
    unreachable_servers = {
        "database_url": "postgresql://u:hidden@127.0.0.1:9/d",
        "redis_url": "redis://:hidden@127.0.0.1:9/0",
    }
    with settings(home=tmp_path, **unreachable_servers):
        results = findings(cli)
    failures = {name: finding for name, (ok, finding) in results.items() if not ok}
    assert list(failures) == [
        *("database", "schema", "database locks"),
        *("broker", "workers", "scheduler", "account keys"),
        *("URLs of notification channels", "secrets of webhooks", "storage"),
    ]
    assert "hidden" not in str(failures)


def test_doctor_with_empty_or_newer_database(
    cli: Cli, unmigrated_database: Engine, without_worker_wait: None
) -> None:
    assert findings(cli)["schema"] == (
        False,
        f"none instead of {SCHEMA_REVISION}: run `accession db upgrade`",
    )
    migrate_to_unknown_schema(unmigrated_database)
    ok, finding = findings(cli)["schema"]
    assert not ok
    assert "install the newer Accession" in finding


# Storage


def grow(session: Session, bytes_per_day: int) -> None:
    """Record sizes of yesterday, so that all tables together have grown by this number of bytes since."""
    sizes = table_sizes(session, utc_now())
    session.add_all(
        TableSize(
            day=utc_now().date() - timedelta(days=1),
            name=table.name,
            bytes=table.bytes - (bytes_per_day if table.name == "runs" else 0),
            rows=0,
        )
        for table in sizes
    )
    session.commit()


def test_doctor_reports_sizes_and_free_disk_space(
    cli: Cli, database: None, without_worker_wait: None
) -> None:
    ok, finding = findings(cli)["storage"]
    assert ok
    assert re.fullmatch(r"tables [\d.]+ MB, .*[\d.,]+ \w+ free on the disk", finding)


def test_doctor_reports_growth(cli: Cli, session: Session, without_worker_wait: None) -> None:
    grow(session, 1_500_000)
    ok, finding = findings(cli)["storage"]
    assert ok
    assert ", growth 1.5 MB per day, " in finding


def test_doctor_fails_if_the_disk_will_soon_be_full(
    cli: Cli, session: Session, without_worker_wait: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    grow(session, 1_500_000)
    usage = SimpleNamespace(free=15_500_000, total=20_000_000)
    monkeypatch.setattr("accession.local.disk.shutil.disk_usage", lambda _: usage)
    ok, finding = findings(cli)["storage"]
    assert not ok
    assert finding.endswith(
        "15.5 MB free on the disk: it will be full in 10 days; enlarge it, or keep rows for fewer days "
        "(see `accession db sizes`)"
    )
    before = get_settings()
    use_settings(before.model_copy(update={"disk_warning_days": 10}))
    try:
        assert findings(cli)["storage"][0]
    finally:
        use_settings(before)


def test_disk_of_external_database_is_not_reported(
    cli: Cli, database: None, without_worker_wait: None
) -> None:
    used = get_settings()
    assert used.database_url is not None
    url = f"{used.database_url.get_secret_value()}&application_name=external"
    with settings(home=used.home, database_url=url, redis_url=used.redis_url):
        assert "free on the disk" not in findings(cli)["storage"][1]
