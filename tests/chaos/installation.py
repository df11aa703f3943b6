"""An installation as an operator runs it, `accession up` in a home of its own, and blows at its parts."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from enum import StrEnum
from pathlib import Path
from random import Random

import psutil
from sqlalchemy import Engine
from sqlalchemy.orm import Session

from accession.database import make_engine
from accession.local.home import home_owner
from accession.local.postgres import remove_home_data
from accession.local.processes import HOME_VARIABLE, ProcessId, processes_on_record, wait_until
from accession.local.servers import announcement

PARTS = {"postgres", "valkey", "worker", "beat"}
PATIENCE_SECONDS = 120.0


class Blow(StrEnum):
    """What can befall an installation."""

    WORKER_CHILD = "a worker's child is killed"
    WORKER = "the worker is killed"
    BEAT = "beat is killed"
    SUPERVISOR = "the supervisor is killed"
    VALKEY = "Valkey is killed"
    VALKEY_AND_DATA = "Valkey is killed and its data are lost"
    POSTGRES_IMMEDIATE = "PostgreSQL is shut down immediately"
    POSTGRES = "PostgreSQL is killed"
    EVERYTHING = "everything is killed"


# Nobody is left then who starts the parts again.
_STARTED_AGAIN_BY_HAND = (Blow.SUPERVISOR, Blow.EVERYTHING)


class Installation:
    """A home, and what runs in it."""

    def __init__(self, home: Path, variables: Mapping[str, str]) -> None:
        self.home = home
        self._terminal = home / "terminal.log"
        # Installations side by side serve no dashboard.
        ours = {HOME_VARIABLE: str(home), "TMPDIR": str(home), "ACCESSION_WEB_PORT": "0"}
        self._environment = {**os.environ, **ours, **variables}
        self._up: subprocess.Popen[bytes] | None = None
        self._engine: Engine | None = None

    def up(self) -> None:
        """Afterwards `accession up` runs, with all its parts."""
        with self._terminal.open("a") as log:
            self._up = subprocess.Popen(
                [sys.executable, "-m", "accession", "up"],
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        if not wait_until(self._ready, PATIENCE_SECONDS):
            raise AssertionError(f"`accession up` is not ready: {self._last_words()}")

    def _ready(self) -> bool:
        assert self._up is not None
        if self._up.poll() is not None:
            raise AssertionError(f"`accession up` has ended: {self._last_words()}")
        said = announcement(self.home)
        return said is not None and said.ready and said.owner.pid == self._up.pid

    @contextmanager
    def session(self) -> Iterator[Session]:
        """A session on its database, committed in the end."""
        if self._engine is None:
            said = announcement(self.home)
            assert said is not None
            # Port and password stay the same from one start to the next.
            self._engine = make_engine(said.urls.database_url)
        with Session(self._engine) as session, session.begin():
            yield session

    def command(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """What a command of the program answers."""
        return subprocess.run(
            [sys.executable, "-m", "accession", *arguments],
            env=self._environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=PATIENCE_SECONDS,
            check=False,
        )

    def strike(self, blow: Blow, dice: Random) -> None:
        """Afterwards the blow has fallen, and all parts are there again."""
        struck = self._struck_by(blow, dice)
        if blow is Blow.VALKEY_AND_DATA:
            self._lose_brokers_data(struck)
        number = signal.SIGQUIT if blow is Blow.POSTGRES_IMMEDIATE else signal.SIGKILL
        for process in struck:
            with suppress(psutil.NoSuchProcess):
                process.send_signal(number)
        if blow in _STARTED_AGAIN_BY_HAND:
            assert self._up is not None
            self._up.wait(PATIENCE_SECONDS)
            self.up()
        gone = [process.pid for process in struck]
        if not wait_until(lambda: self._whole(gone), PATIENCE_SECONDS):
            raise AssertionError(f"after {blow} the parts are not all back: {self._last_words()}")

    def _struck_by(self, blow: Blow, dice: Random) -> list[psutil.Process]:
        match blow:
            case Blow.EVERYTHING:
                return self.processes()
            case Blow.SUPERVISOR:
                return _running(home_owner(self.home))
            case Blow.WORKER_CHILD:
                children = [child for worker in self._part("worker") for child in worker.children()]
                return [dice.choice(children)] if children else self._part("worker")
            case Blow.WORKER:
                return self._part("worker")
            case Blow.BEAT:
                return self._part("beat")
            case Blow.VALKEY | Blow.VALKEY_AND_DATA:
                return self._part("valkey")
            case Blow.POSTGRES | Blow.POSTGRES_IMMEDIATE:
                return self._part("postgres")

    def _part(self, name: str) -> list[psutil.Process]:
        return _running(processes_on_record(self.home).get(name))

    def _lose_brokers_data(self, broker: list[psutil.Process]) -> None:
        """While the supervisor looks away, or it would have it running again at once."""
        (supervisor,) = _running(home_owner(self.home))
        supervisor.suspend()
        for process in broker:
            process.kill()
        # Nobody reaps it while the supervisor stands still.
        assert wait_until(lambda: not self._part("valkey"), PATIENCE_SECONDS)
        shutil.rmtree(self.home / "valkey" / "appendonlydir")
        supervisor.resume()

    def _whole(self, gone: list[int]) -> bool:
        """Whether every part runs that is not one of the processes that are gone."""
        there = {name for name, part in processes_on_record(self.home).items() if part.alive}
        pids = {part.pid for part in processes_on_record(self.home).values()}
        return there >= PARTS and not pids & set(gone)

    def processes(self) -> list[psutil.Process]:
        """Every process that was started for this home."""
        found = []
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                mine = process.environ().get(HOME_VARIABLE) == str(self.home)
                if mine and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
        return found

    def _last_words(self) -> str:
        return "\n".join(self._terminal.read_text(errors="replace").splitlines()[-20:])

    def keep_logs(self) -> Path:
        """A folder of its own with all logs, which outlasts the installation."""
        kept = Path(tempfile.mkdtemp(prefix="accession-chaos-logs-"))
        shutil.copytree(self.home / "logs", kept, dirs_exist_ok=True)
        shutil.copy(self._terminal, kept)
        return kept

    def end(self) -> None:
        """Afterwards nothing of it runs and nothing of it is left."""
        if self._engine is not None:
            self._engine.dispose()
        for process in self.processes():
            with suppress(psutil.NoSuchProcess):
                process.kill()
        if self._up is not None:
            self._up.wait(PATIENCE_SECONDS)
        assert wait_until(lambda: not self.processes(), PATIENCE_SECONDS)
        remove_home_data(self.home)
        shutil.rmtree(self.home)


@contextmanager
def new_installation(**variables: str) -> Iterator[Installation]:
    """An installation that runs, with nothing in it."""
    installation = Installation(Path(tempfile.mkdtemp(prefix="accession-chaos-")), variables)
    try:
        installation.up()
        yield installation
    finally:
        installation.end()


def _running(process: ProcessId | None) -> list[psutil.Process]:
    return [psutil.Process(process.pid)] if process is not None and process.alive else []
