"""`accession up` and `down` on one machine: in the background, beside another installation, and refused."""

import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from sqlalchemy import Engine, text

from accession.local.processes import recorded_processes
from accession.local.servers import ServerUrls
from tests.fixtures.commands import (
    Cli,
    CommandResult,
    add_sandbox_collection,
    environment,
    migrate_to_unknown_schema,
    server_variables,
    settings,
    settings_from_environment,
    simulated_vendor,
)
from tests.fixtures.homes import database_session, processes_of, run_in_home, temporary_home
from tests.fixtures.machine import free_port
from tests.fixtures.waiting import DEADLINE_SECONDS, wait_until


@dataclass(frozen=True)
class RunningInstallation:
    """An installation that runs in the background, and its dashboard when `accession up` returned."""

    home: Path
    web_port: str
    first_page: str


@pytest.fixture(scope="module")
def running() -> Iterator[RunningInstallation]:
    """One installation for all tests of this module."""
    with temporary_home() as home:
        port = free_port()
        result = run_in_home(home, "up", "--detach", ACCESSION_WEB_PORT=port)
        assert result == CommandResult(
            0,
            f"Accession is running in {home}. Stop it with: accession down\n"
            f"Dashboard: http://127.0.0.1:{port}\n",
            "",
        )
        yield RunningInstallation(home, port, httpx.get(f"http://127.0.0.1:{port}", trust_env=False).text)
        assert run_in_home(home, "down") == CommandResult(0, "Accession has stopped.\n", "")
        assert processes_of(home) == []


def test_detached_up_runs_and_imports(cli: Cli, running: RunningInstallation) -> None:
    with simulated_vendor() as sandbox:
        with database_session(running.home) as session:
            add_sandbox_collection(session, sandbox)
        result = run_in_home(running.home, "import", "purchases", "--import-all", "--wait")
        assert result.exit_code == 0, result
        assert "12 records" in result.stderr
    with settings(home=running.home):
        row, *_ = cli("status", "--json").json
        assert (row["state"], row["titles_new"], row["pending_updates"]) == ("succeeded", 12, 0)
        assert all(title["title"] for title in cli("titles", "list", "--json").json)


def test_settings_of_each_process_are_recorded(cli: Cli, running: RunningInstallation) -> None:
    with settings(home=running.home):
        entries = cli("audit", "--action", "settings", "--format", "json").json
    changes = {entry["actor"]: entry["details"]["web_port"] for entry in entries}
    assert changes == dict.fromkeys(("worker", "beat", "web"), f"8642 → {running.web_port}")


def test_dashboard_is_ready_when_up_returns(running: RunningInstallation) -> None:
    assert "Welcome" in running.first_page


def test_port_of_dashboard_stays_taken_while_it_restarts(running: RunningInstallation) -> None:
    """Whoever could take it would be sent the passwords of users."""
    web = recorded_processes(running.home)["web"]
    os.kill(web.pid, signal.SIGKILL)
    wait_until(lambda: not web.is_alive)
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        with pytest.raises(OSError, match="Address already in use"):
            other.bind(("127.0.0.1", int(running.web_port)))
    url = f"http://127.0.0.1:{running.web_port}/healthz"
    assert httpx.get(url, trust_env=False, timeout=DEADLINE_SECONDS).status_code == 200
    assert recorded_processes(running.home)["web"] != web


def test_doctor_passes_with_all_processes(running: RunningInstallation) -> None:
    result = run_in_home(running.home, "doctor", ACCESSION_WEB_PORT=running.web_port)
    assert result.exit_code == 0, result
    for name in ("beat", "postgres", "valkey", "worker", "web"):
        assert re.search(rf"^ok    process {name}: running, process \d+$", result.stdout, re.MULTILINE)
    assert "ok    workers: 1 running\n" in result.stdout
    assert "ok    scheduler: the scheduler's last tick was " in result.stdout
    assert "FAIL" not in result.stdout


def test_second_up_in_same_home_is_refused(cli: Cli, running: RunningInstallation) -> None:
    with (
        pytest.MonkeyPatch.context() as patch,
        settings_from_environment(patch, ACCESSION_HOME=str(running.home)),
    ):
        error = cli("up", "--sandbox", "1").error
        detached = cli("up", "--detach")
    assert error.startswith(f"Accession is already running in {running.home} (process ")
    assert detached.error.startswith(f"Accession did not start: {error}")


# Refused before any process is started


@pytest.fixture
def external_servers(
    servers: ServerUrls, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[pytest.MonkeyPatch]:
    """The test servers and an unused home in the environment, which the test can change further."""
    for name, value in {"ACCESSION_HOME": str(tmp_path), **server_variables(servers)}.items():
        monkeypatch.setenv(name, value)
    yield monkeypatch
    assert processes_of(tmp_path) == []


def test_used_dashboard_port_is_refused(
    cli: Cli, running: RunningInstallation, external_servers: pytest.MonkeyPatch
) -> None:
    with settings_from_environment(external_servers, ACCESSION_WEB_PORT=running.web_port):
        error = cli("up").error
    assert error.startswith(
        f"The dashboard cannot listen at 127.0.0.1, port {running.web_port} (Address already in use)"
    )


def test_used_sandbox_port_is_refused(cli: Cli, external_servers: pytest.MonkeyPatch) -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as occupied,
        settings_from_environment(external_servers, ACCESSION_WEB_PORT="0"),
    ):
        port = str(occupied.getsockname()[1])
        error = cli("up", "--sandbox", "5", "--sandbox-port", port).error
    assert error == f"The simulated vendor's port {port} is in use: choose another with --sandbox-port."


def test_up_on_newer_database_starts_nothing(
    cli: Cli, unmigrated_database: Engine, external_servers: pytest.MonkeyPatch
) -> None:
    migrate_to_unknown_schema(unmigrated_database)
    url = unmigrated_database.url.set(drivername="postgresql").render_as_string(hide_password=False)
    with settings_from_environment(external_servers, ACCESSION_WEB_PORT="0", ACCESSION_DATABASE_URL=url):
        assert "The database has schema 9999" in cli("up").error


# The scheduler alone


def test_beat_creates_private_files_in_new_home(servers: ServerUrls) -> None:
    """Even if the umask gives new files to everybody."""
    with temporary_home() as home:
        os.rmdir(home)
        with subprocess.Popen(
            [sys.executable, "-m", "accession", "beat"],
            env=environment(ACCESSION_HOME=str(home), **server_variables(servers)),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            umask=0,
        ) as beat:
            assert beat.stdout is not None
            assert any("beat: Starting..." in line for line in iter(beat.stdout.readline, ""))
            wait_until(lambda: list(home.glob("beat-schedule*")))
            beat.send_signal(signal.SIGKILL)
        # As long as it runs, it renames the files at any time.
        assert {path.stat().st_mode & 0o777 for path in home.glob("beat-schedule*")} == {0o600}


def test_servers_that_are_not_durable_do_not_wait_for_disk(running: RunningInstallation) -> None:
    assert shown_setting(running.home, "fsync") == "on"
    with temporary_home() as home:
        assert run_in_home(home, "up", "--detach", "--not-durable", ACCESSION_WEB_PORT="0").exit_code == 0
        assert shown_setting(home, "fsync") == "off"
        assert run_in_home(home, "down").exit_code == 0


def shown_setting(home: Path, name: str) -> str:
    """Return a setting of the database server of a home."""
    with database_session(home) as session:
        return str(session.scalar(text(f"SHOW {name}")))
