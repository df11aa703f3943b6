"""Owned processes end with their owner; their logs, records and orphans."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from accession.local import processes
from accession.local.processes import (
    OwnedProcess,
    ProcessId,
    reap_orphans,
    recorded_processes,
    with_death_signal,
)
from tests.fixtures.machine import as_root, run_as_nobody
from tests.fixtures.waiting import DEADLINE_SECONDS, wait_until

PAUSE = (sys.executable, "-c", "import signal; signal.pause()")

OWNER_PROGRAM = """
import os, signal, sys
from pathlib import Path
from accession.local.processes import OwnedProcess
OwnedProcess(Path(sys.argv[1]), "child", sys.argv[2:], death_signal=signal.SIGTERM, environment=os.environ)
print("started", flush=True)
signal.pause()
"""

# Starts a child of its own, as a worker does for its pool.
WORKER_PROGRAM = """
import signal, subprocess, sys
pool = subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"])
print(f"pool {pool.pid}", flush=True)
signal.pause()
"""

# Ends only after it has received both signals.
TWO_SIGNALS_PROGRAM = """
import signal
expected = {signal.SIGTERM, signal.SIGINT}
signal.pthread_sigmask(signal.SIG_BLOCK, expected)
print("ready", flush=True)
while expected:
    expected.discard(signal.sigwait(expected))
"""

IGNORING_PROGRAM = """
import signal
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("ready", flush=True)
while True:
    signal.pause()
"""


@pytest.fixture
def paused_process(tmp_path: Path) -> Iterator[OwnedProcess]:
    process = start(tmp_path, *PAUSE)
    yield process
    process.kill()


@pytest.fixture
def killed_owner(tmp_path: Path) -> "Iterator[subprocess.Popen[str]]":
    """A process that was killed while it owned a child with a pool."""
    command = [sys.executable, "-c", OWNER_PROGRAM, str(tmp_path), sys.executable, "-c", WORKER_PROGRAM]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as owner:
        try:
            assert owner.stdout is not None
            assert owner.stdout.readline() == "started\n"
            wait_for_output(tmp_path, "pool")
        finally:
            owner.kill()
        yield owner


def start(home: Path, *command: str) -> OwnedProcess:
    return OwnedProcess(home, "child", command, death_signal=signal.SIGTERM, environment=os.environ)


def start_program(home: Path, program: str) -> OwnedProcess:
    return start(home, sys.executable, "-c", program)


def output(home: Path) -> str:
    return (home / "logs" / "child.log").read_text()


def wait_for_output(home: Path, text: str) -> None:
    wait_until(lambda: text in output(home))


def pool_process(home: Path) -> ProcessId:
    pool = ProcessId.of(int(output(home).split()[1]))
    assert pool is not None
    return pool


def test_child_ends_when_its_owner_is_killed(tmp_path: Path, killed_owner: "subprocess.Popen[str]") -> None:
    child = recorded_processes(tmp_path)["child"]
    wait_until(lambda: not child.is_alive)
    reap_orphans(tmp_path, "child", DEADLINE_SECONDS)


def test_orphaned_child_and_its_own_children_are_ended(
    tmp_path: Path, killed_owner: "subprocess.Popen[str]"
) -> None:
    pool = pool_process(tmp_path)
    reap_orphans(tmp_path, "child", DEADLINE_SECONDS)
    assert not recorded_processes(tmp_path)["child"].is_alive
    wait_until(lambda: not pool.is_alive)


def test_orphan_that_does_not_end_in_time_is_killed(tmp_path: Path, paused_process: OwnedProcess) -> None:
    reap_orphans(tmp_path, "child", 0)
    assert paused_process.wait(DEADLINE_SECONDS)
    assert paused_process.exit_code == -signal.SIGKILL


def test_record_of_an_earlier_boot_ends_no_process(tmp_path: Path, paused_process: OwnedProcess) -> None:
    own = ProcessId.own()
    ProcessId(own.pid, own.started, "another boot").write(tmp_path / "run" / "child.json")
    reap_orphans(tmp_path, "child", 0)
    assert paused_process.is_alive()


def test_reaping_without_a_record_does_nothing(tmp_path: Path) -> None:
    reap_orphans(tmp_path, "child", 0)
    assert recorded_processes(tmp_path) == {}


def test_process_with_a_reused_pid_is_not_alive() -> None:
    own = ProcessId.own()
    assert own.is_alive
    assert not ProcessId(own.pid, own.started - 1, own.boot).is_alive


def test_zombie_is_not_a_running_process() -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as child:
        wait_until(lambda: ProcessId.of(child.pid) is None)
        assert child.returncode is None


def test_children_of_an_ended_process_are_killed(tmp_path: Path) -> None:
    process = start_program(tmp_path, WORKER_PROGRAM)
    wait_for_output(tmp_path, "pool")
    pool = pool_process(tmp_path)
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait(DEADLINE_SECONDS)
    wait_until(lambda: not pool.is_alive)
    assert process.exit_code == -signal.SIGKILL
    process.send(signal.SIGTERM)
    process.kill()
    assert recorded_processes(tmp_path) == {}


def test_stop_sends_each_signal_until_the_process_ends(tmp_path: Path) -> None:
    process = start_program(tmp_path, TWO_SIGNALS_PROGRAM)
    wait_for_output(tmp_path, "ready")
    process.stop((signal.SIGTERM, 0.1), (signal.SIGINT, DEADLINE_SECONDS), (signal.SIGKILL, 0))
    assert process.exit_code == 0
    assert recorded_processes(tmp_path) == {}


def test_process_that_ignores_signals_is_killed(tmp_path: Path) -> None:
    process = start_program(tmp_path, IGNORING_PROGRAM)
    wait_for_output(tmp_path, "ready")
    process.stop((signal.SIGTERM, 0.05))
    assert process.exit_code == -signal.SIGKILL


def test_owned_process_has_a_session_of_its_own(paused_process: OwnedProcess) -> None:
    assert os.getsid(paused_process.pid) == paused_process.pid != os.getsid(0)


def test_missing_program_is_reported_in_the_log(tmp_path: Path) -> None:
    process = start(tmp_path, str(tmp_path / "missing"))
    assert process.wait(DEADLINE_SECONDS)
    assert "No such file" in process.last_log_line()
    process.kill()


def test_last_log_line_is_of_the_latest_process(tmp_path: Path) -> None:
    for text, expected in (("first", "first"), ("", "no output")):
        process = start_program(tmp_path, f"print({text!r})")
        assert process.wait(DEADLINE_SECONDS)
        assert process.last_log_line() == expected


def test_program_does_not_start_after_its_owner_has_ended() -> None:
    command = with_death_signal(PAUSE, signal.SIGTERM)
    command[command.index(str(os.getpid()))] = "1"
    completed = subprocess.run(command, capture_output=True, text=True, check=False)
    assert completed.returncode == 1
    assert "The owner ended" in completed.stderr


def test_wait_until_returns_false_after_its_time() -> None:
    assert not processes.wait_until(lambda: False, 0.01)


@as_root
def test_child_of_an_unprivileged_user_ends_with_its_owner() -> None:
    program = """
import signal, subprocess, sys
code = '''
import signal, subprocess
from accession.local.processes import with_death_signal
child = subprocess.Popen(with_death_signal(["/bin/sleep", "600"], signal.SIGTERM))
print(child.pid, flush=True)
signal.pause()
'''
owner = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
print(owner.stdout.readline(), end="")
owner.kill()
owner.wait()
"""
    child = int(run_as_nobody(program))
    wait_until(lambda: ProcessId.of(child) is None)
