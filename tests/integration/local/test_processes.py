"""Children that end with their owner, and the tidying up after those that could not."""

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
    with_death_signal,
    log_file,
    recorded_processes,
)
from tests.fixtures.machine import as_root, run_as_nobody
from tests.fixtures.waiting import wait_until

PAUSE = (sys.executable, "-c", "import signal; signal.pause()")

OWNER = """
import os, signal, sys
from pathlib import Path
from accession.local.processes import OwnedProcess
OwnedProcess(Path(sys.argv[1]), "child", sys.argv[2:], death_signal=signal.SIGTERM, environment=os.environ)
print("started", flush=True)
signal.pause()
"""

# Starts a child of its own, as a worker does for its pool, and pauses.
PARENT = """
import signal, subprocess, sys
pool = subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"])
print(f"pool {pool.pid}", flush=True)
signal.pause()
"""


@pytest.fixture
def owned(tmp_path: Path) -> Iterator[OwnedProcess]:
    process = start(tmp_path, *PAUSE)
    yield process
    process.kill()


def start(home: Path, *command: str) -> OwnedProcess:
    return OwnedProcess(home, "child", command, death_signal=signal.SIGTERM, environment=os.environ)


def pool_of(process: OwnedProcess) -> ProcessId:
    wait_until(lambda: "pool" in process.log.read_text())
    pool = ProcessId.of(int(process.last_log_line().split()[1]))
    assert pool is not None
    return pool


@pytest.fixture
def killed_owner(tmp_path: Path) -> "Iterator[subprocess.Popen[str]]":
    command = [sys.executable, "-c", OWNER, str(tmp_path), sys.executable, "-c", PARENT]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout is not None
        assert owner.stdout.readline() == "started\n"
        wait_until(lambda: "pool" in (tmp_path / "logs" / "child.log").read_text())
        owner.kill()
        yield owner


def test_a_child_ends_when_its_owner_is_killed(tmp_path: Path, killed_owner: "subprocess.Popen[str]") -> None:
    child = recorded_processes(tmp_path)["child"]
    wait_until(lambda: not child.is_alive)
    reap_orphans(tmp_path, "child", 5)


def test_what_a_killed_owners_child_left_behind_is_ended(
    tmp_path: Path, killed_owner: "subprocess.Popen[str]"
) -> None:
    log = (tmp_path / "logs" / "child.log").read_text()
    pool = ProcessId.of(int(log.split()[1]))
    assert pool is not None
    reap_orphans(tmp_path, "child", 5)
    assert not recorded_processes(tmp_path)["child"].is_alive
    assert wait_until(lambda: not pool.is_alive)


def test_a_leftover_that_does_not_end_in_its_time_is_killed(tmp_path: Path, owned: OwnedProcess) -> None:
    reap_orphans(tmp_path, "child", 0)
    assert owned.wait(5)
    assert owned.exit_code == -signal.SIGKILL


def test_a_record_of_before_the_last_boot_harms_nobody(tmp_path: Path, owned: OwnedProcess) -> None:
    own = ProcessId.own()
    ProcessId(own.pid, own.started, "another boot").write(tmp_path / "run" / "child.json")
    reap_orphans(tmp_path, "child", 0)
    assert owned.is_alive()


def test_without_a_record_there_is_nothing_to_end(tmp_path: Path) -> None:
    reap_orphans(tmp_path, "child", 0)
    assert recorded_processes(tmp_path) == {}


def test_the_number_of_an_ended_process_given_to_another_is_not_that_process() -> None:
    own = ProcessId.own()
    assert own.is_alive
    assert not ProcessId(own.pid, own.started - 1, own.boot).is_alive


def test_a_zombie_has_ended() -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as child:
        assert wait_until(lambda: ProcessId.of(child.pid) is None)
        assert child.returncode is None


def test_a_child_that_ended_takes_its_own_children_along(tmp_path: Path) -> None:
    process = start(tmp_path, sys.executable, "-c", PARENT)
    pool = pool_of(process)
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait(5)
    assert wait_until(lambda: not pool.is_alive)
    assert process.exit_code == -signal.SIGKILL
    process.send(signal.SIGTERM)
    process.kill()
    assert recorded_processes(tmp_path) == {}


def test_a_stop_sends_signal_after_signal_until_the_child_ends(tmp_path: Path) -> None:
    program = "import signal; signal.signal(signal.SIGTERM, lambda *_: print('no', flush=True))\n"
    process = start(
        tmp_path, sys.executable, "-c", f"{program}print('up', flush=True)\nwhile 1: signal.pause()"
    )
    wait_until(lambda: "up" in process.log.read_text())
    process.stop((signal.SIGTERM, 0.1), (signal.SIGINT, 5))
    assert "no" in process.log.read_text()
    assert process.exit_code == -signal.SIGINT
    assert recorded_processes(tmp_path) == {}


def test_a_child_that_minds_no_signal_is_killed(tmp_path: Path) -> None:
    program = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)\nprint('up', flush=True)"
    process = start(tmp_path, sys.executable, "-c", f"{program}\nwhile 1: signal.pause()")
    wait_until(lambda: "up" in process.log.read_text())
    process.stop((signal.SIGTERM, 0.05))
    assert process.exit_code == -signal.SIGKILL


def test_a_child_is_out_of_reach_of_the_terminal(owned: OwnedProcess) -> None:
    assert os.getsid(owned.pid) == owned.pid != os.getsid(0)


def test_a_program_that_cannot_be_run_says_so_in_its_log(tmp_path: Path) -> None:
    process = start(tmp_path, str(tmp_path / "missing"))
    assert process.wait(5)
    assert "No such file" in process.last_log_line()
    process.kill()


def test_last_words_are_those_of_this_process_alone(tmp_path: Path) -> None:
    for words in ("first", ""):
        process = start(tmp_path, sys.executable, "-c", f"print({words!r})")
        assert process.wait(5)
        assert process.last_log_line() == (words or "it wrote nothing")


def test_a_log_grown_large_is_set_aside(tmp_path: Path) -> None:
    log = log_file(tmp_path, "child")
    os.truncate(log, 20_000_001)
    assert log_file(tmp_path, "child").stat().st_size == 0
    assert (tmp_path / "logs" / "child.log.1").stat().st_size == 20_000_001
    assert log.stat().st_mode & 0o777 == 0o600


def test_a_child_whose_owner_is_gone_already_does_not_start() -> None:
    command = with_death_signal(PAUSE, signal.SIGTERM)
    command[command.index(str(os.getpid()))] = "1"
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "The owner ended" in done.stderr


def test_waiting_ends_with_the_time_given() -> None:
    assert not processes.wait_until(lambda: False, 0.01)


@as_root
def test_a_child_of_an_ordinary_user_ends_with_its_owner_too() -> None:
    program = """
import signal, subprocess, sys, tempfile
from accession.local.processes import leashed
code = '''
import signal, subprocess
from accession.local.processes import leashed
child = subprocess.Popen(leashed(["/bin/sleep", "60"], signal.SIGTERM))
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
