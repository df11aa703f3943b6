"""Redis as operators have it: with TLS, a restricted user, several databases, and unsafe settings."""

import os
import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import cast
from urllib.parse import urlsplit

import httpx
import pytest
from sqlalchemy import select
from sqlalchemy.orm import Session

from accession.core.workflow import Workflow
from accession.db.engine import engine
from accession.db.models import Run
from accession.local.servers import ServerUrls
from tests.fixtures.certificates import Authority
from tests.fixtures.commands import (
    add_sandbox_collection,
    background_command,
    environment,
    run_command,
    settings,
    simulated_vendor,
)
from tests.fixtures.machine import free_port, http_status
from tests.fixtures.system_redis import SystemRedis, missing_program, system_redis
from tests.fixtures.waiting import wait_until
from tests.servers.commands import refused, run

TITLES = 12
DATABASE = 3
PAGE = Path(__file__).parents[2] / "docs" / "servers.md"


def documented_rules() -> str:
    """Return the rules that the documentation gives, for the database of this test."""
    (rules,) = re.findall(r"^ACL SETUSER accession on >PASSWORD (.+)$", PAGE.read_text(), re.MULTILINE)
    return cast(str, rules).replace("&/0.", f"&/{DATABASE}.")


@pytest.fixture(scope="module", autouse=True)
def _program_is_installed() -> None:
    if missing := missing_program():
        pytest.skip(f"REDIS OF THE SYSTEM IS NOT TESTED HERE: this machine lacks {missing}")


@pytest.fixture(scope="module")
def _server(_program_is_installed: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SystemRedis]:
    with system_redis(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture
def server(_server: SystemRedis) -> SystemRedis:
    """A server without data, with the documented user."""
    with _server.client() as admin:
        admin.flushall()
        admin.config_set("maxmemory-policy", "noeviction")
        admin.config_set("tls-auth-clients", "no")
    _server.set_user(documented_rules())
    return _server


@pytest.fixture
def variables(servers: ServerUrls, database: None, tmp_path: Path) -> dict[str, str]:
    """The environment of an installation without a broker."""
    return environment(
        ACCESSION_HOME=str(tmp_path / "home"),
        ACCESSION_DATABASE_URL=servers.database_url,
        ACCESSION_RETRY_BACKOFF_SECONDS="0",
    )


@contextmanager
def all_processes(env: dict[str, str]) -> Iterator[str]:
    """Run a worker, beat and the dashboard, and yield the URL of that."""
    web = {**env, "ACCESSION_WEB_PORT": free_port()}
    base_url = f"http://127.0.0.1:{web['ACCESSION_WEB_PORT']}"
    with (
        background_command("worker", "--concurrency=2", env=env),
        background_command("beat", env=env),
        background_command("web", env=web),
    ):
        wait_until(lambda: http_status(f"{base_url}/readyz") == 200, "all processes are ready")
        yield base_url


def test_import_with_tls_restricted_user_and_database(
    server: SystemRedis, variables: dict[str, str], session: Session
) -> None:
    """All clients use the same connection: broker, results, locks, metrics."""
    env = {**variables, "ACCESSION_REDIS_URL": server.tls_url(DATABASE)}
    with simulated_vendor(TITLES, latency_ms=20) as sandbox, all_processes(env) as base_url:
        with settings(home=env["ACCESSION_HOME"], database_url=env["ACCESSION_DATABASE_URL"]):
            add_sandbox_collection(session, sandbox)
        for workflow in ("purchases", "circulation"):
            run(env, "import", workflow, "--import-all", "--wait")
        metrics = httpx.get(f"{base_url}/metrics").text
        assert re.search(r"^accession_titles_applied_total{.*} [1-9]", metrics, re.MULTILINE), metrics
        doctor = run(env, "doctor").stdout
        assert "ok    broker: redis 7" in doctor
        assert "maxmemory-policy" not in doctor
    with server.client() as admin:
        assert admin.acl_log() == []
        assert admin.dbsize() == 0
    assert {run.state for run in session.scalars(select(Run))} == {"succeeded"}
    assert len(run(env, "titles", "list", "--json").json) == TITLES


def test_redis_cli_of_the_system_reaches_the_embedded_server(servers: ServerUrls) -> None:
    parts = urlsplit(servers.redis_url)
    environment = {"PATH": os.environ["PATH"], "REDISCLI_AUTH": parts.password or ""}
    command = ["redis-cli", "-s", parts.path, "ping"]
    assert subprocess.check_output(command, env=environment, text=True) == "PONG\n"


def test_restore_discards_messages_of_its_database_only(
    server: SystemRedis, variables: dict[str, str], tmp_path: Path
) -> None:
    env = {**variables, "ACCESSION_REDIS_URL": server.tls_url(DATABASE)}
    run(env, "backup", str(tmp_path / "file"))
    with server.client(0) as other, server.client(DATABASE) as ours:
        for client in (other, ours):
            client.lpush("default", "message")
            client.hset("unacked:birch", "tag", "message")
            client.set(f"{lock_key()}:1", "task")
        # It is refused while others use the database, as this process does.
        engine().dispose()
        run(env, "restore", "--yes", str(tmp_path / "file"))
        assert (other.dbsize(), ours.llen("default"), ours.exists("unacked:birch")) == (3, 0, 0)
        assert not ours.exists(f"{lock_key()}:1")


def lock_key() -> str:
    from accession.tasks.workflows import STEP_TASKS

    return STEP_TASKS[Workflow.PURCHASES].lock_key


def wrong_urls(server: SystemRedis, folder: Path) -> dict[str, str]:
    other = Authority(folder, "other")
    return {
        server.tls_url(ca=other.certificate): "is not trusted (self-signed certificate in certificate chain)",
        server.tls_url(host="127.0.0.1"): "is not trusted (IP address mismatch, certificate is not valid for",
        server.tls_url(password="wrong"): "The broker rejects the login (invalid username-password pair",
        server.tls_url(99): "The broker refuses a command (DB index is out of range)",
    }


def test_connection_that_cannot_work_is_refused(
    server: SystemRedis, variables: dict[str, str], tmp_path: Path
) -> None:
    for url, reason in wrong_urls(server, tmp_path).items():
        message = refused({**variables, "ACCESSION_REDIS_URL": url}, "worker")
        assert reason in message
        assert "ACCESSION_REDIS_URL" in message


def test_broker_may_require_certificate_of_client(server: SystemRedis, variables: dict[str, str]) -> None:
    with server.client() as admin:
        admin.config_set("tls-auth-clients", "yes")
    client = server.authority.issue("client")
    url = server.tls_url(DATABASE)
    # A worker that sees only the end of the connection tries again.
    message = run_command("worker", env={**variables, "ACCESSION_REDIS_URL": url}).stderr.splitlines()[-1]
    assert message.startswith("TLS with the broker fails (TLSV13_ALERT_CERTIFICATE_REQUIRED): check the")
    url += f"&ssl_certfile={client.certificate}&ssl_keyfile={client.key}"
    result = run_command("doctor", env={**variables, "ACCESSION_REDIS_URL": url})
    assert "ok    broker: redis 7" in result.stdout


@pytest.mark.parametrize("missing", ["-eval", "-brpop", "resetkeys ~default ~apply", "resetchannels"])
def test_user_with_too_few_permissions_is_refused(
    server: SystemRedis, variables: dict[str, str], missing: str
) -> None:
    server.set_user(f"{documented_rules()} {missing}")
    env = {**variables, "ACCESSION_REDIS_URL": server.tls_url(DATABASE)}
    message = refused(env, "worker")
    assert message.startswith("The user in ACCESSION_REDIS_URL has too few permissions (")
    assert message.endswith("): give it those that docs/servers.md lists.")


@pytest.mark.parametrize("command", ["worker", "beat", "web", "up"])
def test_broker_that_evicts_keys_is_refused(
    server: SystemRedis, variables: dict[str, str], command: str
) -> None:
    with server.client() as admin:
        admin.config_set("maxmemory-policy", "allkeys-lru")
    message = refused({**variables, "ACCESSION_REDIS_URL": server.url()}, command)
    assert message == (
        "The broker may delete queued messages when its memory is full, because its maxmemory-policy is "
        "allkeys-lru: set it to noeviction."
    )


def test_doctor_reports_broker_that_evicts_keys(server: SystemRedis, variables: dict[str, str]) -> None:
    with server.client() as admin:
        admin.config_set("maxmemory-policy", "volatile-ttl")
    result = run_command("doctor", env={**variables, "ACCESSION_REDIS_URL": server.url()})
    assert result.exit_code == 1
    assert "FAIL  broker: The broker may delete queued messages" in result.stdout


def test_policy_that_cannot_be_read_is_reported(server: SystemRedis, variables: dict[str, str]) -> None:
    """Managed services forbid commands of administrators."""
    server.set_user(f"{documented_rules()} -info")
    result = run_command("doctor", env={**variables, "ACCESSION_REDIS_URL": server.tls_url(DATABASE)})
    assert (
        "ok    broker: redis of unknown version; its maxmemory-policy cannot be read, so make sure that it "
        "is noeviction\n"
    ) in result.stdout


def test_worker_waits_for_the_broker(variables: dict[str, str]) -> None:
    """It may be started before its broker."""
    env = {**variables, "ACCESSION_REDIS_URL": f"redis://127.0.0.1:{free_port()}/0"}
    with background_command("worker", env=env) as worker:
        assert worker.stdout is not None
        assert worker.stdout.readline().startswith("Waiting. The broker is unavailable (Error 111 connecting")
