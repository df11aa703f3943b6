"""The supervisor: all process_statuses or none, in good order, whatever dies."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
import redis

from accession.core.errors import UserError
from accession.core.settings import Settings
from accession.local.home import home_owner
from accession.local.processes import ProcessId, recorded_processes
from accession.local.servers import read_server_info, running_servers
from accession.local.supervisor import Supervisor, Backoff, start_in_background, process_statuses, child_specs, stop_running
from tests.fixtures import supervised
from tests.fixtures.machine import new_home
from tests.fixtures.waiting import wait_until


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    with new_home(tmp_path) as home:
        yield home
        stop_running(home, 30)


def command(home: Path, *children: str) -> list[str]:
    return [sys.executable, supervised.__file__, str(home), *children]


@contextmanager
def up(home: Path, *children: str, under: tuple[str, ...] = ()) -> "Iterator[subprocess.Popen[str]]":
    """A supervisor that is ready, stopped if the test leaves it running."""
    with subprocess.Popen([*under, *command(home, *children)], stderr=subprocess.PIPE, text=True) as process:
        wait_until(lambda: "ready" in story(home) or process.poll() is not None)
        yield process
        process.terminate()


def story(home: Path) -> list[str]:
    path = home / "story.txt"
    return path.read_text().splitlines() if path.exists() else []


def part(home: Path, name: str) -> ProcessId:
    return recorded_processes(home)[name]


def started(home: Path, *children: str) -> None:
    wait_until(lambda: {f"{child} started" for child in children} <= set(story(home)))


def test_children_start_after_preparation_and_stop_before_the_servers(home: Path) -> None:
    with up(home, "worker:asks-servers", "beat") as process:
        started(home, "worker", "beat")
        urls = running_servers(home)
        assert urls is not None
        names = [(found.name, found.state) for found in process_statuses(home)]
        assert names == [(name, "running") for name in ("accession", "beat", "postgres", "valkey", "worker")]
        assert process_statuses(home)[0].pid == process.pid
        everyone = recorded_processes(home)
        assert stop_running(home, 30)
        assert process.wait() == 0
    told = story(home)
    assert told[0] == "prepared"
    assert sorted(told[-4:-1]) == ["beat SIGTERM", "worker SIGTERM", "worker reached the servers"]
    assert told[-1] == "stopped"
    assert not any(process.is_alive for process in everyone.values())
    assert running_servers(home) is None
    assert [(found.name, found.state) for found in process_statuses(home)] == [("accession", "ended")]


def test_stopping_what_does_not_run_is_said(home: Path) -> None:
    assert not stop_running(home, 1)


def test_a_second_start_in_one_home_is_refused_and_the_first_runs_on(home: Path) -> None:
    with up(home, "given") as process:
        second = subprocess.run(command(home, "given"), capture_output=True, text=True, check=False)
        assert second.returncode == 1
        assert f"already running in {home} (process {process.pid})" in second.stderr
        assert running_servers(home) is not None


def test_a_killed_child_is_started_again(home: Path) -> None:
    with up(home, "given", "worker") as process:
        started(home, "worker")
        first = part(home, "worker")
        os.kill(first.pid, signal.SIGKILL)
        wait_until(lambda: story(home).count("worker started") == 2)
        assert part(home, "worker") != first
        stop_running(home, 30)
        assert process.stderr is not None
        assert "a child ended and will be started again" in process.stderr.read()


def test_a_child_that_keeps_dying_is_started_ever_more_rarely() -> None:
    patience = Backoff()
    assert patience.is_over()
    assert [patience.begin() for _ in range(7)] == [1, 2, 4, 8, 16, 30, 30]
    assert not patience.is_over()


def test_dead_servers_come_back_at_the_same_place_and_children_stay(home: Path) -> None:
    with up(home, "worker"):
        started(home, "worker")
        urls = running_servers(home)
        assert urls is not None
        worker = part(home, "worker")
        dead = [part(home, name) for name in ("postgres", "valkey")]
        for process in dead:
            os.kill(process.pid, signal.SIGKILL)
        wait_until(lambda: part(home, "postgres") != dead[0] and part(home, "valkey") != dead[1])

        def both_answer() -> bool:
            try:
                with redis.Redis.from_url(urls.redis_url) as client:
                    client.ping()
                psycopg.connect(urls.database_url).close()
            except (psycopg.OperationalError, redis.RedisError):
                return False
            return True

        wait_until(both_answer)
        assert part(home, "worker") == worker
        assert worker.is_alive


def test_a_server_that_cannot_start_again_is_tried_until_it_can(home: Path) -> None:
    with up(home, "hopeless", "worker") as process:
        started(home, "worker")
        dead = part(home, "valkey")
        manifest = home / "valkey" / "appendonlydir" / "appendonly.aof.manifest"
        content = manifest.read_text()
        manifest.write_text("no manifest")
        os.kill(dead.pid, signal.SIGKILL)
        assert process.stderr is not None
        said = next(line for line in process.stderr if "cannot be started" in line)
        assert "The embedded Valkey did not start" in said
        manifest.write_text(content)
        urls = running_servers(home)
        assert urls is not None

        def answers() -> bool:
            with redis.Redis.from_url(urls.redis_url, retry=None) as client:
                try:
                    return bool(client.ping())
                except redis.RedisError:
                    return False

        wait_until(answers)


def test_nohup_is_respected(home: Path) -> None:
    with up(home, "given", under=("nohup",)) as process:
        status = Path(f"/proc/{process.pid}/status").read_text()
        ignored = next(line.split()[1] for line in status.splitlines() if line.startswith("SigIgn"))
        assert int(ignored, 16) & 1 << (signal.SIGHUP - 1)


def test_the_page_at_hand_gets_its_grace_and_a_second_signal_hurries(home: Path) -> None:
    with up(home, "given", "worker:minds-quit") as process:
        started(home, "worker")
        process.send_signal(signal.SIGINT)
        wait_until(lambda: "worker SIGTERM" in story(home))
        with pytest.raises(UserError, match="still finishing the pages at hand after 0 seconds"):
            stop_running(home, 0)
        assert process.wait() == 0
    assert story(home)[-2:] == ["worker SIGQUIT", "stopped"]


def test_a_child_that_outlasts_its_grace_is_hurried(home: Path) -> None:
    with up(home, "given", "hasty:minds-quit") as process:
        started(home, "hasty")
        process.terminate()
        assert process.wait() == 0
    assert story(home)[-3:] == ["hasty SIGTERM", "hasty SIGQUIT", "stopped"]


def test_a_child_that_minds_nothing_is_killed_in_the_end(home: Path) -> None:
    with up(home, "given", "hasty:minds-nothing") as process:
        started(home, "hasty")
        child = part(home, "hasty")
        process.terminate()
        assert process.wait() == 0
    assert not child.is_alive
    assert story(home)[-1] == "stopped"


def test_children_and_servers_end_with_a_killed_supervisor_and_the_next_one_goes_on(home: Path) -> None:
    with up(home, "worker:minds-nothing") as process:
        started(home, "worker")
        orphan = part(home, "worker")
        urls = running_servers(home)
        process.kill()
        process.wait()
        assert home_owner(home) is None
        (home / "story.txt").unlink()
    with up(home, "worker"):
        started(home, "worker")
        assert not orphan.is_alive
        assert running_servers(home) == urls


def test_a_failed_preparation_stops_everything(home: Path) -> None:
    done = subprocess.run(command(home, "unprepared", "worker"), capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr == "The database is newer than this program.\n"
    assert story(home) == []
    assert recorded_processes(home) == {}


def test_a_stop_during_preparation_starts_no_children(home: Path) -> None:
    done = subprocess.run(command(home, "given", "impatient", "worker"), check=False)
    assert done.returncode == 0
    assert story(home) == ["prepared", "stopped"]


def test_detached_it_runs_in_the_background_until_stopped(home: Path) -> None:
    urls = start_in_background(command(home, "worker"), home)
    assert running_servers(home) == urls
    said = read_server_info(home)
    assert said is not None
    assert os.getsid(said.owner.pid) == said.owner.pid
    started(home, "worker")
    assert stop_running(home, 30)
    os.waitpid(said.owner.pid, 0)
    assert story(home)[-1] == "stopped"


def test_detached_and_failed_its_last_words_are_reported(home: Path) -> None:
    with pytest.raises(
        UserError, match=r"^Accession did not start: The database is newer than this program\.$"
    ):
        start_in_background(command(home, "given", "unprepared"), home)


def test_whoever_loses_patience_while_it_starts_leaves_nothing_running(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lose_patience(condition: object, seconds: float) -> bool:
        raise KeyboardInterrupt

    started: list[int] = []
    spawn = os.posix_spawn

    def noted(*arguments: Any, **more: Any) -> int:
        started.append(spawn(*arguments, **more))
        return started[-1]

    monkeypatch.setattr("accession.local.supervisor.wait_until", lose_patience)
    monkeypatch.setattr(os, "posix_spawn", noted)
    with pytest.raises(KeyboardInterrupt):
        start_in_background([sys.executable, "-c", "import signal; signal.pause()"], home)
    (pid,) = started
    assert ProcessId.of(pid) is None


def test_detached_and_never_ready_it_is_given_up(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("accession.local.supervisor._DETACH_SECONDS", 0.1)
    with pytest.raises(UserError, match=r"^Accession did not start: it wrote nothing$"):
        start_in_background([sys.executable, "-c", "import signal; signal.pause()"], home)


def test_without_children_and_hooks_it_only_runs_the_servers(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ACCESSION_HOME", str(home))
    before = signal.getsignal(signal.SIGTERM)
    ready: list[bool] = []

    def stop_at_once(_: object) -> None:
        ready.append(running_servers(home) is not None)
        signal.raise_signal(signal.SIGHUP)

    Supervisor(Settings(), [], on_ready=stop_at_once, durable=False).run()
    assert ready == [True]
    assert signal.getsignal(signal.SIGTERM) == before


def test_a_worker_is_given_time_and_the_others_are_not(home: Path) -> None:
    worker, beat, web = child_specs(Settings(home=home, shutdown_grace_seconds=90))
    assert worker.command[1:] == ("-m", "accession", "worker")
    assert (worker.grace_seconds, worker.force_stop_signal) == (90, signal.SIGQUIT)
    assert beat.command[1:] == ("-m", "accession", "beat")
    assert web.command[1:] == ("-m", "accession", "web")
    assert max(beat.grace_seconds, web.grace_seconds) < worker.grace_seconds


def test_without_a_port_there_is_no_web(home: Path) -> None:
    assert [program.name for program in child_specs(Settings(home=home, web_port=0))] == ["worker", "beat"]
