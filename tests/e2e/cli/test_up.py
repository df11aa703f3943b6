"""Everything on one machine, in processes of its own: up, an import, and down, however that comes."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import psutil
import pytest
from sqlalchemy import func, select, text
from sqlalchemy.orm import Session

from accession.db.engine import make_engine
from accession.db.models import Collection, Identifier, LicensePool, PurchaseRecord, RunState
from accession.db.models import Run as LedgerRun
from accession.local.embedded import free_port
from accession.local.postgres import remove_home_data
from accession.local.processes import HOME_VARIABLE
from accession.local.servers import ServerUrls, running_servers
from accession.local.supervisor import stop_running
from accession.sandbox.server import RunningSandbox
from tests.fixtures.commands import (
    PATIENCE_SECONDS,
    Answer,
    Run,
    command,
    customer,
    environment,
    read_anew,
    serving,
    settings,
)
from tests.fixtures.factories import scratch_database
from tests.fixtures.machine import eventually


@contextmanager
def new_home() -> Iterator[Path]:
    """A home with a short path, of which nothing is left in the end: no process, no file."""
    home = Path(tempfile.mkdtemp(prefix="accession-test-"))
    try:
        yield home
        stop_running(home, PATIENCE_SECONDS)
        assert processes_of(home) == []
    finally:
        for process in processes_of(home):
            process.kill()
        remove_home_data(home)
        shutil.rmtree(home)


def processes_of(home: Path) -> list[psutil.Process]:
    """Every process that was started for this home."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(HOME_VARIABLE) == str(home) and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except psutil.Error:
            continue
    return found


def at(home: Path, *arguments: str, **variables: str) -> Answer:
    """What a command answers that runs in a process of its own, for this home."""
    return command(*arguments, env=environment(ACCESSION_HOME=str(home), **variables))


@contextmanager
def database_of(home: Path) -> Iterator[Session]:
    """A session on the database that runs for this home, with the home's key."""
    urls = running_servers(home)
    assert urls is not None
    connections = make_engine(urls.database_url)
    with settings(home=home), Session(connections) as session:
        yield session
    # None of this process's connections is to stand in the way of a stop.
    connections.dispose()


@contextmanager
def foreground(home: Path, *arguments: str) -> "Iterator[subprocess.Popen[str]]":
    """`accession up` as in a terminal, once it says that it runs."""
    with (
        (home / "terminal.log").open("w") as log,
        subprocess.Popen(
            [sys.executable, "-m", "accession", "up", *arguments],
            # A killed worker leaves a temporary folder.
            env=environment(ACCESSION_HOME=str(home), TMPDIR=str(home)),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        ) as up,
    ):
        try:
            yield up
        finally:
            if up.poll() is None:
                up.terminate()


def said(up: "subprocess.Popen[str]") -> list[str]:
    """What it says up to being ready."""
    assert up.stdout is not None
    lines = []
    for line in up.stdout:
        lines.append(line.strip())
        if "Ctrl-C stops it" in line:
            return lines
    raise AssertionError(f"it ended: {lines}")


@pytest.fixture
def home() -> Iterator[Path]:
    with new_home() as home:
        yield home


@pytest.fixture(scope="module")
def running() -> Iterator[Path]:
    """A home where everything runs in the background."""
    with new_home() as home:
        answer = at(home, "up", "--detach")
        assert answer == Answer(0, f"Accession runs in {home}; stop it with: accession down\n", "")
        yield home
        assert at(home, "down") == Answer(0, "Accession has stopped.\n", "")
        assert processes_of(home) == []


def test_in_the_background_everything_runs_and_imports(run: Run, running: Path) -> None:
    with serving() as sandbox:
        with database_of(running) as session:
            customer(session, sandbox)
        answer = at(running, "import", "purchases", "--import-all", "--wait")
        assert answer.code == 0, answer
        assert "12 records" in answer.err
    with settings(home=running):
        row, *_ = run("status", "--json").json
        assert (row["state"], row["titles_new"], row["applies_pending"]) == ("succeeded", 12, 0)
        assert all(title["title"] for title in run("titles", "list", "--json").json)


def test_the_doctor_sees_every_process(running: Path) -> None:
    answer = at(running, "doctor")
    assert answer.code == 0, answer
    for part in ("beat", "postgres", "valkey", "worker"):
        assert re.search(rf"^ok   process {part}: running, process \d+$", answer.out, re.MULTILINE)


def test_a_second_up_in_one_home_is_refused_and_another_home_is_free(
    run: Run, running: Path, home: Path
) -> None:
    with pytest.MonkeyPatch.context() as patch, read_anew(patch, ACCESSION_HOME=str(running)):
        sentence = run("up", "--sandbox", "1").sentence
    assert sentence.startswith(f"Accession is already running in {running} (process ")
    behind = at(running, "up", "--detach")
    assert behind.sentence.startswith(f"Accession did not start: {sentence}")
    with foreground(home) as other:
        said(other)
        assert running_servers(home) != running_servers(running)
        assert running_servers(running) is not None
        other.send_signal(signal.SIGINT)
        assert other.wait(PATIENCE_SECONDS) == 0
    assert processes_of(home) == []
    assert running_servers(running) is not None


def test_the_dashboard_is_there_when_it_is_said_to_be_and_one_that_is_taken_is_refused(
    home: Path,
) -> None:
    port = str(free_port())
    answer = at(home, "up", "--detach", ACCESSION_WEB_PORT=port)
    assert answer.out.splitlines()[-1] == f"The dashboard is at http://127.0.0.1:{port}"
    assert "Welcome" in httpx.get(f"http://127.0.0.1:{port}", trust_env=False).text
    with new_home() as other:
        refused = at(other, "up", ACCESSION_WEB_PORT=port).sentence
    assert refused.startswith(
        f"The dashboard cannot be served at 127.0.0.1, port {port} (Address already in use)"
    )
    assert at(home, "doctor", ACCESSION_WEB_PORT=port).code == 0
    assert at(home, "down").code == 0


def test_with_a_sandbox_vendor_beside_it_and_a_port_that_is_taken(home: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        refused = at(home, "up", "--sandbox", "5", "--sandbox-port", port)
        assert refused.sentence == (
            f"The sandbox vendor's port {port} is taken: choose another with --sandbox-port."
        )
    assert processes_of(home) == []


def test_after_everything_was_killed_in_mid_import_the_next_up_goes_on_at_once(home: Path) -> None:
    with serving(30, latency_ms=500) as sandbox:
        with foreground(home) as up:
            said(up)
            with database_of(home) as session:
                customer(session, sandbox)
            assert at(home, "import", "purchases", "--import-all").code == 0
            eventually(lambda: sandbox.statistics()["requests"]["items"] > 0)
            for process in processes_of(home):
                process.kill()
            up.wait()
        eventually(lambda: processes_of(home) == [])
        sandbox.sandbox.latency_ms = 0
        with foreground(home) as up:
            assert "Going on with 1 interrupted run." in said(up)
            imported_once(home, sandbox)
            up.send_signal(signal.SIGINT)
            assert up.wait(PATIENCE_SECONDS) == 0
    assert processes_of(home) == []


def imported_once(home: Path, sandbox: RunningSandbox) -> None:
    """Wait for the run's end; then every title is there, once, and described."""

    def state() -> str | None:
        with database_of(home) as session:
            return session.scalar(select(LedgerRun.state))

    def waiting() -> int:
        with database_of(home) as session:
            return session.scalar(text("SELECT count(*) FROM apply_outbox")) or 0

    eventually(lambda: state() == RunState.SUCCEEDED, PATIENCE_SECONDS)
    eventually(lambda: waiting() == 0, PATIENCE_SECONDS)
    with database_of(home) as session:
        pools = select(Identifier.identifier).join(LicensePool, LicensePool.identifier_id == Identifier.id)
        assert sorted(session.scalars(pools)) == sorted(p.item_id for p in sandbox.catalogue.purchases)
        assert session.scalar(select(func.count()).select_from(PurchaseRecord)) == 30
        assert session.scalar(select(func.count()).select_from(Collection)) == 1
        (run,) = session.scalars(select(LedgerRun)).all()
        assert run.titles_new == 30


def test_up_on_a_database_newer_than_the_program_starts_nothing(
    home: Path, servers: ServerUrls, tasks: None
) -> None:
    with scratch_database() as scratch:
        with scratch.begin() as connection:
            connection.execute(text("CREATE TABLE alembic_version (version_num text)"))
            connection.execute(text("INSERT INTO alembic_version VALUES ('9999')"))
        url = scratch.url.set(drivername="postgresql").render_as_string(hide_password=False)
        answer = at(home, "up", ACCESSION_DATABASE_URL=url, ACCESSION_REDIS_URL=servers.redis_url)
    assert "The database has schema 9999" in answer.sentence
    assert processes_of(home) == []


def test_the_schedule_runs_by_hand_in_a_home_that_was_never_used(home: Path, servers: ServerUrls) -> None:
    """And what it writes there is its owner's alone, also where new files are everybody's."""
    os.rmdir(home)
    urls = {"ACCESSION_DATABASE_URL": servers.database_url, "ACCESSION_REDIS_URL": servers.redis_url}
    with subprocess.Popen(
        [sys.executable, "-m", "accession", "beat"],
        env=environment(ACCESSION_HOME=str(home), **urls),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        umask=0,
    ) as beat:
        assert beat.stdout is not None
        lines = iter(beat.stdout.readline, "")
        assert any("beat: Starting..." in line for line in lines)
        written = eventually(lambda: list(home.glob("beat-schedule*")))
        assert {path.stat().st_mode & 0o777 for path in written} == {0o600}
        beat.kill()
