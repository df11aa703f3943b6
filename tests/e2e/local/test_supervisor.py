"""The supervisor starts servers and children, restarts those that end, and stops all in order."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psycopg
import pytest
import redis
from pydantic import SecretStr

from accession.core.errors import UserError
from accession.core.settings import Settings
from accession.local import supervised_process
from accession.local.control import process_statuses, start_in_background, stop_running
from accession.local.home import home_owner
from accession.local.processes import ProcessId, recorded_processes
from accession.local.servers import ServerUrls, read_server_info, running_servers
from accession.local.supervised_process import Backoff
from accession.local.supervisor import Supervisor, child_specs
from accession.tasks.broker import redis_client
from tests.fixtures import supervised
from tests.fixtures.machine import new_home
from tests.fixtures.waiting import DEADLINE_SECONDS, wait_until

PAUSE = (sys.executable, "-c", "import signal; signal.pause()")


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    """A home; whatever runs in it at the end is stopped."""
    with new_home(tmp_path) as home:
        yield home
        stop(home)
        for process in recorded_processes(home).values():
            if process.is_alive:
                kill(process)


def command(home: Path, *arguments: str) -> list[str]:
    return [sys.executable, supervised.__file__, str(home), *arguments]


@contextmanager
def running_supervisor(
    home: Path, *arguments: str, prefix: tuple[str, ...] = ()
) -> "Iterator[subprocess.Popen[bytes]]":
    """Run a supervisor that is ready; stop it at the end unless the test has done so."""
    with (home / "supervisor.log").open("ab") as output:
        process = subprocess.Popen([*prefix, *command(home, *arguments)], stdout=output, stderr=output)
    with process:
        try:
            wait_until(lambda: "ready" in events(home) or process.poll() is not None)
            assert process.poll() is None, log_text(home)
            yield process
        finally:
            process.terminate()


def run_supervisor(home: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    """Run a supervisor that is expected to end by itself."""
    return subprocess.run(
        command(home, *arguments), capture_output=True, text=True, timeout=DEADLINE_SECONDS, check=False
    )


def stop(home: Path) -> bool:
    return stop_running(home, DEADLINE_SECONDS)


def events(home: Path) -> list[str]:
    """Return what the supervisor and its children have recorded so far."""
    path = home / "events.txt"
    return path.read_text().splitlines() if path.exists() else []


def log_text(home: Path) -> str:
    return (home / "supervisor.log").read_text()


def wait_for_children(home: Path, *names: str) -> None:
    wait_until(lambda: {f"{name} started" for name in names} <= set(events(home)))


def kill(process: ProcessId) -> None:
    os.kill(process.pid, signal.SIGKILL)


def server_urls(home: Path) -> ServerUrls:
    urls = running_servers(home)
    assert urls is not None
    return urls


def accepts_commands(redis_url: str) -> bool:
    with redis_client(redis_url) as client:
        try:
            return bool(client.ping())
        except redis.RedisError:
            return False


def accepts_connections(database_url: str) -> bool:
    try:
        psycopg.connect(database_url).close()
    except psycopg.OperationalError:
        return False
    return True


def test_children_start_after_and_stop_before_the_servers(home: Path) -> None:
    with running_supervisor(home, "worker:connects-on-signal", "beat") as process:
        wait_for_children(home, "worker", "beat")
        assert running_servers(home) is not None
        statuses = process_statuses(home)
        assert [(status.name, status.state) for status in statuses] == [
            (name, "running") for name in ("accession", "beat", "postgres", "valkey", "worker")
        ]
        assert statuses[0].pid == process.pid
        processes = recorded_processes(home)
        assert stop(home)
        assert process.wait(DEADLINE_SECONDS) == 0
    recorded = events(home)
    assert recorded[0] == "prepared"
    assert sorted(recorded[-4:-1]) == ["beat SIGTERM", "worker SIGTERM", "worker connected"]
    assert recorded[-1] == "stopped"
    assert not any(process.is_alive for process in processes.values())
    assert running_servers(home) is None
    assert [(status.name, status.state) for status in process_statuses(home)] == [("accession", "ended")]


def test_stop_without_running_supervisor_returns_false(home: Path) -> None:
    assert not stop(home)


def test_second_supervisor_in_a_home_is_refused(home: Path) -> None:
    with running_supervisor(home, "--external-servers") as process:
        second = run_supervisor(home, "--external-servers")
        assert second.returncode == 1
        assert f"already running in {home} (process {process.pid})" in second.stderr
        assert running_servers(home) is not None


def test_killed_child_is_restarted(home: Path) -> None:
    with running_supervisor(home, "--external-servers", "worker"):
        wait_for_children(home, "worker")
        first = recorded_processes(home)["worker"]
        kill(first)
        wait_until(lambda: events(home).count("worker started") == 2)
        assert recorded_processes(home)["worker"] != first
    assert "child ended and will be restarted" in log_text(home)


def test_stuck_child_is_replaced(home: Path) -> None:
    with running_supervisor(home, "--external-servers", "worker:ignores-signals"):
        wait_for_children(home, "worker")
        first = recorded_processes(home)["worker"]
        (home / f"stuck-{first.pid}").touch()
        wait_until(lambda: events(home).count("worker started") == 2)
        assert recorded_processes(home)["worker"] != first
        assert not first.is_alive
    assert "child is stuck and will be replaced" in log_text(home)


def test_backoff_doubles_up_to_a_maximum(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000
    monkeypatch.setattr(supervised_process, "time", SimpleNamespace(monotonic=lambda: now))
    backoff = Backoff()
    assert backoff.is_over()
    assert [backoff.begin() for _ in range(7)] == [1, 2, 4, 8, 16, 30, 30]
    now += 29
    assert not backoff.is_over()
    now += 1
    assert backoff.is_over()
    assert backoff.begin() == 30


def test_backoff_restarts_after_a_stable_period(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000
    monkeypatch.setattr(supervised_process, "time", SimpleNamespace(monotonic=lambda: now))
    backoff = Backoff()
    assert [backoff.begin() for _ in range(3)] == [1, 2, 4]
    now += 4 + 31
    assert backoff.begin() == 1


def test_killed_servers_are_restarted_at_the_same_urls(home: Path) -> None:
    with running_supervisor(home, "worker"):
        wait_for_children(home, "worker")
        urls = server_urls(home)
        before = recorded_processes(home)
        for name in ("postgres", "valkey"):
            kill(before[name])
        wait_until(
            lambda: recorded_processes(home).items() & before.items() == {("worker", before["worker"])}
        )
        wait_until(lambda: accepts_commands(urls.redis_url))
        wait_until(lambda: accepts_connections(urls.database_url))
        assert recorded_processes(home)["worker"] == before["worker"]
        assert before["worker"].is_alive


def test_server_that_cannot_restart_is_retried(home: Path) -> None:
    with running_supervisor(home, "--external-database", "--short-retry", "worker"):
        wait_for_children(home, "worker")
        manifest = home / "valkey" / "appendonlydir" / "appendonly.aof.manifest"
        content = manifest.read_text()
        manifest.write_text("no manifest")
        kill(recorded_processes(home)["valkey"])
        wait_until(lambda: "server cannot be restarted" in log_text(home))
        assert "The embedded Valkey did not start" in log_text(home)
        manifest.write_text(content)
        urls = server_urls(home)
        wait_until(lambda: accepts_commands(urls.redis_url))


def test_sighup_stays_ignored_under_nohup(home: Path) -> None:
    with running_supervisor(home, "--external-servers", prefix=("nohup",)) as process:
        status = Path(f"/proc/{process.pid}/status").read_text()
        ignored = next(line.split()[1] for line in status.splitlines() if line.startswith("SigIgn"))
        assert int(ignored, 16) & 1 << (signal.SIGHUP - 1)


def test_second_signal_forces_stop_within_grace_period(home: Path) -> None:
    with running_supervisor(home, "--external-servers", "worker:ends-on-sigquit") as process:
        wait_for_children(home, "worker")
        process.send_signal(signal.SIGINT)
        wait_until(lambda: "worker SIGTERM" in events(home))
        with pytest.raises(UserError, match="still finishing its current pages after 0 seconds"):
            stop_running(home, 0)
        assert process.wait(DEADLINE_SECONDS) == 0
    assert events(home)[-2:] == ["worker SIGQUIT", "stopped"]


def test_child_is_forced_to_stop_after_grace_period(home: Path) -> None:
    with running_supervisor(home, "--external-servers", "--short-grace", "worker:ends-on-sigquit") as process:
        wait_for_children(home, "worker")
        process.terminate()
        assert process.wait(DEADLINE_SECONDS) == 0
    assert events(home)[-2:] == ["worker SIGQUIT", "stopped"]


def test_child_that_ignores_signals_is_killed(home: Path) -> None:
    with running_supervisor(home, "--external-servers", "--short-grace", "worker:ignores-signals") as process:
        wait_for_children(home, "worker")
        child = recorded_processes(home)["worker"]
        process.terminate()
        assert process.wait(DEADLINE_SECONDS) == 0
    assert not child.is_alive
    assert events(home)[-1] == "stopped"


def test_next_supervisor_replaces_orphans_of_a_killed_one(home: Path) -> None:
    with running_supervisor(home, "--external-database", "worker:ignores-signals") as process:
        wait_for_children(home, "worker")
        before = recorded_processes(home)
        urls = running_servers(home)
        process.kill()
        process.wait()
        assert home_owner(home) is None
        wait_until(lambda: not before["valkey"].is_alive)
        (home / "events.txt").unlink()
    with running_supervisor(home, "--external-database", "worker"):
        wait_for_children(home, "worker")
        assert not before["worker"].is_alive
        assert running_servers(home) == urls


def test_failed_preparation_stops_the_servers(home: Path) -> None:
    completed = run_supervisor(home, "--external-database", "--failing-preparation", "worker")
    assert completed.returncode == 1
    assert completed.stderr == "The database is newer than this program.\n"
    assert events(home) == []
    assert recorded_processes(home) == {}


def test_stop_during_preparation_starts_no_children(home: Path) -> None:
    completed = run_supervisor(home, "--external-servers", "--stop-in-preparation", "worker")
    assert completed.returncode == 0
    assert events(home) == ["prepared", "stopped"]


def test_background_supervisor_runs_until_stopped(home: Path) -> None:
    urls = start_in_background(command(home, "--external-database", "worker"), home)
    assert running_servers(home) == urls
    info = read_server_info(home)
    assert info is not None
    assert os.getsid(info.owner.pid) == info.owner.pid
    wait_for_children(home, "worker")
    assert stop(home)
    os.waitpid(info.owner.pid, 0)
    assert events(home)[-1] == "stopped"


def test_failed_background_start_reports_last_log_line(home: Path) -> None:
    with pytest.raises(
        UserError, match=r"^Accession did not start: The database is newer than this program\.$"
    ):
        start_in_background(command(home, "--external-servers", "--failing-preparation"), home)


def test_interrupted_background_start_ends_the_process(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(condition: object, seconds: float) -> bool:
        raise KeyboardInterrupt

    pids: list[int] = []
    spawn = os.posix_spawn

    def recording_spawn(*arguments: Any, **options: Any) -> int:
        pids.append(spawn(*arguments, **options))
        return pids[-1]

    monkeypatch.setattr("accession.local.control.wait_until", interrupt)
    monkeypatch.setattr(os, "posix_spawn", recording_spawn)
    with pytest.raises(KeyboardInterrupt):
        start_in_background(PAUSE, home)
    (pid,) = pids
    assert ProcessId.of(pid) is None


def test_background_start_that_is_never_ready_fails(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("accession.local.control._BACKGROUND_START_SECONDS", 0.1)
    with pytest.raises(UserError, match=r"^Accession did not start: no output$"):
        start_in_background(PAUSE, home)


def test_supervisor_without_children_runs_only_servers(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCESSION_HOME", str(home))
    before = signal.getsignal(signal.SIGTERM)
    processes: list[str] = []

    def stop_when_ready(urls: ServerUrls) -> None:
        assert running_servers(home) == urls
        processes.extend(recorded_processes(home))
        signal.raise_signal(signal.SIGHUP)

    settings = Settings(database_url=SecretStr("postgresql://external"))
    Supervisor(settings, [], on_ready=stop_when_ready, durable=False).run()
    assert processes == ["valkey"]
    assert signal.getsignal(signal.SIGTERM) == before


def test_only_the_worker_has_a_long_grace_period(home: Path) -> None:
    worker, beat, web = child_specs(Settings(home=home, shutdown_grace_seconds=90))
    assert worker.command[1:] == ("-m", "accession", "worker")
    assert (worker.grace_seconds, worker.force_stop_signal) == (90, signal.SIGQUIT)
    assert beat.command[1:] == ("-m", "accession", "beat")
    assert web.command[1:] == ("-m", "accession", "web")
    assert max(beat.grace_seconds, web.grace_seconds) < worker.grace_seconds


def test_children_without_web_port_exclude_the_web_server(home: Path) -> None:
    specs = child_specs(Settings(home=home, web_port=0))
    assert [spec.name for spec in specs] == ["worker", "beat"]


def test_running_supervisor_rotates_large_logs(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCESSION_LOG_MAX_MEGABYTES", "1")
    log = home / "logs" / "a.log"
    log.parent.mkdir(mode=0o700)
    log.write_text("x" * 1_000_001)
    with running_supervisor(home, "--external-servers", "a"):
        rotated = home / "logs" / "a.log.1"
        wait_until(rotated.exists)
        wait_until(lambda: log.stat().st_size < 1_000_000)
        assert rotated.stat().st_size >= 1_000_001
