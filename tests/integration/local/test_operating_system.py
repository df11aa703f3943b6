"""Processes on macOS, as far as Linux can show it: without /proc, `waitid` and parent-death signals."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from accession.local import operating_system, pdeathsig
from accession.local.operating_system import boot_id
from accession.local.processes import OwnedProcess, ProcessId
from tests.fixtures import pdeathsig_macos
from tests.fixtures.waiting import DEADLINE_SECONDS, wait_until

BOOT_ID = "6B1E4E55-0B3C-4B0A-8C57-3C0C3C3F7A11"
PAUSE = (sys.executable, "-c", "import signal; signal.pause()")

# Owns a process, and prints its pid.
OWNER_PROGRAM = """
import os, signal, subprocess, sys
from accession.local import pdeathsig
from accession.local.processes import with_death_signal
pdeathsig.__file__ = sys.argv[1]
command = with_death_signal(sys.argv[2:], signal.SIGTERM)
print(subprocess.Popen(command, stdout=subprocess.DEVNULL, start_new_session=True).pid, flush=True)
signal.pause()
"""


@pytest.fixture
def _on_macos(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Use the counterparts for macOS before Python 3.13."""
    monkeypatch.setattr(operating_system, "IS_LINUX", False)
    monkeypatch.setattr(pdeathsig, "__file__", pdeathsig_macos.__file__)
    monkeypatch.delattr(os, "waitid")
    monkeypatch.setattr(subprocess, "check_output", lambda command, text: f"{BOOT_ID}\n")
    boot_id.cache_clear()
    yield
    boot_id.cache_clear()


def watchers(program: str) -> list[psutil.Process]:
    """Return the processes that wait for the end of an owner of this program."""
    script = pdeathsig_macos.__file__
    return [
        process
        for process in psutil.process_iter(["cmdline"])
        if {script, program} <= set(process.info["cmdline"] or ())
    ]


@pytest.mark.usefixtures("_on_macos")
def test_process_is_identified_without_proc() -> None:
    own = ProcessId.own()
    assert own.boot == BOOT_ID
    assert own.is_alive
    assert not ProcessId(own.pid, own.started - 1, own.boot).is_alive
    assert not ProcessId(own.pid, own.started, "another boot").is_alive


@pytest.mark.usefixtures("_on_macos")
def test_zombie_without_proc_is_not_running() -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as child:
        wait_until(lambda: ProcessId.of(child.pid) is None)
        assert child.returncode is None
    assert ProcessId.of(child.pid) is None


@pytest.mark.usefixtures("_on_macos")
def test_owned_process_is_stopped_without_waitid(tmp_path: Path) -> None:
    command = (*PAUSE, str(tmp_path))
    process = OwnedProcess(
        tmp_path, "child", command, death_signal=signal.SIGTERM, environment={"PATH": os.environ["PATH"]}
    )
    assert process.is_alive()
    process.stop((signal.SIGTERM, DEADLINE_SECONDS))
    assert process.exit_code == -signal.SIGTERM
    wait_until(lambda: watchers(str(tmp_path)) == [])


def test_watched_process_ends_when_its_owner_is_killed(tmp_path: Path) -> None:
    command = [sys.executable, "-c", OWNER_PROGRAM, pdeathsig_macos.__file__, *PAUSE, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout is not None
        child = ProcessId.of(int(owner.stdout.readline()))
        assert child is not None
        owner.kill()
        # Not reaped: the end counts, although the pid still exists.
        wait_until(lambda: not child.is_alive)
        wait_until(lambda: watchers(str(tmp_path)) == [])


def test_watcher_ends_with_its_process(tmp_path: Path) -> None:
    command = [sys.executable, "-I", "-S", pdeathsig_macos.__file__, str(os.getpid()), "15", "-"]
    completed = subprocess.run(
        [*command, "/bin/echo", str(tmp_path)], capture_output=True, text=True, check=True
    )
    assert completed.stdout.strip() == str(tmp_path)
    wait_until(lambda: watchers(str(tmp_path)) == [])


def test_watched_program_does_not_start_without_its_owner(tmp_path: Path) -> None:
    command = [sys.executable, "-I", "-S", pdeathsig_macos.__file__, "1", "15", "-"]
    completed = subprocess.run([*command, *PAUSE, str(tmp_path)], capture_output=True, text=True, check=False)
    assert completed.returncode == 1
    assert "The owner ended" in completed.stderr
    wait_until(lambda: watchers(str(tmp_path)) == [])
