"""The demonstration: once in full, and cut short where only its beginning or its end matters."""

import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import psutil
import pytest
from redis import Redis
from sqlalchemy.orm import Session

from accession.core.clock import utc_now, whole_second
from accession.local.processes import HOME_VARIABLE
from accession.local.servers import ServerUrls, running_servers
from accession.local.supervisor import stop_running
from tests.fixtures.commands import PATIENCE_SECONDS, Run, environment, read_anew
from tests.fixtures.factories import make_collection

PARTS = {"up", "worker", "beat", "sandbox"}
A_FULL_DEMO_SECONDS = 600


def left_in(folder: Path) -> list[psutil.Process]:
    """The processes that were started for homes below the folder."""
    found = []
    for process in psutil.process_iter():
        try:
            home = process.environ().get(HOME_VARIABLE, "")
            if home.startswith(str(folder)) and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except psutil.Error:
            continue
    return found


@pytest.fixture
def folder() -> Iterator[Path]:
    """Where the demonstration makes its home: open to PostgreSQL's user, and empty again in the end."""
    folder = Path(tempfile.mkdtemp(prefix="accession-test-"))
    folder.chmod(0o755)
    yield folder
    assert left_in(folder) == []
    folder.rmdir()


def demo(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "accession", "demo", *arguments]


def test_the_demo_imports_everything_twice_and_leaves_nothing_behind(folder: Path) -> None:
    """Twelve years, day by day: this one takes minutes."""
    done = subprocess.run(
        demo("--titles", "120"),
        env=environment(TMPDIR=str(folder)),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=A_FULL_DEMO_SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    summary = dict(line.strip().split("  ", 1) for line in done.stdout.split(" Summary ")[1].splitlines()[1:])
    titles = re.fullmatch(r"(\d+) \(the vendor sold (\d+), 3 of them unusable\)", summary["Titles"])
    assert titles
    found, sold = map(int, titles.groups())
    assert found == sold - 3 >= 117, "the library has bought some more meanwhile"
    assert summary["Rejected records"] == "3 (see: accession rejects list)"
    assert int(summary["Copies"].split(",")[0]) >= found
    assert int(summary["Circulation events read"].split()[0]) > 0
    assert re.match(r"[\d,]+ loans, [\d,]+ returns, ", summary["What happened at the vendor"])
    assert summary["Titles counted as the vendor does"] == f"{found} of {found}"
    assert summary["Rows written by the second import"] == "0"
    first, second = re.findall(r"[\d,]+", summary["Pages asked for"])
    assert first.strip(",") == second
    table = done.stdout.split(" The first rows of the catalogue ")[1].split(" Summary ")[0].splitlines()
    assert table[1].split()[:3] == ["Id", "Title", "Authors"]
    assert len([line for line in table[2:] if re.search(r"20\d\d-\d\d-\d\d", line)]) == 10
    # Nothing runs any more, and no folder is left: the fixture looks.


@pytest.mark.parametrize("way", [signal.SIGINT, signal.SIGTERM])
def test_a_demo_that_is_stopped_leaves_nothing_behind(folder: Path, way: signal.Signals) -> None:
    with subprocess.Popen(
        demo("--titles", "5"),
        env=environment(TMPDIR=str(folder)),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as running:
        assert running.stdout is not None
        assert any("First import" in line for line in iter(running.stdout.readline, ""))
        running.send_signal(way)
        _, said = running.communicate(timeout=PATIENCE_SECONDS)
    assert running.returncode != 0
    assert "Traceback" not in said


@pytest.fixture
def cut_short(
    folder: Path, servers: ServerUrls, monkeypatch: pytest.MonkeyPatch, broker: Redis, database: None
) -> Iterator[Path]:
    """A demo here, on servers of our own, covers a day instead of twelve years; yields its home."""
    from accession.tasks import purchases

    monkeypatch.setattr(
        purchases, "DEFAULT_PURCHASE_RECORD_START_TIME", whole_second(utc_now()) - timedelta(days=1)
    )
    home = folder / "home"
    urls = {"ACCESSION_DATABASE_URL": servers.database_url, "ACCESSION_REDIS_URL": servers.redis_url}
    with read_anew(monkeypatch, ACCESSION_HOME=str(home), **urls):
        yield home
        stop_running(home, PATIENCE_SECONDS)
        shutil.rmtree(home)


def test_on_servers_of_ones_own_it_stops_what_it_started_and_takes_its_collection_away(
    run: Run, cut_short: Path, session: Session
) -> None:
    make_collection(session, "Demo Library")
    answer = run("demo", "--titles", "5")
    assert "Demo Library 2" in answer.err
    titles = re.search(r"Titles  (\d+) \(the vendor sold (\d+), 0 of them unusable\)", answer.out)
    assert titles
    found, sold = titles.groups()
    assert (f"Expected {sold} titles and found {found}.\n" in answer.out) is (found != sold)
    assert answer.code == int(found != sold)
    assert "Rows written by the second import  0\n" in answer.out
    assert running_servers(cut_short) is None
    assert left_in(cut_short) == []
    assert [row["name"] for row in run("collections", "list", "--json").json] == ["Demo Library"]


def test_with_keep_it_says_how_to_go_on_and_runs_until_it_is_stopped(run: Run, cut_short: Path) -> None:
    answer = run("demo", "--titles", "5", "--keep")
    assert f"  export ACCESSION_HOME={cut_short}\n" in answer.out
    assert "accession down\n" in answer.out
    row, *_ = run("status", "--json").json
    assert (row["collection"], row["state"]) == ("Demo Library", "succeeded")
    names = {name for process in left_in(cut_short) for name in process.cmdline() if name in PARTS}
    assert names == PARTS
    assert run("down").out == "Accession has stopped.\n"
    assert left_in(cut_short) == []
    assert run("down").code == 1
