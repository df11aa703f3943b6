"""The demo: once from start to end, and interrupted while it starts and as soon as everything runs."""

import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from redis import Redis

from accession.cli import demo
from accession.local.control import stop_running
from accession.local.servers import ServerUrls
from tests.fixtures.commands import (
    COMMAND_TIMEOUT_SECONDS,
    Cli,
    CommandResult,
    environment,
    server_variables,
    settings,
)
from tests.fixtures.homes import processes_of, remove_home
from tests.fixtures.waiting import wait_until

DEMO_TIMEOUT_SECONDS = 600
PROGRAMS = {"up", "worker", "beat", "sandbox"}


@contextmanager
def demo_folder() -> Iterator[Path]:
    """Create a folder for the homes of demos, which PostgreSQL's user may enter; it is empty at the end."""
    folder = Path(tempfile.mkdtemp(prefix="accession-test-"))
    folder.chmod(0o755)
    yield folder
    assert processes_of(folder, below=True) == []
    folder.rmdir()


def demo_command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "accession", "demo", *arguments]


def run_demo(folder: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    """Run a demo to its end. It imports by months: importing twelve years by days takes minutes."""
    return subprocess.run(
        demo_command(*arguments),
        env=environment(TMPDIR=str(folder), ACCESSION_PURCHASE_WINDOW="month"),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=DEMO_TIMEOUT_SECONDS,
        check=False,
    )


# A whole demo


@dataclass(frozen=True)
class FinishedDemo:
    """A demo with `--keep` that has ended: everything it started still runs."""

    home: Path
    output: str

    @property
    def summary(self) -> dict[str, str]:
        lines = self.output.split(" Summary ")[1].split("\nAccession keeps running")[0].splitlines()
        rows = (line.strip().split("  ", 1) for line in lines[1:] if line.strip())
        return dict(rows)


@pytest.fixture(scope="module")
def finished() -> Iterator[FinishedDemo]:
    """One demo for all tests."""
    with demo_folder() as folder:
        try:
            completed = run_demo(folder, "--titles", "120", "--keep")
            assert completed.returncode == 0, completed.stdout + completed.stderr
            (home,) = folder.glob("accession-demo-*")
            yield FinishedDemo(home, completed.stdout)
        finally:
            for home in folder.glob("accession-demo-*"):
                stop_running(home, COMMAND_TIMEOUT_SECONDS)
                remove_home(home)


def test_demo_titles_agree_with_vendor(finished: FinishedDemo) -> None:
    summary = finished.summary
    titles = re.fullmatch(r"(\d+) \(the vendor sold (\d+), 3 with an unusable record\)", summary["Titles"])
    assert titles
    count, sold = map(int, titles.groups())
    assert count == sold - 3 >= 117, "some titles are purchased during the demo"
    assert summary["Rejected records"] == "3 (see: accession rejects list)"
    assert int(summary["Copies"].split(",")[0]) >= count
    assert summary["Titles that agree with the vendor"] == f"{count} of {count}"


def test_demo_second_import_writes_nothing(finished: FinishedDemo) -> None:
    assert finished.summary["Rows written by the second import"] == "0"
    first, second = map(int, re.findall(r"\d+", finished.summary["Pages requested"]))
    # The vendor sells titles meanwhile, which may change the requests for the last days.
    assert abs(first - second) <= 2


def test_demo_imports_simulated_events(finished: FinishedDemo) -> None:
    assert int(finished.summary["Circulation events imported"].split()[0]) > 0
    assert re.match(r"[\d,]+ loans, [\d,]+ returns, ", finished.summary["Events at the vendor"])


def test_demo_shows_first_titles(finished: FinishedDemo) -> None:
    table = finished.output.split(" First titles of the catalogue ")[1].split(" Summary ")[0].splitlines()
    assert table[1].split()[:3] == ["Id", "Title", "Authors"]
    assert len([line for line in table[2:] if re.search(r"20\d\d-\d\d", line)]) == 10


def test_kept_demo_runs_until_it_is_stopped(cli: Cli, finished: FinishedDemo) -> None:
    home = finished.home
    assert f"  export ACCESSION_HOME={home}\n" in finished.output
    assert "accession down\n" in finished.output
    with settings(home=home):
        row, *_ = cli("status", "--json").json
        assert (row["collection"], row["state"]) == (demo.NAME, "succeeded")
        programs = {name for process in processes_of(home) for name in process.cmdline() if name in PROGRAMS}
        assert programs == PROGRAMS

        assert cli("down") == CommandResult(0, "Accession has stopped.\n", "")
        assert processes_of(home) == []
        assert cli("down").exit_code == 1


# Interrupted demos


@contextmanager
def running_demo(folder: Path, **variables: str) -> "Iterator[subprocess.Popen[str]]":
    """Run a demo that is interrupted in this context, and check that nothing of it is left."""
    with subprocess.Popen(
        demo_command("--titles", "5"),
        env=environment(TMPDIR=str(folder), **variables),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as demo:
        try:
            yield demo
            _, errors = demo.communicate(timeout=COMMAND_TIMEOUT_SECONDS)
        finally:
            demo.kill()
    assert demo.returncode != 0
    assert "Traceback" not in errors
    assert processes_of(folder, below=True) == []


def test_demo_stopped_by_ctrl_c_leaves_nothing() -> None:
    with demo_folder() as folder, running_demo(folder) as demo:
        assert demo.stdout is not None
        assert any("Dashboard: " in line for line in iter(demo.stdout.readline, ""))
        assert processes_of(folder, below=True) != []
        demo.send_signal(signal.SIGINT)


def test_starting_demo_with_external_servers_stops_on_sigterm(
    servers: ServerUrls, broker: Redis, database: None, tmp_path: Path
) -> None:
    home = tmp_path / "home"
    try:
        with running_demo(tmp_path, ACCESSION_HOME=str(home), **server_variables(servers)) as demo:
            wait_until(lambda: len(processes_of(home)) > 1, "the demo has started `accession up`")
            demo.send_signal(signal.SIGTERM)
        assert home.is_dir(), "the home of external servers is not a temporary one"
    finally:
        stop_running(home, COMMAND_TIMEOUT_SECONDS)
