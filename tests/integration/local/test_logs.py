"""Rotation of log files while processes write to them."""

import os
import signal
import sys
from pathlib import Path

import pytest

from accession.local.logs import LogRotator, log_file, read_log_from
from accession.local.processes import OwnedProcess
from tests.fixtures.waiting import wait_until


def rotate(home: Path, *, max_bytes: int = 100, max_files: int = 2) -> None:
    LogRotator(home, max_bytes=max_bytes, max_files=max_files).poll()


def contents(home: Path) -> dict[str, str]:
    return {path.name: path.read_text()[:1] for path in sorted((home / "logs").iterdir())}


def test_large_log_is_copied_and_emptied(tmp_path: Path) -> None:
    log = log_file(tmp_path, "child")
    log.write_text("a" * 101)
    rotate(tmp_path)

    assert contents(tmp_path) == {"child.log": "", "child.log.1": "a"}
    assert all(path.stat().st_mode & 0o777 == 0o600 for path in (tmp_path / "logs").iterdir())


def test_small_log_is_not_rotated(tmp_path: Path) -> None:
    log_file(tmp_path, "child").write_text("a" * 100)
    rotate(tmp_path)

    assert contents(tmp_path) == {"child.log": "a"}


def test_only_the_configured_number_of_files_is_kept(tmp_path: Path) -> None:
    for letter in "abcd":
        log_file(tmp_path, "child").write_text(letter * 101)
        rotate(tmp_path)
    assert contents(tmp_path) == {"child.log": "", "child.log.1": "d", "child.log.2": "c"}

    log_file(tmp_path, "child").write_text("e" * 101)
    rotate(tmp_path, max_files=1)
    assert contents(tmp_path) == {"child.log": "", "child.log.1": "e"}


def test_running_process_continues_in_the_emptied_file(tmp_path: Path) -> None:
    program = """
import pathlib, sys, time
print("a" * 200, flush=True)
while not pathlib.Path("go").exists():
    time.sleep(0.01)
print("second", flush=True)

while True:
    time.sleep(1)
"""
    process = OwnedProcess(
        tmp_path,
        "child",
        [sys.executable, "-c", program],
        death_signal=signal.SIGKILL,
        environment={"PATH": os.environ["PATH"]},
    )
    try:
        wait_until(lambda: process.log.stat().st_size > 200)
        rotate(tmp_path)
        (tmp_path / "go").touch()
        wait_until(lambda: process.log.stat().st_size > 0)
        assert process.log.read_text() == "second\n"
        assert process.last_log_line() == "second"
        assert (tmp_path / "logs" / "child.log.1").read_text() == "a" * 200 + "\n"
    finally:
        process.kill()


def test_offset_beyond_a_rotated_log_reads_all_of_it(tmp_path: Path) -> None:
    log = log_file(tmp_path, "child")
    log.write_text("new")

    assert read_log_from(log, 500) == "new"
    assert read_log_from(log, 2) == "w"


def test_log_that_cannot_be_copied_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    log_file(tmp_path, "child").write_text("b" * 101)
    (tmp_path / "logs" / "child.log.1").write_text("a")
    monkeypatch.setattr("accession.local.logs.shutil.copyfileobj", fail)
    rotate(tmp_path)

    assert contents(tmp_path) == {"child.log": "b", "child.log.1": "a"}


def test_files_are_checked_every_ten_seconds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [1000.0]
    monkeypatch.setattr("accession.local.logs.time.monotonic", lambda: clock[0])
    rotator = LogRotator(tmp_path, max_bytes=100, max_files=2)
    rotator.poll()
    log = log_file(tmp_path, "child")
    log.write_text("a" * 101)
    clock[0] += 9
    rotator.poll()
    assert log.stat().st_size == 101
    clock[0] += 2
    rotator.poll()
    assert log.stat().st_size == 0
