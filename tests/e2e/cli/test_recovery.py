"""One installation from its first user over a crash to the restore of a backup.

The stages follow each other in one fixture, because each start of an installation takes seconds. The tests
check the result of each stage.
"""

import signal
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from sqlalchemy import func, select

from accession.db.models import ApplyOutbox, Collection, Identifier, LicensePool, PurchaseRecord, RunState
from accession.db.models import Run as LedgerRun
from tests.fixtures.commands import (
    COMMAND_TIMEOUT_SECONDS,
    CommandResult,
    add_sandbox_collection,
    run_in_this_process,
    settings,
    simulated_vendor,
)
from tests.fixtures.factories import PASSWORD
from tests.fixtures.homes import (
    database_session,
    foreground_up,
    processes_of,
    run_in_home,
    startup_lines,
    temporary_home,
)
from tests.fixtures.machine import free_port, http_status
from tests.fixtures.running_sandbox import RunningSandbox
from tests.fixtures.waiting import wait_until

TITLES = 30
ALL_INTERFACES = "0.0.0.0"  # noqa: S104


@dataclass(frozen=True)
class Catalogue:
    """Rows that an import has stored."""

    identifiers: list[str]
    purchase_records: int
    collections: int
    titles_new: list[int]


@dataclass
class History:
    """Results of the stages of one installation."""

    home: Path
    backup_file: Path
    sandbox: RunningSandbox
    results: dict[str, CommandResult] = field(default_factory=dict)
    processes_after: dict[str, int] = field(default_factory=dict)
    catalogues: dict[str, Catalogue] = field(default_factory=dict)
    login_status: int | None = None
    lines_after_crash: list[str] = field(default_factory=list)
    exit_code_of_ctrl_c: int | None = None
    pages_before_restore: int = 0

    def pages(self) -> int:
        pages: int = self.sandbox.statistics()["requests"]["marc"]
        return pages

    def run(self, stage: str, *arguments: str, **variables: str) -> None:
        self.results[stage] = run_in_home(self.home, *arguments, **variables)
        self.processes_after[stage] = len(processes_of(self.home))

    def run_in_this_process(self, stage: str, *arguments: str) -> None:
        with settings(home=self.home):
            self.results[stage] = run_in_this_process(*arguments)


@pytest.fixture(scope="module")
def history(tmp_path_factory: pytest.TempPathFactory) -> Iterator[History]:
    with temporary_home() as home, simulated_vendor(TITLES, latency_ms=1000) as sandbox:
        file = tmp_path_factory.mktemp("backup") / "file"
        history = History(home, file, sandbox)
        history.run("add user", "users", "add", "ann", "--role", "operator", ACCESSION_PASSWORD=PASSWORD)
        port = free_port()
        with foreground_up(home, ACCESSION_WEB_HOST=ALL_INTERFACES, ACCESSION_WEB_PORT=port) as up:
            startup_lines(up)
            history.login_status = http_status(f"http://127.0.0.1:{port}/api")
            back_up_during_import(history)
            kill_everything(home, up)
        sandbox.sandbox.latency_ms = 0
        with foreground_up(home) as up:
            history.lines_after_crash = startup_lines(up)
            history.catalogues["after crash"] = finished_import(home)
            history.run_in_this_process("restore while running", "restore", str(file), "--yes")
            up.send_signal(signal.SIGINT)
            history.exit_code_of_ctrl_c = up.wait(COMMAND_TIMEOUT_SECONDS)
            history.processes_after["Ctrl-C"] = len(processes_of(home))
        history.pages_before_restore = history.pages()
        history.run("restore", "restore", str(file), "--yes")
        with foreground_up(home) as up:
            startup_lines(up)
            history.catalogues["after restore"] = finished_import(home)
        yield history


def back_up_during_import(history: History) -> None:
    with database_session(history.home) as session:
        add_sandbox_collection(session, history.sandbox)
    history.run("import", "import", "purchases", "--import-all")
    wait_until(lambda: history.pages() > 1)
    # The import cannot end before the crash.
    history.sandbox.sandbox.latency_ms = 3_600_000
    history.run_in_this_process("backup", "backup", str(history.backup_file))


def kill_everything(home: Path, up: "subprocess.Popen[str]") -> None:
    for process in processes_of(home):
        process.kill()
    up.wait()
    wait_until(lambda: processes_of(home) == [])


def finished_import(home: Path) -> Catalogue:
    """Wait until the run has succeeded and its changes are applied, and return what is stored."""
    with database_session(home) as session:

        def is_finished() -> bool:
            session.rollback()
            state = session.scalar(select(LedgerRun.state))
            pending = session.scalar(select(func.count()).select_from(ApplyOutbox))
            return state == RunState.SUCCEEDED and pending == 0

        wait_until(is_finished)
        identifiers = select(Identifier.identifier).join(
            LicensePool, LicensePool.identifier_id == Identifier.id
        )
        return Catalogue(
            identifiers=sorted(session.scalars(identifiers)),
            purchase_records=session.scalar(select(func.count()).select_from(PurchaseRecord)) or 0,
            collections=session.scalar(select(func.count()).select_from(Collection)) or 0,
            titles_new=list(session.scalars(select(LedgerRun.titles_new))),
        )


@pytest.fixture(scope="module")
def complete_catalogue(history: History) -> Catalogue:
    identifiers = sorted(purchase.item_id for purchase in history.sandbox.catalogue.purchases)
    return Catalogue(identifiers, purchase_records=TITLES, collections=1, titles_new=[TITLES])


def test_first_user_can_be_added_before_first_up(history: History) -> None:
    added = CommandResult(0, 'Added user "ann" with the role operator.\n', "")
    assert history.results["add user"] == added
    assert history.processes_after["add user"] == 0


def test_non_loopback_dashboard_requires_login(history: History) -> None:
    assert history.login_status == 401


def test_up_after_crash_resumes_interrupted_run(history: History, complete_catalogue: Catalogue) -> None:
    assert history.results["import"].exit_code == 0
    assert "Resuming 1 interrupted run." in history.lines_after_crash
    assert history.catalogues["after crash"] == complete_catalogue


def test_ctrl_c_stops_everything(history: History) -> None:
    assert history.exit_code_of_ctrl_c == 0
    assert history.processes_after["Ctrl-C"] == 0


def test_restore_resumes_import_of_backup(history: History, complete_catalogue: Catalogue) -> None:
    assert history.results["backup"].exit_code == 0, history.results["backup"]
    assert "already running" in history.results["restore while running"].error
    assert history.results["restore"].exit_code == 0, history.results["restore"]
    assert history.catalogues["after restore"] == complete_catalogue
    assert history.pages() > history.pages_before_restore, "the pages after the backup are imported again"
